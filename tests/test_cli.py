from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from pydantic import TypeAdapter

from cli import genisp, prep
from schemas.events import (
    ErrorEvent,
    FindingEvent,
    IngestSummary,
    PlanEvent,
    SampleEvent,
    StatusEvent,
    VerifySummary,
)
from schemas.info import DoctorReport, StoreInfo
from tests.kit.fresh_process import run_python
from tests.kit.trees import tree

AnyEvent: TypeAdapter[object] = TypeAdapter(
    ErrorEvent
    | FindingEvent
    | SampleEvent
    | StatusEvent
    | PlanEvent
    | IngestSummary
    | VerifySummary
)


def run(*arguments: object, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(prep, [str(argument) for argument in arguments], env=env)


def shell(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command as a user would, in an empty folder, with output piped."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "cli", *map(str, command)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
    )


def test_the_three_commands_of_the_readme(tmp_path: Path) -> None:
    for command in (
        ["sample", "nod", "--images", "4"],
        ["ingest", "nod"],
        ["verify"],
        ["info"],
    ):
        done = shell(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
    assert "4 samples" in done.stdout


def test_a_damaged_store_is_4_and_names_the_sample(store_path: Path) -> None:
    sidecar = json.loads(next(store_path.glob("sony*/sidecars/DSC01088.json")).read_text())
    chunk = store_path / sidecar["group"] / "packed" / f"c.{sidecar['row']}.0.0.0"
    data = bytearray(chunk.read_bytes())
    data[99] ^= 16
    chunk.write_bytes(data)
    result = run("verify", store_path)
    assert result.exit_code == 4
    assert "DSC01088" in result.stderr
    assert "prep ingest" in result.stderr
    assert "NOT whole" in result.stdout


def test_failed_sources_are_3_and_listed_with_reason(nod: Path, tmp_path: Path) -> None:
    victim = next((nod / "Sony").glob("*.ARW"))
    victim.write_bytes(victim.read_bytes()[:5000])
    result = run("ingest", nod, "--store", tmp_path / "s.zarr", "--workers", 0)
    assert result.exit_code == 3
    assert f"error: Sony/{victim.name}: " in result.stderr
    assert "  mend: " in result.stderr


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


def test_a_locked_store_is_11(nod: Path, store_path: Path) -> None:
    from pipeline.store.files import StoreFiles

    hold = "import sys; sys.path.insert(0, sys.argv[2])\n" + (
        "from pathlib import Path; from pipeline.store.files import StoreFiles; import time\n"
        "with StoreFiles(Path(sys.argv[1])).lock(): print('held', flush=True); time.sleep(60)"
    )
    root = str(Path(__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(store_path), root], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        result = run("ingest", nod, "--store", store_path, "--workers", 0)
        holder.kill()
    assert result.exit_code == 11
    assert str(holder.pid) in result.stderr
    assert StoreFiles(store_path).get("zarr.json")


def test_another_recipe_is_12(nod: Path, store_path: Path) -> None:
    result = run("ingest", nod, "--store", store_path, "--colour", "camera")
    assert result.exit_code == 12
    assert "colour xyz" in result.stderr
    assert "colour camera" in result.stderr


def test_an_interrupt_is_130_and_says_how_to_go_on(tmp_path: Path) -> None:
    assert shell("sample", "nod", "--images", "12", cwd=tmp_path).returncode == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "ingest", "nod", "--workers", "1"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not list(tmp_path.glob("data.zarr/*/sidecars/*.json")):
        assert process.poll() is None
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate()
    assert process.returncode == 130
    assert "run the same command again" in out
    assert shell("ingest", "nod", "--workers", "0", cwd=tmp_path).returncode == 0
    assert shell("verify", "--strict", cwd=tmp_path).returncode == 0


def test_json_lines_follow_the_schema(nod: Path, tmp_path: Path) -> None:
    next((nod / "Nikon").glob("*.NEF")).write_bytes(b"not a raw")
    store = tmp_path / "s.zarr"
    outputs = [
        run("ingest", nod, "--store", store, "--json", "--dry-run"),
        run("ingest", nod, "--store", store, "--json", "--workers", 0),
        run("verify", store, "--json"),
    ]
    assert [result.exit_code for result in outputs] == [0, 3, 0]
    events = [AnyEvent.validate_json(line) for o in outputs for line in o.stdout.splitlines()]
    kinds = {type(event) for event in events}
    assert {PlanEvent, SampleEvent, ErrorEvent, IngestSummary, VerifySummary} <= kinds
    assert all(result.stderr == "" for result in outputs)
    StoreInfo.model_validate_json(run("info", store, "--json").stdout)
    DoctorReport.model_validate_json(run("doctor", "--json").stdout)


def test_a_dry_run_prints_a_table_and_writes_nothing(nod: Path, tmp_path: Path) -> None:
    result = run("ingest", nod, "--store", tmp_path / "s.zarr", "--dry-run")
    assert result.exit_code == 0
    assert "6  new" in result.stdout
    assert not (tmp_path / "s.zarr").exists()


def test_options_come_from_the_environment_too(nod: Path, tmp_path: Path) -> None:
    store = tmp_path / "env.zarr"
    env = {"PREP_INGEST_STORE": str(store), "PREP_INGEST_WORKERS": "0"}
    assert run("ingest", nod, env=env).exit_code == 0
    assert (store / "zarr.json").exists()
    elsewhere = tmp_path / "cli.zarr"
    assert run("ingest", nod, "--store", elsewhere, env=env).exit_code == 0
    assert (elsewhere / "zarr.json").exists(), "the command line comes before the environment"


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


def test_verify_says_how_deep_it_looked(nod: Path, store_path: Path) -> None:
    assert "12 chunks" in run("verify", store_path).stdout
    quick = run("verify", store_path, "--quick").stdout
    assert quick.startswith("the structure of ")
    assert "chunks not read" in quick
    derived = run("verify", store_path, "--sources", nod / "Sony", "--workers", 0)
    assert "3 derived again from their raws" in derived.stdout
    assert "3 of 6 samples have no raw here" in derived.stderr
    (nod / "empty").mkdir()
    nothing = run("verify", store_path, "--sources", nod / "empty", "--strict", "--workers", 0)
    assert nothing.exit_code == 4


def test_the_same_seed_draws_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        assert run("sample", tmp_path / name, "--images", 2, "--seed", seed).exit_code == 0
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert tree(tmp_path / "a") != tree(tmp_path / "c")


def test_a_sample_set_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    assert run("sample", tmp_path / "full").exit_code == 2
    assert tree(tmp_path / "full") == {"mine": b"x"}


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom cli import prep\n"
        "try: prep(sys.argv[1:], prog_name='prep')\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'zarr', 'dask', 'distributed', 'rawpy', 'flashraw', 'numba',"
        " 'numpy') if m in sys.modules])"
    )
    for arguments in (["--help"], ["ingest", "--help"], ["verify", "--help"], ["--version"]):
        assert run_python(code, *arguments).splitlines()[-1] == "[]"


def test_every_help_has_an_example_and_the_exit_codes() -> None:
    for name in prep.commands:
        text = run(name, "--help").stdout
        assert "Example: prep " in text, name
        assert "130  interrupted" in text, name


def test_a_closed_pipe_is_no_error(store_path: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m cli info {store_path} | true; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.stderr == ""


def train(*arguments: object) -> Result:
    return CliRunner().invoke(genisp, ["train", *(str(argument) for argument in arguments)])


QUICK = ("--detector", "sample_retinanet", "--detector-weights", "none", "--val-split", "")


def test_train_runs_stops_and_resumes(nod: Path, tmp_path: Path) -> None:
    store, folder = tmp_path / "s.zarr", tmp_path / "run"
    assert run("ingest", nod, "--store", store, "--fit", "96x64", "--workers", 0).exit_code == 0
    options = ("--store", store, "--output-dir", folder, "--epochs", 2, "-b", 2, *QUICK)
    first = train(*options, "--limit-steps", 1)
    assert first.exit_code == 0, first.output
    assert "step 1  loss" in first.stdout
    again = train(*options)
    assert again.exit_code == 2
    assert "--resume" in again.stderr
    rest = train(*options, "--resume")
    assert rest.exit_code == 0, rest.output
    assert "continuing after step 1" in rest.stdout
    other = train(*options, "--resume", "--lr", 0.1)
    assert other.exit_code == 1
    assert "lr: 0.001 against 0.1" in other.stderr


def test_train_names_what_is_missing(store_path: Path, tmp_path: Path) -> None:
    missing = train("--store", tmp_path / "nowhere.zarr")
    assert missing.exit_code == 10
    split = train("--store", store_path, "--split", "holdout", "--output-dir", tmp_path, *QUICK)
    assert split.exit_code == 2
    assert "splits here" in split.stderr


def test_train_without_weights_says_which_file_and_where(
    store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import urllib.request

    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(urllib.request, "urlopen", offline)
    result = train("--store", store_path, "--output-dir", tmp_path / "run")
    assert result.exit_code != 0
    assert "retinanet_resnet50_fpn_v2_coco" in result.stderr
    assert "--detector-weights" in result.stderr


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
