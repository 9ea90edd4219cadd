"""The tables of a run outlive crashes, and never mix two runs."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from genisp_model.training.records.run_log import RunLog, read_table

MEND = "free space"


@pytest.fixture
def log(tmp_path: Path) -> RunLog:
    found = RunLog(tmp_path / "steps.csv")
    for step in (1, 2, 3):
        found.append({"step": step, "loss": step / 4}, mend=MEND)
    return found


def losses(log: RunLog) -> dict[int, float]:
    return {int(row["step"]): row["loss"] for row in log.numbers()}


def test_rows_are_kept_up_to_a_step(log: RunLog) -> None:
    assert losses(log) == {1: 0.25, 2: 0.5, 3: 0.75}
    log.forget_after(2, mend=MEND)
    log.append({"step": 3, "loss": 9.0}, mend=MEND)
    assert losses(log) == {1: 0.25, 2: 0.5, 3: 9.0}
    assert log.path.read_text().splitlines()[0] == "step,loss"


@pytest.mark.parametrize("cut", range(1, 8))
def test_a_line_that_was_cut_off_is_no_row(
    log: RunLog, cut: int, caplog: pytest.LogCaptureFixture
) -> None:
    log.path.write_bytes(log.path.read_bytes()[:-cut])
    with caplog.at_level(logging.WARNING):
        RunLog(log.path).forget_after(9, mend=MEND)
    assert ("left out 1 lines" in caplog.text) == (losses(log).keys() == {1, 2})
    RunLog(log.path).append({"step": 4, "loss": 1.0}, mend=MEND)
    assert 4 in losses(log)
    assert read_table(log.path.read_bytes()).unreadable == 0


@pytest.mark.parametrize(
    "line", [b"2", b"2,", b"2,0.5,7", b"two,0.5", b"2,0.5x", b"\0\0\0", b"\xff\xfe\x00", b'"2,0.5']
)
def test_a_damaged_line_is_left_out_and_said(
    tmp_path: Path, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    log = RunLog(tmp_path / "steps.csv")
    log.path.write_bytes(b"step,loss\r\n1,0.25\r\n" + line + b"\r\n3,0.75\r\n")
    assert losses(log) == {1: 0.25, 3: 0.75}
    with caplog.at_level(logging.WARNING):
        log.forget_after(3, mend=MEND)
    assert "left out 1 lines" in caplog.text
    assert log.path.read_bytes() == b"step,loss\r\n1,0.25\r\n3,0.75\r\n"


@pytest.mark.parametrize(
    "content",
    [b"", b"\x89PNG\r\n\x1a\n\0\0", b"name,price\nbread,3\n", b"step,loss", b"step,step\n1,1\n"],
    ids=["empty", "binary", "other", "no line end", "twice"],
)
def test_what_is_no_log_is_set_aside_unharmed(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    log = RunLog(tmp_path / "steps.csv")
    log.path.write_bytes(content)
    assert log.numbers() == []
    with caplog.at_level(logging.WARNING):
        log.forget_after(3, mend=MEND)
        log.append({"step": 4, "loss": 1.0}, mend=MEND)
    assert "steps.old-1.csv" in caplog.text
    assert (tmp_path / "steps.old-1.csv").read_bytes() == content
    assert losses(log) == {4: 1.0}


def test_a_table_of_other_columns_is_not_continued(log: RunLog) -> None:
    before = log.path.read_bytes()
    other = RunLog(log.path)
    other.append({"step": 4, "loss": 1.0, "gain": 2.0}, mend=MEND)
    assert log.path.with_name("steps.old-1.csv").read_bytes() == before
    assert other.numbers() == [{"step": 4.0, "loss": 1.0, "gain": 2.0}]


def test_a_folder_in_its_place_is_set_aside(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "steps.csv")
    (log.path / "inside").mkdir(parents=True)
    assert log.numbers() == []
    log.append({"step": 1, "loss": 0.5}, mend=MEND)
    assert losses(log) == {1: 0.5}
    assert (tmp_path / "steps.old-1.csv" / "inside").is_dir()
