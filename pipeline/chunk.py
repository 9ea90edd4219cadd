"""One image as one zarr chunk: bytes(little) -> blosc(bitshuffle) -> crc32c, the only codec chain.

Chunks are encoded and decoded here directly, without zarr's array machinery: the bytes are the same
(a test compares them), the copies are fewer, and the checksum is known when the file is written.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numcodecs.blosc
import numpy as np
import numpy.typing as npt
from crc32c import crc32c

from pipeline.errors import REDO, DamagedStoreError
from schemas.recipe import Codec

# One chunk a thread or process: blosc's own pool would only fight with ours.
numcodecs.blosc.use_threads = False

BLOSC_LEVEL = 5
_CRC = struct.Struct("<I")
#: Version, the codec's version, flags, typesize; bytes decompressed, of a block, compressed.
BLOSC_HEADER = struct.Struct("<4B3I")
_BLOSC_VERSION = 2
_SHUFFLES, _BITSHUFFLE = 0b1101, 0b0100  # bits of the flags
_COMPRESSORS = (1, 4)  # lz4, zstd


def encode_chunk(stored: npt.NDArray[np.uint16], codec: Codec) -> bytes:
    """Compress a (3, h, w) uint16 level; the last four bytes are the CRC-32C of those before."""
    compressed: bytes = numcodecs.blosc.compress(
        np.ascontiguousarray(stored, dtype="<u2"),
        codec.encode(),
        BLOSC_LEVEL,
        numcodecs.blosc.BITSHUFFLE,
        0,
    )
    return compressed + _CRC.pack(crc32c(compressed))


def largest_chunk(nbytes: int) -> int:
    """Bytes of a chunk whose `nbytes` bytes of codes do not compress at all."""
    return nbytes + BLOSC_HEADER.size + _CRC.size


def chunk_crc(chunk: bytes | memoryview) -> str:
    """The CRC-32C recorded at a chunk's end, as eight hex digits."""
    return f"{_CRC.unpack(chunk[-4:])[0]:08x}"


def check_chunk(chunk: memoryview, crc: str, *, path: str) -> None:
    """Compare the checksum with the chunk's own and the sidecar's, and look at blosc's header.

    Raises
    ------
    DamagedStoreError
        If either checksum differs: damaged, truncated, or another sample's chunk. If the header is
        not one that `encode_chunk` leads to.
    """
    if len(chunk) <= _CRC.size + BLOSC_HEADER.size:
        raise damaged_chunk(f"chunk is cut to {len(chunk)} bytes", path)
    computed = f"{crc32c(chunk[: -_CRC.size]):08x}"
    if computed != chunk_crc(chunk):
        raise damaged_chunk("checksum mismatch: the chunk's bytes are damaged", path)
    if computed != crc:
        raise damaged_chunk(
            f"chunk has checksum {computed}, the sidecar records {crc}: another sample's data", path
        )
    _check_header(chunk, path)


def _check_header(chunk: memoryview, path: str) -> None:
    """Refuse a header that would mislead blosc: whoever made the chunk can make its checksum, too.

    Numcodecs hands blosc a pointer without a length, so blosc believes the header's: one that says
    more than there is makes it read what lies behind (numcodecs issue 228).
    """
    header = BLOSC_HEADER.unpack_from(chunk)
    version, _, flags, typesize, nbytes, blocksize, cbytes = header
    ours = (
        version == _BLOSC_VERSION
        and typesize == 2
        and flags & _SHUFFLES == _BITSHUFFLE
        and flags >> 5 in _COMPRESSORS
        and 1 <= blocksize <= nbytes
        and cbytes == len(chunk) - _CRC.size
    )
    if not ours:
        raise forged_chunk(f"its blosc header {header} is none of this format's", path)


def decode_chunk(
    chunk: memoryview,
    shape: tuple[int, int, int],
    crc: str,
    *,
    path: str,
    out: npt.NDArray[np.uint16] | None = None,
) -> npt.NDArray[np.uint16]:
    """Check and decompress a chunk.

    Parameters
    ----------
    chunk
        The file's bytes.
    shape
        (3, h, w) the sidecar records.
    crc
        Checksum the sidecar records.
    path
        Named in errors.
    out
        C-contiguous (3, h, w) uint16 to fill; allocated when None.
    """
    check_chunk(chunk, crc, path=path)
    require_bytes(BLOSC_HEADER.unpack_from(chunk)[4], 2 * math.prod(shape), path)
    if out is None:
        out = np.empty(shape, np.uint16)
    elif out.shape != shape:
        raise ValueError(f"a chunk of shape {shape} does not fit into {out.shape}")
    try:
        numcodecs.blosc.decompress(chunk[: -_CRC.size], out)
    except RuntimeError as error:
        raise forged_chunk(f"it does not decompress ({error})", path) from error
    return out


def zarr_codecs(codec: Codec) -> list[dict[str, Any]]:
    """The same chain as zarr v3 metadata."""
    blosc = {
        "typesize": 2,
        "cname": codec,
        "clevel": BLOSC_LEVEL,
        "shuffle": "bitshuffle",
        "blocksize": 0,
    }
    return [
        {"name": "bytes", "configuration": {"endian": "little"}},
        {"name": "blosc", "configuration": blosc},
        {"name": "crc32c"},
    ]


def require_bytes(claimed: int, expected: int, path: str) -> None:
    """Refuse a chunk whose header claims another number of bytes than its sidecar's shape has."""
    if claimed != expected:
        raise forged_chunk(f"it holds {claimed} bytes, {expected} expected", path)


def damaged_chunk(message: str, path: str) -> DamagedStoreError:
    """The error for a chunk that is not what its sidecar records."""
    return DamagedStoreError(message, path=path, hint=REDO)


def forged_chunk(message: str, path: str) -> DamagedStoreError:
    """The error for a chunk whose checksum fits though its content does not.

    No disk does that, and an ingest looks no further than the checksum.
    """
    hint = f"delete {path}, then run prep ingest with the same sources and store"
    return DamagedStoreError(f"chunk with a fitting checksum: {message}", path=path, hint=hint)
