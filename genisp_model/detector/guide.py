"""What a frozen guide is: all that the trainer and the evaluation ask of a detector.

Whatever has these names and methods guides; it need not come from torchvision, nor be a torch
module. docs/how-to/write-a-guide.md explains how to write one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


class Guide(Protocol):
    """Says what is wrong with pictures, finds objects in them, and never changes.

    A guide takes pictures as an ISP makes them: float RGB meant for 0..1, not clamped, of any size,
    on the device the guide is on. What its network needs besides (normalised colours, another size,
    sides that are multiples of 32) it does itself, and gives boxes in pixels of the picture it got.
    """

    @property
    def class_names(self) -> Mapping[int, str]:
        """Label -> name of what it finds.

        Classes of a store get its labels by their names. Boxes of other classes become regions to
        ignore; AP is computed over those it knows.
        """

    def losses(self, images: Tensor, targets: Sequence[Mapping[str, Any]]) -> Mapping[str, Tensor]:
        """How wrong a batch of pictures is.

        Parameters
        ----------
        images
            (B, 3, H, W) float.
        targets
            For each image ``boxes`` (n, 4) float ``xyxy`` in its pixels and ``labels`` (n,) int64
            in `class_names`; n may be 0. What lies over ``ignore`` (m, 4) is neither an object nor
            background.

        Returns
        -------
        Mapping
            Scalars by name, differentiable with respect to `images`. Their sum is minimised, and
            each is a column of the run's ``steps.csv``: the same names in every step.
        """

    def predict(self, images: Tensor) -> list[dict[str, Tensor]]:
        """Find objects, without gradients.

        Parameters
        ----------
        images
            As in `losses`.

        Returns
        -------
        list
            For each image ``boxes`` (n, 4) ``xyxy`` in its pixels, ``labels`` (n,) int64 in
            `class_names`, ``scores`` (n,), best first.
        """

    def state_hash(self) -> str:
        """A digest of everything that could change: a run compares it before and after."""


@runtime_checkable
class BatchGuide(Guide, Protocol):
    """A guide that looks once at a batch for all of it; the evaluation uses that where it can."""

    def losses_and_detections(
        self, images: Tensor, targets: Sequence[Mapping[str, Any]]
    ) -> tuple[Mapping[str, Tensor], list[dict[str, Tensor]]]:
        """`Guide.losses` of each image, (B,) each, and `Guide.predict`, without gradients."""
