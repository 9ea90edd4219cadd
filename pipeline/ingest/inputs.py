"""What an ingest is given: raws, and the annotations found among them or named beside them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from pipeline.annotations.coco_file import looks_like_detections
from pipeline.annotations.index import AnnotationIndex, build_index
from pipeline.annotations.reader import LoadedFile, folder_split, refuse_oversized
from pipeline.annotations.table import annotation_suffixes, reader_of
from pipeline.errors import SourceError, UsageError
from pipeline.ingest.label_files import AnnotationSource, LabelFiles
from pipeline.safe_text import printable
from pipeline.sources.discover import discover
from pipeline.sources.source import MEMBER_MARK, Source
from schemas.finding import Finding
from schemas.finding_codes import FindingCode


@dataclass(frozen=True)
class Inputs:
    """Everything an ingest looks at before it touches the store.

    Attributes
    ----------
    raws
        By name, in order.
    index
        All annotations that could be read.
    problems
        Sources that could not be: (name, error). They cost themselves only.
    findings
        What was passed over, and which splits folders name. Those of annotations are the index's.
    annotation_files
        Names of the annotation files that could be read.
    passed_over
        Names of files that may be or hold raws, and are not opened.
    """

    raws: tuple[Source, ...]
    index: AnnotationIndex
    problems: tuple[tuple[str, SourceError], ...]
    findings: tuple[Finding, ...] = ()
    annotation_files: frozenset[str] = frozenset()
    passed_over: tuple[str, ...] = ()


def gather(
    sources: Sequence[str], annotations: Sequence[str], splits: Sequence[tuple[str, str]]
) -> Inputs:
    """Find raws and read annotations.

    Parameters
    ----------
    sources
        Folders, files, archives, URLs.
    annotations
        Annotation files named by the user.
    splits
        (split, annotation file) pairs named by the user.

    Raises
    ------
    UsageError
        If a named input does not exist, or there is no raw.
    """
    found = discover(sources, annotation_suffixes=annotation_suffixes())
    problems = [(_relative(problem.path, sources), problem) for problem in found.problems]
    if not found.raws and not problems:
        names = found.passed_over
        raise UsageError(
            f"no camera raws found; {passed_over_text(names)}" if names else "no camera raws found",
            path=", ".join(sources),
            mend="name the folder, archive or files that hold them"
            + (", and unpack what is packed" if names else ""),
        )
    named = _named(annotations, splits)
    locations = {one.source.location for one in named}
    files = [
        *named,
        *(AnnotationSource(one) for one in found.annotations if one.location not in locations),
    ]
    labels = LabelFiles([one for one in files if one.is_text], found.raws)
    reading = _Reading()
    for one in files:
        if one.is_text and not one.itself:
            continue
        try:
            reading.read(one, labels)
        except SourceError as error:
            problems.append((one.source.name, error))
    labels.find_labels()
    problems += labels.problems
    loaded = [*reading.loaded, *labels.loaded()]
    return Inputs(
        raws=found.raws,
        index=build_index(loaded, {raw.name: raw.label for raw in found.raws}),
        problems=tuple(problems),
        findings=tuple(reading.findings()),
        annotation_files=frozenset(file.name for file in loaded),
        passed_over=found.passed_over,
    )


def passed_over_text(names: Sequence[str]) -> str:
    """How many files of which kind are not opened, and the first of them."""
    kinds = Counter(os.path.splitext(name)[1].lower() for name in names)
    counts = ", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items()))
    return f"{counts} passed over that may be or hold raws, such as {names[0]}"


def _relative(path: str, sources: Sequence[str]) -> str:
    """A path as seen from the source it was found in: manifests do not depend on mount points."""
    for source in sources:
        root = printable(os.path.abspath(source))
        if path == root or path.startswith((root + os.sep, root + MEMBER_MARK)):
            return os.path.basename(root) + path[len(root) :]
    return path


def _named(annotations: Sequence[str], splits: Sequence[tuple[str, str]]) -> list[AnnotationSource]:
    """The annotation files named by the user; none of them is passed over.

    Raises
    ------
    UsageError
        If there is no annotation file at a place that was named.
    """
    paths: list[tuple[str, str | None]] = [(path, split) for split, path in splits]
    paths += [(path, None) for path in annotations]
    return [
        AnnotationSource(
            source,
            split,
            named=True,
            itself=source.member is None and source.location in (path, os.path.abspath(path)),
        )
        for path, split in paths
        for source in _annotations_at(path)
    ]


def _annotations_at(path: str) -> tuple[Source, ...]:
    found = discover([path], annotation_suffixes=annotation_suffixes())
    # A file is what the user says it is, whatever its suffix.
    itself = (path, os.path.abspath(path))
    files = found.annotations or tuple(
        raw for raw in found.raws if raw.member is None and raw.location in itself
    )
    if not files or found.problems:
        problem = found.problems[0] if found.problems else None
        raise UsageError(
            problem.message if problem else "no annotation file there",
            path=problem.path if problem else path,
            mend=problem.mend
            if problem
            else "name a COCO, Pascal VOC or YOLO file, or a folder that holds some",
        )
    return files


@dataclass
class _Reading:
    """Annotation files as they are read, and what is to be said about all of them."""

    loaded: list[LoadedFile] = field(default_factory=list)
    _folder_splits: dict[str, list[str]] = field(default_factory=dict)
    _passed_over: list[Finding] = field(default_factory=list)

    def read(self, file: AnnotationSource, labels: LabelFiles) -> None:
        """Read one file; one that holds no annotations is passed over, unless the user named it.

        Files of single images go to `labels`.
        """
        source, split = file.source, file.split
        refuse_oversized(source.size, source.name)
        data = source.read_bytes()
        if labels.takes(file, data):
            return
        reader = reader_of(data, source.name, is_named=file.named)
        if reader is not None:
            if split is None and (by_folder := folder_split(source.name, source.label)):
                split = by_folder
                self._folder_splits.setdefault(split, []).append(source.name)
            loaded = reader.read(data, name=source.name, split=split)
            self.loaded.append(replace(loaded, place=source.label))
        elif looks_like_detections(data):
            message = "a list of detections with scores, not annotations: passed over"
            self._passed_over.append(FindingCode.DETECTIONS.finding(source.name, message))

    def findings(self) -> Iterator[Finding]:
        """One for all splits that folders name, and one for each file passed over."""
        yield from self._passed_over
        if self._folder_splits:
            said = ", ".join(
                f"{len(names):,} {split}" for split, names in sorted(self._folder_splits.items())
            )
            where = min(name for names in self._folder_splits.values() for name in names)
            yield FindingCode.FOLDER_SPLIT.finding(
                where, f"folders name the splits of annotation files: {said}"
            )
