"""Small raws of any camera, and annotation files of single images beside them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.sample_set import NIKON_D750, SONY_RX100M7, write_arw, write_nef
from pipeline.sample_set.formats.dng import DngFile, write_dng
from tests.kit.small_raws import LONG_AGO, SMALL_FRAME

#: The matrix of that camera in LibRaw's table, XYZ -> camera, row by row.
CANON_5D_MARK_IV = (
    *(0.6446, -0.0366, -0.0864),
    *(-0.4436, 1.2204, 0.2513),
    *(-0.0952, 0.2496, 0.6348),
)

#: Name, xmin, ymin, xmax, ymax as Pascal VOC writes them, and whether it is difficult.
VocObject = tuple[str, int, int, int, int, int]


def write_old(path: Path, data: bytes | str) -> Path:
    """A file that was not just written, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


def write_raw(path: Path, model: str, *, seed: int = 0) -> Path:
    """A raw of `SMALL_FRAME`, an ARW or NEF of that camera or a DNG, by its suffix.

    Its sensor is 96 pixels wide: ARW2 wants whole 32 columns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = SMALL_FRAME[0] + 48, SMALL_FRAME[1] + 16
    rng = np.random.default_rng([seed, *path.name.encode()])
    scene = 900 + 12 * np.arange(width) + 5 * np.arange(height)[:, None]
    mosaic = (scene + rng.integers(0, 160, (height, width))).astype(np.uint16)
    if path.suffix.lower() == ".dng":
        matrix = CANON_5D_MARK_IV if model == "Canon EOS 5D Mark IV" else DngFile().color_matrix
        crop = (16, 8, *SMALL_FRAME)
        write_dng(path, mosaic, dng=DngFile(model, color_matrix=matrix, default_crop=crop))
    elif path.suffix.lower() == ".nef":
        write_nef(path, mosaic, camera=replace(NIKON_D750, model=model, crop=(16, 8, *SMALL_FRAME)))
    else:
        camera = replace(SONY_RX100M7, model=model, crop=(16, 8, *SMALL_FRAME))
        write_arw(path, mosaic, camera=camera)
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


def voc_text(
    filename: str, objects: Sequence[VocObject] = (), size: tuple[int, int] = SMALL_FRAME
) -> str:
    """A Pascal VOC file."""
    shown = "".join(
        f"<object><name>{name}</name><pose>Unspecified</pose><truncated>0</truncated>"
        f"<difficult>{difficult}</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for name, x1, y1, x2, y2, difficult in objects
    )
    return (
        f"<annotation><folder>F</folder><filename>{filename}</filename><size>"
        f"<width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
        f"{shown}</annotation>"
    )
