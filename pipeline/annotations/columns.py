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
from typing import ClassVar, Final

import numpy as np

from pipeline.annotations.box_checks import BoxTable, box_findings
from pipeline.errors import AnnotationError
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
Bbox = tuple[float, float, float, float]
Size = tuple[int, int]


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
    """Image records as they are read, in file order; sizes in pixels, 0 where none is known."""

    ids: list[RecordId] = field(default_factory=list)
    file_names: list[str] = field(default_factory=list)
    widths: array[int] = field(default_factory=lambda: array("q"))
    heights: array[int] = field(default_factory=lambda: array("q"))

    def add(self, record: CocoImage) -> int:
        """Take in a record; its number."""
        return self.add_named(record.id, record.file_name, (record.width, record.height))

    def add_named(self, image_id: RecordId, file_name: str, size: tuple[int, int] | None) -> int:
        """Take in an image of which the size may not be known; its number."""
        width, height = size or (0, 0)
        self.ids.append(image_id)
        self.file_names.append(file_name)
        self.widths.append(width)
        self.heights.append(height)
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
    name of a flag (`FLAG_NAMES` in COCO files): arrays of bytes, because a list of bool takes eight
    times that.
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

    @classmethod
    def with_flags(cls, names: Sequence[str]) -> BoxColumns:
        """Columns for records whose `CocoAnnotation.flag_names` are these."""
        return cls(flags={name: array("b") for name in names})

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

    def bbox_of(self, number: int) -> Bbox:
        """COCO (x, y, width, height) of a box as it was given."""
        x, y, width, height = self.bbox[4 * number : 4 * number + 4]
        return x, y, width, height

    def flag_states(self, number: int) -> tuple[int, ...]:
        """The `FlagState` of a box for each flag."""
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


@dataclass(frozen=True)
class UnsizedAnnotation:
    """What a file says about one image whose size it does not say.

    Its boxes are in widths and heights of the frame (YOLO), or in pixels of a frame that must be
    the raw's (VOC without ``<size>``). Which frame that is, is known where the raw is.
    """

    images: AnnotatedImages
    index: int
    folder_split: str | None = None

    size: ClassVar[None] = None

    @property
    def split(self) -> str | None:
        """The split of the image: the annotation file's or, where that names none, its folder's."""
        return self.images.split or self.folder_split

    @property
    def file(self) -> str:
        """Name of the annotation file."""
        return self.images.file

    def in_frame(self, frame: Size) -> ImageAnnotation:
        """The annotation with its boxes in pixels of a frame of this (width, height).

        Raises
        ------
        AnnotationError
            If boxes in pixels lie outside: they were drawn in another frame.
        """
        made = self.images.annotation(self.index, frame).model_copy(update={"split": self.split})
        if not self.images.relative:
            _require_inside(made)
        return made


Annotation = ImageAnnotation | UnsizedAnnotation


def annotation_in(annotation: Annotation, frame: Size) -> ImageAnnotation:
    """An annotation whose size is known: from its file or, where that says none, the frame's.

    Raises
    ------
    AnnotationError
        As `UnsizedAnnotation.in_frame` does.
    """
    if isinstance(annotation, UnsizedAnnotation):
        return annotation.in_frame(frame)
    return annotation


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
    relative
        Whether boxes are in widths and heights of frames of unknown size, not in pixels.
    """

    def __init__(
        self,
        file: str,
        split: str | None,
        images: ImageColumns,
        boxes: BoxColumns,
        kept: Sequence[int],
        categories: Sequence[tuple[RecordId, str]],
        *,
        relative: bool = False,
    ) -> None:
        self.file, self.split, self.relative = file, split, relative
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
        return map(self.annotation, range(len(self)))

    def __getitem__(self, index: int) -> ImageAnnotation:
        return self.annotation(index)

    def as_annotated(self, index: int) -> Annotation:
        """One image, of which the frame may have to be found yet."""
        return self.annotation(index) if self.size(index) else UnsizedAnnotation(self, index)

    def annotation(self, index: int, frame: Size = (1, 1)) -> ImageAnnotation:
        """One image; `frame` is its (width, height) if it has none of its own."""
        width, height = self.size(index) or frame
        return ImageAnnotation(
            file=self.file,
            image_id=self._images.ids[self._kept[index]],
            file_name=self.file_name(index),
            width=width,
            height=height,
            split=self.split,
            boxes=self._boxes_of(index, (width, height)),
        )

    def file_name(self, index: int) -> str:
        """Name of the annotated image, without folders."""
        return base_name(self._images.file_names[self._kept[index]])

    def path(self, index: int) -> str:
        """Name of the annotated image as the record has it, folders included."""
        return self._images.file_names[self._kept[index]]

    def size(self, index: int) -> Size | None:
        """(width, height) of the annotated frame in pixels; None where it is not known."""
        number = self._kept[index]
        width, height = self._images.widths[number], self._images.heights[number]
        return (width, height) if width else None

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

    def _boxes_of(self, index: int, frame: Size) -> tuple[Box, ...]:
        columns, numbers = self._boxes, self._numbers(index)
        if not numbers:
            return ()
        image = base_name(self._images.file_names[self._kept[index]])
        where = [f"{self.file}: annotation {columns.ids[n]!r} (image {image})" for n in numbers]
        bboxes = [self._in_pixels(columns.bbox_of(box), frame) for box in numbers]
        found = box_findings(self._table(numbers, bboxes, frame, where))
        made = []
        for box, bbox, place, findings in zip(numbers, bboxes, where, found, strict=True):
            category_id, name = self._categories[columns.category[box]]
            area = columns.area[box]
            made.append(
                Box(
                    annotation_id=columns.ids[box],
                    category_id=category_id,
                    category=name if class_key(name) else str(category_id),
                    bbox=bbox,
                    iscrowd=bool(columns.is_crowd[box]),
                    ignore=bool(columns.is_ignored[box]),
                    area=area if math.isfinite(area) else None,
                    flags=columns.stated_flags(box),
                    findings=findings + _flag_findings(columns.unreadable_flags(box), place),
                )
            )
        return tuple(made)

    def _in_pixels(self, bbox: Bbox, frame: Size) -> Bbox:
        """A box as it was given, in pixels of a frame of (width, height)."""
        if not self.relative:
            return bbox
        (x, y, box_width, box_height), (width, height) = bbox, frame
        return x * width, y * height, box_width * width, box_height * height

    def _table(
        self, numbers: list[int], bboxes: Sequence[Bbox], frame: Size, where: list[str]
    ) -> BoxTable:
        columns, count = self._boxes, len(numbers)
        masked = np.array([bool(columns.has_mask[n]) for n in numbers])
        area = np.array([columns.area[n] for n in numbers])
        width, height = frame
        return BoxTable(
            bbox=np.array(bboxes, dtype=np.float64),
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


def _require_inside(annotation: ImageAnnotation) -> None:
    """Refuse boxes in pixels that cannot be those of the frame they were put in."""
    for box in annotation.boxes:
        x, y, width, height = box.bbox
        if (
            x < -1
            or y < -1
            or x + width > annotation.width + 1
            or y + height > annotation.height + 1
        ):
            raise AnnotationError(
                f"{annotation.file} does not say the size of the image, and its box {box.bbox} is "
                f"not inside the raw's frame of {annotation.width}x{annotation.height}",
                path=annotation.file_name,
                mend=f"Write the width and height of the annotated image into {annotation.file}.",
            )


def _area(record: CocoAnnotation) -> float:
    """Area in pixels; NaN for none, infinity for one that is not finite."""
    if record.area is None:
        return math.nan
    return record.area if math.isfinite(record.area) else math.inf


def _flag_states(record: CocoAnnotation) -> tuple[int, ...]:
    """What a record says about each of its `flag_names`."""
    if not record.model_extra:
        return (FlagState.ABSENT,) * len(record.flag_names)
    stated, unreadable = record.flags, record.unreadable_flags
    return tuple(
        FlagState.UNREADABLE if name in unreadable else _state(stated.get(name))
        for name in record.flag_names
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
