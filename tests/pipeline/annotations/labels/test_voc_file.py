from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.annotations.columns import UnsizedAnnotation
from pipeline.annotations.labels.one_image import MAX_OBJECTS
from pipeline.annotations.labels.voc_file import load_voc, looks_like_voc
from pipeline.annotations.reader import LoadedFile
from pipeline.errors import AnnotationError
from schemas.coco import ImageAnnotation

BOX = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>4</ymax></bndbox>"
CAR = f"<object><name>car</name>{BOX}</object>"
SIZE = "<size><width>60</width><height>40</height><depth>3</depth></size>"


def voc(objects: str = CAR, *, size: str = SIZE, filename: str = "A.jpg") -> bytes:
    name = f"<filename>{filename}</filename>" if filename else ""
    return f"<annotation>{name}{size}{objects}</annotation>".encode()


def one(file: LoadedFile) -> ImageAnnotation:
    assert file.refused == {}
    (image,) = file.images
    return image


def why(file: LoadedFile) -> str:
    """Why its image is refused."""
    assert len(file.images) == 0
    (finding,) = file.refused.values()
    assert finding.mend
    return finding.message


def test_a_box_covers_the_pixels_from_xmin_to_xmax_counted_from_1() -> None:
    """The kit's top-left pixel is (1, 1): the box of all of a frame of 60x40 is 1 1 60 40."""
    whole = BOX.replace(">2<", ">1<").replace(">30<", ">60<").replace(">4<", ">40<")
    image = one(load_voc(voc(f"<object><name>car</name>{whole}</object>"), name="A.xml"))
    assert image.boxes[0].bbox == (0, 0, 60, 40)
    assert one(load_voc(voc(), name="A.xml")).boxes[0].bbox == (0, 1, 30, 3)


def test_a_file_of_pascalraw_is_read() -> None:
    """In its order of elements, which is not that of VOC's kit."""
    text = """<annotation>
	<folder>VOC2014</folder>
	<filename>2014_000001.png</filename>
	<source><database>PASCAL VOC Compatible Annotation Database</database></source>
	<segmented>0</segmented>
	<object>
		<name>car</name>
		<bndbox><xmax>592</xmax><xmin>183</xmin><ymax>338</ymax><ymin>1</ymin></bndbox>
		<difficult>0</difficult><occluded>1</occluded><pose>Frontal</pose><truncated>0</truncated>
	</object>
	<size><depth>1</depth><height>400</height><width>600</width></size>
</annotation>"""
    file = load_voc(text.encode(), name="annotations/2014_000001.xml", split="val")
    image = one(file)
    assert (image.file_name, image.size, image.split) == ("2014_000001.png", (600, 400), "val")
    (box,) = image.boxes
    assert (box.category, box.category_id, box.bbox) == ("car", 3, (182, 0, 410, 338))
    assert box.flags == {"difficult": False, "truncated": False, "occluded": True}
    assert box.trainable


def test_what_is_difficult_is_ignored_and_other_classes_keep_their_names() -> None:
    difficult = CAR.replace("<name>", "<difficult>1</difficult><name>")
    odd = CAR.replace("car", "tvmonitor").replace("<name>", "<truncated>maybe</truncated><name>")
    first, second = one(load_voc(voc(difficult + odd), name="A.xml")).boxes
    assert (first.trainable, first.ignored, first.flags) == (False, True, {"difficult": True})
    assert (second.trainable, second.category, second.category_id) == (True, "tvmonitor", 0)
    assert [finding.code for finding in second.findings] == ["unreadable-flag"]


def test_the_parts_of_an_object_are_no_objects() -> None:
    part = f"<part><name>head</name>{BOX.replace('30', '20')}</part>"
    person = CAR.replace("car", "person").replace("</object>", f"{part}</object>")
    (box,) = one(load_voc(voc(person), name="A.xml")).boxes
    assert (box.category, box.bbox) == ("person", (0, 1, 30, 3))


def test_a_file_without_objects_is_an_image_without_objects() -> None:
    assert one(load_voc(voc(""), name="A.xml")).boxes == ()


@pytest.mark.parametrize("size", ["", SIZE.replace("60", "0"), "<size/>"])
def test_without_a_size_the_boxes_are_in_the_raws_frame(size: str) -> None:
    file = load_voc(voc(size=size), name="A.xml")
    assert [finding.code for finding in file.findings] == ["no-image-size"]
    unsized = file.images.as_annotated(0)
    assert isinstance(unsized, UnsizedAnnotation)
    image = unsized.in_frame((30, 4))
    assert (image.size, image.boxes[0].bbox) == ((30, 4), (0, 1, 30, 3))
    with pytest.raises(AnnotationError, match="does not say the size") as caught:
        unsized.in_frame((28, 4))
    assert caught.value.mend


@pytest.mark.parametrize(
    ("filename", "image", "findings"),
    [
        ("A.NEF", "A.NEF", []),
        ("a.png", "a.png", []),
        ("folder/A.jpg", "A.jpg", []),
        ("A", "A", []),
        ("", "A", []),
        ("B.jpg", "A", ["other-file-name"]),
    ],
)
def test_the_file_is_named_after_its_image(filename: str, image: str, findings: list[str]) -> None:
    file = load_voc(voc(filename=filename), name="Annotations/A.xml")
    assert one(file).file_name == image
    assert [finding.code for finding in file.findings] == findings


def test_dots_in_the_name_of_an_image_are_kept() -> None:
    file = load_voc(voc(filename="scene.001.NEF"), name="scene.001.xml")
    assert one(file).file_name == "scene.001.NEF"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (voc()[:-5], "not whole XML: unclosed token at line 1"),
        (voc() + b"x", "not whole XML"),
        (b"", "not whole XML: no element found"),
        (bytes(200), "not whole XML"),
        (voc(CAR.replace(">30<", ">a<")), "object 1 (line 1): <xmax> is 'a', which is no number"),
        (voc(CAR.replace(">30<", ">nan<")), "'nan', which is no number"),
        (voc(CAR.replace(">30<", ">1_0<")), "'1_0', which is no number"),
        (voc(CAR.replace(">30<", "><")), "'', which is no number"),
        (voc(CAR.replace("<xmax>30</xmax>", "")), "has no <xmax> in a <bndbox>"),
        (voc(CAR.replace("<name>car</name>", "")), "has no <name>"),
        (voc(CAR.replace("</bndbox>", "<xmin>7</xmin></bndbox>")), "a second <xmin>"),
        (voc(CAR.replace("car", "c" * 300)), "has no <name> of a class"),
        (voc(size=SIZE.replace("60", "-6")), "its <size> is '-6x40'"),
        (voc(size=SIZE.replace("60", "1e9")), "its <size>"),
        (voc(size=SIZE.replace("60", "sixty")), "its <size>"),
        (voc("<a>" * 100), "nests 64 deep"),
        (voc(CAR * (MAX_OBJECTS + 1)), "more than 5,000 objects"),
        (voc(CAR.replace("car", "c" * 5000)), "a value is too long"),
        ("<annotation><filename>ä</filename>".encode("latin-1"), "not whole XML"),
        (b'<?xml version="1.0" encoding="klingon"?>' + voc(), "unknown encoding"),
    ],
)
def test_a_file_that_cannot_be_read_refuses_its_image(data: bytes, message: str) -> None:
    file = load_voc(data, name="Annotations/A.xml")
    assert message in why(file)
    assert list(file.refused) == ["A"]
    assert [finding.code for finding in file.findings] == ["unreadable-labels"]


def test_entities_are_refused_and_nothing_is_fetched(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    for body, entity in (
        (f"<!DOCTYPE a [<!ENTITY l0 'lol'>{laughs}]>", "l11"),
        (f"<!DOCTYPE a [<!ENTITY e SYSTEM '{(tmp_path / 'secret.txt').as_uri()}'>]>", "e"),
    ):
        data = body.encode() + voc(CAR.replace("car", f"&{entity};"))
        message = why(load_voc(data, name="A.xml"))
        assert "defines the entity" in message
        assert "secret" not in message
    external = b'<!DOCTYPE annotation SYSTEM "http://localhost:1/a.dtd">' + voc()
    assert one(load_voc(external, name="A.xml")).boxes


@pytest.mark.parametrize(
    ("data", "is_voc"),
    [
        (voc(), True),
        (b"<?xml version='1.0'?>\n<!-- a -->\n" + voc(), True),
        (b"\xef\xbb\xbf" + voc(), True),
        (voc().decode().encode("utf-16"), True),
        (voc()[:15], True),
        (b"", True),
        (bytes(64), True),
        (b"<annotations><image/></annotations>", False),
        (b"<annotation><text>a note</text></annotation>", False),
        (b"<NonRealTimeMeta xmlns='urn:x'><Duration/></NonRealTimeMeta>", False),
        (b"a caption", False),
    ],
)
def test_other_xml_is_left_alone(data: bytes, is_voc: bool) -> None:
    assert looks_like_voc(data) == is_voc


TAGS = (
    *("annotation", "filename", "size", "width", "height", "object", "name", "bndbox"),
    *("xmin", "ymin", "xmax", "ymax", "difficult", "part"),
)

words = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "Zs"]), max_size=12)
numbers = st.integers(-5, 70).map(str) | st.floats(0, 60).map(str) | words
trees = st.recursive(
    words,
    lambda inner: st.lists(
        st.tuples(
            st.sampled_from(TAGS),
            inner | numbers,
        ),
        max_size=5,
    ),
    max_leaves=12,
)


def element(tag: str, content: object) -> ElementTree.Element:
    made = ElementTree.Element(tag)
    if isinstance(content, str):
        made.text = content
    elif isinstance(content, list):
        made.extend(element(inner, value) for inner, value in content)
    return made


@given(trees)
@settings(max_examples=150, deadline=None)
def test_whatever_it_holds_every_object_is_a_box_or_the_image_is_refused(content: object) -> None:
    """By another parser: the objects directly below the root are all there, in order."""
    root = element("annotation", content)
    file = load_voc(ElementTree.tostring(root), name="A.xml")
    if file.refused:
        assert len(file.images) == 0
        assert why(file)
    else:
        assert [box.category for box in one(file).boxes] == [
            (found.findtext("name") or "").strip() for found in root.findall("object")
        ]


@given(st.binary(max_size=200) | st.integers(0, len(voc())).map(lambda end: voc()[:end]))
@settings(max_examples=150, deadline=None)
def test_bytes_of_any_kind_are_read_or_refused(data: bytes) -> None:
    looks_like_voc(data)
    file = load_voc(data, name="A.xml")
    assert (len(file.images) == 1) != bool(file.refused)
