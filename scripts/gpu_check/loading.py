"""Does the loader give a GPU the very numbers it gives a CPU, also under load?"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from genisp_model.data import StoreDataset
from genisp_model.data.loader import Batch, StreamLoader
from scripts.gpu_check.checking import Bench, Result

EPOCHS = 2
PREFETCH = (1, 2, 3, 4)
#: Batches a consumer holds on to, to see whether anything is written over them.
HELD = 3
#: Clock cycles the copying stream is kept busy before a copy: some milliseconds.
DELAY = 10_000_000


def equality(bench: Bench, result: Result) -> None:
    """Compare every batch with the CPU's, then many checksums while copies are late."""
    datasets = {"all shapes": StoreDataset(bench.sample_store(), level="resized")}
    for level, store in bench.frames.items():
        datasets[f"{level} frames"] = StoreDataset(store, level=level)
    compared = 0
    for name in ("all shapes", "resized frames"):
        if name in datasets:
            with result.part(name):
                compared += _compare(bench, result, name, datasets[name], None)
    with result.part("fit"):
        fitted = datasets.get("packed frames", datasets["all shapes"])
        compared += _compare(bench, result, "fitted", fitted, bench.sizes.fit)
    busy = datasets.get("resized frames", datasets["all shapes"])
    for delayed in (False, True):
        with result.part("copies delayed" if delayed else "slow consumer"):
            _in_flight(bench, result, busy, delayed=delayed)
    result.found["images compared"] = compared
    result.summary = f"{compared} images bit for bit, {bench.sizes.batches_in_flight} batches " + (
        "in flight, then as many with late copies"
    )


def _compare(
    bench: Bench, result: Result, name: str, dataset: StoreDataset, fit: tuple[int, int] | None
) -> int:
    """Two epochs with flips, prefetch after prefetch; returns the images compared."""
    options: dict[str, Any] = {"batch_size": 2, "seed": 3, "flip": 0.5, "fit": fit}
    compared = 0
    for prefetch in PREFETCH if fit is None else PREFETCH[:1]:
        ours = StreamLoader(dataset, device=bench.device, prefetch=prefetch, **options)
        theirs = StreamLoader(dataset, **options)
        for epoch in range(EPOCHS):
            for batch, reference in zip(_loaded(bench, ours), theirs, strict=True):
                compared += len(batch)
                different = _difference(batch, reference)
                where = f"{name}, prefetch {prefetch}, epoch {epoch}, samples {batch.ids}"
                result.require(not different, f"{where}: {different}")
    return compared


def _loaded(bench: Bench, loader: StreamLoader) -> Iterator[Batch]:
    """Batches of a loader whose device is busy with something else each time."""
    side = 4096 if bench.on_cuda else 64
    matrix = torch.rand(side, side, device=bench.device)
    for batch in loader:
        matrix = (matrix @ matrix).tanh()
        yield batch


def _difference(batch: Batch, reference: Batch) -> str:
    """What differs, in words; empty for nothing."""
    if batch.ids != reference.ids:
        return f"order: {reference.ids} expected"
    pairs: dict[str, tuple[Any, Any]] = {
        "images": (batch.images, reference.images),
        "exposure": (batch.exposure, reference.exposure),
    }
    for slot, (ours, theirs) in enumerate(zip(batch.targets, reference.targets, strict=True)):
        if ours.keys() != theirs.keys():
            return f"targets of {batch.ids[slot]}: {sorted(ours)}"
        pairs |= {f"{name} of {batch.ids[slot]}": (ours[name], theirs[name]) for name in ours}
    for name, (value, expected) in pairs.items():
        if isinstance(expected, Tensor):
            if not torch.equal(value.cpu(), expected):
                largest = (value.cpu().double() - expected.double()).abs().max()
                return f"{name} differ by up to {float(largest):.3g}"
        elif value != expected:
            return f"{name}: {value!r}, not {expected!r}"
    return ""


def _in_flight(bench: Bench, result: Result, dataset: StoreDataset, *, delayed: bool) -> None:
    """Checksums of many batches taken on the device behind other work, looked at in the end.

    With `delayed` the copies are late as well: memory given to the next batch too early would be
    read with that batch's numbers.
    """
    loader = StreamLoader(dataset, batch_size=2, device=bench.device, prefetch=4, threads=4)
    seen: list[tuple[tuple[str, ...], Tensor]] = []
    held: deque[Batch] = deque(maxlen=HELD)
    while len(seen) < 2 * bench.sizes.batches_in_flight:
        for batch in _loaded(bench, loader):
            if delayed and loader._copies is not None:
                with torch.cuda.stream(loader._copies):
                    torch.cuda._sleep(DELAY)
            held.append(batch)
            # As it came, and after newer ones: nothing on the host waits for either.
            seen += [(one.ids, _checksums(one.images)) for one in (held[0], batch)]
    wanted = {
        sample_id: int(_checksums(dataset[position][0][None]))
        for position, sample_id in enumerate(dataset.ids)
    }
    found = [pair for ids, sums in seen for pair in zip(ids, sums.tolist(), strict=True)]
    bad = sorted({sample_id for sample_id, checksum in found if checksum != wanted[sample_id]})
    name = "delayed" if delayed else "slow consumer"
    result.found[name] = {"checksums": len(found), "buffers": loader._pool.made}
    result.require(not bad, f"{name}: other numbers in {len(bad)} samples, first {bad[:3]}")


def _checksums(images: Tensor) -> Tensor:
    """(B, 3, h, w) float32 -> (B,) int64: sums of the bits, exact in any order."""
    return images.contiguous().view(torch.int32).flatten(1).sum(dim=1, dtype=torch.int64)
