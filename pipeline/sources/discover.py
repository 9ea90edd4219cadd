"""Finding raws and annotations in folders, archives and URLs, and naming them.

Names are what the store remembers, so they must not depend on where a folder is mounted or in which
order inputs were given.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from pipeline.errors import SourceError, UnreadableSourceError, UsageError
from pipeline.safe_text import printable, visible
from pipeline.sources.folders import Found, Listing
from pipeline.sources.source import MEMBER_MARK, Source
from pipeline.sources.zip_archive import ARCHIVE_HINT, ArchiveMember, list_members

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
        ".gpr",
        ".rwl",
        ".fff",
        ".ptx",
        ".ori",
        ".k25",
        ".dcs",
        ".bay",
    }
)
"""Raws of still cameras. Each is tried: what cannot be converted is refused with its own reason."""

_PASSED_OVER: Final = frozenset(
    {
        *(".braw", ".r3d", ".ari", ".arx", ".cine", ".crm"),  # cinema cameras
        *(".eip", ".x3i", ".lri"),  # raws inside something else
        *(".tar", ".tgz", ".tbz2", ".txz", ".7z", ".rar"),
    }
)
"""What may be or hold raws, and is not opened."""

_WRAPPED: Final = frozenset(
    {
        *(".gz", ".bz2", ".xz", ".zst", ".lz4", ".7z", ".gpg"),
        *(".part", ".partial", ".crdownload", ".download", ".tmp"),
        *(".bak", ".old", ".orig"),
    }
)
"""What follows the suffix of a raw that is packed, a copy, or not there yet: ``DSC1.ARW.part``."""

ANNOTATION_SUFFIXES: Final = frozenset({".json"})
ARCHIVE_SUFFIX: Final = ".zip"


@dataclass(frozen=True)
class Discovery:
    """What the inputs hold.

    Parameters
    ----------
    raws, annotations
        Sorted by name.
    problems
        What could not be read, each with its mend; sorted by path.
    passed_over
        Files, met in folders and archives, that may be or hold raws and are not opened; sorted.
    """

    raws: tuple[Source, ...]
    annotations: tuple[Source, ...]
    problems: tuple[SourceError, ...]
    passed_over: tuple[str, ...] = ()


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


def discover(
    inputs: Sequence[str], *, annotation_suffixes: Collection[str] = ANNOTATION_SUFFIXES
) -> Discovery:
    """Find every raw and annotation file in folders, files, zip archives and URLs.

    Folders are walked to the bottom; hidden files, ``*.zarr`` and macOS' leftovers are skipped.
    Archives are read in place. A file given by itself is taken whatever its suffix is. A file
    reached twice appears once.

    Parameters
    ----------
    inputs
        Paths or fsspec URLs.
    annotation_suffixes
        What the names of annotation files end in, in small letters, with the dot.

    Raises
    ------
    UsageError
        Where there is no input, or one does not exist.
    """
    if not inputs:
        raise UsageError("no source given", mend="name a folder, a raw file, a .zip or a URL")
    wanted = {*RAW_SUFFIXES, *annotation_suffixes}
    listing = Listing(
        is_wanted=lambda name: _suffix(name) in {*wanted, ARCHIVE_SUFFIX},
        is_companion=lambda name: _suffix(name) in annotation_suffixes,
        is_noted=may_hold_raws,
    )
    listing.add(inputs)
    problems = list(listing.problems)
    raws: list[_Candidate] = []
    annotations: list[_Candidate] = []
    for found in listing.found:
        suffix = _suffix(found.relative)
        if suffix == ARCHIVE_SUFFIX:
            members, noted = _members(found, wanted, problems)
            listing.noted += noted
            for candidate in members:
                is_raw = _suffix(candidate.relative) in RAW_SUFFIXES
                (raws if is_raw else annotations).append(candidate)
        else:
            (annotations if suffix in annotation_suffixes else raws).append(_Candidate(found))
    prefixes = _prefixes(raws or annotations, listing.root_names)
    return Discovery(
        raws=_named(raws, prefixes),
        annotations=_named(annotations, prefixes),
        problems=tuple(sorted(problems, key=lambda problem: (problem.path, problem.message))),
        passed_over=tuple(sorted(map(printable, listing.noted))),
    )


def may_hold_raws(name: str) -> bool:
    """Whether a file that is not opened may be or hold camera raws, by its name."""
    path = PurePosixPath(name.lower())
    wrapped = path.suffix in _WRAPPED and _suffix(path.stem) in RAW_SUFFIXES
    kept_by_exiftool = path.suffix.removesuffix("_original") in RAW_SUFFIXES - {path.suffix}
    return path.suffix in _PASSED_OVER or wrapped or kept_by_exiftool


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _members(
    archive: Found, wanted: Collection[str], problems: list[SourceError]
) -> tuple[list[_Candidate], list[str]]:
    """Return an archive's files of the wanted suffixes, and names that may hold raws beside them.

    What is lost goes to `problems`.
    """
    label = printable(archive.location)
    try:
        listing = list_members(archive.location)
    except SourceError as error:
        problems.append(error)
        return [], []
    if not listing.complete:
        path = label if listing.cut_member is None else f"{label}{MEMBER_MARK}{listing.cut_member}"
        problems.append(UnreadableSourceError(listing.damage, path=path, mend=ARCHIVE_HINT))
    elif listing.damage:
        logger.warning("%s: %s", visible(label), visible(listing.damage))
    candidates = [_Candidate(archive, member) for member in listing.members]
    problems += [
        UnreadableSourceError(
            "an archive inside an archive is not opened",
            path=f"{label}{MEMBER_MARK}{candidate.member.name}",
            mend="unpack it and give what it holds, or leave it out",
        )
        for candidate in candidates
        if candidate.member and _suffix(candidate.relative) == ARCHIVE_SUFFIX
    ]
    candidates = [one for one in candidates if ".zarr/" not in one.relative.lower()]
    taken = [one for one in candidates if _suffix(one.relative) in wanted]
    return taken, [one.relative for one in candidates if may_hold_raws(one.relative)]


def _prefixes(candidates: Sequence[_Candidate], root_names: dict[str, str]) -> dict[str, str]:
    """Return the prefix of the names in each root: empty if there is only one root.

    Only roots that hold raws count, so that one more annotation file does not rename any raw.
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
    """Name the candidates; if two would have the same name, the later one gets a ``~2`` folder."""
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
