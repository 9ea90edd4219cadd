"""What the compiled pass counts while it develops, counted by numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.develop.statistics import CODES


def histogram(stored: npt.NDArray[np.uint16]) -> npt.NDArray[np.int64]:
    """(3, 65536) counts of every code in each plane of a (3, H, W) level."""
    return np.stack([np.bincount(plane.ravel(), minlength=CODES) for plane in stored])
