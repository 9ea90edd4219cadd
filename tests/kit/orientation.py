"""What the eight EXIF orientations mean, written from the specification with plain numpy."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from schemas.sidecar import Orientation

ORIENTATIONS: tuple[Orientation, ...] = get_args(Orientation)


def shown(stored: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """(..., h, w) as it is to be shown.

    EXIF 2.32, tag 274, says where row 0 and column 0 of the stored picture lie when it is shown.
    """
    if orientation == 2:  # row 0 top, column 0 right
        return np.flip(stored, -1)
    if orientation == 3:  # bottom, right
        return np.flip(stored, (-2, -1))
    if orientation == 4:  # bottom, left
        return np.flip(stored, -2)
    if orientation == 5:  # row 0 left, column 0 top
        return np.swapaxes(stored, -2, -1)
    if orientation == 6:  # right, top
        return np.rot90(stored, -1, axes=(-2, -1))
    if orientation == 7:  # right, bottom
        return np.flip(np.swapaxes(stored, -2, -1), (-2, -1))
    if orientation == 8:  # left, bottom
        return np.rot90(stored, 1, axes=(-2, -1))
    return stored
