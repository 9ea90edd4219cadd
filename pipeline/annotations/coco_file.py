"""One COCO file in any of its variants: bytes -> images with boxes and findings.

A record that cannot be used becomes a finding and costs only itself; only a file that is not COCO
at all raises. Nothing here opens a file: bytes in, values out. Memory and time are bounded by the
limits below, whatever the bytes are.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeGuard

import numpy as np
from pydantic import TypeAdapter, ValidationError

from pipeline.annotations.columns import (
    AnnotatedImages,
    BoxColumns,
    ImageColumns,
    Key,
    base_name,
    key_of,
)
from pipeline.annotations.file_findings import MAX_BROKEN, Notes
from pipeline.annotations.json_lists import (
    NotJsonError,
    Span,
    first_byte,
    is_json,
    members,
    misplaced,
    runs,
)
from pipeline.annotations.reader import LoadedFile, refuse_oversized, split_from_name
from pipeline.annotations.shapes import ShapeError, box_of_shape
from pipeline.annotations.units import BoxesOfFile, doubts
from pipeline.errors import AnnotationError
from schemas.coco import (
    CLASS_NAMES,
    COCO_ANNOTATIONS,
    COCO_CATEGORIES,
    COCO_IMAGES,
    CocoAnnotation,
    CocoCategory,
    CocoImage,
    RecordId,
    RejectedRecord,
    class_key,
    shortened,
)
from schemas.finding import Finding, Severity
from schemas.finding_codes import FindingCode

MAX_RECORDS: Final = {"images": 500_000, "annotations": 1_500_000, "categories": 100_000}
"""Records of each list of a file; COCO 2017 has 118,287 images and 860,001 boxes in one."""

MAX_BOXES_PER_IMAGE: Final = 5_000
"""More is a broken export: the densest NOD image has 53."""

_BOM = b"\xef\xbb\xbf"

_HEAD: Final = 1 << 16
"""Bytes in which a list of boxes shows what it is."""

_IMAGES: Final = re.compile(rb'"images"\s*:\s*\[')
_OTHER_LIST: Final = re.compile(rb'"(annotations|categories)"\s*:\s*\[')
_SIGN: Final = re.compile(rb'"(annotations|categories|file_name)"\s*:')
_BOX: Final = re.compile(rb'"(image_id|bbox)"\s*:')
_DETECTION: Final = re.compile(rb'"(image_id|score)"\s*:')


def looks_like_coco(data: bytes) -> bool:
    """Tell a COCO annotation file, whole or damaged, from other JSON without parsing it.

    It is true for a broken file and for a mere list of boxes too: `load_coco` then raises, and
    nothing is skipped silently.
    """
    text, start = _text(data)
    if start == b"{" and _IMAGES.search(text):
        return _SIGN.search(text) is not None
    if start == b"[" or (start == b"{" and _OTHER_LIST.search(text)):
        named = {found[1] for found in _BOX.finditer(text[:_HEAD])}
        return named == {b"image_id", b"bbox"} and not looks_like_detections(data)
    return False


def looks_like_detections(data: bytes) -> bool:
    """Tell COCO's results format: a list of what a detector found, each with its score.

    Whoever evaluates a detector has such files (``results.json``); there are no images in them.
    """
    text, start = _text(data)
    if start == b"[" or (start == b"{" and not _IMAGES.search(text)):
        named = {found[1] for found in _DETECTION.finditer(text[:_HEAD])}
        return named == {b"image_id", b"score"}
    return False


def _text(data: bytes) -> tuple[bytes, bytes]:
    """A file for searching, and the first byte that is no blank."""
    text = data.replace(b"\0", b"") if data[:2] in (b"\xff\xfe", b"\xfe\xff") else data
    return text, text[:64].lstrip(b"\xff\xfe\xef\xbb\xbf \t\r\n")[:1]


def load_coco(data: bytes, *, name: str, split: str | None = None) -> LoadedFile:
    """Read one COCO file.

    Parameters
    ----------
    data
        The file's bytes: UTF-8 JSON, with or without byte order mark.
    name
        What to call it: goes into sidecars and messages, so relative to the source.
    split
        Split of all its images; taken from the name when not given.

    Raises
    ------
    AnnotationError
        When the whole is not JSON or not COCO, or larger than believed. What is wrong with a
        record becomes a finding.
    """
    refuse_oversized(len(data), name)
    reading = _Reading(data.removeprefix(_BOM), Notes(name))
    split = split or split_from_name(name)
    if split is None:
        mend = f"Name the split in the file name, or give --split NAME={name}."
        reading.notes.add(FindingCode.NO_SPLIT, "", "no split: its name says none", mend=mend)
    try:
        images = reading.read(split)
    except NotJsonError as error:
        raise _not_json(error, name) from error
    return LoadedFile(name, split, images, reading.notes.findings, reading.notes.refused)


class CocoReader:
    """COCO as one of `table.READERS`."""

    suffixes = (".json",)

    def recognises(self, data: bytes, name: str) -> bool:
        """Whether this may be COCO: what is not whole JSON may be a COCO file cut off early."""
        is_meant = name.lower().endswith(self.suffixes)
        return looks_like_coco(data) or (is_meant and not is_json(data))

    def read(self, data: bytes, *, name: str, split: str | None) -> LoadedFile:
        """As `load_coco` does."""
        return load_coco(data, name=name, split=split)


def _not_json(error: NotJsonError, name: str) -> AnnotationError:
    deep = "recursion limit" in str(error)
    return AnnotationError(
        f"not valid JSON: {error}",
        path=name,
        mend="No annotation file nests that deep: leave this file out."
        if deep
        else "Mend the file at that place and save it as UTF-8, or fetch it again: it may be "
        "cut off.",
    )


def _not_coco(problem: str, name: str) -> AnnotationError:
    return AnnotationError(
        f"not a COCO annotation file: {problem}",
        path=name,
        mend="Expected an object with the lists `images`, `annotations` and `categories`; "
        "export the annotations as COCO, or leave this file out.",
    )


@dataclass
class _Reading:
    """One file while it is read."""

    data: bytes
    notes: Notes
    images: ImageColumns = field(default_factory=ImageColumns)
    boxes: BoxColumns = field(default_factory=BoxColumns)
    usable: dict[Key, int] = field(default_factory=dict)
    left_out: dict[int, Finding] = field(default_factory=dict)
    nobodys: Finding | None = None

    def read(self, split: str | None) -> AnnotatedImages:
        """All of it; `NotJsonError` where it is not JSON."""
        lists = self._lists()
        self._read_images(lists["images"])
        self._read_boxes(lists.get("annotations"))
        self._leave_out_crowded()
        self._leave_out_other_units()
        self._leave_out_incomplete()
        categories = _category_map(self._records(lists.get("categories"), "categories"), self.notes)
        return AnnotatedImages(
            self.notes.name,
            split,
            self.images,
            self.boxes,
            [number for number in self.usable.values() if number not in self.left_out],
            [
                (category_id, categories.get(key_of(category_id), ""))
                for category_id in self.boxes.category_ids
            ],
        )

    def _lists(self) -> dict[str, Span]:
        """Where the lists are; those that are null are as good as absent."""
        name = self.notes.name
        if looks_like_detections(self.data):
            raise _not_coco("it holds what a detector found, with scores, and no images", name)
        if first_byte(self.data) != b"{" and is_json(self.data):
            raise _not_coco("the whole: expected an object", name)
        found = members(self.data)
        # By a slice of four bytes: one of the whole span would be a copy of the file.
        lists = {
            key: span
            for key, span in found.items()
            if (span.end - span.start, self.data[span.start : span.start + 4]) != (4, b"null")
        }
        if "images" not in lists:
            raise _not_coco("the list `images` is missing", name)
        for key in MAX_RECORDS.keys() & lists.keys():
            if self.data[lists[key].start : lists[key].start + 1] != b"[":
                raise _not_coco(f"{key}: expected a list", name)
        return lists

    def _records(self, span: Span | None, key: str) -> Iterator[tuple[int, Any]]:
        """Each record of a list with its position: of the list's model, or rejected."""
        position = 0
        for offset, run in runs(self.data, span) if span else ():
            try:
                records = _MODELS[key].validate_json(run)
            except ValidationError as error:
                problem = error.errors(include_url=False, include_input=False)[0]
                reason = ValueError(problem.get("ctx", {}).get("error", problem["msg"]))
                raise misplaced(reason, self.data, offset, run) from None
            if position + len(records) > MAX_RECORDS[key]:
                raise AnnotationError(
                    f"more than {MAX_RECORDS[key]:,} {key}",
                    path=self.notes.name,
                    mend="Split it into several files, by images.",
                )
            yield from enumerate(records, start=position)
            position += len(records)

    def _read_images(self, span: Span) -> None:
        """Image records by identifier, without those nothing can be attached to."""
        repeats: dict[int, _Repeats] = {}
        for position, record in self._records(span, "images"):
            if isinstance(record, RejectedRecord) or not base_name(record.file_name):
                _refuse_image(record, position, self.notes)
                continue
            number = self.usable.setdefault(key_of(record.id), len(self.images.ids))
            if number == len(self.images.ids):
                self.images.add(record)
            else:
                known = repeats.setdefault(number, _Repeats([self.images.file_names[number]]))
                known.add(record, is_same=self.images.is_same(number, record))
        for number, known in repeats.items():
            if not _same_image_records(self.images.ids[number], known, self.notes):
                del self.usable[key_of(self.images.ids[number])]

    def _read_boxes(self, span: Span | None) -> None:
        """Annotation records that are readable and belong to a usable image, in file order."""
        if span is None:
            self.notes.add(FindingCode.NO_ANNOTATIONS, "", "no list `annotations`")
        seen: dict[Key, int] = {}
        for position, record in self._records(span, "annotations"):
            if isinstance(record, RejectedRecord):
                record = self._from_shape(record, position)
                if record is None:
                    continue
            image = self.usable.get(key_of(record.image_id))
            if image is None:
                _report_orphan(record, self.notes)
                continue
            first = seen.setdefault(key_of(record.id), len(self.boxes.ids))
            is_new = first == len(self.boxes.ids)
            if is_new or not self._repeats(first, record, image):
                self.boxes.add(record, image)

    def _repeats(self, first: int, record: CocoAnnotation, image: int) -> bool:
        """Report a repeated id; true for a record that says again what one with its id said."""
        same = self.boxes.is_same(first, record, image)
        self.notes.add_record(
            FindingCode.DUPLICATE_ANNOTATION_ID,
            lambda: (
                f"annotation {record.id!r} (image {record.image_id!r})",
                "an earlier annotation has this id and is " + ("equal" if same else "another box"),
            ),
            mend="Delete it; it is counted once."
            if same
            else "Give it its own id; both boxes are kept.",
        )
        return same

    def _from_shape(self, record: RejectedRecord, position: int) -> CocoAnnotation | None:
        """A record without a usable box, with that of its shape; else its image is left out: it
        would lack an object, or look like an image without any."""
        image = self._image_of(record)
        root, why = record.root, ""
        if isinstance(root, dict) and image is not None:
            size = self.images.widths[image], self.images.heights[image]
            try:
                bbox, kind = box_of_shape(root, *size)
                mended = {**root, "bbox": bbox, "segmentation": [kind]}
            except ShapeError as error:
                kind, why = "", f"; it has no box, and {error}"
                mended = {key: value for key, value in root.items() if key != "segmentation"}
            with contextlib.suppress(ValidationError):
                found = CocoAnnotation.model_validate(mended)
                if kind:
                    _report_shape(found, kind, self.notes)
                return found
        if not isinstance(root, dict) or not (root.get("segmentation") or root.get("keypoints")):
            why = ""
        because = _report_unreadable(record, position, why, self.notes)
        if image is not None:
            self.left_out.setdefault(image, because)
        elif _identified(record.get("image_id")):
            self.notes.refuse(record.get("image_id"), because=because)
        else:
            self.nobodys = self.nobodys or because
        return None

    def _image_of(self, record: RejectedRecord) -> int | None:
        """The image that a record belongs to, if that much can be read."""
        image_id = record.get("image_id")
        return self.usable.get(key_of(image_id)) if _identified(image_id) else None

    def _leave_out_crowded(self) -> None:
        """Images with more boxes than are believed."""
        counts = np.bincount(np.frombuffer(self.boxes.image, np.int64))
        for number in np.flatnonzero(counts > MAX_BOXES_PER_IMAGE).tolist():
            self.left_out[number] = self.notes.add(
                FindingCode.TOO_MANY_BOXES,
                self._named(number),
                f"{int(counts[number]):,} boxes; at most {MAX_BOXES_PER_IMAGE:,} are believed",
            )

    def _leave_out_other_units(self) -> None:
        """Images whose boxes are no pixels of their frames."""
        sizes = np.array([self.images.widths, self.images.heights], np.int64).T
        bbox = np.frombuffer(self.boxes.bbox, np.float64).reshape(-1, 4)
        boxes = BoxesOfFile.of(bbox, np.frombuffer(self.boxes.image, np.int64), sizes)
        for doubt in doubts(boxes):
            if not len(doubt.images):
                self.notes.add(FindingCode.BOX_FORMAT, "", doubt.message, mend=doubt.mend)
                continue
            count = f"{len(doubt.images):,} images" if len(doubt.images) > 1 else "an image"
            message = f"{doubt.message} (in {count}, left out)"
            finding = self.notes.add(FindingCode.NOT_PIXELS, "", message, mend=doubt.mend)
            for number in doubt.images.tolist():
                self.left_out.setdefault(number, finding)

    def _leave_out_incomplete(self) -> None:
        """Refuse all images that are left out, and those that may lack their only box."""
        if self.nobodys is not None:
            counts = np.bincount(
                np.frombuffer(self.boxes.image, np.int64), minlength=len(self.images.ids)
            )
            for number in np.flatnonzero(counts == 0).tolist():
                self.left_out.setdefault(number, self.nobodys)
        for number, finding in self.left_out.items():
            message = f"{finding.where}: {finding.message}"
            because = finding.model_copy(update={"message": message})
            self.notes.refuse(self.images.file_names[number], because=because)

    def _named(self, number: int) -> str:
        return f"image {self.images.ids[number]!r} ({base_name(self.images.file_names[number])})"


_MODELS: dict[str, TypeAdapter[Any]] = {
    "images": COCO_IMAGES,
    "annotations": COCO_ANNOTATIONS,
    "categories": COCO_CATEGORIES,
}


def _refuse_image(record: CocoImage | RejectedRecord, position: int, notes: Notes) -> None:
    image_id: object
    file_name: object
    if isinstance(record, CocoImage):
        image_id, file_name = record.id, record.file_name
    else:
        image_id, file_name = record.get("id"), record.get("file_name")

    def say() -> tuple[str, str]:
        where = f"image {shortened(image_id)} (number {position} of the list)"
        if isinstance(record, CocoImage):
            return where, f"file_name {shortened(file_name)} names no file"
        return where, f"image record cannot be used: {record.reason(CocoImage)}"

    finding = notes.add_record(FindingCode.BAD_IMAGE, say)
    notes.refuse(file_name, image_id, because=finding)


@dataclass
class _Repeats:
    """Image records that share an identifier."""

    names: list[str]
    count: int = 1
    differ: bool = False

    def add(self, record: CocoImage, *, is_same: bool) -> None:
        self.count += 1
        if not is_same:
            self.differ = True
            self.names.append(record.file_name)


def _same_image_records(image_id: RecordId, records: _Repeats, notes: Notes) -> bool:
    """False when records share an identifier and differ: whose the boxes are cannot be told."""
    same = not records.differ
    names = sorted(set(records.names))
    if len(names) > MAX_BROKEN:
        message = f"{len(names):,} different image records have the id {image_id!r}"
        raise _not_coco(message, notes.name)
    finding = notes.add_record(
        FindingCode.DUPLICATE_IMAGE_ID,
        lambda: (
            f"image {image_id!r}",
            f"{records.count} {'equal' if same else 'different'} image records have this id: "
            + ", ".join(names[:3])
            + (", ..." if len(names) > 3 else ""),
        ),
        severity=Severity.WARNING if same else Severity.ERROR,
        mend="Delete all but one."
        if same
        else "Give each its own id; until then all are left out.",
    )
    if not same:
        notes.refuse(*names, because=finding)
    return same


def _identified(image_id: object) -> TypeGuard[RecordId]:
    """Whether a record says which image it belongs to."""
    return isinstance(image_id, int | str) and not isinstance(image_id, bool)


def _report_unreadable(record: RejectedRecord, position: int, why: str, notes: Notes) -> Finding:
    return notes.add_record(
        FindingCode.BAD_ANNOTATION,
        lambda: (
            f"annotation {shortened(record.get('id'))} (number {position} of the list)",
            f"cannot be used: {record.reason(CocoAnnotation)}{why}",
        ),
    )


def _report_shape(annotation: CocoAnnotation, kind: str, notes: Notes) -> None:
    tight = kind == "keypoints"
    notes.add_record(
        FindingCode.BOX_FROM_SHAPE,
        lambda: (
            f"annotation {annotation.id!r}",
            f"it has no box; it gets that of its {kind}"
            + (", which is smaller than the object" if tight else ""),
        ),
        severity=Severity.WARNING if tight else Severity.INFO,
    )


def _report_orphan(annotation: CocoAnnotation, notes: Notes) -> None:
    finding = notes.add_record(
        FindingCode.ORPHAN_ANNOTATION,
        lambda: (
            f"annotation {annotation.id!r}",
            f"no usable image record has the id {annotation.image_id!r}",
        ),
    )
    # NOD's identifiers are file stems: an image known only by its boxes is not one without boxes.
    notes.refuse(annotation.image_id, because=finding)


def _category_map(records: Iterator[tuple[int, Any]], notes: Notes) -> Mapping[Key, str]:
    """The names of the file's categories by their ids; empty for an id with two names.

    COCO's first three where a file lists no categories.
    """
    found: dict[Key, str] = {}
    empty = True
    for position, record in records:
        empty = False
        if isinstance(record, RejectedRecord):
            _report_category(record.get("id"), position, record.reason(CocoCategory), notes)
            continue
        key = key_of(record.id)
        if class_key(found.setdefault(key, record.name)) != class_key(record.name):
            _report_category(record.id, position, "two names for one id", notes)
            found[key] = ""
    return {number: name for number, name in CLASS_NAMES.items()} if empty else found


def _report_category(category_id: object, position: int, message: str, notes: Notes) -> None:
    notes.add(
        FindingCode.BAD_CATEGORY,
        f"category {shortened(category_id)} (number {position} of the list)",
        message,
    )
