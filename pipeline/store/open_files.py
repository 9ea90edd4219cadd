"""Which kind of place a path or URL names: the only module that knows all kinds."""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import Path

from pipeline.errors import UsageError
from pipeline.store.files import StoreFiles
from pipeline.store.local.files import LocalFiles

#: What names a store: a path, or the files themselves where they are kept elsewhere.
StorePlace = str | PathLike[str] | StoreFiles


def open_files(place: StorePlace) -> StoreFiles:
    """The files of a store; nothing is read or written yet.

    Raises
    ------
    UsageError
        If it is a URL.
    """
    if not isinstance(place, str | PathLike):
        return place
    path = fspath(place)
    if "://" in path:
        mend = "copy the store to a local folder, or mount it"
        raise UsageError("stores are read from local folders only, yet", path=path, mend=mend)
    return LocalFiles(Path(path))
