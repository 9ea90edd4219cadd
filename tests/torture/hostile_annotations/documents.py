"""Whole annotation files that are no COCO files, repeat themselves, or are made to fill memory."""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path

from pipeline.annotations.reader import MAX_FILE_BYTES
from tests.kit.small_raws import LONG_AGO, SMALL_FRAME
from tests.torture.hostile_annotations.bench import (
    ROOM,
    Result,
    Trial,
    Variant,
    coco,
    raw_like,
    write_old,
)

_BOX = [5.0, 6.0, 7.0, 8.0]

#: More memory than a clean run and the file's own size while a file is read, bytes.
ROOM_BESIDE_FILE = 128 << 20

#: And while a million boxes are read, of 64 MiB of JSON.
ROOM_FOR_BOXES = 512 << 20


def _document(name: str) -> bytes:
    return json.dumps(coco({name: [_BOX]})).encode()


def documents() -> list[Trial]:
    """Files that are not whole, not UTF-8, not COCO, or no JSON at all."""

    def build(folder: Path) -> Iterator[Variant]:
        for number, (what, data, accepted) in enumerate(_documents(_document("D@@@.ARW"))):
            raw, file = f"D{number:03d}.ARW", f"d{number:03d}_train.json"
            raw_like(folder / "Sony" / "DSC00001.ARW", folder / raw)
            write_old(folder / file, data.replace(b"@@@", b"%03d" % number))
            if accepted is None:
                yield Variant(what, (file,))
            else:
                yield Variant(what, (), _has(raw, [_BOX] if accepted else None))

    return [Trial("documents", build)]


def _documents(good: bytes) -> Iterator[tuple[str, bytes, bool | None]]:
    """(what it is, what it holds, taken: with its box; False: as none of ours; None: refused)."""
    yield "a byte order mark in front", codecs.BOM_UTF8 + good, True
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"):
        yield f"in {encoding}", good.decode().encode(encoding), None
    for share in (0.2, 0.5, 0.9, 0.99):
        yield f"cut off at {share:.0%}", good[: int(len(good) * share)], None
    for tail in (b"]", b"}", b"{}", b"x", b",", b"\0", b"//", b"\x1a"):
        yield f"followed by {tail!r}", good + tail, None
    for space in (b" " * 100_000, b"\n" * 1000, b"\r\n\t"):
        yield f"followed by {space[:4]!r}...", good + space, True
    for space in (b"\x0b", b"\xc2\xa0", b"\xe2\x80\xa8"):
        yield f"led by {space!r}, no white space of JSON", space + good, None
    document = json.loads(good)
    for key in ("images", "annotations", "categories"):
        again = f', "{key}": []}}'.encode()
        yield f"{key} a second time", good[:-1] + again, None
        values: tuple[object, ...] = ({}, 7, "x", True)
        for value in values:
            yield f"{key} is {value!r}", json.dumps(document | {key: value}).encode(), None
    for key, opening in product(("images", "annotations", "info", "x"), (b"[", b'{"a":', b"[{")):
        deep = b'{"%b": %b' % (key.encode(), opening * 100_000)
        yield f"{opening!r} 100,000 deep in {key}", deep + good[1:], None
    yield "[ 100,000 deep", b"[" * 100_000, None
    yield "[ 100,000 deep, closed", b"[" * 100_000 + b"]" * 100_000, None
    yield "empty", b"", None
    yield "white space", b" \n" * 1000, None
    yield "a list of boxes", json.dumps(document["annotations"]).encode(), None
    yield "JSON lines", good + b"\n" + good, None
    yield "single quotes", good.replace(b'"', b"'"), None
    yield "a comma too much", good.replace(b"}]", b"},]"), None
    yield "a comma in front", good.replace(b"[{", b"[,{"), None
    yield "no comma", good.replace(b'], "', b'] "'), None
    yield "a comment", b"/* */" + good, None
    yield "invalid UTF-8 in a key", b'{"\xff": 1, ' + good[1:], None
    yield "invalid UTF-8 in a name", good.replace(b".ARW", b"\xff.ARW"), None
    yield "a surrogate in UTF-8", good.replace(b".ARW", b"\xed\xa0\x80.ARW"), None
    yield "half a surrogate pair", good.replace(b".ARW", b"\\ud800.ARW"), None
    yield "a line end in a string", good.replace(b".ARW", b"\n.ARW"), None
    yield "zeros for its second half", good[:90] + bytes(len(good) - 90), None
    yield "half of it twice", good[: len(good) // 2] * 2, None
    yield "1,001 keys", good[:-1] + _keys(1001) + b"}", None
    yield "900 keys", good[:-1] + _keys(900) + b"}", True
    long_key = b'{"%b": 1, ' % (b"k" * 100_000)
    yield "a key of 100,000 letters", long_key + good[1:], None
    yield "a key that is escaped", good.replace(b'"images"', b'"im\\u0061ges"'), True
    yield "an escape that is none", good.replace(b'"images"', b'"\\x69mages"'), None
    yield "NaN as a key's value", b'{"info": NaN, ' + good[1:], True
    yield "braces in strings", b'{"info": "}]{[\\"\\\\", ' + good[1:], True
    yield "other JSON: a list", b"[1, 2, 3]", False
    yield "other JSON: an object", b'{"a": {"b": [1]}}', False
    yield "other JSON: text", b'"hello"', False
    yield "other JSON: null", b"null", False


def _keys(count: int) -> bytes:
    return b"".join(b', "k%d": 0' % n for n in range(count))


def _has(raw: str, expected: list[list[float]] | None) -> Callable[[Result], str]:
    def judge(result: Result) -> str:
        if raw not in result.sidecars:
            return f"{raw} was not ingested"
        found = result.boxes(raw)
        return "" if found == expected else f"{raw} has {found}, not {expected}"

    return judge


# --- records that repeat each other --------------------------------------------------------------


def repeats() -> list[Trial]:
    """Identifiers given twice, and one image in two files."""

    def build(folder: Path) -> Iterator[Variant]:
        for number, (what, change, sign, boxes) in enumerate(_repeats()):
            raw, file = f"R{number:03d}.ARW", f"r{number:03d}_train.json"
            raw_like(folder / "Sony" / "DSC00001.ARW", folder / raw)
            document = coco({raw: [_BOX]})
            changed = change(document)
            write_old(folder / file, json.dumps(document).encode())
            if changed is not None:
                write_old(folder / f"r{number:03d}_more.json", json.dumps(changed).encode())
            judge = _refuses(raw) if boxes is None else _has(raw, boxes)
            yield Variant(what, (sign, file) if sign else (), judge)

    return [Trial("repeats", build)]


Document = dict[str, list[dict[str, object]]]


def _repeats() -> Iterator[
    tuple[str, Callable[[Document], Document | None], str, list[list[float]] | None]
]:
    """(what it is, how: changes a document, may make a second; sign; boxes, None: refused)."""
    other = [9.0, 6.0, 7.0, 8.0]

    def again(key: str, count: int = 1, **changes: object) -> Callable[[Document], None]:
        def change(document: Document) -> None:
            document[key] += [document[key][0] | changes for _ in range(count)]

        return change

    yield "an image record twice", again("images"), "equal image records", [_BOX]
    yield "an image record 1,000 times", again("images", 1000), "equal image records", [_BOX]
    yield "an image id with two names", again("images", file_name="x.ARW"), "different image", None
    yield "an image id with two sizes", again("images", width=9), "different image", None
    yield "an annotation twice", again("annotations"), "is equal", [_BOX]
    yield "an annotation 1,000 times", again("annotations", 1000), "is equal", [_BOX]
    yield (
        "an annotation id with two boxes",
        again("annotations", bbox=other),
        "another box",
        [_BOX, other],
    )
    yield "a category twice", again("categories"), "", [_BOX]
    yield "a category id with two names", again("categories", name="car"), "two names", [_BOX]
    yield "an image twice, with two ids", again("images", id=7), "disagree", None
    yield "an image twice, with ids 0 and '0'", again("images", id="0"), "disagree", None

    def second(**changes: object) -> Callable[[Document], Document]:
        def change(document: Document) -> Document:
            return {
                "images": [dict(document["images"][0])],
                "annotations": [document["annotations"][0] | changes],
                "categories": document["categories"],
            }

        return change

    yield "the same in a second file", second(), "", [_BOX]
    yield "other boxes in a second file", second(bbox=other), "disagree", None
    yield "another class in a second file", second(category_id=2), "disagree", None
    yield "a crowd in a second file", second(iscrowd=1), "disagree", None
    yield "another id in a second file", second(id="other"), "", [_BOX]
    yield (
        "no boxes in a second file",
        lambda document: {**document, "annotations": []},
        "disagree",
        None,
    )


def _refuses(raw: str) -> Callable[[Result], str]:
    return lambda result: f"{raw} was ingested" if raw in result.sidecars else ""


# --- made to fill memory -------------------------------------------------------------------------


def large(share: float) -> Iterator[Trial]:
    """Files of a gigabyte and more, some just under what is read, and a million boxes."""
    for what, filler, size in (
        ("1 GiB of spaces", b" ", 1 << 30),
        ("1 GiB of zeros (sparse)", b"", 1 << 30),
        ("1 TiB of zeros (sparse)", b"", 1 << 40),
    ):
        nbytes = max(MAX_FILE_BYTES + 1, round(size * share)) if filler else size
        sign = f"annotation files of more than {MAX_FILE_BYTES:,}"
        yield _large(what, partial(_followed_by, filler=filler, nbytes=nbytes), sign, ROOM)
    most = max(8 << 20, round(MAX_FILE_BYTES * share) - 1)
    for what, start, unit, end, sign in (
        ("white space", b"", b" ", b"", ""),
        ("a string", b', "x": "', b"s", b'"', ""),
        ("a list of digits", b', "x": [0', b",1", b"]", ""),
        ("a list of lists", b', "x": [[]', b",[]", b"]", ""),
        ("an object", b', "x": {"a":0', b',"a":0', b"}", ""),
        ("backslashes in a string", b', "x": "', b"\\\\", b'"', ""),
        ("a name", b', "categories": [{"id": 7, "name": "', b"n", b'"}]', "a record of more than"),
        ("one record", b', "categories": [{"id": [', b"[],", b"0]}]", "a record of more than"),
        ("records that are digits", b', "categories": [0', b",0", b"]", "more than 100,000"),
        ("records without a field", b', "categories": [{}', b",{}", b"]", "more than 100,000"),
        ("a string without end", b', "x": "', b"s", b"", "ends inside a string"),
        ("a list without end", b', "x": [0', b",1", b"", "ends too early"),
    ):
        nbytes = most if what in ("white space", "a list of digits") else max(8 << 20, most // 8)
        make = partial(_padded, start=start, unit=unit, end=end, nbytes=nbytes)
        yield _large(f"{nbytes >> 20} MiB of {what}", make, sign, nbytes + ROOM_BESIDE_FILE)
    count = max(6_000, round(1_000_000 * share))
    room = ROOM_FOR_BOXES
    make = partial(_boxes, count=count, images=1)
    yield _large(f"{count:,} boxes in one image", make, "boxes; at most 5,000", room)
    yield _large(
        f"{count:,} boxes in images", partial(_boxes, count=count, images=10_000), "", room
    )
    make = partial(_boxes, count=count, images=1, of="NONE.ARW")
    yield _large(f"{count:,} boxes of an image without a raw", make, "boxes; at most 5,000", room)


def _large(what: str, make: Callable[[Path], object], sign: str, room: int) -> Trial:
    """A trial of one large file beside one that names the same raw, where that is refused."""

    def build(folder: Path) -> Sequence[Variant]:
        raw_like(folder / "Sony" / "DSC00001.ARW", folder / "LARGE.ARW")
        path = folder / "large_train.json"
        make(path)
        os.utime(path, (LONG_AGO, LONG_AGO))
        return [Variant(what, ("large_train.json", sign) if sign else (), judge)]

    def judge(result: Result) -> str:
        return "" if sign else _has("LARGE.ARW", [_BOX])(result)

    return Trial(what, build, room=room, seconds=240, thorough=False)


def _followed_by(path: Path, *, filler: bytes, nbytes: int) -> None:
    with path.open("wb") as file:
        file.write(_document("LARGE.ARW"))
        while filler and (missing := nbytes - file.tell()) > 0:
            file.write(filler * min(missing, 1 << 24))
        file.truncate(nbytes)


def _padded(path: Path, *, start: bytes, unit: bytes, end: bytes, nbytes: int) -> None:
    document = coco({"LARGE.ARW": [_BOX]})
    if b"categories" in start:
        del document["categories"]
    head = json.dumps(document).encode()[:-1] + start
    block = unit * ((1 << 20) // len(unit))
    with path.open("wb") as file:
        file.write(head)
        for _ in range((nbytes - len(head) - len(end) - 1) // len(block)):
            file.write(block)
        file.write(end + b"}")


def _boxes(path: Path, *, count: int, images: int, of: str = "LARGE.ARW") -> None:
    """Boxes evenly over images, of which the first has a raw and, of several, just one box."""
    document = coco({of: [_BOX]})
    size = {"width": SMALL_FRAME[0], "height": SMALL_FRAME[1]}
    more = [{"id": n, "file_name": f"I{n}.ARW"} | size for n in range(1, images)]
    boxes = document.pop("annotations")
    head = json.dumps(document | {"images": document["images"] + more})
    with path.open("w") as file:
        file.write(f'{head[:-1]}, "annotations": [')
        file.write(json.dumps(boxes[0]))
        for n in range(1, count):
            image = 1 + n % (images - 1) if images > 1 else 0
            box = f"[{n % 40}.5,{n % 20},5,{4 + n % 7}]"
            file.write(f',\n{{"id":{n},"image_id":{image},"category_id":1,"bbox":{box}}}')
        file.write("]}")
