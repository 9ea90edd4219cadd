"""What a sample's annotation says, as the evaluation needs it: in the annotated frame, by name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from schemas.coco import Box
from schemas.finding_codes import FindingCode
from schemas.sidecar import Sidecar


@dataclass(frozen=True, slots=True)
class Truth:
    """The objects and regions of one image.

    Bytes, not arrays, as in `SampleRecord`.

    Attributes
    ----------
    frame
        (width, height) of the frame its boxes are annotated in, in pixels.
    names
        The class of each row, mapped as the store's recipe says; empty for a class without a name.
    """

    frame: tuple[int, int]
    names: tuple[str, ...]
    _numbers: bytes = field(repr=False)
    _regions: bytes = field(repr=False)

    @classmethod
    def of(cls, sidecar: Sidecar, class_of: Callable[[str], str]) -> Truth:
        """The truth of a sidecar; `class_of` maps names as annotated to classes."""
        annotation, frame = sidecar.annotation, sidecar.frame
        boxes = [box for box in (annotation.boxes if annotation else ()) if _counts(box)]
        numbers = [(*box.bbox, _area(box)) for box in boxes]
        return cls(
            frame=(
                round(frame.size[0] / frame.box_scale[0]),
                round(frame.size[1] / frame.box_scale[1]),
            ),
            names=tuple(sys.intern(_class_name(box, class_of)) for box in boxes),
            _numbers=np.array(numbers, np.float64).tobytes(),
            _regions=np.array([box.ignored for box in boxes], np.bool_).tobytes(),
        )

    @classmethod
    def made(
        cls,
        frame: tuple[int, int],
        names: tuple[str, ...],
        bboxes: npt.ArrayLike,
        areas: npt.ArrayLike,
        is_region: npt.ArrayLike,
    ) -> Truth:
        """A truth of arrays, see `bboxes`, `areas`, `is_region`."""
        boxes = np.asarray(bboxes, np.float64).reshape(-1, 4)
        column = np.asarray(areas, np.float64).reshape(-1, 1)
        regions = np.asarray(is_region, np.bool_).reshape(-1)
        return cls(frame, names, np.hstack([boxes, column]).tobytes(), regions.tobytes())

    @property
    def bboxes(self) -> npt.NDArray[np.float64]:
        """(n, 4) COCO (x, y, width, height) in pixels of `frame`, unclipped, as annotated."""
        return self._table[:, :4]

    @property
    def areas(self) -> npt.NDArray[np.float64]:
        """(n,) square pixels of `frame`: as annotated, of the mask where the file has one."""
        return self._table[:, 4]

    @property
    def is_region(self) -> npt.NDArray[np.bool_]:
        """(n,) True for what is neither target nor background."""
        return np.frombuffer(self._regions, np.bool_)

    @property
    def _table(self) -> npt.NDArray[np.float64]:
        return np.frombuffer(self._numbers, np.float64).reshape(-1, 5)

    def rows(self) -> Iterator[tuple[str, list[float], float, bool]]:
        """Name, (x, y, width, height), area and whether it is a region, of each row."""
        columns = self.bboxes.tolist(), self.areas.tolist(), self.is_region.tolist()
        yield from zip(self.names, *columns, strict=True)

    def mirrored(self) -> Truth:
        """Of the image mirrored left and right."""
        boxes = self.bboxes.copy()
        boxes[:, 0] = self.frame[0] - boxes[:, 0] - boxes[:, 2]
        return Truth.made(self.frame, self.names, boxes, self.areas, self.is_region)


def _class_name(box: Box, class_of: Callable[[str], str]) -> str:
    """The class of a box; empty where its file gives none."""
    unnamed = any(finding.code == FindingCode.UNKNOWN_CATEGORY for finding in box.findings)
    return "" if unnamed else class_of(box.category)


def _counts(box: Box) -> bool:
    return box.trainable or box.ignored


def _area(box: Box) -> float:
    return box.area if box.area is not None else box.bbox[2] * box.bbox[3]
