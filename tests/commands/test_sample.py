from __future__ import annotations

from pathlib import Path

from tests.commands.invoke import run
from tests.kit.trees import tree


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
