from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt
import pytest
from crc32c import crc32c

from pipeline.errors import DamagedStoreError
from pipeline.store.chunk.encode import encode_chunk
from pipeline.store.chunk.format import chunk_crc, decode_chunk
from schemas.recipe import Codec

CODECS: tuple[Codec, ...] = ("lz4", "zstd")
both_codecs = pytest.mark.parametrize("codec", CODECS)


def image(shape: tuple[int, int, int], seed: int = 0, spread: int = 400) -> npt.NDArray[np.uint16]:
    rng = np.random.default_rng(seed)
    return (9000 + rng.integers(0, spread, shape)).astype(np.uint16)


def encoded(stored: npt.NDArray[np.uint16], codec: Codec) -> bytes:
    return bytes(encode_chunk(stored, codec))


def read(
    chunk: bytes, shape: tuple[int, int, int], crc: str | None = None
) -> npt.NDArray[np.uint16]:
    return decode_chunk(memoryview(chunk), shape, crc or chunk_crc(chunk), path="packed/c.0.0.0.0")


def resealed(chunk: bytes | bytearray) -> bytes:
    """The same bytes with a checksum that fits: what a program, not bad luck, would write."""
    body = bytes(chunk[:-4])
    return body + struct.pack("<I", crc32c(body))


@both_codecs
def test_every_single_flipped_bit_is_caught(codec: Codec) -> None:
    stored = image((3, 6, 7), spread=3)
    chunk = encoded(stored, codec)
    crc = chunk_crc(chunk)
    for position in range(8 * len(chunk)):
        damaged = bytearray(chunk)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(DamagedStoreError, match="checksum"):
            read(bytes(damaged), stored.shape, crc)


@both_codecs
def test_every_truncation_and_every_appended_byte_is_caught(codec: Codec) -> None:
    stored = image((3, 6, 7), spread=3)
    chunk = encoded(stored, codec)
    crc = chunk_crc(chunk)
    for damaged in [*(chunk[:length] for length in range(len(chunk))), chunk + b"\0"]:
        with pytest.raises(DamagedStoreError) as caught:
            read(damaged, stored.shape, crc)
        assert caught.value.path == "packed/c.0.0.0.0"
        assert "prep ingest" in caught.value.mend


def test_another_samples_chunk_is_not_taken_for_this_one() -> None:
    ours, theirs = (encoded(image((3, 6, 7), seed), "lz4") for seed in (1, 2))
    with pytest.raises(DamagedStoreError, match="another sample"):
        read(theirs, (3, 6, 7), chunk_crc(ours))


@pytest.mark.parametrize("shape", [(3, 6, 8), (3, 5, 7), (3, 0, 0)])
def test_a_chunk_of_another_size_than_recorded_is_refused(shape: tuple[int, int, int]) -> None:
    chunk = encoded(image((3, 6, 7)), "lz4")
    with pytest.raises(DamagedStoreError, match="expected"):
        read(chunk, shape)


@both_codecs
def test_damage_under_a_fitting_checksum_gives_an_error_or_an_array_but_no_crash(
    codec: Codec,
) -> None:
    stored = image((3, 20, 20), spread=60)
    chunk = encoded(stored, codec)
    refused = 0
    for position in range(len(chunk) - 4):
        damaged = bytearray(chunk)
        damaged[position] ^= 0xFF
        try:
            assert read(resealed(damaged), stored.shape).shape == stored.shape
        except DamagedStoreError:
            refused += 1
    assert refused > 0


def test_a_given_buffer_is_filled_and_returned() -> None:
    stored = image((3, 6, 7))
    chunk = encoded(stored, "lz4")
    out = np.zeros((3, 6, 7), np.uint16)
    result = decode_chunk(memoryview(chunk), (3, 6, 7), chunk_crc(chunk), path="", out=out)
    assert result is out
    np.testing.assert_array_equal(out, stored)


HEADER = struct.Struct("<4B3I")


@both_codecs
@pytest.mark.parametrize(
    ("field", "values"),
    [
        (0, [0, 1, 3, 255]),  # blosc's version
        (2, [0, 0b100000, 0b101100, 0b100101, 0b1000100]),  # flags: shuffle, compressor
        (3, [0, 1, 4, 255]),  # typesize
        (4, [0, 1, 2**31, 2**32 - 1]),  # bytes decompressed
        (5, [0, 2**31 - 1, 2**32 - 1]),  # bytes of a block
        (6, [0, 16, 2**31 - 1, 2**32 - 1]),  # bytes compressed
    ],
)
def test_a_header_that_misleads_blosc_is_refused_under_a_fitting_checksum(
    codec: Codec, field: int, values: list[int]
) -> None:
    """Blosc reads as far as the header says, whatever lies there (numcodecs issue 228)."""
    chunk = encoded(image((3, 20, 20), spread=60), codec)
    fields = list(HEADER.unpack_from(chunk))
    for value in [*values, *([fields[6] + 1, fields[6] - 1] if field == 6 else [])]:
        header = HEADER.pack(*fields[:field], value, *fields[field + 1 :])
        with pytest.raises(DamagedStoreError, match="fitting checksum") as caught:
            read(resealed(header + chunk[HEADER.size :]), (3, 20, 20))
        assert "delete packed/c.0.0.0.0, then run prep ingest" in caught.value.mend


def test_an_array_of_another_shape_is_the_callers_mistake() -> None:
    chunk = encoded(image((3, 6, 7)), "lz4")
    out = np.zeros((3, 7, 6), np.uint16)
    with pytest.raises(ValueError, match="does not fit"):
        decode_chunk(memoryview(chunk), (3, 6, 7), chunk_crc(chunk), path="", out=out)
