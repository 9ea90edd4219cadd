"""Lists what a zip archive holds, without its table of contents.

A zip keeps that table at its end. An archive that was cut off has none, but every member that was
written completely can be found by going from local header to local header (APPNOTE.TXT 4.3.7 to
4.3.9). Why this is not left to a library: docs/explanation/decisions.md.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import BinaryIO, Final, NamedTuple

from pipeline.errors import UnreadableSourceError
from pipeline.safe_text import printable

STORED: Final = 0
DEFLATED: Final = 8

LOCAL_HEADER: Final = struct.Struct("<4s5H3I2H")
LOCAL_SIGNATURE: Final = b"PK\x03\x04"
_DESCRIPTOR_SIGNATURE: Final = b"PK\x07\x08"
_DESCRIPTOR_32: Final = struct.Struct("<3I")
_DESCRIPTOR_64: Final = struct.Struct("<I2Q")
_CONTENTS_SIGNATURES: Final = (b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x08")
FLAG_ENCRYPTED: Final = 0x0001
_FLAG_DESCRIPTOR: Final = 0x0008
_FLAG_UTF8: Final = 0x0800
_ZIP64_EXTRA: Final = 0x0001
_IN_ZIP64_EXTRA: Final = 0xFFFFFFFF

BLOCK: Final = 1 << 20
_MAX_INFLATED_WHILE_SCANNING: Final = 1 << 32
"""Bytes. No raw inflates to more; beyond it the search for a member's end is given up."""
MAX_INFLATION: Final = 100
"""Highest ratio of unpacked to packed size of a member larger than a block. No raw compresses so
well; a file of zeros does."""
MAX_MEMBERS: Final = 500_000
"""Most members that are listed of an archive whose table of contents is lost."""


@dataclass(frozen=True)
class ArchiveMember:
    """Where one member is and how it is packed; plain values only.

    Parameters
    ----------
    name
        Label with POSIX slashes, safe to print and to encode: no control characters, no lone
        surrogates, no ``..``, not absolute.
    header_offset
        Byte of its local header, from the start of the archive.
    compressed_size, size
        Bytes in the archive, and unpacked.
    method
        ``STORED`` or ``DEFLATED``; others are listed but cannot be read.
    crc32
        Of the unpacked bytes.
    encrypted
        Whether a password is needed.
    mtime_ns
        The archive's DOS time read as UTC (zip records no zone), nanoseconds since 1970, or None.
    """

    name: str
    header_offset: int
    compressed_size: int
    size: int
    method: int
    crc32: int
    encrypted: bool
    mtime_ns: int | None


@dataclass(frozen=True)
class ArchiveListing:
    """What an archive holds.

    Parameters
    ----------
    members
        Files wholly present, in the archive's order; folders, hidden files and macOS' resource
        forks are left out.
    complete
        Whether every member the archive was made with is known. False for one that was cut.
    damage
        What is wrong with the archive; empty for a sound one.
    cut_member
        Name of the member the archive ends inside, or None.
    """

    members: tuple[ArchiveMember, ...]
    complete: bool
    damage: str = ""
    cut_member: str | None = None


@dataclass(frozen=True)
class _LocalHeader:
    name: str
    offset: int
    data_offset: int
    flags: int
    method: int
    time: tuple[int, int]
    crc32: int
    compressed_size: int
    size: int
    is_zip64: bool


class _Described(NamedTuple):
    crc32: int
    compressed_size: int
    size: int
    end: int  # byte after the descriptor


class _CutError(Exception):
    """The archive ends before this member does."""


class _LostError(Exception):
    """It cannot be found out where this member ends."""


def member_label(name: str) -> str:
    """Return a member's name as a label that is safe wherever it is shown or joined to a path."""
    is_folder = name.endswith(("/", "\\"))
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    safe = "/".join("__" if part == ".." else printable(part) for part in parts)
    return safe + "/" if is_folder else safe


def member_labels(name: bytes) -> set[str]:
    """The labels a member of that name may have: not every writer states the encoding of names."""
    spellings = (name.decode("utf-8", "surrogateescape"), name.decode("cp437"))
    return {member_label(spelling) for spelling in spellings}


def files_only(members: tuple[ArchiveMember, ...]) -> tuple[ArchiveMember, ...]:
    """Leave out folders, hidden files and macOS' resource forks."""
    return tuple(member for member in members if _is_wanted(member.name))


def _is_wanted(name: str) -> bool:
    if not name or name.endswith("/"):
        return False
    return not any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def time_ns(year: int, month: int, day: int, hour: int, minute: int, second: int) -> int | None:
    """Return nanoseconds since 1970 of a zip's time read as UTC, or None if it is invalid."""
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None
    return int(moment.timestamp()) * 1_000_000_000


def _dos_time_ns(date: int, time: int) -> int | None:
    day = (date >> 9) + 1980, date >> 5 & 15, date & 31
    return time_ns(*day, time >> 11, time >> 5 & 63, (time & 31) * 2)


class ZipScan:
    """One pass over an archive from local header to local header."""

    def __init__(self, file: BinaryIO, path: str) -> None:
        self.file = file
        self.path = path
        self.end = file.seek(0, 2)
        self.offset = 0
        self.inflating_pays = False

    def listing(self) -> ArchiveListing:
        """Return every complete member, and how the archive ends or which member it is cut in."""
        members: list[ArchiveMember] = []
        while (signature := self._at(self.offset, 4)) == LOCAL_SIGNATURE:
            header = None
            if len(members) == MAX_MEMBERS:
                raise UnreadableSourceError(
                    f"more than {MAX_MEMBERS:,} members in an archive are not believed",
                    path=printable(self.path),
                    mend="unpack it yourself and give the folder",
                )
            try:
                header = self._header()
                members.append(self._member(header))
            except _CutError:
                return self._cut(members, header.name if header else None)
            except _LostError:
                return self._lost(members, header.name if header else None)
        files = files_only(tuple(members))
        if signature in _CONTENTS_SIGNATURES:
            damage = f"its table of contents is cut or damaged; all {len(files)} files were found"
            return ArchiveListing(files, complete=True, damage=damage)
        if len(signature) < 4:
            return self._cut(members, None)
        return self._lost(members, None)

    def _cut(self, members: list[ArchiveMember], name: str | None) -> ArchiveListing:
        files = files_only(tuple(members))
        where = f"inside {name}" if name else "between two files"
        damage = f"cut off: the archive ends at byte {self.end}, {where}, after {len(files)} files"
        return ArchiveListing(files, complete=False, damage=damage, cut_member=name)

    def _lost(self, members: list[ArchiveMember], name: str | None) -> ArchiveListing:
        files = files_only(tuple(members))
        where = f"the end of {name} cannot be found" if name else "no file header there"
        damage = (
            f"damaged at byte {self.offset} of {self.end} ({where}); "
            f"only the {len(files)} files before it can be listed"
        )
        return ArchiveListing(files, complete=False, damage=damage, cut_member=name)

    def _at(self, offset: int, length: int) -> bytes:
        self.file.seek(offset)
        return self.file.read(length)

    def _header(self) -> _LocalHeader:
        fixed = self._at(self.offset, LOCAL_HEADER.size)
        if len(fixed) < LOCAL_HEADER.size:
            raise _CutError
        fields = LOCAL_HEADER.unpack(fixed)
        _, _, flags, method, time, date, crc32, compressed, size, name_length, extra_length = fields
        rest = self.file.read(name_length + extra_length)
        if len(rest) < name_length + extra_length:
            raise _CutError
        wide = _zip64_field(rest[name_length:])
        if wide is not None:
            compressed, size = _zip64_sizes(wide, compressed, size)
        encoding = "utf-8" if flags & _FLAG_UTF8 else "cp437"
        return _LocalHeader(
            name=member_label(rest[:name_length].decode(encoding, "surrogateescape")),
            offset=self.offset,
            data_offset=self.offset + LOCAL_HEADER.size + len(rest),
            flags=flags,
            method=method,
            time=(date, time),
            crc32=crc32,
            compressed_size=compressed,
            size=size,
            is_zip64=wide is not None,
        )

    def _member(self, header: _LocalHeader) -> ArchiveMember:
        """Return the member of a header, and move on to the byte after it."""
        if header.flags & _FLAG_DESCRIPTOR:
            found = self._described(header)
        else:
            end = header.data_offset + header.compressed_size
            found = _Described(header.crc32, header.compressed_size, header.size, end)
        if found.end > self.end:
            raise _CutError
        self.offset = found.end
        return ArchiveMember(
            name=header.name,
            header_offset=header.offset,
            compressed_size=found.compressed_size,
            size=found.size,
            method=header.method,
            crc32=found.crc32,
            encrypted=bool(header.flags & FLAG_ENCRYPTED),
            mtime_ns=_dos_time_ns(*header.time),
        )

    def _described(self, header: _LocalHeader) -> _Described:
        """Return CRC, sizes and end of a member that was written without knowing them.

        Its descriptor states the packed size, which is the distance back to its first byte. So a
        search for the descriptor's signature with the right distance finds it quickly and surely.
        Writers may omit the signature: then the end of the data is found by inflating them.
        """
        can_inflate = header.method == DEFLATED and not header.flags & FLAG_ENCRYPTED
        if can_inflate and self.inflating_pays:
            return self._end_by_inflating(header)
        for position in self._find_all(_DESCRIPTOR_SIGNATURE, header.data_offset):
            if found := self._descriptor(header, position):
                return found
        if not can_inflate:
            raise _CutError
        found = self._end_by_inflating(header)
        self.inflating_pays = True  # no signatures in this archive: search the rest only once
        return found

    def _find_all(self, needle: bytes, start: int) -> Iterator[int]:
        overlap = len(needle) - 1
        while len(block := self._at(start, BLOCK + overlap)) > overlap:
            at = block.find(needle)
            while at >= 0:
                yield start + at
                at = block.find(needle, at + 1)
            start += BLOCK

    def _descriptor(self, header: _LocalHeader, position: int) -> _Described | None:
        """Return what a data descriptor at `position` says, if one for this member is there."""
        distance = position - header.data_offset
        is_wide = header.is_zip64 or distance >= _IN_ZIP64_EXTRA
        layout = _DESCRIPTOR_64 if is_wide else _DESCRIPTOR_32
        block = self._at(position, 4 + layout.size)
        start = 4 if block.startswith(_DESCRIPTOR_SIGNATURE) else 0
        if len(block) < start + layout.size:
            return None
        crc32, compressed_size, size = layout.unpack_from(block, start)
        if compressed_size != distance:
            return None
        return _Described(crc32, compressed_size, size, position + start + layout.size)

    def _end_by_inflating(self, header: _LocalHeader) -> _Described:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        position, inflated = header.data_offset, 0
        block = b""
        while not inflater.eof:
            if not block:
                block = self._at(position, BLOCK)
                position += len(block)
            try:
                output = inflater.decompress(block, BLOCK)
            except zlib.error:
                raise _LostError from None
            if not block and not output:
                raise _CutError
            inflated += len(output)
            packed = position - header.data_offset
            most = min(_MAX_INFLATED_WHILE_SCANNING, MAX_INFLATION * max(packed, BLOCK))
            if inflated > most:
                raise _LostError
            block = inflater.unconsumed_tail
        end = position - len(inflater.unused_data)
        found = self._descriptor(header, end)
        if found is None:
            raise _CutError if self.end - end < 4 + _DESCRIPTOR_64.size else _LostError
        return found


def _zip64_field(extra: bytes) -> bytes | None:
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == _ZIP64_EXTRA:
            return extra[at + 4 : at + 4 + length]
        at += 4 + length
    return None


def _zip64_sizes(field: bytes, compressed_size: int, size: int) -> tuple[int, int]:
    """Return both sizes, from the zip64 field where the header has no room for them."""
    wide = [number for (number,) in struct.iter_unpack("<Q", field[: len(field) // 8 * 8])]
    if size == _IN_ZIP64_EXTRA and wide:
        size = wide.pop(0)
    if compressed_size == _IN_ZIP64_EXTRA and wide:
        compressed_size = wide.pop(0)
    return compressed_size, size
