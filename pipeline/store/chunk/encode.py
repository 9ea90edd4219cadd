"""Making chunks: bit planes by `bitplanes`, compressed by `lz4`, in Blosc's frame.

zstd is left to Blosc. Either way the bytes depend on the codes alone, and any reader of zarr's
blosc and crc32c codecs reads them.
"""

from __future__ import annotations

import numcodecs.blosc
import numpy as np
import numpy.typing as npt
from crc32c import crc32c

from pipeline.runtime.compiled import compiled
from pipeline.store.chunk.addresses import WIDE, address, store32
from pipeline.store.chunk.bitplanes import codes_to_planes, plane_count
from pipeline.store.chunk.format import (
    BITSHUFFLED,
    BLOCK_TABLE_ENTRY,
    BLOSC_HEADER,
    BLOSC_LEVEL,
    BLOSC_VERSION,
    CRC,
    LZ4,
    LZ4_VERSION,
    STORED,
    UNSPLIT,
)
from pipeline.store.chunk.lz4 import TABLE_SIZE, compress, largest_block
from schemas.recipe import Codec

Bytes = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]
I32 = npt.NDArray[np.int32]

_HEADER = BLOSC_HEADER.size  # compiled code knows no struct.Struct

#: Bytes of codes in a block: 16 planes of 65 cache lines. Larger ones compress 0.5 % better, but
#: the search in them leaves a core's nearest cache; and planes that are a power of two apart would
#: all fall into the same few lines of it.
BLOCK = 16 * 65 * 64

_compiled = compiled(nogil=True, error_model="numpy")


def encode_chunk(stored: U16, codec: Codec) -> memoryview:
    """Compress a level; the last four bytes are the CRC-32C of those before.

    Parameters
    ----------
    stored
        (3, h, w) uint16, in any memory order.
    """
    codes = np.ascontiguousarray(stored, dtype="<u2").reshape(-1)
    chunk = _lz4_frame(codes) if codec == "lz4" else _blosc_frame(codes, codec)
    chunk[-CRC.size :].view("<u4")[0] = crc32c(chunk.data[: -CRC.size])
    return chunk.data


def _blosc_frame(codes: U16, codec: Codec) -> Bytes:
    """Blosc's own work, with room for the checksum."""
    shuffle = numcodecs.blosc.BITSHUFFLE
    frame = numcodecs.blosc.compress(codes, codec.encode(), BLOSC_LEVEL, shuffle, 0)
    return np.frombuffer(frame + bytes(CRC.size), np.uint8).copy()


def _lz4_frame(codes: U16) -> Bytes:
    """What Blosc's header says, block by block, with room for the checksum."""
    blocksize = min(BLOCK, codes.nbytes)
    blocks = -(-codes.nbytes // blocksize)
    begin = BLOSC_HEADER.size + BLOCK_TABLE_ENTRY * blocks
    chunk = np.empty(begin + blocks * (BLOCK_TABLE_ENTRY + largest_block(blocksize)), np.uint8)
    starts = chunk[BLOSC_HEADER.size : begin].view("<u4")
    planes, table = np.empty(blocksize + WIDE, np.uint8), np.empty(TABLE_SIZE, np.int32)
    size, flags = _put_blocks(codes, blocksize, chunk, starts, planes, table), BITSHUFFLED
    if size >= codes.nbytes:
        size, flags = BLOSC_HEADER.size + codes.nbytes, BITSHUFFLED | STORED
        chunk[BLOSC_HEADER.size : size] = codes.view(np.uint8)
    header = BLOSC_HEADER.pack(
        BLOSC_VERSION, LZ4_VERSION, LZ4 | UNSPLIT | flags, 2, codes.nbytes, blocksize, size
    )
    chunk[: BLOSC_HEADER.size] = np.frombuffer(header, np.uint8)
    return chunk[: size + CRC.size]


@_compiled
def _put_blocks(
    codes: U16, blocksize: int, chunk: Bytes, starts: U32, planes: Bytes, table: I32
) -> int:
    """Fill in every block and where it starts. Returns the bytes of the chunk so far."""
    chunk_at, planes_at = address(chunk), address(planes)
    at = _HEADER + BLOCK_TABLE_ENTRY * starts.size
    for block in range(starts.size):
        part = codes[block * (blocksize // 2) : (block + 1) * (blocksize // 2)]
        nbytes = 2 * part.size
        codes_to_planes(part, planes[:nbytes])
        starts[block] = at
        body = at + BLOCK_TABLE_ENTRY
        size = compress(planes_at, nbytes, nbytes // plane_count(part.size), chunk_at + body, table)
        if size >= nbytes:
            size = nbytes
            chunk[body : body + nbytes] = planes[:nbytes]
        store32(chunk_at + at, size)
        at = body + size
    return at
