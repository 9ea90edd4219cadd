"""One image as one zarr chunk: bytes(little) -> blosc(bitshuffle) -> crc32c, the only codec chain.

Chunks are checked and decoded here directly, without zarr's array machinery: the numbers are the
same (a test compares them), the copies are fewer. `encode` makes them; `fast_decode`
reads them faster, with numba.
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
#: Version, the codec's version, flags, typesize; bytes decompressed, of a block, compressed. Behind
#: it stands where each block starts (uint32 from the header on), unless the codes are `STORED`; at
#: that place the block's size (uint32, too) and its bytes.
BLOSC_HEADER = struct.Struct("<4B3I")
BLOSC_VERSION, LZ4_VERSION = 2, 1
#: Bytes of one block's place in that table, and of the size before a block.
BLOCK_TABLE_ENTRY = 4
# Bits of the flags: codes as they are; bit planes; a block is one stream; the compressor.
STORED, BITSHUFFLED, UNSPLIT, LZ4, _ZSTD = 0x02, 0x04, 0x10, 1 << 5, 4 << 5
_SHUFFLES, _COMPRESSORS = 0b1101, 0b11100000
#: The checksum at a chunk's end.
CRC = struct.Struct("<I")


def largest_chunk(nbytes: int) -> int:
    """Bytes of a chunk whose `nbytes` bytes of codes do not compress at all."""
    return nbytes + BLOSC_HEADER.size + CRC.size


def chunk_crc(chunk: bytes | memoryview) -> str:
    """The CRC-32C recorded at a chunk's end, as eight hex digits."""
    return f"{CRC.unpack(chunk[-4:])[0]:08x}"


def check_chunk(chunk: memoryview, crc: str, *, path: str) -> None:
    """Compare the checksum with the chunk's own and the sidecar's, and look at blosc's header.

    Raises
    ------
    DamagedStoreError
        If either checksum differs: damaged, truncated, or another sample's chunk. If the header is
        not one that `encode` leads to.
    """
    if len(chunk) <= CRC.size + BLOSC_HEADER.size:
        raise damaged_chunk(f"chunk is cut to {len(chunk)} bytes", path)
    computed = f"{crc32c(chunk[: -CRC.size]):08x}"
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
        version == BLOSC_VERSION
        and typesize == 2
        and flags & _SHUFFLES == BITSHUFFLED
        and flags & _COMPRESSORS in (LZ4, _ZSTD)
        and 1 <= blocksize <= nbytes
        and cbytes == len(chunk) - CRC.size
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
    return decompress_chunk(chunk, shape, path=path, out=out)


def decompress_chunk(
    chunk: memoryview,
    shape: tuple[int, int, int],
    *,
    path: str,
    out: npt.NDArray[np.uint16] | None = None,
) -> npt.NDArray[np.uint16]:
    """`decode_chunk` of what `check_chunk` has passed."""
    require_bytes(BLOSC_HEADER.unpack_from(chunk)[4], 2 * math.prod(shape), path)
    if out is None:
        out = np.empty(shape, np.uint16)
    elif out.shape != shape:
        raise ValueError(f"a chunk of shape {shape} does not fit into {out.shape}")
    try:
        numcodecs.blosc.decompress(chunk[: -CRC.size], out)
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
    return DamagedStoreError(message, path=path, mend=REDO)


def forged_chunk(message: str, path: str) -> DamagedStoreError:
    """The error for a chunk whose checksum fits though its content does not.

    No disk does that, and an ingest looks no further than the checksum.
    """
    mend = f"delete {path}, then run prep ingest with the same sources and store"
    return DamagedStoreError(f"chunk with a fitting checksum: {message}", path=path, mend=mend)
