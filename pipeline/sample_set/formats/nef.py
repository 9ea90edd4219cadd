"""Nikon NEF: 14-bit lossless (Huffman), 14-bit plain and 12-bit packed."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.errors import UsageError
from pipeline.sample_set.formats.camera_file import (
    NIKON_D750,
    CameraFile,
    Mosaic,
    first_directory,
    raw_directory,
    require_mosaic,
)
from pipeline.sample_set.formats.tiff_writer import (
    Directory,
    Field,
    Strip,
    rational_field,
    short_field,
    tiff_bytes,
    undefined_field,
)

NefCompression = Literal["lossless", "uncompressed", "packed12"]

_NIKON_COMPRESSED = 34713
_BLACK_UNIT_OF_12_BITS = 4  # maker note 0x003d is always in 14-bit units

# Nikon's fixed code for 14-bit lossless data (dcraw nikon_load_raw, tree 5): number of codes of
# each length 1..16, then the symbols in order. A symbol is the bit length of the difference.
_CODE_COUNTS = (0, 1, 4, 2, 2, 3, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0)
_CODE_SYMBOLS = (7, 6, 8, 5, 9, 4, 10, 3, 11, 12, 2, 0, 1, 13, 14)

# Vertical predictors the decoder starts from, [row parity][column parity].
_PREDICTORS = (2048, 2048, 2048, 2048)


def write_nef(
    path: Path,
    mosaic: Mosaic,
    *,
    compression: NefCompression = "lossless",
    camera: CameraFile = NIKON_D750,
) -> None:
    """Write a NEF; see `nef_bytes`."""
    path.write_bytes(nef_bytes(mosaic, compression=compression, camera=camera))


def nef_bytes(
    mosaic: Mosaic,
    *,
    compression: NefCompression = "lossless",
    camera: CameraFile = NIKON_D750,
) -> bytes:
    """A NEF as bytes; decoders return the mosaic exactly.

    Parameters
    ----------
    mosaic
        (H, W) uint16, full sensor area. At most 16383; 4095 for ``"packed12"``, which also
        wants an even width.
    compression
        ``"lossless"`` and ``"uncompressed"`` are 14-bit, ``"packed12"`` is 12-bit.
    camera
        Everything else the file says. Black levels in units of the mosaic.
    """
    if compression == "packed12":
        mosaic = require_mosaic(mosaic, largest=4095)
        pixels, bits, code = pack_12_bits(mosaic), 12, 1
    elif compression == "lossless":
        mosaic = require_mosaic(mosaic, largest=16383)
        pixels, bits, code = encode_lossless(mosaic), 14, _NIKON_COMPRESSED
    else:
        mosaic = require_mosaic(mosaic, largest=16383)
        pixels, bits, code = mosaic.astype(f"{camera.byte_order}u2").tobytes(), 14, 1
    height, width = mosaic.shape
    raw = Directory(
        raw_directory((height, width), pixels, cfa=camera.cfa, bits=bits, compression=code)
    )
    root = first_directory(camera, raw, _maker_note(camera, compression))
    return tiff_bytes(root, byte_order=camera.byte_order)


def _maker_note(camera: CameraFile, compression: NefCompression) -> bytes:
    unit = _BLACK_UNIT_OF_12_BITS if compression == "packed12" else 1
    red, green, blue = camera.white_balance
    entries: dict[int, Field | Directory | Strip] = {
        0x0001: undefined_field(b"0211"),
        0x000C: rational_field(red, blue, green, green),
        0x003D: short_field(*(level * unit for level in camera.black)),
        0x0093: short_field(3 if compression == "lossless" else 4),
    }
    if camera.crop is not None:
        entries[0x0045] = short_field(*camera.crop)
    if compression == "lossless":
        # Version F0: lossless; no curve follows, so the samples are linear.
        head = b"\x46\x30" + struct.pack(f"{camera.byte_order}4H", *_PREDICTORS)
        entries[0x0096] = undefined_field(head + struct.pack(f"{camera.byte_order}H", 0))
    body = tiff_bytes(Directory(entries), byte_order=camera.byte_order)
    return b"Nikon\0\x02\x10\0\0" + body


def pack_12_bits(mosaic: Mosaic) -> bytes:
    """Two samples in three bytes, most significant bit first.

    Parameters
    ----------
    mosaic
        (H, W) uint16 in 0..4095, W even.
    """
    if mosaic.shape[1] % 2:
        raise UsageError(f"12-bit packing wants an even width, this is {mosaic.shape[1]}")
    first, second = mosaic[:, 0::2], mosaic[:, 1::2]
    triples = np.stack(
        [first >> 4, (first & 0xF) << 4 | second >> 8, second & 0xFF], axis=-1
    )  # (H, W/2, 3)
    return triples.astype(np.uint8).tobytes()


def encode_lossless(mosaic: Mosaic) -> bytes:
    """Nikon's 14-bit lossless code.

    Parameters
    ----------
    mosaic
        (H, W) uint16 in 0..16383.

    Returns
    -------
    bytes
        Huffman-coded bit lengths, each followed by the difference's bits, big end first.
    """
    differences = _predict(mosaic)
    length_code, length_bits = _code_table()
    stream = _BitStream()
    rows_at_once = max(1, 2_000_000 // mosaic.shape[1])  # bounds the memory of the temporaries
    for top in range(0, mosaic.shape[0], rows_at_once):
        delta = differences[top : top + rows_at_once].ravel()
        bits = _BIT_LENGTH[np.abs(delta)]
        # JPEG's convention: a negative difference is written minus one, without its sign bit.
        magnitude = np.where(delta < 0, delta + (1 << bits) - 1, delta)
        words = (length_code[bits] << bits) | magnitude
        stream.append(words.astype(np.uint32), length_bits[bits] + bits)
    # LibRaw takes data with a whole number of bytes a row for packed or plain samples, whatever the
    # compression tag says. So one byte is added in that case (hardly ever met in files of real
    # size).
    coded = stream.finish()
    return coded + bytes(len(coded) % mosaic.shape[0] == 0)


def _predict(mosaic: Mosaic) -> npt.NDArray[np.int32]:
    """Difference of each sample to its neighbour two to the left; the first two: two above."""
    samples = mosaic.astype(np.int32)
    out = samples.copy()
    out[:, 2:] -= samples[:, :-2]
    out[2:, :2] -= samples[:-2, :2]
    out[:2, :2] -= np.array(_PREDICTORS, np.int32).reshape(2, 2)
    return out


def _code_table() -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Canonical code of each symbol: value and number of bits, indexed by symbol."""
    codes = np.zeros(16, np.int32)
    lengths = np.zeros(16, np.int32)
    code, position = 0, 0
    for length, count in enumerate(_CODE_COUNTS, start=1):
        for symbol in _CODE_SYMBOLS[position : position + count]:
            codes[symbol], lengths[symbol] = code, length
            code += 1
        position += count
        code <<= 1
    return codes, lengths


_BIT_LENGTH = np.array([value.bit_length() for value in range(1 << 14)], np.int32)


class _BitStream:
    """Concatenates codes of up to 32 bits, most significant bit first."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._carry = 0  # the last, unfinished 32-bit word
        self._carry_bits = 0

    def append(self, codes: npt.NDArray[np.uint32], lengths: npt.NDArray[np.int32]) -> None:
        ends = np.cumsum(lengths, dtype=np.int64) + self._carry_bits
        starts = ends - lengths
        word = starts >> 5
        # Each code lies in at most two 32-bit words: the high and the low half of 64 bits.
        wide = codes.astype(np.uint64) << (64 - (starts & 31) - lengths).astype(np.uint64)
        total = int(ends[-1])
        words = np.zeros((total >> 5) + 2, np.uint64)
        words[0] = self._carry
        # Codes are in order, so those of one word are neighbours; bits never overlap: + is |.
        first = np.flatnonzero(np.diff(word, prepend=-1))
        words[word[first]] += np.add.reduceat(wide >> np.uint64(32), first)
        words[word[first] + 1] += np.add.reduceat(wide & np.uint64(0xFFFFFFFF), first)
        whole = total >> 5
        self._chunks.append(words[:whole].astype(">u4").tobytes())
        self._carry, self._carry_bits = int(words[whole]), total & 31

    def finish(self) -> bytes:
        tail = struct.pack(">I", self._carry)[: -(-self._carry_bits // 8)]
        return b"".join([*self._chunks, tail])
