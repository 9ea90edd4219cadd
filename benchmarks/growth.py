"""Time and memory as the number of samples grows, and what they come to for a million.

    python -m benchmarks.growth [--counts 1000,5000,20000] [--folder DIR] [--json FILE]

Writes tiny raws in real formats (`kit.many_raws`), so that what is measured is the cost of a
sample, not of its pixels, and for each count measures, each step in a process of its own:

- ingest: in one process; then, for the smaller counts, with a worker process, as a user runs it;
- the same ingest again, with everything up to date, with and without `--no-recheck`;
- `prep verify`, `prep verify --quick`, and `prep info` from its start to its end;
- opening the store and listing a split; a `StoreDataset`; two epochs of a `StreamLoader`, in the
  first of which every sidecar is read.

Memory is what a step adds to the process after its imports. Exponents k are of time ~ n^k between
the last two counts. Projections are straight lines through the last two counts, or that power of n
where k is above 1.1. Wall time counts what others do on the machine (an ingest waits for the disk
three times a sample): read CPU time on a busy one.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.kit.machine import PACKAGES, machine_facts, peak_memory, write_json
from benchmarks.kit.many_raws import write_many_raws

COUNTS = (1000, 5000, 20000)
LARGEST_WITH_WORKER = 5000
REAL_SET, MILLION = 7219, 1_000_000
OPENINGS = 5

#: Seconds and bytes of one step, by name.
Figures = dict[str, float]


# The steps. Each runs in a process of its own, imports first.


def _ingest(folder: Path, *, workers: int, store: str, recheck: bool = True) -> Figures:
    from pipeline.console.progress import PlainReporter
    from pipeline.ingest import IngestOptions, run_ingest
    from schemas.recipe import Recipe

    options = IngestOptions(workers=workers, recheck=recheck)
    reporter = PlainReporter(lambda _: None)

    def work() -> Figures:
        summary = run_ingest(
            [str(folder / "raws")], str(folder / store), Recipe(), options, reporter
        )
        if summary.exit_code:
            raise SystemExit(f"ingest ended with {summary.exit_code}")
        return {}

    with _worker_peak() as peak:
        figures = _measured(work)
    return figures | ({"worker_bytes": peak[0]} if workers else {})


def _verify(folder: Path, *, quick: bool) -> Figures:
    from pipeline.console.progress import PlainReporter
    from pipeline.store.local.files import LocalFiles
    from pipeline.verify import VerifyOptions, run_verify

    def work() -> Figures:
        reporter = PlainReporter(lambda _: None)
        files, how = LocalFiles(folder / "data.zarr"), VerifyOptions(quick=quick)
        if run_verify(files, reporter, how).exit_code:
            raise SystemExit("the store is damaged")
        return {}

    return _measured(work)


def _info(folder: Path) -> Figures:
    """The command as it is typed: Python's start and imports are in it."""
    code = "import sys; sys.argv[0] = 'prep'; from cli import prep_main; prep_main()"
    command = [sys.executable, "-c", code, "info", str(folder / "data.zarr")]
    before, began = os.times(), time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - began, os.times()
    cpu = after.children_user + after.children_system
    return {"wall": wall, "cpu": cpu - before.children_user - before.children_system}


def _open(folder: Path) -> Figures:
    from pipeline.store import open_store

    def work() -> Figures:
        seconds = [[0.0, 0.0]]
        for _ in range(OPENINGS):
            gc.collect()
            began = time.process_time()
            store = open_store(folder / "data.zarr")
            opened = time.process_time()
            store.ids("train")
            seconds.append([opened - began, time.process_time() - opened])
        opening, listing = (statistics.median(one) for one in zip(*seconds[1:], strict=True))
        return {"open_cpu": opening, "list_cpu": listing}

    return _measured(work)


def _stream(folder: Path) -> Figures:
    import torch

    from genisp_model.data import StoreDataset
    from genisp_model.data.loader import StreamLoader
    from pipeline.store import open_store

    torch.set_num_threads(1)
    store = open_store(folder / "data.zarr")

    def work() -> Figures:
        began = time.process_time()
        dataset = StoreDataset(store)
        built = time.process_time()
        loader = StreamLoader(dataset, batch_size=8)
        next(iter(loader))
        first = time.process_time()
        epochs = []
        for epoch in range(2):
            loader.set_epoch(epoch)
            start = time.process_time()
            if sum(len(batch) for batch in loader) != len(store):
                raise SystemExit("an epoch has not every sample")
            epochs.append(time.process_time() - start)
        return {
            "dataset_cpu": built - began,
            "first_batch_cpu": first - built,
            "first_epoch_cpu": epochs[0],
            "second_epoch_cpu": epochs[1],
        }

    return _measured(work)


STEPS: dict[str, Callable[[Path], Figures]] = {
    "ingest": lambda folder: _ingest(folder, workers=0, store="data.zarr"),
    "ingest, 1 worker": lambda folder: _ingest(folder, workers=1, store="other.zarr"),
    "ingest again": lambda folder: _ingest(folder, workers=0, store="data.zarr"),
    "ingest again --no-recheck": lambda folder: _ingest(
        folder, workers=0, store="data.zarr", recheck=False
    ),
    "verify": lambda folder: _verify(folder, quick=False),
    "verify --quick": lambda folder: _verify(folder, quick=True),
    "info, the whole command": _info,
    "open": _open,
    "stream": _stream,
}


def _measured(work: Callable[[], Figures]) -> Figures:
    """Wall and CPU seconds of some work, and the bytes it adds to the process at its peak."""
    gc.collect()
    imported = peak_memory()
    wall, cpu = time.perf_counter(), time.process_time()
    extra = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"wall": wall, "cpu": cpu, "bytes": peak_memory() - imported, **extra}


class _worker_peak:
    """The largest resident size of any child process, watched while the block runs."""

    def __enter__(self) -> list[float]:
        self._peak, self._over = [0.0], threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self._peak

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.25):
            for process in _children():
                self._peak[0] = max(self._peak[0], _peak_of(process))


def _children() -> Iterator[str]:
    for thread in Path("/proc/self/task").iterdir():
        try:
            yield from (thread / "children").read_text().split()
        except OSError:
            continue


def _peak_of(process: str) -> float:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    return float(found[0]) * 1024 if found else 0.0


# All of them


def run_step(name: str, folder: Path) -> Figures:
    """One of `STEPS` in a process of its own, on ``folder/raws`` and ``folder/data.zarr``."""
    command = [sys.executable, "-m", "benchmarks.growth", "--step", name, "--folder", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    figures: Figures = json.loads(done.stdout)
    return figures


def measure(folder: Path, count: int, with_worker: bool) -> dict[str, Figures]:
    """Every step at one count."""
    began = time.perf_counter()
    write_many_raws(folder / "raws", count)
    results = {}
    for name in STEPS:
        if name != "ingest, 1 worker" or with_worker:
            results[name] = run_step(name, folder)
    print(f"{count:,} samples: {time.perf_counter() - began:.0f} s", flush=True)
    return results


def exponent(counts: Sequence[int], values: Sequence[float]) -> float:
    """k of value ~ count^k between the last two counts; nan where it cannot be told."""
    if len(values) < 2 or min(values[-2:]) <= 0:
        return math.nan
    return math.log(values[-1] / values[-2]) / math.log(counts[-1] / counts[-2])


def projected(counts: Sequence[int], values: Sequence[float], count: int) -> float:
    """The value at another count: see the module's text."""
    power = exponent(counts, values)
    if power > 1.1 and count > counts[-1]:
        return values[-1] * float((count / counts[-1]) ** power)
    upper = next((n for n, at in enumerate(counts) if at >= count and n), len(counts) - 1)
    slope = (values[upper] - values[upper - 1]) / (counts[upper] - counts[upper - 1])
    return values[upper] + max(0.0, slope) * (count - counts[upper])


def summarise(counts: Sequence[int], results: Sequence[dict[str, Figures]]) -> list[dict[str, Any]]:
    """One row a figure: its values, their growth, and what they come to."""
    rows = []
    for step in STEPS:
        held = [(n, found[step]) for n, found in zip(counts, results, strict=True) if step in found]
        if len(held) < 2:
            continue
        mine = [count for count, _ in held]
        for name in held[0][1]:
            values = [figures[name] for _, figures in held]
            rows.append(
                {
                    "step": step,
                    "figure": name,
                    "counts": mine,
                    "values": values,
                    "per_sample": (values[-1] - values[-2]) / (mine[-1] - mine[-2]),
                    "k": exponent(mine, values),
                    "at_7219": projected(mine, values, REAL_SET),
                    "at_1e6": projected(mine, values, MILLION),
                }
            )
    return rows


def show(counts: Sequence[int], rows: Sequence[dict[str, Any]]) -> None:
    """The table: seconds and megabytes, and microseconds and bytes a sample."""
    heads = "".join(f"{count:>10,}" for count in counts)
    print(f"\n{'':44}{heads}{'a sample':>12}{'k':>6}{REAL_SET:>10,}{MILLION:>12,}")
    for row in rows:
        bytes_ = row["figure"].endswith("bytes")
        scale, each = (1e-6, 1.0) if bytes_ else (1.0, 1e6)
        unit, small = ("MB", "B") if bytes_ else ("s", "us")
        values = dict(zip(row["counts"], row["values"], strict=True))
        cells = "".join(
            f"{values[count] * scale:>10.2f}" if count in values else f"{'':>10}"
            for count in counts
        )
        name = f"{row['step']}: {row['figure'].replace('_', ' ')}, {unit}"
        print(
            f"{name:44}{cells}{row['per_sample'] * each:>9.1f} {small:2}{row['k']:>6.2f}"
            f"{row['at_7219'] * scale:>10.2f}{row['at_1e6'] * scale:>12.0f}"
        )


def main() -> None:
    """Run and print, or one step as its own child process does."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--counts", default=",".join(map(str, COUNTS)))
    parser.add_argument("--folder", type=Path, help="work below this folder (default: temporary)")
    parser.add_argument("--json", type=Path, help="also write the results here")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(STEPS[options.step](options.folder)))
        return
    counts = sorted(int(count) for count in options.counts.split(","))
    facts = machine_facts((*PACKAGES, "torch", "pydantic", "distributed"))
    print(f"{facts['cpu']}, {facts['cores']} cores, load {facts['load']}, Python {facts['python']}")
    print(", ".join(f"{name} {number}" for name, number in facts["versions"].items()))
    results = []
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="benchmark-growth-", dir=options.folder) as name:
            with_worker = count <= LARGEST_WITH_WORKER
            results.append(measure(Path(name), count, with_worker))
    rows = summarise(counts, results)
    show(counts, rows)
    if options.json is not None:
        load = round(os.getloadavg()[0], 2)
        write_json(options.json, {"machine": facts, "load_at_end": load, "rows": rows})


if __name__ == "__main__":
    main()
