"""Chunks read at several times the speed: `lz4` and `bitplanes` block by block, in a core's cache.

The numbers are those of `format`, which has Blosc do it, and which decides about every
chunk that is not as `encode` makes them. This module needs numba; reading a sample now and
then does not need this module.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.runtime.compiled import compiled
from pipeline.store.chunk.addresses import WIDE, address, load32
from pipeline.store.chunk.bitplanes import (
    find_planes,
    plane_count,
    planes_to_codes,
    planes_to_values,
)
from pipeline.store.chunk.format import (
    BITSHUFFLED,
    BLOCK_TABLE_ENTRY,
    BLOSC_HEADER,
    CRC,
    LZ4,
    LZ4_VERSION,
    UNSPLIT,
    check_chunk,
    decompress_chunk,
)
from pipeline.store.chunk.lz4 import decompress

Bytes = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
Shape = tuple[int, int, int]
#: The zero code, and the value of a step.
Point = tuple[np.float32, np.float32]

_HEADER = BLOSC_HEADER.size  # compiled code knows no struct.Struct

_compiled = compiled(nogil=True, error_model="numpy")


def work_size(nbytes: int) -> int:
    """Bytes of memory to work in, for a chunk of `nbytes` bytes of codes."""
    return nbytes + WIDE


def decode_codes(
    chunk: memoryview, shape: Shape, crc: str, *, path: str, work: Bytes, out: U16
) -> None:
    """`format.decode_chunk` into `out`, (3, h, w) uint16, C-contiguous.

    Parameters
    ----------
    chunk, shape, crc, path
        As in `decode_chunk`.
    work
        (at least ``work_size(out.nbytes)``,) uint8 to work in.

    Raises
    ------
    DamagedStoreError
        If the chunk is not what its sidecar records.
    """
    check_chunk(chunk, crc, path=path)
    blocksize = _fast_blocks(chunk, out.nbytes, work)
    fast = blocksize and out.shape == shape
    if not (fast and _decode_blocks(_frame(chunk), blocksize, work, out.reshape(-1), None)):
        decompress_chunk(chunk, shape, path=path, out=out)


def decode_values(
    chunk: memoryview,
    crc: str,
    *,
    path: str,
    work: Bytes,
    out: F32,
    zero: np.float32,
    scale: np.float32,
) -> None:
    """Decode a chunk to values, ``(code - zero) * scale``, in one pass.

    Parameters
    ----------
    chunk, crc, path
        As in `decode_codes`.
    work
        (at least ``work_size(out.nbytes // 2)``,) uint8 to work in.
    out
        (3, h, w) float32, C-contiguous, of the shape the sidecar records; filled here.
    zero, scale
        The fixed point of the sample.
    """
    check_chunk(chunk, crc, path=path)
    blocksize = _fast_blocks(chunk, 2 * out.size, work)
    values = out.reshape(-1)
    if not (blocksize and _decode_blocks(_frame(chunk), blocksize, work, values, (zero, scale))):
        codes = work[: 2 * out.size].view(np.uint16).reshape(out.shape)
        decompress_chunk(chunk, out.shape, path=path, out=codes)
        _codes_to_values(codes.reshape(-1), values, zero, scale)


def _frame(chunk: memoryview) -> Bytes:
    return np.frombuffer(chunk[: -CRC.size], np.uint8)


def _fast_blocks(chunk: memoryview, nbytes: int, work: Bytes) -> int:
    """The block size of a chunk as `encode` makes them; 0 for any other."""
    _, inner, flags, _, claimed, blocksize, _ = BLOSC_HEADER.unpack_from(chunk)
    known = (
        inner == LZ4_VERSION
        and flags == LZ4 | UNSPLIT | BITSHUFFLED
        and claimed == nbytes
        and blocksize % 2 == 0
        and work_size(blocksize) <= work.size
    )
    return blocksize if known else 0


@_compiled
def _block_planes(frame: Bytes, block: int, blocks: int, nbytes: int, work: Bytes) -> I64:
    """Where the planes of a block of `nbytes` are, decompressed; none if it is not sound."""
    none = np.empty(0, np.int64)
    base = address(frame)
    begin = load32(base + _HEADER + BLOCK_TABLE_ENTRY * block)
    # Behind the table, and inside: where the table itself is longer than the frame, no block is.
    if begin < _HEADER + BLOCK_TABLE_ENTRY * blocks or begin + BLOCK_TABLE_ENTRY > frame.size:
        return none
    size = load32(base + begin)
    begin += BLOCK_TABLE_ENTRY
    if size > frame.size - begin:
        return none
    source = base + begin
    if size == nbytes:  # LZ4 would not make it smaller
        return find_planes(source, nbytes // 2)
    rows = np.empty(plane_count(nbytes // 2), np.int64)
    if decompress(source, source + size, base + frame.size, address(work), nbytes, rows):
        return rows
    return none


@_compiled
def _decode_blocks(
    frame: Bytes, blocksize: int, work: Bytes, out: npt.NDArray[Any], point: Point | None
) -> bool:
    """Into uint16 codes, or by a fixed point into float32. False if a block is not sound."""
    step = blocksize // 2
    blocks = -(-out.size // step)
    for block in range(blocks):
        part = out[block * step : (block + 1) * step]
        rows = _block_planes(frame, block, blocks, 2 * part.size, work)
        if rows.size == 0:
            return False
        if point is None:  # decided when it is compiled
            planes_to_codes(rows, part)
        else:
            planes_to_values(rows, part, point[0], point[1])
    return True


@_compiled
def _codes_to_values(codes: U16, values: F32, zero: np.float32, scale: np.float32) -> None:
    for index in range(codes.size):
        values[index] = (np.float32(codes[index]) - zero) * scale


@_compiled
def mirror(values: F32) -> None:
    """Swap left and right of (3, h, w) values where they are."""
    for plane in range(values.shape[0]):
        for y in range(values.shape[1]):
            row = values[plane, y]
            for x in range(row.shape[0] // 2):
                other = row.shape[0] - 1 - x
                row[x], row[other] = row[other], row[x]
