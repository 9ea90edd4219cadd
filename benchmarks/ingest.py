"""CPU time an image of ingest, beside LibRaw's decoding alone.

    python -m benchmarks.ingest [--images N] [--repeats R] [--real FILE]... [--json FILE]

Writes full-size night raws (`kit.night_raws`) to a temporary folder, puts real raws beside them
(those in ``real-raws`` of the folder $GENISP_SHARED, and those named), and measures, in turn,
in one process with a worker's memory: rawpy's open and unpack alone; the whole path of one image
(`worker.develop_source`: read, checksum, decode, both levels, lz4, durable put, sidecar) with the
fast decoders, with them cross-checked against LibRaw, and with LibRaw; the same path by stage; and,
in fresh processes, the peak memory of one image and what the allocator's settings cost. Also which
share of the bytes of plain uint16 each level takes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pickle
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import rawpy

from benchmarks.kit.machine import (
    cpu_seconds,
    in_turn,
    machine_facts,
    peak_memory,
    summary,
    write_json,
)
from benchmarks.kit.night_raws import FORMATS, HIGHEST_SIGNAL, ISO, LOWEST_SIGNAL, write_night_raws
from benchmarks.kit.stages import STAGES, stage_clock
from pipeline.ingest import worker
from pipeline.ingest.placement import place
from pipeline.ingest.store_state import StoreState
from pipeline.ingest.survey import Item
from pipeline.ingest.tasks import Destination, ProbeTask, SampleTask
from pipeline.ingest.worker import probe_source
from pipeline.raw.cross_check import SAMPLE_EVERY, Decision
from pipeline.raw.decoders.table import fast_decoders
from pipeline.runtime.dask_cluster import KEPT_MEMORY
from pipeline.sources.discover import discover
from pipeline.store.local.files import LocalFiles
from schemas.recipe import Recipe
from schemas.sidecar import Sidecar

LIBRAW_ALONE = "LibRaw open + unpack"
FAST = "ingest, fast decoder"
CHECKED = "ingest, fast and cross-checked"
SAMPLED = f"ingest, default (1 in {SAMPLE_EVERY} cross-checked)"
LIBRAW = "ingest, LibRaw"
IMAGES_A_PROCESS = 6

KEPT = "memory kept"

#: Settings of glibc's allocator: its own; what distributed sets for its workers unless told
#: otherwise (distributed.yaml); and that of our workers.
ALLOCATORS: dict[str, dict[str, str]] = {
    "glibc default": {},
    "Dask's default": {"MALLOC_TRIM_THRESHOLD_": "65536"},
    KEPT: {name: str(number) for name, number in KEPT_MEMORY.items()},
}


def main() -> None:
    """Run the benchmark, or one image as its own child process does."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingest", description=__doc__)
    parser.add_argument("--images", type=int, default=3, help="raws of each format (default 3)")
    parser.add_argument("--repeats", type=int, default=7, help="rounds over all (default 7)")
    parser.add_argument("--json", type=Path, help="also write the results here")
    parser.add_argument("--real", type=Path, action="append", help="a real raw, too; repeatable")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(_in_this_process(options.one)))
        return
    _as_a_worker()
    facts = machine_facts()
    print(f"{facts['cpu']}, {facts['cores']} cores, load {facts['load']}, Python {facts['python']}")
    print(", ".join(f"{name} {number}" for name, number in facts["versions"].items()))
    with tempfile.TemporaryDirectory(prefix="benchmark-ingest-") as folder:
        real = [*_shared_raws(), *(options.real or ())]
        formats = _measure_all(Path(folder), real, images=options.images, rounds=options.repeats)
    if options.json is not None:
        recipe = Recipe().describe()
        scene = f"street by night, mean {LOWEST_SIGNAL:g} to {HIGHEST_SIGNAL:g} DN, ISO {ISO}"
        write_json(
            options.json,
            {"machine": facts, "recipe": recipe, "raws": scene, "formats": formats},
        )


def _as_a_worker() -> None:
    """Start again with a worker's memory, unless this process has it.

    With glibc's own settings it is chance, and the same chance in every run of the same code,
    whether 40 MB are mapped anew for every image: 10,000 page faults, also for LibRaw alone.
    """
    if not ALLOCATORS[KEPT].items() <= os.environ.items():
        again = [sys.executable, "-m", "benchmarks.ingest", *sys.argv[1:]]
        os.execve(sys.executable, again, {**os.environ, **ALLOCATORS[KEPT]})


def _shared_raws() -> list[Path]:
    """Real raws of a camera's full size, where a folder of shared material is named."""
    shared = os.environ.get("GENISP_SHARED")
    return [] if shared is None else sorted((Path(shared) / "real-raws").glob("*.ARW"))


def _measure_all(folder: Path, real: Sequence[Path], *, images: int, rounds: int) -> dict[str, Any]:
    raws, store = folder / "raws", folder / "store"
    raws.mkdir()
    written = dict(write_night_raws(raws, FORMATS, images=images))
    for path in real:
        written[f"real: {path.name}"] = [Path(shutil.copy(path, raws))]
    results = {}
    with LocalFiles(store).lock() as lease:
        samples = plan_samples(raws, store, lease)
        for name, paths in written.items():
            mine = [samples[path.name] for path in paths]
            results[name] = _measure(mine, paths, rounds=rounds)
            _show(name, results[name])
    return results


def plan_samples(raws: Path, store: Path, lease: str) -> dict[str, SampleTask]:
    """The task of each raw in a folder, as an ingest that holds the lease plans it, by name."""
    recipe = Recipe()
    items = [Item(source, "new") for source in discover([str(raws)]).raws]
    probed = [(item, probe_source(ProbeTask(item.source))) for item in items]
    placement = place(probed, StoreState(), recipe, strict=False)
    if placement.refused:
        raise SystemExit(f"cannot ingest its own raws: {placement.refused[0][1].reason}")
    destination = Destination(LocalFiles(store), lease, recipe)
    return {
        one.raw.source.name: SampleTask(
            one,
            destination,
            placement.groups[one.raw.group].fixed_point,
            Decision(one.raw.decoder_class, fast_decoders()[0].name, compare=False),
        )
        for one in placement.placed
    }


def cross_checked(task: SampleTask) -> SampleTask:
    """The same task with the decoders compared."""
    return replace(task, decision=replace(task.decision, compare=True))


def _by_libraw(task: SampleTask) -> SampleTask:
    return replace(task, decision=replace(task.decision, decoder="libraw"))


def _measure(samples: Sequence[SampleTask], paths: Sequence[Path], *, rounds: int) -> Any:
    taken: dict[str, list[float]] = {}
    for sample, path in zip(samples, paths, strict=True):
        contenders: dict[str, Callable[[], object]] = {
            LIBRAW_ALONE: lambda path=path: _unpack(path),  # type: ignore[misc]
            FAST: _ingest(sample),
            CHECKED: _ingest(cross_checked(sample)),
            LIBRAW: _ingest(_by_libraw(sample)),
        }
        for name, seconds in in_turn(contenders, rounds=rounds).items():
            taken.setdefault(name, []).extend(seconds)
    checks = zip(taken[FAST], taken[CHECKED], strict=True)
    taken[SAMPLED] = [fast + (checked - fast) / SAMPLE_EVERY for fast, checked in checks]
    order = (LIBRAW_ALONE, FAST, SAMPLED, LIBRAW, CHECKED)
    return {
        "cpu": {
            name: summary(taken[name]) | _compared(taken[name], taken[LIBRAW_ALONE])
            for name in order
        },
        "share_of_uint16": _shares(samples),
        "stages": _stages(samples, rounds=rounds),
        "process": _in_processes(samples[-1], rounds=2),
    }


def _compared(seconds: Sequence[float], decoding: Sequence[float]) -> dict[str, float]:
    """Ratio to decoding alone: the median over rounds, and that of the minima."""
    ratios = [mine / its for mine, its in zip(seconds, decoding, strict=True)]
    return {
        "to_libraw": round(statistics.median(ratios), 3),
        "to_libraw_min": round(min(seconds) / min(decoding), 3),
    }


def _unpack(path: Path) -> None:
    with rawpy.imread(str(path)) as raw:
        raw.unpack()


def _ingest(sample: SampleTask) -> Callable[[], object]:
    def run() -> None:
        _succeed(sample)

    return run


def _succeed(sample: SampleTask) -> Sidecar:
    outcome = worker.develop_source(sample)
    if outcome.sidecar is None:
        raise SystemExit(f"{sample.source.name}: {outcome.failure or outcome.store_error}")
    return outcome.sidecar


def _shares(samples: Sequence[SampleTask]) -> dict[str, float]:
    """Bytes of each level's chunks over those of the same numbers as plain uint16."""
    sidecars = [_succeed(sample) for sample in samples]
    return {
        name: round(
            sum(sidecar.levels[name].nbytes for sidecar in sidecars)
            / sum(2 * math.prod(sidecar.levels[name].shape) for sidecar in sidecars),
            4,
        )
        for name in sidecars[0].levels
    }


def _stages(samples: Sequence[SampleTask], *, rounds: int) -> dict[str, Any]:
    taken: dict[str, list[float]] = {stage: [] for stage in STAGES}
    for _ in range(rounds):
        for sample in samples:
            with stage_clock() as clock:
                _succeed(sample)
            for stage, seconds in clock.seconds.items():
                taken[stage].append(seconds)
    return {stage: summary(seconds) for stage, seconds in taken.items()}


def _in_processes(sample: SampleTask, *, rounds: int) -> dict[str, Any]:
    """Peak memory of one image in a fresh process, and CPU by setting of its allocator."""
    found: dict[str, list[Any]] = {name: [] for name in ALLOCATORS}
    for _ in range(rounds):
        for name, environment in ALLOCATORS.items():
            found[name].append(in_fresh_process(sample, environment))
    return {name: _joined(runs) for name, runs in found.items()}


def _joined(runs: Sequence[Any]) -> dict[str, float]:
    return {
        "imported_mb": max(run["imported_mb"] for run in runs),
        "peak_mb": max(run["peak_mb"] for run in runs),
        "faults": statistics.median(run["faults"] for run in runs),
        **summary([seconds for run in runs for seconds in run["seconds"]]),
    }


def in_fresh_process(sample: SampleTask, environment: dict[str, str]) -> Any:
    """Seconds of some images, peak memory and page faults, in a process of its own."""
    kept = {name: value for name, value in os.environ.items() if "MALLOC_" not in name}
    with tempfile.TemporaryDirectory() as folder:
        task = Path(folder) / "task.pickle"
        task.write_bytes(pickle.dumps(sample))
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.ingest", "--one", str(task)],
            env=kept | environment,
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
    return json.loads(done.stdout)


def _in_this_process(task: Path) -> dict[str, Any]:
    sample = pickle.loads(task.read_bytes())
    imported = peak_memory()
    _succeed(sample)
    peak = peak_memory()
    _succeed(sample)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    seconds = [cpu_seconds(_ingest(sample)) for _ in range(IMAGES_A_PROCESS)]
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return {
        "imported_mb": round(imported / 1e6, 1),
        "peak_mb": round(peak / 1e6, 1),
        "faults": round(faults / IMAGES_A_PROCESS),
        "seconds": seconds,
    }


def _show(name: str, result: Any) -> None:
    print(f"\n{name}")
    for contender, figures in result["cpu"].items():
        print(
            f"  {contender:45s} {figures['median_ms']:7.1f} ms  (min {figures['min_ms']:6.1f})"
            f"  {figures['to_libraw']:5.2f} x LibRaw ({figures['to_libraw_min']:.2f})"
        )
    shares = ", ".join(f"{name} {share:.1%}" for name, share in result["share_of_uint16"].items())
    print(f"  bytes over those of plain uint16: {shares}")
    print("  by stage, fast decoder:")
    for stage, figures in result["stages"].items():
        print(f"    {stage:43s} {figures['median_ms']:7.1f} ms  (min {figures['min_ms']:6.1f})")
    for setting, figures in result["process"].items():
        print(
            f"  fresh process, {setting:15s} {figures['median_ms']:7.1f} ms"
            f"  (min {figures['min_ms']:6.1f})  {figures['faults']:.0f} page faults an image,"
            f" peak {figures['peak_mb']:.0f} MB (imports alone {figures['imported_mb']:.0f})"
        )


if __name__ == "__main__":
    main()
