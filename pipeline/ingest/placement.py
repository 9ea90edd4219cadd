"""Where each sample goes: frame, group, id and row, decided before pixels are read. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from pipeline.annotations.columns import annotation_in
from pipeline.develop.colour import own_range
from pipeline.develop.frame import choose_frame, frame_findings
from pipeline.develop.steps import level_size
from pipeline.errors import FrameMismatchError, SourceError
from pipeline.ingest.failure import Failure, failure_from
from pipeline.ingest.once import Once
from pipeline.ingest.store_state import StoreState
from pipeline.ingest.survey import Item
from pipeline.ingest.tasks import FramedRaw, Placed, ProbeOutcome
from pipeline.raw.facts import Levels, RawFacts, usual_largest
from pipeline.raw.matrix import no_own_matrix
from pipeline.sources.source import Source
from pipeline.store.keys import group_name, sample_id
from schemas.coco import ImageAnnotation
from schemas.finding_codes import FindingCode
from schemas.fixed_point import FixedPoint
from schemas.layout import GroupLayout, LevelLayout
from schemas.recipe import Colour, Recipe
from schemas.sidecar import Frame


@dataclass
class Placement:
    """Result of `place`: samples to develop, sources refused, and the groups they need."""

    placed: list[Placed] = field(default_factory=list)
    refused: list[tuple[Source, Failure]] = field(default_factory=list)
    groups: dict[str, GroupLayout] = field(default_factory=dict)


class _Ranges:
    """The fixed points that files ask for: files of one camera ask for the same."""

    def __init__(self, colour: Colour) -> None:
        self._colour = colour
        self._known: dict[Levels, tuple[FixedPoint, FixedPoint]] = {}

    def of(self, levels: Levels, path: str) -> tuple[FixedPoint, FixedPoint]:
        """For every code of the format, and for samples little above white; see `FramedRaw`."""
        levels = replace(levels, as_shot_balance=None)  # the only level that differs by picture
        if levels not in self._known:
            usual = usual_largest(levels.white)
            self._known[levels] = (
                own_range(levels, self._colour, path=path),
                own_range(levels, self._colour, largest=usual, path=path),
            )
        return self._known[levels]


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
    framed: list[FramedRaw] = []
    once, ranges = Once(), _Ranges(recipe.colour)
    for item, outcome in probed:
        raw = _framed(item, outcome, ranges, once)
        if isinstance(raw, Failure):
            result.refused.append((item.source, raw))
        else:
            framed.append(raw)
    framed.sort(key=lambda raw: (raw.group, raw.source.name))
    points = _group_points(framed, state)
    accepted: list[FramedRaw] = []
    for raw in framed:
        failure = _objection(raw, points[raw.group], strict)
        if failure is None:
            accepted.append(raw)
        else:
            result.refused.append((raw.source, failure))
    places = _Places(state, accepted)
    for raw in accepted:
        one = places.give(raw)
        result.placed.append(one)
        known = result.groups.get(raw.group) or state.groups.get(raw.group)
        layout = known or _new_group(raw, points[raw.group], recipe)
        rows = max(layout.rows, one.row + 1)
        result.groups[raw.group] = layout.model_copy(update={"rows": rows})
    return result


def _framed(item: Item, outcome: ProbeOutcome, ranges: _Ranges, once: Once) -> FramedRaw | Failure:
    """A probed source with its frame and its group; or why it cannot have them."""
    facts, source = outcome.facts, item.source
    if facts is None:
        return outcome.failure or Failure("other", "no facts", "")
    try:
        point, usual = ranges.of(facts.levels, source.name)
        frame, annotation = _frame_of(item, facts)
    except SourceError as error:
        return failure_from(error)
    annotated = annotation is not None
    return FramedRaw(
        source=source,
        previous=item.sample.entry if item.sample else None,
        camera=once(facts.camera),
        capture=facts.capture,
        decoder_class=once(facts.decoder_class),
        frame=once(frame),
        annotation=annotation,
        findings=frame_findings(frame, annotated=annotated, where=source.name),
        group=once(group_name(facts.camera, frame.size)),
        own_range=point,
        usual_range=usual,
        matrix_origin=once(facts.levels.origin),
        start=outcome.start,
    )


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
        return frame, annotation_in(annotation, frame.size) if annotation else None
    raise mismatch or AssertionError("no candidate")


def _group_points(framed: Sequence[FramedRaw], state: StoreState) -> dict[str, FixedPoint]:
    """One fixed point a group: the existing one, or one that holds every new member's range."""
    points = {name: layout.fixed_point for name, layout in state.groups.items()}
    for raw in framed:
        if raw.group not in state.groups:
            known = points.get(raw.group)
            points[raw.group] = _union(known, raw.own_range) if known else raw.own_range
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


def _objection(raw: FramedRaw, group: FixedPoint, strict: bool) -> Failure | None:
    """Why a raw cannot be taken although it has a frame."""
    if not group.covers(raw.usual_range):
        reason = "its levels need a wider value range than its group in this store has"
        return Failure("other", reason, "ingest these files into a store of their own")
    if strict and raw.matrix_origin.source == "relative":
        reason = f"--strict: {no_own_matrix(raw.camera, raw.matrix_origin)}"
        return Failure("unsupported", reason, FindingCode.RELATIVES_MATRIX.mend or "")
    boxes = () if raw.annotation is None else raw.annotation.boxes
    noticed = [*raw.findings, *(finding for box in boxes for finding in box.findings)]
    if strict and noticed:
        reason = f"--strict: {noticed[0].message}" + (
            f" (and {len(noticed) - 1} more findings)" if len(noticed) > 1 else ""
        )
        return Failure("annotation", reason, noticed[0].mend or "run without --strict")
    return None


def _new_group(raw: FramedRaw, point: FixedPoint, recipe: Recipe) -> GroupLayout:
    levels = {}
    for level in recipe.levels:
        width, height = level_size(raw.frame.size, level, recipe)
        levels[level] = LevelLayout(
            shape=(3, height, width), scale_factor=point.scale_factor, add_offset=point.add_offset
        )
    return GroupLayout(
        name=raw.group, camera=raw.camera, frame_size=raw.frame.size, rows=0, levels=levels
    )


class _Places:
    """Hands out ids and rows; the one coordinator of a store.

    What sources leave that move to another group is free at once: whether they have moved already,
    in a run that was interrupted, makes no difference to anybody's place.
    """

    def __init__(self, state: StoreState, wanted: Iterable[FramedRaw]) -> None:
        self._state = state
        self._ids: dict[str, set[str]] = {}
        self._rows: dict[str, set[int]] = {}
        self._next: dict[str, int] = {}
        self._left = [
            raw.previous
            for raw in wanted
            if raw.previous is not None and raw.previous.group != raw.group
        ]
        for key in state.samples.keys() - {entry.key for entry in self._left}:
            self._ids.setdefault(key[0], set()).add(key[1].casefold())

    def give(self, raw: FramedRaw) -> Placed:
        """Place a raw: where it was, if it stays in its group and has a row."""
        previous = raw.previous
        if previous is not None and previous.group == raw.group:
            row = self._row(raw) if previous.row is None else previous.row
            return Placed(raw, previous.id, row)
        ids = self._ids.setdefault(raw.group, set())
        name = sample_id(raw.source.stem, raw.source.name, ids)
        ids.add(name.casefold())
        return Placed(raw, name, self._row(raw))

    def _row(self, raw: FramedRaw) -> int:
        """The row reserved for a raw that failed before, or the smallest free one."""
        group = raw.group
        before = self._state.failures.get(raw.source.name)
        if before is not None and before.group == group and before.row is not None:
            return before.row
        if group not in self._rows:
            left = {entry.row for entry in self._left if entry.group == group}
            self._rows[group] = self._state.rows(group) - left
        row = self._next.get(group, 0)
        while row in self._rows[group]:
            row += 1
        self._next[group] = row + 1
        return row
