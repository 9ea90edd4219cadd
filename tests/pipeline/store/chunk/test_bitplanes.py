"""Bit planes made and undone, against those Blosc makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numcodecs import blosc

from pipeline.store.chunk.addresses import address
from pipeline.store.chunk.bitplanes import (
    codes_to_planes,
    find_planes,
    planes_to_codes,
    planes_to_values,
)
from tests.kit.fresh_process import run_python


def blosc_planes(codes: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
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
    codes_to_planes(codes, planes)
    np.testing.assert_array_equal(planes, expected)
    rows = find_planes(address(planes), count)
    back = np.zeros_like(codes)
    planes_to_codes(rows, back)
    np.testing.assert_array_equal(back, codes)
    zero, scale = np.float32(14005), np.float32(3.4e-5)
    for start in range(9):  # aligned memory is written in another way
        values = np.full(count + 16, np.nan, np.float32)
        planes_to_values(rows, values[start : start + count], zero, scale)
        expected_values = (codes.astype(np.float32) - zero) * scale
        np.testing.assert_array_equal(values[start : start + count], expected_values)
        assert np.isnan(values[:start]).all()
        assert np.isnan(values[start + count :]).all()


@given(st.permutations(range(16)), st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_planes_need_not_lie_together(places: list[int], seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 65536, 520).astype(np.uint16)
    planes = np.zeros((16, 65), np.uint8)
    codes_to_planes(codes, planes.reshape(-1))
    scattered = np.zeros((16, 80), np.uint8)
    scattered[places, :65] = planes
    rows = np.array([address(scattered[place]) for place in places])
    back = np.zeros_like(codes)
    planes_to_codes(rows, back)
    np.testing.assert_array_equal(back, codes)


def packed_bits(codes: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
    """(16, n / 8) uint8: the planes by numpy."""
    bits = (codes >> np.arange(16, dtype=np.uint16)[:, None]) & 1
    return np.packbits(bits.astype(np.uint8), axis=1, bitorder="little")


def check_against_numpy() -> None:
    """Every bit of every lane: noise, and a single bit at each place of a tile."""
    rng = np.random.default_rng(7)
    pictures = [rng.integers(0, 65536, 1032).astype(np.uint16)]
    for place in range(0, 256 * 16, 7):
        single = np.zeros(264, np.uint16)
        single[place // 16] = 1 << place % 16
        pictures.append(single)
    for codes in pictures:
        planes = np.zeros(codes.nbytes, np.uint8)
        codes_to_planes(codes, planes)
        np.testing.assert_array_equal(planes.reshape(16, -1), packed_bits(codes))
        back = np.zeros_like(codes)
        planes_to_codes(find_planes(address(planes), codes.size), back)
        np.testing.assert_array_equal(back, codes)


def test_bit_planes_are_numpy_s() -> None:
    check_against_numpy()


def test_the_plainest_processor_makes_the_same_planes(tmp_path: Path) -> None:
    """No instruction set is assumed: compiled for what every processor of this kind has."""
    code = "from tests.pipeline.store.chunk.test_bitplanes import *; check_against_numpy()"
    plain = {"NUMBA_CPU_NAME": "generic", "NUMBA_CACHE_DIR": str(tmp_path)}
    run_python(code, environment=plain)
    assert any(tmp_path.rglob("*.nbi")), "nothing was compiled anew"
