"""What augmentation costs the streaming loader on a CPU, beside the loader without it.

    OMP_NUM_THREADS=1 python -m benchmarks.augmentation [--rounds R] [--images N]

The resized level of full-size night raws (`kit.night_raws`), batches of 2, two decode threads,
mirrored with a chance of one half; nothing is done with a batch but dropping it. Everything in one
process, one epoch a round, order reversed every round; ratios are medians of those within a round.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.kit.night_raws import night_store
from benchmarks.loader import BATCH, measure, repeated
from genisp_model.data import StoreDataset, StreamLoader
from genisp_model.data.scale_jitter import ScaleJitter
from genisp_model.data.sensor_augment import SensorAugment

SCALES = ScaleJitter(0.7, 2.0)
KINDS: dict[str, dict[str, Any]] = {
    "off": {},
    "--exposure-stops 2": {"sensor": SensorAugment(exposure_stops=2)},
    "--noise 0.001": {"sensor": SensorAugment(noise=0.001)},
    "--matrix-jitter 0.3": {"sensor": SensorAugment(matrix_jitter=0.3)},
    "--scale-jitter 0.7,2": {"scale_jitter": SCALES},
    "all": {"sensor": SensorAugment(2, 0.001, 0.3), "scale_jitter": SCALES},
}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=48)
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = night_store(Path(folder), images=2, levels=("resized",))
        store = repeated(made, Path(folder) / "many.zarr", "resized", told.images)
        dataset = StoreDataset(store)
        loaders = {
            name: StreamLoader(dataset, batch_size=BATCH, flip=0.5, **options)
            for name, options in KINDS.items()
        }
        epochs: dict[str, Callable[[], Iterable[Any]]] = {
            name: partial(iter, loader) for name, loader in loaders.items()
        }
        rows = measure(epochs, told.images, told.rounds)
    _, height, width = dataset.index.shape(0)
    print(f"{width}x{height}\n{'':22}{'images/s':>10}{'ratio':>8}{'CPU ms an image':>18}")
    for name in KINDS:
        rate = statistics.median(row[name]["images_per_s"] for row in rows)
        cpu = statistics.median(row[name]["cpu_ms"] for row in rows)
        ratio = statistics.median(
            row[name]["images_per_s"] / row["off"]["images_per_s"] for row in rows
        )
        print(f"{name:22}{rate:10.1f}{ratio:8.2f}{cpu:18.1f}")


if __name__ == "__main__":
    main()
