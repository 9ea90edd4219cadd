"""In which unit the boxes of a file are, where that is not pixels of their frames. Pure.

COCO says ``[x, y, width, height]`` in pixels. Exports also hold fractions of the frame, per cent,
corners ``[x1, y1, x2, y2]``, or pixels of a picture of another size. What is certain is refused;
what only seems so is reported.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

_FRACTION: Final = 1.05
"""Boxes of fractions reach this far: some tools write 1.0003 for the edge."""

_PERCENT: Final = 100.5

_CHANCE: Final = 1e-9
"""Boxes in pixels would lie in a corner by chance as rarely as this: then it is no chance."""

_SUSPICIOUS_CHANCE: Final = 1e-6
_MANY: Final = 0.1  # share of the boxes of a file that leave their frames
_MOST: Final = 0.5
_OVER: Final = 0.02  # of a side; less is carelessness
_CORNER: Final = 0.55
_CORNER_IMAGES: Final = 20


@dataclass(frozen=True)
class BoxesOfFile:
    """All boxes of a file.

    Attributes
    ----------
    bbox
        (n, 4) float64 as given, finite.
    image
        (n,) int64, number of each box's image.
    width, height
        (n,) float64, size of each box's image in pixels.
    """

    bbox: npt.NDArray[np.float64]
    image: npt.NDArray[np.int64]
    width: npt.NDArray[np.float64]
    height: npt.NDArray[np.float64]

    @classmethod
    def of(
        cls,
        bbox: npt.NDArray[np.float64],
        image: npt.NDArray[np.int64],
        size: npt.NDArray[np.int64],
    ) -> BoxesOfFile:
        """Those that are finite, with ``size`` (m, 2) the width and height of each image."""
        finite = np.isfinite(bbox).all(axis=1) & (np.abs(bbox) < 1e9).all(axis=1)
        bbox, image = bbox[finite], image[finite]
        width, height = size[image].T.astype(np.float64)
        return cls(bbox, image, width, height)


class Doubt(NamedTuple):
    """One thing that boxes seem to be.

    Attributes
    ----------
    images
        Numbers of the images that cannot be used; none where it is only a suspicion.
    """

    message: str
    mend: str
    images: npt.NDArray[np.int64]


_NONE: Final = np.empty(0, np.int64)
_EXPORT: Final = "Export the boxes as COCO writes them: [x, y, width, height] in pixels."


def doubts(boxes: BoxesOfFile) -> Iterator[Doubt]:
    """What the boxes of a file are, if it is not what COCO says; nothing for boxes in pixels."""
    fractions = _images_of_fractions(boxes)
    if len(fractions):
        yield Doubt("its boxes are fractions of the frame (0 to 1), not pixels", _EXPORT, fractions)
    rest = ~np.isin(boxes.image, fractions)
    if rest.any():
        left = BoxesOfFile(*(column[rest] for column in vars(boxes).values()))
        found = _percent(left) or _corners(left) or _other_size(left)
        if found is not None:
            yield found


def _images_of_fractions(boxes: BoxesOfFile) -> npt.NDArray[np.int64]:
    """Images all of whose boxes are within 0..1: in pixels they would be specks in one corner."""
    small = (np.abs(boxes.bbox - 0.5) <= _FRACTION - 0.5).all(axis=1)
    broken = (boxes.bbox != np.round(boxes.bbox)).any(axis=1)
    return np.setdiff1d(boxes.image[small & broken], boxes.image[~small])


def _percent(boxes: BoxesOfFile) -> Doubt | None:
    edge = boxes.bbox[:, :2] + boxes.bbox[:, 2:]
    if edge.max() > _PERCENT or boxes.bbox.min() < -0.5 or edge.max() <= _FRACTION:
        return None
    share = np.minimum(_PERCENT / boxes.width, 1) * np.minimum(_PERCENT / boxes.height, 1)
    images, first = np.unique(boxes.image, return_index=True)
    message = "its boxes are per cent of the frame (0 to 100), not pixels"
    if np.log(share[first]).sum() < np.log(_CHANCE):
        return Doubt(message, _EXPORT, images)
    if len(share) > 2 and np.log(share).sum() < np.log(_SUSPICIOUS_CHANCE):
        message = f"all {len(edge):,} boxes lie in the top-left 100x100 px: are they per cent "
        message += "of the frame?"
        return Doubt(message, _EXPORT, _NONE)
    return None


def _corners(boxes: BoxesOfFile) -> Doubt | None:
    """Boxes that leave their frames, and would not as ``[x1, y1, x2, y2]``."""
    leaves = _leaves(boxes)
    x, y, right, bottom = boxes.bbox.T
    fit = (right > x) & (bottom > y) & (right <= boxes.width + 1) & (bottom <= boxes.height + 1)
    if leaves.sum() < max(2, _MANY * len(leaves)) or not fit.all():
        return None
    return Doubt(
        f"{leaves.sum():,} of {len(leaves):,} boxes leave their frames; as [x1, y1, x2, y2] all "
        "would be inside: are they corners?",
        _EXPORT,
        _NONE,
    )


def _other_size(boxes: BoxesOfFile) -> Doubt | None:
    """Boxes drawn in a picture that is larger or smaller than its record says."""
    across, down = _reach(boxes)
    leaves = _leaves(boxes)
    reach = f"{across.max():.3g} times their width and {down.max():.3g} times their height"
    mend = "Give each image the width and height of the picture its boxes were drawn in."
    if leaves.sum() >= max(2, _MANY * len(leaves)):
        certain = leaves.mean() >= _MOST
        message = (
            f"its boxes are in pixels of another size: {leaves.sum():,} of {len(leaves):,} leave "
            f"their frames, they reach to {reach}"
        )
        if not certain:
            message = f"{leaves.sum():,} of {len(leaves):,} boxes leave their frames ({reach})"
        return Doubt(message, mend, np.unique(boxes.image[leaves]) if certain else _NONE)
    in_corner = max(across.max(), down.max()) <= _CORNER
    if in_corner and len(np.unique(boxes.image)) >= _CORNER_IMAGES:
        message = f"no box of any image reaches further than {reach}: are they of another size?"
        return Doubt(message, mend, _NONE)
    return None


def _reach(boxes: BoxesOfFile) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """How far each box reaches to the right and down, as shares of its frame."""
    x, y, width, height = boxes.bbox.T
    return (x + width) / boxes.width, (y + height) / boxes.height


def _leaves(boxes: BoxesOfFile) -> npt.NDArray[np.bool_]:
    return np.maximum(*_reach(boxes)) > 1 + _OVER
