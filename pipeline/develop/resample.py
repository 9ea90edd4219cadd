"""Exact area averaging: how much of each input pixel falls into each output pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class AxisWeights:
    """Area weights along one axis.

    Attributes
    ----------
    first
        (n_out,) int64: first input pixel that overlaps each output pixel.
    weights
        (n_out, taps) float32: share of the output pixel covered by inputs ``first``,
        ``first + 1``, ...; each row sums to 1, unused taps are 0.
    """

    first: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]


def fitted_size(size: tuple[int, int], fit: tuple[int, int]) -> tuple[int, int]:
    """(width, height) scaled to fit (long side, short side); aspect kept, never enlarged."""
    width, height = size
    long_side, short_side = fit
    scale = min(1.0, short_side / min(size), long_side / max(size))
    return max(1, round(width * scale)), max(1, round(height * scale))


def area_weights(n_in: int, n_out: int) -> AxisWeights:
    """Weights that average `n_in` pixels into `n_out` <= `n_in` equal stretches."""
    if not 1 <= n_out <= n_in:
        raise ValueError(f"cannot average {n_in} pixels into {n_out}")
    # Integer arithmetic in units of 1/(n_in * n_out) of the axis keeps the overlaps exact.
    start = np.arange(n_out, dtype=np.int64) * n_in
    first = start // n_out
    taps = int(((start + n_in - 1) // n_out - first).max()) + 1
    pixel = first[:, None] + np.arange(taps)
    overlap = np.minimum((pixel + 1) * n_out, (start + n_in)[:, None]) - np.maximum(
        pixel * n_out, start[:, None]
    )
    return AxisWeights(first, (np.maximum(overlap, 0) / n_in).astype(np.float32))
