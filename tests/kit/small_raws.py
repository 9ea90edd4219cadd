"""Small raws that ingest in milliseconds: a dim scene with some structure, in two real formats."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.sample_set import NIKON_D750, SONY_RX100M7, write_arw, write_nef

#: Seconds since 1970. Sidecars record a source's time, so it must not vary; and sources that were
#: not just written are read without waiting.
LONG_AGO = 1_600_000_000

#: (width, height) of a frame that fits a chunk many times over.
SMALL_FRAME = (48, 32)


def write_small_raw(
    path: Path, rng: np.random.Generator, frame: tuple[int, int] = SMALL_FRAME
) -> None:
    """Write an uncompressed raw, an ARW or NEF by its suffix, and the folders above it.

    Parameters
    ----------
    path
        Ends in ``.NEF`` or ``.ARW``, in capitals or not. Its time is `LONG_AGO`.
    rng
        Its noise: 160 codes over a slope of 900 upwards, which Blosc compresses a little.
    frame
        (width, height) in pixels; the sensor around it is 32 pixels wider and 16 higher.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = frame[0] + 32, frame[1] + 16
    scene = 900 + 12 * np.arange(width) + 5 * np.arange(height)[:, None]
    mosaic = (scene + rng.integers(0, 160, (height, width))).astype(np.uint16)
    nikon = path.suffix.lower() == ".nef"
    camera = replace(NIKON_D750 if nikon else SONY_RX100M7, crop=(16, 8, *frame))
    write = write_nef if nikon else write_arw
    write(path, mosaic, camera=camera, compression="uncompressed")
    os.utime(path, (LONG_AGO, LONG_AGO))


def set_times(folder: Path, seconds: int = LONG_AGO) -> None:
    """Give every file below `folder` this time."""
    for path in folder.rglob("*.*"):
        os.utime(path, (seconds, seconds))
