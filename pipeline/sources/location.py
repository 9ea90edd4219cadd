"""Opening a local path or URL, and explaining to the user why that failed."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final, cast

from pipeline.errors import GenispError, UnreadableSourceError
from pipeline.safe_text import printable

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_url(location: str) -> bool:
    """Whether this is ``scheme://...``, as opposed to a local path."""
    return _URL.match(location) is not None


def open_location(location: str) -> BinaryIO:
    """Open a local path or an fsspec URL for reading; the handle can seek.

    Raises
    ------
    UnreadableSourceError
        Where a local path is a pipe, socket or device: opening a pipe would wait for ever.
    """
    if not is_url(location):
        require_file(os.stat(location), location)
        return open(location, "rb")
    import fsspec

    return cast(BinaryIO, fsspec.open(location, "rb").open())


@contextmanager
def reading(location: str, label: str) -> Iterator[None]:
    """Turn any error of reading `location` into an `UnreadableSourceError` about `label`."""
    try:
        yield
    except GenispError:
        raise
    except OSError as error:
        raise unreadable(error, label) from error
    except Exception as error:
        # Remote file systems raise exceptions of their client libraries, which have no common base.
        if not is_url(location):
            raise
        raise UnreadableSourceError(
            f"it cannot be read: {error}",
            path=printable(label),
            mend="check the connection and the credentials, then run the same command",
        ) from error


def require_file(status: os.stat_result, path: str) -> None:
    """Refuse what is neither a file nor a folder (which says so itself when it is opened)."""
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise UnreadableSourceError(
            "expected a file, found a pipe, socket or device",
            path=printable(path),
            mend="give a regular file",
        )


def unreadable(error: OSError, path: str) -> UnreadableSourceError:
    """Return the `UnreadableSourceError`, with its mend, for an error of the operating system."""
    if isinstance(error, FileNotFoundError):
        what, mend = "it is not there", "check the path; if it moved, give its new place"
    elif isinstance(error, PermissionError):
        what, mend = "no permission to read it", "make it readable for this user (chmod u+r)"
    elif isinstance(error, IsADirectoryError):
        what, mend = "expected a file, found a folder", "give the folder itself as the source"
    elif error.errno in (errno.EMFILE, errno.ENFILE):
        what = f"it cannot be read: {error.strerror}"
        mend = "allow more open files (ulimit -n 1024), then run the same command"
    else:
        what = f"it cannot be read: {error.strerror or error}"
        mend = "check the disk or connection, then run the same command"
    return UnreadableSourceError(what, path=printable(path), mend=mend)
