"""Files of one image each, Pascal VOC's and YOLO's, that are damaged or made to do harm."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.kit.label_sets import voc_text
from tests.torture.hostile_annotations.bench import (
    Trial,
    Variant,
    has_boxes,
    raw_like,
    write_old,
)

#: What it is, what it holds, the boxes it gives; None where the image is refused.
_Case = tuple[str, bytes, list[list[float]] | None]

_VOC = voc_text("V.jpg", [("car", 6, 7, 12, 14, 0)]).encode()
_YOLO = b"0 0.125 0.125 0.25 0.25\n"
_VOC_BOX, _YOLO_BOX = [5.0, 6.0, 7.0, 8.0], [0.0, 0.0, 12.0, 8.0]


def voc_files() -> list[Trial]:
    """XML that is cut, bombed, nested, of other encodings, or lacks what counts."""
    return [Trial("voc", partial(_build, _voc(), "xml"))]


def yolo_files() -> list[Trial]:
    """Lines that are cut, of other numbers, of detections, or of other text."""
    return [Trial("yolo", partial(_build, _yolo(), "txt"))]


def _build(cases: Iterator[_Case], suffix: str, folder: Path) -> Iterator[Variant]:
    write_old(folder / "classes.txt", b"person\nbicycle\ncar\n")
    for number, (what, data, expected) in enumerate(cases):
        stem = f"{suffix.upper()}{number:03d}"
        raw_like(folder / "Sony" / "DSC00001.ARW", folder / f"{stem}.ARW")
        write_old(folder / "labels" / f"{stem}.{suffix}", data)
        if expected is None:
            yield Variant(what, (f"{stem}.{suffix}",))
        else:
            yield Variant(what, (), has_boxes(f"{stem}.ARW", expected))


def _voc() -> Iterator[_Case]:
    for share in (0.0, 0.1, 0.5, 0.9, 0.99):
        yield f"cut off at {share:.0%}", _VOC[: int(len(_VOC) * share)], None
    yield "zeros", bytes(len(_VOC)), None
    yield "in UTF-16", _VOC.decode().encode("utf-16"), [_VOC_BOX]
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    bomb = f"<!DOCTYPE a [<!ENTITY l0 'lol'>{laughs}]>".encode()
    yield "a billion laughs", bomb + _VOC.replace(b"car", b"&l9;"), None
    outside = b"<!DOCTYPE a [<!ENTITY e SYSTEM 'file:///etc/passwd'>]>"
    yield "another file's text", outside + _VOC.replace(b"car", b"&e;"), None
    yield "100,000 deep", b"<annotation>" + b"<object>" * 100_000, None
    yield "6,000 objects", _VOC.replace(b"</object>", b"</object>" + b"<object/>" * 6000), None
    for edge in (b"", b"x", b"nan", b"1e400", b"1_0", b"0x10"):
        changed = _VOC.replace(b"<xmax>12<", b"<xmax>" + edge + b"<")
        yield f"xmax is {edge!r}", changed, None
    yield "no box", _VOC.replace(b"bndbox", b"box"), None
    yield "no name", _VOC.replace(b"<name>car</name>", b""), None
    yield "a size that is none", _VOC.replace(b"<width>48<", b"<width>-48<"), None
    yield "whole", _VOC, [_VOC_BOX]
    yield "no size", _VOC.replace(b"<size>", b"<s>").replace(b"</size>", b"</s>"), [_VOC_BOX]
    yield "without objects", voc_text("V.jpg").encode(), []


def _yolo() -> Iterator[_Case]:
    yield "cut off", _YOLO + _YOLO[:10], None
    yield "zeros", bytes(len(_YOLO)), None
    yield "in UTF-16", _YOLO.decode().encode("utf-16"), None
    for line in ("0 0.5 0.5 0.2 nan", "0 0.5 0.5 0.2 1e400", "0 1 2 3 4", "-1 0.5 0.5 0.2 0.2"):
        yield line, line.encode(), None
    yield "a class without a name", b"9 0.5 0.5 0.2 0.2", None
    yield "a confidence", b"0 0.5 0.5 0.2 0.2 0.9", None
    yield "half a polygon", b"0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", None
    yield "text", b"a car on the left", None
    yield "6,000 objects", _YOLO * 6000, None
    yield "a line of 1 MB", b"0 " + b"0.5 " * 250_001, None
    yield "whole", _YOLO, [_YOLO_BOX]
    yield "without objects", b"", []
    yield "blank lines", b"\n \n" + _YOLO + b"\r\n", [_YOLO_BOX]
