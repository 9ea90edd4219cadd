"""The bits of Nikon's code, counted in vectors, beside the plain sum over all samples."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.nikon_code import DEPTHS, bits_of_difference, coded_bits


def plain_sum(mosaic: npt.NDArray[np.uint16], predictors: npt.NDArray[np.int32], depth: int) -> int:
    table, samples = bits_of_difference(depth), mosaic.astype(int)
    total = 0
    for y, row in enumerate(samples):
        above = predictors[y] if y < 2 else samples[y - 2, :2]
        differences = np.concatenate([row[:2] - above, row[2:] - row[:-2]])
        total += int(table[abs(differences)].sum())
    return total


@pytest.mark.parametrize("depth", DEPTHS)
def test_codes_of_both_depths_are_complete(depth: int) -> None:
    table = bits_of_difference(depth)[: 1 << depth].astype(int)
    lengths = [int(table[(1 << length) >> 1]) - length for length in range(depth + 1)]
    assert sum(2.0**-length for length in lengths) == pytest.approx(1, abs=2**-8)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("width", [2, 3, 65, 66, 67, 130, 333])
def test_bits_are_those_of_the_plain_sum(depth: int, width: int) -> None:
    rng = np.random.default_rng(width)
    predictors = rng.integers(0, 1 << depth, (2, 2)).astype(np.int32)
    # From noise to differences that no code says, whole rows of each and mixed.
    for largest in (1, 2, 40, 511, 513, 1 << depth, 1 << 16):
        mosaic = rng.integers(0, largest, (7, width)).astype(np.uint16)
        mosaic[3, :: int(rng.integers(5, 50))] = rng.integers(0, 1 << depth)
        assert coded_bits(mosaic, predictors, depth) == plain_sum(mosaic, predictors, depth)


def test_every_magnitude_costs_what_the_table_says() -> None:
    magnitudes = np.arange(1 << 16, dtype=np.uint16)
    for depth in DEPTHS:
        table = bits_of_difference(depth).astype(int)
        for sign in (1, -1):
            row = np.zeros((1, 2 * len(magnitudes)), np.uint16)
            row[0, ::2][1::2] = magnitudes[1::2]  # from 0 up and back, by every odd magnitude
            row[0, 1::2][1::2] = magnitudes[::2]
            found = coded_bits(row[:, ::sign], np.zeros((2, 2), np.int32), depth)
            assert found == plain_sum(row[:, ::sign], np.zeros((2, 2), np.int32), depth)
            assert found > int(table[magnitudes[1::2]].sum())
