from __future__ import annotations

import pytest

from pipeline.annotations.index import build_index
from pipeline.ingest.recognise import How, Recognised
from pipeline.ingest.store_state import SampleState, StoreState
from pipeline.ingest.survey import Item, survey
from pipeline.sources.source import Source
from pipeline.store.places import Places
from tests.pipeline.ingest.test_placement import entry, failure, raw, state_with


def surveyed(
    source: Source,
    state: StoreState,
    how: How = "new",
    files: tuple[str, ...] = (),
    *,
    retry_failed: bool = False,
) -> Item:
    known = Recognised(source, source, "place", state.named(source.name), how)
    (item,) = survey([known], state, build_index([]), files, retry_failed=retry_failed)
    return item


@pytest.mark.parametrize(
    ("source", "how", "expected"),
    [
        (raw("a.NEF"), "unchanged", "up-to-date"),
        (raw("a.NEF", mtime_ns=2), "same-content", "up-to-date"),
        (raw("a.NEF", size=11), "replaced", "changed"),
        (raw("b.NEF"), "unchanged", "damaged"),
        (raw("c.NEF"), "new", "failed-before"),
        (raw("c.NEF", size=11), "new", "new"),
        (raw("d.NEF"), "new", "new"),
        (raw("e.NEF"), "new", "new"),
    ],
)
def test_a_source_is_compared_with_what_is_stored(source: Source, how: How, expected: str) -> None:
    state = state_with(
        entry("a.NEF", 0),
        entry("b.NEF", 1),
        failure("c.NEF", 2, "corrupt"),
        failure("d.NEF", 3, "frame"),
        damaged=("b",),
    )
    assert surveyed(source, state, how).status == expected


def test_failures_are_tried_again_on_request() -> None:
    state = state_with(failure("c.NEF", 2, "corrupt"))
    assert surveyed(raw("c.NEF"), state, retry_failed=True).status == "new"


@pytest.mark.parametrize(
    ("place", "expected"), [("place", "failed-before"), ("another", "new"), (None, "failed-before")]
)
def test_a_failure_is_that_of_a_file_where_it_was(place: str | None, expected: str) -> None:
    """The same name, size and time in another folder may be another picture."""
    failures = {} if place is None else {"c.NEF": place}
    state = StoreState(places=Places(failures=failures))
    state.failures["c.NEF"] = failure("c.NEF", 2, "corrupt")
    assert surveyed(raw("c.NEF"), state).status == expected


ANNOTATED = "train/boxes.json"


@pytest.mark.parametrize(
    ("files", "plain", "expected"),
    [
        ((), True, ("up-to-date", "kept")),
        (("val/boxes.json", "oxes.json"), True, ("up-to-date", "kept")),
        ((ANNOTATED,), True, ("reannotate", "gone")),
        (("boxes.json",), True, ("reannotate", "gone")),
        (("set/train/boxes.json",), True, ("reannotate", "gone")),
        ((ANNOTATED,), False, ("changed", "gone")),
    ],
)
def test_boxes_go_with_their_record_and_stay_where_their_file_is_not_given(
    files: tuple[str, ...], plain: bool, expected: tuple[str, str]
) -> None:
    """Where the frame was chosen for the annotation, pixels are made again without it."""
    state = StoreState()
    boxes = SampleState(
        entry("a.NEF", 0), "key", annotation_file=ANNOTATED, plain_frame=plain, digest="x"
    )
    state.add(boxes)
    item = surveyed(raw("a.NEF"), state, "unchanged", files)
    assert (item.status, item.old_boxes) == expected
    assert item.annotated == (item.old_boxes == "kept")
