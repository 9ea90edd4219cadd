"""Images a second of the streaming loader, beside a memory map read by a torch DataLoader.

    python -m benchmarks.loader [--rounds R] [--levels resized,packed] [--json FILE]

Makes full-size night raws (`kit.night_raws`), ingests them as a user would, and repeats the
samples under new ids (chunk files and sidecars are copied; zarr's array shapes are not, nothing
here reads them). Beside the store it writes what people use instead: one uncompressed
uint16 array of the same images, opened with ``np.memmap``.

Contenders, in one process, batches of 2, shuffled, one epoch a round, order reversed every round:

- ``stream T=1``, ``T=2``: `StreamLoader`, that many decode threads. Reads compressed chunks, checks
  CRC-32C, decompresses, converts; gives float32 XYZ in (2, 3, h, w) tensors, with targets.
- ``codes T=2``: the same up to the raw codes, as they are sent to a CUDA device, with targets: what
  ``memmap uint16`` gives, checked.
- ``map``: `StoreDataset` in a DataLoader without workers, same work, lists of float32 tensors.
- ``memmap uint16``: DataLoader(memmap, workers 0), torch's own collate. Gives the raw codes: no
  check, no conversion, no targets.
- ``memmap float32``: the same, then converted to XYZ a batch at a time by torch (its own threads):
  the same tensors as ``stream``, still without check and targets.

The memory map's figures hang on torch's own threads: stacking a batch is shared out over all
cores, which helps on idle cores and costs many times the copy where another program holds one of
them. So each level is measured twice, in fresh processes: as torch starts, and with one thread.

Everything is in the page cache; nothing is done with a batch but dropping it. Wall time decides,
because threads are the point: on a busy machine read the ratios (medians of ratios within a
round), not the rates. CPU time of the whole process is given too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.kit.machine import PACKAGES, machine_facts, write_json
from benchmarks.kit.night_raws import night_store
from genisp_model.data import StoreDataset, collate
from genisp_model.data.buffers import BufferPool, codes
from genisp_model.data.loader import StreamLoader, _Finished, _Reading
from pipeline.store.keys import chunk_key, sidecar_key
from pipeline.store.local.files import LocalFiles
from pipeline.store.reader import open_store
from schemas.recipe import LevelName

BATCH = 2
IMAGES: dict[LevelName, int] = {"resized": 96, "packed": 16}
BASELINES = ("memmap uint16", "memmap float32")

#: Environment of the measuring process.
SETTINGS: dict[str, dict[str, str]] = {
    "torch's threads as it starts": {},
    "one torch thread": {"OMP_NUM_THREADS": "1"},
}


class MemmapDataset(Dataset[Tensor]):
    """Rows of an uncompressed uint16 array on disk, as tensors of their own."""

    def __init__(self, path: Path) -> None:
        self.images = np.load(path, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> Tensor:
        # A copy: a tensor on the read-only map itself would be read by collate, at the same cost.
        return torch.from_numpy(np.array(self.images[row]))


class CodesLoader(StreamLoader):
    """`StreamLoader` up to the point where a batch's codes are copied to a CUDA device.

    Same order, threads, checks and reused buffers; only the memory is not pinned.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._on_cuda = True
        self._pool = BufferPool(self._pool.nbytes // 2)

    def _finish(self, reading: _Reading) -> _Finished:
        for work in reading.work:
            work.result()
        shape = (len(reading.positions), *self.dataset.index.shape(int(reading.positions[0])))
        array = codes(reading.buffer, shape)
        weakref.finalize(array, self._pool.give_back, reading.buffer).atexit = False
        return self._batch(torch.from_numpy(array), reading, list(range(len(array))))


def repeated(store: Path, target: Path, level: LevelName, count: int) -> Path:
    """A store of `count` samples of one level: the images of `store`, in turn."""
    source, files = open_store(store), LocalFiles(target)
    files.put("zarr.json", source.files.get("zarr.json"))
    sidecars = [source.sidecar(sample_id) for sample_id in source]
    for row in range(count):
        model = sidecars[row % len(sidecars)]
        chunk = source.files.get(chunk_key(model.group, level, model.row))
        update = {"id": f"IMG{row:05}", "row": row, "levels": {level: model.levels[level]}}
        files.put(chunk_key(model.group, level, row), chunk)
        sidecar = model.model_copy(update=update).sealed()
        files.put(sidecar_key(model.group, sidecar.id), sidecar.to_json())
    return target


def write_memmap(dataset: StoreDataset, path: Path) -> None:
    """The dataset's codes as one uncompressed array (N, 3, h, w)."""
    shape = (len(dataset), *dataset.index.shape(0))
    array: Any = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint16, shape=shape)
    memory = dataset.memory()
    for row in range(len(dataset)):
        dataset.read_codes(row, memory, array[row])
    array.flush()


def contenders(dataset: StoreDataset, path: Path) -> dict[str, Callable[[], Iterable[Any]]]:
    """What yields one epoch, by name."""
    zero, scale = float(dataset.index.zero_code[0]), float(dataset.index.scale_factor[0])
    streamed_codes = CodesLoader(dataset, batch_size=BATCH, threads=2)
    streams = {
        f"stream T={threads}": StreamLoader(dataset, batch_size=BATCH, threads=threads)
        for threads in (1, 2)
    }
    codes = DataLoader(MemmapDataset(path), BATCH, shuffle=True)

    def converted() -> Iterable[Tensor]:
        return (batch.to(torch.float32).sub_(zero).mul_(scale) for batch in codes)

    mapped = DataLoader(dataset, BATCH, shuffle=True, collate_fn=collate)
    return {
        **{name: partial(iter, loader) for name, loader in streams.items()},
        "codes T=2": partial(iter, streamed_codes),
        "map": lambda: mapped,
        "memmap uint16": lambda: codes,
        "memmap float32": converted,
    }


def measure(
    epochs: dict[str, Callable[[], Iterable[Any]]], images: int, rounds: int
) -> list[dict[str, dict[str, float]]]:
    """By round and name: images a second, and CPU milliseconds an image. One round is not kept."""
    taken: list[dict[str, dict[str, float]]] = []
    names = list(epochs)
    for number in range(-1, rounds):
        row = {}
        for name in names if number % 2 else reversed(names):
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in epochs[name]():
                pass
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            row[name] = {"images_per_s": images / wall, "cpu_ms": 1e3 * cpu / images}
        if number >= 0:
            taken.append(row)
    return taken


def summarise(rows: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Medians by name, and the median of the ratios to each baseline within a round."""
    result: dict[str, Any] = {}
    for name in rows[0]:
        rate = statistics.median(row[name]["images_per_s"] for row in rows)
        cpu = statistics.median(row[name]["cpu_ms"] for row in rows)
        result[name] = {"images_per_s": round(rate, 1), "cpu_ms_per_image": round(cpu, 2)}
        for baseline in BASELINES:
            ratios = [row[name]["images_per_s"] / row[baseline]["images_per_s"] for row in rows]
            result[name][f"ratio to {baseline}"] = round(statistics.median(ratios), 2)
    return result


def measure_level(folder: Path, level: LevelName, rounds: int) -> dict[str, Any]:
    """Measure one prepared level in this process."""
    dataset, path = StoreDataset(folder / f"{level}.zarr", level=level), folder / f"{level}.npy"
    chunk_bytes = sum(dataset.record(position).nbytes for position in range(len(dataset)))
    rows = measure(contenders(dataset, path), len(dataset), rounds)
    return {
        "shape": dataset.index.shape(0),
        "images": len(dataset),
        "bytes_of_memmap": round(chunk_bytes / path.stat().st_size, 3),
        "load": round(os.getloadavg()[0], 2),
        "loaders": summarise(rows),
    }


def measure_afresh(folder: Path, level: LevelName, rounds: int, setting: str) -> dict[str, Any]:
    """`measure_level` in a fresh process, and its table printed."""
    command = [sys.executable, "-m", "benchmarks.loader", "--levels", level, "--prepared", folder]
    done = subprocess.run(
        [*map(str, command), "--rounds", str(rounds)],
        env={**os.environ, **SETTINGS[setting]},
        stdout=subprocess.PIPE,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    _, height, width = result["shape"]
    share = f"store {result['bytes_of_memmap']:.1%} of the memmap"
    print(f"\n{level} {height}x{width}, {result['images']} images, {share}, {setting}")
    print(f"{'':16}{'images/s':>10}{'CPU ms':>9}{'/ uint16':>10}{'/ float32':>11}")
    for name, values in result["loaders"].items():
        rate, cpu, to_codes, to_values = values.values()
        print(f"{name:16}{rate:10.1f}{cpu:9.2f}{to_codes:10.2f}{to_values:11.2f}")
    return result


def prepare(folder: Path, raws: int, levels: Sequence[LevelName]) -> None:
    """Stores of one level each, and the arrays beside them."""
    store = night_store(folder, images=raws, levels=tuple(levels))
    for level in levels:
        target = repeated(store, folder / f"{level}.zarr", level, IMAGES[level])
        write_memmap(StoreDataset(target, level=level), folder / f"{level}.npy")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.loader", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--raws", type=int, default=4, help="distinct raws")
    parser.add_argument("--levels", default="resized,packed")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--prepared", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    levels = [level for level in IMAGES if level in arguments.levels.split(",")]
    if arguments.prepared:
        print(json.dumps(measure_level(arguments.prepared, levels[0], arguments.rounds)))
        return
    document: dict[str, Any] = {"machine": machine_facts((*PACKAGES, "torch")), "batch": BATCH}
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), arguments.raws, levels)
        for level in levels:
            document[level] = {
                setting: measure_afresh(Path(name), level, arguments.rounds, setting)
                for setting in SETTINGS
            }
    if arguments.json:
        write_json(arguments.json, document)


if __name__ == "__main__":
    main()
