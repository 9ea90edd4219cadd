from __future__ import annotations

import unicodedata
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.annotations.names import RAWS, ImageName, claims, root
from pipeline.sources.discover import RAW_SUFFIXES

HASH = "4c5e9a2b7f0d4e1c8a6b3d2f1e0c9b8a"


def meant(record: str, *raws: str, file: str = "train.json") -> set[str]:
    """The raws, by their paths, that a record of a file may mean."""
    for raw in raws:
        assert root(record) == root(raw) or not claims([ImageName(record)], [(raw, raw)])[0]
    same_root = [raw for raw in raws if root(raw) == root(record)]
    (found,) = claims([ImageName(record, file)], [(raw, raw) for raw in same_root])
    return {same_root[number] for number in found}


@pytest.mark.parametrize(
    ("record", "raw"),
    [
        ("DSC_0001.NEF", "DSC_0001.NEF"),
        ("dsc_0001.nef", "DSC_0001.NEF"),
        ("DSC_0001.JPG", "DSC_0001.NEF"),
        ("DSC_0001", "DSC_0001.NEF"),
        ("DSC_0001.NEF.jpg", "DSC_0001.NEF"),
        ("DSC_0001.NEF.tif.png", "DSC_0001.NEF"),
        ("DSC_0001.ARW", "DSC_0001.DNG"),  # converted
        ("scene.001", "scene.001.NEF"),
        ("scene.001.jpg", "scene.001.NEF"),
        ("2024.05.01 12.30.png", "2024.05.01 12.30.CR2"),
        ("my%20photo%231.jpg", "my photo#1.NEF"),
        ("images%2Fnight%20a.jpg", "raws/night a.NEF"),
        ("https://host/bucket/DSC_0001.JPG?sig=a/b", "DSC_0001.NEF"),
        ("100%25.NEF", "100%25.NEF"),
        ("caf\u00e9.jpg", "cafe\u0301.NEF"),
        (f"DSC_0001_NEF.rf.{HASH}.jpg", "DSC_0001.NEF"),
        (f"train/DSC_0001_jpg.rf.{HASH}.jpg", "train/DSC_0001.NEF"),
        ("8a2b3c4d-DSC_0001.JPG", "DSC_0001.NEF"),
    ],
)
def test_a_record_means_the_raw_of_its_name(record: str, raw: str) -> None:
    assert meant(record, raw) == {raw}


@pytest.mark.parametrize(
    ("record", "raw"),
    [
        ("scene.001", "scene.NEF"),
        ("scene.001.jpg", "scene.NEF"),
        ("scene", "scene.001.NEF"),
        ("scene.NEF.001", "scene.NEF"),
        ("DSC_0001.xmp", "DSC_0001.NEF"),
        (f"DSC_0001_abc.rf.{HASH}.jpg", "DSC_0001.NEF"),
    ],
)
def test_what_is_no_known_extension_belongs_to_the_name(record: str, raw: str) -> None:
    assert meant(record, raw) == set()


@pytest.mark.parametrize(
    ("record", "raws", "expected"),
    [
        ("scene.NEF", ["scene.NEF", "scene.ARW"], "scene.NEF"),
        ("a.NEF", ["a.NEF", "a.NEF.NEF"], "a.NEF"),
        ("a.NEF.jpg", ["a.NEF", "a.ARW"], "a.NEF"),
        ("a%20b.NEF", ["a b.NEF", "a%20b.NEF"], "a%20b.NEF"),
        ("8a2b3c4d-a.NEF", ["a.NEF", "8a2b3c4d-a.NEF"], "8a2b3c4d-a.NEF"),
        ("101ND750/D.NEF", ["x/101ND750/D.NEF", "x/102ND750/D.NEF"], "x/101ND750/D.NEF"),
        ("jpg\\102ND750\\D.JPG", ["x/101ND750/D.NEF", "x/102nd750/D.NEF"], "x/102nd750/D.NEF"),
        ("a/b/D.NEF", ["a/b/D.NEF", "c/b/D.NEF"], "a/b/D.NEF"),
        ("101/D.NEF", ["raws.zip!/101/D.NEF", "raws.zip!/102/D.NEF"], "raws.zip!/101/D.NEF"),
    ],
)
def test_of_several_raws_the_nearest_name_and_folder_is_meant(
    record: str, raws: list[str], expected: str
) -> None:
    assert meant(record, *raws) == {expected}
    assert meant(record, *raws[::-1]) == {expected}


def test_a_file_in_a_folder_means_the_raws_of_that_folder() -> None:
    raws = ("/n/101/D.NEF", "/n/102/D.NEF", "/n/102/more/D.NEF")
    assert meant("D.NEF", *raws, file="/n/101/labels.json") == {raws[0]}
    assert meant("D.NEF", *raws, file="/n/102/more/labels.json") == {raws[2]}
    assert meant("D.JPG", *raws[:2], file="/n/labels.json") == set(raws[:2])
    beside = ("/n/D.NEF", "/n/backup/D.NEF")
    assert meant("D.NEF", *beside, file="/n/labels.json") == {"/n/D.NEF"}
    assert meant("backup/D.NEF", *beside, file="/n/labels.json") == {"/n/backup/D.NEF"}


def test_folders_numbered_by_a_camera_are_different_pictures() -> None:
    assert meant("101ND750/D.NEF", "102ND750/D.NEF") == set()
    assert meant("100MSDCF/D.JPG", "raws/D.ARW") == {"raws/D.ARW"}
    assert meant("images/D.JPG", "raws/D.ARW") == {"raws/D.ARW"}


def test_a_record_of_a_folder_that_is_not_here_has_no_raw_of_another_folder() -> None:
    records = [ImageName("s1/D.NEF", "a.json"), ImageName("s2/D.NEF", "a.json")]
    (one, other) = claims(records, [("s1/D.NEF", "/x/s1/D.NEF"), ("s3/D.NEF", "/x/s3/D.NEF")])
    assert (one, other) == (frozenset({0}), frozenset())


def test_every_suffix_that_is_searched_for_is_known_as_a_raws() -> None:
    assert {suffix.removeprefix(".") for suffix in RAW_SUFFIXES} <= RAWS


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30))
def test_a_raw_is_found_by_its_own_name_and_by_that_of_its_jpeg(stem: str) -> None:
    name = PurePosixPath("x" + stem.replace("/", "_").replace("\\", "_")).name
    for record in (f"{name}.NEF", f"{name}.nef.JPG", unicodedata.normalize("NFD", f"{name}.jpg")):
        assert root(record) == root(f"{name}.NEF")
        assert claims([ImageName(record)], [(f"{name}.NEF", f"{name}.NEF")]) == [frozenset({0})]
