"""What a run says of the machine: git and the operating system are asked, and may be silent."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from genisp_model.training.records.environment import driver_version, environment, source_state


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    root = tmp_path / "checkout"
    (root / "packages").mkdir(parents=True)
    (root / "code.py").write_text("one")
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    for words in (("init", "-q"), ("add", "code.py"), (*who, "commit", "-q", "-m", "one")):
        subprocess.run(["git", "-C", str(root), *words], check=True, capture_output=True)
    return root


def test_commit_and_changes_of_a_checkout_are_told(checkout: Path) -> None:
    clean = source_state(checkout)
    head = (checkout / ".git" / "HEAD").read_text().removeprefix("ref: ").strip()
    assert clean == {
        "git_commit": (checkout / ".git" / head).read_text().strip(),
        "git_dirty": False,
    }
    (checkout / "notes.txt").write_text("not the project's")
    assert source_state(checkout) == clean
    (checkout / "code.py").write_text("two")
    assert source_state(checkout) == clean | {"git_dirty": True}


def test_another_checkout_is_not_taken_for_ours(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert source_state(checkout / "packages") == {}
    before = source_state(checkout)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert source_state(checkout) == before


def test_without_git_or_with_a_broken_checkout_nothing_is_told(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / ".git").write_text("gitdir: /nowhere")
    assert source_state(tmp_path / "broken") == {}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert source_state(checkout) == {}


def test_an_environment_is_json_without_empty_entries() -> None:
    found = environment(torch.device("cpu"))
    assert json.loads(json.dumps(found)) == found
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"command", "python", "torchvision", "numpy", "zarr", "system", "device"} <= set(found)
    assert not [name for name, value in found.items() if value in (None, "")]
    assert "gpus" not in found


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 2023\nGCC",
            "535.104.05",
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release",
            "570.86.15",
        ),
        ("NVRM version: none", ""),
        ("", ""),
    ],
)
def test_the_driver_is_what_its_kernel_module_says(text: str, version: str) -> None:
    assert driver_version(text) == version
