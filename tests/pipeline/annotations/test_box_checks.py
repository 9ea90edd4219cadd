from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from pipeline.annotations.box_checks import BoxTable, box_findings, near_duplicates
from schemas.finding import Severity

WIDTH, HEIGHT = 100, 60
small_boxes = st.tuples(
    st.integers(0, 3), st.integers(0, 3), st.integers(30, 33), st.integers(30, 33)
)


def table(
    bboxes: Sequence[Sequence[float]],
    *,
    category: int | Sequence[int] = 1,
    crowd: bool = False,
    area: float = math.nan,
    image: int | Sequence[int] = 0,
    size: tuple[float, float] = (WIDTH, HEIGHT),
) -> BoxTable:
    count = len(bboxes)
    return BoxTable(
        bbox=np.array(bboxes, dtype=np.float64).reshape(-1, 4),
        category=np.broadcast_to(np.array(category, dtype=np.int64), count),
        is_region=np.full(count, crowd),
        area=np.full(count, area),
        image=np.broadcast_to(np.array(image, dtype=np.int64), count),
        width=np.full(count, float(size[0])),
        height=np.full(count, float(size[1])),
        where=[f"box {row}" for row in range(count)],
    )


def codes(*bbox: float, category: int = 1, crowd: bool = False, area: float = math.nan) -> set[str]:
    (found,) = box_findings(table([bbox], category=category, crowd=crowd, area=area))
    return {finding.code for finding in found}


def test_a_plain_box_has_no_findings_up_to_the_very_edge() -> None:
    assert codes(10, 10, 20, 20, area=400) == set()
    assert codes(WIDTH - 20, HEIGHT - 20, 20, 20) == set()
    assert codes(0, 0, 20, 20) == set()


@pytest.mark.parametrize(
    ("bbox", "expected"),
    [
        ((17, 8, 2, 0), {"zero-area"}),
        ((17, 8, -2, 5), {"zero-area"}),
        ((17, 8, 1e-9, 5), {"zero-area"}),
        ((17, math.nan, 2, 4), {"non-finite"}),
        ((17, 8, math.inf, 4), {"non-finite"}),
        ((1e308, 8, 1e308, 4), {"non-finite"}),
        ((WIDTH, 8, 20, 4), {"outside-frame"}),
        ((-20, 8, 20, 4), {"outside-frame"}),
        ((10, HEIGHT + 5, 20, 4), {"outside-frame"}),
        ((-5, 8, 20, 14), {"partly-outside"}),
        ((90, 50, 10, 11), {"partly-outside"}),
        ((90, 50, 10, 10 + 1e-9), set()),
        ((99, 8, 5, 5), {"partly-outside", "tiny"}),
        ((10, 8, 1, 1), {"tiny"}),
        ((10, 8, 2, 2), set()),
        ((0, 0, 100, 55), {"huge"}),
        ((0, 0, 100, 54), set()),
        ((0, 8, 63, 3), {"extreme-aspect"}),
        ((0, 8, 60, 3), set()),
    ],
)
def test_each_geometric_check_finds_its_case(bbox: tuple[float, ...], expected: set[str]) -> None:
    assert codes(*bbox) == expected


def test_category_crowd_and_area_are_checked_apart_from_geometry() -> None:
    assert codes(10, 10, 20, 20, category=-1) == {"unknown-category"}
    assert codes(10, 10, 20, 20, crowd=True) == {"crowd"}
    assert codes(10, 10, 20, 20, area=401) == set()
    assert codes(10, 10, 20, 20, area=402) == {"area-mismatch"}
    assert codes(10, 10, 20, 20, area=math.inf) == {"area-mismatch"}
    assert codes(10, 10, 0, 20, category=-1, crowd=True) == {
        "zero-area",
        "unknown-category",
        "crowd",
    }


def test_a_finding_names_the_box_the_numbers_and_the_mend() -> None:
    ((finding,),) = box_findings(table([[1764, 872, 2, 0]]))
    assert finding.severity is Severity.ERROR
    assert finding.where == "box 0"
    assert "[1764, 872, 2, 0] has no area" in finding.message
    assert finding.mend


def test_an_empty_table_has_no_findings() -> None:
    assert box_findings(table([])) == []


def test_a_near_duplicate_is_found_on_the_later_box_and_names_the_earlier() -> None:
    first, second = box_findings(table([[10, 10, 40, 40], [10, 10, 40, 39]]))
    assert first == ()
    assert [finding.code for finding in second] == ["near-duplicate"]
    assert "repeats box 0" in second[0].message
    assert second[0].severity is Severity.WARNING


def test_duplicates_need_the_same_class_the_same_image_and_sound_boxes() -> None:
    same = [[10, 10, 40, 40]] * 2
    assert box_findings(table(same, category=[1, 2])) == [(), ()]
    assert box_findings(table(same, image=[0, 1])) == [(), ()]
    for found in box_findings(table(same, crowd=True)):
        assert {finding.code for finding in found} == {"crowd"}


@given(st.lists(st.tuples(small_boxes, st.integers(1, 2), st.integers(0, 1)), max_size=12))
def test_near_duplicates_agree_with_pycocotools(
    drawn: list[tuple[tuple[int, int, int, int], int, int]],
) -> None:
    boxes = np.array([box for box, _, _ in drawn], dtype=np.float64).reshape(-1, 4)
    keys = [(category, image) for _, category, image in drawn]
    given_table = table(
        boxes.tolist(), category=[key[0] for key in keys], image=[key[1] for key in keys]
    )
    twin = near_duplicates(given_table, np.ones(len(drawn), dtype=np.bool_))
    iou = coco_mask.iou(boxes, boxes, np.zeros(len(drawn))) if drawn else np.zeros((0, 0))
    for later in range(len(drawn)):
        earlier = {
            row for row in range(later) if keys[row] == keys[later] and iou[row, later] > 0.9
        }
        assert (twin[later] in earlier) if earlier else (twin[later] == -1)
