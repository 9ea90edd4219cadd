"""What an ingest is given: raws, and the annotations found among them or named beside them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.annotations.index import AnnotationIndex, build_index
from pipeline.annotations.reader import LoadedFile, refuse_oversized
from pipeline.annotations.table import annotation_suffixes, reader_of
from pipeline.errors import SourceError, UsageError
from pipeline.safe_text import printable
from pipeline.sources.discover import discover
from pipeline.sources.source import MEMBER_MARK, Source


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
    passed_over
        Names of files that may be or hold raws, and are not opened.
    """

    raws: tuple[Source, ...]
    index: AnnotationIndex
    problems: tuple[tuple[str, SourceError], ...]
    passed_over: tuple[str, ...]


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
    loaded: list[LoadedFile] = []
    named = _named(annotations, splits)
    for source, split in [*named, *((source, None) for source in found.annotations)]:
        is_named = (source, split) in named
        if not is_named and any(source.location == known.location for known, _ in named):
            continue
        try:
            loaded += _read(source, split, is_named=is_named)
        except SourceError as error:
            problems.append((source.name, error))
    return Inputs(found.raws, build_index(loaded), tuple(problems), found.passed_over)


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


def _named(
    annotations: Sequence[str], splits: Sequence[tuple[str, str]]
) -> list[tuple[Source, str | None]]:
    """The annotation files named by the user; none of them is passed over.

    Raises
    ------
    UsageError
        If there is no annotation file at a place that was named.
    """
    paths: list[tuple[str, str | None]] = [(path, split) for split, path in splits]
    paths += [(path, None) for path in annotations]
    return [(source, split) for path, split in paths for source in _annotations_at(path)]


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
            mend=problem.mend if problem else "name a COCO file, or a folder that holds some",
        )
    return files


def _read(source: Source, split: str | None, *, is_named: bool) -> Iterator[LoadedFile]:
    refuse_oversized(source.size, source.name)
    data = source.read_bytes()
    reader = reader_of(data, source.name, is_named=is_named)
    if reader is not None:
        yield reader.read(data, name=source.name, split=split)
