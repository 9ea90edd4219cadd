"""What must travel to a GPU machine is complete, and what is missing there is named first."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path
from zipfile import ZipFile

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from scripts.gpu_check import packages, wheels
from scripts.gpu_check.packages import OWN, fits, lacking, name_of, wanted
from scripts.gpu_check.wheels import Wheel

ROOT = Path(__file__).resolve().parents[1]
#: What pip adds to the list by itself.
PYDANTICS = ("annotated-types", "pydantic-core", "typing-extensions", "typing-inspection")


def test_what_is_missing_is_named_before_anything_runs(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    bare = [sys.executable, "-I", "-S", "-c"]  # the standard library alone
    run = (
        f"import runpy, sys; sys.path.insert(0, {str(ROOT)!r}); "
        f"sys.argv = ['gpu_check', '--out', {str(out)!r}, *sys.argv[1:]]; "
        "runpy.run_module('scripts.gpu_check', run_name='__main__')"
    )
    for options, decoders in (([], True), (["--store=a.zarr"], False), (["--store", "a"], False)):
        done = subprocess.run([*bare, run, *options], capture_output=True, text=True, check=False)
        assert done.returncode == 2, done
        lines = done.stderr.splitlines()
        for requirement in wanted():
            asked = decoders or name_of(requirement) not in {"rawpy", "flashraw"}
            assert (f"{requirement}: not installed" in lines) == asked
        assert "mend: `make gpu-wheels`" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_package_that_is_of_no_use_is_as_good_as_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def install(name: str, version: str, *files: str) -> None:
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}")
        (folder / "RECORD").write_text("".join(f"{file},,\n" for file in files))
        for file in files:  # Python 3.12 lists those that are there, only
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).touch()

    install("fitting", "1.2.3", "fitting/__init__.py")
    install("aged", "1.9")
    install("foreign", "2.0", "foreign.cpython-399-x86_64-linux-gnu.so", "foreign.data/x.py")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "list.txt").write_text("# Some\nfitting>=1.2,<1.3\naged>=1.10\n\nforeign\nabsent\n")
    monkeypatch.setattr(packages, "LIST", tmp_path / "list.txt")
    monkeypatch.setattr(packages, "OWN", ("numpy>=2.0",))
    assert lacking() == [
        "aged>=1.10: 1.9 is installed",
        "foreign: cannot be imported: ModuleNotFoundError: No module named 'foreign'",
        "absent: not installed",
    ]


NUMBERS = st.lists(st.integers(0, 12), min_size=1, max_size=3).map(lambda n: ".".join(map(str, n)))


@settings(deadline=None)
@example(version="0", low="0", high="0.0", local="")
@given(version=NUMBERS, low=NUMBERS, high=NUMBERS, local=st.sampled_from(["", "+cu130"]))
def test_bounds_are_understood_as_pip_does(version: str, low: str, high: str, local: str) -> None:
    for bounds in (f">={low}", f">={low},<{high}", ""):
        expected = SpecifierSet(bounds).contains(version + local)
        assert fits(version + local, f"name{bounds}") == expected


def test_the_list_asks_for_the_versions_that_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = project["dependencies"] + extras["prep"] + extras["train"] + extras["dev"]
    asked = {(r := Requirement(line)).name: _lower(r) for line in lines}
    listed = {(r := Requirement(line)).name: _lower(r) for line in wanted()}
    assert {name: low for name, low in listed.items() if low} == {
        name: low for name, low in asked.items() if name in listed
    }


def _lower(requirement: Requirement) -> list[str]:
    return [one.version for one in requirement.specifier if one.operator == ">="]


def test_the_list_is_complete() -> None:
    """By what is installed here: each requirement of each is on it, or comes with torch."""
    names = {canonicalize_name(name_of(line)) for line in wanted()}
    names -= {canonicalize_name(name_of(line)) for line in OWN}
    there = [distribution(name) for name in sorted(names | {*PYDANTICS, "genisp"})]
    gathered = [Wheel.of(one.name, one.version, one.requires or ()) for one in there]
    assert wheels.lacking(gathered) == []
    for absent in ("zict", "mdurl", "pydantic-core"):
        rest = [wheel for wheel in gathered if wheel.name != absent]
        assert any(f" requires {absent}" in line for line in wheels.lacking(rest))


def test_wheels_that_lack_something_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheels, "wanted", lambda: ["first"])
    requires = [
        "second>=2",
        "third",
        "numpy>=99",
        "old; python_version < '3.12'",
        "tests; extra == 'tests'",
    ]
    metadata = "Metadata-Version: 2.1\nName: First\nVersion: 1.0\n"
    with ZipFile(tmp_path / "first.whl", "w") as archive:
        text = metadata + "".join(f"Requires-Dist: {one}\n" for one in requires)
        archive.writestr("first-1.0.dist-info/METADATA", text)
    wheel = Wheel.read(tmp_path / "first.whl")
    assert wheels.lacking([wheel, Wheel("second", "1.5", ())]) == [
        "first requires second>=2; the wheel is 1.5",
        "first requires third; there is no wheel of it",
    ]
    assert wheels.lacking([]) == ["wheels.txt requires first; there is no wheel of it"]
