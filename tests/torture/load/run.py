"""Twenty thousand samples in one store: all accounted for, and no law of growth broken.

Times are measured by `benchmarks.growth`; here only what must hold on any machine is checked.
"""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.growth import Figures, run_step
from benchmarks.kit.many_raws import write_many_raws
from genisp_model.data import StoreDataset
from genisp_model.data.loader import StreamLoader
from pipeline.console.progress import PlainReporter
from pipeline.ingest import IngestOptions, run_ingest
from pipeline.store.keys import chunk_key
from pipeline.store.local.files import LocalFiles
from pipeline.store.reader import Store, open_store
from pipeline.verify import VerifyOptions, run_verify
from schemas.recipe import Recipe
from schemas.sidecar import Sidecar
from tests.torture.campaign import FaultRow, Scale

#: Bytes of memory by which a step may grow with each sample; measured values are about two thirds.
MEMORY_LAWS = {
    "ingest": 7000,
    "ingest again": 6000,
    "ingest again --no-recheck": 6000,
    "verify": 4500,
    "open": 2500,
    "stream": 1500,
}

#: Bytes by which two runs of one program differ.
NOISE = 8_000_000

#: Files that opening may read, whatever a store holds: the root metadata and the manifest.
OPENING_READS = frozenset({"zarr.json", "manifest.jsonl"})

Splits = Mapping[str, str | None]

# Runs in a process of its own, because an audit hook stays for ever.
_WATCHED = """
import json, sys
from pathlib import Path
import numpy
from genisp_model.data import StoreDataset
from pipeline.store import open_store

opened, found = [], []
def hook(event, arguments):
    if event == "open":
        opened.append(str(arguments[0]))
sys.addaudithook(hook)
def reads(root, work):
    opened.clear()
    result = work()
    return result, sorted({name[len(root) + 1:] for name in opened if name.startswith(root)})
for root in sys.argv[1:]:
    store, opening = reads(root, lambda: open_store(root))
    _, listing = reads(root, lambda: [store.ids("train"), store.splits, store.cameras, len(store)])
    dataset, building = reads(root, lambda: StoreDataset(store, split="train"))
    _, control = reads(root, lambda: [store.sidecar(i) for i in store.ids()[:3]])
    found.append([opening, listing, building, control])
print(json.dumps(found))
"""


def run(scale: Scale, folder: Path) -> Iterator[FaultRow]:
    """The campaign; 20,000 samples at full scale, and a twentieth of them to compare with."""
    count = scale.count(20_000, least=200)
    few, many = folder / "few", folder / "many"
    seed = int(scale.random("load").integers(1 << 16))
    write_many_raws(few / "raws", count // 20, seed=seed)
    splits = write_many_raws(many / "raws", count, seed=seed)
    # Between stores of some hundred samples memory grows by less than it varies: one step does.
    steps = tuple(MEMORY_LAWS) if count >= 1000 else ("ingest",)
    figures = [{step: run_step(step, one) for step in steps} for one in (few, many)]
    store = open_store(many / "data.zarr")
    sidecars = {sample_id: store.sidecar(sample_id) for sample_id in store}
    yield _accounted(store, sidecars, splits)
    yield _own_places(store, sidecars)
    yield _again(many, count)
    yield _verified(many, count)
    del sidecars
    yield _streamed(store)
    yield _from_an_archive(many, store, scale.count(1000, least=30))
    yield _memory(figures, count - count // 20)
    yield _opened(few, many)


def _accounted(store: Store, sidecars: Mapping[str, Sidecar], splits: Splits) -> FaultRow:
    """Every raw is one sample, with its own split and boxes, and nothing else is."""
    row = FaultRow(f"sample among {len(splits):,}, to be accounted for")
    made_from = Counter(sidecar.source.name for sidecar in sidecars.values())
    for stem, split in splits.items():
        sidecar = sidecars.get(stem)
        if sidecar is None or made_from[sidecar.source.name] != 1:
            row.miss(f"{stem}: not one sample")
            continue
        annotation = sidecar.annotation
        boxes = 0 if annotation is None else len(annotation.boxes)
        listed = store.entry(stem)
        right = (
            Path(sidecar.source.name).stem == stem
            and sidecar.split == listed.split == split
            and (2 <= boxes <= 5) == (split is not None)
            and listed.sidecar_digest == sidecar.digest
        )
        row.record(survived=right, what=f"{stem}: split {sidecar.split}, {boxes} boxes")
    for stem in sidecars.keys() - splits.keys():
        row.miss(f"{stem}: a sample of no raw")
    return row


def _own_places(store: Store, sidecars: Mapping[str, Sidecar]) -> FaultRow:
    """Rows of a group are 0, 1, 2, ... in the order of source names, with chunks of their own."""
    row = FaultRow("row given out, to be nobody else's and in order")
    by_group: dict[str, list[Sidecar]] = {}
    for sidecar in sidecars.values():
        by_group.setdefault(sidecar.group, []).append(sidecar)
    for group, members in by_group.items():
        members.sort(key=lambda sidecar: sidecar.source.name)
        chunks = {
            level: {f"{group}/{level}/{name}" for name in store.files.names(f"{group}/{level}")}
            for level in store.recipe.levels
        }
        for expected, sidecar in enumerate(members):
            held = [chunk_key(group, level, expected) in chunks[level] for level in chunks]
            right = sidecar.row == expected and all(held)
            row.record(survived=right, what=f"{group}/{sidecar.id}: row {sidecar.row}")
        for level, found in chunks.items():
            if len(found) != len(members) + 1:  # and zarr.json
                row.miss(f"{group}/{level}: {len(found)} files for {len(members)} samples")
    return row


def _again(folder: Path, count: int) -> FaultRow:
    """The same command changes nothing, whether it reads the chunks or not."""
    row = FaultRow("the same ingest again")
    store = folder / "data.zarr"
    before = _stamps(store)
    for recheck in (True, False):
        options = IngestOptions(recheck=recheck)
        quiet = PlainReporter(lambda _: None)
        done = run_ingest([str(folder / "raws")], str(store), Recipe(), options, quiet)
        same = _stamps(store) == before
        right = same and (done.up_to_date, done.samples, done.exit_code) == (count, count, 0)
        row.record(survived=right, what=f"recheck {recheck}: {done}, files untouched: {same}")
    return row


def _stamps(store: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every file: a file that is replaced by its twin is seen, too."""
    found = {}
    for path in store.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            status = path.stat()
            found[path.relative_to(store).as_posix()] = (status.st_ino, status.st_mtime_ns)
    return found


def _verified(folder: Path, count: int) -> FaultRow:
    row = FaultRow("prep verify of them all")
    for quick in (False, True):
        files, quiet = LocalFiles(folder / "data.zarr"), PlainReporter(lambda _: None)
        done = run_verify(files, quiet, VerifyOptions(quick=quick))
        found = (done.exit_code, done.samples, done.errors, done.warnings, done.chunks)
        expected = (0, count, 0, 0, 0 if quick else 2 * count)
        row.record(survived=found == expected, what=f"quick {quick}: {done}")
    return row


def _streamed(store: Store) -> FaultRow:
    """Two epochs, the second shared by three readers: every id once, and in another order."""
    row = FaultRow("sample of an epoch, to be streamed exactly once")
    dataset = StoreDataset(store)
    orders = []
    for epoch, world in ((0, 1), (1, 3)):
        order: list[str] = []
        for rank in range(world):
            loader = StreamLoader(dataset, batch_size=8, rank=rank, world=world)
            loader.set_epoch(epoch)
            order += [sample_id for batch in loader for sample_id in batch.ids]
        orders.append(order)
        seen = Counter(order)
        for sample_id in store:
            times = seen[sample_id]
            row.record(survived=times == 1, what=f"epoch {epoch}: {sample_id} {times} times")
    if orders[0] == orders[1]:
        row.miss("both epochs have the same order")
    return row


def _from_an_archive(folder: Path, store: Store, count: int) -> FaultRow:
    """Some of the raws out of one zip archive: the same pixels as from the folder."""
    row = FaultRow("sample out of an archive of many, to be the same")
    raws = sorted((folder / "raws").iterdir())[-count:]
    archive, target = folder / "raws.zip", folder / "archive.zarr"
    with zipfile.ZipFile(archive, "w") as members:
        for raw in raws:
            members.write(raw, raw.name)
    quiet = PlainReporter(lambda _: None)
    run_ingest([str(archive)], str(target), Recipe(), IngestOptions(), quiet)
    again = open_store(target)
    for raw in raws:
        if raw.suffix == ".json":
            continue
        first, second = _content(store, raw.stem), _content(again, raw.stem)
        right = first == second and first is not None
        row.record(survived=right, what=f"{raw.name}: {first} in the folder, {second} in the zip")
    return row


def _content(store: Store, sample_id: str) -> tuple[str, ...] | None:
    """Digests of a sample's raw and of its chunks; None if there is no such sample."""
    if sample_id not in store.entries:
        return None
    sidecar = store.sidecar(sample_id)
    return (sidecar.source.sha256, *(level.crc32c for level in sidecar.levels.values()))


def _memory(figures: list[dict[str, Figures]], more: int) -> FaultRow:
    """What each step's memory grew by, from the small store to the large one."""
    row = FaultRow("law of memory: bytes a sample, at most")
    few, many = figures
    for step in few:
        limit, grown = MEMORY_LAWS[step], many[step]["bytes"] - few[step]["bytes"]
        what = f"{step}: {grown / more:.0f} bytes a sample over {more} samples, {limit} allowed"
        row.record(survived=grown <= limit * more + NOISE, what=what)
    return row


def _opened(few: Path, many: Path) -> FaultRow:
    """Opening reads the manifest, and no file more for a larger store."""
    row = FaultRow("opening a store, to read only its manifest")
    stores = [folder / "data.zarr" for folder in (few, many)]
    for store, read in zip(stores, _files_read(stores), strict=True):
        opening, listing, building, control = read
        groups = len(open_store(store).cameras)
        sidecars = [name for name in building if "/sidecars/" in name]
        if len(control) != 3:
            raise RuntimeError(f"the hook does not see what is read: {control}")
        row.record(survived=set(opening) == OPENING_READS, what=f"opening read {opening[:9]}")
        row.record(survived=listing == [], what=f"listing a split read {listing[:9]}")
        right = building == sidecars and len(sidecars) == groups
        row.record(survived=right, what=f"a dataset of {groups} groups read {building[:9]}")
    return row


def _files_read(stores: list[Path]) -> list[list[list[str]]]:
    """Files of each store that are read: opening, listing a split, a dataset, three sidecars."""
    command = [sys.executable, "-c", _WATCHED, *map(str, stores)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    found: list[list[list[str]]] = json.loads(done.stdout)
    return found
