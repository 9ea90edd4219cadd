"""Compiled functions are kept on disk, and never longer than their sources stay as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit.fresh_process import run_python

INNER = """
from pipeline.runtime.compiled import compiled

@compiled()
def inner(x):
    return x + {step}
"""
OUTER = """
from pipeline.runtime.compiled import compiled
from inner import inner

@compiled()
def outer(x):
    return inner(x) * 10
"""


def outer_of_one(folder: Path) -> str:
    """What ``outer(1)`` gives in a process of its own, and how often it came from the disk."""
    code = "from outer import outer; print(outer(1), sum(outer.stats.cache_hits.values()))"
    environment = {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    return run_python(code, environment=environment).strip()


def test_a_change_in_a_file_that_is_called_into_is_noticed(tmp_path: Path) -> None:
    """numba looks at the file of the caller only, and would answer with the old code."""
    (tmp_path / "outer.py").write_text(OUTER)
    (tmp_path / "inner.py").write_text(INNER.format(step=1))
    assert outer_of_one(tmp_path) == "20 0"
    assert outer_of_one(tmp_path) == "20 1"
    (tmp_path / "inner.py").write_text(INNER.format(step=20))
    assert outer_of_one(tmp_path) == "210 0"


@pytest.mark.parametrize("content", [b"", b"\x80\x05garbage", b"\0" * 4096])
def test_a_damaged_cache_is_no_reason_not_to_compute(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "outer.py").write_text(OUTER)
    (tmp_path / "inner.py").write_text(INNER.format(step=1))
    outer_of_one(tmp_path)
    kept = [*tmp_path.rglob("*.nbi"), *tmp_path.rglob("*.nbc")]
    assert kept
    for path in kept:
        path.write_bytes(content)
    assert outer_of_one(tmp_path) == "20 0"
