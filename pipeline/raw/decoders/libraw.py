"""LibRaw through rawpy: the reference for geometry, pixels, levels and matrix."""

from __future__ import annotations

import ctypes
import importlib.metadata
import io
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import rawpy
from rawpy import _rawpy

from pipeline.errors import CorruptRawError, SourceError
from pipeline.raw.cfa import pattern_from_indices
from pipeline.raw.decoders.decoder import RawFile
from pipeline.raw.facts import (
    COPY_AGAIN,
    MAX_DIMENSION,
    MAX_SAMPLES,
    DecodedRaw,
    Geometry,
    Levels,
    as_shot_balance,
    matrix3,
)
from pipeline.raw.undecodable import other_sensor, undecodable
from schemas.sidecar import Matrix3, Rect

#: LibRaw's flip -> the EXIF orientation it was read from. Bits of the flip: 1 mirrors left and
#: right, 2 top and bottom, 4 swaps rows and columns.
_EXIF_ORIENTATION = {0: 1, 1: 2, 2: 4, 3: 3, 4: 5, 5: 8, 6: 6, 7: 7}

#: What LibRaw raises where memory cannot be had: because there is none, or too much was wanted.
_LACKING = (rawpy.LibRawUnsufficientMemoryError, rawpy.LibRawMemPoolOverflowError)

#: Bytes that decoding may take for each byte of a file; ARW2 has one for each sample.
_ROOM = 8

#: glibc's M_PERTURB: what to fill memory with that is allocated or freed; 0 for nothing.
_PERTURB = -6


def version() -> str:
    """Version of the library, and of the package that brings it."""
    package = importlib.metadata.version("rawpy")
    return f"{'.'.join(map(str, rawpy.libraw_version))} (rawpy {package})"


def geometry(data: bytes, *, path: str) -> Geometry:
    """Sizes, from the file or its beginning; nothing is decoded.

    Raises
    ------
    UnsupportedRawError, CorruptRawError
        If LibRaw does not know the file, or its sizes are not plausible.
    """
    with _open(data, path) as raw:
        return _checked_geometry(raw, path)


def can_decode(file: RawFile) -> bool:
    """Whether it may be asked: always, and what it refuses is refused."""
    return True


def decode(file: RawFile) -> DecodedRaw:
    """Decode a whole file.

    Raises
    ------
    UnsupportedRawError, CorruptRawError
        As `geometry` does, and on damage LibRaw notices.
    MemoryError
        If there is not enough of it.
    """
    raw = _open(file.data, file.path)
    _checked_geometry(raw, file.path)
    try:
        with _cleared_memory():
            raw.unpack()
    except rawpy.LibRawError as error:
        raise _refusal(error, file.data, file.path) from error
    levels = _levels(raw, file.path)
    return DecodedRaw(np.ascontiguousarray(raw.raw_image), levels, "libraw", raw)


def default_picture(data: bytes, *, path: str) -> npt.NDArray[np.uint8]:
    """What LibRaw makes of a raw by default, at half resolution, by the as-shot white balance.

    Everything else is dcraw's default: colours to sRGB, its gamma, brightened until one pixel in a
    hundred is white.

    Returns
    -------
    (ceil(height / 2), ceil(width / 2), 3) uint8 sRGB: one pixel for each 2x2 cell of the active
    area, not turned.

    Raises
    ------
    UnsupportedRawError, CorruptRawError, UnreadableSourceError
        As `decode` does.
    """
    raw: Any = decode(RawFile(data, path)).owner
    try:
        picture: npt.NDArray[np.uint8] = raw.postprocess(
            use_camera_wb=True, half_size=True, output_bps=8, user_flip=0
        )
    except rawpy.LibRawError as error:
        message = f"LibRaw cannot render it ({_text(error)})"
        raise CorruptRawError(message, path=path, mend=COPY_AGAIN) from error
    return picture


@cache
def table_matrix(make: str, model: str) -> Matrix3:
    """The matrix of LibRaw's table for a camera of which only the name is known.

    LibRaw is shown a DNG of 32x32 pixels of that camera: it takes matrices of DNGs from its table,
    too. 0.1 ms.

    Returns
    -------
    XYZ (D65) -> camera; zeros where the table has none, or LibRaw refuses such a file.
    """
    try:
        with rawpy.imread(io.BytesIO(_named_dng(make, model))) as raw:
            return _matrix(raw)
    except rawpy.LibRawError:
        return matrix3([0.0] * 9)


@cache
def supported_models() -> frozenset[str]:
    """Cameras that LibRaw says it knows, as it spells them: ``"Sony DSC-RX100 VII"``.

    rawpy does not pass the list on, so the C function is called; empty where it cannot be found.
    """
    library = ctypes.CDLL(_rawpy.__file__)
    try:
        names = library.libraw_cameraList
    except AttributeError:
        return frozenset()
    names.restype = ctypes.POINTER(ctypes.c_char_p)
    count = library.libraw_cameraCount()
    return frozenset(name.decode("latin-1") for name in names()[:count])


def _named_dng(make: str, model: str) -> bytes:
    """A black DNG with a camera's name and nothing else that could tell the camera."""
    # At least five bytes: up to four would stand in the directory itself.
    texts = [text.encode() + bytes(5) for text in (make, model)]
    side, count = 32, 12
    start = 8 + 2 + 12 * count + 4
    offsets = start, start + len(texts[0])
    pixels, size = start + len(texts[0]) + len(texts[1]), 2 * side * side
    entries = (
        (0x100, 4, 1, side),  # width, height
        (0x101, 4, 1, side),
        (0x102, 3, 1, 16),  # bits
        (0x103, 3, 1, 1),  # not compressed
        (0x106, 3, 1, 32803),  # a colour filter array
        (0x10F, 2, len(texts[0]), offsets[0]),
        (0x110, 2, len(texts[1]), offsets[1]),
        (0x111, 4, 1, pixels),
        (0x117, 4, 1, size),
        (0x828D, 3, 2, 2 | 2 << 16),
        (0x828E, 1, 4, int.from_bytes(bytes([0, 1, 1, 2]), "little")),
        (0xC612, 1, 4, int.from_bytes(bytes([1, 4, 0, 0]), "little")),  # DNG 1.4
    )
    directory = struct.pack("<H", count) + b"".join(struct.pack("<HHII", *one) for one in entries)
    return b"II*\0\x08\0\0\0" + directory + bytes(4) + b"".join(texts) + bytes(size)


@contextmanager
def _cleared_memory() -> Iterator[None]:
    """Let what C code allocates hold zeros, where the C library (glibc) can be told to.

    LibRaw decodes into memory it does not clear. A decoder that gives up without an error then
    leaves there whatever was: the last picture, for example. Zeros are noticed, and the same for
    everybody (`damage.check_mosaic`). Costs a write of the mosaic: 5 ms for 20 megapixels.
    """
    mallopt = _mallopt()
    if mallopt is None:
        yield
        return
    mallopt(_PERTURB, 0xFF)  # memory is filled with the complement
    try:
        yield
    finally:
        mallopt(_PERTURB, 0)


@cache
def _mallopt() -> Any:
    """Return glibc's function, None with another C library."""
    return getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None


def _open(data: bytes, path: str) -> Any:
    try:
        return rawpy.imread(io.BytesIO(data))
    except rawpy.LibRawError as error:
        raise _refusal(error, data, path) from error


def _refusal(error: rawpy.LibRawError, data: bytes, path: str) -> SourceError:
    """What an error of LibRaw's says about a file; raises MemoryError where it is none of it."""
    _require_memory(error, data)
    damaged = not isinstance(error, rawpy.LibRawFileUnsupportedError)
    library = f"LibRaw {'.'.join(map(str, rawpy.libraw_version))}"
    return undecodable(data, _text(error), damaged=damaged, library=library, path=path)


def _require_memory(error: rawpy.LibRawError, data: bytes) -> None:
    """Raise MemoryError if that is what LibRaw lacked; damaged sizes make it say the same."""
    if isinstance(error, _LACKING):
        np.empty(_ROOM * len(data), np.uint8)


def _checked_geometry(raw: Any, path: str) -> Geometry:
    """Refuse sizes no camera has before anything of that size is allocated."""
    sizes = raw.sizes
    width, height = sizes.raw_width, sizes.raw_height
    if not (
        0 < width <= MAX_DIMENSION
        and 0 < height <= MAX_DIMENSION
        and width * height <= MAX_SAMPLES
        and 0 < sizes.width <= width - sizes.left_margin
        and 0 < sizes.height <= height - sizes.top_margin
    ):
        message = f"sizes are not plausible: sensor {width}x{height}"
        raise CorruptRawError(message, path=path, mend=COPY_AGAIN)
    area = Rect(x=sizes.left_margin, y=sizes.top_margin, width=sizes.width, height=sizes.height)
    crop = None
    if sizes.crop_width and sizes.crop_height:
        crop = Rect(
            x=sizes.crop_left_margin,
            y=sizes.crop_top_margin,
            width=sizes.crop_width,
            height=sizes.crop_height,
        )
    return Geometry((width, height), area, crop, _EXIF_ORIENTATION.get(sizes.flip, 1))


def _levels(raw: Any, path: str) -> Levels:
    if raw.raw_type != rawpy.RawType.Flat:
        raise other_sensor("linear", path=path)
    if raw.num_colors != 3 or raw.raw_pattern is None:
        raise other_sensor("monochrome" if raw.num_colors == 1 else "four colours", path=path)
    if raw.raw_pattern.shape == (6, 6):
        raise other_sensor("x-trans", path=path)
    red, green1, blue, green2 = (float(value) for value in raw.black_level_per_channel)
    return Levels(
        cfa=pattern_from_indices(raw.raw_pattern.tolist(), path=path),
        black=(red, green1, blue, green2),
        white=float(raw.white_level),
        xyz_to_camera=_matrix(raw),
        as_shot_balance=as_shot_balance(raw.camera_whitebalance),
    )


def _matrix(raw: Any) -> Matrix3:
    return matrix3(raw.rgb_xyz_matrix[:3].ravel().tolist())


def _text(error: Exception) -> str:
    value = error.args[0] if error.args else error
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
