from __future__ import annotations

from fractions import Fraction
from math import ceil

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.develop.statistics import CODES, level_statistics
from schemas.fixed_point import FixedPoint
from tests.kit.stored import histogram

# Binary fractions: decoded values are exact, so the oracle's floats are too.
POINT = FixedPoint(scale_factor=2.0**-15, add_offset=-(2.0**-15) * 9000)
PERCENTILES = {"p1": "1", "p50": "50", "p99": "99", "p99_9": "99.9"}


def level(seed: int, shape: tuple[int, int], spread: int) -> npt.NDArray[np.uint16]:
    """Codes around zero's own (9000), so that some are below it and many are alike."""
    rng = np.random.default_rng(seed)
    return (9000 + rng.integers(-spread, spread + 1, (3, *shape))).clip(0, 65535).astype(np.uint16)


def decoded(stored: npt.NDArray[np.uint16]) -> npt.NDArray[np.float64]:
    return stored.astype(np.float64) * POINT.scale_factor + POINT.add_offset


def nearest_rank(values: npt.NDArray[np.float64], percent: str) -> float:
    """Exact by rational arithmetic: no float decides a rank."""
    ordered = np.sort(values, axis=None)
    return float(ordered[ceil(Fraction(percent) / 100 * len(ordered)) - 1])


@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    spread=st.sampled_from([0, 1, 5, 300, 60000]),
)
@example(seed=1, shape=(40, 25), spread=60000)  # 1000 pixels: 99.9 % is the 999th exactly
@settings(max_examples=100, deadline=None)
def test_statistics_equal_those_of_the_decoded_values(
    seed: int, shape: tuple[int, int], spread: int
) -> None:
    stored = level(seed, shape, spread)
    found = level_statistics(histogram(stored), POINT, ("X", "Y", "Z"))
    assert list(found) == ["X", "Y", "Z"]
    for plane, values in zip(found.values(), decoded(stored), strict=True):
        assert plane.mean == pytest.approx(values.mean(), rel=1e-12, abs=1e-12)
        assert plane.share_below_zero == np.count_nonzero(values < 0) / values.size
        for name, percent in PERCENTILES.items():
            assert getattr(plane, name) == nearest_rank(values, percent), name


@pytest.mark.parametrize("shape", [(37, 41), (100, 101)])
def test_percentiles_are_numpys_inverted_cdf(shape: tuple[int, int]) -> None:
    stored = level(5, shape, 20000)
    found = level_statistics(histogram(stored), POINT, ("R", "G", "B"))
    for plane, values in zip(found.values(), decoded(stored), strict=True):
        for name, percent in PERCENTILES.items():
            expected = np.percentile(values, float(percent), method="inverted_cdf")
            assert getattr(plane, name) == expected


def test_the_rank_is_exact_at_the_size_of_a_resized_image() -> None:
    # 1200 x 800: in floats 0.999 * 960000 lies above 959040, and its ceiling one rank too far.
    counts = np.zeros((1, CODES), np.int64)
    counts[0, 100], counts[0, 200] = 959040, 960
    point = FixedPoint(1.0, 0.0)
    assert level_statistics(counts, point, ("Y",))["Y"].p99_9 == 100


@pytest.mark.parametrize("code", [0, 9000, 65535])
def test_a_constant_plane_is_its_own_statistics(code: int) -> None:
    stored = np.full((1, 4, 6), code, np.uint16)
    plane = level_statistics(histogram(stored), POINT, ("Y",))["Y"]
    value = code * POINT.scale_factor + POINT.add_offset
    assert (plane.mean, plane.p1, plane.p50, plane.p99, plane.p99_9) == (value,) * 5
    assert plane.share_below_zero == (1.0 if code < 9000 else 0.0)
