"""What an ingest will do, decided before pixels are read. Pure: no file is touched here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pipeline.annotations import AnnotationIndex
from pipeline.colour import FixedPoint
from pipeline.develop import level_size
from pipeline.errors import FrameMismatchError, SourceError, UnsupportedRawError
from pipeline.frame import choose_frame, frame_findings
from pipeline.naming import group_name, sample_id
from pipeline.raw_facts import RawFacts
from pipeline.sources import Source
from pipeline.state import SampleState, StoreState, annotation_key
from pipeline.tasks import Failure, ProbeOutcome, covers, failure_from
from schemas.coco import ImageAnnotation
from schemas.finding import Finding
from schemas.layout import GroupLayout, LevelLayout
from schemas.manifest import ManifestEntry
from schemas.recipe import Recipe
from schemas.sidecar import Frame

Status = Literal["new", "changed", "damaged", "reannotate", "up-to-date", "failed-before"]

#: Failures that the same bytes would repeat; the others depend on annotations and are tried again.
_REPEATABLE = frozenset({"unsupported", "corrupt", "crash"})


@dataclass(frozen=True)
class Item:
    """One source and what is to be done about it."""

    source: Source
    status: Status
    sample: SampleState | None = None
    annotations: tuple[ImageAnnotation, ...] = ()
    failure: Failure | None = None
    annotated: bool = True


@dataclass(frozen=True)
class Placed:
    """One source with its place in the store and everything its task needs."""

    item: Item
    facts: RawFacts
    frame: Frame
    annotation: ImageAnnotation | None
    findings: tuple[Finding, ...]
    id: str
    group: str
    row: int


@dataclass
class Placement:
    """Result of `place`: samples to develop, sources refused, and the groups they need."""

    placed: list[Placed] = field(default_factory=list)
    refused: list[tuple[Item, Failure]] = field(default_factory=list)
    groups: dict[str, GroupLayout] = field(default_factory=dict)


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
        annotations = index.lookup(source.name)
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
    if not annotations or sample.annotation in map(annotation_key, annotations):
        return Item(source, "up-to-date", sample, annotated=annotated)
    fitting = tuple(a for a in annotations if (a.width, a.height) == sample.frame_size)
    if fitting:
        return Item(source, "reannotate", sample, fitting)
    return Item(source, "changed", sample, annotations)


def _unchanged(source: Source, before: ManifestEntry) -> bool:
    same = (before.size, before.mtime_ns) == (source.size, source.mtime_ns)
    return same and before.code in _REPEATABLE


def place(
    probed: Iterable[tuple[Item, ProbeOutcome]],
    state: StoreState,
    recipe: Recipe,
    *,
    strict: bool,
) -> Placement:
    """Give every probed source its frame, group, id and row.

    Rows go out in the order of group and source name, the smallest free ones first: so an ingest
    that was interrupted and is run again gives every sample the row it would have had.
    """
    result = Placement()
    framed: list[tuple[str, Item, RawFacts, Frame, ImageAnnotation | None, FixedPoint]] = []
    for item, outcome in probed:
        if outcome.facts is None or outcome.fixed_point is None:
            result.refused.append((item, outcome.failure or Failure("other", "no facts", "")))
            continue
        try:
            frame, annotation = _framed(item, outcome.facts)
        except SourceError as error:
            result.refused.append((item, failure_from(error)))
            continue
        group = group_name(outcome.facts.camera, frame.size)
        framed.append((group, item, outcome.facts, frame, annotation, outcome.fixed_point))
    framed.sort(key=lambda entry: (entry[0], entry[1].source.name))
    points = _group_points(framed, state)
    places = _Places(state)
    for group, item, facts, frame, annotation, own in framed:
        findings = frame_findings(frame, annotated=annotation is not None, where=item.source.name)
        failure = _objection(points[group], own, annotation, findings, strict)
        if failure is not None:
            result.refused.append((item, failure))
            continue
        sample_id_, row = places.give(item, group)
        result.placed.append(
            Placed(item, facts, frame, annotation, findings, sample_id_, group, row)
        )
        known = result.groups.get(group) or state.groups.get(group)
        layout = known or _new_group(group, facts, frame, points[group], recipe)
        result.groups[group] = layout.model_copy(update={"rows": max(layout.rows, row + 1)})
    return result


def _framed(item: Item, facts: RawFacts) -> tuple[Frame, ImageAnnotation | None]:
    """The frame and the one annotation that fits it; several candidates share a file name only."""
    geometry = facts.geometry
    mismatch: FrameMismatchError | None = None
    for annotation in item.annotations or (None,):
        size = None if annotation is None else (annotation.width, annotation.height)
        try:
            frame = choose_frame(
                raw_size=geometry.raw_size,
                active_area=geometry.active_area,
                camera_crop=geometry.camera_crop,
                orientation_flag=geometry.orientation_flag,
                annotation_size=size,
                path=item.source.name,
            )
        except FrameMismatchError as error:
            mismatch = mismatch or error
            continue
        if min(frame.crop.width, frame.crop.height) < 2:
            message = f"its crop is {frame.crop.width}x{frame.crop.height}: nothing to keep"
            raise UnsupportedRawError(message, path=item.source.name, hint="leave this file out")
        return frame, annotation
    raise mismatch or AssertionError("no candidate")


def _group_points(
    framed: Sequence[tuple[str, Item, RawFacts, Frame, ImageAnnotation | None, FixedPoint]],
    state: StoreState,
) -> dict[str, FixedPoint]:
    """One fixed point a group: the existing one, or one that holds every new member's range."""
    points: dict[str, FixedPoint] = {}
    for name, layout in state.groups.items():
        level = next(iter(layout.levels.values()))
        points[name] = FixedPoint(level.scale_factor, level.add_offset)
    for group, *_, own in framed:
        if group in state.groups:
            continue
        points[group] = _union(points[group], own) if group in points else own
    return points


def _union(first: FixedPoint, second: FixedPoint) -> FixedPoint:
    """The narrower one if the other covers it, else one that holds both ranges."""
    if covers(first, second):
        return first
    if covers(second, first):
        return second
    low = min(first.add_offset, second.add_offset)
    high = max(p.add_offset + 65535 * p.scale_factor for p in (first, second))
    return FixedPoint.spanning(low, high)


def _objection(
    group: FixedPoint,
    own: FixedPoint,
    annotation: ImageAnnotation | None,
    findings: Sequence[Finding],
    strict: bool,
) -> Failure | None:
    if not covers(group, own):
        reason = "its levels need a wider value range than its group in this store has"
        return Failure("other", reason, "ingest these files into a store of their own")
    boxes = () if annotation is None else annotation.boxes
    noticed = [*findings, *(finding for box in boxes for finding in box.findings)]
    if strict and noticed:
        reason = f"--strict: {noticed[0].message}" + (
            f" (and {len(noticed) - 1} more findings)" if len(noticed) > 1 else ""
        )
        return Failure("annotation", reason, noticed[0].mend or "run without --strict")
    return None


def _new_group(
    name: str, facts: RawFacts, frame: Frame, point: FixedPoint, recipe: Recipe
) -> GroupLayout:
    levels = {}
    for level in recipe.levels:
        width, height = level_size(frame.size, level, recipe)
        levels[level] = LevelLayout(
            shape=(3, height, width), scale_factor=point.scale_factor, add_offset=point.add_offset
        )
    return GroupLayout(name=name, camera=facts.camera, frame_size=frame.size, rows=0, levels=levels)


class _Places:
    """Hands out ids and rows; the one coordinator of a store."""

    def __init__(self, state: StoreState) -> None:
        self._state = state
        self._ids: dict[str, set[str]] = {}
        self._rows: dict[str, set[int]] = {}
        self._next: dict[str, int] = {}
        for group, sample in state.samples:
            self._ids.setdefault(group, set()).add(sample.casefold())

    def give(self, item: Item, group: str) -> tuple[str, int]:
        """Id and row of a source: those it had, if it stays in its group."""
        source = item.source
        if item.sample is not None and item.sample.entry.group == group:
            entry = item.sample.entry
            return entry.id or "", entry.row or 0
        ids = self._ids.setdefault(group, set())
        name = sample_id(source.stem, source.name, ids)
        ids.add(name.casefold())
        rows = self._rows.setdefault(group, self._state.rows(group))
        before = self._state.failures.get(source.name)
        if before is not None and before.group == group and before.row is not None:
            return name, before.row
        row = self._next.get(group, 0)
        while row in rows:
            row += 1
        self._next[group] = row + 1
        return name, row


def counts(items: Iterable[Item]) -> Mapping[Status, int]:
    """How many items have each status."""
    found: dict[Status, int] = {}
    for item in items:
        found[item.status] = found.get(item.status, 0) + 1
    return found
