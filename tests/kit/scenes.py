"""What is ingested while it is being killed: small sources, and what an undisturbed run makes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from pipeline.errors import DamagedStoreError, GenispError
from pipeline.ingest import IngestOptions, run_ingest
from pipeline.sample_set import SONY_RX100M7, write_arw
from pipeline.store.keys import SIDECARS
from pipeline.store.local.files import LocalFiles
from pipeline.store.samples import committed, read_sidecar, sample_damage
from pipeline.verify import VerifyOptions, run_verify
from schemas.recipe import Recipe
from tests.kit.file_operations import watched, without_waiting
from tests.kit.recorder import Recorder
from tests.kit.small_raws import LONG_AGO, SMALL_FRAME, set_times, write_small_raw
from tests.kit.trees import tree

RECIPE = Recipe(fit=(20, 16))
_OTHER_FRAME = (64, 32)


@dataclass(frozen=True)
class Scene:
    """An ingest to be killed in the middle.

    Attributes
    ----------
    sources
        What it is given.
    before
        The store as it is when it starts; None for a new one.
    wanted
        Every file and folder of the store after an undisturbed run.
    exit_code
        Of that run: 3 where some sources are damaged on purpose.
    damaged_before
        Samples that are damaged when it starts.
    """

    name: str
    sources: Path
    before: Path | None
    wanted: dict[str, bytes] = field(default_factory=dict)
    exit_code: int = 0
    damaged_before: frozenset[tuple[str, str]] = frozenset()

    @property
    def sidecars(self) -> tuple[str, ...]:
        """Keys of the sidecars an undisturbed run makes."""
        return tuple(key for key in self.wanted if f"/{SIDECARS}/" in key and key[-1] != "/")

    def begin(self, store: Path) -> None:
        """Put the store into the state the scene starts from."""
        shutil.rmtree(store, ignore_errors=True)
        if self.before is not None:
            shutil.copytree(self.before, store)

    def ingest(self, store: Path) -> int:
        """Run the same command, undisturbed and in this process; its exit code."""
        return _ingest(self.sources, store)

    def wrong(self, store: Path) -> str:
        """What is wrong with the store after the same command ended, "" if nothing."""
        found = _everything(store)
        if found != self.wanted:
            missing, extra = self.wanted.keys() - found.keys(), found.keys() - self.wanted.keys()
            differ = [k for k in self.wanted.keys() & found.keys() if found[k] != self.wanted[k]]
            return f"missing {sorted(missing)}, extra {sorted(extra)}, different {sorted(differ)}"
        recorder = Recorder()
        summary = run_verify(LocalFiles(store), recorder, VerifyOptions(strict=True))
        return "" if summary.exit_code == 0 else f"verify: {recorder.findings}"

    def unsound(self, store: Path, promised: Iterable[str] = ()) -> str:
        """What a crash must never leave, "" if all is well: a committed sample that is not whole.

        Parameters
        ----------
        promised
            Keys of sidecars that have to be there.
        """
        gone = sorted(key for key in promised if not (store / key).is_file())
        fresh = {tuple(key.removesuffix(".json").split(f"/{SIDECARS}/")) for key in promised}
        broken = sorted(
            key for key in _damaged(store) if key not in self.damaged_before or key in fresh
        )
        with suppress(GenispError):  # it may refuse, but not fail
            run_verify(LocalFiles(store), Recorder(), VerifyOptions())
        return f"lost {gone}, damaged {broken}" if gone or broken else ""

    def mend(self, store: Path) -> str:
        """Run the same command on what a crash left; what is wrong afterwards, "" if nothing."""
        try:
            code = self.ingest(store)
        except GenispError as error:
            return f"{type(error).__name__}: {error}"
        return self.wrong(store) or ("" if code == self.exit_code else f"exit code {code}")


def arguments(scene: Scene, store: Path, workers: int = 0) -> tuple[object, ...]:
    """``prep ingest`` of a scene."""
    fit = "x".join(map(str, RECIPE.fit))
    return "ingest", scene.sources, "--store", store, "--fit", fit, "--workers", workers


def first_ingest(folder: Path) -> Scene:
    """A new store: two cameras, a raw with damaged pixels, a group that comes to nothing."""
    sources = folder / "nod"
    write_sources(sources)
    return _scene("first ingest", sources, None, folder)


def update(folder: Path) -> Scene:
    """A store that is brought up to date: everything that can change in one, at once."""
    sources, before = folder / "nod", folder / "before.zarr"
    write_sources(sources, damaged=False)
    if _ingest(sources, before) != 0:
        raise RuntimeError("the sources cannot be ingested")
    _change(sources)
    _damage(before)
    return _scene("update", sources, before, folder)


def many_samples(folder: Path) -> Scene:
    """A new store, with enough samples to be disturbed while they are made."""
    sources = folder / "nod"
    write_sources(sources, damaged=False, images=12)
    return _scene("many samples", sources, None, folder)


def large_samples(folder: Path) -> Scene:
    """A new store of two raws of three megapixels: large enough to run out of memory with."""
    sources = folder / "nod"
    sources.mkdir(parents=True)
    rng = np.random.default_rng(9)
    for number in range(2):
        mosaic = rng.integers(900, 9000, (1416, 2032)).astype(np.uint16)
        camera = replace(SONY_RX100M7, crop=(16, 8, 2000, 1400))
        path = sources / f"DSC{number:05d}.ARW"
        write_arw(path, mosaic, camera=camera, compression="uncompressed")
    set_times(sources)
    return _scene("large samples", sources, None, folder)


def settled(sources: Path, folder: Path) -> Scene:
    """A new store of sources that are there already; `folder` must exist."""
    return _scene("settled sources", sources, None, folder)


def write_sources(folder: Path, *, damaged: bool = True, images: int = 3) -> None:
    """Raws of two cameras with boxes; with `damaged`, some that cannot be ingested."""
    rng = np.random.default_rng(7)
    sony = [_shot(folder / "Sony" / f"DSC{1088 + 3 * i:05d}.ARW", rng) for i in range(images)]
    nikon = [_shot(folder / "Nikon" / f"DSC_{550 + 3 * i:04d}.NEF", rng) for i in range(images)]
    # The only one of its group.
    nikon.append(_shot(folder / "Nikon" / "DSC_0600.NEF", rng, _OTHER_FRAME))
    if damaged:
        for path, _ in (sony[1], nikon[-1]):
            data = path.read_bytes()
            path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
        (folder / "Sony" / "broken.ARW").write_bytes(b"II*\0" + bytes(60))
    _write_annotations(folder / "Sony" / "raw_train.json", sony)
    _write_annotations(folder / "Nikon" / "raw_val.json", nikon)
    set_times(folder)


def _change(folder: Path) -> None:
    """New raws, other pixels, boxes, frames and times, and a raw that went bad."""
    rng = np.random.default_rng(8)
    sony, nikon = sorted(folder.glob("*/*.ARW")), sorted(folder.glob("*/*.NEF"))
    write_small_raw(sony[0], rng)
    write_small_raw(folder / "Sony" / "DSC00001.ARW", rng)
    data = sony[2].read_bytes()
    sony[2].write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    for path in (sony[0], sony[2], nikon[0], folder / "Sony" / "DSC00001.ARW"):
        os.utime(path, (LONG_AGO + 1, LONG_AGO + 1))
    boxes = json.loads((folder / "Nikon" / "raw_val.json").read_text())
    boxes["annotations"][0]["bbox"][0] += 0.5
    # One leaves its group for another, and the only one of its group joins those it left.
    boxes["images"][1] |= {"width": SMALL_FRAME[0] - 8, "height": SMALL_FRAME[1] - 4}
    boxes["images"][-1] |= {"width": SMALL_FRAME[0], "height": SMALL_FRAME[1]}
    (folder / "Nikon" / "raw_val.json").write_text(json.dumps(boxes))
    assert len(nikon) == 4


def _damage(store: Path) -> None:
    """One damaged chunk and one damaged sidecar, of samples whose sources stay as they are."""
    chunk = store / "nikon-d750_48x32" / "packed" / "c.2.0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:-9])
    sidecar = store / "sony-dsc-rx100m7_48x32" / "sidecars" / "DSC01091.json"
    sidecar.write_bytes(sidecar.read_bytes()[:-9])


def _scene(name: str, sources: Path, before: Path | None, folder: Path) -> Scene:
    damaged = frozenset(_damaged(before)) if before else frozenset()
    scene = Scene(name, sources, before, damaged_before=damaged)
    store = folder / "undisturbed.zarr"
    scene.begin(store)
    code = scene.ingest(store)
    whole = replace(scene, wanted=_everything(store), exit_code=code)
    if wrong := whole.wrong(store):
        raise RuntimeError(f"an undisturbed {name} goes wrong: {wrong}")
    return whole


def _ingest(sources: Path, store: Path) -> int:
    with watched(without_waiting):
        how = IngestOptions()
        return run_ingest([str(sources)], str(store), RECIPE, how, Recorder()).exit_code


def _everything(store: Path) -> dict[str, bytes]:
    """Every file with its bytes, every folder, and nothing of the lock's."""
    folders = {f"{path.relative_to(store)}/": b"" for path in store.rglob("*") if path.is_dir()}
    files = {key: data for key, data in tree(store).items() if not key.startswith(".lock")}
    return folders | files


def _damaged(store: Path) -> set[tuple[str, str]]:
    """Samples that are committed, but not whole."""
    files, found = LocalFiles(store), set()
    for group, name in committed(files):
        try:
            if sample_damage(files, read_sidecar(files, group, name), recheck=True):
                found.add((group, name))
        except DamagedStoreError:
            found.add((group, name))
    return found


Shot = tuple[Path, tuple[int, int]]


def _shot(path: Path, rng: np.random.Generator, frame: tuple[int, int] = SMALL_FRAME) -> Shot:
    write_small_raw(path, rng, frame)
    return path, frame


def _write_annotations(path: Path, shots: Iterable[Shot]) -> None:
    images, boxes = [], []
    for number, (raw, (width, height)) in enumerate(shots):
        images.append({"id": number, "file_name": raw.name, "width": width, "height": height})
        box = {"id": number, "image_id": number, "category_id": 1 + number % 3, "iscrowd": 0}
        boxes.append(box | {"bbox": [1.25 + number, 2.5, 17.125, 9.0], "area": 154.125})
    categories = [{"id": i, "name": n} for i, n in ((1, "person"), (2, "bicycle"), (3, "car"))]
    document = {"images": images, "annotations": boxes, "categories": categories}
    path.write_text(json.dumps(document))
