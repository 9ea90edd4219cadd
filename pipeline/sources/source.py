"""Finding raws and annotations in folders, archives and URLs, and reading one whole.

A `Source` is a name and plain values: it crosses process borders as it is, and whoever holds it can
read it. Names are what the store remembers, so they must not depend on where a folder is mounted or
in which order inputs were given.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from pipeline.errors import SourceError, UnreadableSourceError, UsageError
from pipeline.safe_text import printable, visible
from pipeline.sources.folders import Found, Listing
from pipeline.sources.location import is_url, open_location, reading
from pipeline.sources.zip_archive import (
    ARCHIVE_HINT,
    ArchiveMember,
    list_members,
    read_member,
    read_member_start,
)

logger = logging.getLogger(__name__)

RAW_SUFFIXES: Final = frozenset(
    {
        ".arw",
        ".srf",
        ".sr2",
        ".nef",
        ".nrw",
        ".dng",
        ".raw",
        ".cr2",
        ".cr3",
        ".crw",
        ".raf",
        ".rw2",
        ".orf",
        ".pef",
        ".srw",
        ".3fr",
        ".iiq",
        ".x3f",
        ".kdc",
        ".dcr",
        ".mrw",
        ".erf",
        ".mef",
        ".mos",
    }
)
ANNOTATION_SUFFIX: Final = ".json"
ARCHIVE_SUFFIX: Final = ".zip"
MEMBER_MARK: Final = "!/"
"""Between an archive and its member in names: ``nod.zip!/Sony/DSC01088.ARW``."""

MAX_SOURCE_BYTES: Final = 1 << 30
"""No camera raw is larger; keeps a stray disk image, or a zip bomb, out of memory."""

SETTLING_NS: Final = 250_000_000
"""A file is left alone for so long after it was last modified. A program that writes a whole file
at once changes its time only when it begins: what is read meanwhile would be half old, half new."""

_WAIT: Final = "wait until it is completely copied, then run the same command"


@dataclass(frozen=True)
class Start:
    """The first bytes of a source as they were once, to tell whether they still are."""

    nbytes: int
    sha256: str

    @classmethod
    def of(cls, data: bytes) -> Start:
        """Remember `data`."""
        return cls(len(data), hashlib.sha256(data).hexdigest())

    def fits(self, data: bytes) -> bool:
        """Whether `data` starts like that."""
        return Start.of(data[: self.nbytes]) == self


@dataclass(frozen=True)
class Source:
    """One raw or annotation file: where it is and what it was when it was found.

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
                hint="leave it out; no camera raw is that large",
            )
        data = self._read(self.size + 1)
        self._require_size(len(data))
        return data

    def require_start(self, start: Start, data: bytes) -> None:
        """Refuse `data`, read now, if it does not start as the source did before.

        Raises
        ------
        UnreadableSourceError
            If it does not: sizes and times may agree by chance, and URLs have no times.
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
        """Wait until nobody has begun to write the file for a while; its state then."""
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
            f"changed while being read: {what}", path=self.label, hint=_WAIT
        )

    def _from_archive(self, read: Callable[[], bytes]) -> bytes:
        """Read a member; if that fails, an archive that changed is to blame, not the member."""
        try:
            return read()
        except SourceError as error:
            if self._archive_changed():
                message = "the archive changed while being read"
                raise UnreadableSourceError(message, path=self.label, hint=_WAIT) from error
            raise

    def _archive_changed(self) -> bool:
        if self.archive is None or is_url(self.location):
            return False
        try:
            status = os.stat(self.location)
        except OSError:
            return False  # then the error says so
        return (status.st_size, status.st_mtime_ns) != self.archive


def _state(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


@dataclass(frozen=True)
class Discovery:
    """What the inputs hold.

    Parameters
    ----------
    raws, annotations
        Sorted by name.
    problems
        What could not be read, each with its mend; sorted by path.
    """

    raws: tuple[Source, ...]
    annotations: tuple[Source, ...]
    problems: tuple[SourceError, ...]


@dataclass(frozen=True)
class _Candidate:
    found: Found
    member: ArchiveMember | None = None

    @property
    def relative(self) -> str:
        within = "" if self.member is None else MEMBER_MARK + self.member.name
        return printable(self.found.relative) + within

    @property
    def order(self) -> tuple[str, str, int]:
        offset = 0 if self.member is None else self.member.header_offset
        return self.relative, self.found.location, offset


def discover(inputs: Sequence[str]) -> Discovery:
    """Find every raw and annotation file in folders, files, zip archives and URLs.

    Folders are walked to the bottom; hidden files, ``*.zarr`` and macOS' leftovers are skipped.
    Archives are read in place. A file given by itself is taken whatever its suffix is. A file
    reached twice appears once.

    Parameters
    ----------
    inputs
        Paths or fsspec URLs.

    Raises
    ------
    UsageError
        Where there is no input, or one does not exist.
    """
    if not inputs:
        raise UsageError("no source given", hint="name a folder, a raw file, a .zip or a URL")
    listing = Listing(is_wanted=_is_wanted, is_companion=_is_annotation)
    listing.add(inputs)
    problems = list(listing.problems)
    raws: list[_Candidate] = []
    annotations: list[_Candidate] = []
    for found in listing.found:
        suffix = PurePosixPath(found.relative).suffix.lower()
        if suffix == ARCHIVE_SUFFIX:
            for candidate in _members(found, problems):
                is_raw = _suffix(candidate) in RAW_SUFFIXES
                (raws if is_raw else annotations).append(candidate)
        else:
            (annotations if suffix == ANNOTATION_SUFFIX else raws).append(_Candidate(found))
    prefixes = _prefixes(raws or annotations, listing.root_names)
    return Discovery(
        raws=_named(raws, prefixes),
        annotations=_named(annotations, prefixes),
        problems=tuple(sorted(problems, key=lambda problem: (problem.path, problem.message))),
    )


def _is_wanted(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in (*RAW_SUFFIXES, ANNOTATION_SUFFIX, ARCHIVE_SUFFIX)


def _is_annotation(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() == ANNOTATION_SUFFIX


def _suffix(candidate: _Candidate) -> str:
    return PurePosixPath(candidate.relative).suffix.lower()


def _members(archive: Found, problems: list[SourceError]) -> list[_Candidate]:
    """Return an archive's raws and annotations; what it lost goes to `problems`."""
    label = printable(archive.location)
    try:
        listing = list_members(archive.location)
    except SourceError as error:
        problems.append(error)
        return []
    if not listing.complete:
        path = label if listing.cut_member is None else f"{label}{MEMBER_MARK}{listing.cut_member}"
        problems.append(UnreadableSourceError(listing.damage, path=path, hint=ARCHIVE_HINT))
    elif listing.damage:
        logger.warning("%s: %s", visible(label), visible(listing.damage))
    candidates = [_Candidate(archive, member) for member in listing.members]
    problems += [
        UnreadableSourceError(
            "an archive inside an archive is not opened",
            path=f"{label}{MEMBER_MARK}{candidate.member.name}",
            hint="unpack it and give what it holds, or leave it out",
        )
        for candidate in candidates
        if candidate.member and _suffix(candidate) == ARCHIVE_SUFFIX
    ]
    return [
        candidate
        for candidate in candidates
        if _suffix(candidate) in (*RAW_SUFFIXES, ANNOTATION_SUFFIX)
        and ".zarr/" not in candidate.relative.lower()
    ]


def _prefixes(candidates: Sequence[_Candidate], root_names: dict[str, str]) -> dict[str, str]:
    """Return what stands before the names of each root: nothing where there is one root.

    Only roots that hold raws count: naming one more annotation file renames nothing.
    """
    roots = sorted({candidate.found.root for candidate in candidates})
    if len(roots) < 2:
        return dict.fromkeys(roots, "")
    prefixes: dict[str, str] = {}
    for root in roots:
        own = printable(root_names.get(root) or PurePosixPath(root).name) or "root"
        prefixes[root] = _unused(own, set(prefixes.values())) + "/"
    return prefixes


def _unused(name: str, taken: set[str]) -> str:
    number, unused = 1, name
    while unused + "/" in taken:
        number += 1
        unused = f"{name}~{number}"
    return unused


def _named(candidates: list[_Candidate], prefixes: dict[str, str]) -> tuple[Source, ...]:
    """Name the candidates; where two would be called alike, the later is put in a ``~2`` folder."""
    sources: dict[str, Source] = {}
    for candidate in sorted(candidates, key=lambda candidate: candidate.order):
        found, member = candidate.found, candidate.member
        plain = name = prefixes.get(found.root, "") + candidate.relative
        number = 1
        while name in sources:  # never by changing the stem: annotations refer to it
            number += 1
            name = f"~{number}/{plain}"
        size = found.size if member is None else member.size
        mtime_ns = found.mtime_ns if member is None else member.mtime_ns
        archive = None if member is None else (found.size, found.mtime_ns)
        sources[name] = Source(name, found.location, size, mtime_ns, member, archive)
    return tuple(sources[name] for name in sorted(sources))
