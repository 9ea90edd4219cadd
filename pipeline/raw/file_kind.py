"""What a file is that bears a raw's name and is no raw, told by its first bytes.

Magic numbers are from the formats' specifications; `file(1)` has the same. Only what is certain is
named: camera raws and unknown bytes give None, and LibRaw is asked.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class FileKind:
    """A kind of file that is no raw.

    Attributes
    ----------
    name
        With its article: ``"a JPEG picture"``.
    mend
        How to get at the raw, if there may be one.
    """

    name: str
    mend: str


_PICTURE: Final = "leave it out; the camera's raw is another file, if the camera was set to keep it"
_LEAVE: Final = "leave it out; if it should be a raw, copy or download that again"
_UNPACK: Final = "unpack it and give what it holds"
_AGAIN: Final = "download it again; the server may want a login or another link"

#: (offset, bytes there, name, mend). The first that fits is taken.
_MAGIC: Final[tuple[tuple[int, bytes, str, str], ...]] = (
    (0, b"\xff\xd8\xff", "a JPEG picture", _PICTURE),
    (0, b"\x89PNG\r\n\x1a\n", "a PNG picture", _PICTURE),
    (0, b"GIF8", "a GIF picture", _PICTURE),
    (8, b"WEBP", "a WebP picture", _PICTURE),
    (0, b"8BPS", "a Photoshop document", _PICTURE),
    (0, b"II\xbc\x01", "a JPEG XR picture", _PICTURE),
    (0, b"\xff\x0a", "a JPEG XL picture", _PICTURE),
    (4, b"JXL \r\n\x87\n", "a JPEG XL picture", _PICTURE),
    (4, b"jP  \r\n\x87\n", "a JPEG 2000 picture", _PICTURE),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 picture", _PICTURE),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR picture", _PICTURE),
    (0, b"II+\0", "a BigTIFF picture", _PICTURE),
    (0, b"MM\0+", "a BigTIFF picture", _PICTURE),
    (0, b"P5\n", "a PGM picture", _PICTURE),
    (0, b"P6\n", "a PPM picture", _PICTURE),
    (0, b"SIMPLE  =", "a FITS image", _PICTURE),
    (0, b"\x93NUMPY", "a numpy array", _LEAVE),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file", _LEAVE),
    (0, b"SQLite format 3\0", "an SQLite database", _LEAVE),
    (0, b"%PDF-", "a PDF document", _LEAVE),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a Microsoft Office document", _LEAVE),
    (0, b"\0\x05\x16\x07", "macOS' companion of a file (its resource fork)", _LEAVE),
    (0, b"\x7fELF", "a program", _LEAVE),
    (8, b"AVI ", "a video", _PICTURE),
    (0, b"\x1a\x45\xdf\xa3", "a video", _PICTURE),
    (0, b"PK\x03\x04", "a zip archive", "rename it to .zip: it is read in place"),
    (0, b"PK\x05\x06", "an empty zip archive", _LEAVE),
    (0, b"\x1f\x8b", "a gzip archive", _UNPACK),
    (0, b"BZh", "a bzip2 archive", _UNPACK),
    (0, b"\xfd7zXZ\0", "an xz archive", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (0, b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
    (0, b"version https://git-lfs.github.com/", "a pointer of Git LFS", "fetch it: git lfs pull"),
    (0, b"/annex/objects/", "a pointer of git-annex", "fetch it: git annex get FILE"),
)

#: Brands of ISO media files (ISO/IEC 14496-12). Canon's CR3 is one, too: its brand is "crx ".
_BRANDS: Final = {
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"heim", b"heis"), "a HEIF picture"),
    **dict.fromkeys((b"mif1", b"msf1"), "a HEIF picture"),
    **dict.fromkeys((b"avif", b"avis"), "an AVIF picture"),
    **dict.fromkeys((b"isom", b"iso2", b"mp41", b"mp42", b"avc1", b"qt  ", b"M4V "), "a video"),
    **dict.fromkeys((b"XAVC", b"3gp4", b"3gp5", b"niko"), "a video"),
}

#: As much of a file as is looked at to tell text, and what text never holds.
_HEAD: Final = 4096
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")

#: Characters from which on there can be talk of text: fewer bytes may look like it by chance.
_LEAST_TEXT: Final = 16

#: Bytes by which the end of `_HEAD` may cut a character, and a mark of UTF-8 at the beginning.
_CUT: Final = 6

#: Of a text in Latin-1 or the like, which has single letters outside ASCII.
_ASCII_SHARE: Final = 0.7


def not_a_raw(data: bytes) -> FileKind | None:
    """What a file is, if it is certainly no camera raw.

    Parameters
    ----------
    data
        The file, or its first 4096 bytes or more.

    Returns
    -------
    None for raws and for what is not known.
    """
    head = data[:_HEAD]
    for offset, magic, name, mend in _MAGIC:
        if head.startswith(magic, offset):
            return FileKind(name, mend)
    if head[4:8] == b"ftyp":
        brand = _BRANDS.get(head[8:12])
        return None if brand is None else FileKind(brand, _PICTURE)
    return _text(head)


def _text(head: bytes) -> FileKind | None:
    """The kind of text that a file begins with; None unless all of its beginning is text."""
    text = _decoded(head).lstrip().lower()
    if len(text) < _LEAST_TEXT:
        return None
    if text.startswith(("<!doctype html", "<html", "<head", "<body")):
        return FileKind("a web page", _AGAIN)
    if text.startswith("<"):
        return FileKind("an XML text", _LEAVE)
    if text.startswith(("{", "[")):
        return FileKind("a JSON text", _LEAVE)
    return FileKind("a text", _LEAVE)


def _decoded(head: bytes) -> str:
    """Text in UTF-16 with its mark, UTF-8, or a code that extends ASCII; "" for anything else."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = head.decode("utf-16", "ignore")
        return "" if _CONTROL.search(text.encode()) else text
    if _CONTROL.search(head):
        return ""
    text = head.decode("utf-8-sig", "ignore")
    cut = len(head) - len(text.encode())  # bytes of a last character that the end of `head` cuts
    ascii_share = sum(byte < 0x80 for byte in head) / max(1, len(head))
    return text if cut <= _CUT or ascii_share >= _ASCII_SHARE else ""
