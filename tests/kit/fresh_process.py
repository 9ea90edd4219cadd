"""A fresh interpreter: what a module imports, or a crash, is only seen there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.kit.places import ROOT


def run_python(
    code: str, *arguments: str | Path, environment: Mapping[str, str] | None = None
) -> str:
    """Run `code` at the project's root with ``sys.argv[1:]`` and more environment; its output.

    Fails where it ends in an error or by a signal, or writes anything to stderr.
    """
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, **(environment or {})},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout
