"""What our encoder writes, read by Blosc and by zarr."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zarr
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import blosc
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec
from zarr.core.buffer import cpu, default_buffer_prototype
from zarr.storage import MemoryStore

from pipeline.store.chunk.encode import encode_chunk
from pipeline.store.chunk.format import (
    BLOSC_HEADER,
    chunk_crc,
    decode_chunk,
    largest_chunk,
    zarr_codecs,
)
from schemas.recipe import Codec

U16 = npt.NDArray[np.uint16]
CODECS: tuple[Codec, ...] = ("lz4", "zstd")
both_codecs = pytest.mark.parametrize("codec", CODECS)
SHAPES = [(3, 1, 1), (3, 4, 5), (3, 61, 90), (3, 400, 300), (3, 513, 1025)]


def image(shape: tuple[int, int, int], spread: int = 400, seed: int = 0) -> U16:
    return (9000 + np.random.default_rng(seed).integers(0, spread, shape)).astype(np.uint16)


def array_of_zarr(shape: tuple[int, int, int], codec: Codec) -> tuple[MemoryStore, Any]:
    """An array as zarr-python itself makes it, and where it keeps its bytes."""
    store = MemoryStore()
    array = zarr.create_array(
        store,
        shape=(1, *shape),
        chunks=(1, *shape),
        dtype="uint16",
        serializer=BytesCodec(endian="little"),
        compressors=[
            BloscCodec(cname=codec, clevel=5, shuffle="bitshuffle", typesize=2),
            Crc32cCodec(),
        ],
    )
    return store, array


@both_codecs
@pytest.mark.parametrize("shape", SHAPES)
def test_zarr_python_reads_our_chunks(codec: Codec, shape: tuple[int, int, int]) -> None:
    stored = image(shape)
    store, array = array_of_zarr(shape, codec)
    chunk = cpu.Buffer.from_bytes(bytes(encode_chunk(stored, codec)))
    asyncio.run(store.set("c/0/0/0/0", chunk))
    np.testing.assert_array_equal(array[0], stored)
    assert zarr_codecs(codec) == list(array.metadata.to_dict()["codecs"])


@pytest.mark.parametrize("shape", SHAPES)
def test_zstd_chunks_have_the_bytes_zarr_python_writes(shape: tuple[int, int, int]) -> None:
    stored = image(shape)
    store, array = array_of_zarr(shape, "zstd")
    array[0] = stored
    buffer = asyncio.run(store.get("c/0/0/0/0", default_buffer_prototype()))
    assert buffer is not None
    assert bytes(encode_chunk(stored, "zstd")) == buffer.to_bytes()


@both_codecs
@given(
    shape=st.tuples(st.just(3), st.integers(1, 90), st.integers(1, 90)),
    seed=st.integers(0, 2**32 - 1),
    spread=st.sampled_from([1, 30, 56535]),
)
@settings(max_examples=40, deadline=None)
def test_what_is_encoded_comes_back(
    codec: Codec, shape: tuple[int, int, int], seed: int, spread: int
) -> None:
    stored = image(shape, spread, seed)
    chunk = encode_chunk(stored, codec)
    assert len(chunk) <= largest_chunk(stored.nbytes)
    np.testing.assert_array_equal(decode_chunk(chunk, shape, chunk_crc(chunk), path=""), stored)
    assert encode_chunk(stored, codec) == chunk


@pytest.mark.parametrize("spread", [1, 60, 2000, 20_000])
def test_lz4_chunks_are_about_as_small_as_blosc_s(spread: int) -> None:
    stored = image((3, 400, 600), spread)
    theirs = len(blosc.compress(stored, b"lz4", 5, blosc.BITSHUFFLE, 0))
    # What is constant has the same overhead in each block, and Blosc's blocks are larger.
    assert len(encode_chunk(stored, "lz4")) < 1.03 * theirs + 2000


def test_noise_is_stored_as_it_is() -> None:
    stored = np.random.default_rng(1).integers(0, 65536, (3, 400, 600)).astype(np.uint16)
    chunk = encode_chunk(stored, "lz4")
    assert len(chunk) == largest_chunk(stored.nbytes)
    assert bytes(chunk[BLOSC_HEADER.size : -4]) == stored.tobytes()


def test_a_block_of_noise_among_others_is_stored_as_it_is() -> None:
    stored = image((3, 512, 1024), 4)
    stored[1] = np.random.default_rng(1).integers(0, 65536, stored.shape[1:])
    chunk = encode_chunk(stored, "lz4")
    assert 1 / 3 < len(chunk) / stored.nbytes < 0.5
    decoded = decode_chunk(chunk, stored.shape, chunk_crc(chunk), path="")
    np.testing.assert_array_equal(decoded, stored)


@both_codecs
def test_a_turned_view_is_encoded_as_its_pixels_read(codec: Codec) -> None:
    turned = np.rot90(image((3, 20, 30)), axes=(1, 2))
    assert not turned.flags.c_contiguous
    chunk = encode_chunk(turned, codec)
    assert chunk == encode_chunk(turned.copy(), codec)
    decoded = decode_chunk(chunk, (3, 30, 20), chunk_crc(chunk), path="")
    np.testing.assert_array_equal(decoded, turned)


@both_codecs
def test_the_checksum_is_the_crc_of_all_bytes_before_it(codec: Codec) -> None:
    assert f"{crc32c(b'123456789'):08x}" == "e3069283"  # the published check value of CRC-32C
    chunk = encode_chunk(image((3, 4, 5)), codec)
    assert chunk_crc(chunk) == f"{crc32c(chunk[:-4]):08x}"
