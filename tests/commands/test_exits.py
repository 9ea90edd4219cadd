from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from schemas.events import (
    ErrorEvent,
)
from tests.commands.invoke import run, train


@pytest.mark.parametrize(
    "arguments",
    [
        ["ingest"],
        ["ingest", "nowhere"],
        ["ingest", ".", "--fit", "huge"],
        ["ingest", ".", "--levels", "packed,tiny"],
        ["ingest", ".", "--split", "val"],
        ["ingest", ".", "--workers", "-1"],
        ["ingest", ".", "--annotations", "nowhere.json"],
        ["verify", "--what"],
        ["frobnicate"],
    ],
)
def test_wrong_usage_is_2(
    arguments: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr
    assert not list(tmp_path.iterdir())


def test_no_store_is_10(tmp_path: Path) -> None:
    for command in ("verify", "info"):
        result = run(command, tmp_path / "missing.zarr")
        assert result.exit_code == 10
        assert "missing.zarr" in result.stderr
        assert run(command, tmp_path).exit_code == 10


def test_an_error_that_stops_a_json_command_is_json_too(tmp_path: Path) -> None:
    env = {"PREP_INFO_JSON": "1"}
    for result in (
        run("info", tmp_path / "nowhere", env=env),
        run("verify", tmp_path / "nowhere", "--json"),
    ):
        assert result.exit_code == 10
        event = ErrorEvent.model_validate_json(result.stdout)
        assert "nowhere" in event.path
        assert event.mend
        assert result.stderr == ""


def test_too_little_memory_to_load_a_library_is_told_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unloadable(*_: object, **__: object) -> None:
        raise ImportError("_flashraw.so: failed to map segment from shared object")

    monkeypatch.setattr("pipeline.ingest.run_ingest", unloadable)
    result = run("ingest", tmp_path)
    assert result.exit_code == 1
    assert "error: not enough memory\n  mend: free memory" in result.output


def test_a_module_that_is_missing_stays_a_mistake_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ImportError("no module named nothing")

    monkeypatch.setattr("pipeline.ingest.run_ingest", missing)
    assert isinstance(run("ingest", tmp_path).exception, ImportError)


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device", "x"),
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"
        ),
    ],
)
def test_the_trainers_commands_do_not_promise_to_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("genisp_model.training.run.run_training", fail)
    monkeypatch.setattr("pipeline.ingest.run_ingest", fail)
    result = train("--output-dir", tmp_path / "run")
    assert result.exit_code == 1
    assert "then run the same command\n" in result.stderr
    assert "--workers" not in result.stderr
    assert "then run the same command: it continues" in run("ingest", tmp_path).stderr
