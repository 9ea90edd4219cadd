from __future__ import annotations

import pytest

from pipeline.annotations.index import build_index
from pipeline.ingest.survey import survey
from pipeline.sources.source import Source
from tests.pipeline.ingest.test_placement import entry, failure, raw, state_with


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (raw("a.NEF"), "up-to-date"),
        (raw("moved/a.NEF"), "up-to-date"),
        (raw("a.NEF", size=11), "changed"),
        (raw("a.NEF", mtime_ns=2), "changed"),
        (raw("b.NEF"), "damaged"),
        (raw("c.NEF"), "failed-before"),
        (raw("c.NEF", size=11), "new"),
        (raw("d.NEF"), "new"),
        (raw("e.NEF"), "new"),
    ],
)
def test_a_source_is_compared_with_what_is_stored(source: Source, expected: str) -> None:
    state = state_with(
        entry("a.NEF", 0),
        entry("b.NEF", 1),
        failure("c.NEF", 2, "corrupt"),
        failure("d.NEF", 3, "frame"),
        damaged=("b",),
    )
    (item,) = survey([source], state, build_index([]), retry_failed=False)
    assert item.status == expected


def test_failures_are_tried_again_on_request() -> None:
    failed = failure("c.NEF", 2, "corrupt")
    (item,) = survey([raw("c.NEF")], state_with(failed), build_index([]), retry_failed=True)
    assert item.status == "new"
