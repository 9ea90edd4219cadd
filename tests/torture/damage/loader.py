"""Damaged stores in training: the error comes instead of the pixels, and nothing hangs."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from genisp_model.data import StoreDataset, Target
from genisp_model.data.loader import Batch, StreamLoader
from pipeline.errors import DamagedStoreError
from pipeline.store.keys import SIDECARS
from pipeline.store.reader import open_store
from schemas.recipe import LevelName
from tests.kit.known_store import Damage, Faults, KnownStore
from tests.torture.campaign import FaultRow, Scale

LEVELS: tuple[LevelName, ...] = ("packed", "resized")
_PATIENCE = 60.0  # seconds: a pass takes milliseconds

Rng = np.random.Generator


@dataclass(frozen=True)
class _Truth:
    """A sample as the undamaged store has it."""

    xyz: npt.NDArray[np.float32]
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    def is_in(self, image: torch.Tensor, target: Target) -> bool:
        return bool(
            np.array_equal(image.numpy(), self.xyz)
            and np.array_equal(target["boxes"].numpy(), self.boxes)
            and np.array_equal(target["labels"].numpy(), self.labels)
        )


Truths = dict[tuple[str, LevelName], _Truth]


@dataclass
class _Pass:
    """What one pass over a loader gave."""

    ids: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    error: BaseException | None = None
    ended: bool = False


def run(known: KnownStore, scale: Scale, damages: dict[str, Damage]) -> Iterator[FaultRow]:
    """Damage by `damages` to chunks and sidecars, met by every way of reading."""
    truths = _truths(known)
    for kind, keys in (("chunk", known.chunk_keys), ("sidecar", known.sidecar_keys)):
        row = FaultRow(f"training meets a damaged {kind}")
        rng = scale.random(row.fault)
        for number in range(scale.count(200, least=12)):
            key = keys[number % len(keys)]
            words = str(rng.choice(list(damages)))
            damaged = damages[words](known.whole[key], rng)
            if damaged != known.whole[key]:
                what = f"{key} {words} (number {number}, seed {scale.seed})"
                _try(known, row, what, key, {key: damaged}, truths)
        yield row
    yield _between_batches(known, scale, truths, damages)
    yield _left_out(known, scale, truths)


def _truths(known: KnownStore) -> Truths:
    store = open_store(known.root)
    samples = {(one, level): store.read(one, level) for one in store for level in LEVELS}
    return {key: _Truth(held.xyz, held.boxes, held.labels) for key, held in samples.items()}


def _try(
    known: KnownStore, row: FaultRow, what: str, key: str, faults: Faults, truths: Truths
) -> None:
    """One damage, met by `Store.read`, by the dataset and by the loader, then mended."""
    sample_id = known.owner(key).split("/")[1]
    levels = LEVELS if f"/{SIDECARS}/" in key else [one for one in LEVELS if f"/{one}/" in key]
    problems, told = list[str](), 0
    for level in levels:
        opened_before = StoreDataset(known.root, level=level)
        known.apply(faults)
        for name, error in (
            ("Store.read", _read(known, sample_id, level, truths)),
            ("dataset", _item(known, sample_id, level, truths)),
            ("loader", _streamed(known, sample_id, level, truths)),
        ):
            told += isinstance(error, DamagedStoreError)
            if error is not None:
                problems += [f"{name} ({level}): {one}" for one in _objections(error, sample_id)]
        if f"/{SIDECARS}/" not in key:
            loader = StreamLoader(opened_before, batch_size=2, shuffle=False)
            first = _passed(loader, level, truths)
            problems += first.wrong if first.error else ["an open loader read a damaged chunk"]
            known.restore()
            loader.set_epoch(0)
            again = _passed(loader, level, truths)
            if again.error or again.wrong or set(again.ids) != set(opened_before.ids):
                problems.append(f"after the mend the loader gave {again}")
        known.restore()
    harmless = told == 0 and not problems
    caught = told == 3 * len(levels)
    if problems or not (harmless or caught):
        row.miss(f"{what}: {told} errors; {'; '.join(problems)}")
    else:
        row.record(caught=caught, harmless=harmless, what=what)


def _objections(error: BaseException, sample_id: str) -> list[str]:
    """What is wrong with how damage was told."""
    if not isinstance(error, DamagedStoreError):
        return [f"{type(error).__name__}: {error}"]
    named = sample_id in str(error)
    return [] if named and "prep " in error.mend else [f"{error} / {error.mend}"]


def _read(
    known: KnownStore, sample_id: str, level: LevelName, truths: Truths
) -> BaseException | None:
    try:
        held = open_store(known.root).read(sample_id, level)
    except Exception as error:  # judged by the caller
        return error
    truth = truths[sample_id, level]
    same = np.array_equal(held.xyz, truth.xyz) and np.array_equal(held.boxes, truth.boxes)
    return None if same else AssertionError("wrong numbers from Store.read")


def _item(
    known: KnownStore, sample_id: str, level: LevelName, truths: Truths
) -> BaseException | None:
    try:
        dataset = StoreDataset(known.root, level=level)
        image, target = dataset[dataset.ids.index(sample_id)]
    except Exception as error:  # judged by the caller
        return error
    same = truths[sample_id, level].is_in(image, target)
    return None if same else AssertionError("wrong numbers from the dataset")


def _streamed(
    known: KnownStore, sample_id: str, level: LevelName, truths: Truths
) -> BaseException | None:
    try:
        loader = StreamLoader(StoreDataset(known.root, level=level), batch_size=2)
    except Exception as error:  # judged by the caller
        return error
    done = _passed(loader, level, truths)
    if done.wrong or (done.error and sample_id in done.ids):
        return AssertionError(f"wrong numbers from the loader: {done}")
    return done.error


def _passed(loader: StreamLoader, level: LevelName, truths: Truths) -> _Pass:
    """One pass in a thread of its own, every image and box compared."""
    result = _Pass()

    def consume() -> None:
        try:
            for batch in loader:
                _compare(batch, level, truths, result)
                del batch
        except BaseException as error:  # judged by the caller
            result.error = error
        result.ended = True

    thread = threading.Thread(target=consume, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    gc.collect(0)
    left = [one.name for one in threading.enumerate() if one.name.startswith("genisp-stream")]
    if not result.ended or left:
        result.wrong.append(f"the pass hangs, or leaves threads behind: {left}")
    return result


def _compare(batch: Batch, level: LevelName, truths: Truths, result: _Pass) -> None:
    for image, target, sample_id in zip(batch.images, batch.targets, batch.ids, strict=True):
        result.ids.append(sample_id)
        if not truths[sample_id, level].is_in(image, target):
            result.wrong.append(f"{sample_id} has wrong numbers")


def _between_batches(
    known: KnownStore, scale: Scale, truths: Truths, damages: dict[str, Damage]
) -> FaultRow:
    """Damage done while a pass is under way, to a chunk still to come or just read ahead."""
    row = FaultRow("training meets a chunk damaged between two batches")
    rng = scale.random(row.fault)
    for number in range(scale.count(60, least=4)):
        level = LEVELS[number % 2]
        loader = StreamLoader(StoreDataset(known.root, level=level), batch_size=1, prefetch=1)
        result = _Pass()
        batches = iter(loader)
        _compare(next(batches), level, truths, result)
        key = str(rng.choice([one for one in known.chunk_keys if f"/{level}/" in one]))
        words = str(rng.choice(list(damages)))
        known.apply({key: damages[words](known.whole[key], rng)})
        sample_id = known.owner(key).split("/")[1]
        try:
            for batch in batches:
                _compare(batch, level, truths, result)
        except DamagedStoreError as error:
            result.error = error
        known.restore()
        what = f"{key} {words} after the first batch (number {number}, seed {scale.seed})"
        read_before = sample_id in result.ids
        objections = _objections(result.error, sample_id) if result.error else []
        if result.wrong or objections or read_before == (result.error is not None):
            row.miss(f"{what}: {result} {objections}")
        else:
            row.record(caught=not read_before, harmless=read_before, what=what)
    return row


def _left_out(known: KnownStore, scale: Scale, truths: Truths) -> FaultRow:
    """On request damaged samples are left out: these and no others, and they are listed."""
    row = FaultRow("training leaves out damaged samples on request")
    rng = scale.random(row.fault)
    log = logging.getLogger("genisp_model.data.loader")
    log.disabled = True  # a line for each would bury the table
    for number in range(scale.count(60, least=4)):
        level = LEVELS[number % 2]
        chunks = [one for one in known.chunk_keys if f"/{level}/" in one]
        hit = [*rng.choice(chunks, 2, replace=False).tolist(), str(rng.choice(known.sidecar_keys))]
        known.apply({key: known.whole[key][:-7] for key in hit})
        dataset = StoreDataset(known.root, level=level)
        loader = StreamLoader(dataset, batch_size=2, skip_damaged=True)
        done = _passed(loader, level, truths)
        known.restore()
        gone = {known.owner(key).split("/")[1] for key in hit}
        right = {sample_id for sample_id, _ in truths} - gone
        what = f"{', '.join(hit)} cut (number {number}, seed {scale.seed})"
        if done.error or done.wrong or set(done.ids) != right or set(loader.skipped) != gone:
            row.miss(f"{what}: left out {sorted(loader.skipped)}; {done}")
        else:
            row.record(caught=True, what=what)
    log.disabled = False
    return row
