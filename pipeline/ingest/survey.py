"""What each source needs, by comparing it with the store. Pure: no file is touched here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Literal

from pipeline.annotations.columns import Annotation, annotation_in
from pipeline.annotations.index import AnnotationIndex
from pipeline.errors import SourceError
from pipeline.ingest.failure import Failure, failure_from
from pipeline.ingest.recognise import Recognised
from pipeline.ingest.store_state import SampleState, StoreState, annotation_key
from pipeline.sources.source import Source
from schemas.coco import ImageAnnotation
from schemas.manifest import FailedSource

Status = Literal["new", "changed", "damaged", "reannotate", "up-to-date", "failed-before"]

#: What became of boxes that the store has, where none are annotated now. ``kept``: the file that
#: said them was not given. ``gone``: it was, and has no such record any more; or the pixels are
#: made again, and with boxes they have nothing to do with or that are lost.
OldBoxes = Literal["", "kept", "gone"]

#: Failures that the same bytes would repeat; the others depend on annotations and are tried again.
_REPEATABLE = frozenset({"unsupported", "corrupt", "crash"})


@dataclass(frozen=True, slots=True)
class Item:
    """One source and what is to be done about it.

    Attributes
    ----------
    source
        Under the name the store has, or will have, for it.
    place
        Where it is, as `Places` notes it.
    called
        The name annotations know it by.
    apart
        The name it was found under, where another picture of the store has that; else "".
    """

    source: Source
    status: Status
    sample: SampleState | None = None
    annotations: tuple[Annotation, ...] = ()
    failure: Failure | None = None
    annotated: bool = True
    place: str = ""
    called: str = ""
    old_boxes: OldBoxes = ""
    apart: str = ""


def survey(
    recognised: Sequence[Recognised],
    state: StoreState,
    index: AnnotationIndex,
    files: Collection[str],
    *,
    retry_failed: bool,
) -> list[Item]:
    """Compare sources and annotations with the store; one item a source, in order.

    Parameters
    ----------
    files
        Names of the annotation files that could be read.
    """
    said = annotations_of(recognised, index)
    copied = {one.sample.entry.key for one in recognised if one.sample and one.how == "copy"}
    originals = {
        one.sample.entry.key: said(one)[1]
        for one in recognised
        if one.sample is not None and one.how != "copy" and one.sample.entry.key in copied
    }
    items = []
    for one in recognised:
        (called, annotations), original = said(one), None
        if one.how == "copy" and one.sample is not None:
            original = originals.get(one.sample.entry.key)
        if isinstance(annotations, Failure):
            item = Item(one.source, "new", one.sample, failure=annotations)
        elif original is not None and annotations in ((), original):
            item = Item(one.source, "up-to-date", annotated=bool(original))
        elif one.sample is None or one.how == "copy":
            item = _survey_new(one, state, annotations, retry_failed)
        else:
            item = _survey_stored(one, one.sample, annotations, files)
        items.append(replace(item, place=one.place, called=called))
    return items


#: What annotations call a raw, and what they say of it; or why they cannot be used.
Said = tuple[str, tuple[Annotation, ...] | Failure]


def annotations_of(
    recognised: Sequence[Recognised], index: AnnotationIndex
) -> Callable[[Recognised], Said]:
    """A function that says what is annotated about a source.

    A raw that was renamed may still be annotated under its old name, unless another raw has that
    now.
    """
    present = {PurePath(one.given.name).name.casefold() for one in recognised}

    def of_one(one: Recognised) -> Said:
        given, old = one.given.name, one.source.name
        same = one.how in ("unchanged", "same-content")
        renamed = same and PurePath(old).name.casefold() not in present
        for name in (given, old) if renamed else (given,):
            try:
                if annotations := index.candidates(name):
                    return name, annotations
            except SourceError as error:
                return name, failure_from(error)
        return given, ()

    return of_one


def _survey_stored(
    known: Recognised,
    sample: SampleState,
    annotations: tuple[Annotation, ...],
    files: Collection[str],
) -> Item:
    """A source that a sample was made from."""
    source = known.source
    old_boxes: OldBoxes = "" if annotations else boxes_left(known, sample, files)
    annotated = bool(annotations) or old_boxes == "kept"
    if sample.damage or known.how == "replaced":
        status: Status = "damaged" if sample.damage else "changed"
        return Item(source, status, sample, annotations, annotated=annotated, old_boxes=old_boxes)
    if old_boxes == "gone":
        # Without an annotation the frame may be another one, and with it the pixels.
        status = "reannotate" if sample.plain_frame else "changed"
        return Item(source, status, sample, annotated=False, old_boxes=old_boxes)
    try:
        stored = in_stored_frame(annotations, sample)
    except SourceError as error:
        return Item(source, "new", sample, failure=failure_from(error))
    if not annotations or sample.annotation in map(annotation_key, stored):
        return Item(source, "up-to-date", sample, annotated=annotated, old_boxes=old_boxes)
    fitting = tuple(a for a in stored if a.size == sample.frame_size)
    if fitting:
        return Item(source, "reannotate", sample, fitting)
    return Item(source, "changed", sample, annotations)


def in_stored_frame(
    annotations: Sequence[Annotation], sample: SampleState
) -> tuple[ImageAnnotation, ...]:
    """What is annotated, in pixels of the frame that the sample has.

    Raises
    ------
    AnnotationError
        As `annotation_in` does.
    """
    return tuple(annotation_in(one, sample.frame_size or (1, 1)) for one in annotations)


def _survey_new(
    known: Recognised,
    state: StoreState,
    annotations: tuple[Annotation, ...],
    retry_failed: bool,
) -> Item:
    """A source that no sample was made from."""
    source = known.source
    before = state.failures.get(source.name)
    if before is not None and not retry_failed and _fails_again(known, before, state):
        failure = Failure(before.code, before.reason, before.mend)
        return Item(source, "failed-before", failure=failure)
    apart = known.given.name if source.name != known.given.name else ""
    return Item(source, "new", None, annotations, annotated=bool(annotations), apart=apart)


def boxes_left(known: Recognised, sample: SampleState, files: Collection[str]) -> OldBoxes:
    """What becomes of what was annotated, where nothing is any more."""
    if not sample.annotation:
        # Of a lost sidecar, the manifest still knows the split.
        return "gone" if not sample.digest and sample.entry.split is not None else ""
    if known.how == "replaced" or any(_is_file(sample.annotation_file, name) for name in files):
        return "gone"
    return "kept"


def _is_file(recorded: str, given: str) -> bool:
    """Whether two names are those of one file, found from the same folder or one further in."""
    return f"/{recorded}".endswith(f"/{given}") or f"/{given}".endswith(f"/{recorded}")


def _fails_again(known: Recognised, before: FailedSource, state: StoreState) -> bool:
    same = (before.size, before.mtime_ns) == (known.source.size, known.source.mtime_ns)
    noted = state.places.failures.get(before.source, known.place)
    return same and noted == known.place and before.code in _REPEATABLE


def statuses(items: Iterable[Item]) -> Mapping[Status, int]:
    """How many items have each status."""
    found: dict[Status, int] = {}
    for item in items:
        found[item.status] = found.get(item.status, 0) + 1
    return found
