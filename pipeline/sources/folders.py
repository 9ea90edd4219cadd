"""Lists the files in the folders and URLs a user names: each once, with its path under a root."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pipeline.errors import SourceError, UnreadableSourceError, UsageError
from pipeline.safe_text import printable
from pipeline.sources.location import is_url, reading, require_file, unreadable

_MODIFIED_KEYS: Final = ("mtime", "LastModified", "last_modified", "modified", "updated")
"""What fsspec's file systems call the time of change (which "created" is not)."""


@dataclass(frozen=True)
class Found:
    """One file.

    Parameters
    ----------
    root
        The folder names are relative to (absolute real path, or URL without its last slash).
    relative
        Path from there, POSIX slashes.
    location
        Absolute path or URL that opens it.
    size
        Bytes.
    mtime_ns
        Nanoseconds since 1970, or None.
    """

    root: str
    relative: str
    location: str
    size: int
    mtime_ns: int | None


@dataclass(frozen=True)
class _Folder:
    """A folder to be walked: its path as given, its real path, and how its files are named."""

    path: str
    real: str
    root: str
    relative: str  # "" or ends with "/"

    def child(self, name: str, real: str) -> _Folder:
        return _Folder(os.path.join(self.path, name), real, self.root, f"{self.relative}{name}/")


@dataclass(frozen=True)
class _Remote:
    """What a URL refers to: its fsspec file system, its normal spelling, its metadata."""

    system: Any
    url: str
    info: dict[str, Any]
    is_folder: bool


class Listing:
    """Walks inputs and gathers files and problems.

    Parameters
    ----------
    is_wanted
        Whether a file of that name, met in a folder, is of interest.
    is_companion
        Whether a file named by itself only accompanies others, so that its folder is no root.
    is_noted
        Whether a file of that name that is not of interest is to be named all the same.

    Attributes
    ----------
    found, problems
        Files in no particular order, and what could not be read.
    root_names
        What the user calls each local root: its last part, before links are resolved.
    noted
        Names, under their roots, of files met in folders that are noted.
    """

    def __init__(
        self,
        *,
        is_wanted: Callable[[str], bool],
        is_companion: Callable[[str], bool],
        is_noted: Callable[[str], bool],
    ) -> None:
        self.root_names: dict[str, str] = {}
        self.found: list[Found] = []
        self.problems: list[SourceError] = []
        self.noted: list[str] = []
        self._is_noted = is_noted
        self._is_wanted = is_wanted
        self._is_companion = is_companion
        self._seen: set[str] = set()
        self._links: deque[tuple[_Folder, str]] = deque()

    def add(self, inputs: Sequence[str]) -> None:
        """Add everything the inputs name.

        Raises
        ------
        UsageError
            Where an input does not exist.
        """
        local = sorted({os.path.abspath(path) for path in _local_paths(inputs)})
        _require_all(local)
        folders = [path for path in local if os.path.isdir(path)]
        files = [path for path in local if not os.path.isdir(path)]
        places = folders + [os.path.dirname(path) for path in files if not self._is_companion(path)]
        for place in places:
            self.root_names.setdefault(os.path.realpath(place), os.path.basename(place))
        roots = _outermost(self.root_names)
        self._walk(_start(path, roots) for path in folders)
        for path in files:
            folder = _start(os.path.dirname(path), roots)
            self._add_file(folder, os.path.basename(path), os.path.realpath(path))
        self._add_urls(sorted({url for url in inputs if is_url(url) and not _is_file_url(url)}))

    def _walk(self, folders: Iterable[_Folder]) -> None:
        # Symbolic links are followed after all real folders, so that a file is named by its real
        # place and not by a link to it that sorts first.
        pending = deque(folders)
        while pending or self._links:
            if pending:
                folder = pending.popleft()
                if folder.real not in self._seen:
                    self._seen.add(folder.real)
                    pending.extend(self._enter(folder))
            else:
                pending.extend(self._follow(*self._links.popleft()))

    def _enter(self, folder: _Folder) -> list[_Folder]:
        """Take a folder's files; return the folders in it."""
        try:
            with os.scandir(folder.path) as entries:
                names = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self.problems.append(unreadable(error, folder.path))
            return []
        inner = []
        for entry in names:
            if is_skipped(entry.name):
                continue
            real = os.path.join(folder.real, entry.name)
            if entry.is_symlink():
                self._links.append((folder, entry.name))
            elif entry.is_dir(follow_symlinks=False):
                inner.append(folder.child(entry.name, real))
            elif self._is_wanted(entry.name):
                self._add_file(folder, entry.name, real)
            elif self._is_noted(entry.name):
                self.noted.append(folder.relative + entry.name)
        return inner

    def _follow(self, folder: _Folder, name: str) -> list[_Folder]:
        path = os.path.join(folder.path, name)
        real = os.path.realpath(path)
        if os.path.isdir(path):
            return [] if is_skipped(os.path.basename(real)) else [folder.child(name, real)]
        # A broken link without a suffix may have led to a folder full of raws: report it.
        is_broken_folder = not os.path.exists(path) and not os.path.splitext(name)[1]
        if self._is_wanted(name) or is_broken_folder:
            self._add_file(folder, name, real)
        return []

    def _add_file(self, folder: _Folder, name: str, real: str) -> None:
        if real in self._seen:
            return
        self._seen.add(real)
        path = os.path.join(folder.path, name)
        try:
            status = os.stat(path)
        except OSError as error:
            self.problems.append(
                _bad_link(path) if os.path.islink(path) else unreadable(error, path)
            )
            return
        try:
            require_file(status, path)
        except UnreadableSourceError as error:
            self.problems.append(error)
            return
        relative = folder.relative + name
        self.found.append(Found(folder.root, relative, path, status.st_size, status.st_mtime_ns))

    def _add_urls(self, urls: Sequence[str]) -> None:
        remotes = [remote for url in urls if (remote := self._describe(url))]
        roots = _outermost(
            remote.url if remote.is_folder else _parent(remote.url)
            for remote in remotes
            if remote.is_folder or not self._is_companion(remote.url)
        )
        for remote in remotes:
            if not remote.is_folder:
                self._add_url(remote, remote.url, roots, remote.info)
                continue
            try:
                with reading(remote.url, remote.url):
                    inside = remote.system.find(remote.info["name"], detail=True)
            except UnreadableSourceError as error:
                self.problems.append(error)
                continue
            for path in sorted(inside):
                url = str(remote.system.unstrip_protocol(path))
                parts = url.removeprefix(remote.url).strip("/").split("/")
                if any(is_skipped(part) for part in parts):
                    continue
                if self._is_wanted(parts[-1]):
                    self._add_url(remote, url, roots, inside[path])
                elif self._is_noted(parts[-1]):
                    self.noted.append("/".join(parts))

    def _describe(self, url: str) -> _Remote | None:
        try:
            with reading(url, url):
                return _describe(url)
        except UnreadableSourceError as error:
            self.problems.append(error)
            return None

    def _add_url(
        self, remote: _Remote, url: str, roots: Sequence[str], info: dict[str, Any]
    ) -> None:
        if url in self._seen:
            return
        self._seen.add(url)
        try:
            with reading(url, url):
                if info.get("size") is None:  # not stated in a web server's index
                    info = remote.system.info(info["name"])
        except UnreadableSourceError as error:
            self.problems.append(error)
            return
        if info.get("size") is None:
            self.problems.append(
                UnreadableSourceError(
                    "the server does not tell its size",
                    path=printable(url),
                    mend="download it and give the local file",
                )
            )
            return
        root = _root_of(_parent(url), roots)
        # A query may hold a signature: it is needed to open the file, and is left out of the name.
        relative = url.removeprefix(root).lstrip("/").partition("?")[0]
        self.found.append(Found(root, relative, url, int(info["size"]), _modified_ns(info)))


def is_skipped(name: str) -> bool:
    """Whether a file or folder is left out: hidden ones, stores, macOS' resource forks."""
    return name.startswith(".") or name.lower().endswith(".zarr") or name == "__MACOSX"


def _is_file_url(url: str) -> bool:
    return url.startswith(("file://", "local://"))


def _local_paths(inputs: Sequence[str]) -> list[str]:
    """Return the inputs that are local, URLs of local files as paths."""
    if not all(inputs):
        raise UsageError("an input is empty", mend="name a folder, a raw file, a .zip or a URL")
    paths = [path.partition("://")[2] if _is_file_url(path) else path for path in inputs]
    return [path for path in paths if not is_url(path)]


def _require_all(paths: Sequence[str]) -> None:
    missing = [path for path in paths if not os.path.lexists(path)]
    if missing:
        more = "" if len(missing) == 1 else f" (and {len(missing) - 1} more inputs)"
        raise UsageError(
            f"no such file or folder{more}",
            path=printable(missing[0]),
            mend="check the spelling, and that its disk is mounted",
        )


def _outermost(roots: Iterable[str]) -> list[str]:
    """Return the roots that lie in no other one."""
    kept: list[str] = []
    for root in sorted(set(roots), key=len):
        if _root_of(root, kept) == root:
            kept.append(root)
    return kept


def _root_of(place: str, roots: Iterable[str]) -> str:
    """Return the root that holds a place, or the place itself."""
    inside = (root for root in roots if f"{place}/".startswith(root.rstrip("/") + "/"))
    return next(inside, place)


def _start(path: str, roots: Sequence[str]) -> _Folder:
    real = os.path.realpath(path)
    root = _root_of(real, roots)
    relative = real.removeprefix(root).strip("/")
    return _Folder(path, real, root, f"{relative}/" if relative else "")


def _bad_link(path: str) -> UnreadableSourceError:
    return UnreadableSourceError(
        f"a symbolic link that leads nowhere: {printable(os.readlink(path))}",
        path=printable(path),
        mend="mount what it points to, or remove the link",
    )


def _parent(url: str) -> str:
    return url.rpartition("/")[0]


def _describe(url: str) -> _Remote:
    import fsspec

    if "::" in url:
        raise UsageError("chained URLs are not supported", path=url, mend="give the archive itself")
    try:
        system, path = fsspec.core.url_to_fs(url)
        info = system.info(path)
    except FileNotFoundError as error:
        raise UsageError("nothing is there", path=url, mend="check the spelling") from error
    except (ImportError, ValueError) as error:
        mend = "check the protocol's name, or install the package it needs"
        raise UsageError(str(error), path=url, mend=mend) from error
    # Of a web server, only the slash at the end of the URL tells a folder from a file.
    is_folder = info["type"] == "directory" or url.endswith("/")
    return _Remote(system, str(system.unstrip_protocol(path)).rstrip("/"), info, is_folder)


def _modified_ns(info: dict[str, Any]) -> int | None:
    value = next((info[key] for key in _MODIFIED_KEYS if key in info), None)
    if isinstance(value, datetime):
        value = value.timestamp()
    # Whole microseconds: every clock here has them, and a float can hold them exactly.
    return round(value * 1e6) * 1000 if isinstance(value, int | float) else None
