from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.annotations.columns import UnsizedAnnotation
from pipeline.annotations.labels.class_names import ClassNames, load_class_names, may_name_classes
from pipeline.annotations.labels.one_image import MAX_OBJECTS
from pipeline.annotations.labels.yolo_file import load_yolo, looks_like_yolo
from pipeline.annotations.reader import LoadedFile
from pipeline.errors import AnnotationError
from schemas.coco import Box

NAMES = ClassNames("classes.txt", {0: "person", 1: "dog", 2: "car"})


def load(text: str | bytes, classes: ClassNames = NAMES) -> LoadedFile:
    data = text.encode() if isinstance(text, str) else text
    return load_yolo(data, name="labels/A.txt", classes=classes, split="train")


def boxes(text: str, classes: ClassNames = NAMES, frame: tuple[int, int] = (200, 100)) -> list[Box]:
    file = load(text, classes)
    assert file.refused == {}
    image = file.images.as_annotated(0)
    assert isinstance(image, UnsizedAnnotation)
    assert image.size is None
    return list(image.in_frame(frame).boxes)


def why(file: LoadedFile) -> str:
    assert len(file.images) == 0
    (finding,) = file.refused.values()
    assert list(file.refused) == ["images/A"]
    assert finding.mend
    return finding.message


def test_a_box_is_its_centre_and_size_in_widths_and_heights_of_the_frame() -> None:
    first, second = boxes("2 0.5 0.5 0.2 0.3\n\n1\t0.25 .25 0.5 5e-1\r\n")
    assert first.bbox == pytest.approx((80, 35, 40, 30))
    assert second.bbox == pytest.approx((0, 0, 100, 50))
    assert [(box.annotation_id, box.category_id, box.category) for box in (first, second)] == [
        (1, 2, "car"),
        (3, 1, "dog"),
    ]
    assert first.trainable
    assert second.trainable


def test_a_polygon_is_its_outermost_corners() -> None:
    (box,) = boxes("0 0.1 0.2 0.5 0.2 0.3 0.8")
    assert box.bbox == pytest.approx((20, 20, 80, 60))
    (turned,) = boxes("0 0.1 0.2 0.5 0.2 0.5 0.8 0.1 0.8")  # an oriented box has four
    assert turned.bbox == pytest.approx((20, 20, 80, 60))


def test_keypoints_follow_the_box_where_the_set_has_some() -> None:
    pose = ClassNames("data.yaml", {0: "person"}, keypoint_numbers=6)
    (box,) = boxes("0 0.5 0.5 0.2 0.3 0.1 0.1 2 0.9 0.9 0", pose)
    assert box.bbox == pytest.approx((80, 35, 40, 30))
    assert "7 numbers where 5 or 11" in why(load("0 0.5 0.5 0.2 0.3 0.1 0.1", pose))


def test_a_file_with_nothing_in_it_is_an_image_without_objects() -> None:
    for text in ("", "\n", "\ufeff  \r\n"):
        assert looks_like_yolo(text.encode())
        assert boxes(text) == []


def test_a_box_at_the_edge_ends_there_although_its_numbers_are_rounded() -> None:
    """0.7500005 and 0.4999995 are what six decimals make of a box that ends at the edge."""
    (box,) = boxes("0 0.750001 0.249999 0.500000 0.500000", frame=(6000, 4000))
    x, y, width, height = box.bbox
    assert (x + width, y) == (6000, 0)
    assert (x, height) == pytest.approx((3000, 2000), abs=0.1)
    assert box.findings == ()


def test_without_names_a_class_is_its_number_and_not_trained_on() -> None:
    (box,) = boxes("7 0.5 0.5 0.2 0.3", ClassNames())
    assert (box.category_id, box.category, box.trainable, box.ignored) == (7, "7", False, True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2 0.5 0.5 0.2 0.3\n2 0.5 x 0.2 0.3\n", "line 2: 'x' is no number"),
        ("2 0.5 0.5 0.2", "line 1: 4 numbers where 5, or an odd number from 7"),
        ("2", "1 numbers"),
        ("2 0.5 0.5 0.2 0.3 0.97", "six numbers: a class, a box and a confidence"),
        ("2 0.1 0.2 0.3 0.4 0.5 0.6 0.7", "8 numbers"),
        ("2 96 64 38 38", "not normalised: the box reaches to 115 of the image"),
        ("2 0.5 0.5 1.5 0.3", "not normalised"),
        ("2 -0.5 0.5 0.1 0.3", "not normalised"),
        ("2 0.5 0.5 nan 0.3", "'nan' is no number"),
        ("2 0.5 0.5 inf 0.3", "'inf' is no number"),
        ("2 0.5 0.5 0_2 0.3", "'0_2' is no number"),
        ("2 0,5 0,5 0,2 0,3", "'0,5' is no number"),
        ("3 0.5 0.5 0.2 0.3", "class 3 has no name in classes.txt"),
        ("1.5 0.5 0.5 0.2 0.3", "'1.5' is no number of a class"),
        ("-1 0.5 0.5 0.2 0.3", "'-1' is no number of a class"),
        ("car 0.5 0.5 0.2 0.3", "'car' is no number"),
        ("1e300 0.5 0.5 0.2 0.3", "has no name"),
        (b"\xff\xfe2\0 \0", "byte 0 is not UTF-8"),
        (b"\0" * 40, "is no number"),
        ("0 0.5 0.5 0.2 0.3\n" * (MAX_OBJECTS + 1), "more than 5,000 objects"),
    ],
)
def test_a_line_that_cannot_be_read_refuses_the_image(text: str | bytes, message: str) -> None:
    assert message in why(load(text))


@pytest.mark.parametrize(
    ("text", "is_yolo"),
    [
        ("0 0.5 0.5 0.2 0.3", True),
        ("head\n0 0.5 0.5 0.2 0.3", True),
        ("0,0.5,0.5,0.2,0.3", True),
        ("0 0.5 0.5", True),
        ("MIT License\n\nCopyright (c) 2024 A, B", False),
        ("2014_000001\n2014_000002", False),
        ("a night street", False),
        ("./Sony/short/00001_00_0.1s.ARW ./Sony/long/00001_00_10s.ARW ISO200 F8", False),
        ("1.5", False),
    ],
)
def test_other_text_is_no_label_file(text: str, is_yolo: bool) -> None:
    assert looks_like_yolo(text.encode()) == is_yolo


coordinates = st.floats(0, 1).map(lambda value: f"{value:.6f}")
lines = st.lists(
    st.tuples(st.integers(0, 2).map(str), coordinates, coordinates, coordinates, coordinates).map(
        " ".join
    )
    | st.text(st.sampled_from("0123456789. -eE\tx"), max_size=30),
    max_size=6,
)


@given(lines, st.integers(2, 9000), st.integers(2, 9000))
@settings(max_examples=150, deadline=None)
def test_every_line_is_a_box_or_the_image_is_refused(
    text: list[str], width: int, height: int
) -> None:
    file = load("\n".join(text))
    if file.refused:
        assert why(file)
        return
    image = file.images.as_annotated(0)
    assert isinstance(image, UnsizedAnnotation)
    found = image.in_frame((width, height)).boxes
    full = [line.split() for line in text if line.strip()]
    assert [box.category_id for box in found] == [int(float(words[0])) for words in full]
    for box, words in zip(found, full, strict=True):
        if len(words) == 5:
            x, y, w, h = box.bbox
            expected = [float(word) for word in words[1:]]
            centre = (x + w / 2) / width, (y + h / 2) / height, w / width, h / height
            assert centre == pytest.approx(expected, abs=2e-5)


@given(st.binary(max_size=100))
@settings(max_examples=150, deadline=None)
def test_bytes_of_any_kind_are_read_or_refused(data: bytes) -> None:
    looks_like_yolo(data)
    file = load(data)
    assert (len(file.images) == 1) != bool(file.refused)


# --- names of classes ----------------------------------------------------------------------------


def names(text: str, name: str) -> ClassNames:
    found = load_class_names(text.encode(), name=name)
    assert found is not None
    return found


def test_classes_are_named_line_by_line() -> None:
    for name in ("classes.txt", "labels/Classes.txt", "obj.names", "predefined_classes.txt"):
        assert may_name_classes(name)
        assert names("person\ntraffic light \n\n", name).names == {0: "person", 1: "traffic light"}
    assert not may_name_classes("README.txt")


@pytest.mark.parametrize(
    "text",
    [
        "names: [person, traffic light]",
        "names:\n  0: person\n  1: traffic light\n",
        "names: {'0': person, '1': 'traffic light'}",
    ],
)
def test_a_data_yaml_names_classes_in_a_list_or_by_number(text: str) -> None:
    found = names(text + "\nnc: 2\ntrain: ../train/images\nval: [a/images, b]\n", "data.yaml")
    assert found.names == {0: "person", 1: "traffic light"}
    assert found.folders == {"train": ("../train/images",), "val": ("a/images", "b")}
    assert names("names: [a]\nkpt_shape: [17, 3]", "pose.yml").keypoint_numbers == 51


def test_other_yaml_is_left_alone() -> None:
    for text in ("version: 2", "- a\n- b", "{{ broken", "", "a: names of things"):
        assert load_class_names(text.encode(), name="compose.yaml") is None


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("names: [a, b", "data.yaml", "not valid YAML"),
        ("names: person", "data.yaml", "neither a list nor numbers with names"),
        ("names: [yes]", "data.yaml", "class 0 is called True"),
        ("names: {-1: a}", "data.yaml", "class -1"),
        ("names: [1]", "data.yaml", "class 0 is called 1"),
        ("names: [[a]]", "data.yaml", "class 0"),
        ("names: &a [x]\nb: *a", "data.yaml", "alias, at line 2"),
        ("names: " + "[" * 30 + "]" * 30, "data.yaml", "nests deeper"),
        ("names: !!int ''", "data.yaml", "not valid YAML"),
        ("names: !!timestamp x", "data.yaml", "not valid YAML"),
        ("names: !!bool x", "data.yaml", "not valid YAML"),
        ("names: [a]\nkpt_shape: 17", "data.yaml", "kpt_shape"),
        ("names: !!python/object/apply:os.system ['true']", "data.yaml", "not valid YAML"),
        ("person\n\ncar", "classes.txt", "class 1 is called ''"),
        ("x" * 300, "classes.txt", "class 0 is called"),
        (b"\xff\xfe", "classes.txt", "not UTF-8"),
    ],
)
def test_a_list_of_classes_that_cannot_be_read_is_said(
    text: str | bytes, name: str, message: str
) -> None:
    data = text.encode() if isinstance(text, str) else text
    with pytest.raises(AnnotationError) as caught:
        load_class_names(data, name=name)
    assert message in caught.value.message
    assert caught.value.mend


@given(st.text(st.sampled_from("names: \n-[]{}'\"&*!a01?|>%#,"), max_size=40))
@settings(max_examples=200, deadline=None)
def test_yaml_of_any_kind_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(AnnotationError):
        found = load_class_names(f"names: {text}".encode(), name="data.yaml")
        assert found is None or all(isinstance(name, str) for name in found.names.values())
