from __future__ import annotations

from dataclasses import replace
from typing import Any

from pipeline.develop.colour import own_range
from pipeline.ingest.placement import place
from pipeline.ingest.store_state import SampleState, StoreState
from pipeline.ingest.survey import Item
from pipeline.ingest.tasks import ProbeOutcome
from pipeline.raw.facts import Geometry, Levels, RawFacts
from pipeline.sources.source import Source
from schemas.coco import ImageAnnotation
from schemas.fixed_point import FixedPoint
from schemas.manifest import FailedSource, FailureCode, ManifestEntry, StoredSample
from schemas.recipe import Recipe
from schemas.sidecar import Camera, Capture, Rect

MATRIX = ((0.9, -0.3, -0.1), (-0.5, 1.2, 0.2), (-0.1, 0.2, 0.7))


def facts(model: str = "NIKON D750", size: tuple[int, int] = (64, 48), **levels: Any) -> RawFacts:
    area = Rect(x=0, y=0, width=size[0], height=size[1])
    known = Levels("RGGB", (600, 600, 600, 600), 16383, MATRIX, None)
    known = replace(known, **levels)
    camera = Camera(make="NIKON CORPORATION", model=model)
    return RawFacts(camera, Geometry(size, area, None, 1), known, Capture(), "class")


def probed(item: Item, known: RawFacts | None = None) -> tuple[Item, ProbeOutcome]:
    known = known or facts()
    return item, ProbeOutcome(known)


def raw(name: str, size: int = 10, mtime_ns: int | None = 1) -> Source:
    return Source(name, f"/{name}", size, mtime_ns)


def entry(name: str, row: int, group: str = "nikon-d750_64x48") -> StoredSample:
    stem = name.split("/")[-1].split(".")[0]
    return StoredSample(
        source=name,
        size=10,
        mtime_ns=1,
        status="done",
        id=stem,
        group=group,
        row=row,
        sidecar_digest="",
    )


def failure(name: str, row: int, code: FailureCode) -> FailedSource:
    return FailedSource(
        source=name,
        size=10,
        mtime_ns=1,
        status="failed",
        group="nikon-d750_64x48",
        row=row,
        code=code,
    )


def state_with(*entries: ManifestEntry, damaged: tuple[str, ...] = ()) -> StoreState:
    state = StoreState()
    for one in entries:
        if isinstance(one, FailedSource):
            state.failures[one.source] = one
        else:
            state.add(SampleState(one, damage="bits" if one.id in damaged else ""))
    return state


def rows(state: StoreState, *names: str) -> dict[str, int]:
    items = [Item(raw(name), "new") for name in names]
    placement = place(map(probed, items), state, Recipe(), strict=False)
    assert not placement.refused
    return {one.raw.source.name: one.row for one in placement.placed}


def test_rows_follow_names_whatever_the_order_of_arrival() -> None:
    assert rows(StoreState(), "c.NEF", "a.NEF", "b.NEF") == {"a.NEF": 0, "b.NEF": 1, "c.NEF": 2}


def test_an_interrupted_ingest_gives_the_rows_it_would_have_given() -> None:
    names = ["a.NEF", "b.NEF", "c.NEF", "d.NEF"]
    uninterrupted = rows(StoreState(), *names)
    for done in (["b.NEF"], ["a.NEF", "d.NEF"], ["c.NEF", "b.NEF", "d.NEF"]):
        state = state_with(*(entry(name, uninterrupted[name]) for name in done))
        rest = [name for name in names if name not in done]
        assert rows(state, *rest) == {name: uninterrupted[name] for name in rest}


def test_what_a_source_leaves_for_another_group_is_free_whether_it_has_left_yet_or_not() -> None:
    """So a run that was killed between leaving and arriving gives nobody another place."""
    leaver = entry("x/b.NEF", 1, group="nikon-d750_640x480")
    other = entry("x/a.NEF", 0)
    known = facts(size=(640, 480))
    for state in (state_with(other, leaver), state_with(other)):
        moving = Item(raw("x/b.NEF"), "changed", state.named("x/b.NEF"))
        items = [probed(moving), probed(Item(raw("y/b.NEF"), "new"), known)]
        items.append(probed(Item(raw("y/c.NEF"), "new"), known))
        placement = place(items, state, Recipe(), strict=False)
        places = {one.raw.source.name: (one.raw.group, one.id, one.row) for one in placement.placed}
        assert places == {
            "x/b.NEF": ("nikon-d750_64x48", "b", 1),
            "y/b.NEF": ("nikon-d750_640x480", "b", 0),
            "y/c.NEF": ("nikon-d750_640x480", "c", 1),
        }


def test_a_row_reserved_for_a_failed_source_is_given_to_nobody_else() -> None:
    failed = failure("b.NEF", 1, "corrupt")
    state = state_with(entry("a.NEF", 0), failed)
    assert rows(state, "c.NEF", "d.NEF") == {"c.NEF": 2, "d.NEF": 3}
    assert rows(state, "b.NEF", "c.NEF") == {"b.NEF": 1, "c.NEF": 2}


def test_two_raws_with_one_stem_in_one_group_get_two_ids() -> None:
    items = [Item(raw(name), "new") for name in ("x/A.NEF", "y/A.NEF", "z/a.NEF")]
    placement = place(map(probed, items), StoreState(), Recipe(), strict=False)
    ids = [one.id for one in placement.placed]
    assert ids[0] == "A"
    assert len({name.casefold() for name in ids}) == 3


def test_cameras_and_frames_get_groups_of_their_own() -> None:
    items = [Item(raw(name), "new") for name in ("a.NEF", "b.NEF", "c.NEF")]
    known = [facts(), facts("NIKON D1"), facts(size=(32, 48))]
    placement = place(
        (probed(i, f) for i, f in zip(items, known, strict=True)),
        StoreState(),
        Recipe(),
        strict=False,
    )
    groups = {one.raw.group for one in placement.placed}
    assert groups == {"nikon-d750_64x48", "nikon-d1_64x48", "nikon-d750_32x48"}
    assert {one.row for one in placement.placed} == {0}


def test_a_new_group_holds_the_range_of_all_its_members() -> None:
    items = [Item(raw(name), "new") for name in ("a.NEF", "b.NEF")]
    known = [facts(), facts(black=(3000.0,) * 4)]
    placement = place(
        (probed(i, f) for i, f in zip(items, known, strict=True)),
        StoreState(),
        Recipe(),
        strict=False,
    )
    assert len(placement.placed) == 2
    level = placement.groups["nikon-d750_64x48"].levels["packed"]
    for known_facts in known:
        own = own_range(known_facts.levels, "xyz")
        assert level.add_offset <= own.add_offset + level.scale_factor
        top = level.add_offset + 65535 * level.scale_factor
        assert top >= own.add_offset + 65535 * own.scale_factor - level.scale_factor


def test_a_raw_that_an_existing_group_cannot_hold_is_refused() -> None:
    items = [Item(raw("a.NEF"), "new")]
    first = place(map(probed, items), StoreState(), Recipe(), strict=False)
    state = state_with(entry("a.NEF", 0))
    state.groups = first.groups
    wide = probed(Item(raw("b.NEF"), "new"), facts(black=(4000.0,) * 4))
    placement = place([wide], state, Recipe(), strict=False)
    assert not placement.placed
    assert "wider value range" in placement.refused[0][1].reason


def test_the_candidate_that_fits_the_frame_is_taken() -> None:
    def said(width: int, height: int) -> ImageAnnotation:
        return ImageAnnotation(
            file="f", image_id="A", file_name="A.NEF", width=width, height=height
        )

    item = Item(raw("A.NEF"), "new", annotations=(said(5472, 3648), said(64, 48)))
    (placed,) = place([probed(item)], StoreState(), Recipe(), strict=False).placed
    assert placed.raw.annotation == said(64, 48)


def test_the_fixed_point_of_a_store_is_never_changed_by_newcomers() -> None:
    items = [Item(raw("a.NEF"), "new")]
    first = place(map(probed, items), StoreState(), Recipe(), strict=False)
    state = state_with(entry("a.NEF", 0))
    state.groups = first.groups
    more = place([probed(Item(raw("b.NEF"), "new"))], state, Recipe(), strict=False)
    before, after = (p.groups["nikon-d750_64x48"].levels["packed"] for p in (first, more))
    assert FixedPoint(before.scale_factor, before.add_offset) == FixedPoint(
        after.scale_factor, after.add_offset
    )


def test_what_files_of_one_camera_have_in_common_is_held_once() -> None:
    """Facts come from workers, so every file's are objects of its own: 9 kB each."""
    items = [probed(Item(raw(f"{number}.NEF"), "new"), facts()) for number in range(5)]
    placed = place(items, StoreState(), Recipe(), strict=False).placed
    assert len(placed) == 5
    for shared in ("frame", "group", "camera", "decoder_class", "own_range"):
        assert len({id(getattr(one.raw, shared)) for one in placed}) == 1
    dropped = {"levels", "geometry"} & set(dir(placed[0].raw))
    assert not dropped
