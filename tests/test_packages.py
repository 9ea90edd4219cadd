"""Every package is listed in pyproject.toml: one that is not is missing in the installed wheel."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = ("schemas", "pipeline", "genisp_model", "commands")


def test_the_wheel_has_every_package_and_its_data() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    there = {
        ".".join(path.relative_to(ROOT).parts)
        for name in PRODUCT
        for path in (ROOT / name, *(ROOT / name).rglob("*"))
        if path.is_dir() and any(one.is_file() for one in path.iterdir())
    }
    assert {name for name in there if not name.endswith("__pycache__")} == set(listed["packages"])
    data = listed["package-data"]
    assert data.pop("*") == ["py.typed"]
    assert {name for name in listed["packages"] if not _has_code(name)} == set(data)


def test_every_package_says_that_it_is_typed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    for name in {package.partition(".")[0] for package in listed["packages"]}:
        assert (ROOT / name / "py.typed").is_file(), name


def test_the_oldest_torch_is_the_one_that_is_tested() -> None:
    """``make test-minimum`` takes the lower bounds of pyproject.toml."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = extras["optional-dependencies"]["train"]
    oldest = [line.replace(">=", "==") + ".*" for line in bounds if line.startswith("torch")]
    assert f"OLDEST := {' '.join(oldest)}\n" in (ROOT / "Makefile").read_text()


def _has_code(package: str) -> bool:
    return (ROOT / package.replace(".", "/") / "__init__.py").is_file()
