"""Statistics of a stored level from the histogram of its codes: exact, and cheap to verify."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from schemas.fixed_point import FixedPoint
from schemas.sidecar import PlaneStatistics

CODES = 65536


def level_statistics(
    counts: npt.NDArray[np.integer], fixed_point: FixedPoint, names: Sequence[str]
) -> dict[str, PlaneStatistics]:
    """Mean, share below 0 and percentiles of each plane.

    Parameters
    ----------
    counts
        (3, 65536) histogram of stored codes.
    fixed_point
        Turns codes into values.
    names
        Plane names, in order.
    """
    return {
        name: _plane_statistics(plane, fixed_point)
        for name, plane in zip(names, counts, strict=True)
    }


def _plane_statistics(counts: npt.NDArray[np.integer], fixed_point: FixedPoint) -> PlaneStatistics:
    codes = np.flatnonzero(counts > 0)  # in a night image most codes have no pixel
    cumulative = np.cumsum(counts[codes], dtype=np.int64)
    total = int(cumulative[-1])
    code_sum = int(np.dot(codes, counts[codes].astype(np.int64)))
    below_zero = int(np.searchsorted(codes, fixed_point.zero_code))

    def value(code: float) -> float:
        return code * fixed_point.scale_factor + fixed_point.add_offset

    def percentile(permille: int) -> float:
        # Nearest rank: the smallest code with at least this share of pixels at or below it.
        # In integers: as floats, 0.999 * 960000 is slightly above 959040, so one rank too far.
        rank = -(-permille * total // 1000)
        return value(int(codes[np.searchsorted(cumulative, rank)]))

    return PlaneStatistics(
        mean=value(code_sum / total),
        share_below_zero=int(cumulative[below_zero - 1]) / total if below_zero else 0.0,
        p1=percentile(10),
        p50=percentile(500),
        p99=percentile(990),
        p99_9=percentile(999),
    )
