"""One image as one zarr chunk: bytes(little) -> blosc(bitshuffle) -> crc32c, the only codec chain.

Chunks are encoded and decoded here directly, without zarr's array machinery: the bytes are the same
(a test compares them), the copies are fewer, and the checksum is known when the file is written.
"""

from __future__ import annotations

import struct
from typing import Any

import numcodecs.blosc
import numpy as np
import numpy.typing as npt
from crc32c import crc32c

from pipeline.errors import DamagedStoreError
from schemas.recipe import Codec

# One chunk a thread or process: blosc's own pool would only fight with ours.
numcodecs.blosc.use_threads = False

BLOSC_LEVEL = 5
_CRC = struct.Struct("<I")
_BLOSC_HEADER = struct.Struct("<4B3I")


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


def chunk_crc(chunk: bytes | memoryview) -> str:
    """The CRC-32C recorded at a chunk's end, as eight hex digits."""
    return f"{_CRC.unpack(chunk[-4:])[0]:08x}"


def check_chunk(chunk: memoryview, crc: str, *, path: str) -> None:
    """Compute the checksum and compare it with the chunk's own and the sidecar's.

    Raises
    ------
    DamagedStoreError
        If either differs: damaged, truncated, or another sample's chunk.
    """
    if len(chunk) <= _CRC.size + _BLOSC_HEADER.size:
        raise _damaged(f"chunk is cut to {len(chunk)} bytes", path)
    computed = f"{crc32c(chunk[: -_CRC.size]):08x}"
    if computed != chunk_crc(chunk):
        raise _damaged("checksum mismatch: the chunk's bytes are damaged", path)
    if computed != crc:
        raise _damaged(
            f"chunk has checksum {computed}, the sidecar records {crc}: another sample's data", path
        )


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
    if out is None:
        out = np.empty(shape, np.uint16)
    claimed = _BLOSC_HEADER.unpack(chunk[: _BLOSC_HEADER.size])[4]
    if claimed != out.nbytes or out.shape != shape:
        raise _damaged(f"chunk holds {claimed} bytes, {out.nbytes} expected", path)
    try:
        numcodecs.blosc.decompress(chunk[: -_CRC.size], out)
    except RuntimeError as error:
        raise _damaged(f"chunk does not decompress ({error})", path) from error
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


def _damaged(message: str, path: str) -> DamagedStoreError:
    hint = "prep ingest (with the same sources) redoes just the damaged samples"
    return DamagedStoreError(message, path=path, hint=hint)
