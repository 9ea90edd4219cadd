from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.develop.resample import AxisWeights, area_weights, fitted_size


@st.composite
def lengths(draw: st.DrawFn) -> tuple[int, int]:
    n_in = draw(st.integers(1, 90))
    return n_in, draw(st.integers(1, n_in))


def apply(weights: AxisWeights, line: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    out = np.zeros(len(weights.first))
    for i, first in enumerate(weights.first):
        for tap, weight in enumerate(weights.weights[i]):
            if weight:
                out[i] += float(weight) * line[first + tap]
    return out


def by_repetition(line: npt.NDArray[np.float64], n_out: int) -> npt.NDArray[np.float64]:
    """Exact area average: every pixel cut into n_out pieces, then groups of n_in pieces."""
    averaged: npt.NDArray[np.float64] = (
        np.repeat(line, n_out).reshape(n_out, len(line)).mean(axis=1)
    )
    return averaged


def test_three_pixels_become_two_by_hand() -> None:
    weights = area_weights(3, 2)
    assert weights.first.tolist() == [0, 1]
    np.testing.assert_allclose(weights.weights, [[2 / 3, 1 / 3], [1 / 3, 2 / 3]], rtol=1e-7)


def test_halving_averages_pairs() -> None:
    weights = area_weights(6, 3)
    assert weights.first.tolist() == [0, 2, 4]
    assert weights.weights.tolist() == [[0.5, 0.5]] * 3


@given(sizes=lengths(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=200, deadline=None)
def test_weights_give_the_exact_area_average(sizes: tuple[int, int], seed: int) -> None:
    n_in, n_out = sizes
    line = np.random.default_rng(seed).uniform(-1, 1, n_in)
    averaged = apply(area_weights(n_in, n_out), line)
    np.testing.assert_allclose(averaged, by_repetition(line, n_out), atol=1e-6)


@given(sizes=lengths())
@settings(max_examples=200, deadline=None)
def test_every_input_pixel_counts_alike_and_every_output_sums_to_one(
    sizes: tuple[int, int],
) -> None:
    n_in, n_out = sizes
    weights = area_weights(n_in, n_out)
    received = np.zeros(n_in)
    for first, row in zip(weights.first, weights.weights, strict=True):
        for tap in np.flatnonzero(row):
            received[first + tap] += row[tap]
    np.testing.assert_allclose(weights.weights.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(received, n_out / n_in, atol=1e-6)


def test_nothing_is_averaged_where_sizes_are_equal() -> None:
    weights = area_weights(7, 7)
    assert weights.first.tolist() == list(range(7))
    assert weights.weights.tolist() == [[1.0]] * 7


@pytest.mark.parametrize(("n_in", "n_out"), [(4, 5), (4, 0), (0, 0), (3, -1)])
def test_enlarging_and_empty_axes_are_refused(n_in: int, n_out: int) -> None:
    with pytest.raises(ValueError, match="cannot average"):
        area_weights(n_in, n_out)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((2736, 1824), (1200, 800)),  # Sony RX100 VII
        ((1824, 2736), (800, 1200)),  # the same, upright
        ((1968, 1312), (1200, 800)),  # Nikon D750, DX
        ((3000, 1000), (1333, 444)),  # the long side binds
        ((1000, 3000), (444, 1333)),
        ((1200, 800), (1200, 800)),
        ((1006, 662), (1006, 662)),  # Nikon D1: smaller, so untouched
        ((30000, 2), (1333, 1)),
    ],
)
def test_sizes_fit_and_keep_their_aspect(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fitted_size(size, (1333, 800)) == expected


@given(
    width=st.integers(1, 6000),
    height=st.integers(1, 6000),
    short=st.integers(16, 2000),
    extra=st.integers(0, 2000),
)
@settings(max_examples=300, deadline=None)
def test_a_fitted_size_fits_is_never_larger_and_keeps_the_aspect(
    width: int, height: int, short: int, extra: int
) -> None:
    long = short + extra
    fitted = fitted_size((width, height), (long, short))
    assert max(fitted) <= long
    assert min(fitted) <= short
    assert 1 <= fitted[0] <= width
    assert 1 <= fitted[1] <= height
    if width <= height:
        assert fitted[0] <= fitted[1]
    scale = min(
        Fraction(1), Fraction(short, min(width, height)), Fraction(long, max(width, height))
    )
    for side, original in zip(fitted, (width, height), strict=True):
        exact = max(Fraction(1), original * scale)
        assert abs(side - exact) <= Fraction(1, 2) + Fraction(1, 10**6)
