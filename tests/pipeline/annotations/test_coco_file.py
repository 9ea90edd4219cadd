from __future__ import annotations

import contextlib
import json
import math
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.annotations import coco_file, file_findings, reader
from pipeline.annotations.coco_file import (
    MAX_BOXES_PER_IMAGE,
    load_coco,
    looks_like_coco,
    looks_like_detections,
)
from pipeline.annotations.columns import base_name, key_of
from pipeline.annotations.file_findings import MAX_NAMED
from pipeline.annotations.reader import LoadedFile, split_from_name
from pipeline.errors import AnnotationError
from schemas.coco import ImageAnnotation
from schemas.finding import Severity

NAME = "nod_train.json"
CATEGORIES = [{"id": i, "name": n} for i, n in enumerate(("person", "bicycle", "car"), start=1)]


def image(image_id: object = "A", **changes: object) -> dict[str, Any]:
    record = {"id": image_id, "file_name": f"{image_id}.NEF", "width": 100, "height": 60}
    return {**record, **changes}


def annotation(number: object = 0, image_id: object = "A", **changes: object) -> dict[str, Any]:
    record = {"id": number, "image_id": image_id, "category_id": 1, "bbox": [1, 2, 30, 4]}
    return {**record, **changes}


def load(
    images: list[Any] | None = None,
    annotations: list[Any] | None = None,
    categories: list[Any] | None = None,
    name: str = NAME,
) -> LoadedFile:
    document = {
        "images": [image()] if images is None else images,
        "annotations": [annotation()] if annotations is None else annotations,
        "categories": CATEGORIES if categories is None else categories,
    }
    return load_coco(json.dumps(document).encode(), name=name)


def codes(file: LoadedFile) -> list[str]:
    return [finding.code for finding in file.findings]


def box_codes(file: LoadedFile) -> list[list[str]]:
    return [[f.code for f in box.findings] for record in file.images for box in record.boxes]


def test_a_plain_file_is_read_without_findings() -> None:
    file = load()
    assert file.findings == ()
    assert (file.name, file.split) == (NAME, "train")
    (record,) = file.images
    assert isinstance(record, ImageAnnotation)
    assert (record.file, record.image_id, record.file_name) == (NAME, "A", "A.NEF")
    (box,) = record.boxes
    assert (box.bbox, box.category_id, box.category) == ((1, 2, 30, 4), 1, "person")
    assert box.trainable


def test_integer_and_string_identifiers_both_work_and_never_mix() -> None:
    assert len(load([image(5)], [annotation(0, 5)]).images[0].boxes) == 1
    assert len(load([image("5")], [annotation("0", "5")]).images[0].boxes) == 1
    mixed = load([image(5)], [annotation(0, "5")])
    assert codes(mixed) == ["orphan-annotation"]
    assert "different ids" in mixed.findings[0].mend


def test_huge_integers_are_identifiers_like_any_other() -> None:
    huge = 10**40
    assert load([image(huge, file_name="A")], [annotation(huge, huge)]).images[0].image_id == huge


def test_an_image_without_boxes_stays() -> None:
    assert load(annotations=[]).images[0].boxes == ()


def test_categories_go_by_name_whatever_their_numbers() -> None:
    categories = [
        {"id": 1, "name": "Car "},
        {"id": "b", "name": "PERSON"},
        {"id": 3, "name": "dog"},
    ]
    boxes = [annotation(0), annotation(1, category_id="b"), annotation(2, category_id=3)]
    (record,) = load(annotations=boxes, categories=categories).images
    assert [box.category_id for box in record.boxes] == [1, "b", 3]
    assert [box.category for box in record.boxes] == ["Car ", "PERSON", "dog"]
    assert [box.trainable for box in record.boxes] == [True, True, True]


def test_a_box_of_a_category_without_a_name_is_a_region_to_ignore() -> None:
    categories = [*CATEGORIES, *({"id": n, "name": f"thing {n}"} for n in range(4, 91))]
    boxes = [annotation(0), annotation(1, category_id=90), annotation(2, category_id=99)]
    file = load(annotations=boxes, categories=categories)
    assert file.findings == ()
    assert box_codes(file) == [[], [], ["unknown-category"]]
    assert [box.category for box in file.images[0].boxes] == ["person", "thing 90", "99"]
    assert [box.ignored for box in file.images[0].boxes] == [False, False, True]


def test_without_categories_cocos_numbers_count() -> None:
    boxes = [annotation(n, category_id=n, bbox=[n, 0, 5, 5]) for n in (1, 2, 3, 4)]
    file = load(annotations=boxes, categories=[])
    assert [box.category_id for box in file.images[0].boxes] == [1, 2, 3, 4]
    assert [box.category for box in file.images[0].boxes] == ["person", "bicycle", "car", "4"]
    assert box_codes(file) == [[], [], [], ["unknown-category"]]


def test_a_category_number_with_two_names_is_no_class() -> None:
    categories = [*CATEGORIES, {"id": 1, "name": "car"}, {"id": 9}]
    file = load(categories=categories)
    assert codes(file) == ["bad-category", "bad-category"]
    assert box_codes(file) == [["unknown-category"]]


def test_one_name_under_two_numbers_is_one_class() -> None:
    categories = [{"id": 1, "name": "person"}, {"id": 4, "name": " Person"}]
    boxes = [annotation(0), annotation(1, category_id=4)]
    file = load(annotations=boxes, categories=categories)
    assert box_codes(file) == [[], ["near-duplicate"]]


@pytest.mark.parametrize(("value", "expected"), [(1, True), (True, True), (0, False), ("x", False)])
def test_ignore_is_read_where_it_is_set(value: object, expected: bool) -> None:
    (box,) = load(annotations=[annotation(ignore=value)]).images[0].boxes
    assert (box.ignore, box.ignored, box.trainable) == (expected, expected, not expected)
    assert [finding.code for finding in box.findings] == ["crowd"] * expected


def test_flags_stay_with_their_box_and_odd_ones_are_named() -> None:
    (record,) = load(annotations=[annotation(isextreme=True, isnoisy="?", other=True)]).images
    assert record.boxes[0].flags == {"isextreme": True}
    assert [f.code for f in record.boxes[0].findings] == ["unreadable-flag"]
    assert record.boxes[0].trainable


def test_a_box_of_nan_is_kept_with_its_text_and_not_trained_on() -> None:
    file = load(annotations=[annotation(bbox=[1, math.nan, 3, math.inf], area=math.nan)])
    (box,) = file.images[0].boxes
    assert math.isnan(box.bbox[1])
    assert box.area is None
    assert not box.trainable
    assert [f.code for f in box.findings] == ["non-finite"]
    assert "[1, nan, 3, inf]" in box.findings[0].message


def test_an_area_is_compared_with_the_box_but_a_masks_area_is_not() -> None:
    off = annotation(area=7)
    masked = annotation(1, bbox=[40, 2, 30, 4], area=7, segmentation=[[1, 2, 3, 4, 5, 6]])
    assert box_codes(load(annotations=[off, masked])) == [["area-mismatch"], []]


@pytest.mark.parametrize(
    "broken",
    [
        annotation(bbox=[1, 2, 3]),
        annotation(bbox=None),
        annotation(bbox=["a", 2, 3, 4]),
        annotation(bbox=[]),
        annotation(bbox=None, segmentation=[[1, 2, 3]]),
        annotation(bbox=None, keypoints=[1, 2, 3]),
        annotation(iscrowd="perhaps"),
        annotation(category_id=None, segmentation=[[1, 2, 30, 2, 30, 40]]),
    ],
)
def test_an_unreadable_annotation_costs_its_image_which_would_lack_an_object(
    broken: object,
) -> None:
    file = load([image(), image("B")], [broken, annotation(1), annotation(2, "B")])
    assert codes(file) == ["bad-annotation"]
    assert file.findings[0].where.startswith(f"{NAME}: annotation ")
    assert "number 0 of the list" in file.findings[0].where
    assert [record.file_name for record in file.images] == ["B.NEF"]
    assert set(file.refused) == {"A.NEF"}
    assert f"{NAME}: annotation 0 " in file.refused["A.NEF"].message


@pytest.mark.parametrize("broken", [{"id": 0}, 17, None, annotation(image_id=True)])
def test_an_annotation_of_nobody_costs_the_images_that_have_no_other(broken: object) -> None:
    file = load([image(), image("B")], [broken, annotation(1)])
    assert codes(file) == ["bad-annotation"]
    assert [record.file_name for record in file.images] == ["A.NEF"]
    assert set(file.refused) == {"B.NEF"}


def test_an_unreadable_annotation_of_an_image_without_a_record_refuses_its_name() -> None:
    file = load(annotations=[annotation(0, "DSC_0007", bbox=None), annotation(1)])
    assert len(file.images) == 1
    assert set(file.refused) == {"DSC_0007"}


POLYGON = [[10, 10, 50, 10, 50, 40, 10, 40]]


@pytest.mark.parametrize("bbox", [None, [], [1, 2, 3], ["a"] * 4, [0, 0, 0, 0], [math.nan] * 4])
@pytest.mark.parametrize(
    "segmentation",
    [POLYGON, {"size": [60, 100], "counts": [610, 30, *[30, 30] * 39, 3020]}],
    ids=["polygon", "mask"],
)
def test_a_box_that_is_missing_is_that_of_the_shape(bbox: object, segmentation: object) -> None:
    record = annotation(bbox=bbox, area=1200, segmentation=segmentation)
    (found,) = load(annotations=[record]).images
    (box,) = found.boxes
    assert (box.bbox, box.area, box.findings) == ((10, 10, 40, 30), 1200, ())


def test_a_box_that_is_given_counts_whatever_the_shape_is() -> None:
    for shape in (POLYGON, [[1, 2]], {"counts": "?"}, "x", 5):
        (found,) = load(annotations=[annotation(segmentation=shape)]).images
        assert found.boxes[0].bbox == (1, 2, 30, 4)
    # Nothing better is known of a box without area: it stays, and is left out of targets.
    (found,) = load(annotations=[annotation(bbox=[1, 2, 0, 0], segmentation=[[1, 2]])]).images
    assert found.boxes[0].trainable is False


def test_boxes_of_shapes_are_said_and_those_of_keypoints_are_too_small() -> None:
    records = [annotation(0, bbox=None, segmentation=POLYGON)]
    records += [annotation(1, bbox=None, category_id=2, keypoints=[10, 10, 2, 50, 40, 1])]
    found = load(annotations=records).findings
    assert [(one.code, one.severity.value) for one in found] == [
        ("box-from-shape", "info"),
        ("box-from-shape", "warning"),
    ]


def test_boxes_that_are_fractions_cost_their_images_and_say_so() -> None:
    images = [image(n) for n in range(3)]
    boxes = [annotation(n, n, bbox=[0.1, 0.2, 0.3 + n / 10, 0.4]) for n in range(3)]
    file = load(images, boxes)
    assert len(file.images) == 0
    (finding,) = file.findings
    assert (finding.code, finding.severity) == ("not-pixels", Severity.ERROR)
    assert "fractions" in finding.message
    assert set(file.refused) == {"0.NEF", "1.NEF", "2.NEF"}
    assert all("fractions" in because.message for because in file.refused.values())


def test_corners_are_doubted_and_kept() -> None:
    boxes = [annotation(n, bbox=[60 + n, 30 + n, 90 + n, 50 + n]) for n in range(3)]
    file = load(annotations=boxes)
    assert codes(file) == ["box-format"]
    assert len(file.images[0].boxes) == 3


@pytest.mark.parametrize(
    "record",
    [
        {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5},
        {"image_id": 1, "category_id": 1, "segmentation": {"counts": "x"}, "score": 0.5},
        {"image_id": "A", "category_id": 1, "keypoints": [1, 2, 1], "score": 1},
    ],
)
def test_what_a_detector_found_is_told_from_annotations(record: dict[str, Any]) -> None:
    data = json.dumps([record] * 3).encode()
    assert looks_like_detections(data)
    assert not looks_like_coco(data)
    with pytest.raises(AnnotationError, match="what a detector found"):
        load_coco(data, name="results.json")
    scored = {"images": [image()], "annotations": [annotation(score=1.0)], "categories": []}
    assert not looks_like_detections(json.dumps(scored).encode())
    plain = json.dumps([annotation()]).encode()
    assert looks_like_coco(plain)
    assert not looks_like_detections(plain)


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 0},
        {"height": -3},
        {"width": "wide"},
        {"height": None},
        {"file_name": 7},
        {"file_name": ""},
        {"file_name": ".."},
        {"file_name": "folder/"},
        {"file_name": "a\0b.NEF"},
    ],
)
def test_an_unusable_image_is_refused_by_name_not_taken_for_empty(
    changes: dict[str, object],
) -> None:
    file = load([image("A", **changes), image("B")], [annotation(0, "A"), annotation(1, "B")])
    assert [record.file_name for record in file.images] == ["B.NEF"]
    assert codes(file) == ["bad-image", "orphan-annotation"]
    assert "image 'A'" in file.findings[0].where
    assert "A" in file.refused or "A.NEF" in file.refused


def test_an_image_record_that_is_no_object_costs_only_itself() -> None:
    assert codes(load([4, image()])) == ["bad-image"]


def test_a_path_in_a_file_name_loses_its_folders() -> None:
    for file_name in ("../../etc/A.NEF", "C:\\raws\\A.NEF", "/abs/A.NEF"):
        assert load([image(file_name=file_name)]).images[0].file_name == "A.NEF"


def test_base_names_are_normalised() -> None:
    assert base_name("cafe\u0301.NEF") == base_name("caf\u00e9.NEF")
    assert base_name("a\nb") == ""


def test_equal_image_records_are_one_and_different_ones_are_refused() -> None:
    same = load([image(), image()])
    assert codes(same) == ["duplicate-image-id"]
    assert same.findings[0].severity is Severity.WARNING
    assert len(same.images) == 1
    assert len(same.images[0].boxes) == 1
    other = load(
        [image(), image(file_name="B.NEF"), image("C")], [annotation(), annotation(1, "C")]
    )
    assert [record.file_name for record in other.images] == ["C.NEF"]
    assert codes(other) == ["duplicate-image-id", "orphan-annotation"]
    assert {"A.NEF", "B.NEF"} <= set(other.refused)


def test_equal_annotations_count_once_and_different_ones_with_one_id_both_stay() -> None:
    file = load(annotations=[annotation(), annotation(), annotation(bbox=[50, 2, 30, 4])])
    assert codes(file) == ["duplicate-annotation-id"] * 2
    assert [box.bbox[0] for box in file.images[0].boxes] == [1, 50]


def test_an_orphan_is_named_with_its_image() -> None:
    file = load(annotations=[annotation(), annotation(8, "DSC_0001")])
    (finding,) = file.findings
    assert (finding.code, finding.where) == ("orphan-annotation", f"{NAME}: annotation 8")
    assert "'DSC_0001'" in finding.message
    assert file.refused == {"DSC_0001": finding}


def test_an_image_with_an_absurd_number_of_boxes_costs_only_itself() -> None:
    many = [annotation(number, "B") for number in range(MAX_BOXES_PER_IMAGE + 1)]
    file = load([image("A"), image("B")], [annotation("x"), *many])
    assert [record.file_name for record in file.images] == ["A.NEF"]
    assert codes(file) == ["too-many-boxes"]
    assert "5,001 boxes" in file.findings[0].message
    assert set(file.refused) == {"B.NEF"}


def test_a_file_without_annotations_is_odd_but_usable() -> None:
    file = load_coco(json.dumps({"images": [image()]}).encode(), name=NAME)
    assert codes(file) == ["no-annotations"]
    assert len(file.images) == 1


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "not valid JSON"),
        (b'{"images": [', "the file ends too early at line 1 column 12"),
        (b'{"images": []\n,,}', "line 2 column 2"),
        (b'{"images": [{"id": "\xff"}]}', "invalid unicode code point"),
        ('{"images": []}'.encode("utf-16"), "not valid JSON"),
        (b'{"images": [' + b"[" * 5000, "recursion limit"),
        (b'{"images": [1' + b"0" * 5000 + b"]}", "number out of range"),
        (b"[]", "not a COCO annotation file: the whole"),
        (b"null", "not a COCO annotation file"),
        (b'{"annotations": []}', "not a COCO annotation file: the list `images` is missing"),
        (b'{"images": {}}', "not a COCO annotation file: images"),
        (b'{"images": [], "annotations": 4}', "not a COCO annotation file: annotations"),
    ],
)
def test_what_is_no_coco_file_raises_with_place_and_mend(data: bytes, what: str) -> None:
    with pytest.raises(AnnotationError) as caught:
        load_coco(data, name="broken.json")
    assert what in caught.value.message
    assert caught.value.path == "broken.json"
    assert caught.value.mend
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/", "a\\..", " ", "a\nb", "a\x9bb", "\x7f", "x" * 256, "é" * 130]
)
def test_what_names_no_file_has_no_name(name: str) -> None:
    assert base_name(name) == ""


@pytest.mark.parametrize("name", ["a.NEF", "../a.NEF", "C:\\x\\a.NEF", "//s/a.NEF", "\0/a.NEF"])
def test_folders_of_any_system_do_not_count(name: str) -> None:
    assert base_name(name) == "a.NEF"


def test_a_file_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_FILE_BYTES", 10)
    with pytest.raises(AnnotationError, match="it has 14 bytes; annotation files of more than 10"):
        load_coco(b'{"images": []}', name=NAME)


def test_too_many_records_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(coco_file.MAX_RECORDS, "annotations", 3)
    assert len(load(annotations=[annotation(n) for n in range(3)]).images[0].boxes) == 3
    with pytest.raises(AnnotationError, match="more than 3 annotations"):
        load(annotations=[annotation(n) for n in range(4)])


def test_many_broken_records_are_counted_and_more_break_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(file_findings, "MAX_BROKEN", MAX_NAMED + 20)
    file = load(annotations=[7] * (MAX_NAMED + 20))
    assert len(file.findings) == MAX_NAMED + 1
    assert file.findings[-1].message == "and 20 more such records (bad-annotation)"
    with pytest.raises(
        AnnotationError, match=r"more than 120 of its records.*number 0 of the list"
    ):
        load(annotations=[7] * (MAX_NAMED + 21))


def test_integers_that_hash_alike_are_different_identifiers_found_at_once() -> None:
    alike = [n * (2**61 - 1) for n in range(5000)]
    file = load([image(n, file_name=f"{n}.NEF") for n in alike], [])
    assert len(file.images) == len(alike)
    assert len({hash(n) for n in alike}) == 1
    assert len({hash(key_of(n)) for n in alike}) > 4900


@pytest.mark.parametrize(
    "changes",
    [{"id": True}, {"id": "x" * 256}, {"id": 10**255}, {"bbox": [True, 0, 5, 5]}, {"id": 1.5}],
)
def test_what_is_no_identifier_or_number_is_refused(changes: dict[str, object]) -> None:
    assert codes(load(annotations=[annotation() | changes])) == ["bad-annotation"]


@pytest.mark.parametrize("width", [0, -5, 1_000_001, True, "x", None, 1.5])
def test_an_image_of_no_size_is_refused(width: object) -> None:
    file = load([image(width=width)], [])
    assert codes(file) == ["bad-image"]
    assert "A.NEF" in file.refused


def test_a_large_member_is_looked_at_without_a_copy() -> None:
    data = b'{"images": [], "annotations": [], "x": "' + b"x" * (32 << 20) + b'"}'
    tracemalloc.start()
    load_coco(data, name=NAME)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


def test_a_byte_order_mark_is_no_error() -> None:
    assert len(load_coco(b'\xef\xbb\xbf{"images": []}', name=NAME).images) == 0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
odd_images = st.fixed_dictionaries(
    {"id": st.sampled_from(["A", "B", 1, 2.5, None]), "file_name": st.just("A.NEF") | json_values},
    optional={"width": st.just(9) | json_values, "height": st.just(9) | json_values},
)
odd_annotations = st.fixed_dictionaries(
    {"id": st.integers(0, 3) | json_values, "image_id": st.sampled_from(["A", "B", 1])},
    optional={
        "category_id": st.integers(0, 4) | json_values,
        "bbox": st.lists(st.integers() | st.floats(), min_size=4, max_size=4) | json_values,
        "iscrowd": st.integers(0, 1) | json_values,
        "area": json_values,
        "isnoisy": json_values,
    },
)
odd_categories = st.fixed_dictionaries(
    {"id": st.integers(0, 4) | json_values, "name": st.sampled_from(["car", "dog"]) | json_values}
)


@given(
    st.lists(odd_images | json_values, max_size=4),
    st.lists(odd_annotations | json_values, max_size=6),
    st.lists(odd_categories | json_values, max_size=3),
)
def test_no_record_however_odd_is_lost_without_a_word(
    images: list[Any], annotations: list[Any], categories: list[Any]
) -> None:
    file = load(images, annotations, categories)
    boxes = sum(len(record.boxes) for record in file.images)
    reported = sum(
        finding.code in {"bad-annotation", "orphan-annotation", "duplicate-annotation-id"}
        for finding in file.findings
    )
    assert boxes <= len(annotations)
    # The other boxes of an image are left out with it, which its name is refused for.
    assert len(annotations) <= boxes + reported or file.refused
    image_reports = sum(f.code in {"bad-image", "duplicate-image-id"} for f in file.findings)
    assert len(file.images) == len(images) or image_reports or file.refused
    for record in file.images:
        assert ImageAnnotation.model_validate_json(record.model_dump_json()).boxes is not None


@given(st.binary(max_size=200))
def test_any_bytes_give_a_file_or_an_annotation_error(data: bytes) -> None:
    with contextlib.suppress(AnnotationError):
        load_coco(data, name=NAME)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("raw_new_Nikon750_train.json", "train"),
        ("raw_str_labeled_new_Sony_RX100m7_test.json", "test"),
        ("instances_val2017.json", "val"),
        ("NodValidation.json", "val"),
        ("TRAIN.JSON", "train"),
        ("train-raw.json", "train"),
        ("folder/test.json", "test"),
        ("test/labels.json", None),
        ("trainval.json", None),
        ("train_and_test.json", None),
        ("contest.json", None),
        ("latest.json", None),
        ("annotations.json", None),
        ("", None),
    ],
)
def test_the_split_is_a_word_of_the_file_name(name: str, split: str | None) -> None:
    assert split_from_name(name) == split


def test_a_given_split_wins_and_a_missing_one_is_mentioned() -> None:
    data = json.dumps({"images": [image()], "annotations": []}).encode()
    given_split = load_coco(data, name=NAME, split="night")
    assert given_split.split == given_split.images[0].split == "night"
    unsplit = load_coco(data, name="all.json")
    assert unsplit.split is None
    assert codes(unsplit) == ["no-split"]
    assert "--split NAME=all.json" in unsplit.findings[0].mend


@pytest.mark.parametrize(
    ("data", "is_coco"),
    [
        (b'{"images": [], "annotations": []}', True),
        (b'\xef\xbb\xbf \n{"info": {}, "images" : [{"file_name": "a"', True),
        ('{"images": [], "categories": []}'.encode("utf-16"), True),
        (b'{"images": []}', False),
        (b'[{"image_id": 1, "annotations": [], "images": []}]', False),
        (b'{"file_name": "a", "boxes": []}', False),
        (b"", False),
        (b"II*\0 raw", False),
    ],
)
def test_coco_files_are_told_from_other_json(data: bytes, is_coco: bool) -> None:
    assert looks_like_coco(data) is is_coco
