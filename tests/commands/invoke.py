"""Runs commands as users do: in this process, or in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner, Result

from cli import genisp, prep


def run(*arguments: object, env: dict[str, str] | None = None) -> Result:
    """``prep`` with these arguments."""
    return CliRunner().invoke(prep, [str(argument) for argument in arguments], env=env)


def train(*arguments: object) -> Result:
    """``genisp train`` with these arguments."""
    return CliRunner().invoke(genisp, ["train", *(str(argument) for argument in arguments)])


def shell(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command as a user would, in an empty folder, with output piped."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "cli", *map(str, command)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
