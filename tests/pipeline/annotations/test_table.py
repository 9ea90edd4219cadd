"""The table of readers, and one added to it as docs/how-to/new-annotation-format.md describes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.annotations import table
from pipeline.annotations.coco_file import CocoReader
from pipeline.annotations.table import READERS, annotation_suffixes, reader_of
from pipeline.ingest.inputs import gather
from tests.pipeline.annotations.lines_reader import LinesReader

LINES = """\
A.ARW 100 60 person 1 2 30 4
B.ARW 100 60 dog 5 5 10 10
A.ARW 100 60 car 40 2 30 90
"""
COCO = {
    "images": [{"id": 1, "file_name": "C.ARW", "width": 100, "height": 60}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4]}],
    "categories": [{"id": 2, "name": "bicycle"}],
}


@pytest.fixture
def with_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one line that a new format takes."""
    monkeypatch.setattr(table, "READERS", (LinesReader(), *READERS))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("A.ARW", "B.ARW", "C.ARW"):
        (tmp_path / name).write_bytes(b"raw")
    (tmp_path / "first_train.boxes").write_text(LINES)
    (tmp_path / "second_val.json").write_text(json.dumps(COCO))
    return tmp_path


@pytest.mark.usefixtures("with_lines")
def test_a_new_format_is_found_beside_the_raws_and_gives_their_boxes(folder: Path) -> None:
    inputs = gather([str(folder)], [], [])
    assert inputs.problems == ()
    assert [raw.name for raw in inputs.raws] == ["A.ARW", "B.ARW", "C.ARW"]
    (a,), (b,), (c,) = (inputs.index.lookup(f"{name}.ARW") for name in "ABC")
    assert (a.file, a.split, a.size) == ("first_train.boxes", "train", (100, 60))
    assert [(box.category, box.bbox) for box in a.boxes] == [
        ("person", (1, 2, 30, 4)),
        ("car", (40, 2, 30, 90)),
    ]
    assert [[finding.code for finding in box.findings] for box in a.boxes] == [
        [],
        ["partly-outside"],
    ]
    assert [(box.category, box.trainable) for box in b.boxes] == [("dog", True)]
    assert (c.split, [box.category for box in c.boxes]) == ("val", ["bicycle"])


def test_without_its_reader_a_format_is_not_an_annotation_file(folder: Path) -> None:
    index = gather([str(folder)], [], []).index
    assert [len(index.lookup(f"{name}.ARW")) for name in "ABC"] == [0, 0, 1]


def test_what_nobody_recognises_is_read_as_coco_only_if_the_user_names_it() -> None:
    other = b'{"a": 1}'
    assert reader_of(other, "a.json", is_named=False) is None
    assert isinstance(reader_of(other, "a.json", is_named=True), CocoReader)
    assert isinstance(reader_of(b'{"images": [', "a.json", is_named=False), CocoReader)
    assert annotation_suffixes() == {".json", ".xml", ".txt", ".names", ".yaml", ".yml"}
