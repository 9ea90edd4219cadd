"""LZ4 blocks of bit planes, written so that they read fast, and read without copying noise.

The format is LZ4's (https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md): any LZ4 reads
what is written here, and what is refused here is LZ4's to judge. Two things differ from LZ4's own
code, both because of what the data is, the bit planes of noisy pictures:

- A match costs a reader the same time whatever its length, and in half-noisy planes LZ4 finds tens
  of thousands that save three bytes each. Here a match has at least `SHORTEST` bytes.
- The lowest planes are noise, which LZ4 stores as it is. A plane that stands whole in the
  compressed bytes is not copied: its address is handed on.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.runtime.compiled import compiled
from pipeline.store.chunk.addresses import (
    WIDE,
    copy32,
    copy_wide,
    equal_bytes,
    fill_wide,
    load8,
    load16,
    load64,
    store8,
    store16,
)

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

#: Bytes of a match worth a reader's time.
SHORTEST = 12
_TABLE_BITS = 12
#: Slots of the table `compress` works with: of (TABLE_SIZE,) int32.
TABLE_SIZE = 1 << _TABLE_BITS

# LZ4's rules: a match has at least 4 bytes, begins 12 before the end or earlier, and leaves the
# last 5 bytes to literals; what is 65,536 bytes back cannot be named.
_FORMAT_SHORTEST, _LAST_MATCH, _LAST_LITERALS, _FARTHEST = 4, 12, 5, 65535
_WORD = 8
_NEAREST = 32  # a match that begins nearer, and is no run, is slow to copy: not written here
_CUT_OFF = 1 << 40  # longer than any block
_HASH_FACTOR, _HASH_SHIFT = np.uint64(0x9E3779B185EBCA87), np.uint64(64 - _TABLE_BITS)
#: Bytes from one place that is looked at to the next, where nothing is found; after each 8 (as a
#: shift) in vain one more: noise is passed quickly.
_STRIDE, _PATIENCE = 3, 3

_compiled = compiled(nogil=True, error_model="numpy")


def largest_block(nbytes: int) -> int:
    """Bytes `compress` may write for a block, those it writes too many included."""
    return nbytes + nbytes // 255 + 16 + 2 * WIDE


@_compiled
def _hash(word: int) -> int:
    return np.int64((word * _HASH_FACTOR) >> _HASH_SHIFT)  # type: ignore[return-value]


@_compiled
def _copy_from(target: int, source: int, count: int) -> None:
    """`count` bytes and up to WIDE - 1 more."""
    end = target + count
    while target < end:
        copy_wide(target, source)
        target += WIDE
        source += WIDE


@_compiled
def _put_length(at: int, rest: int) -> int:
    while rest >= 255:
        store8(at, 255)
        at += 1
        rest -= 255
    store8(at, rest)
    return at + 1


@_compiled
def _put_sequence(at: int, literals: int, count: int, distance: int, length: int) -> int:
    """Literals and a match behind them; no match if `length` is 0. Returns the address behind."""
    token = at
    at += 1
    high = min(count, 15)
    if high == 15:
        at = _put_length(at, count - 15)
    _copy_from(at, literals, count)
    at += count
    if length == 0:
        store8(token, high << 4)
        return at
    store16(at, distance)
    at += 2
    low = min(length - _FORMAT_SHORTEST, 15)
    if low == 15:
        at = _put_length(at, length - _FORMAT_SHORTEST - 15)
    store8(token, high << 4 | low)
    return at


@_compiled
def _extent(at: int, found: int, start: int, limit: int) -> tuple[int, int]:
    """How far two places with the same word are the same: bytes before, and from there on.

    Not before `start`, and hardly past `limit`, of the second. Nothing if they are one place.
    """
    back, ahead = 0, 0
    if found == at:
        return back, ahead
    while at - back > start and load8(at - back - 1) == load8(found - back - 1):
        back += 1
    ahead = _WORD
    while at + ahead < limit:
        difference = load64(at + ahead) ^ load64(found + ahead)
        if difference != 0:
            return back, ahead + equal_bytes(difference)
        ahead += _WORD
    return back, ahead


@_compiled
def compress(source: int, nbytes: int, plane: int, target: int, table: I32) -> int:
    """Compress a block.

    Parameters
    ----------
    source, nbytes
        Address and size of the block; WIDE bytes more may be read.
    plane
        Bytes of a plane: where one begins, the search begins anew.
    target
        Address of `largest_block` bytes.
    table
        (TABLE_SIZE,) int32 to work in.

    Returns
    -------
    Bytes written: more than `nbytes` where nothing is gained.
    """
    table[:] = 0
    end = source + nbytes
    limit = end - _LAST_MATCH - _WORD
    at, pending, to = source + 1, source, target
    misses, next_plane = 0, source + plane
    while at < limit:
        if at >= next_plane:
            misses, next_plane = 0, next_plane + plane * ((at - next_plane) // plane + 1)
        word = load64(at)
        slot = _hash(word)
        found = source + table[slot]
        table[slot] = at - source
        if load64(at - 1) == word:  # a run of one byte
            found = at - 1
        elif not _NEAREST <= at - found <= _FARTHEST or load64(found) != word:
            found = at
        back, ahead = _extent(at, found, max(pending, source + at - found), limit)
        if back + ahead < SHORTEST:
            misses += 1
            at += _STRIDE + (misses >> _PATIENCE)
            continue
        begin = at - back
        to = _put_sequence(to, pending, begin - pending, at - found, back + ahead)
        at += ahead
        pending, misses = at, 0
        table[_hash(load64(at - 2))] = at - 2 - source
    return _put_sequence(to, pending, end - pending, 0, 0) - target


@_compiled
def _length(nibble: int, at: int, end: int) -> tuple[int, int]:
    """A length that may go on behind the token, and the address behind it; huge if cut off."""
    if at >= end:
        return (nibble if nibble < 15 else _CUT_OFF), at
    # Whether it goes on is anybody's guess: so no branch depends on it, unless it does twice.
    goes_on = int(nibble == 15)
    more = goes_on * load8(at)
    length = nibble + more
    at += goes_on
    while more == 255:
        if at >= end:
            return _CUT_OFF, at
        more = load8(at)
        length += more
        at += 1
    return length, at


@_compiled
def _copy_exactly(target: int, source: int, count: int) -> None:
    """`count` bytes and no more."""
    end = target + count
    while target + _NEAREST <= end:
        copy32(target, source)
        target += _NEAREST
        source += _NEAREST
    while target < end:
        store8(target, load8(source))
        target += 1
        source += 1


@_compiled
def _copy_within(target: int, source: int, count: int, safe: bool) -> None:
    """`count` bytes; up to WIDE - 1 more where that is `safe`."""
    if safe:
        _copy_from(target, source, count)
    else:
        _copy_exactly(target, source, count)


@_compiled
def _repeat(at: int, distance: int, length: int) -> None:
    """`length` bytes, and up to WIDE - 1 more, that repeat those from `distance` before."""
    end, source = at + length, at - distance
    if distance >= WIDE:
        _copy_from(at, source, length)
    elif distance == 1:
        byte = load8(source)
        while at < end:
            fill_wide(at, byte)
            at += WIDE
    elif distance >= _NEAREST:
        while at < end:
            copy32(at, source)
            at += _NEAREST
            source += _NEAREST
    else:
        while at < end:
            store8(at, load8(source))
            at += 1
            source += 1


@_compiled
def _fetch_planes(rows: I64, target: int, plane: int, first: int, last: int) -> None:
    """Copy planes that were handed on to where they would be: a match wants to read them."""
    for number in range(first, last + 1):
        place = target + number * plane
        if rows[number] != place:
            _copy_exactly(place, rows[number], plane)
            rows[number] = place


@_compiled
def _put_literals(
    to: int, source: int, count: int, safe: bool, target: int, plane: int, rows: I64
) -> int:
    """Copy literals, except whole planes: those are handed on.

    Returns
    -------
    The end of the last plane that was handed on; `target` if there was none.
    """
    first, behind = (to - target + plane - 1) // plane, (to - target + count) // plane
    if first >= behind:
        _copy_within(to, source, count, safe)
        return target
    head = target + first * plane - to
    _copy_within(to, source, head, safe)
    for number in range(first, behind):
        rows[number] = source + head + (number - first) * plane
    loose = target + behind * plane
    skipped = loose - to
    _copy_within(loose, source + skipped, count - skipped, safe)
    return loose


@_compiled
def decompress(source: int, end: int, room: int, target: int, nbytes: int, rows: I64) -> bool:
    """Decompress a block of planes of equal size, leaving planes of noise where they are.

    Parameters
    ----------
    source, end
        Addresses of the compressed bytes and of what is behind them.
    room
        Address, not before `end`, up to which memory may be read.
    target, nbytes
        Address of `nbytes` + WIDE bytes to work in; `nbytes` is a multiple of the planes' number.
    rows
        (n,) int64, filled with the address of each of n planes: in the compressed bytes, or from
        `target` on.

    Returns
    -------
    False if this is no such block. Nothing outside the memory named here was touched.
    """
    plane = nbytes // rows.size
    for number in range(rows.size):
        rows[number] = target + number * plane
    to, stop = target, target + nbytes
    loose = target  # the end of the last plane that was handed on
    while source < end:
        token = load8(source)
        count, source = _length(token >> 4, source + 1, end)
        if count > end - source or count > stop - to:
            return False
        safe = source + count + WIDE <= room
        if count <= WIDE and safe:
            copy_wide(to, source)  # most are as short: no loop, nothing to guess
        else:
            loose = max(loose, _put_literals(to, source, count, safe, target, plane, rows))
        source += count
        to += count
        if to > stop - _LAST_MATCH or source > end - 2 - 1 - _LAST_LITERALS:
            return source == end and to == stop
        distance = load16(source)
        length, source = _length(token & 15, source + 2, end)
        length += _FORMAT_SHORTEST
        begin = to - distance
        if distance == 0 or begin < target or length > stop - _LAST_LITERALS - to:
            return False
        if begin < loose:
            last = (min(begin + length, to) - 1 - target) // plane
            _fetch_planes(rows, target, plane, (begin - target) // plane, last)
        _repeat(to, distance, length)
        to += length
    return False
