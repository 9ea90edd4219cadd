"""What all annotation files together say about a raw.

`build_index` joins files that the readers of `table` have read, merges what they say twice and
never chooses where they disagree: asking for such an image raises. Nothing here opens a file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from pipeline.annotations.columns import AnnotatedImages, base_name
from pipeline.annotations.file_findings import MAX_NAMED
from pipeline.annotations.reader import LoadedFile
from pipeline.errors import AnnotationError
from schemas.coco import OTHER_CATEGORY, ImageAnnotation, RecordId
from schemas.finding import Finding
from schemas.finding_codes import FindingCode

_UNSPLIT = "none"
"""What a message calls the split of an image that has none."""

MAX_NAMESAKES: Final = 20
"""Different images of one name that are told apart; no set of cameras has more."""

_RENDITIONS = frozenset({"", "jpg", "jpeg", "png", "tif", "tiff", "bmp", "webp", "heic"})
"""Extensions of pictures developed from a raw: ``A.JPG`` is ``A.NEF``; ``A.ARW`` is not."""


class MissingRaw(NamedTuple):
    """An annotated image, by the annotation file and its own name."""

    file: str
    file_name: str


@dataclass(frozen=True, slots=True)
class _Record:
    """One image record, where it is kept."""

    images: AnnotatedImages
    number: int

    @property
    def file_name(self) -> str:
        return self.images.file_name(self.number)

    @property
    def size(self) -> tuple[int, int]:
        return self.images.size(self.number)

    @property
    def annotation(self) -> ImageAnnotation:
        return self.images[self.number]


@dataclass(eq=False, slots=True)
class _Picture:
    """One annotated image: the record that counts, what it is called, what contradicts it."""

    record: _Record
    names: tuple[str, ...]
    conflict: tuple[_Record, _Record, str] | None = None


@dataclass
class AnnotationIndex:
    """All annotations, found by the name of the raw; made by `build_index`.

    Attributes
    ----------
    findings
        Those of the files and their records, of merges and contradictions; those of boxes are on
        the boxes.
    categories
        The classes that boxes have, by `class_key` of their names.
    """

    findings: tuple[Finding, ...] = ()
    categories: frozenset[str] = frozenset()
    _pictures: list[_Picture] = field(default_factory=list)
    _by_stem: dict[str, list[_Picture]] = field(default_factory=dict)
    _ambiguous: dict[str, Finding] = field(default_factory=dict)
    _refused: dict[str, Finding] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._pictures)

    @property
    def images(self) -> tuple[ImageAnnotation, ...]:
        """One record an image, ordered by annotation file name, then as in the file."""
        return tuple(picture.record.annotation for picture in self._pictures)

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
            When files contradict each other about this image, records of other names and one size
            may all mean it, or its only record is unusable: to go on would make it an image
            without objects, or with another's.
        """
        found = self._find(file_name)
        name, stem = _keys(file_name)
        for picture in found:
            if picture.conflict:
                raise _as_error(_conflict(*picture.conflict))
            if stem in self._ambiguous:
                raise _as_error(self._ambiguous[stem])
        sizes = {picture.record.size for picture in found}
        if len(sizes) < len(found):
            raise _as_error(_namesakes(file_name, found))
        because = self._refused.get(name) or self._refused.get(stem)
        if not found and because:
            raise _as_error(because)
        return tuple(picture.record.annotation for picture in found)

    def unmatched(self, seen: Iterable[str]) -> tuple[MissingRaw, ...]:
        """Images, in index order, that `lookup` finds for none of the raws named in ``seen``."""
        matched = {id(picture) for file_name in seen for picture in self._find(file_name)}
        return tuple(
            MissingRaw(picture.record.images.file, picture.record.file_name)
            for picture in self._pictures
            if id(picture) not in matched
        )

    def shared(self, seen: Iterable[str]) -> tuple[tuple[str, ...], ...]:
        """Groups of raws named in ``seen`` for which `lookup` finds one and the same image only."""
        raws: dict[int, list[str]] = {}
        for file_name in seen:
            found = self._find(file_name)
            if len(found) == 1:  # several are told apart by their sizes
                raws.setdefault(id(found[0]), []).append(file_name)
        return tuple(tuple(names) for names in raws.values() if len(names) > 1)

    def _find(self, file_name: str) -> list[_Picture]:
        name, stem = _keys(file_name)
        alike = self._by_stem.get(stem, [])
        return [picture for picture in alike if name in picture.names] or alike

    def _add(self, record: _Record) -> str | None:
        """Take in one record; return the file that says the same already, if one does."""
        name, stem = _keys(record.file_name)
        alike = self._by_stem.setdefault(stem, [])
        if stem in self._ambiguous:
            return None
        picture, difference = _counterpart(alike, record)
        if picture is None:
            if len(alike) == MAX_NAMESAKES:
                self._ambiguous[stem] = _too_many_namesakes(record)
                return None
            picture = _Picture(record, (name,))
            self._pictures.append(picture)
            alike.append(picture)
            return None
        if name not in picture.names:
            picture.names += (name,)
        if difference:
            picture.conflict = picture.conflict or (picture.record, record, difference)
            return None
        earlier = picture.record.images.file
        picture.record = min(picture.record, record, key=_lacks)
        return earlier

    def _contradictions(self) -> list[Finding]:
        """The first of them, each by name, and how many more there are."""
        conflicts = [picture.conflict for picture in self._pictures if picture.conflict]
        named = [_conflict(*conflict) for conflict in conflicts[:MAX_NAMED]]
        if len(conflicts) > MAX_NAMED:
            _, last, _ = conflicts[-1]
            more = f"and {len(conflicts) - MAX_NAMED:,} more images on which files disagree"
            update = {"where": last.images.file, "message": more}
            named.append(named[-1].model_copy(update=update))
        return [*named, *list(self._ambiguous.values())[:MAX_NAMED]]


def build_index(files: Sequence[LoadedFile]) -> AnnotationIndex:
    """Join annotation files; the result does not depend on their order.

    Records of one image (same stem; same extension, or one names a developed picture) that agree
    in size, split and boxes are merged, as in NOD's ``raw_`` and ``rawpy_`` twins. A record
    without a split agrees with any. Records of different size *and* different boxes are taken for
    two cameras that share a name and kept apart; any other disagreement is a contradiction.

    Parameters
    ----------
    files
        As their readers gave them; no identifier need be unique across files.

    Returns
    -------
    The index, with one finding for each pair of files merged and each image contradicted.
    """
    ordered = sorted(files, key=lambda file: (file.name, file.split or ""))
    index = AnnotationIndex()
    twins: Counter[tuple[str, str]] = Counter()
    for file in ordered:
        for number in range(len(file.images)):
            earlier = index._add(_Record(file.images, number))
            if earlier is not None:
                twins[earlier, file.name] += 1
        for file_name, finding in file.refused.items():
            for key in _keys(file_name):
                index._refused.setdefault(key, finding)
    index.categories = frozenset(name for file in ordered for _, name in file.images.categories)
    index.findings = (
        *(finding for file in ordered for finding in file.findings),
        *_category_numbers(ordered),
        *(_merge(first, second, count) for (first, second), count in twins.items()),
        *index._contradictions(),
    )
    return index


def _keys(file_name: str) -> tuple[str, str]:
    """Name and stem by which a file is found: no folders, no case."""
    name = base_name(file_name).strip().casefold()
    stem, dot, _ = name.rpartition(".")
    return name, stem if dot and stem else name


def _counterpart(alike: Sequence[_Picture], record: _Record) -> tuple[_Picture | None, str]:
    """Find what ``record`` is a record of, and where it disagrees; agreement is preferred."""
    compared = [(picture, _difference(picture.record, record)) for picture in alike]
    same = [(picture, difference) for picture, difference in compared if difference is not None]
    return min(same, key=lambda pair: bool(pair[1]), default=(None, ""))


def _difference(known: _Record, record: _Record) -> str | None:
    """Name what two records of one stem disagree on: empty when they agree, None when they are
    two images."""
    extensions = {_extension(known), _extension(record)}
    if len(extensions) == 2 and not extensions & _RENDITIONS:
        return None
    size = known.size != record.size
    boxes = _boxes_differ(known, record)
    if size and (boxes or not known.images.box_count(known.number)):
        return None
    splits = {known.images.split, record.images.split}
    wrong = {"size": size, "boxes": boxes, "split": len(splits) == 2 and None not in splits}
    return " and ".join(aspect for aspect, differs in wrong.items() if differs)


def _boxes_differ(known: _Record, record: _Record) -> bool:
    counts = {one.images.box_count(one.number) for one in (known, record)}
    return len(counts) == 2 or known.images.content(known.number) != record.images.content(
        record.number
    )


def _extension(record: _Record) -> str:
    name, _ = _keys(record.file_name)
    _, dot, extension = name.rpartition(".")
    return extension if dot else ""


def _lacks(record: _Record) -> tuple[bool, bool, bool]:
    """Order twins so that the one that knows most comes first."""
    has_flags = record.images.has_flags(record.number)
    return record.images.split is None, not has_flags, _extension(record) in _RENDITIONS


def _conflict(known: _Record, record: _Record, difference: str) -> Finding:
    def said(one: _Record) -> str:
        image = one.annotation
        return (
            f"{image.file} (image {image.image_id!r}: {image.width}x{image.height}, "
            f"split {image.split or _UNSPLIT}, {len(image.boxes)} boxes)"
        )

    return FindingCode.CONTRADICTION.finding(
        where=record.file_name,
        message=f"{said(known)} and {said(record)} disagree on its {difference}",
        mend="Leave out one of the two annotation files, or delete the wrong record in it.",
    )


def _too_many_namesakes(record: _Record) -> Finding:
    return FindingCode.CONTRADICTION.finding(
        where=record.file_name,
        message=f"more than {MAX_NAMESAKES} different images have this name "
        f"(the last in {record.images.file})",
        mend="Export the annotations again, each image once.",
    )


def _namesakes(file_name: str, found: Sequence[_Picture]) -> Finding:
    names = ", ".join(sorted(f"{p.record.file_name} in {p.record.images.file}" for p in found))
    return FindingCode.CONTRADICTION.finding(
        where=file_name,
        message=f"several annotated images may be this one: {names}",
        mend="Give the raw's own name as file_name in the record that means it.",
    )


def _merge(first: str, second: str, count: int) -> Finding:
    same = first == second
    code = FindingCode.LISTED_TWICE if same else FindingCode.MERGED_TWIN
    return code.finding(
        where=second,
        message=f"{count} images are listed twice, equally; kept once"
        if same
        else f"{count} images are the same in {first}; kept once",
    )


def _category_numbers(files: Sequence[LoadedFile]) -> list[Finding]:
    """Where files number a class differently, or give one number to two classes: at most one each.

    Formats that have names only say nothing about numbers.
    """
    numbers: dict[str, tuple[RecordId, str]] = {}
    names: dict[RecordId, tuple[str, str]] = {}
    found: dict[str, Finding] = {}
    for file in files:
        for number, name in file.images.categories:
            if number == OTHER_CATEGORY:
                continue
            known, first = numbers.setdefault(name, (number, file.name))
            if known != number and "number" not in found:
                message = f"{name!r} is {number!r} here and {known!r} in {first}"
                found["number"] = _names_count(file.name, message)
            other, first = names.setdefault(number, (name, file.name))
            if other != name and "name" not in found:
                message = f"{number!r} is {name!r} here and {other!r} in {first}"
                found["name"] = _names_count(file.name, message)
    return list(found.values())


def _names_count(where: str, message: str) -> Finding:
    return FindingCode.CATEGORY_NUMBERS.finding(
        where, f"category {message}: classes go by their names, numbers are kept as annotated"
    )


def _as_error(finding: Finding) -> AnnotationError:
    return AnnotationError(finding.message, path=finding.where, mend=finding.mend)
