from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.commands.invoke import run, shell


def test_failed_sources_are_3_and_listed_with_reason(nod: Path, tmp_path: Path) -> None:
    victim = next((nod / "Sony").glob("*.ARW"))
    victim.write_bytes(victim.read_bytes()[:5000])
    result = run("ingest", nod, "--store", tmp_path / "s.zarr", "--workers", 0)
    assert result.exit_code == 3
    assert f"error: Sony/{victim.name}: " in result.stderr
    assert "  mend: " in result.stderr


def test_a_locked_store_is_11(nod: Path, store_path: Path) -> None:
    from pipeline.store.local.files import LocalFiles

    hold = "import sys; sys.path.insert(0, sys.argv[2])\n" + (
        "from pathlib import Path; from pipeline.store.local.files import LocalFiles; import time\n"
        "with LocalFiles(Path(sys.argv[1])).lock(): print('held', flush=True); time.sleep(60)"
    )
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(store_path), root], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        result = run("ingest", nod, "--store", store_path, "--workers", 0)
        holder.kill()
    assert result.exit_code == 11
    assert str(holder.pid) in result.stderr
    assert LocalFiles(store_path).get("zarr.json")


def test_another_recipe_is_12(nod: Path, store_path: Path) -> None:
    result = run("ingest", nod, "--store", store_path, "--colour", "camera")
    assert result.exit_code == 12
    assert "colour xyz" in result.stderr
    assert "colour camera" in result.stderr


def test_categories_are_part_of_the_recipe(nod: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    first = ("ingest", nod, "--store", store, "--fit", "96x64", "--workers", 0)
    mapped = (*first, "--category", "Car=vehicle", "--category", "lorry=vehicle")
    result = run(*mapped)
    assert result.exit_code == 0, result.output
    assert "no box is called 'lorry'" in result.stderr
    assert "category car=vehicle, category lorry=vehicle" in run("info", store).stdout
    assert json.loads(run("info", store, "--json").stdout)["classes"]["vehicle"] > 0
    assert run(*mapped).exit_code == 0
    assert run(*first).exit_code == 12
    for wrong in ("car", "=car", "car=", "car=a"):
        twice = run(*first, "--category", wrong, "--category", "car=b")
        assert twice.exit_code == 2, twice.output


def test_an_interrupt_is_130_and_says_how_to_go_on(tmp_path: Path) -> None:
    assert shell("sample", "nod", "--images", "12", cwd=tmp_path).returncode == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "ingest", "nod", "--workers", "1"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
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
