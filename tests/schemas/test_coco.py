from __future__ import annotations

import json
import math
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from schemas.coco import (
    COCO_ANNOTATIONS,
    FLAG_NAMES,
    Box,
    CocoAnnotation,
    CocoCategory,
    CocoImage,
    ImageAnnotation,
    RejectedRecord,
)
from schemas.finding import Finding, Severity

ANNOTATION: dict[str, object] = {"id": 1, "image_id": "a", "category_id": 1, "bbox": [1, 2, 3, 4]}


def finding(severity: Severity) -> Finding:
    return Finding(code="zero-area", severity=severity, where="x", message="y")


def test_identifiers_keep_their_type() -> None:
    for identifier in (5, "5", 10**30, "DSC_0674"):
        data = json.dumps({**ANNOTATION, "id": identifier, "image_id": identifier})
        record = CocoAnnotation.model_validate_json(data)
        assert record.id == identifier
        assert type(record.id) is type(identifier)
        assert type(record.image_id) is type(identifier)


def test_missing_optional_keys_and_unknown_keys_are_fine() -> None:
    record = CocoAnnotation.model_validate({**ANNOTATION, "score": 0.5})
    assert (record.iscrowd, record.area, record.segmentation) == (False, None, False)
    CocoImage.model_validate({"id": 1, "file_name": "a", "width": 2, "height": 2, "license": 1})
    CocoCategory.model_validate({"id": 1, "name": "a", "supercategory": "b"})


def test_numbers_that_are_not_finite_are_read() -> None:
    text = '{"id":1,"image_id":1,"category_id":1,"bbox":[NaN,Infinity,-Infinity,1e999],"area":NaN}'
    record = CocoAnnotation.model_validate_json(text)
    assert math.isnan(record.bbox[0])
    assert record.bbox[1:] == (math.inf, -math.inf, math.inf)


def test_flags_are_read_as_booleans_and_odd_ones_are_named() -> None:
    record = CocoAnnotation.model_validate(
        {**ANNOTATION, "isnoisy": True, "isextreme": 0, "isbacklit": "maybe", "islabeled": None}
    )
    assert record.flags == {"isnoisy": True, "isextreme": False}
    assert record.unreadable_flags == ("isbacklit",)
    assert CocoAnnotation.model_validate(ANNOTATION).unreadable_flags == ()


def test_polygons_are_not_kept() -> None:
    record = CocoAnnotation.model_validate({**ANNOTATION, "segmentation": [[1, 2, 3, 4, 5, 6]]})
    assert record.segmentation is True


def test_a_record_that_does_not_fit_costs_only_itself_and_says_why() -> None:
    records = [{**ANNOTATION, "bbox": [1, 2, 3]}, ANNOTATION, 7]
    short, good, number = COCO_ANNOTATIONS.validate_json(json.dumps(records))
    assert isinstance(good, CocoAnnotation)
    assert isinstance(short, RejectedRecord)
    assert isinstance(number, RejectedRecord)
    assert short.get("id") == 1
    assert number.get("id") is None
    assert "bbox.3: Field required, found [1, 2, 3]" in short.reason(CocoAnnotation)
    assert "record: Input should be" in number.reason(CocoAnnotation)


def test_a_reason_quotes_no_megabytes() -> None:
    record = RejectedRecord({"id": "x" * 1_000_000, "bbox": ["y" * 1_000_000] * 4})
    assert len(record.reason(CocoAnnotation)) < 1000


def test_a_record_that_fits_after_all_has_a_reason_too() -> None:
    assert RejectedRecord(ANNOTATION).reason(CocoAnnotation) == "not readable"


@pytest.mark.parametrize("size", [0, -1, 2.5, 10**7, "wide", None])
def test_image_sizes_are_positive_and_believable(size: object) -> None:
    with pytest.raises(ValidationError):
        CocoImage.model_validate({"id": 1, "file_name": "a.NEF", "width": size, "height": 4})


coordinates = st.floats(allow_nan=True, allow_infinity=True)
boxes = st.builds(
    Box,
    annotation_id=st.integers() | st.text(max_size=5),
    category_id=st.integers() | st.text(max_size=5),
    category=st.text(max_size=5),
    bbox=st.tuples(coordinates, coordinates, coordinates, coordinates),
    iscrowd=st.booleans(),
    area=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    flags=st.dictionaries(st.sampled_from(FLAG_NAMES), st.booleans()),
    ignore=st.booleans(),
)


@given(st.lists(boxes, max_size=3))
def test_sidecar_json_is_strict_json_and_comes_back_the_same(given_boxes: list[Box]) -> None:
    image = ImageAnnotation(
        file="a.json", image_id=1, file_name="a.NEF", width=4, height=4, boxes=tuple(given_boxes)
    )

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    text = json.dumps(image.model_dump(mode="json"))
    json.loads(text, parse_constant=refuse)
    again = ImageAnnotation.model_validate_json(text)
    # By text: NaN equals nothing, not even itself.
    assert repr(again) == repr(image)
    assert again.model_dump_json() == image.model_dump_json()


def test_only_boxes_to_be_ignored_say_so() -> None:
    plain = Box(annotation_id=1, category_id=1, bbox=(0, 0, 1, 1))
    fields = TypeAdapter(Box).dump_python(plain)
    assert "ignore" not in fields
    ignored = TypeAdapter(Box).validate_python({**fields, "ignore": True})
    assert TypeAdapter(Box).dump_python(ignored) == {**fields, "ignore": True}


@pytest.mark.parametrize(
    ("mark", "codes", "is_region"),
    [
        ("iscrowd", [], True),
        ("ignore", [], True),
        ("", ["unknown-category"], True),
        ("", ["unknown-category", "crowd"], True),
        ("", ["unknown-category", "zero-area"], False),
        ("iscrowd", ["outside-frame"], False),
        ("", ["non-finite"], False),
    ],
)
def test_what_is_no_target_is_a_region_if_it_has_a_place(
    mark: str, codes: list[str], is_region: bool
) -> None:
    found = tuple(Finding(code=c, severity=Severity.ERROR, where="", message="") for c in codes)
    box = Box(
        annotation_id=1,
        category_id=1,
        bbox=(0, 0, 1, 1),
        iscrowd=mark == "iscrowd",
        ignore=mark == "ignore",
        findings=found,
    )
    assert not box.trainable
    assert box.ignored == is_region


@pytest.mark.parametrize(
    ("number", "label"),
    [(7, 7), (-1, -1), (0, 0), ("7", 0), (2**63 - 1, 2**63 - 1), (2**63, 0), (-(10**30), 0)],
)
def test_the_label_is_the_number_as_annotated_where_it_is_one(
    number: int | str, label: int
) -> None:
    assert Box(annotation_id=1, category_id=number, bbox=(0, 0, 1, 1)).label == label


def test_only_an_error_keeps_a_box_from_training() -> None:
    def box(*severities: Severity) -> Box:
        found = tuple(finding(severity) for severity in severities)
        return Box(annotation_id=1, category_id=1, bbox=(0, 0, 1, 1), findings=found)

    assert box().trainable
    assert box(Severity.WARNING, Severity.INFO).trainable
    assert not box(Severity.INFO, Severity.ERROR).trainable


def test_a_box_takes_less_than_half_a_kilobyte() -> None:
    """An ingest holds all boxes of all files; a model with a dictionary and a set took 1.4 kB."""
    count = 1000
    tracemalloc.start()
    try:
        boxes = [
            Box(annotation_id=n + 1000, category_id=1, bbox=(n + 0.5, n + 1.5, 3.5, 4.5), area=n)
            for n in range(count)
        ]
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(boxes) == count
    assert taken / count < 500


def test_a_box_refuses_fields_nobody_declared_and_areas_that_are_no_number() -> None:
    plain = {"annotation_id": 1, "category_id": 1, "bbox": (0, 0, 1, 1)}
    for wrong in ({"label": 1}, {"area": math.nan}, {"category_id": 1.5}, {"bbox": (0, 0, 1)}):
        with pytest.raises(ValidationError):
            TypeAdapter(Box).validate_python({**plain, **wrong})


def test_the_sidecar_models_have_a_json_schema() -> None:
    schema = ImageAnnotation.model_json_schema(mode="serialization")
    assert {"file", "image_id", "boxes"} <= set(schema["properties"])
