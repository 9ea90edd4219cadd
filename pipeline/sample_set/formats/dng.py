"""A plain, uncompressed DNG: any 2x2 or 6x6 filter, margins, or no filter at all.

The sample set itself holds no DNG. Tests use these for what the two cameras cannot show:
margins, large black patterns, and the kinds of raw that must be refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import UsageError
from pipeline.sample_set.formats.camera_file import raw_directory
from pipeline.sample_set.formats.tiff_writer import (
    ByteOrder,
    Directory,
    Field,
    Strip,
    ascii_field,
    byte_field,
    long_field,
    rational_field,
    short_field,
    signed_rational_field,
    tiff_bytes,
)

# Fujifilm's 6x6 filter, in reading order.
X_TRANS = "GBGGRGRGRBGBGBGGRGGRGGBGBGBRGRGRGGBG"

_PHOTOMETRIC_LINEAR = 34892
_ILLUMINANT_A, _ILLUMINANT_D65 = 17, 21


@dataclass(frozen=True)
class DngFile:
    """What a DNG says besides its pixels; change fields with `dataclasses.replace`.

    Parameters
    ----------
    model
        UniqueCameraModel and Model. For a model it knows, LibRaw uses its own tables instead
        of the file's values.
    cfa
        4 or 36 letters in reading order from the top-left of the *active area* (so says DNG);
        None: no filter, i.e. monochrome (2-D pixels) or linear RGB (3-D pixels).
    active_area
        top, left, bottom, right in full-sensor pixels, half-open; None: everything.
    default_crop
        x, y, width, height relative to the active area; None: not written.
    black
        Repeating pattern of levels, rows of columns, anchored at the active area.
    white
        White level.
    color_matrix
        XYZ -> camera, row by row, written for illuminants A and D65; None: not written. LibRaw
        answers `rgb_xyz_matrix` from its own table by model, zeros for one it does not know;
        what the file says only shows in `color_matrix`.
    neutral
        AsShotNeutral: the camera's response to white, largest 1.
    orientation
        EXIF orientation 1..8.
    byte_order
        ``"<"`` or ``">"``.
    make
        Make; None: the first word of `model`.
    tags
        More tags of the one directory, and others instead of the above; None leaves one out.
    """

    model: str = "Synthetic DNG"
    cfa: str | None = "RGGB"
    active_area: tuple[int, int, int, int] | None = None
    default_crop: tuple[int, int, int, int] | None = None
    black: tuple[tuple[int, ...], ...] = ((512, 512), (512, 512))
    white: int = 16383
    color_matrix: tuple[float, ...] | None = (
        *(0.9020, -0.2890, -0.0715),
        *(-0.4535, 1.2436, 0.2348),
        *(-0.0934, 0.1919, 0.7086),
    )
    neutral: tuple[float, float, float] = (0.5, 1.0, 0.75)
    orientation: int = 1
    byte_order: ByteOrder = "<"
    make: str | None = None
    tags: Mapping[int, Field | None] = field(default_factory=dict)


def write_dng(path: Path, pixels: npt.NDArray[np.uint16], *, dng: DngFile | None = None) -> None:
    """Write a DNG; see `dng_bytes`."""
    path.write_bytes(dng_bytes(pixels, dng=dng))


def dng_bytes(pixels: npt.NDArray[np.uint16], *, dng: DngFile | None = None) -> bytes:
    """A DNG as bytes; decoders return the pixels exactly.

    Parameters
    ----------
    pixels
        uint16. (H, W) mosaic or monochrome, full sensor area; (H, W, 3) linear RGB.
    dng
        Everything else the file says; None: the defaults of `DngFile`.
    """
    dng = dng or DngFile()
    if pixels.dtype != np.uint16 or pixels.ndim not in (2, 3):
        raise UsageError(f"DNG pixels are uint16, 2-D or 3-D, these are {pixels.dtype}")
    if pixels.ndim == 3 and dng.cfa is not None:
        raise UsageError("linear RGB has no filter array; pass cfa=None")
    height, width = pixels.shape[:2]
    data = pixels.astype(f"{dng.byte_order}u2").tobytes()
    entries = raw_directory((height, width), data, cfa=dng.cfa or "RGGB", bits=16, compression=1)
    if dng.cfa is None:
        samples = 1 if pixels.ndim == 2 else pixels.shape[2]
        entries |= {0x0102: short_field(*[16] * samples), 0x0115: short_field(samples)}
        entries[0x0106] = short_field(_PHOTOMETRIC_LINEAR)
        del entries[0x828D], entries[0x828E]
    entries |= _camera_entries(dng) | _level_entries(dng, pixels.ndim)
    for tag, value in dng.tags.items():
        entries.pop(tag, None)
        if value is not None:
            entries[tag] = value
    return tiff_bytes(Directory(entries), byte_order=dng.byte_order)


def _camera_entries(dng: DngFile) -> dict[int, Field | Directory | Strip]:
    entries: dict[int, Field | Directory | Strip] = {
        0x010F: ascii_field(dng.make or dng.model.split()[0]),
        0x0110: ascii_field(dng.model),
        0x0112: short_field(dng.orientation),
        0xC612: byte_field(bytes([1, 4, 0, 0])),  # DNGVersion
        0xC613: byte_field(bytes([1, 4, 0, 0])),  # DNGBackwardVersion
        0xC614: ascii_field(dng.model),
        0xC65A: short_field(_ILLUMINANT_A),
        0xC65B: short_field(_ILLUMINANT_D65),
    }
    if dng.color_matrix is not None:
        # LibRaw takes a matrix from a DNG only when both illuminants have one (0.22).
        entries[0xC621] = signed_rational_field(*dng.color_matrix)
        entries[0xC622] = signed_rational_field(*dng.color_matrix)
        entries[0xC628] = rational_field(*dng.neutral)
    return entries


def _level_entries(dng: DngFile, dimensions: int) -> dict[int, Field | Directory | Strip]:
    planes = 3 if dimensions == 3 else 1
    levels = [level for row in dng.black for level in row for _ in range(planes)]
    entries: dict[int, Field | Directory | Strip] = {
        0xC619: short_field(len(dng.black), len(dng.black[0])),
        0xC61A: long_field(*levels),
        0xC61D: long_field(*[dng.white] * planes),
    }
    if dng.active_area is not None:
        entries[0xC68D] = long_field(*dng.active_area)
    if dng.default_crop is not None:
        x, y, width, height = dng.default_crop
        entries[0xC61F] = long_field(x, y)
        entries[0xC620] = long_field(width, height)
    return entries
