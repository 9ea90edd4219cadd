"""Reading and training while an ingest writes the store: committed samples, or an error by name."""

from __future__ import annotations

import hashlib
import logging
import signal
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from genisp_model.data import StoreDataset
from genisp_model.data.loader import StreamLoader
from pipeline.errors import DamagedStoreError, GenispError
from pipeline.store import Store, open_store
from schemas.recipe import LevelName
from tests.kit.children import begun
from tests.kit.scenes import Scene, arguments
from tests.torture.campaign import FaultRow, Scale
from tests.torture.resources.stopping import operations, stop_before, stopped
from tests.torture.resources.trials import Verdict, tried

LEVELS: tuple[LevelName, ...] = ("packed", "resized")

#: Moments that one process tries, because it takes seconds to begin to read.
_TOGETHER = 10

#: Digests of pixels and boxes that a sample may have, by "group/id" and level.
Truths = dict[tuple[str, str], frozenset[str]]


@dataclass(frozen=True)
class Reading:
    """An ingest that is stopped before an operation, read meanwhile, and read while it goes on."""

    scene: Scene
    truths: Truths
    store: Path
    moments: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.scene.name}, stopped before operations {self.moments}"


@dataclass
class _Seen:
    """What came of reading: samples that were right, errors by name, and what must not be."""

    truths: Truths
    right: int = 0
    named: int = 0
    wrong: list[str] = field(default_factory=list)

    def sample(self, key: str, level: str, *parts: Any) -> None:
        """Judge one sample's pixels, boxes and labels."""
        if _digest(*parts) in self.truths.get((key, level), ()):
            self.right += 1
        else:
            self.wrong.append(f"{key} {level} is neither the old nor the new one")

    def error(self, error: Exception, where: str) -> None:
        """Judge an error."""
        if isinstance(error, GenispError) and error.mend and error.path:
            self.named += 1
        else:
            self.wrong.append(f"{where}: {type(error).__name__}: {error}")


def _digest(*parts: Any) -> str:
    found = hashlib.sha256()
    for part in parts:
        array = np.ascontiguousarray(part)
        found.update(f"{array.dtype} {array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def truths_of(*stores: Path) -> Truths:
    """What the samples of some stores are; those that are damaged in one are none there."""
    known: dict[tuple[str, str], set[str]] = defaultdict(set)
    for path in stores:
        store = open_store(path)
        for sample_id, entry in store.entries.items():
            for level in LEVELS:
                try:
                    held = store.read(sample_id, level)
                except DamagedStoreError:
                    continue
                digest = _digest(held.xyz, held.boxes, held.labels)
                known[f"{entry.group}/{entry.id}", level].add(digest)
    return {key: frozenset(digests) for key, digests in known.items()}


def read_meanwhile(reading: Reading) -> list[Verdict]:
    """Read in every way before, amid and after an ingest; once for each moment."""
    logging.getLogger("genisp_model.data.loader").disabled = True
    return [verdict for at in reading.moments for verdict in _read_meanwhile(reading, at)]


def _read_meanwhile(reading: Reading, at: int) -> list[Verdict]:
    scene, store = reading.scene, reading.store
    scene.begin(store)
    fresh, train, old = (_Seen(reading.truths) for _ in range(3))
    opened: list[tuple[Store, StoreDataset]] = []
    if scene.before is not None:
        opened = _opened(store, old)
    running = begun(*arguments(scene, store), prepare=partial(stop_before, at))
    if not stopped(running):
        raise RuntimeError(f"it ended before operation {at}")
    opened += _opened(store, old)
    _read(store, fresh)
    _train(store, train)
    if scene.before is None and fresh.named and fresh.right:
        fresh.wrong.append("a sample that is listed cannot be read, though nothing is replaced")
    _read_on(opened, old)
    running.send(signal.SIGCONT)
    while running.is_running():
        _read(store, fresh)
        _train(store, train)
    end = running.ended()
    _read_on(opened, old)
    wrong = "" if end.code == scene.exit_code else f"the ingest: {end}"
    wrong = wrong or scene.wrong(store)
    _read(store, fresh)
    _train(store, train)
    whole = len(scene.sidecars) * len(LEVELS)
    if min(fresh.right, train.right) < whole or (scene.before and not old.right):
        wrong = wrong or f"only {fresh.right}, {train.right}, {old.right} reads were right"
    return [
        _verdict("a store that is being written, opened and read", fresh, at, wrong),
        _verdict("training on a store that is being written", train, at, ""),
        _verdict("a store opened before or amid an ingest, read on", old, at, ""),
    ]


def _verdict(row: str, seen: _Seen, at: int, wrong: str) -> Verdict:
    miss = "; ".join(dict.fromkeys([*seen.wrong, *filter(None, [wrong])]))
    miss = miss and f"at {at}: {miss}"
    return Verdict(row, caught=seen.named > 0, harmless=seen.named == 0, miss=miss)


def _opened(path: Path, seen: _Seen) -> list[tuple[Store, StoreDataset]]:
    """A store and datasets of its levels, kept open; nothing if it cannot be opened yet."""
    try:
        store = open_store(path)
        return [(store, StoreDataset(store, level=level)) for level in LEVELS]
    except Exception as error:  # judged
        seen.error(error, "opening")
        return []


def _read(path: Path, seen: _Seen) -> None:
    """Open a store and read every sample at every level."""
    try:
        store = open_store(path)
    except Exception as error:  # judged
        seen.error(error, "open_store")
        return
    _read_all(store, seen)


def _read_all(store: Store, seen: _Seen) -> None:
    for sample_id in store:
        for level in LEVELS:
            try:
                held = store.read(sample_id, level)
            except Exception as error:  # judged
                seen.error(error, f"Store.read of {sample_id}")
                continue
            side = held.sidecar
            seen.sample(f"{side.group}/{side.id}", level, held.xyz, held.boxes, held.labels)


def _train(path: Path, seen: _Seen) -> None:
    """Open a dataset of each level; two epochs of each: one may end, one leaves damage out."""
    for level in LEVELS:
        try:
            dataset = StoreDataset(path, level=level)
        except Exception as error:  # judged
            seen.error(error, "StoreDataset")
            continue
        _epochs(dataset, seen)


def _epochs(dataset: StoreDataset, seen: _Seen) -> None:
    names = [f"{dataset.index.group(n).name}/{one}" for n, one in enumerate(dataset.ids)]
    for skip in (False, True):
        loader = StreamLoader(dataset, batch_size=2, skip_damaged=skip)
        try:
            for batch in loader:
                for image, target in zip(batch.images, batch.targets, strict=True):
                    name = names[int(target["image_id"])].split("/")
                    parts = image.numpy(), target["boxes"].numpy(), target["labels"].numpy()
                    seen.sample(f"{name[0]}/{name[-1]}", dataset.level, *parts)
        except Exception as error:  # judged
            seen.error(error, "StreamLoader")
        seen.named += len(loader.skipped)


def _read_on(opened: list[tuple[Store, StoreDataset]], seen: _Seen) -> None:
    for store, dataset in opened:
        _read_all(store, seen)
        _epochs(dataset, seen)


def run(scale: Scale, folder: Path, scenes: tuple[Scene, Scene]) -> Iterator[FaultRow]:
    """All of it; `scenes` are a first ingest and an update."""
    folder.mkdir(parents=True)
    rng = scale.random("readers")
    trials = list[Reading]()
    for scene in scenes:
        after = folder / "after.zarr"
        scene.begin(after)
        scene.ingest(after)
        stores = [after] if scene.before is None else [scene.before, after]
        truths, length = truths_of(*stores), operations(scene, folder / "counted.zarr")
        moments = rng.integers(1, length, scale.count(30, 2)).tolist()
        for start in range(0, len(moments), _TOGETHER):
            some = tuple(moments[start : start + _TOGETHER])
            trials.append(Reading(scene, truths, folder / f"read{len(trials)}.zarr", some))
    yield from tried(read_meanwhile, trials).values()
