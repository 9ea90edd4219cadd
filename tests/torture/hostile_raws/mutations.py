"""Ways to spoil a raw, each a function of a random generator and a good file.

Nothing here is read by `pipeline.raw.tiff`: the walk over directories is its own, so that a mistake
there cannot hide a place from the mutations.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

Random = np.random.Generator

#: How a file that was accepted with other pixels than the good one is judged:
#: a header may make another valid raw of it, image data carry no checksum, a loss has no excuse.
Judgement = Literal["header", "data", "loss"]

HEADER_BYTES = 64 * 1024

_SUB_IFDS, _EXIF, _MAKER_NOTE, _STRIPS, _COUNTS = 0x14A, 0x8769, 0x927C, 0x111, 0x117
_CFA_PATTERN = 0x828E
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}

#: What black, white, colour and frame depend on: CFA, Sony's curve, levels, balance and crop,
#: Nikon's balance, black level, crop, compression and linearisation, and the same of a DNG.
_SONY_TAGS = (0x828D, 0x828E, 0x7010, 0x7310, 0x7313, 0x74C7, 0x74C8)
_NIKON_TAGS = (0x000C, 0x003D, 0x0045, 0x0093, 0x0096)
_DNG_TAGS = (0xC619, 0xC61A, 0xC61D, 0xC61F, 0xC620, 0xC621, 0xC622, 0xC628, 0xC65B, 0xC68D)
LEVEL_TAGS = frozenset({*_SONY_TAGS, *_NIKON_TAGS, *_DNG_TAGS})


@dataclass(frozen=True)
class Entry:
    """One entry of a directory.

    Attributes
    ----------
    directory, tag
        Where it is and what it is.
    at
        Byte of the entry: tag (2), type (2), count (4), value or its offset (4).
    kind, count
        TIFF type and number of values.
    value_at, nbytes
        Where the value itself is.
    order
        ``"<"`` or ``">"``.
    """

    directory: str
    tag: int
    at: int
    kind: int
    count: int
    value_at: int
    nbytes: int
    order: str

    def __str__(self) -> str:
        return f"{self.directory} tag {self.tag:#06x} at byte {self.at}"


@dataclass(frozen=True)
class Seed:
    """A good raw and where its parts are.

    Attributes
    ----------
    entries
        Every entry of every directory, maker note included.
    pixels
        First byte of the image data, and the byte after the last.
    row_bytes
        Bytes of a row of image data; 0 where rows have no fixed length.
    """

    name: str
    suffix: str
    data: bytes
    entries: tuple[Entry, ...]
    pixels: tuple[int, int]
    row_bytes: int

    @classmethod
    def of(cls, name: str, suffix: str, data: bytes, *, row_bytes: int = 0) -> Seed:
        """Find the parts of a file."""
        order = "<" if data[:2] == b"II" else ">"
        (first,) = struct.unpack_from(order + "I", data, 4)
        entries = tuple(_walk(data, "IFD0", first, 0, order))
        own = {e.tag: e for e in entries if e.directory == _raw_directory(entries)}
        starts, counts = (_integers(data, own[tag]) for tag in (_STRIPS, _COUNTS))
        return cls(name, suffix, data, entries, (starts[0], starts[-1] + counts[-1]), row_bytes)

    @property
    def order(self) -> str:
        """``"<"`` or ``">"``."""
        return "<" if self.data[:2] == b"II" else ">"

    def entry(self, tag: int) -> Entry:
        """The raw image's own entry of a tag."""
        raw = _raw_directory(self.entries)
        return next(e for e in self.entries if e.tag == tag and e.directory == raw)

    @property
    def header(self) -> int:
        """Bytes before the image data, at most the first 64 KB."""
        return min(self.pixels[0], HEADER_BYTES)


def _raw_directory(entries: Sequence[Entry]) -> str:
    return next(e.directory for e in entries if e.tag == _CFA_PATTERN)


def _walk(data: bytes, label: str, at: int, base: int, order: str) -> Iterator[Entry]:
    (count,) = struct.unpack_from(order + "H", data, base + at)
    for number in range(count):
        place = base + at + 2 + 12 * number
        tag, kind, length, value = struct.unpack_from(order + "HHII", data, place)
        nbytes = _TYPE_BYTES.get(kind, 1) * length
        value_at = place + 8 if nbytes <= 4 else base + value
        entry = Entry(label, tag, place, kind, length, value_at, nbytes, order)
        yield entry
        if tag in (_SUB_IFDS, _EXIF):
            for child, offset in enumerate(_integers(data, entry)):
                yield from _walk(data, f"{label}/{tag:#x}.{child}", offset, base, order)
        elif tag == _MAKER_NOTE and data[value_at : value_at + 6] == b"Nikon\0":
            start = value_at + 10
            own = "<" if data[start : start + 2] == b"II" else ">"
            (first,) = struct.unpack_from(own + "I", data, start + 4)
            yield from _walk(data, f"{label}/maker note", first, start, own)


def _integers(data: bytes, entry: Entry) -> tuple[int, ...]:
    code = {1: "B", 3: "H", 4: "I", 13: "I"}[entry.kind]
    return struct.unpack_from(f"{entry.order}{entry.count}{code}", data, entry.value_at)


Change = Callable[[Random, Seed, Sequence[Seed]], tuple[bytes, str]]


@dataclass(frozen=True)
class Mutator:
    """One kind of fault.

    Attributes
    ----------
    row
        Its line in the table.
    count
        How many a full campaign tries.
    judgement
        See `Judgement`.
    change
        (random, seed, all seeds) -> the spoilt file, and what was done to it.
    """

    row: str
    count: int
    judgement: Judgement
    change: Change


def _put(data: bytes, at: int, part: bytes) -> bytes:
    return data[:at] + part + data[at + len(part) :]


def _pick(random: Random, seed: Seed) -> Entry:
    return seed.entries[int(random.integers(len(seed.entries)))]


def flip_header_bit(random: Random, seed: Seed, _: Sequence[Seed]) -> tuple[bytes, str]:
    at, bit = int(random.integers(seed.header)), int(random.integers(8))
    return _put(seed.data, at, bytes([seed.data[at] ^ 1 << bit])), f"bit {bit} of byte {at}"


def flip_entry_bit(random: Random, seed: Seed, _: Sequence[Seed]) -> tuple[bytes, str]:
    entry = _pick(random, seed)
    at, bit = entry.at + int(random.integers(12)), int(random.integers(8))
    return _put(seed.data, at, bytes([seed.data[at] ^ 1 << bit])), f"bit {bit} of {entry}, +{at}"


def random_entry_field(random: Random, seed: Seed, _: Sequence[Seed]) -> tuple[bytes, str]:
    """Tag, type, count or value of an entry replaced by random bytes."""
    entry = _pick(random, seed)
    start, length = ((0, 2), (2, 2), (4, 4), (8, 4))[int(random.integers(4))]
    noise = random.bytes(length)
    return _put(seed.data, entry.at + start, noise), f"{noise.hex()} at +{start} of {entry}"


_SMALL_NUMBERS = (0, 1, 2, 7, 21, 255, 256, 32_767, 32_768, 65_535, 65_536, 100_000)
_ABSURD = (*_SMALL_NUMBERS, 2**24, 2**31 - 1, 2**31, 2**32 - 12, 2**32 - 1)

#: Width, height, bits, compression, photometric, strips, rows a strip, samples, planes.
_IMAGE_TAGS = (0x100, 0x101, 0x102, 0x103, 0x106, 0x111, 0x115, 0x116, 0x117, 0x11C)


def _set(data: bytes, entry: Entry, value: int) -> bytes:
    """The entry as one LONG with a value in place."""
    return _put(data, entry.at + 2, struct.pack(entry.order + "HII", 4, 1, value))


def absurd_value(random: Random, seed: Seed, _: Sequence[Seed]) -> tuple[bytes, str]:
    entry = seed.entry(int(random.choice(_IMAGE_TAGS)))
    value = int(random.choice(_ABSURD))
    return _set(seed.data, entry, value), f"{value} in {entry}"


def enormous(random: Random, seed: Seed, _: Sequence[Seed]) -> tuple[bytes, str]:
    """100,000 x 100,000 pixels and other sizes that must never be allocated."""
    sizes = (100_000, 65_535, 65_536 + 64, 40_000, 32_768, 30_000, 16_000)
    width, height = int(random.choice(sizes)), int(random.choice(sizes))
    data = _set(_set(seed.data, seed.entry(0x100), width), seed.entry(0x101), height)
    told = f"{width}x{height}"
    if random.random() < 0.5:  # with a strip that is said to hold them
        nbytes = min(2**32 - 1, width * height * int(random.integers(1, 3)))
        data, told = _set(data, seed.entry(_COUNTS), nbytes), f"{told} in {nbytes} bytes"
    return data, told


def absurd_bits(random: Random, seed: Seed, _: Sequence[Seed]) -> tuple[bytes, str]:
    bits = int(random.choice([0, 1, 8, 10, 12, 13, 15, 16, 17, 24, 31, 32, 64, 65_535]))
    samples = int(random.choice([0, 1, 1, 1, 2, 3, 4, 65_535]))
    data = _set(_set(seed.data, seed.entry(0x102), bits), seed.entry(0x115), samples)
    return data, f"{bits} bits a sample, {samples} samples a pixel"


def absurd_offset(random: Random, seed: Seed, _: Sequence[Seed]) -> tuple[bytes, str]:
    """A strip, a directory or a value that is elsewhere: at 0, itself, outside, near 2^32."""
    far = [e for e in seed.entries if e.nbytes > 4 or e.tag in (_SUB_IFDS, _EXIF, _STRIPS)]
    entry = far[int(random.integers(len(far)))]
    size = len(seed.data)
    choices = (0, 4, 8, entry.at, entry.at - 2, seed.pixels[0], size - 13, size - 1, size)
    value = int(random.choice([*choices, size + 1, 2**31, 2**32 - 16, 2**32 - 1]))
    return _put(seed.data, entry.at + 8, struct.pack(entry.order + "I", value)), (
        f"offset {value} in {entry}"
    )


def recursive(random: Random, seed: Seed, _: Sequence[Seed]) -> tuple[bytes, str]:
    """A directory that contains or follows itself, its parent, or a chain of new ones."""
    data, order = seed.data, seed.order
    links = [e for e in seed.entries if e.tag in (_SUB_IFDS, _EXIF, _MAKER_NOTE)]
    entry = links[int(random.integers(len(links)))] if links else _pick(random, seed)
    (first,) = struct.unpack_from(order + "I", data, 4)
    how = int(random.integers(5))
    if how == 0:  # the child is its own parent
        return _put(data, entry.at + 8, struct.pack(order + "I", first)), f"IFD0 again in {entry}"
    if how == 1:  # IFD0 follows IFD0
        (count,) = struct.unpack_from(order + "H", data, first)
        at = first + 2 + 12 * count
        return _put(data, at, struct.pack(order + "I", first)), "IFD0 follows IFD0"
    if how == 2:  # a SubIFD that names itself a hundred times
        part = struct.pack(order + "H", 1)
        part += struct.pack(order + "HHII", _SUB_IFDS, 4, 100, len(data) + 18)
        part += struct.pack(order + "I", 0) + struct.pack(order + "I", len(data)) * 100
        link = struct.pack(order + "HHII", _SUB_IFDS, 4, 1, len(data))
        return _put(data, entry.at, link) + part, "a SubIFD of 100 SubIFDs, itself each"
    if how == 3:  # a maker note that is the whole file
        note = struct.pack(order + "HHII", _MAKER_NOTE, 7, len(data), 0)
        return _put(data, entry.at, note), f"the file is its own maker note, in {entry}"
    # a chain of directories, each a step on, the last the first again
    length = int(random.choice([2, 50, 99, 101, 2000]))
    start, chain = len(data), b""
    for number in range(length):
        following = start + 18 * ((number + 1) % length)
        chain += struct.pack(order + "HHHIII", 1, 0x100, 4, 1, 7, following)
    (count,) = struct.unpack_from(order + "H", data, first)
    linked = _put(data, first + 2 + 12 * count, struct.pack(order + "I", start))
    return linked + chain, f"a circle of {length} directories after IFD0"


def crowded(random: Random, seed: Seed, _: Sequence[Seed]) -> tuple[bytes, str]:
    """A directory of thousands of entries, said to be there or really there."""
    data, order = seed.data, seed.order
    claimed = int(random.choice([300, 1000, 4095, 4096, 4097, 10_000, 65_535]))
    links = [e.value_at for e in seed.entries if e.tag in (_SUB_IFDS, _EXIF)]
    link = int(random.choice([4, *links]))
    (at,) = struct.unpack_from(order + "I", data, link)
    if random.random() < 0.5:
        return _put(data, at, struct.pack(order + "H", claimed)), f"{claimed} entries claimed"
    tag = int(random.choice([0, 0x100, 0x111, 0x14A, 0x8769, 0x927C, 0xC000, 0x7310]))
    one = struct.pack(order + "HHII", tag, 4, 1, int(random.integers(len(data))))
    (count,) = struct.unpack_from(order + "H", data, at)
    own = data[at + 2 : at + 2 + 12 * count]
    table = struct.pack(order + "H", min(65_535, claimed + count)) + own + one * claimed + bytes(4)
    moved = _put(data, link, struct.pack(order + "I", len(data)))
    return moved + table, f"{claimed} entries more of tag {tag:#x}"


def absurd_count(random: Random, seed: Seed, _: Sequence[Seed]) -> tuple[bytes, str]:
    entry = _pick(random, seed)
    count = int(random.choice([0, 2, 5, 65_535, 131_073, 2**24, 2**29, 2**31, 2**32 - 1]))
    return _put(seed.data, entry.at + 4, struct.pack(entry.order + "I", count)), (
        f"{count} values in {entry}"
    )


def splice(random: Random, seed: Seed, seeds: Sequence[Seed]) -> tuple[bytes, str]:
    """A stretch of the header from another file, or from elsewhere in this one."""
    other = seeds[int(random.integers(len(seeds)))]
    length = int(random.choice([2, 4, 8, 12, 24, 60, 200]))
    at = int(random.integers(max(1, seed.header - length)))
    begin = int(random.integers(max(1, other.header - length)))
    if random.random() < 0.5:
        begin = at
    part = other.data[begin : begin + length]
    return _put(seed.data, at, part), (
        f"{len(part)} bytes of {other.name} from byte {begin} at byte {at}"
    )


def join(random: Random, seed: Seed, seeds: Sequence[Seed]) -> tuple[bytes, str]:
    """One file's directories before another's image data."""
    other = seeds[int(random.integers(len(seeds)))]
    at = int(random.integers(4, seed.header + 1))
    return seed.data[:at] + other.data[at:], f"{other.name} from byte {at} on"


def swap_order(random: Random, seed: Seed, _: Sequence[Seed]) -> tuple[bytes, str]:
    """The byte order of the file, or of its maker note, said wrong."""
    note = [e for e in seed.entries if e.tag == _MAKER_NOTE]
    at = note[0].value_at + 10 if note and random.random() < 0.5 else 0
    swapped = b"MM" if seed.data[at : at + 2] == b"II" else b"II"
    data = _put(seed.data, at, swapped)
    if random.random() < 0.5:
        magic = b"\0*" if swapped == b"MM" else b"*\0"
        data = _put(data, at + 2, magic)
    if random.random() < 0.3:
        data = _put(data, at + 4, data[at + 4 : at + 8][::-1])
    return data, f"byte order at byte {at}"


def spoil_levels(random: Random, seed: Seed, _: Sequence[Seed]) -> tuple[bytes, str]:
    """Black, white, CFA, balance, crop, curve, linearisation: one to four bytes of a value."""
    own = [e for e in seed.entries if e.tag in LEVEL_TAGS] or list(seed.entries)
    entry = own[int(random.integers(len(own)))]
    length = min(int(random.integers(1, 5)), entry.nbytes)
    start = int(random.integers(entry.nbytes - length + 1))
    noise = random.bytes(length)
    if random.random() < 0.4:
        noise = bytes([int(random.choice([0, 1, 2, 127, 128, 255]))]) * length
    return _put(seed.data, entry.value_at + start, noise), f"{noise.hex()} at +{start} of {entry}"


def truncate(random: Random, seed: Seed, _: Sequence[Seed]) -> tuple[bytes, str]:
    """Cut after the header, in a directory, in the image data, on a row, near the end."""
    start, end = seed.pixels
    rows = (end - start) // seed.row_bytes if seed.row_bytes else 1
    row = start + seed.row_bytes * int(random.integers(rows))
    size = len(seed.data)
    choices = (
        int(random.choice([0, 1, 2, 4, 7, 8])),
        int(random.integers(8, start)),
        _pick(random, seed).at + int(random.integers(12)),
        int(random.integers(start, end)),
        row if seed.row_bytes else start,
        end - int(random.integers(1, 17)),
        end - int(random.choice([1, 2, 16, 512])),
    )
    length = min(choices[int(random.integers(len(choices)))], size - 1)
    return seed.data[:length], f"cut to {length} of {size} bytes"


def _tail(random: Random, seed: Seed) -> int:
    """How much of the end is lost: from two blocks of ARW2 to nearly everything."""
    start, end = seed.pixels
    choices = (
        int(random.integers(32, 65)),
        int(random.choice([32, 48, 64, 100, 512])),
        seed.row_bytes or 512,
        int(random.integers(64, 4096)),
        int(random.integers(64, end - start)),
    )
    return min(choices[int(random.integers(len(choices)))], end - start)


def zero_tail(random: Random, seed: Seed, _: Sequence[Seed]) -> tuple[bytes, str]:
    length = _tail(random, seed)
    end = seed.pixels[1]
    return _put(seed.data, end - length, bytes(length)), f"the last {length} bytes are zero"


def short_zero_tail(random: Random, seed: Seed, _: Sequence[Seed]) -> tuple[bytes, str]:
    length, end = int(random.integers(1, 32)), seed.pixels[1]
    return _put(seed.data, end - length, bytes(length)), f"the last {length} bytes are zero"


def ones_tail(random: Random, seed: Seed, _: Sequence[Seed]) -> tuple[bytes, str]:
    length = _tail(random, seed)
    end = seed.pixels[1]
    return _put(seed.data, end - length, b"\xff" * length), f"the last {length} bytes are 0xff"


def zero_hole(random: Random, seed: Seed, _: Sequence[Seed]) -> tuple[bytes, str]:
    """A block in the middle that was never written."""
    start, end = seed.pixels
    length = min(int(random.choice([512, 4096])), (end - start) // 2)
    at = int(random.integers(start, end - length))
    return _put(seed.data, at, bytes(length)), f"{length} zero bytes at byte {at}"


def flip_pixels(random: Random, seed: Seed, _: Sequence[Seed]) -> tuple[bytes, str]:
    start, end = seed.pixels
    data, places = bytearray(seed.data), []
    for _flip in range(int(random.choice([1, 1, 1, 8, 64]))):
        at, bit = int(random.integers(start, end)), int(random.integers(8))
        data[at] ^= 1 << bit
        places.append(f"{at}.{bit}")
    return bytes(data), f"bits {', '.join(places[:4])} ({len(places)})"


def duplicate_block(random: Random, seed: Seed, _: Sequence[Seed]) -> tuple[bytes, str]:
    """A block of image data written twice, over its neighbour or elsewhere."""
    start, end = seed.pixels
    length = min(int(random.choice([16, 512, 4096, seed.row_bytes or 512])), (end - start) // 2)
    begin, at = (int(random.integers(start, end - length)) for _ in range(2))
    if random.random() < 0.3:
        begin, at = (place - (place - start) % length for place in (begin, at))
    return _put(seed.data, at, seed.data[begin : begin + length]), (
        f"{length} bytes from byte {begin} again at byte {at}"
    )


def noise_block(random: Random, seed: Seed, _: Sequence[Seed]) -> tuple[bytes, str]:
    start, end = seed.pixels
    length = min(4096, (end - start) // 2)
    at = int(random.integers(start, end - length))
    return _put(seed.data, at, random.bytes(length)), f"{length} random bytes at byte {at}"


def append(random: Random, seed: Seed, _: Sequence[Seed]) -> tuple[bytes, str]:
    length = int(random.choice([1, 2, 16, 511, 512, 4096, 100_000]))
    return seed.data + random.bytes(length), f"{length} random bytes behind the end"


def several(random: Random, seed: Seed, seeds: Sequence[Seed]) -> tuple[bytes, str]:
    """Two to five header faults in one file."""
    changes = (flip_header_bit, flip_entry_bit, random_entry_field, absurd_count, splice)
    told = []
    for number in random.integers(len(changes), size=int(random.integers(2, 6))):
        data, what = changes[number](random, seed, seeds)
        seed = replace(seed, data=data)  # the places stay those of the good file
        told.append(what)
    return seed.data, "; ".join(told)


MUTATORS: tuple[Mutator, ...] = (
    Mutator(
        "one bit flipped in the first 64 KB before the pixels", 1200, "header", flip_header_bit
    ),
    Mutator("one bit flipped in a directory entry", 900, "header", flip_entry_bit),
    Mutator("tag, type, count or value of an entry replaced", 600, "header", random_entry_field),
    Mutator("absurd sizes, bits, strips, compression", 400, "header", absurd_value),
    Mutator("up to 100,000 x 100,000 pixels claimed", 200, "header", enormous),
    Mutator("absurd bits and samples a pixel", 100, "header", absurd_bits),
    Mutator("offsets of 0, of itself, outside, near 2^32", 300, "header", absurd_offset),
    Mutator("recursive and cyclic directories", 150, "header", recursive),
    Mutator("thousands of entries in a directory", 120, "header", crowded),
    Mutator("counts up to 2^32-1", 250, "header", absurd_count),
    Mutator("header bytes of another file", 400, "header", splice),
    Mutator("directories of one file, pixels of another", 150, "header", join),
    Mutator("byte order said wrong", 60, "header", swap_order),
    Mutator("black, white, CFA, crop, curve changed", 400, "header", spoil_levels),
    Mutator("several header faults at once", 300, "header", several),
    Mutator("truncated", 600, "loss", truncate),
    Mutator("the end of the image data is zeros (32 bytes or more)", 500, "loss", zero_tail),
    Mutator("the end of the image data is zeros (1 to 31 bytes)", 150, "data", short_zero_tail),
    Mutator("the end of the image data is 0xff", 150, "data", ones_tail),
    Mutator("512 or 4096 bytes of the image data are zeros", 150, "data", zero_hole),
    Mutator("bits of the image data flipped", 150, "data", flip_pixels),
    Mutator("a block of the image data written twice", 150, "data", duplicate_block),
    Mutator("4096 random bytes in the image data", 100, "data", noise_block),
    Mutator("garbage behind the end", 60, "header", append),
)
