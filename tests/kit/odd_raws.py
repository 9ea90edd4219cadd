"""Raws whose image data are in any TIFF code, as they are met and not decoded here."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipeline.sample_set import NIKON_D750, DngFile
from pipeline.sample_set.formats.camera_file import first_directory, raw_directory
from pipeline.sample_set.formats.dng import _camera_entries, _level_entries
from pipeline.sample_set.formats.tiff_writer import (
    Directory,
    Field,
    short_field,
    tiff_bytes,
    undefined_field,
)
from tests.kit.raw_files import SHAPE, Mosaic

#: Tag 0x0153, SampleFormat, for floating point.
FLOATS: Mapping[int, Field] = {0x0153: short_field(3)}

_NOTHING: Mapping[int, Field] = {}


def coded_dng(
    data: bytes,
    code: int,
    *,
    bits: int = 16,
    extra: Mapping[int, Field] = _NOTHING,
    shape: tuple[int, int] = SHAPE,
) -> bytes:
    """A DNG of a camera that LibRaw knows, with image data of a TIFF compression."""
    entries = raw_directory(shape, data, cfa="RGGB", bits=bits, compression=code)
    camera = DngFile(model="NIKON D750")
    entries |= _camera_entries(camera) | _level_entries(camera, 2) | dict(extra)
    return tiff_bytes(Directory(entries), byte_order="<")


def nikon_of(number: int, *, code: int = 34713) -> bytes:
    """A NEF whose maker note gives its compression a number; the image data are noise."""
    note = tiff_bytes(
        Directory({0x0001: undefined_field(b"0211"), 0x0093: short_field(number)}), byte_order="<"
    )
    data = np.random.default_rng(number).bytes(SHAPE[0] * SHAPE[1])
    raw = Directory(raw_directory(SHAPE, data, cfa="RGGB", bits=14, compression=code))
    camera = first_directory(NIKON_D750, raw, b"Nikon\0\x02\x10\0\0" + note)
    return tiff_bytes(camera, byte_order="<")


def plain_tiff(mosaic: Mosaic) -> bytes:
    """A TIFF picture of 16-bit RGB, without the name of a camera."""
    data = np.dstack([mosaic] * 3).astype("<u2").tobytes()
    entries = raw_directory(mosaic.shape, data, cfa="RGGB", bits=16, compression=1)
    del entries[0x828D], entries[0x828E]
    entries |= {
        0x0102: short_field(16, 16, 16),
        0x0106: short_field(2),
        0x0115: short_field(3),
    }
    return tiff_bytes(Directory(entries), byte_order="<")
