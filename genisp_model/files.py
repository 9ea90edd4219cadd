"""Files that commands of the trainer write: whole or not at all, and refused in words."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import GenispError, TrainingError, UsageError


def output_folder(path: Path, *, mend: str) -> None:
    """Make a folder, and those above it, if it is not there.

    Raises
    ------
    UsageError
        If something else has its name, or that of a folder above it.
    TrainingError
        If the file system refuses; `mend` says what to do after that.
    """
    with writing(path, mend=mend):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            message = "a folder is wanted here, and there is a file (here or above)"
            raise UsageError(message, path=str(path), mend="name another folder") from error


def check_replaceable(path: Path) -> None:
    """Refuse an output that is there and no regular file.

    Renaming a file over it would fail for a folder, and destroy a device: /dev/null too, for root.

    Raises
    ------
    UsageError
    """
    if path.is_symlink() or path.exists():
        if path.is_file():
            return
        kind = "a folder" if path.is_dir() else "no regular file"
        raise UsageError(f"what is there is {kind}", path=str(path), mend="name another file")


@contextmanager
def whole_file(target: Path, *, mend: str) -> Iterator[Path]:
    """A temporary path beside `target`: what is written there in the block replaces it at the end.

    After an error or a crash `target` is the old file or the whole new one. Nothing is left behind
    by an error.

    Raises
    ------
    UsageError
        If `target` is no regular file, or its folder is none.
    TrainingError
        If the file system refuses; `mend` says what to do after that.
    """
    check_replaceable(target)
    output_folder(target.parent, mend=mend)
    temporary = target.with_name(f".{target.name}.tmp")
    with writing(target, mend=mend):
        try:
            temporary.touch()  # what cannot be written is known before there is anything to write
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(target: Path, *, mend: str) -> Iterator[None]:
    """Turn what the file system refuses in the block into a `TrainingError` that names `target`."""
    try:
        yield
    except OSError as error:
        if isinstance(error, GenispError):  # some are OSErrors too, and say more
            raise
        message = f"cannot write: {error.strerror or error}"
        raise TrainingError(message, path=str(target), mend=mend) from error
