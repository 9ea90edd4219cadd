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
