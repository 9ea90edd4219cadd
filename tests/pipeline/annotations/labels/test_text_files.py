from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from pipeline.annotations.labels.class_names import ClassNames
from pipeline.annotations.labels.text_files import (
    SetLists,
    in_labels_folder,
    is_label_place,
    stems_by_folder,
)


def split_of(lists: SetLists, name: str) -> str | None:
    return lists.split_of(path(name), name, str(path(name)))


def path(text: str) -> PurePosixPath:
    return PurePosixPath("/data") / text


@pytest.mark.parametrize(
    ("name", "beside_its_raw", "is_place"),
    [
        ("set/labels/A.txt", False, True),
        ("set/Labels/train/A.txt", False, True),
        ("set/A.txt", False, False),
        ("set/A.txt", True, True),
        ("set/labels/classes.txt", False, False),
        ("set/labels/A.csv", False, False),
        ("labels.txt", False, False),
    ],
)
def test_labels_lie_in_labels_or_beside_their_raw(
    name: str, beside_its_raw: bool, is_place: bool
) -> None:
    assert is_label_place(path(name), anywhere=beside_its_raw) == is_place


def test_raws_are_known_by_folder_and_stem_without_case() -> None:
    stems = stems_by_folder([path("a/DSC_1.NEF"), path("a/s.001.NEF"), path("b/DSC_2.NEF")])
    assert "dsc_1" in stems[path("a")]
    assert "s.001" in stems[path("a")]
    assert "dsc_2" not in stems[path("a")]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.txt", "train"),
        ("val.txt", "val"),
        ("valid.txt", "val"),
        ("test.txt", "test"),
        ("Sony_train_list.txt", "train"),
        ("Sony_val_list.txt", "val"),
        ("trainval.txt", None),
        ("car_val.txt", None),
        ("trainHalf.txt", None),
        ("results_test.txt", None),
        ("train.csv", None),
    ],
)
def test_lists_of_splits_are_known_by_name(name: str, split: str | None) -> None:
    assert SetLists().listed_split(name) == split


@pytest.mark.parametrize("folder", ["VOC/ImageSets/Main", "VOC/trainval", "VOC"])
def test_a_list_names_the_split_of_images_below_its_set(folder: str) -> None:
    lists = SetLists()
    lists.add_split(path(f"{folder}/train.txt"), "train", b"2014_000001\n2014_000002  1\n\n")
    lists.add_split(path(f"{folder}/val.txt"), "val", b"./images/2014_000003.png\nscene.001\n")
    found = [
        split_of(lists, f"VOC/Annotations/{name}.xml")
        for name in ("2014_000001", "2014_000002", "2014_000003", "scene.001", "2014_000004")
    ]
    assert found == ["train", "train", "val", "val", None]
    assert split_of(lists, "Other/2014_000001.xml") is None


def test_an_image_in_two_lists_has_no_split() -> None:
    lists = SetLists()
    lists.add_split(path("train.txt"), "train", b"A\nB")
    lists.add_split(path("val.txt"), "val", b"B")
    assert split_of(lists, "x/A.xml") == "train"
    with pytest.raises(ValueError, match="lists name B in train and in val"):
        split_of(lists, "x/B.xml")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("set/valid/labels/A.txt", "val"),
        ("set/labels/Train/A.txt", "train"),
        ("set/test_drive/A.txt", None),
        ("labels/train.txt", None),
        ("labels/train_0001.xml", None),
    ],
)
def test_else_a_folder_names_the_split_and_never_the_name_of_an_image(
    name: str, split: str | None
) -> None:
    assert split_of(SetLists(), name) == split


def yaml(**folders: tuple[str, ...]) -> ClassNames:
    return ClassNames("data.yaml", {0: "person"}, folders=folders)


@pytest.mark.parametrize(
    ("places", "labels", "split"),
    [
        ({"train": ("images/day",), "val": ("images/night",)}, "labels/day/A.txt", "train"),
        ({"train": ("images/day",), "val": ("images/night",)}, "labels/night/A.txt", "val"),
        ({"train": ("images/day",), "val": ("images/night",)}, "labels/dusk/A.txt", None),
        ({"train": ("../a/images",), "val": ("../b/images",)}, "b/labels/A.txt", "val"),
        ({"train": ("/x/set/images/day",)}, "labels/day/A.txt", "train"),
        ({"train": ("images",), "val": ("images",)}, "labels/A.txt", None),
    ],
)
def test_a_data_yaml_says_which_folder_is_which_split(
    places: dict[str, tuple[str, ...]], labels: str, split: str | None
) -> None:
    lists = SetLists()
    lists.add_classes(path("set/data.yaml"), yaml(**places))
    assert split_of(lists, f"set/{labels}") == split


def test_a_data_yaml_may_name_lists() -> None:
    lists = SetLists()
    lists.add_classes(path("set/data.yaml"), yaml(train=("./first.txt",)))
    assert lists.listed_split("first.txt") == "train"
    assert lists.listed_split("second.txt") is None


def test_classes_are_named_by_the_lists_in_the_folder_and_above() -> None:
    lists = SetLists()
    lists.add_classes(path("set/data.yaml"), ClassNames("data.yaml", {0: "person", 1: "car"}))
    lists.add_classes(path("set/labels/classes.txt"), ClassNames("classes.txt", {0: "person"}))
    found = lists.classes_of(path("set/labels/A.txt"))
    assert (found.names, found.source) == ({0: "person", 1: "car"}, "classes.txt, data.yaml")
    assert lists.classes_of(path("other/labels/A.txt")).names == {}
    lists.add_classes(path("set/labels/obj.names"), ClassNames("obj.names", {0: "dog"}))
    with pytest.raises(ValueError, match=r"class 0 is 'person' in .* and 'dog' in obj.names"):
        lists.classes_of(path("set/labels/A.txt"))


def test_below_a_list_that_cannot_be_read_nothing_is_known() -> None:
    lists = SetLists()
    lists.add_unreadable(path("set/data.yaml"), "data.yaml: not valid YAML")
    with pytest.raises(ValueError, match=r"classes are not known: data\.yaml: not valid YAML"):
        lists.classes_of(path("set/labels/A.txt"))


def test_the_folder_called_labels_is_what_counts() -> None:
    assert in_labels_folder(path("LABELS/x/A.txt"))
    assert not in_labels_folder(path("x/labels"))
