"""Annotation files whose records, numbers and documents are wrong in every way known."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.kit.small_raws import SMALL_FRAME
from tests.torture.hostile_annotations.bench import (
    Judge,
    Result,
    Trial,
    Variant,
    raw_like,
    write_old,
)

Rng = np.random.Generator

_TOGETHER = 24
_WIDTH, _HEIGHT = SMALL_FRAME
_GOOD = [5.0, 6.0, 7.0, 8.0]

#: Values no number of pixels should have, as JSON spells them.
_NUMBERS = (
    *("NaN", "Infinity", "-Infinity", "1e308", "-1e308", "1e400", "-1e400", "-0.0", "5e-324"),
    *("1e-400", '"7"', '"x"', '""', "null", "true", "false", "[1]", "{}", "9007199254740993"),
    *("9" * 30, "9" * 400, "-" + "9" * 400, "4294967296", "-5", "0", "0.001", "1e6", '"NaN"'),
    *('"Infinity"', '"1_0"', '"0x10"', '" 3 "', "18446744073709551616", "1E+2", "1e-5"),
)
_WHOLE_BOXES = (
    *("null", "[]", "[1,2,3]", "[1,2,3,4,5]", "[[1,2,3,4]]", "[[1],[2],[3],[4]]", "{}", "7"),
    *('"1,2,3,4"', "[true,false,true,true]", '{"x":1,"y":2,"w":3,"h":4}', "[null,null,null,null]"),
    *("[1e308,1e308,1e308,1e308]", "[-1e308,-1e308,1e308,1e308]", "[0,0,1e308,1e308]"),
    *("[NaN,NaN,NaN,NaN]", "[-9,-9,3,3]", "[1e9,1e9,3,3]", "[5,5,-3,-3]", "[5,5,0,0]", "[]"),
    *("[" * 60 + "1" + "]" * 60, "[" + "1," * 2000 + "1]", "[0,0,48,32]", "[-1,-1,50,34]"),
)
_SIDES = (
    *("0", "-48", "1000001", "9" * 400, "48.5", "1e400", "NaN", "Infinity", "-Infinity", "null"),
    *("true", '"x"', '""', "[48]", "{}", "1e308", "9223372036854775808", "-0"),
)
_OTHER_SIDES = ("1", "7", "1000000", "48000")
_CATEGORY_IDS = (
    *("0", "-1", "999", "4", '"1"', '"person"', "9" * 100, '"\\u0000"', '"../x"'),
    *('"' + "x" * 255 + '"',),
)
_NO_IDS = (
    *("null", "true", "false", "1.5", "NaN", "Infinity", "[1]", "{}", '"' + "x" * 256 + '"'),
    *("9" * 300, "1e400", '"' + "x" * 100_000 + '"'),
)
_IDS = (
    *("0", "-7", "9" * 100, "9223372036854775807", "9223372036854775808", "2305843009213693951"),
    *('""', '"5"', "7777.0", '"../../x"', '"\\u001b[2J"', '"\\u202e"', '"null"', '" "'),
    *('"' + "x" * 255 + '"', '"__proto__"', '"%s%n"', '"C:\\\\x"', "-9223372036854775809", "1e2"),
)

_LARGEST = sys.float_info.max
_EXTRA_KEYS = ("area", "iscrowd", "segmentation", "isextreme", "nobody_asked")
_EXTRAS = ('"a"', "7", "-1", "[]", '{"x": []}', '"\\u001b[2J"', "NaN", "null", "2")


def plain_boxes(document: dict[str, Any], image_id: object) -> list[list[float]]:
    """What the boxes of an image are by a few lines of ours; what is no box at all left out."""

    def number(value: object) -> float | None:
        if isinstance(value, bool):
            return None
        if isinstance(value, str):
            try:
                return float(value)
            except ValueError:
                return None
        if not isinstance(value, int | float):
            return None
        # What has hundreds of digits is no number to anybody; 1e400, however, is infinite.
        return None if _LARGEST < abs(value) < math.inf else float(value)

    found = []
    for one in document["annotations"]:
        box = one.get("bbox")
        ids = one.get("image_id"), one.get("id"), one.get("category_id")
        if not all(map(_is_id, ids)) or (type(ids[0]), ids[0]) != (type(image_id), image_id):
            continue
        if not isinstance(box, list) or len(box) != 4:
            continue
        numbers = [number(value) for value in box]
        if None not in numbers:
            found.append([value for value in numbers if value is not None])
    return found


def _is_id(value: object) -> bool:
    if isinstance(value, float):
        return value.is_integer()
    is_whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**255
    return is_whole or (isinstance(value, str) and len(value) <= 255)


def _same(stored: Sequence[Sequence[object]], expected: Sequence[Sequence[float]]) -> bool:
    """Whether boxes of a sidecar are these; what is not finite is text there."""
    return repr([[float(str(v)) for v in box] for box in stored]) == repr(
        [[float(v) for v in box] for box in expected]
    )


def _usable(box: Sequence[float]) -> bool:
    """Whether a box has area inside the frame."""
    x, y, width, height = box
    edges = x, y, x + width, y + height
    if not all(map(math.isfinite, (*box, *edges))) or min(width, height) < 1 / 64:
        return False
    seen = min(edges[2], _WIDTH) - max(x, 0), min(edges[3], _HEIGHT) - max(y, 0)
    return min(seen) >= 1 / 64


def kept(source: str, document: dict[str, Any], image_id: object, signs: tuple[str, ...]) -> Judge:
    """A judge: the sample has just the boxes a plain parse finds, and trains on the usable ones.

    Where its `signs` are told, the last may be left out; or the image is refused, which would lack
    that object.
    """
    expected = plain_boxes(document, image_id)

    def judge(result: Result) -> str:
        found = result.boxes(source)
        if signs and source not in result.sidecars and result.told(source):
            return ""
        left_out = expected[:-1] if signs and result.told(*signs) else expected
        if found is None or not (_same(found, expected) or _same(found, left_out)):
            return f"{source} has the boxes {str(found)[:200]}, not {str(expected)[:200]}"
        boxes = result.sidecars[source]["annotation"]["boxes"]
        for box, values in zip(boxes, expected, strict=False):
            codes = {f["code"] for f in box["findings"] if f["severity"] == "error"}
            if _usable(values) == bool(codes & {"non-finite", "zero-area", "outside-frame"}):
                return f"{source}: box {values} has the findings {codes}"
        return ""

    return judge


# --- numbers -------------------------------------------------------------------------------------


def numbers(rng: Rng, count: int) -> list[Trial]:
    """Boxes whose numbers are no numbers of pixels: each is named, or kept as it was given."""
    boxes = list(_WHOLE_BOXES)
    for text in _NUMBERS:
        for place in range(4):
            numbers_ = [str(v) for v in _GOOD]
            numbers_[place] = text
            boxes.append(f"[{','.join(numbers_)}]")
    chosen = [boxes[n] for n in rng.permutation(len(boxes))][:count]
    while len(chosen) < count:
        some = rng.integers(0, len(_NUMBERS), 4)
        chosen.append(f"[{','.join(_NUMBERS[n] for n in some)}]")
    return _together("numbers", [_beside_a_good_one(n, bbox=b) for n, b in enumerate(chosen)])


@dataclass(frozen=True)
class _Record:
    """An image with its annotations, as JSON; a raw of its name is there.

    Attributes
    ----------
    sign
        What a message about it holds; ``{}`` is the position of the last annotation.
    refused
        Whether the raw must not become a sample.
    """

    what: str
    image: str
    annotations: tuple[str, ...]
    sign: str = ""
    refused: bool = False


def _object(fields: dict[str, str]) -> str:
    return "{" + ",".join(f'"{key}":{value}' for key, value in fields.items()) + "}"


def _image(number: int, /, **changes: str) -> str:
    fields = {"id": str(number), "file_name": f'"V{number:03d}.ARW"'}
    return _object(fields | {"width": str(_WIDTH), "height": str(_HEIGHT)} | changes)


def _annotation(number: int, image_id: str, /, **changes: str) -> str:
    fields = {"id": str(number), "image_id": image_id, "category_id": "1", "bbox": str(_GOOD)}
    return _object(fields | changes)


def _beside_a_good_one(number: int, /, **changes: str) -> _Record:
    """A good box, and an annotation that is wrong in one field."""
    (key, text), *_ = changes.items()
    good, hostile = (_annotation(n + number, str(number)) for n in (1000, 5000))
    hostile = _annotation(5000 + number, str(number), **changes)
    sign = "(number {} of the list)" if key == "id" else f"annotation {5000 + number}"
    return _Record(f"{key} {text[:80]}", _image(number), (good, hostile), sign)


def _together(what: str, records: Sequence[_Record]) -> list[Trial]:
    """Trials of so many images in one file, each with a raw of its own."""

    def builder(some: Sequence[_Record]) -> Callable[[Path], Sequence[Variant]]:
        def build(folder: Path) -> Sequence[Variant]:
            images = ",\n".join(one.image for one in some)
            annotations = [text for one in some for text in one.annotations]
            text = document_text(images, ",\n".join(annotations))
            write_old(folder / "records_train.json", text.encode())
            document = json.loads(text)
            variants, position = [], -1
            for one in some:
                position += len(one.annotations)
                parsed = json.loads(one.image)
                raw = str(parsed["file_name"])
                raw_like(folder / "Sony" / "DSC00001.ARW", folder / raw)
                signs = (one.sign.format(position),) if one.sign else ()
                judge = _absent(raw) if one.refused else kept(raw, document, parsed["id"], signs)
                variants.append(Variant(one.what, signs, judge))
            return variants

        return build

    return [
        Trial(f"{what} {start}", builder(records[start : start + _TOGETHER]), thorough=not start)
        for start in range(0, len(records), _TOGETHER)
    ]


def _absent(source: str) -> Judge:
    def judge(result: Result) -> str:
        refused = source not in result.sidecars and result.told(source)
        return "" if refused else f"{source} was not refused"

    return judge


def document_text(images: str, annotations: str, categories: str = "") -> str:
    """A COCO document of records as text."""
    return (
        f'{{"images": [{images}],\n"annotations": [{annotations}],\n'
        f'"categories": [{{"id": 1, "name": "person"}}{categories}]}}'
    )


# --- records -------------------------------------------------------------------------------------


def records(rng: Rng, count: int) -> list[Trial]:
    """Sizes, identifiers and categories that are none, or not such as one expects."""
    wrong = [{key: side} for side in _SIDES for key in ("width", "height")]
    wrong += [{"width": side} for side in _OTHER_SIDES]
    found = [_refused(number, **changes) for number, changes in enumerate(wrong)]
    keys = ("id", "image_id", "category_id")
    wrong = [{key: text} for text in _NO_IDS for key in keys]
    wrong += [{"category_id": text} for text in _CATEGORY_IDS]
    wrong += [{key: text} for text in _EXTRAS for key in _EXTRA_KEYS]
    found += [_beside_a_good_one(n, **changes) for n, changes in enumerate(wrong, len(found))]
    for number, text in enumerate(_IDS, len(found)):
        boxes = (_annotation(1000 + number, text),)
        found.append(_Record(f"image id {text[:60]}", _image(number, id=text), boxes))
    for number, text in enumerate(_IDS, len(found)):
        boxes = (_annotation(0, str(number), id=text),)
        found.append(_Record(f"annotation id {text[:60]}", _image(number), boxes))
    return _together("records", [found[n] for n in rng.permutation(len(found))[:count]])


def _refused(number: int, /, **changes: str) -> _Record:
    (key, text), *_ = changes.items()
    boxes = (_annotation(1000 + number, str(number)),)
    return _Record(
        f"{key} {text[:60]}", _image(number, **changes), boxes, f"V{number:03d}.ARW", refused=True
    )
