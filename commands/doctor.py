"""``prep doctor``: what is missing in this installation."""

from __future__ import annotations

from pathlib import Path

from commands.exits import command
from commands.options import json_option
from commands.output import show
from schemas.exit_code import ExitCode


@command(example="prep doctor")
@json_option
def doctor(json: bool) -> ExitCode:
    """Look at this installation and say what is missing."""
    from pipeline.doctor import diagnose

    report = diagnose(Path.cwd())
    show(report, "doctor", json)
    missing = any("to train" not in problem for problem in report.problems)
    return ExitCode.FAILED if missing else ExitCode.DONE
