"""The fast chunk codec against the plain one, which Blosc and zarr define."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numcodecs import blosc

from pipeline.bitplanes import block_to_planes, planes_to_codes, planes_to_values
from pipeline.chunk import chunk_crc, decode_chunk, encode_chunk
from pipeline.errors import DamagedStoreError
from pipeline.fast_chunk import decode_codes, decode_values, encode_chunk_fast, mirror
from schemas.recipe import Codec

U16 = npt.NDArray[np.uint16]
NIGHT = 9  # noise of a few codes on a smooth picture: what stores hold


def image(shape: tuple[int, int, int], noise: float, seed: int = 0) -> U16:
    """(3, h, w) uint16: a gradient with noise of `noise` codes; 30000 and above is pure noise."""
    rng = np.random.default_rng(seed)
    smooth = np.linspace(14000, 21000, shape[2])[None, None, :]
    return np.clip(smooth + rng.normal(0, noise, shape), 0, 65535).astype(np.uint16)


def assert_same_bytes(stored: U16, codec: Codec) -> None:
    ours, plain = encode_chunk_fast(stored, codec), encode_chunk(stored, codec)
    assert b"".join(ours.pieces) == plain
    assert (ours.nbytes, ours.crc) == (len(plain), chunk_crc(plain))


def blosc_planes(codes: U16) -> npt.NDArray[np.uint8]:
    """The bit planes of one block as Blosc makes them, seen by not undoing them."""
    compressed = bytearray(blosc.compress(codes, b"lz4", 5, blosc.BITSHUFFLE, 2 * codes.nbytes))
    assert not compressed[2] & 0x2, "stored as it is: nothing to see"
    compressed[2] &= ~0x4
    return np.frombuffer(blosc.decompress(compressed), np.uint8)


@given(st.integers(64, 3000), st.integers(0, 2**32))
@example(8 * 256, 0)
@example(8 * 256 + 8, 0)
@example(257, 0)
@settings(max_examples=60, deadline=None)
def test_bit_planes_are_blosc_s(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes = (rng.integers(0, 4, count) + rng.integers(0, 65532)).astype(np.uint16)
    expected = blosc_planes(codes)
    planes = np.zeros(codes.nbytes, np.uint8)
    block_to_planes(codes, planes)
    np.testing.assert_array_equal(planes, expected)
    back = np.zeros_like(codes)
    planes_to_codes(planes, codes.nbytes, back)
    np.testing.assert_array_equal(back, codes)
    zero, scale = np.float32(14005), np.float32(3.4e-5)
    for start in range(9):  # aligned memory is written in another way
        values = np.full(count + 16, np.nan, np.float32)
        planes_to_values(planes, codes.nbytes, values[start : start + count], zero, scale)
        expected_values = (codes.astype(np.float32) - zero) * scale
        np.testing.assert_array_equal(values[start : start + count], expected_values)
        assert np.isnan(values[:start]).all()
        assert np.isnan(values[start + count :]).all()


SHAPES = [
    (3, 1, 1),
    (3, 7, 5),
    (3, 40, 64),
    (3, 203, 301),
    (3, 400, 600),
    (3, 512, 1024),  # blocks without a rest
    (3, 513, 1025),
    (3, 800, 1200),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("noise", [0.0, NIGHT, 300.0, 30000.0])
@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_encoded_bytes_are_the_plain_codec_s(
    shape: tuple[int, int, int], noise: float, codec: Codec
) -> None:
    stored = image(shape, noise)
    assert_same_bytes(stored, codec)


@given(st.integers(1, 400), st.integers(1, 700), st.floats(0, 4), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_any_shape_and_noise_encodes_to_the_same_bytes(
    h: int, w: int, log: float, seed: int
) -> None:
    stored = image((3, h, w), 10**log, seed)
    assert_same_bytes(stored, "lz4")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("noise", [0.0, NIGHT, 30000.0])
@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_decoded_numbers_are_the_plain_codec_s(
    shape: tuple[int, int, int], noise: float, codec: Codec
) -> None:
    stored = image(shape, noise)
    chunk = encode_chunk(stored, codec)
    crc = chunk_crc(chunk)
    planes = np.empty(stored.nbytes + 3, np.uint8)
    codes = np.zeros_like(stored)
    decode_codes(memoryview(bytearray(chunk)), shape, crc, path="", planes=planes, out=codes)
    np.testing.assert_array_equal(codes, decode_chunk(memoryview(chunk), shape, crc, path=""))
    zero, scale = np.float32(14321), np.float32(3.456e-5)
    plain = (stored.astype(np.float32) - zero) * scale
    values = np.zeros(shape, np.float32)
    writable = memoryview(bytearray(chunk))
    decode_values(writable, crc, path="", planes=planes, out=values, zero=zero, scale=scale)
    np.testing.assert_array_equal(values, plain)
    mirror(values)
    np.testing.assert_array_equal(values, plain[:, :, ::-1])


@given(st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_a_flipped_bit_never_decodes(at: int) -> None:
    stored = image((3, 60, 80), NIGHT)
    chunk = bytearray(encode_chunk(stored, "lz4"))
    crc = chunk_crc(bytes(chunk))
    chunk[at % len(chunk)] ^= 1 << at % 8
    planes, codes = np.empty(stored.nbytes, np.uint8), np.zeros_like(stored)
    with pytest.raises(DamagedStoreError):
        decode_codes(memoryview(chunk), stored.shape, crc, path="x", planes=planes, out=codes)
