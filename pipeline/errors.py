"""Every error this project raises on purpose, in one tree.

    GenispError                      exit 1
    ├── UsageError                   exit 2    the request itself is contradictory
    ├── SourceError                  exit 3    one source cannot be ingested; the others go on
    │   ├── UnreadableSourceError              it cannot be opened or read
    │   ├── UnsupportedRawError                not a raw we can convert without guessing
    │   ├── CorruptRawError                    truncated or damaged
    │   ├── FrameMismatchError                 the annotation belongs to another frame
    │   └── AnnotationError                    a COCO file or record that cannot be used
    ├── TrainingError                exit 1    training cannot start, or cannot go on
    │   └── RunLockedError           exit 11   another training writes this run folder
    └── StoreError                   exit 1
        ├── NoStoreError             exit 10   nothing there, or not one of ours
        ├── StoreLockedError         exit 11   another ingest is writing
        ├── IncompatibleStoreError   exit 12   another format version or recipe
        └── DamagedStoreError        exit 4    stored data does not match its record

Each error says what is wrong, with which file, and how to mend it; the parts are fields too.
Where a Python user would catch a builtin, the class inherits it as well.
"""

from __future__ import annotations

from schemas.exit_code import ExitCode

#: The mend of damage that an ingest sees by itself.
REDO = "prep ingest with the same sources and store redoes just what is damaged"


class GenispError(Exception):
    """Base of the tree.

    Parameters
    ----------
    message
        What is wrong: expected and found.
    path
        The file, archive member, URL or store it is about.
    mend
        What the user can do about it.
    """

    exit_code = ExitCode.FAILED

    def __init__(self, message: str, *, path: str = "", mend: str = "") -> None:
        super().__init__(message, path, mend)
        self.message = message
        self.path = path
        self.mend = mend

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments survive the trip between processes.
        return (_rebuild, (type(self), self.message, self.path, self.mend))

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


def _rebuild(kind: type[GenispError], message: str, path: str, mend: str) -> GenispError:
    return kind(message, path=path, mend=mend)


class UsageError(GenispError, ValueError):
    """Raised when options contradict each other or name what does not exist."""

    exit_code = ExitCode.WRONG_USAGE


class SourceError(GenispError):
    """Raised when one source cannot be ingested; it costs that source, not the run."""

    exit_code = ExitCode.SOURCES_FAILED


class UnreadableSourceError(SourceError, OSError):
    """Raised when a source cannot be opened or read."""


class UnsupportedRawError(SourceError, ValueError):
    """Raised when a file is no raw, or one that cannot be converted without guessing."""


class CorruptRawError(SourceError, ValueError):
    """Raised when a raw is truncated or damaged."""


class FrameMismatchError(SourceError, ValueError):
    """Raised when an annotation's size fits neither the camera's crop nor a centred one."""


class AnnotationError(SourceError, ValueError):
    """Raised when a COCO file, or an image record in one, cannot be used."""


class TrainingError(GenispError, RuntimeError):
    """Raised when weights or a checkpoint do not fit, or the loss is no number any more."""


class RunLockedError(TrainingError):
    """Raised when another process trains into the same run folder."""

    exit_code = ExitCode.LOCKED


class StoreError(GenispError):
    """Raised when a store cannot be read or written."""


class NoStoreError(StoreError, FileNotFoundError):
    """Raised when there is no store at the path, or something else is there."""

    exit_code = ExitCode.NO_STORE


class StoreLockedError(StoreError):
    """Raised when another process is writing this store."""

    exit_code = ExitCode.LOCKED


class IncompatibleStoreError(StoreError, ValueError):
    """Raised when the store's format version or recipe cannot be continued."""

    exit_code = ExitCode.INCOMPATIBLE


class DamagedStoreError(StoreError, ValueError):
    """Raised when stored bytes do not match their record."""

    exit_code = ExitCode.DAMAGED
