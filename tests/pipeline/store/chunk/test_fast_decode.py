"""The fast decoder against the plain one, which Blosc defines."""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt
import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import blosc

from pipeline.errors import DamagedStoreError
from pipeline.store.chunk import fast_decode
from pipeline.store.chunk.encode import encode_chunk
from pipeline.store.chunk.fast_decode import decode_codes, decode_values, mirror, work_size
from pipeline.store.chunk.format import chunk_crc, decode_chunk
from schemas.recipe import Codec
from tests.kit.fresh_process import run_python

U16 = npt.NDArray[np.uint16]
NIGHT = 9  # noise of a few codes on a smooth picture: what stores hold
ZERO, SCALE = np.float32(14321), np.float32(3.456e-5)

SHAPES = [
    (3, 1, 1),
    (3, 7, 5),
    (3, 40, 64),
    (3, 203, 301),
    (3, 400, 600),
    (3, 128, 260),  # whole blocks
    (3, 513, 1025),
    (3, 800, 1200),
]


def image(shape: tuple[int, int, int], noise: float, seed: int = 0) -> U16:
    """(3, h, w) uint16: a gradient with noise of `noise` codes; 30000 and above is pure noise."""
    rng = np.random.default_rng(seed)
    smooth = np.linspace(14000, 21000, shape[2])[None, None, :]
    return np.clip(smooth + rng.normal(0, noise, shape), 0, 65535).astype(np.uint16)


def assert_decoded(chunk: bytes | memoryview, stored: U16) -> None:
    """Both fast decoders give the numbers of the plain one, and those that were stored."""
    crc, shape = chunk_crc(chunk), stored.shape
    view = memoryview(chunk)
    np.testing.assert_array_equal(decode_chunk(view, shape, crc, path=""), stored)
    work, codes = np.empty(work_size(stored.nbytes), np.uint8), np.zeros_like(stored)
    decode_codes(view, shape, crc, path="", work=work, out=codes)
    np.testing.assert_array_equal(codes, stored)
    values = np.zeros(shape, np.float32)
    decode_values(view, crc, path="", work=work, out=values, zero=ZERO, scale=SCALE)
    expected = (stored.astype(np.float32) - ZERO) * SCALE
    np.testing.assert_array_equal(values, expected)
    mirror(values)
    np.testing.assert_array_equal(values, expected[:, :, ::-1])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("noise", [0.0, NIGHT, 300.0, 30000.0])
@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_decoded_numbers_are_the_plain_codec_s(
    shape: tuple[int, int, int], noise: float, codec: Codec
) -> None:
    stored = image(shape, noise)
    assert_decoded(encode_chunk(stored, codec), stored)


@given(st.integers(1, 400), st.integers(1, 700), st.floats(0, 4), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_any_shape_and_noise_comes_back(h: int, w: int, log: float, seed: int) -> None:
    stored = image((3, h, w), 10**log, seed)
    assert_decoded(encode_chunk(stored, "lz4"), stored)


@pytest.mark.parametrize("blocksize", [0, 4096, 100_000])
@pytest.mark.parametrize("shape", SHAPES)
def test_chunks_that_blosc_itself_made_are_read(
    shape: tuple[int, int, int], blocksize: int
) -> None:
    stored = image(shape, NIGHT)
    body = blosc.compress(stored, b"lz4", 5, blosc.BITSHUFFLE, blocksize)
    assert_decoded(body + struct.pack("<I", crc32c(body)), stored)


def test_our_own_chunks_are_not_left_to_blosc(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        pytest.fail("Blosc was asked")

    stored = image((3, 203, 301), NIGHT)
    chunk = encode_chunk(stored, "lz4")
    monkeypatch.setattr(fast_decode, "decompress_chunk", never)
    work, codes = np.empty(work_size(stored.nbytes), np.uint8), np.zeros_like(stored)
    decode_codes(chunk, stored.shape, chunk_crc(chunk), path="", work=work, out=codes)
    np.testing.assert_array_equal(codes, stored)


@given(st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_a_flipped_bit_never_decodes(at: int) -> None:
    stored = image((3, 60, 80), NIGHT)
    chunk = bytearray(encode_chunk(stored, "lz4"))
    crc = chunk_crc(bytes(chunk))
    chunk[at % len(chunk)] ^= 1 << at % 8
    work, codes = np.empty(work_size(stored.nbytes), np.uint8), np.zeros_like(stored)
    with pytest.raises(DamagedStoreError):
        decode_codes(memoryview(chunk), stored.shape, crc, path="x", work=work, out=codes)


@pytest.mark.parametrize(
    ("held", "shape"),
    [
        ((3, 60, 80), (3, 60, 81)),
        ((3, 60, 80), (3, 59, 80)),
        ((3, 128, 520), (3, 128, 260)),  # whole blocks too many
    ],
)
def test_a_chunk_of_another_size_than_recorded_is_refused(
    held: tuple[int, int, int], shape: tuple[int, int, int]
) -> None:
    stored = image(held, NIGHT)
    chunk = encode_chunk(stored, "lz4")
    crc, work = chunk_crc(chunk), np.empty(work_size(2 * stored.nbytes), np.uint8)
    with pytest.raises(DamagedStoreError, match="expected"):
        decode_codes(chunk, shape, crc, path="x", work=work, out=np.zeros(shape, np.uint16))
    values = np.zeros(shape, np.float32)
    with pytest.raises(DamagedStoreError, match="expected"):
        decode_values(chunk, crc, path="x", work=work, out=values, zero=ZERO, scale=SCALE)


FENCED = """
import struct
import numpy as np
from crc32c import crc32c
from pipeline.store.chunk.format import BLOSC_HEADER
from pipeline.store.chunk.fast_decode import decode_codes, work_size
from pipeline.store.chunk.encode import encode_chunk
from pipeline.errors import DamagedStoreError
from tests.pipeline.store.chunk.test_fast_decode import NIGHT, image
from tests.kit.fenced_memory import Fenced

stored = image((3, 128, 260), NIGHT)
whole = bytes(encode_chunk(stored, "lz4")[:-4])
header = list(BLOSC_HEADER.unpack_from(whole))
out, work = np.zeros_like(stored), Fenced(work_size(stored.nbytes)).array(work_size(stored.nbytes))
first = struct.unpack_from("<I", whole, BLOSC_HEADER.size)[0]
crafted = [whole[:at] + struct.pack("<I", word) + whole[at + 4 :]
           for at in (BLOSC_HEADER.size, BLOSC_HEADER.size + 8, first)
           for word in (0, 15, len(whole) - 3, len(whole), len(whole) + 4096, 2**31, 2**32 - 1)]
for blocksize in (2, 16, 254):
    header[5] = blocksize
    crafted.append(BLOSC_HEADER.pack(*header) + whole[BLOSC_HEADER.size :])
last = struct.unpack_from("<I", whole, BLOSC_HEADER.size + 8)[0]
for left in range(100, len(whole) - last, 1000):  # only the page behind the end is guarded
    cut = whole[:last] + struct.pack("<I", 60_000) + whole[last + 4 : last + left]
    header[5:] = stored.nbytes // 3, len(cut)
    crafted.append(BLOSC_HEADER.pack(*header) + cut[BLOSC_HEADER.size :])
refused = 0
for body in crafted:
    chunk = body + struct.pack("<I", crc32c(body))
    fence = Fenced(len(chunk))
    view = fence.holding(chunk)
    try:
        decode_codes(view, stored.shape, f"{crc32c(body):08x}", path="p", work=work, out=out)
    except DamagedStoreError:
        refused += 1
print(refused, len(crafted))
"""


def test_no_number_in_a_frame_leads_outside_its_memory() -> None:
    """Before a page that ends a process that touches it."""
    refused, crafted = run_python(FENCED).split()
    assert refused == crafted
