"""Sony ARW: the lossy 8-bit-a-pixel code (ARW2, "cRAW") and plain 14-bit."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.errors import UsageError
from pipeline.sample_set.formats.camera_file import (
    SONY_RX100M7,
    CameraFile,
    Mosaic,
    first_directory,
    raw_directory,
    require_mosaic,
)
from pipeline.sample_set.formats.tiff_writer import Directory, long_field, short_field, tiff_bytes

ArwCompression = Literal["arw2", "uncompressed"]

_ARW2 = 32767
_SAMPLES = 16  # a block of 16 bytes holds 16 samples of one colour
_UNIT_GREEN = 1024  # Sony's white balance counts in 1024ths

# Tone curve as the camera writes it (tag 0x7010): corners in 14-bit units. Past each corner the
# step between codes doubles, so bright samples are coarser.
_CURVE_CORNERS = (8000, 10400, 12900, 14100)


def write_arw(
    path: Path,
    mosaic: Mosaic,
    *,
    compression: ArwCompression = "arw2",
    camera: CameraFile = SONY_RX100M7,
) -> Mosaic:
    """Write an ARW and return the mosaic a decoder will find in it; see `arw_bytes`."""
    file, decoded = _encode(mosaic, compression=compression, camera=camera)
    path.write_bytes(file)
    return decoded


def arw_bytes(
    mosaic: Mosaic,
    *,
    compression: ArwCompression = "arw2",
    camera: CameraFile = SONY_RX100M7,
) -> bytes:
    """An ARW as bytes.

    Parameters
    ----------
    mosaic
        (H, W) uint16, full sensor area, at most 16383. ``"arw2"`` wants W divisible by 32.
    compression
        ``"arw2"`` is lossy: `encode_arw2` says what a decoder will find. ``"uncompressed"``
        keeps the mosaic.
    camera
        Everything else the file says. ARW2 exists in little-endian files only; plain samples
        follow the file's byte order, as LibRaw reads them (flashraw 0.1 reads little-endian).
    """
    return _encode(mosaic, compression=compression, camera=camera)[0]


def _encode(
    mosaic: Mosaic, *, compression: ArwCompression, camera: CameraFile
) -> tuple[bytes, Mosaic]:
    mosaic = require_mosaic(mosaic, largest=16383)
    if compression == "arw2":
        if camera.byte_order == ">":
            raise UsageError(
                "ARW2 blocks are little-endian by definition; a big-endian file cannot hold them",
                mend='write it with byte_order="<" or compression="uncompressed"',
            )
        pixels, mosaic = encode_arw2(mosaic)
        code = _ARW2
    else:
        pixels, code = mosaic.astype(f"{camera.byte_order}u2").tobytes(), 1
    height, width = mosaic.shape
    entries = raw_directory((height, width), pixels, cfa=camera.cfa, bits=14, compression=code)
    red, green, blue = (round(gain * _UNIT_GREEN) for gain in camera.white_balance)
    entries[0x7010] = short_field(*_CURVE_CORNERS)
    entries[0x7310] = short_field(*camera.black)
    entries[0x7313] = short_field(red, green, green, blue)
    if camera.crop is not None:
        x, y, crop_width, crop_height = camera.crop
        entries[0x74C7] = long_field(x, y)
        entries[0x74C8] = long_field(crop_width, crop_height)
    root = first_directory(camera, Directory(entries))
    return tiff_bytes(root, byte_order=camera.byte_order), mosaic


def encode_arw2(mosaic: Mosaic) -> tuple[bytes, Mosaic]:
    """Sony's lossy code: one byte a sample.

    Parameters
    ----------
    mosaic
        (H, W) uint16 in 0..16383, W divisible by 32.

    Returns
    -------
    pixels
        H * W bytes: for every 32 columns one block of the even, then one of the odd columns.
    decoded
        (H, W) uint16, what LibRaw decodes from them. Reaches 17204, above 16383: the curve ends
        there.
    """
    height, width = mosaic.shape
    if width % 32:
        raise UsageError(f"ARW2 wants a width divisible by 32, this is {width}")
    code_of_sample, sample_of_code = _tone_curve()
    # (H, W/32, 16 columns, parity) -> (blocks, 16), parity before columns
    groups = code_of_sample[mosaic].reshape(height, width // 32, _SAMPLES, 2)
    blocks = np.ascontiguousarray(groups.swapaxes(2, 3)).reshape(-1, _SAMPLES)
    pixels, decoded_codes = _encode_blocks(blocks)
    samples = sample_of_code[decoded_codes].reshape(height, width // 32, 2, _SAMPLES)
    decoded: Mosaic = np.ascontiguousarray(samples.swapaxes(2, 3)).reshape(height, width)
    return pixels.tobytes(), decoded


def _tone_curve() -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint16]]:
    """Nearest 11-bit code of each 14-bit sample, and the sample of each code."""
    corners = (0, *(corner >> 2 for corner in _CURVE_CORNERS), 4095)
    steps = np.repeat([1 << i for i in range(5)], np.diff(corners))
    curve = np.concatenate([[0], np.cumsum(steps)])
    sample_of_code = curve[: 2 * 2048 : 2].astype(np.uint16)
    middle = (sample_of_code[1:].astype(np.float64) + sample_of_code[:-1]) / 2
    code_of_sample = np.searchsorted(middle, np.arange(1 << 14)).astype(np.int16)
    return code_of_sample, sample_of_code


def _encode_blocks(
    codes: npt.NDArray[np.int16],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int16]]:
    """Pack blocks: maximum and minimum (11 bits), their places (4 bits), 14 offsets (7 bits).

    Parameters
    ----------
    codes
        (blocks, 16) in 0..2047.
    """
    blocks = np.arange(len(codes))
    index_max = codes.argmax(axis=1)
    index_min = codes.argmin(axis=1)
    # A flat block still needs two different places.
    index_min = np.where(index_max == index_min, (index_max + 1) % _SAMPLES, index_min)
    high, low = codes[blocks, index_max], codes[blocks, index_min]
    span = high - low
    shift = sum((span >= (0x80 << sh)).astype(np.int16) for sh in range(4))
    shift = np.asarray(shift, np.int16)[:, None]
    half = (1 << shift) >> 1
    offsets = np.minimum((codes - low[:, None] + half) >> shift, 0x7F)
    decoded = np.minimum((offsets << shift) + low[:, None], 0x7FF).astype(np.int16)
    decoded[blocks, index_max] = high
    decoded[blocks, index_min] = low

    others = np.ones(codes.shape, bool)
    others[blocks, index_max] = False
    others[blocks, index_min] = False
    offsets = offsets[others].reshape(-1, _SAMPLES - 2).astype(np.uint64)
    head = high.astype(np.uint64) | low.astype(np.uint64) << np.uint64(11)
    head |= index_max.astype(np.uint64) << np.uint64(22)
    head |= index_min.astype(np.uint64) << np.uint64(26)
    return _pack_offsets(head, offsets), decoded


def _pack_offsets(
    head: npt.NDArray[np.uint64], offsets: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint8]:
    """128-bit little-endian blocks: 30 bits of head, then 14 times 7 bits."""
    words = np.zeros((len(head), 2), "<u8")
    words[:, 0] = head
    for i in range(offsets.shape[1]):
        bit = 30 + 7 * i
        if bit < 64:
            words[:, 0] |= offsets[:, i] << np.uint64(bit)
        if bit + 7 > 64:
            position = bit - 64
            words[:, 1] |= (
                offsets[:, i] << np.uint64(position)
                if position >= 0
                else offsets[:, i] >> np.uint64(-position)
            )
    return words.view(np.uint8)
