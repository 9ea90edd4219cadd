from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from pipeline.errors import AnnotationError
from pipeline.ingest.inputs import Inputs, gather
from pipeline.store import open_store
from pipeline.store.local.files import LocalFiles
from pipeline.verify import VerifyOptions, run_verify
from schemas.coco import ImageAnnotation
from tests.conftest import Ingest
from tests.kit.label_sets import voc_text, write_old, write_raw
from tests.kit.recorder import Recorder
from tests.kit.small_raws import SMALL_FRAME

CAR = ("car", 1, 1, 12, 8, 0)
LABELS = "0 0.125 0.125 0.25 0.25\n"
"""The same box: 0 to 12 of 48 columns, 0 to 8 of 32 rows."""


def given(folder: Path, *annotations: Path, **splits: Path) -> Inputs:
    named = [(split, str(path)) for split, path in splits.items()]
    return gather([str(folder)], [str(path) for path in annotations], named)


def said(inputs: Inputs, raw: str) -> ImageAnnotation:
    (annotation,) = inputs.index.lookup(raw, SMALL_FRAME)
    return annotation


def codes(inputs: Inputs) -> list[str]:
    return [finding.code for finding in inputs.index.findings]


@pytest.fixture
def raws(tmp_path: Path) -> Path:
    for name in ("A.NEF", "B.NEF"):
        write_old(tmp_path / "set" / "images" / name, b"raw")
    return tmp_path / "set"


def test_labels_are_found_in_labels_and_beside_their_raws(raws: Path) -> None:
    write_old(raws / "classes.txt", "car\n")
    write_old(raws / "labels" / "A.txt", LABELS)
    write_old(raws / "images" / "B.txt", "")
    inputs = given(raws)
    image = said(inputs, "images/A.NEF")
    assert [(box.category, box.bbox) for box in image.boxes] == [("car", (0, 0, 12, 8))]
    assert (image.file, image.width, image.height) == ("labels/A.txt", *SMALL_FRAME)
    assert said(inputs, "images/B.NEF").boxes == ()
    assert (inputs.problems, codes(inputs)) == ((), ["no-split"])


def test_a_raw_without_a_label_file_is_not_annotated(raws: Path) -> None:
    write_old(raws / "labels" / "A.txt", LABELS)
    assert given(raws).index.lookup("images/B.NEF") == ()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("README.txt", "Night pictures, labelled by hand."),
        ("LICENSE.txt", "1. You may copy this.\n"),
        ("results.txt", "epoch 1 0.5 0.7"),
        ("labels/README.txt", "labelled by hand"),
        ("images/A.txt", "a street at night, with a car"),
        ("Sony_train_list.txt", "./images/A.NEF ./images/B.NEF ISO200 F8"),
        ("compose.yaml", "names: [broken"),
        ("notes.xml", "<notes/>"),
        ("images/A.xml", "<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"),
    ],
)
def test_other_texts_say_nothing(raws: Path, name: str, text: str) -> None:
    write_old(raws / name, text)
    inputs = given(raws)
    assert (inputs.problems, len(inputs.index), codes(inputs)) == ((), 0, [])
    assert inputs.index.lookup("images/A.NEF") == ()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("labels/A.txt", "x 0.5 0.5 0.2 0.3", "is no number"),
        ("labels/A.txt", "0 0.5 0.5 0.2 0.3\n0 0.5", "line 2: 2 numbers"),
        ("labels/A.txt", "0 0.5 0.5 0.2 0.3 0.9", "a confidence"),
        ("labels/A.txt", bytes(20), "is no number"),
        ("images/A.txt", "0 10 12 4 4", "not normalised"),
        ("Annotations/A.xml", voc_text("A.jpg", [CAR])[:-20], "not whole XML"),
        ("Annotations/A.xml", voc_text("A.jpg", [CAR]).replace(">12<", ">x<"), "no number"),
        ("images/A.xml", "", "not whole XML"),
    ],
)
def test_damaged_labels_never_make_an_image_one_without_objects(
    raws: Path, name: str, data: str | bytes, message: str
) -> None:
    write_old(raws / name, data)
    with pytest.raises(AnnotationError, match=message) as caught:
        given(raws).index.lookup("images/A.NEF")
    assert caught.value.mend
    assert given(raws).index.lookup("images/B.NEF") == ()


def test_in_a_folder_of_labels_prose_is_damage(raws: Path) -> None:
    """Beside its raw a text may be a caption; among labels it is what is left of some."""
    write_old(raws / "images" / "A.txt", LABELS)
    write_old(raws / "images" / "B.txt", "x.5 0.5 0.2 0.3")
    with pytest.raises(AnnotationError, match=r"line 1: 'x\.5' is no number"):
        given(raws).index.lookup("images/B.NEF")


def test_the_same_boxes_in_voc_and_yolo_are_one_annotation(raws: Path) -> None:
    write_old(raws / "classes.txt", "car\n")
    write_old(raws / "labels" / "A.txt", LABELS)
    write_old(raws / "Annotations" / "A.xml", voc_text("A.jpg", [CAR]))
    inputs = given(raws)
    assert said(inputs, "images/A.NEF").file == "Annotations/A.xml"
    assert "merged-twin" in codes(inputs)
    for text in ("0 0.5 0.5 0.25 0.25\n", LABELS + LABELS, ""):
        write_old(raws / "labels" / "A.txt", text)
        with pytest.raises(AnnotationError, match="disagree on its boxes"):
            given(raws).index.lookup("images/A.NEF")


def test_without_names_classes_are_numbers_and_that_is_said_once(raws: Path) -> None:
    for name in "AB":
        write_old(raws / "labels" / f"{name}.txt", LABELS)
    inputs = given(raws)
    (found,) = [one for one in inputs.index.findings if one.code == "no-class-names"]
    assert "the classes of 2 label files" in found.message
    assert [box.category for box in said(inputs, "images/A.NEF").boxes] == ["0"]


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"data.yaml": "names: [a, b"}, "its classes are not known: data.yaml: not valid YAML"),
        ({"data.yaml": "names: [dog]", "labels/classes.txt": "car"}, "class 0 is 'car' in"),
        ({"train.txt": "images/A.NEF", "val.txt": "A"}, "lists name A in train and in val"),
    ],
)
def test_lists_that_leave_it_open_refuse_the_image(
    raws: Path, lists: dict[str, str], message: str
) -> None:
    for name, text in lists.items():
        write_old(raws / name, text)
    write_old(raws / "labels" / "A.txt", LABELS)
    with pytest.raises(AnnotationError, match=message):
        given(raws).index.lookup("images/A.NEF")


def test_files_and_folders_that_the_user_names_are_read(raws: Path, tmp_path: Path) -> None:
    boxes = tmp_path / "boxes"
    write_old(boxes / "A.txt", LABELS)
    write_old(boxes / "NOTES.txt", "by hand")
    write_old(tmp_path / "classes.txt", "car")
    inputs = given(raws, tmp_path / "classes.txt", test=boxes)
    image = said(inputs, "images/A.NEF")
    assert (image.split, [box.category for box in image.boxes]) == ("test", ["car"])
    write_old(tmp_path / "A.xml", "<notes/>")
    with pytest.raises(AnnotationError, match="its root is <notes>, not <annotation>"):
        given(raws, tmp_path / "A.xml").index.lookup("images/A.NEF")
    write_old(tmp_path / "B.xml", voc_text("B.jpg", [CAR]))
    write_old(tmp_path / "B.txt", LABELS)
    assert said(given(raws, val=tmp_path / "B.xml"), "images/B.NEF").split == "val"
    assert said(given(raws, tmp_path / "B.txt"), "images/B.NEF").file == "B.txt"


def test_an_archive_is_a_folder(raws: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("set/train/images/C.NEF", b"raw")
        archive.writestr("set/train/labels/C.txt", LABELS)
        archive.writestr("set/data.yaml", "names: [car]")
    image = said(gather([str(tmp_path / "set.zip")], [], []), "set.zip!/set/train/images/C.NEF")
    assert (image.split, [box.category for box in image.boxes]) == ("train", ["car"])


def test_many_findings_of_one_kind_are_counted(raws: Path) -> None:
    for number in range(120):
        xml = voc_text(f"other{number}.jpg", [CAR])
        write_old(raws / "Annotations" / f"{number}.xml", xml)
    found = [one for one in given(raws).index.findings if one.code == "other-file-name"]
    assert len(found) == 101
    assert found[-1].message == "and 20 more such files (other-file-name)"


def test_new_labels_change_sidecars_only_and_verify_compares_them(
    tmp_path: Path, ingest: Ingest
) -> None:
    folder, store = tmp_path / "set", tmp_path / "s.zarr"
    write_raw(folder / "images" / "A.NEF", "NIKON D750")
    write_old(folder / "classes.txt", "car\n")
    write_old(folder / "labels" / "A.txt", LABELS)
    assert ingest(folder, store).ingested == 1
    options = VerifyOptions(sources=(str(folder),), strict=True)
    assert run_verify(LocalFiles(store), Recorder(), options).exit_code == 0
    write_old(folder / "labels" / "A.txt", LABELS.replace("0.25\n", "0.2\n"))
    assert run_verify(LocalFiles(store), Recorder(), options).exit_code == 4
    summary = ingest(folder, store)
    assert (summary.reannotated, summary.ingested) == (1, 0)
    assert run_verify(LocalFiles(store), Recorder(), options).exit_code == 0
    annotation = open_store(store).sidecar("A").annotation
    assert annotation is not None
    assert annotation.boxes[0].bbox == pytest.approx((0, 0.8, 12, 6.4))
    write_old(folder / "labels" / "A.txt", "0 0.5 0.5\n")
    assert ingest(folder, store).exit_code == 3
