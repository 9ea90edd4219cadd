"""Nikon's lossless code: its samples, and how many bits a mosaic takes in it.

A sample is written as its difference to the one two to the left, the first two of a row as theirs
to those two rows above: a Huffman code for the bit length of the difference, then the difference
(LibRaw nikon_load_raw, trees 5 and 2). The next sample starts where this one ends, so what counts
is the time from one start to the next: one look-up in a table that fits into the nearest cache.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from pipeline.raw.facts import MAX_SAMPLES
from pipeline.raw.tiff import NIKON_COMPRESSED, TiffFacts, TiffImage
from pipeline.runtime.compiled import compiled

U16 = npt.NDArray[np.uint16]
U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]

#: Where another decoder may have gone over damage, more room than this behind the code is doubted.
_SPARE_BITS: Final = 64

_LOSSLESS: Final = 0x46
#: How many codes have 1, 2, ... bits, and the symbols in that order, by bits of a sample. A symbol
#: is a bit length.
_CODES: Final = {
    14: ((0, 1, 4, 2, 2, 3, 1, 2), (7, 6, 8, 5, 9, 4, 10, 3, 11, 12, 2, 0, 1, 13, 14)),
    12: ((0, 1, 4, 2, 3, 1, 2), (5, 4, 6, 3, 7, 2, 8, 1, 9, 0, 10, 11, 12)),
}
_LONGEST_CODE: Final = 8
#: Bytes that a sample takes at most, with some room: 8 bits of code and 14 of difference.
_MOST_BYTES: Final = 3
#: Bytes that are read at once.
_WORD: Final = 8
#: What a difference is taken to cost that no code says.
_UNSPEAKABLE = 255

#: A function that writes its own LLVM instructions; called from compiled code like any other.
_instructions: Callable[[Any], Any] = intrinsic
_compiled = compiled(nogil=True, error_model="numpy")


def is_lossless(facts: TiffFacts, image: TiffImage) -> bool:
    """Whether an image is in a code that is known here."""
    note = facts.nikon_linearisation
    coded = image.compression == NIKON_COMPRESSED and image.bits_per_sample in _CODES
    return coded and len(note) == 5 and note[0] == _LOSSLESS


def lossless_image(facts: TiffFacts) -> TiffImage | None:
    """The one image of a file that `decode_lossless` can decode; None if there is none."""
    if len(facts.raw_images) != 1 or not is_lossless(facts, facts.raw_images[0]):
        return None
    image = facts.raw_images[0]
    plain = len(image.offsets) == len(image.byte_counts) == 1 and image.width % 2 == 0
    return image if plain and 0 < image.width * image.height <= MAX_SAMPLES else None


def decode_lossless(data: bytes, facts: TiffFacts, image: TiffImage) -> U16 | None:
    """Decode the mosaic, if nothing is odd about it.

    Parameters
    ----------
    data
        The file.
    facts, image
        Of the file; the image is from `lossless_image`.

    Returns
    -------
    (height, width) uint16, all the sensor has, DN; or None where a sample leaves the range, or the
    code takes more bits than the file has for it: other decoders may know. Room behind the code is
    no reason: a camera may pad, and LibRaw takes no notice of it.
    """
    (offset,), (count,) = image.offsets, image.byte_counts
    code = np.frombuffer(data, np.uint8)[offset : offset + count]
    row_bytes = image.width * _MOST_BYTES + 2 * _WORD
    mosaic = np.empty((image.height, image.width), np.uint16)
    table, most = _starts(image.bits_per_sample), (1 << image.bits_per_sample) - 1
    above = _predictors(facts)
    row, bits = _decode(code, (0, 0), row_bytes, table, above, mosaic, most)
    # The last rows are read from a copy with room behind it, so that the loop need not check
    # where the data end.
    byte, into = divmod(bits, 8)
    end = np.concatenate([code[byte:][: 2 * row_bytes], np.zeros(row_bytes, np.uint8)])
    row, bits = _decode(end, (row, into), row_bytes, table, above, mosaic, most)
    whole = len(code) == count and row == image.height
    return mosaic if whole and bits <= 8 * (count - byte) else None


def fills_its_strip(mosaic: U16, facts: TiffFacts, image: TiffImage) -> bool:
    """Whether a mosaic, coded again, takes the bits its strip has; True where that is unknown."""
    if not is_lossless(facts, image):
        return True
    needed = coded_bits(mosaic, _predictors(facts), image.bits_per_sample)
    return 0 <= 8 * sum(image.byte_counts) - needed < _SPARE_BITS


def coded_bits(mosaic: U16, predictors: I32, depth: int) -> int:
    """Bits that a mosaic takes.

    Parameters
    ----------
    mosaic
        (height, width) uint16, all the file has.
    predictors
        (2, 2) int32: what the first two samples of the first two rows are compared with.
    depth
        Bits of a sample, 12 or 14.
    """
    return int(_coded_bits(mosaic, predictors, bits_of_difference(depth)))


@cache
def bits_of_difference(depth: int) -> U8:
    """Bits that a difference takes, by its magnitude 0..65535: (65536,) uint8."""
    table = np.full(1 << 16, _UNSPEAKABLE, np.uint8)
    for length, code_length in _code_lengths(depth):
        table[(1 << length) >> 1 : 1 << length] = code_length + length
    return table


@cache
def _starts(depth: int) -> U16:
    """What the next 8 bits say: bits to the next sample, of the code, and of the difference.

    (256,) uint16: 8, 4 and 4 bits, from the lowest. Every 8 bits begin with a code.
    """
    table = np.zeros(1 << _LONGEST_CODE, np.uint16)
    at = 0
    for length, code_length in _code_lengths(depth):
        alike = 1 << (_LONGEST_CODE - code_length)
        table[at : at + alike] = code_length + length | code_length << 8 | length << 12
        at += alike
    return table


def _code_lengths(depth: int) -> list[tuple[int, int]]:
    """Each bit length of a difference with that of its code, in the order of the codes."""
    counts, symbols = _CODES[depth]
    code_lengths = np.repeat(np.arange(1, len(counts) + 1), counts).tolist()
    return list(zip(symbols, code_lengths, strict=True))


def _predictors(facts: TiffFacts) -> I32:
    return np.array(facts.nikon_linearisation[1:5], np.int32).reshape(2, 2)


@_instructions
def _next_bits(typing: Any, address: Any) -> Any:
    """The 64 bits from an address on, the first on top."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = ir.IntType(64)
        loaded = builder.load(builder.inttoptr(args[0], number.as_pointer()))
        loaded.align = 1
        name, kind = "llvm.bswap.i64", ir.FunctionType(number, [number])
        swap = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        return builder.call(swap, [loaded])

    return types.uint64(types.uint64), generate


@_compiled
def _difference(start: np.uint64, bits: np.uint64) -> np.int32:
    """The difference behind a code: below 0 where its first bit is 0."""
    one = np.uint64(1)
    length = start >> np.uint64(12)
    # Shifted by one more first, because nothing can be shifted by 64.
    value = (bits << (start >> np.uint64(8) & np.uint64(0xF)) >> one) >> (np.uint64(63) - length)
    below = (value << one >> length) ^ one
    return np.int32(value) - np.int32(((one << length) - one) * below)


@_compiled
def _decode(
    code: U8,
    place: tuple[int, int],
    row_bytes: int,
    table: U16,
    above: I32,
    mosaic: U16,
    most: int,
) -> tuple[int, int]:
    """Decode rows until a sample leaves 0..`most`, or there may be too little code for one more.

    Parameters
    ----------
    code
        (n,) uint8, C-contiguous.
    place
        The row to begin with, and where its code is, in bits from the beginning of `code`.
    row_bytes
        Room a row needs: its code is shorter, even where it is read ahead.
    above
        (2, 2) int32, the first two samples of the two rows above, kept up to date.

    Returns
    -------
    The place of the row that is next.
    """
    height, width = mosaic.shape
    eight, on_top, lowest = np.uint64(8), np.uint64(56), np.uint64(0xFF)
    begin = np.uint64(code.ctypes.data)
    position = np.uint64(place[1])
    for y in range(place[0], height):
        if np.int64(position // eight) + row_bytes > code.size:
            return y, int(position)
        row, first = mosaic[y], above[y & 1]
        left, left_odd, any_bits = np.int32(0), np.int32(0), np.int32(0)
        # `bits` has `known` bits of the code on top, and reading goes on at `at`.
        at, into = begin + position // eight, position % eight
        bits, known = _next_bits(at) << into, np.uint64(64) - into
        at += eight
        for x in range(0, width, 2):
            start = np.uint64(table[bits >> on_top])
            difference = _difference(start, bits)
            bits <<= start & lowest
            known -= start & lowest
            start = np.uint64(table[bits >> on_top])
            difference_odd = _difference(start, bits)
            bits <<= start & lowest
            known -= start & lowest
            if x == 0:
                first[0] += difference
                first[1] += difference_odd
                left, left_odd = first[0], first[1]
            else:
                left += difference
                left_odd += difference_odd
            any_bits |= left | left_odd
            row[x], row[x + 1] = left, left_odd
            # At least 56 bits, whatever was known: bytes read twice are the same bytes.
            bits |= _next_bits(at) >> known
            at += (np.uint64(63) - known) // eight
            known |= on_top
        if any_bits & ~most:
            return y, int(position)
        position = (at - begin) * eight - known
    return height, int(position)


@_compiled
def _coded_bits(mosaic: U16, predictors: I32, bits_of_difference: U8) -> int:
    total = 0
    for y in range(mosaic.shape[0]):
        line = mosaic[y]
        for x in range(2):
            above = predictors[y, x] if y < 2 else np.int32(mosaic[y - 2, x])
            total += bits_of_difference[abs(np.int32(line[x]) - above)]
        ahead, bits = line[2:], 0
        for x in range(ahead.shape[0]):
            bits += bits_of_difference[abs(np.int32(ahead[x]) - np.int32(line[x]))]
        total += bits
    return total
