"""What all annotation files together say about a raw.

`build_index` joins files read by `load_coco`, merges what they say twice and never chooses where
they disagree: asking for such an image raises. Nothing here opens a file.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.coco_reader import (
    LoadedFile,
    base_name,
    load_coco,
    split_from_name,
)
from pipeline.errors import AnnotationError
from schemas.coco import CLASS_NAMES, ImageAnnotation
from schemas.finding import Finding, Severity

__all__ = [
    "UNSPLIT",
    "AnnotationIndex",
    "LoadedFile",
    "SplitCounts",
    "build_index",
    "load_coco",
    "looks_like_coco",
    "split_from_name",
]

UNSPLIT = "none"
"""Key of `AnnotationIndex.counts` for images without a split."""

_RENDITIONS = frozenset({"", "jpg", "jpeg", "png", "tif", "tiff", "bmp", "webp", "heic"})
"""Extensions of pictures developed from a raw: ``A.JPG`` is ``A.NEF``; ``A.ARW`` is not."""

_COCO_LIST = re.compile(rb'"images"\s*:\s*\[')
_COCO_SIGN = re.compile(rb'"(annotations|categories|file_name)"\s*:')


def looks_like_coco(data: bytes) -> bool:
    """Tell a COCO annotation file, whole or damaged, from other JSON without parsing it.

    For a broken file it is still true, and `load_coco` then raises: nothing is skipped silently.
    """
    text = data.replace(b"\0", b"") if data[:2] in (b"\xff\xfe", b"\xfe\xff") else data
    start = text[:64].lstrip(b"\xff\xfe\xef\xbb\xbf \t\r\n")[:1]
    return start == b"{" and bool(_COCO_LIST.search(text)) and bool(_COCO_SIGN.search(text))


@dataclass(frozen=True)
class SplitCounts:
    """What one split holds.

    Attributes
    ----------
    images
        Images, those without boxes included.
    boxes
        Class name -> boxes, trainable or not; ``"other"`` for every other category.
    untrainable
        Boxes left out of targets, of any class.
    """

    images: int
    boxes: Mapping[str, int]
    untrainable: int


@dataclass(eq=False)
class _Picture:
    """One annotated image: the record that counts, and what contradicts it."""

    record: ImageAnnotation
    conflict: Finding | None = None


@dataclass
class AnnotationIndex:
    """All annotations, found by the name of the raw; made by `build_index`.

    Attributes
    ----------
    findings
        Those of the files and their records, of merges and contradictions; those of boxes are on
        the boxes.
    """

    findings: tuple[Finding, ...] = ()
    _pictures: list[_Picture] = field(default_factory=list)
    _by_name: dict[str, list[_Picture]] = field(default_factory=dict)
    _by_stem: dict[str, list[_Picture]] = field(default_factory=dict)
    _refused: dict[str, Finding] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._pictures)

    @property
    def images(self) -> tuple[ImageAnnotation, ...]:
        """One record an image, ordered by annotation file name, then as in the file."""
        return tuple(picture.record for picture in self._pictures)

    @property
    def counts(self) -> dict[str, SplitCounts]:
        """Images and boxes by split, in alphabetical order of the splits."""
        by_split: dict[str, list[ImageAnnotation]] = {}
        for image in self.images:
            by_split.setdefault(image.split or UNSPLIT, []).append(image)
        return {split: _count(by_split[split]) for split in sorted(by_split)}

    def lookup(self, file_name: str) -> tuple[ImageAnnotation, ...]:
        """Find what is said about a raw.

        Parameters
        ----------
        file_name
            Name or path of the raw; folders and case do not matter.

        Returns
        -------
        The records of this very file name, else those of its stem (annotations name the
        developed JPEG too); empty when there is none. Several only when cameras share names:
        their sizes differ, and the one that fits the raw's frame is meant.

        Raises
        ------
        AnnotationError
            When files contradict each other about this image, or its only record is unusable:
            to go on would make it an image without objects, or with another's.
        """
        found = self._find(file_name)
        for picture in found:
            if picture.conflict:
                raise _as_error(picture.conflict)
        name, stem = _keys(file_name)
        because = self._refused.get(name) or self._refused.get(stem)
        if not found and because:
            raise _as_error(because)
        return tuple(picture.record for picture in found)

    def unmatched(self, seen: Iterable[str]) -> tuple[ImageAnnotation, ...]:
        """Records, in index order, that `lookup` finds for none of the raws named in ``seen``."""
        matched = {id(picture) for file_name in seen for picture in self._find(file_name)}
        return tuple(p.record for p in self._pictures if id(p) not in matched)

    def _find(self, file_name: str) -> list[_Picture]:
        name, stem = _keys(file_name)
        return self._by_name.get(name) or self._by_stem.get(stem) or []

    def _add(self, image: ImageAnnotation) -> str | None:
        """Take in one record; return the file that says the same already, if one does."""
        name, stem = _keys(image.file_name)
        alike = self._by_stem.setdefault(stem, [])
        named = self._by_name.setdefault(name, [])
        picture, difference = _counterpart(alike, image)
        if picture is None:
            picture = _Picture(image)
            self._pictures.append(picture)
            alike.append(picture)
        if picture not in named:
            named.append(picture)
        if picture.record is image:
            return None
        if difference:
            picture.conflict = picture.conflict or _conflict(picture.record, image, difference)
            return None
        earlier = picture.record.file
        picture.record = min(picture.record, image, key=_lacks)
        return earlier


def build_index(files: Sequence[LoadedFile]) -> AnnotationIndex:
    """Join annotation files; the result does not depend on their order.

    Records of one image (same stem; same extension, or one names a developed picture) that agree
    in size, split and boxes are merged, as in NOD's ``raw_`` and ``rawpy_`` twins. A record
    without a split agrees with any. Records of different size *and* different boxes are taken for
    two cameras that share a name and kept apart; any other disagreement is a contradiction.

    Parameters
    ----------
    files
        As read by `load_coco`; no identifier need be unique across files.

    Returns
    -------
    The index, with one finding for each pair of files merged and each image contradicted.
    """
    ordered = sorted(files, key=lambda file: (file.name, file.split or ""))
    index = AnnotationIndex()
    twins: Counter[tuple[str, str]] = Counter()
    for file in ordered:
        for image in file.images:
            earlier = index._add(image)
            if earlier is not None:
                twins[earlier, image.file] += 1
        for file_name, finding in file.refused.items():
            for key in _keys(file_name):
                index._refused.setdefault(key, finding)
    index.findings = (
        *(finding for file in ordered for finding in file.findings),
        *(_merge(first, second, count) for (first, second), count in twins.items()),
        *(picture.conflict for picture in index._pictures if picture.conflict),
    )
    return index


def _keys(file_name: str) -> tuple[str, str]:
    """Name and stem by which a file is found: no folders, no case."""
    name = base_name(file_name).strip().casefold()
    stem, dot, _ = name.rpartition(".")
    return name, stem if dot and stem else name


def _counterpart(alike: Sequence[_Picture], image: ImageAnnotation) -> tuple[_Picture | None, str]:
    """Find what ``image`` is a record of, and where it disagrees; agreement is preferred."""
    compared = [(picture, _difference(picture.record, image)) for picture in alike]
    same = [(picture, difference) for picture, difference in compared if difference is not None]
    return min(same, key=lambda pair: bool(pair[1]), default=(None, ""))


def _difference(known: ImageAnnotation, image: ImageAnnotation) -> str | None:
    """Name what two records of one stem disagree on: empty when they agree, None when they are
    two images."""
    extensions = {_extension(known), _extension(image)}
    if len(extensions) == 2 and not extensions & _RENDITIONS:
        return None
    size = (known.width, known.height) != (image.width, image.height)
    boxes = _box_content(known) != _box_content(image)
    if size and (boxes or not known.boxes):
        return None
    split = known.split is not None and image.split is not None and known.split != image.split
    wrong = {"size": size, "boxes": boxes, "split": split}
    return " and ".join(aspect for aspect, differs in wrong.items() if differs)


def _extension(image: ImageAnnotation) -> str:
    _, dot, extension = image.file_name.rpartition(".")
    return extension.casefold() if dot else ""


def _box_content(image: ImageAnnotation) -> list[tuple[int, str, str, bool]]:
    """What must agree in twins: not the order, the identifiers, the areas or the flags.

    Boxes go by their text, for which NaN equals NaN.
    """
    return sorted(
        (box.category_id, box.category.casefold(), repr(box.bbox), box.iscrowd)
        for box in image.boxes
    )


def _lacks(image: ImageAnnotation) -> tuple[bool, bool, bool]:
    """Order twins so that the one that knows most comes first."""
    has_flags = any(box.flags for box in image.boxes)
    return image.split is None, not has_flags, _extension(image) in _RENDITIONS


def _conflict(known: ImageAnnotation, image: ImageAnnotation, difference: str) -> Finding:
    def said(record: ImageAnnotation) -> str:
        return (
            f"{record.file} (image {record.image_id!r}: {record.width}x{record.height}, "
            f"split {record.split or UNSPLIT}, {len(record.boxes)} boxes)"
        )

    return Finding(
        code="contradiction",
        severity=Severity.ERROR,
        where=image.file_name,
        message=f"{said(known)} and {said(image)} disagree on its {difference}",
        mend="Leave out one of the two annotation files, or delete the wrong record in it.",
    )


def _merge(first: str, second: str, count: int) -> Finding:
    same = first == second
    return Finding(
        code="listed-twice" if same else "merged-twin",
        severity=Severity.INFO,
        where=second,
        message=f"{count} images are listed twice, equally; kept once"
        if same
        else f"{count} images are the same in {first}; kept once",
    )


def _as_error(finding: Finding) -> AnnotationError:
    return AnnotationError(finding.message, path=finding.where, hint=finding.mend)


def _count(images: Sequence[ImageAnnotation]) -> SplitCounts:
    classes = Counter(
        CLASS_NAMES.get(box.category_id, "other") for image in images for box in image.boxes
    )
    return SplitCounts(
        images=len(images),
        boxes={name: classes[name] for name in (*CLASS_NAMES.values(), "other") if classes[name]},
        untrainable=sum(not box.trainable for image in images for box in image.boxes),
    )
