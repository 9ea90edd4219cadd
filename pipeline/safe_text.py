"""Text as it may reach a terminal: nothing in it moves the cursor, recolours or turns around.

File names and annotations are written by strangers. What they hold is shown, never obeyed.
"""

from __future__ import annotations

import json
import re
from typing import Final

from pydantic import BaseModel

#: Control characters, bytes that are not UTF-8, marks that turn the direction of writing, line
#: separators, and the mark that begins files.
_OBEYED: Final = (
    "\x00-\x1f\x7f-\x9f\ud800-\udfff\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb"
)
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_BYTES: Final = re.compile("[\udc80-\udcff]+")
_ANY: Final = re.compile(f"[{_OBEYED}]")
_ANY_BUT_NEWLINE: Final = re.compile(f"(?!\n)[{_OBEYED}]")


def without_locale(text: str) -> str:
    """A name as the system gave it, read as UTF-8: the same in every locale.

    In the locale C, Python holds each byte outside ASCII as a lone surrogate. Those that are UTF-8
    become their characters; others stay.
    """
    return _BYTES.sub(_as_utf8, text)


def _as_utf8(found: re.Match[str]) -> str:
    return found[0].encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


def visible(text: str) -> str:
    r"""A name or message on one line; what a terminal would obey becomes ``\xNN`` or ``\uNNNN``."""
    return _ANY.sub(lambda found: escaped(ord(found[0])), without_locale(text))


def visible_lines(text: str) -> str:
    """The same for a text of our own making, whose line ends are meant."""
    return _ANY_BUT_NEWLINE.sub(lambda found: escaped(ord(found[0])), without_locale(text))


def printable(name: str) -> str:
    r"""Return a name that any terminal and UTF-8 file takes.

    Control characters and bytes that are not UTF-8 (which Python holds as lone surrogates) become
    ``\xNN`` or ``\uNNNN``. The same in every locale.
    """
    return _UNPRINTABLE.sub(lambda found: escaped(ord(found[0])), without_locale(name))


def json_line(value: BaseModel | dict[str, object]) -> str:
    """A model or plain values as one line of JSON that shows the same when it is printed.

    Characters a terminal would obey are escaped as JSON has it, so a reader gets them back; bytes
    that are not UTF-8, which JSON cannot hold, become the text ``\\xNN``.
    """
    fields = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"), default=str)
    return _ANY.sub(_json_escape, without_locale(text))


def _json_escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\{escaped(code)}" if 0xD800 <= code <= 0xDFFF else f"\\u{code:04x}"


def escaped(code: int) -> str:
    r"""A character as ``\xNN`` or ``\uNNNN``; a byte that Python holds as a surrogate as itself."""
    if 0xDC80 <= code <= 0xDCFF:  # surrogateescape: the byte is the low half
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
