"""How a long run reports its progress: the calls it makes, and their plain-line and JSON forms.

The form for terminals is in `terminal`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.safe_text import json_line, visible
from schemas.events import ErrorEvent, Event, FindingEvent, SampleEvent, StatusEvent
from schemas.finding import Finding, Severity
from schemas.finding_codes import FindingCode
from schemas.sidecar import Sidecar

Print = Callable[[str], None]

#: Seconds between two status lines where there is no terminal.
STATUS_EVERY = 10.0

#: What decides about a whole run: said in any case, in one line.
_SAID = frozenset({FindingCode.FOLDER_SPLIT, FindingCode.DETECTIONS})


class Reporter(Protocol):
    """What a run calls while it goes on."""

    def stage(self, name: str, total: int, total_bytes: int = 0) -> None:
        """A stage begins: `total` steps, `total_bytes` to read."""

    def step(self, nbytes: int = 0, *, failed: bool = False) -> None:
        """One step is done."""

    def sample(self, sidecar: Sidecar) -> None:
        """A sample was committed."""

    def error(self, code: str, path: str, message: str, mend: str) -> None:
        """A source failed."""

    def finding(self, finding: Finding) -> None:
        """Something was noticed."""

    def close(self) -> None:
        """The run is over."""


@dataclass
class Pace:
    """How far a stage is, and how long it will take. Times come from the monotonic clock."""

    stage: str = ""
    total: int = 0
    total_bytes: int = 0
    done: int = 0
    failed: int = 0
    bytes_done: int = 0
    started: float = field(default_factory=time.monotonic)

    def add(self, nbytes: int, *, failed: bool) -> None:
        """Count one step."""
        self.done += 1
        self.failed += failed
        self.bytes_done += nbytes

    @property
    def seconds(self) -> float:
        """Seconds since the stage began."""
        return time.monotonic() - self.started

    @property
    def seconds_left(self) -> float | None:
        """An estimate from bytes if known, else from steps; None before the first step."""
        if not self.done:
            return None
        if self.total_bytes and self.bytes_done:
            return self.seconds * max(0, self.total_bytes - self.bytes_done) / self.bytes_done
        return self.seconds * max(0, self.total - self.done) / self.done

    def line(self) -> str:
        """``develop 120/4006  2.1 images/s  44 MB/s  ETA 0:30:51  1 failed``."""
        seconds = max(self.seconds, 1e-6)
        parts = [f"{self.stage} {self.done}/{self.total}", f"{self.done / seconds:.1f}/s"]
        if self.bytes_done:
            parts.append(f"{self.bytes_done / seconds / 1e6:.0f} MB/s")
        left = self.seconds_left
        if left is not None:
            parts.append(f"ETA {clock(left)}")
        if self.failed:
            parts.append(f"{self.failed} failed")
        return "  ".join(parts)


def clock(seconds: float) -> str:
    """``1:02:03``."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


class PlainReporter:
    """Lines for a pipe or a log: a status line every few seconds, each failure as it comes.

    Parameters
    ----------
    quiet
        Leave out findings of severity info.
    """

    def __init__(self, write: Print, *, every: float = STATUS_EVERY, quiet: bool = False) -> None:
        self._write = write
        self._quiet = quiet
        self._every = every
        self._pace = Pace()
        self._next = 0.0

    def stage(self, name: str, total: int, total_bytes: int = 0) -> None:
        self._pace = Pace(name, total, total_bytes)
        self._next = self._every

    def step(self, nbytes: int = 0, *, failed: bool = False) -> None:
        self._pace.add(nbytes, failed=failed)
        if self._pace.seconds >= self._next:
            self._next = self._pace.seconds + self._every
            self._write(self._pace.line())

    def sample(self, sidecar: Sidecar) -> None:
        pass

    def error(self, code: str, path: str, message: str, mend: str) -> None:
        self._write(error_text(path, message, mend))

    def finding(self, finding: Finding) -> None:
        if not self._quiet or is_said(finding):
            self._write(finding_text(finding))

    def close(self) -> None:
        pass


class JsonReporter:
    """One JSON object a line."""

    def __init__(self, write: Print, *, every: float = STATUS_EVERY) -> None:
        self._write = write
        self._every = every
        self._pace = Pace()
        self._next = 0.0

    def emit(self, event: Event) -> None:
        """Write any event."""
        self._write(json_line(event))

    def stage(self, name: str, total: int, total_bytes: int = 0) -> None:
        self._pace = Pace(name, total, total_bytes)
        self._next = self._every

    def step(self, nbytes: int = 0, *, failed: bool = False) -> None:
        pace = self._pace
        pace.add(nbytes, failed=failed)
        if pace.seconds >= self._next:
            self._next = pace.seconds + self._every
            self.emit(
                StatusEvent(
                    stage=pace.stage,
                    done=pace.done,
                    total=pace.total,
                    failed=pace.failed,
                    bytes_done=pace.bytes_done,
                    seconds=pace.seconds,
                    seconds_left=pace.seconds_left,
                )
            )

    def sample(self, sidecar: Sidecar) -> None:
        self.emit(
            SampleEvent(
                id=sidecar.id,
                group=sidecar.group,
                row=sidecar.row,
                split=sidecar.split,
                source=sidecar.source.name,
                decoder=sidecar.decoder.name,
            )
        )

    def error(self, code: str, path: str, message: str, mend: str) -> None:
        self.emit(ErrorEvent(code=code, path=path, message=message, mend=mend))

    def finding(self, finding: Finding) -> None:
        self.emit(FindingEvent(finding=finding))

    def close(self) -> None:
        pass


def error_text(path: str, message: str, mend: str) -> str:
    """``error: FILE: what`` and the mend on a line of its own."""
    return _with_mend(f"error: {path}: {message}" if path else f"error: {message}", mend)


def is_said(finding: Finding) -> bool:
    """Whether a finding is shown where only what matters is."""
    return finding.severity is not Severity.INFO or finding.code in _SAID


def finding_text(finding: Finding) -> str:
    """The same form for findings, led by their severity."""
    text = f"{finding.severity.value}: {finding.where}: {finding.message}"
    return _with_mend(text, finding.mend)


def _with_mend(text: str, mend: str) -> str:
    return f"{visible(text)}\n  mend: {visible(mend)}" if mend else visible(text)
