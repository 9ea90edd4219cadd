"""Why a source was not ingested, as the manifest says it."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import (
    AnnotationError,
    CorruptRawError,
    FrameMismatchError,
    SourceError,
    UnreadableSourceError,
    UnsupportedRawError,
)
from schemas.manifest import FailureCode

_CODES: dict[type[SourceError], FailureCode] = {
    UnreadableSourceError: "unreadable",
    UnsupportedRawError: "unsupported",
    CorruptRawError: "corrupt",
    FrameMismatchError: "frame",
    AnnotationError: "annotation",
}


@dataclass(frozen=True)
class Failure:
    """Why a source was not ingested."""

    code: FailureCode
    reason: str
    mend: str


def failure_from(error: Exception) -> Failure:
    """The failure an exception stands for; an unexpected one keeps its last frames."""
    if isinstance(error, SourceError):
        return Failure(_CODES.get(type(error), "other"), error.message, error.mend)
    if isinstance(error, MemoryError):
        mend = "free memory or give fewer --workers, then run the same command"
        return Failure("other", "there is not enough memory for it", mend)
    where = traceback.extract_tb(error.__traceback__)[-1]
    reason = (
        f"unexpected {type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
    )
    return Failure("other", reason, "please report this with the file's name and this line")
