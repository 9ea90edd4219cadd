"""The lists of one large JSON object, a few records at a time.

A parser that builds the whole document needs thirty bytes and more for a digit and a comma, so a
small file can fill a machine. Here only brackets, commas and quotes are looked at, block by block;
each run of records is handed out as a JSON list of its own, which a full parser then checks.
docs/explanation/decisions.md says why ijson does not do this.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic_core import from_json

BLOCK: Final = 1 << 16
"""Bytes looked at together; a run of records is about as long."""

MAX_RECORD_BYTES: Final = 1 << 22
"""A longer record is refused: the longest that exist are masks of millions of corners."""

MAX_DEPTH: Final = 200
"""Lists and objects in each other; what the parser of the records takes."""

MAX_MEMBERS: Final = 1000
"""Keys of the whole document's object; COCO has five."""

_KEY: Final = re.compile(rb'("(?:[^"\\]|\\.)*+")[ \t\r\n]*+:', re.DOTALL)
_MAX_KEY_BYTES: Final = 4096
_NOT_SPACE: Final = re.compile(rb"[^ \t\r\n]")
_PLACE: Final = re.compile(r" at line (\d+) column (\d+)$")

_QUOTE, _BACKSLASH, _COMMA = b'"\\,'
_DEPTH: Final = np.zeros(256, np.int64)
_DEPTH[list(b"[{")], _DEPTH[list(b"]}")] = 1, -1
_IS_SPECIAL: Final = np.isin(np.arange(256), list(b'"\\,[]{}'))

IntArray = npt.NDArray[np.int64]


class NotJsonError(ValueError):
    """Raised where a text is not valid JSON; says what was found, with line and column."""


class Span(NamedTuple):
    """Where a value's text is: ``data[start:end]``."""

    start: int
    end: int


class _Marks(NamedTuple):
    """Brackets and commas of a block, outside strings: where, which, and the depth behind each."""

    at: IntArray
    char: npt.NDArray[np.uint8]
    depth: IntArray
    end: int  # of the block


def members(data: bytes) -> dict[str, Span]:
    """Find the values of the document's object by their keys, without parsing large ones.

    Raises
    ------
    NotJsonError
        Where the document is not one JSON object (cut off, followed by something else, nested too
        deeply), or where a key is given twice: readers differ in which of the two they take.
    """
    start = _first(data, 0)
    if data[start : start + 1] != b"{":
        raise _error("expected an object" if start < len(data) else "it is empty", data, start)
    found: dict[str, Span] = {}
    for begin, end in _pieces(data, start):
        key, value = _member(data, begin, end)
        if key in found:
            raise _error(f"the key {key[:60]!r} stands there a second time", data, begin)
        if len(found) == MAX_MEMBERS:
            raise _error(f"more than {MAX_MEMBERS} keys", data, begin)
        found[key] = value
    return found


def runs(data: bytes, span: Span) -> Iterator[tuple[int, bytes]]:
    """Cut the records of a list into runs, each a JSON list of its own.

    Parameters
    ----------
    span
        The list's text, one of those `members` found.

    Yields
    ------
    Where the run's text begins in `data`, less one for its bracket; and that text. It may be
    invalid JSON: `misplaced` says where.

    Raises
    ------
    NotJsonError
        Where the value is not a list, or one record is larger than `MAX_RECORD_BYTES`.
    """
    if data[span.start : span.start + 1] != b"[" or data[span.end - 1 : span.end] != b"]":
        raise _error("expected a list", data, span.start)
    begin = span.start + 1
    for marks in _marks(data, span.start, span.end):
        commas = marks.at[(marks.char == _COMMA) & (marks.depth == 1)]
        if len(commas):
            last = int(commas[-1])
            if _first(data, begin) == last:
                raise _error("expected value", data, last)
            yield begin - 1, b"[" + data[begin:last] + b"]"
            begin = last + 1
        if marks.end - begin > MAX_RECORD_BYTES:
            raise _error(f"a record of more than {MAX_RECORD_BYTES:,} bytes", data, begin)
    if _first(data, begin) < span.end - 1:
        yield begin - 1, b"[" + data[begin : span.end]
    elif begin > span.start + 1:
        raise _error("trailing comma", data, begin - 1)


def misplaced(error: ValueError, data: bytes, offset: int, run: bytes) -> NotJsonError:
    """Turn a parser's complaint about a run into one with line and column of the document."""
    message = str(error)
    found = _PLACE.search(message)
    if found is None:
        return _error(message, data, offset)
    line, column = int(found[1]), int(found[2])
    start = 0
    for _ in range(line - 1):
        start = run.find(b"\n", start) + 1
    return _error(message[: found.start()], data, offset + start + column - 1)


def first_byte(data: bytes) -> bytes:
    """The byte a document begins with, after white space; nothing for an empty one."""
    start = _first(data, 0)
    return data[start : start + 1]


def is_json(data: bytes) -> bool:
    """Whether this is one whole JSON value; of a large one only whether it is closed."""
    if len(data) <= BLOCK:
        try:
            from_json(data)
        except ValueError:
            return False
        return True
    start = _first(data, 0)
    if first_byte(data) not in (b"{", b"["):
        return False
    try:
        for marks in _marks(data, start, len(data)):
            ends = marks.at[marks.depth == 0]
            if len(ends):
                return _first(data, int(ends[0]) + 1) == len(data)
    except NotJsonError:
        pass
    return False


def _pieces(data: bytes, start: int) -> Iterator[tuple[int, int]]:
    """What the commas separate in the object that begins at `start` and must end the document."""
    begin = start + 1
    for marks in _marks(data, start, len(data)):
        ends = ((marks.char == _COMMA) & (marks.depth == 1)) | (marks.depth == 0)
        for end, depth in zip(marks.at[ends].tolist(), marks.depth[ends].tolist(), strict=True):
            # Nothing between the brackets is an empty object, not a missing member.
            if depth or begin > start + 1 or _first(data, begin) < end:
                yield begin, end
            begin = end + 1
            if depth == 0:
                if data[end:begin] != b"}":
                    raise _error("expected `}`", data, end)
                if (after := _first(data, begin)) < len(data):
                    raise _error("trailing characters", data, after)
                return
    raise _error("the file ends too early", data, len(data) - 1)


def _member(data: bytes, begin: int, end: int) -> tuple[str, Span]:
    begin = min(_first(data, begin), end)
    key = _KEY.match(data, begin, min(end, begin + _MAX_KEY_BYTES))
    if key is None:
        raise _error('expected `"key": value`', data, begin)
    span = Span(min(_first(data, key.end()), end), _last(data, begin, end))
    name = _parsed(data, Span(*key.span(1)))
    if span.end - span.start <= BLOCK:
        _parsed(data, span)
    return str(name), span


def _parsed(data: bytes, span: Span) -> object:
    text = data[span.start : span.end]
    try:
        return from_json(text)
    except ValueError as error:
        raise misplaced(error, data, span.start, text) from None


def _marks(data: bytes, start: int, end: int) -> Iterator[_Marks]:
    """Brackets and commas outside strings, a block at a time."""
    text = np.frombuffer(data, np.uint8)
    depth, in_string, backslashes = 0, False, 0
    for at in range(start, end, BLOCK):
        block = text[at : min(at + BLOCK, end)]
        place = np.flatnonzero(_IS_SPECIAL[block])
        char = block[place]
        is_quote = char == _QUOTE
        if backslashes or (char == _BACKSLASH).any():
            before = _backslashes_before(block, backslashes)
            is_quote &= before[place] % 2 == 0
            backslashes = int(before[-1])
        inside = (np.cumsum(is_quote) + in_string) % 2 == 1
        in_string = bool(inside[-1]) if len(inside) else in_string
        counts = ~inside & (char != _QUOTE) & (char != _BACKSLASH)
        place, char = place[counts], char[counts]
        depths = depth + np.cumsum(_DEPTH[char])
        if len(depths):
            depth = int(depths[-1])
            if int(depths.max()) > MAX_DEPTH:
                deep = at + int(place[np.argmax(depths > MAX_DEPTH)])
                raise _error(f"recursion limit exceeded ({MAX_DEPTH} levels)", data, deep)
        yield _Marks(place + at, char, depths, at + len(block))
    if in_string:
        raise _error("the file ends inside a string", data, end - 1)


def _backslashes_before(block: npt.NDArray[np.uint8], carried: int) -> IntArray:
    """Length of the run of backslashes that ends before each byte, and behind the last one."""
    index = np.arange(-1, len(block))
    others = index.copy()
    others[0] = -1 - carried
    others[1:][block == _BACKSLASH] = np.iinfo(np.int64).min
    return index - np.maximum.accumulate(others)


def _first(data: bytes, start: int) -> int:
    """Position of the next byte that is not white space, or the end."""
    found = _NOT_SPACE.search(data, start)
    return found.start() if found else len(data)


def _last(data: bytes, start: int, end: int) -> int:
    """Position behind the last byte before `end` that is not white space."""
    while end > start:
        tail = data[max(start, end - BLOCK) : end]
        if kept := len(tail.rstrip(b" \t\r\n")):
            return end - len(tail) + kept
        end -= len(tail)
    return end


def _error(message: str, data: bytes, offset: int) -> NotJsonError:
    line = data.count(b"\n", 0, offset) + 1
    column = offset - data.rfind(b"\n", 0, offset)
    return NotJsonError(f"{message} at line {line} column {column}")
