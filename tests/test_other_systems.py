"""What differs from an ordinary Linux: functions that are missing, ``python -O``, the locale C."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.kit.places import ROOT
from tests.kit.small_raws import write_small_raw
from tests.kit.trees import chunks, tree

#: Takes away what a system lacks, then runs ``prep``. Libraries are imported before that: on that
#: system they are other builds.
LACKING = """
import importlib, os, signal, sys
names, modules, *arguments = sys.argv[1:]
for name in ("numpy", "numba", "zarr", "rawpy", "flashraw", "fsspec.implementations.local"):
    importlib.import_module(name)
for name in names.split(","):
    for module in (os, signal):
        vars(module).pop(name, None)
for name in filter(None, modules.split(",")):
    sys.modules[name] = None
from cli import prep
prep(arguments, prog_name="prep")
"""
MACOS = ("sched_getaffinity,sched_setaffinity,posix_fadvise,posix_fallocate,copy_file_range", "")
WINDOWS = (
    f"{MACOS[0]},sysconf,getuid,geteuid,fork,getloadavg,O_NONBLOCK,pread,setsid,killpg,uname,"
    "pthread_sigmask,SIGHUP,SIGKILL,SIGUSR1,SIGALRM",
    "fcntl,resource,pwd,grp,termios",
)

LOCALE_C = {
    "LC_ALL": "C",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONUTF8": "0",
    "PYTHONIOENCODING": "ascii",
}


def run(
    *arguments: object, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, **(environment or {})},
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        errors="backslashreplace",
        check=False,
    )


def prep(
    *arguments: object, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return run("-m", "cli", *arguments, environment=environment)


@pytest.mark.parametrize(("names", "modules"), [MACOS, WINDOWS], ids=["macOS", "Windows"])
def test_a_store_is_verified_where_functions_of_linux_are_missing(
    names: str, modules: str, nod: Path, store_path: Path
) -> None:
    done = run(
        "-c", LACKING, names, modules, "verify", store_path, "--sources", nod, "--workers", 0
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert "6 derived again" in done.stdout
    assert run("-c", LACKING, names, modules, "doctor").returncode == 0


def test_the_default_number_of_workers_needs_no_affinity(nod: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    done = run("-c", LACKING, *MACOS, "ingest", nod, "--store", store, "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    done = run("-c", LACKING, *MACOS, "ingest", nod, "--store", store, "--workers", 0)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_ingest_without_file_locks_says_so(nod: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    done = run("-c", LACKING, *WINDOWS, "ingest", nod, "--store", store, "--workers", 0)
    assert done.returncode == 1
    assert "no POSIX file locks" in done.stderr
    assert "mend: write it on Linux or macOS" in done.stderr
    assert "Traceback" not in done.stderr


def test_python_o_writes_the_same_store(nod: Path, store_path: Path, tmp_path: Path) -> None:
    optimised, optimise = tmp_path / "o.zarr", {"PYTHONOPTIMIZE": "1"}
    done = prep("ingest", nod, "--store", optimised, "--workers", 0, environment=optimise)
    assert (done.returncode, done.stderr) == (0, "")
    assert chunks(optimised) == chunks(store_path)
    assert (optimised / "zarr.json").read_bytes() == (store_path / "zarr.json").read_bytes()
    done = prep("verify", optimised, "--sources", nod, "--workers", 0, environment=optimise)
    assert done.returncode == 0, done.stderr


def test_commands_work_without_docstrings(store_path: Path) -> None:
    optimise = {"PYTHONOPTIMIZE": "2"}
    assert "--store" in prep("ingest", "--help", environment=optimise).stdout
    assert prep("verify", store_path, environment=optimise).returncode == 0


def test_python_o_refuses_what_is_refused_without(tmp_path: Path) -> None:
    raws = tmp_path / "raws"
    raws.mkdir()
    (raws / "cut.NEF").write_bytes(b"II*\0\x08\0\0\0\xff\xff")
    (raws / "text.NEF").write_bytes(b"no raw, but a text\n" * 9)
    (raws / "train.json").write_text('{"images": [{"id": 1}], "annotations": [], "categories": []}')
    said = [
        prep("ingest", raws, "--store", tmp_path / f"{level}.zarr", "--workers", 0,
             environment={"PYTHONOPTIMIZE": level}).stderr
        for level in ("", "1")
    ]  # fmt: skip
    assert said[0] == said[1]
    assert "this is a text" in said[0]


def strange_raws(folder: Path) -> list[bytes]:
    names = ["größe/DSC_ü1.NEF".encode(), "写真2.NEF".encode(), b"DSC_\xff3.NEF"]
    for number, name in enumerate(names):
        drawn = folder / f"drawn{number}.NEF"
        write_small_raw(drawn, np.random.default_rng(number))
        place = os.path.join(os.fsencode(folder), name)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        os.rename(os.fsencode(drawn), place)
    (folder / "train.json").write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "DSC_ü1.NEF", "width": 48, "height": 32}],
                "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 9, 9]}],
                "categories": [{"id": 1, "name": "person"}],
            },
            ensure_ascii=False,
        ),
        encoding="utf-8",
    )
    return names


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes, the locale C: Linux")
def test_names_and_boxes_are_the_same_in_the_locale_c(tmp_path: Path) -> None:
    raws = tmp_path / "größte"
    raws.mkdir()
    strange_raws(raws)
    utf8 = {"LC_ALL": "C.UTF-8"}
    here, there = tmp_path / "hier ö.zarr", tmp_path / "dort ö.zarr"
    for store, environment in ((here, utf8), (there, LOCALE_C)):
        done = prep("ingest", raws, "--store", store, "--workers", 0, environment=environment)
        assert (done.returncode, done.stderr) == (0, ""), environment
    assert tree(there) == tree(here)
    for environment in (LOCALE_C, utf8):
        done = prep("ingest", raws, "--store", there, "--workers", 0, environment=environment)
        assert "up to date (3 samples)" in done.stdout
        done = prep("verify", there, "--sources", raws, "--workers", 0, environment=environment)
        assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes, the locale C: Linux")
@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_messages_about_strange_names_are_lines_not_tracebacks(
    flags: tuple[str, ...], tmp_path: Path
) -> None:
    raws = tmp_path / "größte"
    raws.mkdir()
    for name in strange_raws(raws):
        with open(os.path.join(os.fsencode(raws), name), "wb") as file:
            file.write(b"no raw, but a text\n" * 9)
    store = tmp_path / "ö.zarr"
    for arguments, code in (
        (("ingest", raws, "--store", store, "--workers", 0, *flags), 3),
        (("ingest", f"{raws}/fehlt ü", "--store", store, *flags), 2),
        (("verify", f"{raws}/fehlt ü.zarr", *flags), 10),
        (("info", f"{raws}/fehlt ü.zarr", *flags), 10),
    ):
        done = prep(*arguments, environment=LOCALE_C)
        assert done.returncode == code
        assert "Traceback" not in done.stderr
        said = done.stdout if flags else done.stderr
        assert said.count("this is a text, no camera raw") == (3 if code == 3 else 0)
        assert "mend" in said
