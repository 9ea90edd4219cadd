"""What each source needs, by comparing it with the store. Pure: no file is touched here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.annotations.columns import Annotation, annotation_in
from pipeline.annotations.index import AnnotationIndex
from pipeline.errors import SourceError
from pipeline.ingest.failure import Failure, failure_from
from pipeline.ingest.store_state import SampleState, StoreState, annotation_key
from pipeline.sources.source import Source
from schemas.coco import ImageAnnotation
from schemas.manifest import FailedSource

Status = Literal["new", "changed", "damaged", "reannotate", "up-to-date", "failed-before"]


#: Failures that the same bytes would repeat; the others depend on annotations and are tried again.
_REPEATABLE = frozenset({"unsupported", "corrupt", "crash"})


@dataclass(frozen=True)
class Item:
    """One source and what is to be done about it."""

    source: Source
    status: Status
    sample: SampleState | None = None
    annotations: tuple[Annotation, ...] = ()
    failure: Failure | None = None
    annotated: bool = True


def survey(
    sources: Sequence[Source], state: StoreState, index: AnnotationIndex, *, retry_failed: bool
) -> list[Item]:
    """Compare sources and annotations with the store; one item a source, in order."""
    return [_survey_one(source, state, index, retry_failed) for source in sources]


def _survey_one(
    source: Source, state: StoreState, index: AnnotationIndex, retry_failed: bool
) -> Item:
    sample = state.sample_of(source)
    try:
        annotations = index.candidates(source.name)
        stored = _in_stored_frame(annotations, sample)
    except SourceError as error:
        return Item(source, "new", sample, failure=failure_from(error))
    if sample is None:
        before = state.failures.get(source.name)
        if before is not None and not retry_failed and _unchanged(source, before):
            failure = Failure(before.code, before.reason, before.mend)
            return Item(source, "failed-before", failure=failure)
        return Item(source, "new", None, annotations, annotated=bool(annotations))
    entry = sample.entry
    annotated = bool(annotations) or sample.annotation != ""
    if sample.damage:
        return Item(source, "damaged", sample, annotations, annotated=annotated)
    if (entry.size, entry.mtime_ns) != (source.size, source.mtime_ns):
        return Item(source, "changed", sample, annotations, annotated=annotated)
    if not annotations or sample.annotation in map(annotation_key, stored):
        return Item(source, "up-to-date", sample, annotated=annotated)
    fitting = tuple(a for a in stored if a.size == sample.frame_size)
    if fitting:
        return Item(source, "reannotate", sample, fitting)
    return Item(source, "changed", sample, annotations)


def _in_stored_frame(
    annotations: Sequence[Annotation], sample: SampleState | None
) -> tuple[ImageAnnotation, ...]:
    """What is annotated, in pixels of the frame that the sample has."""
    if sample is None or sample.frame_size is None:
        return ()
    return tuple(annotation_in(one, sample.frame_size) for one in annotations)


def _unchanged(source: Source, before: FailedSource) -> bool:
    same = (before.size, before.mtime_ns) == (source.size, source.mtime_ns)
    return same and before.code in _REPEATABLE


def statuses(items: Iterable[Item]) -> Mapping[Status, int]:
    """How many items have each status."""
    found: dict[Status, int] = {}
    for item in items:
        found[item.status] = found.get(item.status, 0) + 1
    return found
