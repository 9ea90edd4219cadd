"""CPU time an image of ingest, beside the way of the published reproduction report.

    python -m benchmarks.reproduction [--images N] [--rounds R] [--only TEXT] [--json FILE]

The report (DL-GenISP by Meijer, Uno and Sterns) gave up on XYZ and prepared its images with
``rawpy.postprocess(half_size=True, fbdd_noise_reduction=FBDDNoiseReductionMode.Full)``, everything
else as rawpy has it (daylight white balance, automatic brightness, sRGB, 8 bits), Pillow's
``resize((1333, 800))``, which stretches 3:2 to 5:3, and a PNG with Pillow's settings. That is done
here exactly; and once more with the aspect kept (1200x800), a tenth fewer pixels to compress.

The same full-size night raws (`kit.night_raws`) go through the whole path of one image of
ours (`worker.develop_source`): read, sha256, decode, level(s), lz4 and CRC-32C, durable writes,
sidecar. ``resized only`` stores what the report stored, one small image (but 16 bits, XYZ);
``default`` stores the full level as well, and decodes 1 in 50 images with LibRaw too.

CPU seconds (user + system, all threads), in turn, order reversed every round. Images/s a core is
their inverse; the ratio to the report's way is the median over rounds and images.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import rawpy
from PIL import Image

from benchmarks.ingest import cross_checked, plan_samples
from benchmarks.kit.machine import PACKAGES, in_turn, machine_facts, write_json
from benchmarks.kit.night_raws import ARW2, NEF_DX, RawFormat, write_night_raws
from pipeline.ingest import worker
from pipeline.ingest.tasks import Destination, SampleTask
from pipeline.raw.cross_check import SAMPLE_EVERY
from pipeline.store.local.files import LocalFiles
from schemas.recipe import Recipe

REPORT_SIZE = (1333, 800)  # width, height, whatever the aspect was
FORMATS = (ARW2, NEF_DX)

THEIRS = "reproduction report"
ASPECT_KEPT = "the same, aspect kept"
RENDERING = "of it, postprocess alone"
DEFAULT = f"ingest, default (1 in {SAMPLE_EVERY} cross-checked)"
CHECKED = "ingest, every image cross-checked"
RESIZED = "ingest, resized only"
FAST = "ingest, fast decoder only"


def postprocessed(raw_file: Path) -> Any:
    """The report's rendering: 8-bit sRGB, half size."""
    with rawpy.imread(str(raw_file)) as raw:
        full = rawpy.FBDDNoiseReductionMode.Full
        return raw.postprocess(half_size=True, fbdd_noise_reduction=full)


def reproduce(raw_file: Path, png: Path, *, keep_aspect: bool = False) -> None:
    """The report's way from a raw to an image that a detector reads."""
    image = Image.fromarray(postprocessed(raw_file))
    size = REPORT_SIZE
    if keep_aspect:
        scale = min(REPORT_SIZE[0] / image.width, REPORT_SIZE[1] / image.height)
        size = (round(scale * image.width), round(scale * image.height))
    image.resize(size).save(png, format="png")


def ingested(sample: SampleTask) -> Callable[[], None]:
    """One image of ours, from the raw to its sidecar."""

    def run() -> None:
        outcome = worker.develop_source(sample)
        if outcome.sidecar is None:
            raise SystemExit(f"{sample.source.name}: {outcome.failure or outcome.store_error}")

    return run


def measure(
    raw_file: Path, sample: SampleTask, small: SampleTask, rounds: int
) -> dict[str, list[float]]:
    """CPU seconds of one raw, by contender and round."""
    png = raw_file.with_suffix(".png")
    taken = in_turn(
        {
            THEIRS: lambda: reproduce(raw_file, png),
            ASPECT_KEPT: lambda: reproduce(raw_file, png, keep_aspect=True),
            RENDERING: lambda: postprocessed(raw_file),
            FAST: ingested(sample),
            CHECKED: ingested(cross_checked(sample)),
            RESIZED: ingested(small),
        },
        rounds=rounds,
    )
    pairs = zip(taken[FAST], taken[CHECKED], strict=True)
    taken[DEFAULT] = [fast + (checked - fast) / SAMPLE_EVERY for fast, checked in pairs]
    return taken


def compared(taken: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Milliseconds, images a second and ratio of each contender."""
    order = (THEIRS, ASPECT_KEPT, RENDERING, DEFAULT, FAST, CHECKED, RESIZED)
    return {
        name: {
            "cpu_ms": round(1e3 * statistics.median(taken[name]), 1),
            "cpu_ms_min": round(1e3 * min(taken[name]), 1),
            "images_per_s_a_core": round(1 / statistics.median(taken[name]), 2),
            "times_as_fast": round(
                statistics.median(
                    theirs / own for theirs, own in zip(taken[THEIRS], taken[name], strict=True)
                ),
                2,
            ),
        }
        for name in order
    }


def measure_format(kind: RawFormat, folder: Path, images: int, rounds: int) -> Any:
    """Draw raws of one kind and measure them."""
    raws = folder / "raws"
    raws.mkdir(parents=True)
    paths: Sequence[Path] = write_night_raws(raws, [kind], images=images)[kind.name]
    store, small_store = folder / "store", folder / "small"
    taken: dict[str, list[float]] = {}
    with LocalFiles(store).lock() as lease, LocalFiles(small_store).lock() as small_lease:
        samples = plan_samples(raws, store, lease)
        for path in paths:
            sample = samples[path.name]
            resized = Recipe(levels=("resized",))
            destination = Destination(LocalFiles(small_store), small_lease, resized)
            small = replace(sample, destination=destination)
            for name, seconds in measure(path, sample, small, rounds).items():
                taken.setdefault(name, []).extend(seconds)
    return compared(taken)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reproduction", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--images", type=int, default=2, help="raws of each format (default 2)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds over all (default 5)")
    parser.add_argument("--only", default="", help="formats whose name contains this")
    parser.add_argument("--json", type=Path, help="also write the results here")
    options = parser.parse_args()
    facts = machine_facts((*PACKAGES, "pillow"))
    print(f"{facts['cpu']}, {facts['cores']} cores, load {facts['load']}, Python {facts['python']}")
    print(", ".join(f"{name} {number}" for name, number in facts["versions"].items()))
    results = {}
    for kind in FORMATS:
        if options.only not in kind.name:
            continue
        with tempfile.TemporaryDirectory(prefix="benchmark-reproduction-") as folder:
            result = measure_format(kind, Path(folder), options.images, options.rounds)
        results[kind.name] = result
        print(f"\n{kind.name}, {options.images} images, {options.rounds} rounds")
        for name, figures in result.items():
            print(
                f"  {name:40}{figures['cpu_ms']:8.1f} ms (min {figures['cpu_ms_min']:7.1f})"
                f"{figures['images_per_s_a_core']:8.2f} images/s a core"
                f"{figures['times_as_fast']:7.2f} x",
                flush=True,
            )
    if options.json:
        write_json(options.json, {"machine": facts, "formats": results})


if __name__ == "__main__":
    main()
