"""How the cost of an ingest grows: with workers, with images, with megapixels.

    python -m benchmarks.scaling [--rounds R] [--only workers,images,megapixels] [--json FILE]

Whole commands in processes of their own, start-up and all. One night raw of each size is drawn and
given many names by hard links: nothing is cached between images but the file itself, which a real
run would find in the page cache or not at all.

- workers: `prep ingest` of full-size ARW2 raws with 0, 1, 2 and 4 workers, for a few and for many
  images; the difference of the two is what an image costs once the workers are there.
- images: 10, 100 and 1,000 raws of 2 megapixels with two workers.
- megapixels: one raw of 2 to 45 megapixels in a fresh process: CPU time and peak memory.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.ingest import ALLOCATORS, KEPT, in_fresh_process, plan_samples
from benchmarks.kit.machine import machine_facts, write_json
from benchmarks.kit.night_raws import ARW2, RawFormat, write_night_raws
from pipeline.store.local.files import LocalFiles

WORKERS = (0, 1, 2, 4)
FEW, MANY = 10, 60
IMAGES = (10, 100, 1000)
#: (width, height) of the camera's frame by megapixels.
FRAMES = {
    2: (1728, 1152),
    6: (3008, 2000),
    12: (4256, 2832),
    20: (5472, 3648),
    33: (7008, 4672),
    45: (8256, 5504),
}


def frame_of(megapixels: int) -> RawFormat:
    """An ARW2 format with a frame of that size."""
    width, height = FRAMES[megapixels]
    return replace(
        ARW2,
        name=f"ARW2 {megapixels} MP",
        shape=(height + 24, width + 32),
        crop=(12, 12, width, height),
    )


def linked(raw: Path, folder: Path, count: int) -> Path:
    """`count` names for one raw, in a new folder."""
    folder.mkdir()
    for number in range(count):
        os.link(raw, folder / f"DSC{number:05d}{raw.suffix}")
    return folder


def ingest(raws: Path, workers: int) -> dict[str, float]:
    """Wall and CPU seconds of one `prep ingest` into a new store."""
    store = raws.parent / "data.zarr"
    command = [sys.executable, "-m", "cli", "ingest", str(raws), "--store", str(store)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    subprocess.run(
        [*command, "--workers", str(workers)],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    shutil.rmtree(store)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": wall, "cpu_s": cpu}


def medians(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Median of each figure."""
    return {name: round(statistics.median(row[name] for row in rows), 3) for name in rows[0]}


def measure_workers(folder: Path, rounds: int) -> dict[str, Any]:
    """Wall time by number of workers, runs in turn."""
    [raw] = write_night_raws(folder, [frame_of(20)], images=1)["ARW2 20 MP"]
    sets = {count: linked(raw, folder / f"{count}", count) for count in (FEW, MANY)}
    taken: dict[tuple[int, int], list[dict[str, float]]] = {}
    for number in range(rounds):
        for workers in WORKERS if number % 2 else reversed(WORKERS):
            for count, raws in sets.items():
                taken.setdefault((workers, count), []).append(ingest(raws, workers))
    print(
        f"\nworkers: {MANY} ARW2 of 20 megapixels, whole command; an image behind the first {FEW}"
    )
    result = {}
    for workers in WORKERS:
        many = medians(taken[workers, MANY])
        each = [
            (m["wall_s"] - f["wall_s"]) / (MANY - FEW)
            for m, f in zip(taken[workers, MANY], taken[workers, FEW], strict=True)
        ]
        one = result[str(workers)] = many | {"ms_an_image": round(1e3 * statistics.median(each), 1)}
        print(
            f"  {workers} workers {one['wall_s']:7.2f} s wall {one['cpu_s']:7.2f} s CPU"
            f" {one['ms_an_image']:7.1f} ms an image"
        )
    first, second = result["1"], result["2"]
    speedup = {name: round(first[name] / second[name], 2) for name in ("wall_s", "ms_an_image")}
    print(
        f"  2 workers over 1: {speedup['wall_s']:.2f} x the whole command, "
        f"{speedup['ms_an_image']:.2f} x an image"
    )
    return {"runs": result, "two_over_one": speedup}


def measure_images(folder: Path) -> dict[str, Any]:
    """Wall and CPU time by number of images."""
    [raw] = write_night_raws(folder, [frame_of(2)], images=1)["ARW2 2 MP"]
    print("\nimages: ARW2 of 2 megapixels, 2 workers, whole command")
    result = {}
    for count in IMAGES:
        one = result[str(count)] = ingest(linked(raw, folder / f"{count}", count), 2)
        print(f"  {count:5d} {one['wall_s']:7.2f} s wall {one['cpu_s']:7.2f} s CPU")
    return result


def measure_megapixels(folder: Path) -> dict[str, Any]:
    """CPU time and peak memory of one image by its size."""
    print("\nmegapixels: one ARW2 image in a fresh process")
    result = {}
    for megapixels in FRAMES:
        raws = folder / f"{megapixels}"
        raws.mkdir()
        [raw] = write_night_raws(raws, [frame_of(megapixels)], images=1)[f"ARW2 {megapixels} MP"]
        store = folder / "store"
        with LocalFiles(store).lock() as lease:
            sample = plan_samples(raws, store, lease)[raw.name]
            figures = in_fresh_process(sample, ALLOCATORS[KEPT])
        milliseconds = 1e3 * statistics.median(figures["seconds"])
        result[str(megapixels)] = {"cpu_ms": round(milliseconds, 1), "peak_mb": figures["peak_mb"]}
        print(
            f"  {megapixels:3d} MP {milliseconds:7.1f} ms CPU"
            f" ({milliseconds / megapixels:5.2f} a megapixel), peak {figures['peak_mb']:.0f} MB"
        )
    return result


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=3, help="of the workers table")
    parser.add_argument("--only", default="workers,images,megapixels")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    document: dict[str, Any] = {"machine": (facts := machine_facts())}
    print(f"{facts['cpu']}, {facts['cores']} cores, load {facts['load']}, Python {facts['python']}")
    tables = {
        "workers": lambda folder: measure_workers(folder, options.rounds),
        "images": measure_images,
        "megapixels": measure_megapixels,
    }
    for name in options.only.split(","):
        with tempfile.TemporaryDirectory(prefix="benchmark-scaling-") as folder:
            document[name] = tables[name](Path(folder))
    if options.json:
        write_json(options.json, document)


if __name__ == "__main__":
    main()
