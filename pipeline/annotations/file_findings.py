"""What is noticed about one annotation file while it is read: named one by one, up to a point."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from pipeline.annotations.columns import base_name
from pipeline.errors import AnnotationError
from schemas.finding import Finding, Severity
from schemas.finding_codes import FindingCode

MAX_NAMED: Final = 100
"""Findings of one kind that are listed; the others are counted."""

MAX_BROKEN: Final = 100_000
"""Records that cannot be used, after which the file is broken as a whole."""


class Notes:
    """Findings of one file.

    Attributes
    ----------
    refused
        ``file_name`` of an image, folders included -> why its record cannot be used.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.refused: dict[str, Finding] = {}
        self._findings: list[Finding] = []
        self._counts: Counter[FindingCode] = Counter()
        self._more: dict[FindingCode, Finding] = {}

    def add(
        self, code: FindingCode, record: str, message: str, *, mend: str | None = None
    ) -> Finding:
        """Note one thing about a record, or about the file for an empty `record`."""
        return self.add_record(code, lambda: (record, message), mend=mend)

    def add_record(
        self,
        code: FindingCode,
        say: Callable[[], tuple[str, str]],
        *,
        severity: Severity | None = None,
        mend: str | None = None,
    ) -> Finding:
        """Note one thing about one of perhaps very many records.

        Parameters
        ----------
        say
            Gives record and message; asked only if they are listed.
        severity, mend
            Where the code leaves them open.

        Raises
        ------
        AnnotationError
            If that is the last of too many records that cannot be used.
        """
        self._counts[code] += 1
        if self._counts[code] <= MAX_NAMED:
            record, message = say()
            where = f"{self.name}: {record}" if record else self.name
            found = code.finding(where, message, severity=severity, mend=mend)
            self._findings.append(found)
            return found
        is_error = (severity or code.severity) is Severity.ERROR
        if is_error and self._counts[code] > MAX_BROKEN:
            raise self._broken(code)
        if code not in self._more:
            message = f"one of more than {MAX_NAMED} such records ({code}), which are not all named"
            self._more[code] = code.finding(self.name, message, severity=severity, mend=mend)
        return self._more[code]

    def refuse(self, *file_names: object, because: Finding) -> None:
        """Remember that raws of these names must not be taken for images without boxes."""
        for file_name in file_names:
            if isinstance(file_name, str) and base_name(file_name):
                self.refused.setdefault(file_name, because)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Those listed, and at the end how many more there are of each kind."""
        rest = (
            more.model_copy(
                update={
                    "message": f"and {self._counts[code] - MAX_NAMED:,} more such records ({code})"
                }
            )
            for code, more in self._more.items()
        )
        return (*self._findings, *rest)

    def _broken(self, code: FindingCode) -> AnnotationError:
        first = next(finding for finding in self._findings if finding.code == code)
        record = first.where.removeprefix(f"{self.name}: ")
        return AnnotationError(
            f"more than {MAX_BROKEN:,} of its records cannot be used, such as {record}: "
            f"{first.message}",
            path=self.name,
            mend="Export the annotations as COCO again, or leave this file out.",
        )


def bounded(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings of many small files: the first of each kind, and how many more there are."""
    kept: list[Finding] = []
    counts: Counter[str] = Counter()
    last: dict[str, Finding] = {}
    for finding in findings:
        counts[finding.code] += 1
        if counts[finding.code] <= MAX_NAMED:
            kept.append(finding)
        last[finding.code] = finding
    for code, count in counts.items():
        if count > MAX_NAMED:
            message = f"and {count - MAX_NAMED:,} more such files ({code})"
            kept.append(last[code].model_copy(update={"message": message}))
    return tuple(kept)
