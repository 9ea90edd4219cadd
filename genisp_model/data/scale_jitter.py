"""Another scale and another part of a picture, with its boxes: augmentation for training.

What is drawn for a sample is a pure function of (seed, epoch, position), as in `sensor_augment`.
Boxes are as in `augment`: numpy, float32 ``xyxy`` in pixels, edges are measures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genisp_model.data.augment import FloatArray, resize_images
from genisp_model.data.order import Purpose, uniform
from pipeline.errors import UsageError

#: How far pictures may be reduced and enlarged.
LEAST, MOST = 0.1, 10.0
#: Of a box's area: what is left of it must be at least that much for it to be a target still.
_MUST_BE_SEEN = 0.5


@dataclass(frozen=True)
class Window:
    """A rectangle of whole pixels."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class View:
    """Which part of a picture is seen, and where in a picture of the same size it is put.

    One of the two is all of it: a part is enlarged, or the whole reduced, with black around it.
    """

    source: Window
    target: Window

    def show(self, image: Tensor) -> None:
        """Change an image (3, h, w) where it is; float32, linear in light.

        Enlarged bilinearly, or reduced by area averaging as at ingest.
        """
        source, target = self.source, self.target
        if target.width < image.shape[-1] or target.height < image.shape[-2]:
            reduced = resize_images(image[None], (target.width, target.height))[0]
            image.zero_()
            self.lit(image).copy_(reduced)
        elif source != target:
            part = image[:, source.y : source.y + source.height, source.x : source.x + source.width]
            size = target.height, target.width
            image.copy_(torch.nn.functional.interpolate(part[None], size, mode="bilinear")[0])

    def lit(self, image: Tensor) -> Tensor:
        """What of an image (3, h, w) that `show` has changed is picture: a view into it."""
        window = self.target
        return image[:, window.y : window.y + window.height, window.x : window.x + window.width]

    def carry(
        self, boxes: FloatArray, labels: npt.NDArray[np.int64], ignore: FloatArray
    ) -> tuple[FloatArray, npt.NDArray[np.int64], FloatArray]:
        """Move boxes, labels and regions to ignore with the image, clipped to what is seen of it.

        A box of which less than half of the area is seen becomes a region to ignore: it is neither
        an object one could ask for nor background. What is not seen at all is left out.

        Parameters
        ----------
        boxes, labels, ignore
            (n, 4) float32, (n,) int64, (m, 4) float32.

        Returns
        -------
        The same for the changed image: copies, with fewer rows, more regions.
        """
        moved, share = self._moved(boxes)
        regions, share_of_region = self._moved(ignore)
        is_target = share >= _MUST_BE_SEEN
        lost = moved[(share > 0) & ~is_target]
        kept_regions = np.concatenate([regions[share_of_region > 0], lost])
        return moved[is_target], labels[is_target], kept_regions

    def _moved(self, boxes: FloatArray) -> tuple[FloatArray, npt.NDArray[np.float64]]:
        """Boxes (n, 4) moved and clipped, and how much of each one's area is left, (n,) 0..1."""
        source, target = self.source, self.target
        scale = np.array([target.width / source.width, target.height / source.height] * 2)
        low = np.array([target.x, target.y] * 2)
        high = low + [target.width, target.height] * 2
        moved = (boxes.astype(np.float64) - [source.x, source.y] * 2) * scale + low
        clipped = moved.clip(low, high).astype(np.float32)
        # In float32, as it will be used: what has no side there has no area.
        sides = clipped[:, 2:] - clipped[:, :2]
        area = np.prod(moved[:, 2:] - moved[:, :2], axis=1)
        seen = np.prod(sides.astype(np.float64), axis=1) * (sides > 0).all(axis=1)
        share = np.divide(seen, area, out=np.zeros(len(boxes)), where=area > 0)
        return clipped, share


@dataclass(frozen=True)
class ScaleJitter:
    """How far pictures are enlarged or reduced.

    Attributes
    ----------
    low, high
        Scales between which one is drawn, even in its logarithm. Above 1 a random part of the
        picture fills it; below 1 the picture is put somewhere on black.

    Raises
    ------
    UsageError
        If they are not ``LEAST <= low <= high <= MOST``.
    """

    low: float = 1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not LEAST <= self.low <= self.high <= MOST:
            raise UsageError(
                f"scales from {self.low} to {self.high}",
                mend=f"name a smaller and a larger scale between {LEAST} and {MOST:g}: 0.8, 1.5",
            )

    def __bool__(self) -> bool:
        """Whether it changes anything."""
        return (self.low, self.high) != (1.0, 1.0)

    def draw(
        self, positions: npt.ArrayLike, size: tuple[int, int], *, seed: int, epoch: int
    ) -> list[View]:
        """What is seen of each sample of a batch.

        Parameters
        ----------
        positions
            (n,) integers, positions in the dataset.
        size
            (width, height) of its images.
        seed, epoch
            Any integers.
        """

        def drawn(purpose: Purpose) -> list[float]:
            numbers: list[float] = uniform(
                positions, seed=seed, epoch=epoch, purpose=purpose
            ).tolist()
            return numbers

        purposes = Purpose.SCALE, Purpose.WINDOW_X, Purpose.WINDOW_Y
        return [
            _view(self.low * (self.high / self.low) ** scale, size, across, down)
            for scale, across, down in zip(*map(drawn, purposes), strict=True)
        ]


UNSCALED = ScaleJitter()


def _view(scale: float, size: tuple[int, int], across: float, down: float) -> View:
    """The view at a scale; `across` and `down`, 0..1, say where the smaller window lies."""
    width, height = (max(1, round(side * min(scale, 1 / scale))) for side in size)
    x, y = math.floor(across * (size[0] - width + 1)), math.floor(down * (size[1] - height + 1))
    part, whole = Window(x, y, width, height), Window(0, 0, *size)
    return View(part, whole) if scale > 1 else View(whole, part)
