"""One COCO file in any of its variants: bytes -> images with boxes and findings.

A record that cannot be used becomes a finding and costs only itself; only what is no COCO file at
all raises. Nothing here opens a file: bytes in, values out.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from pydantic import ValidationError

from pipeline.boxes import BoxTable, box_findings
from pipeline.errors import AnnotationError
from schemas.coco import (
    CLASS_NAMES,
    OTHER_CATEGORY,
    Box,
    CocoAnnotation,
    CocoCategory,
    CocoFile,
    CocoImage,
    ImageAnnotation,
    RecordId,
    RejectedRecord,
)
from schemas.finding import Finding, Severity

MAX_BOXES_PER_IMAGE = 5_000
"""More is a broken export: the densest NOD image has 53."""

_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_CLASS_IDS = {name: category_id for category_id, name in CLASS_NAMES.items()}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class LoadedFile:
    """One annotation file, read.

    Attributes
    ----------
    name
        What the file was called when it was loaded.
    split
        Split of all its images, or None.
    images
        The usable image records in file order, each with its boxes in file order.
    findings
        About the file and its records. Those about boxes are on the boxes.
    refused
        Image file name -> why its record cannot be used: such an image is not one without boxes.
    """

    name: str
    split: str | None
    images: tuple[ImageAnnotation, ...]
    findings: tuple[Finding, ...]
    refused: Mapping[str, Finding]


def split_from_name(name: str) -> str | None:
    """Find ``train``, ``val`` or ``test`` as a word of a file name; None for none or for two.

    Words end at anything but letters and where capitals begin: ``instances_train2017.json``,
    ``NodValidation.json``; ``trainval`` is a word of its own and no split.
    """
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", base_name(name).rpartition(".")[0])
    splits = {_SPLIT_WORDS[word.lower()] for word in words if word.lower() in _SPLIT_WORDS}
    return splits.pop() if len(splits) == 1 else None


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
        When the whole is no JSON or no COCO file. What is wrong with a record becomes a finding.
    """
    coco = _parse(data, name)
    notes = _Notes(name)
    split = split or split_from_name(name)
    if split is None:
        mend = f"Name the split in the file name, or give --split NAME={name}."
        notes.add("no-split", Severity.INFO, "", "no split: its name says none", mend)
    images = _usable_images(coco, notes)
    boxes = _boxes_by_image(coco, images, notes)
    return LoadedFile(
        name=name,
        split=split,
        images=tuple(
            ImageAnnotation(
                file=name,
                image_id=image.id,
                file_name=base_name(image.file_name),
                width=image.width,
                height=image.height,
                split=split,
                boxes=tuple(boxes.get(image.id, ())),
            )
            for image in images.values()
        ),
        findings=tuple(notes.findings),
        refused=notes.refused,
    )


@dataclass
class _Notes:
    """Findings of one file while it is read."""

    name: str
    findings: list[Finding] = field(default_factory=list)
    refused: dict[str, Finding] = field(default_factory=dict)

    def add(self, code: str, severity: Severity, record: str, message: str, mend: str) -> Finding:
        where = f"{self.name}: {record}" if record else self.name
        finding = Finding(code=code, severity=severity, where=where, message=message, mend=mend)
        self.findings.append(finding)
        return finding

    def refuse(self, *file_names: object, because: Finding) -> None:
        for file_name in file_names:
            if isinstance(file_name, str) and base_name(file_name):
                self.refused.setdefault(base_name(file_name), because)


def _parse(data: bytes, name: str) -> CocoFile:
    try:
        return CocoFile.model_validate_json(data.removeprefix(_BOM))
    except ValidationError as error:
        # Without the input: an error that quotes three megabytes helps nobody.
        problem = error.errors(include_url=False, include_input=False)[0]
    if problem["type"] == "json_invalid":
        raise AnnotationError(
            f"not valid JSON: {problem['ctx']['error']}",
            path=name,
            hint="Mend the file at that place and save it as UTF-8, or fetch it again: it may be "
            "cut off.",
        )
    place = ".".join(map(str, problem["loc"])) or "the whole"
    raise AnnotationError(
        f"not a COCO annotation file: {place}: {problem['msg']}",
        path=name,
        hint="Expected an object with the lists `images`, `annotations` and `categories`; "
        "export the annotations as COCO, or leave this file out.",
    )


def _usable_images(coco: CocoFile, notes: _Notes) -> dict[RecordId, CocoImage]:
    """Image records by identifier, in file order, without those nothing can be attached to."""
    by_id: dict[RecordId, list[CocoImage]] = {}
    for position, record in enumerate(coco.images):
        if isinstance(record, CocoImage) and base_name(record.file_name):
            by_id.setdefault(record.id, []).append(record)
        else:
            _refuse_image(record, position, notes)
    return {
        image_id: records[0]
        for image_id, records in by_id.items()
        if _same_image_records(image_id, records, notes)
    }


def _refuse_image(record: CocoImage | RejectedRecord, position: int, notes: _Notes) -> None:
    if isinstance(record, CocoImage):
        image_id, file_name = record.id, record.file_name
        message = f"file_name {file_name!r} names no file"
    else:
        image_id, file_name = record.get("id"), record.get("file_name")
        message = f"image record cannot be used: {record.reason(CocoImage)}"
    finding = notes.add(
        "bad-image",
        Severity.ERROR,
        f"image {image_id!r} (number {position} of the list)",
        message,
        "Give it an id, a file_name and its width and height in pixels; its boxes are left out.",
    )
    notes.refuse(file_name, image_id, because=finding)


def _same_image_records(image_id: RecordId, records: list[CocoImage], notes: _Notes) -> bool:
    """False when records share an identifier and differ: whose the boxes are cannot be told."""
    if len(records) == 1:
        return True
    same = all(record == records[0] for record in records)
    names = ", ".join(sorted({record.file_name for record in records}))
    finding = notes.add(
        "duplicate-image-id",
        Severity.WARNING if same else Severity.ERROR,
        f"image {image_id!r}",
        f"{len(records)} {'equal' if same else 'different'} image records have this id: {names}",
        "Delete all but one." if same else "Give each its own id; until then all are left out.",
    )
    if not same:
        notes.refuse(*(record.file_name for record in records), because=finding)
    return same


def _boxes_by_image(
    coco: CocoFile, images: dict[RecordId, CocoImage], notes: _Notes
) -> dict[RecordId, list[Box]]:
    """Boxes with their findings, in file order, by image identifier; adds to ``notes``."""
    kept = _usable_annotations(coco, images, notes)
    categories = _category_map(coco, notes)
    known = [categories.get(a.category_id, (OTHER_CATEGORY, str(a.category_id))) for a in kept]
    where = [
        f"{notes.name}: annotation {a.id!r} (image {base_name(images[a.image_id].file_name)})"
        for a in kept
    ]
    rows = {image_id: row for row, image_id in enumerate(images)}
    table = BoxTable(
        bbox=np.array([a.bbox for a in kept], dtype=np.float64).reshape(-1, 4),
        category_id=np.array([category_id for category_id, _ in known], dtype=np.int64),
        iscrowd=np.array([a.iscrowd for a in kept], dtype=np.bool_),
        area=np.array([_comparable_area(a) for a in kept], dtype=np.float64),
        image=np.array([rows[a.image_id] for a in kept], dtype=np.int64),
        width=np.array([images[a.image_id].width for a in kept], dtype=np.float64),
        height=np.array([images[a.image_id].height for a in kept], dtype=np.float64),
        where=where,
    )
    boxes: dict[RecordId, list[Box]] = {}
    checked = zip(kept, known, where, box_findings(table), strict=True)
    for annotation, (category_id, category), place, findings in checked:
        area = annotation.area
        box = Box(
            annotation_id=annotation.id,
            category_id=category_id,
            category=category,
            bbox=annotation.bbox,
            iscrowd=annotation.iscrowd,
            area=area if area is not None and math.isfinite(area) else None,
            flags=annotation.flags,
            findings=findings + _flag_findings(annotation, place),
        )
        boxes.setdefault(annotation.image_id, []).append(box)
    return boxes


def _usable_annotations(
    coco: CocoFile, images: dict[RecordId, CocoImage], notes: _Notes
) -> list[CocoAnnotation]:
    """Annotation records that are readable and belong to a usable image, in file order."""
    if coco.annotations is None:
        mend = "Fine for images without objects; else export the annotations too."
        notes.add("no-annotations", Severity.WARNING, "", "no list `annotations`", mend)
    kept: list[CocoAnnotation] = []
    seen: dict[RecordId, CocoAnnotation] = {}
    for position, record in enumerate(coco.annotations or ()):
        if isinstance(record, RejectedRecord):
            _report_unreadable(record, position, notes)
        elif record.image_id not in images:
            _report_orphan(record, notes)
        elif not _repeats(record, seen, notes):
            kept.append(record)
    counts = Counter(annotation.image_id for annotation in kept)
    crowded = {image_id for image_id, count in counts.items() if count > MAX_BOXES_PER_IMAGE}
    for image_id in crowded:
        _refuse_crowded(images.pop(image_id), counts[image_id], notes)
    return [annotation for annotation in kept if annotation.image_id not in crowded]


def _report_unreadable(record: RejectedRecord, position: int, notes: _Notes) -> None:
    notes.add(
        "bad-annotation",
        Severity.ERROR,
        f"annotation {record.get('id')!r} (number {position} of the list)",
        f"cannot be used: {record.reason(CocoAnnotation)}",
        "Give it an id, an image_id, a category_id and a bbox of four numbers; it is left out.",
    )


def _report_orphan(annotation: CocoAnnotation, notes: _Notes) -> None:
    finding = notes.add(
        "orphan-annotation",
        Severity.ERROR,
        f"annotation {annotation.id!r}",
        f"no usable image record has the id {annotation.image_id!r}",
        "Add or mend that image record (5 and '5' are different ids); the box is left out.",
    )
    # NOD's identifiers are file stems: an image known only by its boxes is not one without boxes.
    notes.refuse(annotation.image_id, because=finding)


def _repeats(
    annotation: CocoAnnotation, seen: dict[RecordId, CocoAnnotation], notes: _Notes
) -> bool:
    """True for a record that says again what one with its id said; reports any repeated id."""
    first = seen.setdefault(annotation.id, annotation)
    if first is annotation:
        return False
    same = first == annotation
    notes.add(
        "duplicate-annotation-id",
        Severity.WARNING,
        f"annotation {annotation.id!r} (image {annotation.image_id!r})",
        "an earlier annotation has this id and is " + ("equal" if same else "another box"),
        "Delete it; it is counted once." if same else "Give it its own id; both boxes are kept.",
    )
    return same


def _refuse_crowded(image: CocoImage, count: int, notes: _Notes) -> None:
    finding = notes.add(
        "too-many-boxes",
        Severity.ERROR,
        f"image {image.id!r} ({base_name(image.file_name)})",
        f"{count:,} boxes; at most {MAX_BOXES_PER_IMAGE:,} are believed",
        "Export the annotations again; the image is left out until then.",
    )
    notes.refuse(image.file_name, because=finding)


def _category_map(coco: CocoFile, notes: _Notes) -> dict[RecordId, tuple[int, str]]:
    """Map the file's category ids to (id of ours or `OTHER_CATEGORY`, name in the file).

    By name, because files number as they like; by COCO's numbers where a file lists no categories.
    """
    if not coco.categories:
        return dict(zip(CLASS_NAMES, CLASS_NAMES.items(), strict=True))
    found: dict[RecordId, tuple[int, str]] = {}
    for position, record in enumerate(coco.categories):
        if isinstance(record, RejectedRecord):
            _report_category(record.get("id"), position, record.reason(CocoCategory), notes)
            continue
        ours = _CLASS_IDS.get(record.name.strip().casefold(), OTHER_CATEGORY)
        if found.setdefault(record.id, (ours, record.name))[0] != ours:
            _report_category(record.id, position, "two names for one id", notes)
            found[record.id] = (OTHER_CATEGORY, record.name)
    if not any(ours for ours, _ in found.values()):
        notes.add(
            "no-known-category",
            Severity.ERROR,
            "",
            "none of its categories is person, bicycle or car: no box can be trained on",
            "Rename the categories that are meant.",
        )
    return found


def _report_category(category_id: object, position: int, message: str, notes: _Notes) -> None:
    notes.add(
        "bad-category",
        Severity.ERROR,
        f"category {category_id!r} (number {position} of the list)",
        message,
        "Give each category one id and one name; boxes of this id are not trained on.",
    )


def _comparable_area(annotation: CocoAnnotation) -> float:
    """Area in pixels to hold against the box; NaN for none, infinity for one that is no number."""
    if annotation.area is None or annotation.segmentation:
        return math.nan
    return annotation.area if math.isfinite(annotation.area) else math.inf


def _flag_findings(annotation: CocoAnnotation, place: str) -> tuple[Finding, ...]:
    return tuple(
        Finding(
            code="unreadable-flag",
            severity=Severity.INFO,
            where=place,
            message=f"{name} is neither true nor false",
            mend="Write true or false; the flag is left out.",
        )
        for name in annotation.unreadable_flags
    )


def base_name(file_name: str) -> str:
    """Last part of a path of any system, in Unicode NFC; empty when that is no file's name."""
    name = unicodedata.normalize("NFC", re.split(r"[\\/]", file_name)[-1])
    return "" if name in {".", ".."} or _CONTROL.search(name) else name
