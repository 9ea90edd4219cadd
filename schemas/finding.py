"""One thing noticed about a source, a sample, a box or a store."""

from __future__ import annotations

from enum import StrEnum

from schemas.base import StrictModel


class Severity(StrEnum):
    """How much a finding matters: only ``error`` makes a command fail without ``--strict``."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Finding(StrictModel):
    """What was found, where, and how to mend it.

    ``code`` is a stable kebab-case word for scripts (``"zero-area"``); ``where`` names the file,
    sample or record; ``mend`` is a sentence or a command, empty when there is nothing to do.
    """

    code: str
    severity: Severity
    where: str
    message: str
    mend: str = ""
