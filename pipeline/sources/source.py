"""One raw or annotation file, wherever it lies, and reading it whole.

A `Source` is a name and plain values: it can be sent to another process, and read there.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from pipeline.errors import SourceError, UnreadableSourceError
from pipeline.safe_text import printable
from pipeline.sources.location import is_url, open_location, reading
from pipeline.sources.zip_archive import ArchiveMember, read_member, read_member_start

MEMBER_MARK: Final = "!/"
"""Between an archive and its member in names: ``nod.zip!/Sony/DSC01088.ARW``."""

MAX_SOURCE_BYTES: Final = 1 << 30
"""No camera raw is larger. The limit keeps disk images and zip bombs out of memory."""

SETTLING_NS: Final = 250_000_000
"""A file is read only when its last modification is this long ago. A program that writes a whole
file at once changes its time only when it begins: a read meanwhile would be half old, half new."""

_WAIT: Final = "wait until it is completely copied, then run the same command"


@dataclass(frozen=True, slots=True)
class Start:
    """The first bytes of a source at one time, to find out later whether they have changed."""

    nbytes: int
    sha256: str

    @classmethod
    def of(cls, data: bytes) -> Start:
        """Remember `data`."""
        return cls(len(data), hashlib.sha256(data).hexdigest())

    def fits(self, data: bytes) -> bool:
        """Whether `data` starts like that."""
        return Start.of(data[: self.nbytes]) == self


@dataclass(frozen=True, slots=True)
class Source:
    """One raw or annotation file: where it is, and its size and time when it was found.

    Parameters
    ----------
    name
        Stable label, relative to the folder that was given, with POSIX slashes; unique within one
        `Discovery`. Always encodes to UTF-8.
    location
        Absolute path or URL, of the archive for a member. It opens the file as it is, so it
        may hold lone surrogates for bytes that are not UTF-8: show `label` instead.
    size
        Bytes (unpacked, for a member).
    mtime_ns
        Nanoseconds since 1970, or None where unknown. A member's is its zip time read as UTC.
    member
        Where it is in its archive, or None.
    archive
        Size in bytes and time of change of that archive when it was listed, or None.
    """

    name: str
    location: str
    size: int
    mtime_ns: int | None
    member: ArchiveMember | None = None
    archive: tuple[int, int | None] | None = None

    @property
    def label(self) -> str:
        """Where it is, for messages."""
        place = printable(self.location)
        return place if self.member is None else f"{place}{MEMBER_MARK}{self.member.name}"

    @property
    def stem(self) -> str:
        """File name without folders and suffix: ``DSC01088``."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """Suffix in lower case: ``.arw``."""
        return PurePosixPath(self.name).suffix.lower()

    def read_prefix(self, nbytes: int) -> bytes:
        """Read at most the first `nbytes`; raises as `read_bytes` does."""
        member = self.member
        if member is not None:
            return self._from_archive(lambda: read_member_start(self.location, member, nbytes))
        return self._read(nbytes)

    def read_bytes(self) -> bytes:
        """Read the whole file, in one read.

        Raises
        ------
        UnreadableSourceError
            Where it is gone, may not be read, is larger than any raw, or is not the file that was
            listed any more: its size or time of change differs, before or after it was read.
        CorruptRawError
            Where an archive member fails its checksum.
        """
        member = self.member
        if member is not None:
            return self._from_archive(lambda: read_member(self.location, member, MAX_SOURCE_BYTES))
        if self.size > MAX_SOURCE_BYTES:
            raise UnreadableSourceError(
                f"it has {self.size} bytes; more than {MAX_SOURCE_BYTES} are not accepted",
                path=self.label,
                mend="leave it out; no camera raw is that large",
            )
        data = self._read(self.size + 1)
        self._require_size(len(data))
        return data

    def require_start(self, start: Start, data: bytes) -> None:
        """Refuse `data`, read now, if it does not begin with the bytes the source had before.

        Raises
        ------
        UnreadableSourceError
            If it does not. Size and time are not enough: they may agree by chance, and URLs have
            no times.
        """
        if not start.fits(data):
            raise self._changed("its beginning is not what it was before")

    def _read(self, nbytes: int) -> bytes:
        with reading(self.location, self.label), open_location(self.location) as file:
            if is_url(self.location):
                return file.read(nbytes)
            before = self._settled(file.fileno())
            data = file.read(nbytes)
            if _state(os.fstat(file.fileno())) != before:
                raise self._changed("it was modified meanwhile")
        return data

    def _settled(self, descriptor: int) -> tuple[int, int, int]:
        """Wait until the last modification is `SETTLING_NS` ago; return the file's state then."""
        status = self._require_listed(descriptor)
        age = time.time_ns() - status.st_mtime_ns
        if 0 <= age < SETTLING_NS:
            time.sleep((SETTLING_NS - age) / 1e9)
            status = self._require_listed(descriptor)
        return _state(status)

    def _require_listed(self, descriptor: int) -> os.stat_result:
        status = os.fstat(descriptor)
        self._require_size(status.st_size)
        if self.mtime_ns is not None and status.st_mtime_ns != self.mtime_ns:
            raise self._changed("it was modified after it was listed")
        return status

    def _require_size(self, found: int) -> None:
        if found != self.size:
            raise self._changed(f"expected {self.size} bytes, found {found} bytes")

    def _changed(self, what: str) -> UnreadableSourceError:
        return UnreadableSourceError(
            f"changed while being read: {what}", path=self.label, mend=_WAIT
        )

    def _from_archive(self, read: Callable[[], bytes]) -> bytes:
        """Read a member; if that fails and the archive has changed, report that instead."""
        try:
            return read()
        except SourceError as error:
            if self._archive_changed():
                message = "the archive changed while being read"
                raise UnreadableSourceError(message, path=self.label, mend=_WAIT) from error
            raise

    def _archive_changed(self) -> bool:
        if self.archive is None or is_url(self.location):
            return False
        try:
            status = os.stat(self.location)
        except OSError:
            return False  # the error of the read says so
        return (status.st_size, status.st_mtime_ns) != self.archive


def _state(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
