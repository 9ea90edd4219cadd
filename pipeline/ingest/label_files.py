"""Reads annotation files of single images, Pascal VOC's and YOLO's, and the lists beside them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import PurePosixPath

from pipeline.annotations.coco_file import looks_like_coco
from pipeline.annotations.file_findings import Notes, bounded
from pipeline.annotations.labels.class_names import (
    MAX_LIST_BYTES,
    load_class_names,
    may_name_classes,
)
from pipeline.annotations.labels.one_image import LabelsError, refused_image
from pipeline.annotations.labels.text_files import (
    MAX_SPLIT_LIST_BYTES,
    TEXT_SUFFIXES,
    SetLists,
    image_keys,
    in_labels_folder,
    is_label_place,
    stems_by_folder,
)
from pipeline.annotations.labels.voc_file import VocReader, load_voc
from pipeline.annotations.labels.yolo_file import load_yolo, looks_like_yolo
from pipeline.annotations.reader import LoadedFile
from pipeline.errors import SourceError
from pipeline.sources.source import MEMBER_MARK, Source
from schemas.finding_codes import FindingCode


@dataclass(frozen=True)
class AnnotationSource:
    """A file that may annotate something.

    Attributes
    ----------
    split
        What the user says is the split of its images.
    named
        Whether the user named it, or a folder it is in, as one of annotations.
    itself
        Whether the user named the file itself.
    """

    source: Source
    split: str | None = None
    named: bool = False
    itself: bool = False

    @property
    def is_text(self) -> bool:
        """Whether its name says that it is text."""
        return self.source.suffix in TEXT_SUFFIXES


def path_of(source: Source) -> PurePosixPath:
    """Where a file lies, as parts that can be compared."""
    member = f"{MEMBER_MARK}{source.member.name}" if source.member else ""
    return PurePosixPath(source.location.replace(os.sep, "/") + member)


@dataclass
class LabelFiles:
    """The files of an ingest that annotate one image each, and the lists beside them.

    Parameters
    ----------
    texts
        All text files.
    raws
        The raws that may be annotated.

    Attributes
    ----------
    problems
        Files that could not be read: (name, error).
    """

    texts: Sequence[AnnotationSource]
    raws: Sequence[Source]
    problems: list[tuple[str, SourceError]] = field(default_factory=list)
    _loaded: list[LoadedFile] = field(default_factory=list)
    _nameless: list[str] = field(default_factory=list)

    def _add_voc(self, source: Source, data: bytes, split: str | None) -> None:
        """Read a VOC file."""
        try:
            split = split or self._lists.split_of(path_of(source), source.name, source.label)
        except ValueError as error:
            self._refuse(source, error)
        else:
            self._add(source, load_voc(data, name=source.name, split=split))

    def _add_labels(self, source: Source, data: bytes, split: str | None) -> None:
        """Read a YOLO label file."""
        path = path_of(source)
        try:
            split = split or self._lists.split_of(path, source.name, source.label)
            classes = self._lists.classes_of(path)
        except ValueError as error:
            self._refuse(source, error)
            return
        loaded = load_yolo(data, name=source.name, classes=classes, split=split)
        self._add(source, loaded)
        if not classes.names and len(loaded.images) and loaded.images.box_count(0):
            self._nameless.append(source.name)

    def takes(self, file: AnnotationSource, data: bytes) -> bool:
        """Read a file of one image, or a list that the user named; false if it is another thing."""
        path = path_of(file.source)
        if not file.is_text:
            is_voc = VocReader().recognises(data, path.name)
            if is_voc:
                self._add_voc(file.source, data, file.split)
            return is_voc
        if looks_like_coco(data):
            return False
        if may_name_classes(path.name) or self._lists.listed_split(path.name) is not None:
            return True
        if looks_like_yolo(data):
            self._add_labels(file.source, data, file.split)
            return True
        return False

    def find_labels(self) -> None:
        """Read the label files among the texts that the user did not name themselves."""
        doubtful: list[AnnotationSource] = []
        folders: set[PurePosixPath] = set()
        for file in self.texts:
            path = path_of(file.source)
            may_be = is_label_place(path, anywhere=file.named or self._is_beside_its_raw(path))
            data = self._read(file.source) if may_be and not file.itself else None
            if data is not None and looks_like_yolo(data):
                folders.add(path.parent)
                self._add_labels(file.source, data, file.split)
            elif data is not None:
                doubtful.append(file)
        # Without one line of numbers: a caption, a licence, or the damaged labels of a raw.
        for file in doubtful:
            path = path_of(file.source)
            among_labels = path.parent in folders or in_labels_folder(path)
            if among_labels and not self._all_stems.isdisjoint(image_keys(path.stem)):
                self._add_labels(file.source, self._read(file.source) or b"\0", file.split)

    def loaded(self) -> list[LoadedFile]:
        """All that was read, with what is to be said about it once."""
        if not self._loaded:
            return []
        findings = [finding for file in self._loaded for finding in file.findings]
        if self._nameless:
            count = len(self._nameless)
            findings.append(
                FindingCode.NO_CLASS_NAMES.finding(
                    self._nameless[0],
                    f"nothing names the classes of {count:,} label file{'s' * (count > 1)}",
                )
            )
        unsplit = [file.name for file in self._loaded if file.split is None and len(file.images)]
        if unsplit:
            findings.append(
                FindingCode.NO_SPLIT.finding(
                    unsplit[0],
                    f"no split: neither a folder nor a list says one of {len(unsplit):,} "
                    f"annotated image{'s' * (len(unsplit) > 1)}",
                    mend="Put them into folders train, val and test, or list them in a train.txt, "
                    "val.txt and test.txt, an image a line.",
                )
            )
        first, *others = self._loaded
        return [
            replace(first, findings=bounded(findings)),
            *(replace(file, findings=()) for file in others),
        ]

    @cached_property
    def _stems(self) -> dict[PurePosixPath, frozenset[str]]:
        return stems_by_folder(path_of(raw) for raw in self.raws)

    @cached_property
    def _all_stems(self) -> frozenset[str]:
        return frozenset().union(*self._stems.values())

    def _is_beside_its_raw(self, path: PurePosixPath) -> bool:
        return not self._stems.get(path.parent, frozenset()).isdisjoint(image_keys(path.stem))

    @cached_property
    def _lists(self) -> SetLists:
        """Read when the first file asks: where none does, no text file concerns us."""
        lists = SetLists()
        sources = [file.source for file in self.texts]
        for source in sources:
            if may_name_classes(path_of(source).name) and source.size <= MAX_LIST_BYTES:
                try:
                    found = load_class_names(source.read_bytes(), name=source.name)
                except SourceError as error:
                    lists.add_unreadable(path_of(source), f"{source.name}: {error.message}")
                else:
                    lists.add_classes(path_of(source), found)
        for source in sources:
            path = path_of(source)
            split = lists.listed_split(path.name)
            is_list = split is not None and not self._is_beside_its_raw(path)
            if split is not None and is_list and source.size <= MAX_SPLIT_LIST_BYTES:
                lists.add_split(path, split, self._read(source) or b"")
        return lists

    def _refuse(self, source: Source, error: ValueError) -> None:
        notes = Notes(source.name)
        because = LabelsError(str(error), mend="Correct or leave out the wrong one.")
        image = path_of(source).stem
        self._add(source, refused_image(notes, image, because, split=None))

    def _add(self, source: Source, loaded: LoadedFile) -> None:
        self._loaded.append(replace(loaded, place=source.label))

    def _read(self, source: Source) -> bytes | None:
        try:
            return source.read_bytes()
        except SourceError as error:
            self.problems.append((source.name, error))
            return None
