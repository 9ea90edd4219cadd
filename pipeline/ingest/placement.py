"""Where each sample goes: frame, group, id and row, decided before pixels are read. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from pipeline.develop.frame import choose_frame, frame_findings
from pipeline.develop.steps import level_size
from pipeline.errors import FrameMismatchError, SourceError
from pipeline.ingest.failure import Failure, failure_from
from pipeline.ingest.store_state import StoreState
from pipeline.ingest.survey import Item
from pipeline.ingest.worker import ProbeOutcome, SampleTask
from pipeline.raw.facts import RawFacts
from pipeline.sources.source import Start
from pipeline.store.keys import group_name, sample_id
from schemas.choices import DecoderName
from schemas.coco import ImageAnnotation
from schemas.finding import Finding
from schemas.fixed_point import FixedPoint
from schemas.layout import GroupLayout, LevelLayout
from schemas.recipe import Recipe
from schemas.sidecar import Camera, Capture, Frame

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """What a source's task needs of its `RawFacts`: little, for all sources' are held at once."""

    camera: Camera
    capture: Capture
    decoder_class: str


@dataclass(frozen=True)
class Placed:
    """One source with its place in the store and everything its task needs."""

    item: Item
    facts: TaskFacts
    frame: Frame
    annotation: ImageAnnotation | None
    findings: tuple[Finding, ...]
    id: str
    group: str
    row: int

    def task(
        self,
        layout: GroupLayout,
        recipe: Recipe,
        store: str,
        lease: str,
        decision: tuple[DecoderName, bool],
        start: Start | None,
    ) -> SampleTask:
        """What a worker is to do.

        Parameters
        ----------
        layout
            Of the sample's group.
        store, lease
            Where to write it, and what `StoreFiles.lock` gave.
        decision
            What `DecoderTrust.decide` said: the decoder, and whether to compare it.
        start
            What the facts were read from.
        """
        level = next(iter(layout.levels.values()))
        decoder, cross_check = decision
        return SampleTask(
            source=self.item.source,
            store=store,
            lease=lease,
            id=self.id,
            group=self.group,
            row=self.row,
            split=self.annotation.split if self.annotation else None,
            camera=self.facts.camera,
            capture=self.facts.capture,
            frame=self.frame,
            annotation=self.annotation,
            findings=self.findings,
            recipe=recipe,
            fixed_point=level.fixed_point,
            decoder=decoder,
            cross_check=cross_check,
            decoder_class=self.facts.decoder_class,
            start=start,
        )


@dataclass
class Placement:
    """Result of `place`: samples to develop, sources refused, and the groups they need."""

    placed: list[Placed] = field(default_factory=list)
    refused: list[tuple[Item, Failure]] = field(default_factory=list)
    groups: dict[str, GroupLayout] = field(default_factory=dict)


class _Framed(NamedTuple):
    """One source with its frame, before rows are given out; `own` is not its group's."""

    group: str
    item: Item
    facts: TaskFacts
    frame: Frame
    annotation: ImageAnnotation | None
    own: FixedPoint


class _Once:
    """Gives one object for equal values: files of one camera repeat each other."""

    def __init__(self) -> None:
        self._known: dict[Any, Any] = {}

    def __call__(self, value: _Value) -> _Value:
        known: _Value = self._known.setdefault(value, value)
        return known


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
    framed: list[_Framed] = []
    once = _Once()
    for item, outcome in probed:
        if outcome.facts is None or outcome.fixed_point is None:
            result.refused.append((item, outcome.failure or Failure("other", "no facts", "")))
            continue
        try:
            frame, annotation = _frame_of(item, outcome.facts)
        except SourceError as error:
            result.refused.append((item, failure_from(error)))
            continue
        facts = TaskFacts(
            once(outcome.facts.camera), outcome.facts.capture, once(outcome.facts.decoder_class)
        )
        group = once(group_name(facts.camera, frame.size))
        point = once(outcome.fixed_point)
        framed.append(_Framed(group, item, facts, once(frame), annotation, point))
    framed.sort(key=lambda entry: (entry[0], entry[1].source.name))
    points = _group_points(framed, state)
    accepted: list[tuple[_Framed, tuple[Finding, ...]]] = []
    for one in framed:
        annotated = one.annotation is not None
        findings = frame_findings(one.frame, annotated=annotated, where=one.item.source.name)
        failure = _objection(points[one.group], one.own, one.annotation, findings, strict)
        if failure is None:
            accepted.append((one, findings))
        else:
            result.refused.append((one.item, failure))
    places = _Places(state, [(one.group, one.item) for one, _ in accepted])
    for (group, item, facts, frame, annotation, _), findings in accepted:
        sample_id_, row = places.give(item, group)
        result.placed.append(
            Placed(item, facts, frame, annotation, findings, sample_id_, group, row)
        )
        known = result.groups.get(group) or state.groups.get(group)
        layout = known or _new_group(group, facts, frame, points[group], recipe)
        result.groups[group] = layout.model_copy(update={"rows": max(layout.rows, row + 1)})
    return result


def _frame_of(item: Item, facts: RawFacts) -> tuple[Frame, ImageAnnotation | None]:
    """The frame and the one annotation that fits it; several candidates share a file name only."""
    mismatch: FrameMismatchError | None = None
    for annotation in item.annotations or (None,):
        size = annotation.size if annotation else None
        try:
            frame = choose_frame(facts.geometry, size, path=item.source.name)
        except FrameMismatchError as error:
            mismatch = mismatch or error
            continue
        return frame, annotation
    raise mismatch or AssertionError("no candidate")


def _group_points(framed: Sequence[_Framed], state: StoreState) -> dict[str, FixedPoint]:
    """One fixed point a group: the existing one, or one that holds every new member's range."""
    points: dict[str, FixedPoint] = {}
    for name, layout in state.groups.items():
        level = next(iter(layout.levels.values()))
        points[name] = level.fixed_point
    for group, *_, own in framed:
        if group in state.groups:
            continue
        points[group] = _union(points[group], own) if group in points else own
    return points


def _union(first: FixedPoint, second: FixedPoint) -> FixedPoint:
    """The narrower one if the other covers it, else one that holds both ranges."""
    if first.covers(second):
        return first
    if second.covers(first):
        return second
    low = min(first.add_offset, second.add_offset)
    high = max(first.highest, second.highest)
    return FixedPoint.spanning(low, high)


def _objection(
    group: FixedPoint,
    own: FixedPoint,
    annotation: ImageAnnotation | None,
    findings: Sequence[Finding],
    strict: bool,
) -> Failure | None:
    if not group.covers(own):
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
    name: str, facts: TaskFacts, frame: Frame, point: FixedPoint, recipe: Recipe
) -> GroupLayout:
    levels = {}
    for level in recipe.levels:
        width, height = level_size(frame.size, level, recipe)
        levels[level] = LevelLayout(
            shape=(3, height, width), scale_factor=point.scale_factor, add_offset=point.add_offset
        )
    return GroupLayout(name=name, camera=facts.camera, frame_size=frame.size, rows=0, levels=levels)


class _Places:
    """Hands out ids and rows; the one coordinator of a store.

    What sources leave that move to another group is free at once: whether they have moved already,
    in a run that was interrupted, makes no difference to anybody's place.
    """

    def __init__(self, state: StoreState, wanted: Iterable[tuple[str, Item]]) -> None:
        self._state = state
        self._ids: dict[str, set[str]] = {}
        self._rows: dict[str, set[int]] = {}
        self._next: dict[str, int] = {}
        old = [(group, item.sample.entry) for group, item in wanted if item.sample is not None]
        self._left = [entry for group, entry in old if entry.group != group]
        for key in state.samples.keys() - {(e.group or "", e.id or "") for e in self._left}:
            self._ids.setdefault(key[0], set()).add(key[1].casefold())

    def give(self, item: Item, group: str) -> tuple[str, int]:
        """Id and row of a source: those it had, if it stays in its group and has a row."""
        source = item.source
        entry = item.sample.entry if item.sample is not None else None
        if entry is not None and entry.group == group and entry.id is not None:
            name = entry.id
            if entry.row is not None:
                return name, entry.row
        else:
            ids = self._ids.setdefault(group, set())
            name = sample_id(source.stem, source.name, ids)
            ids.add(name.casefold())
        if group not in self._rows:
            left = {entry.row for entry in self._left if entry.group == group}
            self._rows[group] = self._state.rows(group) - left
        rows = self._rows[group]
        before = self._state.failures.get(source.name)
        if before is not None and before.group == group and before.row is not None:
            return name, before.row
        row = self._next.get(group, 0)
        while row in rows:
            row += 1
        self._next[group] = row + 1
        return name, row
