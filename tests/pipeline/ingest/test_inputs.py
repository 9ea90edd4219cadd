from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pipeline.annotations.reader import MAX_FILE_BYTES
from pipeline.errors import UsageError
from pipeline.ingest.inputs import gather

COCO = json.dumps({"images": [], "annotations": [], "categories": []})


@pytest.fixture
def raws(tmp_path: Path) -> Path:
    (tmp_path / "raws").mkdir()
    (tmp_path / "raws" / "A.ARW").write_bytes(b"raw")
    return tmp_path / "raws"


def test_a_named_annotation_file_is_read_whatever_its_suffix(raws: Path, tmp_path: Path) -> None:
    (tmp_path / "boxes.txt").write_text(COCO)
    found = gather([str(raws)], [str(tmp_path / "boxes.txt")], [])
    assert found.problems == ()
    with pytest.raises(UsageError, match="no annotation file there"):
        gather([str(raws)], [str(raws)], [])


def test_a_named_annotation_file_that_is_a_pipe_is_wrong_usage(raws: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(UsageError, match="found a pipe"):
        gather([str(raws)], [str(tmp_path / "pipe.json")], [])


def test_a_file_too_large_is_refused_before_it_is_read(raws: Path) -> None:
    with (raws / "huge.json").open("wb") as file:
        file.truncate(1 << 40)
    ((name, error),) = gather([str(raws)], [], []).problems
    assert name == "huge.json"
    assert f"more than {MAX_FILE_BYTES:,} are not read" in error.message
    assert "Split it" in error.mend


def annotated(name: str) -> str:
    image = {"id": 1, "file_name": name, "width": 48, "height": 32}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 9, 9]}
    return json.dumps({"images": [image], "annotations": [box], "categories": []})


@pytest.mark.parametrize("root", [".", "train"])
def test_folders_name_the_splits_and_one_line_says_so(tmp_path: Path, root: str) -> None:
    for folder in ("train", "valid", "test"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{folder}.NEF").write_bytes(b"raw")
        text = annotated(f"{folder}.NEF")
        (tmp_path / folder / "_annotations.coco.json").write_text(text)
    found = gather([str(tmp_path / root)], [], [])
    splits = [image.split for raw in found.raws for image in found.index.lookup(raw.name)]
    assert splits == (["test", "train", "val"] if root == "." else ["train"])
    (line,) = found.findings
    assert line.code == "folder-split"
    said = ", ".join(f"1 {split}" for split in splits)
    assert line.message.endswith(said)
    assert all(finding.code != "no-split" for finding in found.index.findings)


def test_a_files_own_name_and_the_user_come_before_folders(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "A.NEF").write_bytes(b"raw")
    own = tmp_path / "train" / "boxes_val.json"
    own.write_text(annotated("A.NEF"))
    assert gather([str(tmp_path)], [], []).index.lookup("A.NEF")[0].split == "val"
    plain = own.rename(tmp_path / "train" / "boxes.json")
    found = gather([str(tmp_path)], [], [("extra", str(plain))])
    assert found.index.lookup("A.NEF")[0].split == "extra"
    assert found.findings == ()


def test_detections_beside_raws_are_passed_over_with_a_line_and_refused_if_named(
    raws: Path,
) -> None:
    results = raws / "results.json"
    results.write_text(json.dumps([{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]))
    found = gather([str(raws)], [], [])
    assert found.problems == ()
    assert [(one.code, one.where) for one in found.findings] == [("detections", "results.json")]
    ((_, error),) = gather([str(raws)], [str(results)], []).problems
    assert "what a detector found" in error.message
