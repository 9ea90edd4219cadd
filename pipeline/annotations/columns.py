"""The images of one annotation file, kept in columns: some hundred bytes a box.

The models that go into sidecars weigh ten times that, and only images whose raws are there ever
need them; so each is made when it is asked for.
"""

from __future__ import annotations

import math
import re
import unicodedata
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

import numpy as np

from pipeline.annotations.box_checks import BoxTable, box_findings
from schemas.coco import (
    FLAG_NAMES,
    Box,
    CocoAnnotation,
    CocoImage,
    ImageAnnotation,
    RecordId,
    class_key,
)
from schemas.finding import Finding
from schemas.finding_codes import FindingCode

MAX_NAME_BYTES: Final = 255
"""No file system takes a longer file name."""

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")

_HASH_MODULUS: Final = 2**61 - 1

Key = RecordId | tuple[str, str]


def key_of(record_id: RecordId) -> Key:
    """What a record's identifier is looked up by.

    The integers that Python hashes alike are this far apart: a file full of them would be looked
    up for hours. Text is hashed differently in each run.
    """
    if isinstance(record_id, str) or -_HASH_MODULUS < record_id < _HASH_MODULUS:
        return record_id
    return "integer", str(record_id)


def base_name(file_name: str) -> str:
    """Last part of a path of any system, in Unicode NFC; empty when no file can have that name."""
    name = unicodedata.normalize("NFC", re.split(r"[\\/]", file_name)[-1])
    is_none = name.strip() in {"", ".", ".."} or _CONTROL.search(name)
    too_long = len(name.encode(errors="surrogatepass")) > MAX_NAME_BYTES
    return "" if is_none or too_long else name


@dataclass
class ImageColumns:
    """Image records as they are read, in file order; sizes in pixels."""

    ids: list[RecordId] = field(default_factory=list)
    file_names: list[str] = field(default_factory=list)
    widths: array[int] = field(default_factory=lambda: array("q"))
    heights: array[int] = field(default_factory=lambda: array("q"))

    def add(self, record: CocoImage) -> int:
        """Take in a record; its number."""
        self.ids.append(record.id)
        self.file_names.append(record.file_name)
        self.widths.append(record.width)
        self.heights.append(record.height)
        return len(self.ids) - 1

    def is_same(self, number: int, record: CocoImage) -> bool:
        """Whether a record with this one's id says just what it says."""
        known = self.file_names[number], self.widths[number], self.heights[number]
        return known == (record.file_name, record.width, record.height)


class FlagState(IntEnum):
    """What a record says under the name of a flag; one byte of a column."""

    ABSENT = 0
    FALSE = 1
    TRUE = 2
    UNREADABLE = 3
    """It is there and neither true nor false."""


@dataclass
class BoxColumns:
    """Boxes as they are read, in file order.

    `is_crowd`, `is_ignored` and `has_mask` hold 0 or 1 a box, `flags` a `FlagState` a box for each
    name of `FLAG_NAMES`: arrays of bytes, because a list of bool takes eight times that.
    """

    ids: list[RecordId] = field(default_factory=list)
    image: array[int] = field(default_factory=lambda: array("q"))
    bbox: array[float] = field(default_factory=lambda: array("d"))
    area: array[float] = field(default_factory=lambda: array("d"))
    is_crowd: array[int] = field(default_factory=lambda: array("b"))
    is_ignored: array[int] = field(default_factory=lambda: array("b"))
    has_mask: array[int] = field(default_factory=lambda: array("b"))
    flags: dict[str, array[int]] = field(
        default_factory=lambda: {name: array("b") for name in FLAG_NAMES}
    )
    category: array[int] = field(default_factory=lambda: array("q"))
    category_ids: list[RecordId] = field(default_factory=list)
    _category_numbers: dict[Key, int] = field(default_factory=dict)

    def add(self, record: CocoAnnotation, image: int) -> None:
        """Take in a record that belongs to the image number `image`."""
        self.ids.append(record.id)
        self.image.append(image)
        self.bbox.extend(record.bbox)
        self.area.append(_area(record))
        self.is_crowd.append(record.iscrowd)
        self.is_ignored.append(record.ignore)
        self.has_mask.append(record.segmentation)
        for column, state in zip(self.flags.values(), _flag_states(record), strict=True):
            column.append(state)
        self.category.append(self._category_number(record.category_id))

    def is_same(self, number: int, record: CocoAnnotation, image: int) -> bool:
        """Whether a record says just what box `number` says; NaN equals nothing."""
        return (
            self.image[number] == image
            and self.bbox_of(number) == record.bbox
            and repr(self.area[number]) == repr(_area(record))
            and self.is_crowd[number] == record.iscrowd
            and self.is_ignored[number] == record.ignore
            and self.has_mask[number] == record.segmentation
            and self.flag_states(number) == _flag_states(record)
            and self.category[number] == self._category_number(record.category_id)
        )

    def bbox_of(self, number: int) -> tuple[float, float, float, float]:
        """COCO (x, y, width, height) of a box as it was given."""
        x, y, width, height = self.bbox[4 * number : 4 * number + 4]
        return x, y, width, height

    def flag_states(self, number: int) -> tuple[int, ...]:
        """The `FlagState` of a box for each of `FLAG_NAMES`."""
        return tuple(column[number] for column in self.flags.values())

    def stated_flags(self, number: int) -> dict[str, bool]:
        """The flags of a box that are true or false."""
        return {
            name: column[number] == FlagState.TRUE
            for name, column in self.flags.items()
            if column[number] in (FlagState.TRUE, FlagState.FALSE)
        }

    def unreadable_flags(self, number: int) -> list[str]:
        """Names of the flags of a box that are neither true nor false."""
        return [
            name for name, column in self.flags.items() if column[number] == FlagState.UNREADABLE
        ]

    def _category_number(self, category_id: RecordId) -> int:
        number = self._category_numbers.setdefault(key_of(category_id), len(self.category_ids))
        if number == len(self.category_ids):
            self.category_ids.append(category_id)
        return number


class AnnotatedImages:
    """Images with their boxes, in file order; items are made anew each time.

    Parameters
    ----------
    file, split
        Of all of them.
    images, boxes
        What was read.
    kept
        Numbers of the images to have, rising; boxes of others are left out.
    categories
        (number as annotated, name in the file) of each of `BoxColumns.category_ids`; the name is
        empty where the file gives none.
    """

    def __init__(
        self,
        file: str,
        split: str | None,
        images: ImageColumns,
        boxes: BoxColumns,
        kept: Sequence[int],
        categories: Sequence[tuple[RecordId, str]],
    ) -> None:
        self.file, self.split = file, split
        self._images, self._kept, self._categories = images, kept, categories
        self._boxes = boxes
        numbers = {"": -1}
        #: Of each category, a number that all categories of one name share; -1 without a name.
        self._classes = [
            numbers.setdefault(class_key(name), len(numbers)) for _, name in categories
        ]
        owners = np.frombuffer(boxes.image, np.int64)
        self._order = np.argsort(owners, kind="stable").astype(np.int32)
        ends = np.bincount(owners, minlength=len(images.ids)).cumsum()
        self._starts = np.concatenate([[0], ends])

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[ImageAnnotation]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, index: int) -> ImageAnnotation:
        number = self._kept[index]
        return ImageAnnotation(
            file=self.file,
            image_id=self._images.ids[number],
            file_name=self.file_name(index),
            width=self._images.widths[number],
            height=self._images.heights[number],
            split=self.split,
            boxes=self._boxes_of(index),
        )

    def file_name(self, index: int) -> str:
        """Name of the annotated image, without folders."""
        return base_name(self._images.file_names[self._kept[index]])

    def path(self, index: int) -> str:
        """Name of the annotated image as the record has it, folders included."""
        return self._images.file_names[self._kept[index]]

    def size(self, index: int) -> tuple[int, int]:
        """(width, height) of the annotated frame in pixels."""
        number = self._kept[index]
        return self._images.widths[number], self._images.heights[number]

    def box_count(self, index: int) -> int:
        """How many boxes an image has."""
        number = self._kept[index]
        return int(self._starts[number + 1] - self._starts[number])

    def has_flags(self, index: int) -> bool:
        """Whether any box of an image states a condition."""
        return any(self._boxes.stated_flags(box) for box in self._numbers(index))

    def content(self, index: int) -> list[tuple[str, str, bool]]:
        """What must agree in twins: not the order, the identifiers, the areas or the flags.

        Boxes go by their text, for which NaN equals NaN, and categories by their names: each file
        numbers them as it likes.
        """
        columns = self._boxes
        described = []
        for box in self._numbers(index):
            number, name = self._categories[columns.category[box]]
            is_region = bool(columns.is_crowd[box] or columns.is_ignored[box])
            category = class_key(name) or str(number)
            described.append((category, repr(columns.bbox_of(box)), is_region))
        return sorted(described)

    @property
    def categories(self) -> list[tuple[RecordId, str]]:
        """Number and `class_key` of each category that a box has and the file names."""
        return [(number, class_key(name)) for number, name in self._categories if class_key(name)]

    def _numbers(self, index: int) -> list[int]:
        number = self._kept[index]
        numbers: list[int] = self._order[self._starts[number] : self._starts[number + 1]].tolist()
        return numbers

    def _boxes_of(self, index: int) -> tuple[Box, ...]:
        columns, numbers = self._boxes, self._numbers(index)
        if not numbers:
            return ()
        image = base_name(self._images.file_names[self._kept[index]])
        where = [f"{self.file}: annotation {columns.ids[n]!r} (image {image})" for n in numbers]
        found = box_findings(self._table(index, numbers, where))
        made = []
        for box, place, findings in zip(numbers, where, found, strict=True):
            category_id, name = self._categories[columns.category[box]]
            area = columns.area[box]
            made.append(
                Box(
                    annotation_id=columns.ids[box],
                    category_id=category_id,
                    category=name if class_key(name) else str(category_id),
                    bbox=columns.bbox_of(box),
                    iscrowd=bool(columns.is_crowd[box]),
                    ignore=bool(columns.is_ignored[box]),
                    area=area if math.isfinite(area) else None,
                    flags=columns.stated_flags(box),
                    findings=findings + _flag_findings(columns.unreadable_flags(box), place),
                )
            )
        return tuple(made)

    def _table(self, index: int, numbers: list[int], where: list[str]) -> BoxTable:
        columns, count = self._boxes, len(numbers)
        masked = np.array([bool(columns.has_mask[n]) for n in numbers])
        area = np.array([columns.area[n] for n in numbers])
        width, height = self.size(index)
        return BoxTable(
            bbox=np.array([columns.bbox_of(n) for n in numbers], dtype=np.float64),
            category=np.array([self._classes[columns.category[n]] for n in numbers]),
            is_region=np.array(
                [bool(columns.is_crowd[n] or columns.is_ignored[n]) for n in numbers]
            ),
            area=np.where(masked, math.nan, area),
            image=np.zeros(count, np.int64),
            width=np.full(count, float(width)),
            height=np.full(count, float(height)),
            where=where,
        )


def _area(record: CocoAnnotation) -> float:
    """Area in pixels; NaN for none, infinity for one that is not finite."""
    if record.area is None:
        return math.nan
    return record.area if math.isfinite(record.area) else math.inf


_NO_FLAGS: Final = (FlagState.ABSENT,) * len(FLAG_NAMES)


def _flag_states(record: CocoAnnotation) -> tuple[int, ...]:
    """What a record says about each of `FLAG_NAMES`."""
    if not record.model_extra:
        return _NO_FLAGS
    stated, unreadable = record.flags, record.unreadable_flags
    return tuple(
        FlagState.UNREADABLE if name in unreadable else _state(stated.get(name))
        for name in FLAG_NAMES
    )


def _state(value: bool | None) -> FlagState:
    if value is None:
        return FlagState.ABSENT
    return FlagState.TRUE if value else FlagState.FALSE


def _flag_findings(unreadable: Sequence[str], place: str) -> tuple[Finding, ...]:
    return tuple(
        FindingCode.UNREADABLE_FLAG.finding(place, f"{name} is neither true nor false")
        for name in unreadable
    )
