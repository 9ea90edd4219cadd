"""One YOLO label file: lines of numbers about one image, to its objects. Nothing here opens a file.

Each line is an object: the number of its class, counted from 0, and its centre, width and height in
widths and heights of the image; or the number of its class and the corners of a polygon (instance
segmentation, oriented boxes); or, where the set says so, a box and its keypoints. A file without a
line is an image without objects. The size of the image stands nowhere: see
`columns.UnsizedAnnotation`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from pipeline.annotations.file_findings import Notes
from pipeline.annotations.labels.class_names import ClassNames
from pipeline.annotations.labels.one_image import (
    MAX_OBJECTS,
    ImageObject,
    LabelsError,
    loaded_image,
    number,
    refused_image,
)
from pipeline.annotations.reader import LoadedFile
from schemas.coco import RecordId, shortened

MAX_YOLO_BYTES: Final = 1 << 24
"""Bytes of the file of one image: 5,000 polygons of some 300 numbers."""

_ROUNDING: Final = 1e-5
"""Widths over the frame's edge that are the rounding of written numbers: 0.06 px of 6,000."""

_BEYOND: Final = 0.01
"""Widths beyond the frame that boxes reach by mistake; more are not normalised."""

_LABEL_LINE: Final = re.compile(r"\s*[+-]?\d[\d.eE+-]*([\s,;]+[+-]?[\d.][\d.eE+-]*){2,}")

_AGAIN: Final = "Mend the line, or export the labels again; the image is left out until then."


def looks_like_yolo(data: bytes) -> bool:
    """Tell a label file, whole or damaged, from other text: a line starts with some numbers.

    A file with nothing in it is one: that of an image without objects.
    """
    if not data.strip(b" \t\r\n\xef\xbb\xbf"):
        return True
    lines = data[: 1 << 16].decode("utf-8", "replace").splitlines()[:100]
    return any(_LABEL_LINE.match(line) for line in lines)


def load_yolo(data: bytes, *, name: str, classes: ClassNames, split: str | None) -> LoadedFile:
    """Read one label file.

    A file with a line that cannot be read refuses its image: an object that is left out would be
    background.

    Parameters
    ----------
    data
        The file's bytes.
    name
        What to call it: goes into sidecars and messages, so relative to the source. Its last part
        names the image, and its folders are those of the image with ``images`` for ``labels``.
    classes
        Names of the classes, and how many numbers belong to keypoints.
    split
        Split of the image.
    """
    notes = Notes(name)
    image = _image_path(name)
    try:
        if len(data) > MAX_YOLO_BYTES:
            raise LabelsError(
                f"it has {len(data):,} bytes; files of one image have at most {MAX_YOLO_BYTES:,}",
                mend="Export it again, or leave it out.",
            )
        objects = _objects(data, classes)
    except LabelsError as error:
        return refused_image(notes, image, error, split=split)

    def category(number: RecordId) -> tuple[RecordId, str]:
        return number, classes.names.get(int(number), "")

    return loaded_image(notes, image, None, objects, category, split=split, relative=True)


def _image_path(name: str) -> str:
    """Path of the image of a label file: YOLO's tools put ``labels`` in the place of ``images``."""
    folder, slash, last = name.rpartition("/")
    parts = folder.split("/")
    for position in range(len(parts) - 1, -1, -1):
        if parts[position].lower() == "labels":
            parts[position] = "images"
            break
    stem = last[:-4] if last.lower().endswith(".txt") else last
    return "/".join(parts) + slash + stem


def _objects(data: bytes, classes: ClassNames) -> list[ImageObject]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LabelsError(
            f"not text: byte {error.start} is not UTF-8", mend="Export the labels again."
        ) from None
    objects: list[ImageObject] = []
    for line_number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        if len(objects) == MAX_OBJECTS:
            raise LabelsError(f"more than {MAX_OBJECTS:,} objects", mend=_AGAIN)
        try:
            objects.append(_object(line_number, line.split(), classes))
        except LabelsError as error:
            raise LabelsError(f"line {line_number}: {error}", mend=error.mend) from None
    return objects


def _object(line_number: int, words: Sequence[str], classes: ClassNames) -> ImageObject:
    numbers = []
    for word in words:
        try:
            numbers.append(number(word))
        except ValueError:
            raise LabelsError(f"{shortened(word)} is no number", mend=_AGAIN) from None
    category = _category(words[0], numbers[0], classes)
    box = _box(numbers[1:], classes.keypoint_numbers)
    furthest = max(box[2:]) if len(box) == 4 else 0.0
    outermost = max(furthest, box[0] + box[2], box[1] + box[3], 1 - box[0], 1 - box[1])
    if outermost > 1 + _BEYOND:
        raise LabelsError(
            f"its numbers are not normalised: the box reaches to {outermost:g} of the image, whose "
            "edge is 1",
            mend="Divide x and width by the image's width, y and height by its height; the image "
            "is left out until then.",
        )
    return ImageObject(line_number, category, _snapped(box))


def _category(word: str, value: float, classes: ClassNames) -> int:
    if value != int(value) or value < 0:
        raise LabelsError(f"{shortened(word)} is no number of a class", mend=_AGAIN)
    if classes.names and int(value) not in classes.names:
        raise LabelsError(
            f"class {int(value)} has no name in {classes.source}",
            mend=f"Add its name to {classes.source}; the image is left out until then.",
        )
    return int(value)


def _box(numbers: Sequence[float], keypoints: int) -> tuple[float, float, float, float]:
    """(x, y, width, height) of what follows the class; `LabelsError` if that is no object."""
    count = len(numbers)
    if count == 4 or (keypoints and count == 4 + keypoints):
        x, y, width, height = numbers[:4]
        return x - width / 2, y - height / 2, width, height
    if count == 5:
        raise LabelsError(
            "six numbers: a class, a box and a confidence, as detectors write them; annotations "
            "have five",
            mend="Leave the file out, or delete the last number of each line if detections are "
            "what you want to train on.",
        )
    if count >= 6 and count % 2 == 0 and not keypoints:
        xs, ys = numbers[0::2], numbers[1::2]
        return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
    wanted = f"5 or {5 + keypoints}" if keypoints else "5, or an odd number from 7 for a polygon"
    raise LabelsError(f"{count + 1} numbers where {wanted} are expected", mend=_AGAIN)


def _snapped(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """The box with edges on the frame's where only rounding keeps them apart.

    Written with six decimals, the centre and width of a box at the edge end a little beyond it.
    """
    x, width = _snapped_span(box[0], box[2])
    y, height = _snapped_span(box[1], box[3])
    return x, y, width, height


def _snapped_span(start: float, length: float) -> tuple[float, float]:
    end = start + length
    new_start = 0.0 if 0 > start >= -_ROUNDING else start
    new_end = 1.0 if 1 < end <= 1 + _ROUNDING else end
    return (
        (start, length)
        if (new_start, new_end) == (start, end)
        else (new_start, new_end - new_start)
    )
