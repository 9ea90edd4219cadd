"""What all annotation files together say about a raw.

`build_index` joins files that the readers of `table` have read, finds the raws that are meant,
merges what is said twice and never chooses where files disagree: asking for such an image raises.
Nothing here opens a file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import numpy as np

from pipeline.annotations.boxes import xywh_to_xyxy
from pipeline.annotations.columns import (
    AnnotatedImages,
    Annotation,
    UnsizedAnnotation,
    annotation_in,
)
from pipeline.annotations.file_findings import MAX_NAMED
from pipeline.annotations.names import (
    PICTURES,
    RAWS,
    ImageName,
    claims,
    extension,
    folders_of,
    root,
    whole_name,
)
from pipeline.annotations.reader import LoadedFile, split_of_folders
from pipeline.errors import AnnotationError
from schemas.coco import OTHER_CATEGORY, ImageAnnotation, RecordId
from schemas.finding import Finding
from schemas.finding_codes import FindingCode

_UNSPLIT = "none"
"""What a message calls the split of an image that has none."""

MAX_NAMESAKES: Final = 20
"""Different images of one raw that are told apart; no set of cameras has more."""

_SAME_EDGES: Final = 1.5
"""Pixels between edges of one box in two formats: VOC writes whole ones, and from 1."""


class MissingRaw(NamedTuple):
    """An annotated image, by the annotation file and its own name."""

    file: str
    file_name: str


@dataclass(frozen=True, slots=True)
class _Record:
    """One image record, where it is kept."""

    images: AnnotatedImages
    number: int
    place: str

    @property
    def name(self) -> ImageName:
        return ImageName(self.images.path(self.number), self.place)

    @property
    def file_name(self) -> str:
        return self.images.file_name(self.number)

    @property
    def size(self) -> tuple[int, int] | None:
        return self.images.size(self.number)

    @property
    def annotation(self) -> Annotation:
        return self.images.as_annotated(self.number)

    def in_frame(self, frame: tuple[int, int] = (1, 1)) -> ImageAnnotation:
        """What it says, in a frame of this (width, height) if it has none of its own."""
        return self.images.annotation(self.number, frame)


@dataclass(frozen=True, slots=True)
class _Refused:
    """An image record that cannot be used."""

    name: ImageName
    because: Finding


@dataclass(eq=False, slots=True)
class _Picture:
    """One annotated image: the records of it, the one that counts, and what contradicts it."""

    record: _Record
    records: list[_Record]
    raws: frozenset[str]
    conflict: tuple[_Record, _Record, str] | None = None


@dataclass
class _Join:
    """Records of one root, put together into pictures, for the raws of that root."""

    raws: Mapping[str, str]
    pictures: list[_Picture] = field(default_factory=list)
    merged: Counter[tuple[str, str]] = field(default_factory=Counter)
    ambiguous: dict[str, Finding] = field(default_factory=dict)
    of_raw: dict[str, list[_Picture]] = field(default_factory=dict)
    refused: dict[str, Finding] = field(default_factory=dict)
    _of_none: dict[tuple[str, ...], list[_Picture]] = field(default_factory=dict)

    def add_all(self, records: Sequence[_Record], refused: Sequence[_Refused]) -> None:
        """Take in all records, in order."""
        names, places = list(self.raws), list(self.raws.items())
        wanted = [record.name for record in records] + [one.name for one in refused]
        found = claims(wanted, places)
        meant = [frozenset(names[number] for number in one) for one in found]
        for record, raws in zip(records, meant, strict=False):
            self._add(record, raws)
        for one, raws in zip(refused, meant[len(records) :], strict=True):
            for name in raws:
                self.refused.setdefault(name, one.because)

    def _add(self, record: _Record, raws: frozenset[str]) -> None:
        nobodys = self._of_none.setdefault(folders_of(record.name.path), [])
        lists = [self.of_raw.setdefault(raw, []) for raw in sorted(raws)] or [nobodys]
        alike = list({id(one): one for known in lists for one in known}.values())
        picture, difference = _counterpart(alike, record)
        if picture is None:
            if len(alike) >= MAX_NAMESAKES:
                finding = _too_many_namesakes(record)
                for raw in raws or {record.file_name}:
                    self.ambiguous.setdefault(raw, finding)
                return
            picture = _Picture(record, [record], raws)
            self.pictures.append(picture)
            for known in lists:
                known.append(picture)
            return
        picture.records.append(record)
        if difference:
            picture.conflict = picture.conflict or (picture.record, record, difference)
            return
        self.merged[picture.record.images.file, record.images.file] += 1
        picture.record = min(picture.record, record, key=_lacks)

    def find(self, raw: str) -> list[_Picture]:
        """The pictures that a raw may be: those of its whole name, if there are any."""
        alike, name = self.of_raw.get(raw, []), whole_name(raw)
        whole = [one for one in alike if name in {whole_name(r.file_name) for r in one.records}]
        return whole or alike


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
    _records: dict[str, list[_Record]] = field(default_factory=dict)
    _refused: dict[str, list[_Refused]] = field(default_factory=dict)
    _joins: dict[str, _Join] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._pictures)

    @property
    def images(self) -> tuple[ImageAnnotation, ...]:
        """One record an image, ordered by annotation file name, then as in the file.

        Where a file says no size, a frame of 1x1 takes its place.
        """
        return tuple(picture.record.in_frame() for picture in self._pictures)

    def lookup(
        self, file_name: str, frame: tuple[int, int] = (1, 1)
    ) -> tuple[ImageAnnotation, ...]:
        """What is said about a raw, as `candidates` finds it.

        Parameters
        ----------
        frame
            (width, height) of the raw's frame, for annotations that do not say their own.
        """
        return tuple(annotation_in(one, frame) for one in self.candidates(file_name))

    def candidates(self, file_name: str) -> tuple[Annotation, ...]:
        """Find what is said about a raw.

        Parameters
        ----------
        file_name
            Name of the raw, as given to `build_index`; of others, as if they were the only raw.

        Returns
        -------
        The records of this very file name, else those that may mean it (annotations name the
        developed JPEG too; `names` has the rules); empty when there is none. Several only when
        cameras share names: their sizes differ, and the one that fits the raw's frame is meant.
        A record without a split is in that of the raw's folder (``train/``).

        Raises
        ------
        AnnotationError
            When files contradict each other about this image, one record may mean raws of several
            folders, records of other names and one size may all mean it, or its only record is
            unusable: to go on would make it an image without objects, or with another's.
        """
        join = self._join(file_name)
        found = join.find(file_name)
        if file_name in join.ambiguous:
            raise _as_error(join.ambiguous[file_name])
        for picture in found:
            if picture.conflict:
                raise _as_error(_conflict(*picture.conflict))
            namesakes = _same_name(file_name, picture.raws)
            if namesakes:
                raise _as_error(_several_raws(file_name, namesakes, picture.record))
        sizes = {picture.record.size for picture in found}
        if len(sizes) < len(found) or (len(found) > 1 and None in sizes):
            raise _as_error(_namesakes(file_name, found))
        if not found and file_name in join.refused:
            raise _as_error(join.refused[file_name])
        return tuple(_with_split(picture.record.annotation, file_name) for picture in found)

    def mentions(self, raw: str) -> bool:
        """Whether any record, usable or not, may mean a raw."""
        join = self._join(raw)
        return raw in join.refused or raw in join.ambiguous or bool(join.of_raw.get(raw))

    def unmatched(self, seen: Iterable[str]) -> tuple[MissingRaw, ...]:
        """Images, in index order, that `lookup` finds for none of the raws named in ``seen``."""
        matched = {
            (id(record.images), record.number)
            for file_name in seen
            for picture in self._join(file_name).of_raw.get(file_name, ())
            for record in picture.records
        }
        return tuple(
            MissingRaw(picture.record.images.file, picture.record.file_name)
            for picture in self._pictures
            if (id(picture.record.images), picture.record.number) not in matched
        )

    def shared(self, seen: Iterable[str]) -> tuple[tuple[str, ...], ...]:
        """Groups of raws named in ``seen`` for which `lookup` finds one and the same image only."""
        raws: dict[int, list[str]] = {}
        for file_name in seen:
            found = self._join(file_name).find(file_name)
            if len(found) == 1 and not _same_name(file_name, found[0].raws):
                raws.setdefault(id(found[0]), []).append(file_name)
        return tuple(tuple(names) for names in raws.values() if len(names) > 1)

    def _join(self, file_name: str) -> _Join:
        """What is known of a raw's root: of one that was not given, as if it were the only raw."""
        key = root(file_name)
        known = self._joins.get(key)
        if known is None or file_name not in known.raws:
            known = _Join({file_name: file_name})
            known.add_all(self._records.get(key, ()), self._refused.get(key, ()))
        return known

    def _contradictions(self) -> list[Finding]:
        """The first of them, each by name, and how many more there are."""
        conflicts = [picture.conflict for picture in self._pictures if picture.conflict]
        named = [_conflict(*conflict) for conflict in conflicts[:MAX_NAMED]]
        if len(conflicts) > MAX_NAMED:
            _, last, _ = conflicts[-1]
            more = f"and {len(conflicts) - MAX_NAMED:,} more images on which files disagree"
            update = {"where": last.images.file, "message": more}
            named.append(named[-1].model_copy(update=update))
        ambiguous = {id(f): f for join in self._joins.values() for f in join.ambiguous.values()}
        return [*named, *list(ambiguous.values())[:MAX_NAMED]]

    def _splits_by_raw(self) -> list[Finding]:
        """One line if folders of raws name the splits of records that have none."""
        splits = Counter(
            split
            for join in self._joins.values()
            for raw, pictures in join.of_raw.items()
            if any(picture.record.images.split is None for picture in pictures)
            and (split := split_of_folders(raw)) is not None
        )
        if not splits:
            return []
        said = ", ".join(f"{count:,} {split}" for split, count in sorted(splits.items()))
        where = next(one.record.images.file for one in self._pictures)
        return [FindingCode.FOLDER_SPLIT.finding(where, f"folders name the splits of raws: {said}")]


def build_index(
    files: Sequence[LoadedFile], raws: Mapping[str, str] | None = None
) -> AnnotationIndex:
    """Join annotation files; the result does not depend on their order.

    Records of one image (they mean the same raws; same extension, or one names a developed
    picture) that agree in size, split and boxes are merged, as in NOD's ``raw_`` and ``rawpy_``
    twins. A record without a split agrees with any. Records of different size *and* different
    boxes are taken for two cameras that share a name and kept apart; any other disagreement is a
    contradiction.

    Parameters
    ----------
    files
        As their readers gave them; no identifier need be unique across files.
    raws
        Name -> place, folders included, of every raw that may be annotated. Folders tell raws of
        one name apart.

    Returns
    -------
    The index, with one finding for each pair of files merged and each image contradicted.
    """
    ordered = sorted(files, key=lambda file: (file.name, file.split or ""))
    index = AnnotationIndex()
    order: dict[tuple[int, int], int] = {}
    for file in ordered:
        place = file.place or file.name
        for number in range(len(file.images)):
            record = _Record(file.images, number, place)
            order[id(file.images), number] = len(order)
            index._records.setdefault(root(file.images.path(number)), []).append(record)
        for file_name, finding in file.refused.items():
            refused = _Refused(ImageName(file_name, place), finding)
            index._refused.setdefault(root(file_name), []).append(refused)
    of_root: dict[str, dict[str, str]] = {}
    for name, place in (raws or {}).items():
        of_root.setdefault(root(name), {})[name] = place
    for key in {**index._records, **index._refused}:
        join = index._joins[key] = _Join(of_root.get(key, {}))
        join.add_all(index._records.get(key, ()), index._refused.get(key, ()))
    pictures = [picture for join in index._joins.values() for picture in join.pictures]
    index._pictures = sorted(
        pictures, key=lambda one: order[id(one.records[0].images), one.records[0].number]
    )
    merged = sum((join.merged for join in index._joins.values()), Counter[tuple[str, str]]())
    index.categories = frozenset(name for file in ordered for _, name in file.images.categories)
    index.findings = (
        *(finding for file in ordered for finding in file.findings),
        *_category_numbers(ordered),
        *(_merge(first, second, count) for (first, second), count in merged.items()),
        *index._contradictions(),
        *index._splits_by_raw(),
    )
    return index


def _with_split(annotation: Annotation, raw: str) -> Annotation:
    """The split of the raw's folder, where the annotation file names none."""
    split = split_of_folders(raw) if annotation.split is None else None
    if split is None:
        return annotation
    if isinstance(annotation, UnsizedAnnotation):
        return replace(annotation, folder_split=split)
    return annotation.model_copy(update={"split": split})


def _same_name(raw: str, raws: Iterable[str]) -> list[str]:
    """Other raws of the same whole name: folders do not say which of them an image is."""
    name = whole_name(raw)
    return sorted(other for other in raws if other != raw and whole_name(other) == name)


def _counterpart(alike: Sequence[_Picture], record: _Record) -> tuple[_Picture | None, str]:
    """Find what ``record`` is a record of, and where it disagrees; agreement is preferred."""
    compared = [(picture, _difference(picture.record, record)) for picture in alike]
    same = [(picture, difference) for picture, difference in compared if difference is not None]
    return min(same, key=lambda pair: bool(pair[1]), default=(None, ""))


def _difference(known: _Record, record: _Record) -> str | None:
    """Name what two records of one stem disagree on: empty when they agree, None when they are
    two images."""
    extensions = {_extension(known), _extension(record)}
    if len(extensions) == 2 and not extensions & (PICTURES | {""}):
        return None
    unsized = None in (known.size, record.size)
    size = known.size != record.size and not unsized
    boxes = _boxes_differ(known, record)
    if size and (boxes or not known.images.box_count(known.number)):
        return None
    splits = {known.images.split, record.images.split}
    wrong = {"size": size, "boxes": boxes, "split": len(splits) == 2 and None not in splits}
    return " and ".join(aspect for aspect, differs in wrong.items() if differs)


def _boxes_differ(known: _Record, record: _Record) -> bool:
    counts = {one.images.box_count(one.number) for one in (known, record)}
    if len(counts) == 2:
        return True
    if known.images.relative != record.images.relative:
        return not _drawn_alike(known, record)
    return known.images.content(known.number) != record.images.content(record.number)


def _drawn_alike(known: _Record, record: _Record) -> bool:
    """Whether boxes in pixels and boxes in widths and heights are the same, but for rounding."""
    frame = known.size or record.size
    if frame is None:
        return known.images.box_count(known.number) == 0
    first, second = (one.in_frame(frame).boxes for one in (known, record))
    left = xywh_to_xyxy([box.bbox for box in first])
    right = xywh_to_xyxy([box.bbox for box in second])
    free = np.ones(len(right), dtype=bool)
    names = np.array([box.category.strip().casefold() for box in second])
    for box, edges in zip(first, left, strict=True):
        near = (np.abs(right - edges) <= _SAME_EDGES).all(axis=1)
        fitting = np.flatnonzero(free & near & (names == box.category.strip().casefold()))
        if not fitting.size:
            return False
        free[fitting[0]] = False
    return True


def _extension(record: _Record) -> str:
    """The extension of a raw or a picture that a record names; "" for none that is known."""
    found = extension(whole_name(record.file_name))
    return found if found in PICTURES | RAWS else ""


def _lacks(record: _Record) -> tuple[bool, ...]:
    """Order twins so that the one that knows most comes first."""
    has_flags = record.images.has_flags(record.number)
    return (
        record.size is None,
        record.images.split is None,
        not has_flags,
        _extension(record) not in RAWS,
    )


def _conflict(known: _Record, record: _Record, difference: str) -> Finding:
    def said(one: _Record) -> str:
        image = one.in_frame()
        size = f"{image.width}x{image.height}" if one.size else "of unknown size"
        return (
            f"image {image.image_id!r}: {size}, "
            f"split {image.split or _UNSPLIT}, {len(image.boxes)} boxes"
        )

    first, second = known.images.file, record.images.file
    if first == second:
        message = f"{first} lists it twice ({said(known)}; {said(record)}) and disagrees"
        mend = f"Delete the wrong record in {first}; or, if they are different pictures, lay the "
        mend += "raws into the folders that file_name gives, or give there those they are in."
    else:
        message = f"{first} ({said(known)}) and {second} ({said(record)}) disagree"
        mend = "Leave out one of the two annotation files, or delete the wrong record in it."
    return FindingCode.CONTRADICTION.finding(
        where=record.file_name, message=f"{message} on its {difference}", mend=mend
    )


def _several_raws(raw: str, others: Sequence[str], record: _Record) -> Finding:
    more = f" and {len(others) - 1} more" if len(others) > 1 else ""
    return FindingCode.CONTRADICTION.finding(
        where=raw,
        message=f"{record.images.file} has one image {record.name.path}, and another raw of this "
        f"name is here: {others[0]}{more}; which one is annotated cannot be told",
        mend="Give the raw's folder in file_name (101ND750/DSC_0001.NEF), or lay the annotation "
        "file into that folder; if the raws are copies, leave out all but one.",
    )


def _too_many_namesakes(record: _Record) -> Finding:
    return FindingCode.CONTRADICTION.finding(
        where=record.file_name,
        message=f"more than {MAX_NAMESAKES} different images have this name "
        f"(the last in {record.images.file})",
        mend="Export the annotations again, each image once.",
    )


def _namesakes(file_name: str, found: Sequence[_Picture]) -> Finding:
    by_file: dict[str, set[str]] = {}
    for picture in found:
        by_file.setdefault(picture.record.images.file, set()).add(picture.record.name.path)
    names = ", ".join(
        sorted(f"{' and '.join(sorted(names))} in {file}" for file, names in by_file.items())
    )
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
