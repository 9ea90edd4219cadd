"""Bounded reads of TIFF directories and values. `tiff` gives them their meaning."""

from __future__ import annotations

import math
import struct
from typing import Final, NamedTuple, NoReturn

from pipeline.errors import CorruptRawError

MAX_DIRECTORIES: Final = 100
MAX_ENTRIES_PER_DIRECTORY: Final = 4096
MAX_EXTENTS: Final = 131_072
"""Most strips and tiles of one file; a 20 000-row raw with one row a strip needs 20 000."""

TIFF_HINT: Final = "copy the file again from the card or the archive, then run the same command"

MODEL: Final = 0x110
_SUB_IFDS: Final = 0x14A
ARW1_MODEL: Final = "DSLR-A100"

TYPE_SIZE: Final = dict(enumerate((1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4), start=1))
"""Bytes of one value of each TIFF field type."""

_INTEGER_CODE: Final = {1: "B", 3: "H", 4: "I", 13: "I"}
_RATIONAL: Final = 5
_NUMBER_CODE: Final = {5: "II", 10: "ii", 11: "f", 12: "d"}
_TEXT_TYPES: Final = (2, 7)
_MAX_TEXT: Final = 256


class TiffEntry(NamedTuple):
    """One directory entry; `length` counts values, `position` is the first byte of the value."""

    tag: int
    type: int
    length: int
    position: int


TiffDirectory = dict[int, TiffEntry]
"""Entries by tag number; of a tag given twice, the first."""


class TiffReader:
    """Bounded reads from the bytes of one file; remembers how far it had to go.

    Parameters
    ----------
    data
        The file, or its first part.
    order
        ``"<"`` or ``">"``.
    path
        Name of the file for error messages.
    """

    def __init__(self, data: memoryview, order: str, path: str) -> None:
        self.data = data
        self.size = len(data)
        self.order = order
        self.path = path
        self.end = 8
        self.extents_left = MAX_EXTENTS

    def refuse(self, message: str) -> NoReturn:
        """Raise the one error this module knows."""
        raise CorruptRawError(message, path=self.path, mend=TIFF_HINT)

    def require(self, what: str, start: int, length: int) -> None:
        """Refuse unless `length` bytes from byte `start` lie in the file."""
        stop = start + length
        if stop > self.size:
            self.refuse(
                f"{what} is at bytes {start} to {stop}, but the file ends at byte {self.size}: "
                "truncated or damaged"
            )
        self.end = max(self.end, stop)

    def first_directory(self) -> int:
        """Return where the header says that IFD0 is."""
        (offset,) = struct.unpack_from(self.order + "I", self.data, 4)
        return int(offset)

    def directory(self, label: str, offset: int) -> tuple[TiffDirectory, int]:
        """Return a directory's entries and the offset of the next one (0: none)."""
        if offset < 8:
            self.refuse(f"{label} is said to be at byte {offset}, inside the file's header")
        self.require(label, offset, 2)
        (count,) = struct.unpack_from(self.order + "H", self.data, offset)
        if count > MAX_ENTRIES_PER_DIRECTORY:
            self.refuse(
                f"{label} at byte {offset} claims {count} entries; no camera writes more than "
                f"{MAX_ENTRIES_PER_DIRECTORY}"
            )
        first = offset + 2
        stop = first + 12 * count
        self.require(label, first, 12 * count)
        entries: TiffDirectory = {}
        position = first + 8  # values of up to 4 bytes stand in the entry itself
        for tag, kind, length, value in struct.iter_unpack(
            self.order + "HHII", self.data[first:stop]
        ):
            inline = TYPE_SIZE.get(kind, 1) * length <= 4
            entries.setdefault(tag, TiffEntry(tag, kind, length, position if inline else value))
            position += 12
        following = 0
        if stop + 4 <= self.size:
            (following,) = struct.unpack_from(self.order + "I", self.data, stop)
        return entries, following

    def integers(self, directory: TiffDirectory, tag: int, limit: int) -> tuple[int, ...]:
        """Return up to `limit` unsigned values of a tag; empty where absent or of another type."""
        entry = directory.get(tag)
        if entry is None or entry.type not in _INTEGER_CODE:
            return ()
        count = min(entry.length, limit)
        self.require(f"the value of tag {tag:#06x}", entry.position, count * TYPE_SIZE[entry.type])
        layout = f"{self.order}{count}{_INTEGER_CODE[entry.type]}"
        return struct.unpack_from(layout, self.data, entry.position)

    def integer(self, directory: TiffDirectory, tag: int, default: int = 0) -> int:
        """Return the first value of a tag, or `default` where it has none."""
        values = self.integers(directory, tag, 1)
        return values[0] if values else default

    def extents(self, directory: TiffDirectory, tag: int) -> tuple[int, ...]:
        """Return all offsets or byte counts of a tag, within what one file may have."""
        entry = directory.get(tag)
        if entry is None:
            return ()
        self.extents_left -= entry.length
        if self.extents_left < 0:
            self.refuse(
                f"tag {tag:#06x} claims {entry.length} strips or tiles; more than {MAX_EXTENTS} "
                "in a file are not plausible"
            )
        return self.integers(directory, tag, entry.length)

    def rational(self, directory: TiffDirectory, tag: int) -> float | None:
        """Return the first fraction of a tag, or None where it is absent or divides by zero."""
        entry = directory.get(tag)
        if entry is None or entry.type != _RATIONAL or entry.length < 1:
            return None
        self.require(f"the value of tag {tag:#06x}", entry.position, 8)
        over, under = struct.unpack_from(self.order + "II", self.data, entry.position)
        return over / under if under else None

    def numbers(self, directory: TiffDirectory, tag: int, limit: int) -> tuple[float, ...]:
        """Return up to `limit` fractions or floats of a tag, nan where one divides by zero.

        Empty where the tag is absent or of another type.
        """
        entry = directory.get(tag)
        if entry is None or entry.type not in _NUMBER_CODE:
            return ()
        size = min(entry.length, limit) * TYPE_SIZE[entry.type]
        self.require(f"the value of tag {tag:#06x}", entry.position, size)
        values = self.data[entry.position : entry.position + size]
        found = struct.iter_unpack(self.order + _NUMBER_CODE[entry.type], values)
        return tuple(
            one[0] if len(one) == 1 else one[0] / one[1] if one[1] else math.nan for one in found
        )

    def raw_bytes(self, directory: TiffDirectory, tag: int, limit: int) -> bytes:
        """Return up to `limit` bytes of a tag of single bytes; empty where absent."""
        entry = directory.get(tag)
        if entry is None or TYPE_SIZE.get(entry.type) != 1:
            return b""
        length = min(entry.length, limit)
        self.require(f"the value of tag {tag:#06x}", entry.position, length)
        return bytes(self.data[entry.position : entry.position + length])

    def text(self, directory: TiffDirectory, tag: int) -> str:
        """Return a tag's text up to its NUL, stripped; empty where absent."""
        entry = directory.get(tag)
        if entry is None or entry.type not in _TEXT_TYPES:
            return ""
        raw = self.raw_bytes(directory, tag, _MAX_TEXT)
        return raw.split(b"\0", 1)[0].decode("utf-8", "replace").strip()


def walk_directories(reader: TiffReader) -> tuple[TiffDirectory, list[tuple[str, TiffDirectory]]]:
    """Return IFD0, and every directory that describes images, each once."""
    first = reader.first_directory()
    main, following = reader.directory("IFD0", first)
    found = [("IFD0", main)]
    visited = {first}
    # The A100's SubIFDs tag points at its pixels (LibRaw, case 330 of parse_tiff_ifd).
    is_arw1 = reader.text(main, MODEL) == ARW1_MODEL
    pending = [] if is_arw1 else _sub_directories(reader, "IFD0", main)
    for number in range(1, MAX_DIRECTORIES):
        if following == 0 or following in visited:
            break
        visited.add(following)
        chained = _chained_directory(reader, f"IFD{number}", following)
        if chained is None:
            break
        directory, following = chained
        found.append((f"IFD{number}", directory))
        pending += _sub_directories(reader, f"IFD{number}", directory)
    while pending:
        label, offset = pending.pop(0)
        if offset in visited:
            continue
        visited.add(offset)
        if len(visited) > MAX_DIRECTORIES:
            reader.refuse(f"it has more than {MAX_DIRECTORIES} directories")
        directory, _ = reader.directory(label, offset)
        found.append((label, directory))
        pending += _sub_directories(reader, label, directory)
    return main, found


def _chained_directory(
    reader: TiffReader, label: str, offset: int
) -> tuple[TiffDirectory, int] | None:
    """Return the next directory of the chain, or None where the pointer is a leftover.

    Some cameras leave junk where the last directory's "no more" should stand; LibRaw stops there
    too. A truncated file is still found: its images are named by directories before that.
    """
    end = reader.end
    try:
        directory, following = reader.directory(label, offset)
    except CorruptRawError:
        reader.end = end
        return None
    if any(entry.type not in TYPE_SIZE for entry in directory.values()):
        reader.end = end
        return None
    return directory, following


def _sub_directories(
    reader: TiffReader, label: str, directory: TiffDirectory
) -> list[tuple[str, int]]:
    offsets = reader.integers(directory, _SUB_IFDS, MAX_DIRECTORIES + 1)
    if len(offsets) > MAX_DIRECTORIES:
        reader.refuse(f"{label} claims more than {MAX_DIRECTORIES} SubIFDs")
    return [(f"{label}/SubIFD{number}", offset) for number, offset in enumerate(offsets) if offset]
