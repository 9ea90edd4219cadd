"""A minimal TIFF writer: directories first, pixels last, as cameras write them.

Only what camera raws need: nested directories, out-of-line values, raw strips, either byte
order. Offsets are computed in one pass and written in a second, so the layout depends only on the
input.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction
from typing import Literal

ByteOrder = Literal["<", ">"]

_HEADER_BYTES = 8
_PIXEL_ALIGNMENT = 512  # cameras start the strip on a sector of the card


class Kind(IntEnum):
    """Field types of TIFF 6.0, section 2."""

    BYTE = 1
    ASCII = 2
    SHORT = 3
    LONG = 4
    RATIONAL = 5
    UNDEFINED = 7
    SRATIONAL = 10


_FORMATS = {Kind.SHORT: "H", Kind.LONG: "I"}
_RATIONAL_FORMATS = {Kind.RATIONAL: "I", Kind.SRATIONAL: "i"}


@dataclass(frozen=True)
class Field:
    """One directory entry whose value is known before the layout is.

    Parameters
    ----------
    kind
        TIFF field type.
    value
        Text for ASCII, bytes for BYTE and UNDEFINED, numbers otherwise.
    """

    kind: Kind
    value: str | bytes | Sequence[int] | Sequence[Fraction]

    def encode(self, order: ByteOrder) -> bytes:
        """The value as it stands in the file, in the file's byte order."""
        if isinstance(self.value, str):
            return self.value.encode("ascii") + b"\0"
        if isinstance(self.value, bytes):
            return self.value
        if self.kind in _RATIONAL_FORMATS:
            pairs = [part for v in self.value for part in (v.numerator, v.denominator)]
            return struct.pack(f"{order}{len(pairs)}{_RATIONAL_FORMATS[self.kind]}", *pairs)
        return struct.pack(f"{order}{len(self.value)}{_FORMATS[self.kind]}", *self.value)

    @property
    def count(self) -> int:
        """Number of values, in units of the field type."""
        return len(self.value) + (1 if isinstance(self.value, str) else 0)


def ascii_field(text: str) -> Field:
    """Text field, NUL-terminated."""
    return Field(Kind.ASCII, text)


def byte_field(value: bytes) -> Field:
    """Field of 8-bit numbers."""
    return Field(Kind.BYTE, value)


def undefined_field(value: bytes) -> Field:
    """Opaque bytes, such as a maker note."""
    return Field(Kind.UNDEFINED, value)


def short_field(*values: int) -> Field:
    """Field of unsigned 16-bit numbers."""
    return Field(Kind.SHORT, values)


def long_field(*values: int) -> Field:
    """Field of unsigned 32-bit numbers."""
    return Field(Kind.LONG, values)


def rational_field(*values: float | Fraction) -> Field:
    """Field of unsigned fractions; a float is rounded to a denominator of at most 10000."""
    return Field(Kind.RATIONAL, [Fraction(v).limit_denominator(10_000) for v in values])


def signed_rational_field(*values: float | Fraction) -> Field:
    """Field of signed fractions, as colour matrices use; denominator at most 10000."""
    return Field(Kind.SRATIONAL, [Fraction(v).limit_denominator(10_000) for v in values])


@dataclass(frozen=True)
class Strip:
    """Pixel bytes, written behind all directories; the field holds their offset."""

    pixels: bytes


@dataclass(frozen=True)
class Directory:
    """A TIFF directory: tag -> field, nested directory, or strip."""

    entries: dict[int, Field | Directory | Strip]


def tiff_bytes(root: Directory, *, byte_order: ByteOrder) -> bytes:
    """Serialise a directory tree.

    Parameters
    ----------
    root
        IFD0; nested directories and strips are values of its entries.
    byte_order
        ``"<"`` (II) or ``">"`` (MM).

    Returns
    -------
    bytes
        The whole file. The order is: header, directories, strips.
    """
    offsets: dict[int, int] = {}
    position = _HEADER_BYTES
    for directory in _directories(root):
        offsets[id(directory)] = position
        position += _directory_size(directory, byte_order)
    strips = [e for d in _directories(root) for e in d.entries.values() if isinstance(e, Strip)]
    for strip in strips:
        # A maker note has no strips, so it is never padded.
        position = -(-position // _PIXEL_ALIGNMENT) * _PIXEL_ALIGNMENT
        offsets[id(strip)] = position
        position += len(strip.pixels)

    magic = b"II" if byte_order == "<" else b"MM"
    out = bytearray(magic + struct.pack(f"{byte_order}HI", 42, _HEADER_BYTES))
    for directory in _directories(root):
        out += _directory_bytes(directory, offsets, byte_order)
    for strip in strips:
        out += bytes(offsets[id(strip)] - len(out))
        out += strip.pixels
    return bytes(out)


def _directories(root: Directory) -> Iterator[Directory]:
    yield root
    for entry in root.entries.values():
        if isinstance(entry, Directory):
            yield from _directories(entry)


def _payload(
    entry: Field | Directory | Strip, offsets: dict[int, int], order: ByteOrder
) -> tuple[Kind, int, bytes]:
    if isinstance(entry, Field):
        return entry.kind, entry.count, entry.encode(order)
    return Kind.LONG, 1, struct.pack(f"{order}I", offsets.get(id(entry), 0))


def _directory_size(directory: Directory, order: ByteOrder) -> int:
    size = 2 + 12 * len(directory.entries) + 4
    for entry in directory.entries.values():
        _, _, value = _payload(entry, {}, order)
        size += len(value) + len(value) % 2 if len(value) > 4 else 0
    return size


def _directory_bytes(directory: Directory, offsets: dict[int, int], order: ByteOrder) -> bytes:
    head = bytearray(struct.pack(f"{order}H", len(directory.entries)))
    tail = bytearray()
    tail_start = offsets[id(directory)] + 2 + 12 * len(directory.entries) + 4
    for tag, entry in sorted(directory.entries.items()):
        kind, count, value = _payload(entry, offsets, order)
        head += struct.pack(f"{order}HHI", tag, kind, count)
        if len(value) <= 4:
            head += value.ljust(4, b"\0")
        else:
            head += struct.pack(f"{order}I", tail_start + len(tail))
            tail += value + b"\0" * (len(value) % 2)
    return bytes(head + bytes(4) + tail)
