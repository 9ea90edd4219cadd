"""Progress for a person at a terminal: one live bar, failures above it."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from pipeline.console.progress import Pace, error_text, finding_text, is_said
from schemas.finding import Finding, Severity
from schemas.sidecar import Sidecar

_COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.INFO: "cyan"}


class TerminalReporter:
    """A live line with rate, MB/s, ETA and failures; goes to stderr like all progress."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._pace = Pace()
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def stage(self, name: str, total: int, total_bytes: int = 0) -> None:
        self.close()
        self._pace = Pace(name, total, total_bytes)
        if total == 0:
            return
        self._progress = Progress(
            BarColumn(bar_width=30),
            TextColumn("{task.description}"),
            console=self._console,
            transient=True,
        )
        self._task = self._progress.add_task(self._pace.line(), total=total)
        self._progress.start()

    def step(self, nbytes: int = 0, *, failed: bool = False) -> None:
        self._pace.add(nbytes, failed=failed)
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, advance=1, description=self._pace.line())

    def sample(self, sidecar: Sidecar) -> None:
        pass

    def error(self, code: str, path: str, message: str, mend: str) -> None:
        self._print(error_text(path, message, mend), "red")

    def finding(self, finding: Finding) -> None:
        if not self._quiet or is_said(finding):
            self._print(finding_text(finding), _COLOURS[finding.severity])

    def _print(self, text: str, colour: str) -> None:
        # As Text, so that rich takes nothing in a name for markup, an emoji code or a number.
        self._console.print(Text(text, style=colour), soft_wrap=True)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
