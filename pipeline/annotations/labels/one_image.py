"""What a file says that annotates one image, as Pascal VOC and YOLO files do, as a `LoadedFile`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final

from pipeline.annotations.columns import AnnotatedImages, BoxColumns, ImageColumns, base_name
from pipeline.annotations.file_findings import Notes
from pipeline.annotations.reader import LoadedFile
from schemas.coco import CocoAnnotation, RecordId
from schemas.finding_codes import FindingCode

MAX_OBJECTS: Final = 5_000
"""Objects of an image that are believed."""

VOC_FLAGS: Final = ("difficult", "truncated", "occluded")
"""What Pascal VOC says about an object beside its box."""

_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")


class LabelsError(ValueError):
    """Why a file of one image cannot be read, and how it is mended."""

    def __init__(self, message: str, *, mend: str) -> None:
        super().__init__(message)
        self.mend = mend


@dataclass(frozen=True)
class ImageObject:
    """One object of an image.

    Attributes
    ----------
    number
        What findings call it: its line, or its place among the objects of the file.
    category_id
        Number of its class in the file, or its name where there are names only.
    bbox
        (x, y, width, height), origin at the frame's top-left corner: in pixels of the annotated
        frame, or in widths and heights of it (0 to 1).
    ignored
        Whether detections of it count neither as right nor as wrong.
    flags
        What is said about each of `VOC_FLAGS`: true, false, or the text if it is neither.
    """

    number: int
    category_id: RecordId
    bbox: tuple[float, float, float, float]
    ignored: bool = False
    flags: Mapping[str, bool | str] = field(default_factory=dict)


class _ObjectRecord(CocoAnnotation):
    flag_names: ClassVar[tuple[str, ...]] = VOC_FLAGS


def number(text: str) -> float:
    """A decimal number as people write it.

    Raises
    ------
    ValueError
        For everything else that Python's ``float`` takes: NaN, infinities, underscores.
    """
    if len(text) > 64 or not _NUMBER.fullmatch(text):
        raise ValueError("no number")
    return float(text)


def loaded_image(
    notes: Notes,
    image: str,
    size: tuple[int, int] | None,
    objects: Sequence[ImageObject],
    category_of: Callable[[RecordId], tuple[RecordId, str]],
    *,
    split: str | None,
    relative: bool = False,
) -> LoadedFile:
    """One image and its objects as every reader gives them.

    Parameters
    ----------
    notes
        Of the file.
    image
        Name of the image, with or without folders and extension.
    size
        (width, height) of the annotated frame in pixels; None where the file does not say it.
    objects
        In file order.
    category_of
        Gives the number and the name of a class by its `ImageObject.category_id`; an empty name
        where nothing names it.
    relative
        Whether boxes are in widths and heights of the frame.
    """
    images, boxes = ImageColumns(), BoxColumns.with_flags(VOC_FLAGS)
    images.add_named(base_name(image), image, size)
    for one in objects:
        values: dict[str, object] = {
            **one.flags,
            "id": one.number,
            "image_id": image,
            "category_id": one.category_id,
            "bbox": one.bbox,
            "ignore": one.ignored,
        }
        boxes.add(_ObjectRecord.model_validate(values), 0)
    categories = [category_of(category_id) for category_id in boxes.category_ids]
    read = AnnotatedImages(
        notes.name, split, images, boxes, range(1), categories, relative=relative
    )
    return LoadedFile(notes.name, split, read, notes.findings, notes.refused)


def refused_image(notes: Notes, image: str, error: LabelsError, *, split: str | None) -> LoadedFile:
    """A file that cannot be read: its image is refused, because it may have objects."""
    finding = notes.add(FindingCode.UNREADABLE_LABELS, "", str(error), mend=error.mend)
    notes.refuse(image, because=finding)
    none = AnnotatedImages(notes.name, split, ImageColumns(), BoxColumns(), (), ())
    return LoadedFile(notes.name, split, none, notes.findings, notes.refused)
