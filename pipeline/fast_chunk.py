"""Chunks encoded and decoded at twice the speed: LZ4 by Blosc, the bit planes by `bitplanes`.

The bytes are those of `pipeline.chunk`, which stays the definition, and so are the numbers. This
module needs numba; reading a sample now and then does not need this module.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numcodecs.blosc
import numpy as np
import numpy.typing as npt
from crc32c import crc32c

from pipeline.bitplanes import block_to_planes, planes_to_codes, planes_to_values
from pipeline.chunk import (
    BLOSC_HEADER,
    BLOSC_LEVEL,
    check_chunk,
    chunk_crc,
    damaged_chunk,
    encode_chunk,
    forged_chunk,
    require_bytes,
)
from pipeline.compiled import compiled
from schemas.recipe import Codec

Bytes = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
F32 = npt.NDArray[np.float32]

_CRC_BYTES = 4
_STORED, _BITSHUFFLED = 0x2, 0x4  # bits of Blosc's flags

_compiled = compiled(nogil=True)


@dataclass(frozen=True)
class _Header:
    """The header C-Blosc 1 writes: version, LZ4 version, flags, typesize, and three sizes."""

    version: int
    inner_version: int
    flags: int
    typesize: int
    nbytes: int
    blocksize: int
    cbytes: int

    @classmethod
    def of(cls, compressed: bytes | memoryview) -> _Header:
        return cls(*BLOSC_HEADER.unpack_from(compressed))

    def pack(self) -> bytes:
        return BLOSC_HEADER.pack(*vars(self).values())

    @property
    def blocks(self) -> int:
        return -(-self.nbytes // self.blocksize)


def decode_codes(
    chunk: memoryview, shape: tuple[int, int, int], crc: str, *, path: str, planes: Bytes, out: U16
) -> None:
    """`pipeline.chunk.decode_chunk` into `out`, (3, h, w) uint16, C-contiguous.

    Parameters
    ----------
    chunk
        The file's bytes, in memory that may be written: a flag in them is cleared.
    shape, crc, path
        As in `decode_chunk`.
    planes
        (at least ``out.nbytes``,) uint8 to work in.

    Raises
    ------
    DamagedStoreError
        If the chunk is not what its sidecar records.
    """
    block = _decompress(chunk, out.nbytes, crc, path, planes)
    planes = planes[: out.nbytes]
    if out.shape != shape:
        raise damaged_chunk(f"{out.shape} expected, the sidecar records {shape}", path)
    if block:
        planes_to_codes(planes, block, out.reshape(-1))
    else:
        out.reshape(-1)[:] = planes.view(np.uint16)


def decode_values(
    chunk: memoryview,
    crc: str,
    *,
    path: str,
    planes: Bytes,
    out: F32,
    zero: np.float32,
    scale: np.float32,
) -> None:
    """Decode a chunk to values, ``(code - zero) * scale``, in one pass behind the decompression.

    Parameters
    ----------
    chunk, crc, path
        As in `decode_codes`.
    planes
        (at least ``out.nbytes // 2``,) uint8 to work in.
    out
        (3, h, w) float32, C-contiguous, of the shape the sidecar records; filled here.
    zero, scale
        The fixed point of the sample.
    """
    nbytes = 2 * out.size
    block = _decompress(chunk, nbytes, crc, path, planes)
    planes = planes[:nbytes]
    if block:
        planes_to_values(planes, block, out.reshape(-1), zero, scale)
    else:
        np.subtract(planes.view(np.uint16).reshape(out.shape), zero, out=out, dtype=np.float32)
        np.multiply(out, scale, out=out)


def _decompress(chunk: memoryview, nbytes: int, crc: str, path: str, planes: Bytes) -> int:
    """Check a chunk and decompress it to its bit planes.

    Returns
    -------
    The block size of the bit planes; 0 if Blosc stored the codes as they are.
    """
    check_chunk(chunk, crc, path=path)
    compressed = chunk[:-_CRC_BYTES]
    header = _Header.of(compressed)
    require_bytes(header.nbytes, nbytes, path)
    stored = bool(header.flags & _STORED)
    if not stored and header.blocksize % 2:
        raise forged_chunk("it is not compressed as this format says", path)
    compressed[2] = header.flags & ~_BITSHUFFLED  # Blosc then leaves the bit planes as they are
    try:
        numcodecs.blosc.decompress(compressed, planes[:nbytes])
    except RuntimeError as error:
        raise forged_chunk(f"it does not decompress ({error})", path) from error
    return 0 if stored else header.blocksize


@_compiled
def mirror(values: F32) -> None:
    """Swap left and right of (3, h, w) values where they are."""
    for plane in range(values.shape[0]):
        for y in range(values.shape[1]):
            row = values[plane, y]
            for x in range(row.shape[0] // 2):
                other = row.shape[0] - 1 - x
                row[x], row[other] = row[other], row[x]


@dataclass(frozen=True)
class EncodedChunk:
    """A chunk in the pieces it was made of: joining them would cost as much as writing them.

    Attributes
    ----------
    pieces
        The chunk's bytes, one after the other.
    crc
        As `pipeline.chunk.chunk_crc`.
    """

    pieces: tuple[bytes | memoryview, ...]
    crc: str

    @property
    def nbytes(self) -> int:
        """Size of the chunk."""
        return sum(len(piece) for piece in self.pieces)


def encode_chunk_fast(stored: U16, codec: Codec) -> EncodedChunk:
    """`pipeline.chunk.encode_chunk`, byte for byte.

    Each block is bitshuffled in the cache and compressed as a chunk of its own; their compressed
    blocks are put behind one header. What is small, or Blosc would not compress, is left to
    `encode_chunk`.
    """
    codes = np.ascontiguousarray(stored, dtype="<u2").reshape(-1)
    sizes = _block_sizes(codes.nbytes, codec)
    pieces = None if sizes is None else _compressed_pieces(codes, codec, *sizes)
    if pieces is None:
        chunk = encode_chunk(stored, codec)
        return EncodedChunk((chunk,), chunk_crc(chunk))
    crc = 0
    for piece in pieces:
        crc = crc32c(piece, crc)
    return EncodedChunk((*pieces, struct.pack("<I", crc)), f"{crc:08x}")


def _compressed_pieces(
    codes: U16, codec: Codec, blocksize: int, asked: int
) -> list[bytes | memoryview] | None:
    """What Blosc makes of all codes, in pieces; None where it would store them as they are."""
    blocks = -(-codes.nbytes // blocksize)
    bodies: list[memoryview] = []
    starts: list[int] = []
    at = BLOSC_HEADER.size + 4 * blocks
    planes = np.empty(2 * blocksize, np.uint8)
    for span in _spans(codes, blocksize):
        for start in range(0, span.nbytes, blocksize):
            block = slice(start, min(start + blocksize, span.nbytes))
            block_to_planes(span[block.start // 2 : block.stop // 2], planes[block])
        part = memoryview(_compress(planes[: span.nbytes].view("<u2"), codec, asked))
        header = _Header.of(part)
        if header.flags & _STORED or header.blocksize != blocksize:
            return None
        body = BLOSC_HEADER.size + 4 * header.blocks
        of_part = struct.unpack_from(f"<{header.blocks}I", part, BLOSC_HEADER.size)
        starts += [at + start - body for start in of_part]
        bodies.append(part[body:])
        at += len(part) - body
    if at >= codes.nbytes:
        return None
    flags = header.flags | _BITSHUFFLED
    whole = replace(header, flags=flags, nbytes=codes.nbytes, cbytes=at)
    return [whole.pack() + struct.pack(f"<{blocks}I", *starts), *bodies]


def _spans(codes: U16, blocksize: int) -> Iterator[U16]:
    """The codes block by block; a short last block stays with the one before.

    Blosc treats a short block behind others in its own way, so it must see others.
    """
    step = blocksize // 2
    whole = len(codes) // step
    for block in range(whole - 1):
        yield codes[block * step : (block + 1) * step]
    yield codes[(whole - 1) * step :]


@lru_cache
def _block_sizes(nbytes: int, codec: Codec) -> tuple[int, int] | None:
    """The block size Blosc chooses for a chunk, and what to ask for to get it again.

    None for chunks of so few blocks that there is nothing to gain.
    """
    chosen = _Header.of(_compress(np.zeros(nbytes // 2, "<u2"), codec, 0)).blocksize
    if nbytes < 4 * chosen:
        return None
    some_blocks = np.zeros(3 * chosen // 2, "<u2")
    for asked in (chosen, chosen // 2):
        if _Header.of(_compress(some_blocks, codec, asked)).blocksize == chosen:
            return chosen, asked
    return None


def _compress(codes: U16, codec: Codec, blocksize: int) -> bytes:
    """Compress what is bitshuffled already."""
    shuffle = numcodecs.blosc.NOSHUFFLE
    compressed: bytes = numcodecs.blosc.compress(
        codes, codec.encode(), BLOSC_LEVEL, shuffle, blocksize
    )
    return compressed
