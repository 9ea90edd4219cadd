"""Members of .zip archives, read in place: whole archives, and ones an interrupted download cut.

The table of contents at the archive's end is used if it is valid; otherwise `cut_zip` lists the
members without it. Nothing is ever extracted to disk, so members' names are labels only.
"""

from __future__ import annotations

import struct
import sys
import zipfile
import zlib
from collections.abc import Sequence
from typing import BinaryIO, Final, cast

from pipeline.errors import CorruptRawError, UnreadableSourceError
from pipeline.safe_text import printable
from pipeline.sources.cut_zip import (
    BLOCK,
    DEFLATED,
    FLAG_ENCRYPTED,
    LOCAL_HEADER,
    LOCAL_SIGNATURE,
    MAX_INFLATION,
    STORED,
    ArchiveListing,
    ArchiveMember,
    ZipScan,
    files_only,
    member_label,
    member_labels,
    time_ns,
)
from pipeline.sources.location import open_location, reading

__all__ = ["ArchiveListing", "ArchiveMember", "list_members", "read_member"]

_METHOD_NAMES: Final = {9: "deflate64", 12: "bzip2", 14: "lzma", 93: "zstandard", 95: "xz"}

MAX_CONTENTS_BYTES: Final = 1 << 24
"""Most bytes of a table of contents that are read. That of 100,000 members has ten million."""

_END_SIGNATURE: Final = b"PK\5\6"
_MAX_END_BYTES: Final = 22 + 0xFFFF
"""An archive's last record with the longest comment."""
_IN_ZIP64_RECORD: Final = 0xFFFF

ARCHIVE_HINT: Final = "get the archive again (or resume the download), then run the same command"


def list_members(path: str) -> ArchiveListing:
    """List the files of a zip archive, with or without its table of contents.

    Parameters
    ----------
    path
        Local path or fsspec URL.

    Raises
    ------
    UnreadableSourceError
        Where the archive cannot be opened, holds more members than are believed, or is no zip
        archive at all.
    """
    with reading(path, path), open_location(path) as file:
        return _list(file, path)


def read_member(path: str, member: ArchiveMember, max_bytes: int) -> bytes:
    """Read one member and check its CRC-32.

    Opens the archive anew, so any number of threads and processes may read at once.

    Parameters
    ----------
    path
        Local path or fsspec URL of the archive.
    member
        From `list_members`.
    max_bytes
        Most bytes the unpacked member may have; neither its declared nor its actual size is
        trusted beyond that.

    Raises
    ------
    UnreadableSourceError
        Where the archive cannot be opened or ends inside the member, or the member is encrypted,
        packed by another method, or larger than `max_bytes`.
    CorruptRawError
        Where the bytes do not unpack to what the archive declares, or are another member's.
    """
    label = f"{printable(path)}!/{member.name}"
    _refuse_unsupported(member, label, max_bytes)
    with reading(path, label), open_location(path) as file:
        packed = _read_packed(file, member, label)
    data = packed if member.method == STORED else _inflate(packed, member, label)
    if len(data) != member.size:
        raise _damaged(f"expected {member.size} bytes, found {len(data)} bytes", label)
    if (found := zlib.crc32(data)) != member.crc32:
        raise _damaged(f"CRC-32 expected {member.crc32:08x}, found {found:08x}", label)
    return data


def read_member_start(path: str, member: ArchiveMember, nbytes: int) -> bytes:
    """At most the first `nbytes` of a member, without a checksum; raises as `read_member` does."""
    label = f"{printable(path)}!/{member.name}"
    _refuse_unsupported(member, label, sys.maxsize)
    with reading(path, label), open_location(path) as file:
        packed = _read_packed(file, member, label, at_most=nbytes)
    if member.method == STORED:
        return packed
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, nbytes)
    except zlib.error as error:
        raise _damaged(str(error), label) from error


def _damaged(what: str, label: str) -> CorruptRawError:
    return CorruptRawError(f"damaged in the archive: {what}", path=label, mend=ARCHIVE_HINT)


def _list(file: BinaryIO, path: str) -> ArchiveListing:
    start = file.read(4)
    listing = _from_contents(file, starts_with_member=start == LOCAL_SIGNATURE)
    if listing is not None:
        return listing
    if start != LOCAL_SIGNATURE:
        size = file.seek(0, 2)
        found = f"starts with {start!r}" if size else "is empty"
        raise UnreadableSourceError(
            f"not a zip archive: expected a zip header, but the file ({size} bytes) {found}",
            path=printable(path),
            mend=ARCHIVE_HINT,
        )
    return ZipScan(file, path).listing()


class _Bounded:
    """An archive as zipfile reads it. A table of contents that claims to be huge is refused."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, nbytes: int = -1) -> bytes:
        if nbytes > MAX_CONTENTS_BYTES:
            raise zipfile.BadZipFile
        return self._file.read(nbytes)


def _from_contents(file: BinaryIO, *, starts_with_member: bool) -> ArchiveListing | None:
    """Return the listing by the table of contents, or None where it is missing or broken."""
    try:
        with zipfile.ZipFile(cast(BinaryIO, _Bounded(file))) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error):
        return None
    # An archive that was cut just after a zip inside it ends with that zip's table of contents.
    if starts_with_member and not any(info.header_offset == 0 for info in infos):
        return None
    if _overlap(infos) or not _is_counted(file, len(infos)):
        return None
    members = tuple(_member_from_info(info) for info in infos)
    return ArchiveListing(files_only(members), complete=True)


def _is_counted(file: BinaryIO, members: int) -> bool:
    """Whether the archive's last record counts so many members, which zipfile does not check.

    If a comment's length in the table is wrong, zipfile takes all further members for that comment.
    """
    file.seek(max(0, file.seek(0, 2) - _MAX_END_BYTES))
    tail = file.read(_MAX_END_BYTES)
    at = tail.rfind(_END_SIGNATURE)
    counted = int.from_bytes(tail[at + 10 : at + 12], "little")
    return counted in (members % 0x10000, _IN_ZIP64_RECORD)


def _overlap(infos: Sequence[zipfile.ZipInfo]) -> bool:
    """Whether members share bytes: zip bombs use one gigabyte of data for a thousand members."""
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset < end:
            return True
        end = info.header_offset + LOCAL_HEADER.size + info.compress_size
    return False


def _member_from_info(info: zipfile.ZipInfo) -> ArchiveMember:
    return ArchiveMember(
        # Not `filename`: how zipfile cleans names differs from version to version.
        name=member_label(info.orig_filename),
        header_offset=info.header_offset,
        compressed_size=info.compress_size,
        size=info.file_size,
        method=info.compress_type,
        crc32=info.CRC,
        encrypted=bool(info.flag_bits & FLAG_ENCRYPTED),
        mtime_ns=time_ns(*info.date_time),
    )


def _refuse_unsupported(member: ArchiveMember, label: str, max_bytes: int) -> None:
    reason, mend = "", "unpack the archive yourself and give the folder"
    if member.encrypted:
        reason = "the member is encrypted"
    elif member.method not in (STORED, DEFLATED):
        method = _METHOD_NAMES.get(member.method, f"number {member.method}")
        reason = f"packed by a method that is not supported ({method}); expected stored or deflated"
    elif member.size > max_bytes or (
        member.method == STORED and member.compressed_size > max_bytes
    ):
        reason = f"it unpacks to {member.size} bytes; more than {max_bytes} are not accepted"
        mend = "leave it out, or unpack it yourself after checking what it is"
    elif member.size > MAX_INFLATION * max(member.compressed_size, BLOCK):
        reason = (
            f"it unpacks to {member.size} bytes, {MAX_INFLATION} times its size and more: a bomb"
        )
        mend = "leave it out, or unpack it yourself after checking what it is"
    if reason:
        raise UnreadableSourceError(reason, path=label, mend=mend)


def _read_packed(
    file: BinaryIO, member: ArchiveMember, label: str, *, at_most: int = sys.maxsize
) -> bytes:
    end = file.seek(0, 2)
    file.seek(min(member.header_offset, end))  # seek fails for offsets near 2**64
    fixed = file.read(LOCAL_HEADER.size)
    if not fixed.startswith(LOCAL_SIGNATURE) or len(fixed) < LOCAL_HEADER.size:
        raise UnreadableSourceError(
            f"the archive has no member at byte {member.header_offset}: it is cut, damaged, or "
            "still being downloaded",
            path=label,
            mend=ARCHIVE_HINT,
        )
    name_length, extra_length = LOCAL_HEADER.unpack(fixed)[-2:]
    name = file.read(name_length)
    if member.name not in member_labels(name):
        # The content is another file's, so the annotation of this name would not fit it.
        found = printable(name.decode("utf-8", "surrogateescape"))
        raise _damaged(f"at its place is a member called {found}", label)
    start = member.header_offset + LOCAL_HEADER.size + name_length + extra_length
    stop = start + member.compressed_size
    if stop > end:  # checked first, so that memory is not allocated for a false size
        raise UnreadableSourceError(
            f"cut off: it is at bytes {start} to {stop}, but the archive ends at byte {end}",
            path=label,
            mend=ARCHIVE_HINT,
        )
    file.seek(start)
    return file.read(min(member.compressed_size, at_most))


def _inflate(packed: bytes, member: ArchiveMember, label: str) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        # One byte more than declared is enough to see that the declared size is wrong.
        data = inflater.decompress(packed, member.size + 1)
    except zlib.error as error:
        raise _damaged(str(error), label) from error
    if len(data) != member.size or not inflater.eof:
        found = f"{len(data)} bytes" if len(data) < member.size else "more"
        raise _damaged(f"expected {member.size} bytes unpacked, found {found}", label)
    return data
