"""A small store known byte for byte: to be damaged, proved in milliseconds, and restored."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import GenispError
from pipeline.ingest import IngestOptions, run_ingest
from pipeline.store.keys import (
    MANIFEST_NAME,
    METADATA_NAME,
    PLACES_NAME,
    SIDECARS,
    chunk_key,
    sidecar_key,
)
from pipeline.store.local.files import LocalFiles
from pipeline.store.manifest import dump_manifest, parse_manifest
from pipeline.verify import VerifyOptions, run_verify
from schemas.events import IngestSummary
from schemas.finding import Finding, Severity
from schemas.manifest import ManifestEntry, ManifestFooter
from schemas.recipe import Recipe
from schemas.sidecar import LevelRecord, Sidecar
from tests.kit.recorder import Recorder
from tests.kit.small_raws import set_times, write_small_raw

RECIPE = Recipe(fit=(20, 16))
#: Stem, frame (width, height) and split of each raw.
_NIKON = (("DSC_0550", (48, 32)), ("DSC_0552", (48, 32)), ("DSC_0555", (48, 32)))
_SONY = (("DSC01088", (40, 40)), ("DSC01091", (40, 40)))


@dataclass(frozen=True)
class Link:
    """A symbolic link in a file's place."""

    target: str


@dataclass(frozen=True)
class Folder:
    """A folder in a file's place, with files of these names in it."""

    names: tuple[str, ...] = ()


Rng = np.random.Generator
#: Makes damaged bytes of whole ones; None: the file is deleted.
Damage = Callable[[bytes, Rng], bytes | None]

#: What files hold after a fault: bytes, nothing at all (None: deleted), or something else.
Faults = Mapping[str, bytes | Link | Folder | None]


@dataclass(frozen=True)
class Verdict:
    """What one verification said.

    Attributes
    ----------
    exit_code
        Of ``prep verify``.
    findings
        All of them; a refusal to verify at all is one finding about the store.
    crash
        An exception that is none of ours, "" if there was none.
    """

    exit_code: int
    findings: tuple[Finding, ...]
    crash: str = ""

    @property
    def errors(self) -> list[Finding]:
        return [one for one in self.findings if one.severity is Severity.ERROR]

    @property
    def named(self) -> set[str]:
        """What the errors are about."""
        return {one.where for one in self.errors}

    def names(self, owners: Iterable[str]) -> bool:
        """Whether exactly `owners` are called damaged, each time with a message and a command."""
        said = all(one.message and "prep " in one.mend for one in self.errors)
        return self.exit_code == 4 and said and self.named == set(owners)

    def __str__(self) -> str:
        told = "; ".join(f"{one.severity} {one.where}: {one.message}" for one in self.findings)
        return f"exit code {self.exit_code} {self.crash}[{told}]"


@dataclass
class KnownStore:
    """A whole store, its sources, and every byte of it.

    Attributes
    ----------
    root, sources, recipe
        The store, the folder it is made from, and how.
    whole
        Every file of the undamaged store but the lock's.
    owners
        Chunk and sidecar keys -> what findings about them must name.
    levels
        Chunk keys -> their records.
    """

    root: Path
    sources: Path
    recipe: Recipe
    whole: dict[str, bytes] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    levels: dict[str, LevelRecord] = field(default_factory=dict)
    _touched: set[str] = field(default_factory=set)

    @classmethod
    def make(cls, folder: Path, recipe: Recipe = RECIPE, seed: int = 5) -> KnownStore:
        """Write raws and annotations, ingest them, and learn the store by heart."""
        folder.mkdir(parents=True, exist_ok=True)
        _write_sources(folder / "nod", seed)
        known = cls(folder / "data.zarr", folder / "nod", recipe)
        known.ingest()
        verdict = known.verify(strict=True)
        if verdict.exit_code or len(known.sidecars()) != len(_NIKON + _SONY):
            raise AssertionError(f"the store to damage is not whole: {verdict}")
        known.whole = known.tree()
        for sidecar in known.sidecars():
            name = f"{sidecar.group}/{sidecar.id}"
            known.owners[sidecar_key(sidecar.group, sidecar.id)] = name
            for level, record in sidecar.levels.items():
                key = chunk_key(sidecar.group, level, sidecar.row)
                known.owners[key], known.levels[key] = name, record
        return known

    @property
    def files(self) -> LocalFiles:
        return LocalFiles(self.root)

    def ingest(self) -> IngestSummary:
        """The command that made the store, and mends it."""
        return run_ingest(
            [str(self.sources)], str(self.root), self.recipe, IngestOptions(), Recorder()
        )

    def verify(
        self, *, strict: bool = False, quick: bool = False, sources: bool = False
    ) -> Verdict:
        """Prove the store as it is now."""
        recorder = Recorder()
        inputs = (str(self.sources),) if sources else ()
        options = VerifyOptions(quick=quick, strict=strict, sources=inputs)
        try:
            summary = run_verify(self.files, recorder, options)
        except GenispError as error:
            finding = Finding(
                code="refused",
                severity=Severity.ERROR,
                where=error.path,
                message=error.message,
                mend=error.mend,
            )
            return Verdict(error.exit_code, (*recorder.findings, finding))
        except Exception as error:  # what a campaign looks for
            where = f"{type(error).__name__}: {error}"
            return Verdict(1, tuple(recorder.findings), f"CRASH {where} ")
        return Verdict(summary.exit_code, tuple(recorder.findings))

    def tree(self) -> dict[str, bytes]:
        """Every file but the lock's, with its bytes; links and folders in a file's place too."""
        found = {}
        for key in self.files.walk():
            path = self.root / key
            found[key] = b"(link)" if path.is_symlink() else path.read_bytes()
        return found

    # The store as data -----------------------------------------------------------------------

    def sidecars(self) -> list[Sidecar]:
        """Of all samples, in stored order."""
        paths = sorted(self.root.glob(f"*/{SIDECARS}/*.json"))
        return [Sidecar.model_validate_json(path.read_bytes()) for path in paths]

    @property
    def chunk_keys(self) -> list[str]:
        return sorted(key for key in self.whole if "/c." in key)

    @property
    def sidecar_keys(self) -> list[str]:
        return sorted(key for key in self.whole if f"/{SIDECARS}/" in key)

    @property
    def metadata_keys(self) -> list[str]:
        """Array and group metadata, without the root's."""
        return sorted(key for key in self.whole if key.endswith(f"/{METADATA_NAME}"))

    @property
    def keys(self) -> list[str]:
        """Every file of the store but the note of where its sources were."""
        return sorted(self.whole.keys() - {PLACES_NAME})

    def owner(self, key: str) -> str:
        """What a finding about damage to this file must name."""
        return self.owners.get(key, key)

    def document(self, key: str) -> dict[str, Any]:
        """A JSON file of the whole store, to be changed."""
        document: dict[str, Any] = json.loads(self.whole[key])
        return document

    def entries(self) -> tuple[ManifestEntry, ...]:
        """The lines of the whole manifest."""
        return parse_manifest(self.whole[MANIFEST_NAME], path=MANIFEST_NAME).entries

    def manifest(self, entries: Iterable[ManifestEntry], **header: Any) -> bytes:
        """A manifest whose digest fits."""
        old = parse_manifest(self.whole[MANIFEST_NAME], path=MANIFEST_NAME).header
        return dump_manifest(old.model_copy(update=header), entries)

    def resealed(self, lines: Sequence[bytes]) -> bytes:
        """A manifest of these lines, whatever they say, with the footer that fits."""
        body = b"".join(lines)
        digest = "sha256:" + hashlib.sha256(body).hexdigest()
        footer = ManifestFooter(entries=max(0, len(lines) - 1), digest=digest)
        return body + footer.model_dump_json().encode() + b"\n"

    # Doing damage, and undoing it ------------------------------------------------------------

    def apply(self, faults: Faults) -> None:
        """Give files these contents, past all care the store takes."""
        for key, content in faults.items():
            self._touched.add(key)
            path = self.root / key
            _clear(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Link):
                path.symlink_to(content.target)
            elif isinstance(content, Folder):
                path.mkdir()
                for name in content.names:
                    (path / name).write_bytes(b"mine")
            elif content is not None:
                path.write_bytes(content)

    def restore(self) -> None:
        """Undo `apply`."""
        for key in self._touched:
            path = self.root / key
            if key not in self.whole or not path.is_file() or path.is_symlink():
                _clear(path)
            if key in self.whole:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(self.whole[key])
            for folder in path.relative_to(self.root).parents[:-1]:
                with suppress(OSError):
                    (self.root / folder).rmdir()
        self._touched.clear()

    def reset(self) -> None:
        """Undo everything, whoever did it."""
        shutil.rmtree(self.root)
        self._touched = set(self.whole)
        self.restore()

    def differences(self) -> str:
        """How the store differs from the undamaged one, "" if it does not."""
        now, was = self.tree(), self.whole
        parts = {
            "missing": was.keys() - now.keys(),
            "added": now.keys() - was.keys(),
            "changed": {key for key in was.keys() & now.keys() if was[key] != now[key]},
        }
        return "; ".join(
            f"{what} {', '.join(sorted(keys))}" for what, keys in parts.items() if keys
        )


def _clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def flip(data: bytes, position: int, bit: int) -> bytes:
    """`data` with one bit turned over."""
    damaged = bytearray(data)
    damaged[position] ^= 1 << bit
    return bytes(damaged)


def _write_sources(folder: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for camera, suffix, shots in (("Nikon", "NEF", _NIKON), ("Sony", "ARW", _SONY)):
        for stem, size in shots:
            write_small_raw(folder / camera / f"{stem}.{suffix}", rng, size)
    _write_annotations(folder / "Nikon" / "raw_train.json", _NIKON, ".NEF")
    _write_annotations(folder / "Sony" / "raw_val.json", _SONY, ".ARW")
    # It fails every time: its line in the manifest has to come back as well.
    (folder / "Sony" / "broken.ARW").write_bytes(b"II*\0" + bytes(60))
    set_times(folder)


def _write_annotations(
    path: Path, shots: Iterable[tuple[str, tuple[int, int]]], suffix: str
) -> None:
    images = list[dict[str, Any]]()
    annotations = list[dict[str, Any]]()
    for number, (stem, (width, height)) in enumerate(shots):
        images.append({"id": number, "file_name": stem + suffix, "width": width, "height": height})
        for box in range(number + 1):
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": number,
                    "category_id": 1 + box % 3,
                    "bbox": [1.25 + 3 * box, 2.5 + box, 17.125, 9 + 2 * box],
                    "iscrowd": int(box == 2),
                }
            )
    # Not one of ours, and not ASCII: it becomes an escape in the sidecar.
    names = ("person", "bicycle", "fußgänger")
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
