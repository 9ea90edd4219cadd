"""What no disk does: files that are wrong although every checksum and digest in them fits.

A store from a stranger is such a store until proved otherwise. Reading it must end in an error or
in what the files say: never in a crash of the process, in memory without measure, or in a file
outside the store. The reading is done in a child process (`child`) that may die.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.develop.statistics import level_statistics
from pipeline.develop.steps import develop
from pipeline.raw.reader import decode
from pipeline.store.chunk.encode import encode_chunk
from pipeline.store.chunk.format import chunk_crc, decode_chunk
from pipeline.store.keys import MANIFEST_NAME, METADATA_NAME, chunk_key
from pipeline.store.manifest import entry_for
from schemas.manifest import StoredSample
from schemas.recipe import LevelName
from schemas.sidecar import Sidecar
from tests.kit.children import environment
from tests.kit.known_store import RECIPE, Faults, KnownStore
from tests.kit.stored import histogram, sealed, with_value
from tests.torture.campaign import FaultRow, Scale
from tests.torture.damage.judging import expect, mended, part

#: Seconds the child may take at share 1.
_PATIENCE = 900


def run(known: KnownStore, scale: Scale, folder: Path) -> Iterator[FaultRow]:
    """Edits that the manifest tells, forgeries that only the sources tell, and crafted files."""
    yield _edited(known, scale)
    yield _consistent(known, scale)
    yield from _in_a_child(scale, folder / "child")


def same_size_twin(chunk: bytes, shape: tuple[int, int, int]) -> bytes:
    """A valid chunk of the same size with other pixels: what --quick cannot tell apart."""
    stored = decode_chunk(memoryview(chunk), shape, chunk_crc(chunk), path="")
    for shift in range(1, stored.size):
        twin = bytes(encode_chunk(np.roll(stored, shift).reshape(shape), RECIPE.codec))
        if len(twin) == len(chunk) and twin != chunk:
            return twin
    raise AssertionError("no rotation of the pixels compresses to the same size")


# Edits under a digest that fits ------------------------------------------------------------------


def _edited(known: KnownStore, scale: Scale) -> FaultRow:
    """A sidecar changed with its digest: the manifest has another one, and names the sample."""
    row = FaultRow("sidecars edited, with a digest that fits")
    rng = scale.random(row.fault)
    edits = [
        (key, words, sealed(document))
        for key in known.sidecar_keys
        for words, document in believable_edits(known.document(key)).items()
    ]
    for key, words, data in part(edits, scale, rng, least=16):
        expect(known, row, f"{key}: {words}", {known.owner(key)}, {key: data})
    # What comes from the annotation files is taken from them again by an ingest.
    annotated = [edit for edit in edits if edit[1].startswith("annotated")]
    for key, words, data in part(annotated, scale, rng, least=4):
        mended(known, row, f"ingest after {key}: {words}", {key: data})
    return row


def believable_edits(whole: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Believable changes, in words and done."""

    def changed(path: str, value: Any) -> dict[str, Any]:
        return with_value(whole, path, value)

    boxes = whole["annotation"]["boxes"]
    split = {"train": "val", "val": "train"}[whole["split"]]
    moved = [boxes[0]["bbox"][0] + 1, *boxes[0]["bbox"][1:]]
    return {
        "annotated: a box moved": changed("annotation.boxes.0.bbox", moved),
        "annotated: a box of another class": changed(
            "annotation.boxes.0", boxes[0] | {"category_id": 3, "category": "car"}
        ),
        "annotated: a box removed": changed("annotation.boxes", boxes[1:]),
        "annotated: a box twice": changed("annotation.boxes", [*boxes, boxes[0]]),
        "annotated: all boxes removed": changed("annotation.boxes", []),
        "annotated: another split": changed("annotation.split", split) | {"split": split},
        "no annotation": changed("annotation", None),
        "split of the sample alone": changed("split", split),
        "another ISO": changed("capture.iso", 100),
        "another raw": changed("source.sha256", "0" * 64),
        "a statistic": changed("levels.packed.statistics.Y.p99", 0.01),
        "a matrix": changed("sensor.xyz_to_camera.0.0", 0.7),
        "another white level": changed("sensor.white", whole["sensor"]["white"] - 1.0),
        "another decoder": changed("decoder.version", "9"),
        "another recipe": changed("recipe_fingerprint", "0" * 16),
        "another camera": changed("camera.model", "Box Brownie"),
    }


# Forgeries in which all of the store agrees ------------------------------------------------------


def _consistent(known: KnownStore, scale: Scale) -> FaultRow:
    """Sidecar, chunks and manifest changed together: whole by itself, told by the sources only."""
    row = FaultRow("forged throughout: caught by prep verify --sources alone")
    forgeries = [
        (f"{sidecar.group}/{sidecar.id}", words, faults)
        for sidecar in known.sidecars()
        for words, faults in _forgeries(known, sidecar).items()
    ]
    for owner, words, faults in part(forgeries, scale, scale.random(row.fault), least=8):
        known.apply(faults)
        alone, proved = known.verify(), known.verify(sources=True)
        known.restore()
        if alone.exit_code == 0 and proved.names({owner}):
            row.record(caught=True, what=f"{owner}: {words}")
        else:
            row.miss(f"{owner}: {words}: alone {alone}, with the sources {proved}")
    return row


def _forgeries(known: KnownStore, sidecar: Sidecar) -> dict[str, Faults]:
    found: dict[str, Faults] = {}
    for level, record in sidecar.levels.items():
        key = chunk_key(sidecar.group, level, sidecar.row)
        stored = decode_chunk(memoryview(known.whole[key]), record.shape, record.crc32c, path="")
        stored[1, 5, 5] += 1
        found[f"one code of {level} changed"] = _with_pixels(known, sidecar, {level: stored})
    found["developed from a crop two pixels to the right"] = _with_moved_crop(known, sidecar)
    annotation = sidecar.annotation
    if annotation is not None:
        first, *others = annotation.boxes
        x, y, width, height = first.bbox
        moved = replace(first, bbox=(x + 1, y, width, height))
        for words, boxes in {
            "a box moved": (moved, *others),
            "a box removed": tuple(others),
            "a box twice": (first, *annotation.boxes),
        }.items():
            changed = annotation.model_copy(update={"boxes": boxes})
            found[words] = _agreed(known, sidecar.model_copy(update={"annotation": changed}))
    capture = sidecar.capture.model_copy(update={"iso": 100})
    found["another ISO"] = _agreed(known, sidecar.model_copy(update={"capture": capture}))
    source = sidecar.source.model_copy(update={"sha256": "0" * 64})
    found["another raw"] = _agreed(known, sidecar.model_copy(update={"source": source}))
    sensor = sidecar.sensor.model_copy(update={"white": sidecar.sensor.white - 1})
    found["another white level"] = _agreed(known, sidecar.model_copy(update={"sensor": sensor}))
    return found


def _agreed(known: KnownStore, sidecar: Sidecar) -> dict[str, bytes]:
    """A changed sidecar and the manifest that goes with it."""
    sidecar = sidecar.sealed()
    entries = [
        entry_for(sidecar)
        if isinstance(one, StoredSample) and one.key == (sidecar.group, sidecar.id)
        else one
        for one in known.entries()
    ]
    key = next(k for k in known.sidecar_keys if k.endswith(f"/{sidecar.id}.json"))
    return {key: sidecar.to_json(), MANIFEST_NAME: known.manifest(entries)}


def _with_pixels(
    known: KnownStore, sidecar: Sidecar, pixels: Mapping[LevelName, npt.NDArray[np.uint16]]
) -> Faults:
    """Other codes in some levels, and everything that records codes with them."""
    levels, chunks = dict(sidecar.levels), {}
    for level, stored in pixels.items():
        record = levels[level]
        chunk = bytes(encode_chunk(stored, RECIPE.codec))
        point = record.fixed_point
        levels[level] = record.model_copy(
            update={
                "nbytes": len(chunk),
                "crc32c": chunk_crc(chunk),
                "statistics": level_statistics(histogram(stored), point, RECIPE.planes),
            }
        )
        chunks[chunk_key(sidecar.group, level, sidecar.row)] = chunk
    return {**chunks, **_agreed(known, sidecar.model_copy(update={"levels": levels}))}


def _with_moved_crop(known: KnownStore, sidecar: Sidecar) -> Faults:
    """What an ingest with a wrong idea of the frame would have stored."""
    crop = sidecar.frame.crop.model_copy(update={"x": sidecar.frame.crop.x + 2})
    frame = sidecar.frame.model_copy(update={"crop": crop})
    raw = next(path for path in known.sources.rglob("*") if path.stem == sidecar.id)
    mosaic = decode(raw.read_bytes(), "libraw", path=raw.name).mosaic
    record = sidecar.levels["packed"]
    levels = develop(mosaic, frame, sidecar.sensor, RECIPE, record.fixed_point)
    moved = sidecar.model_copy(update={"frame": frame})
    return _with_pixels(known, moved, {name: level.stored for name, level in levels.items()})


# Crafted files -----------------------------------------------------------------------------------


def _in_a_child(scale: Scale, folder: Path) -> Iterator[FaultRow]:
    """Rows of `child`; its death is a miss of the row it was in."""
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "tests.torture.damage.child"]
    command += [str(folder), str(scale.share), str(scale.seed)]
    done = subprocess.run(
        command,
        env=environment(MALLOC_ARENA_MAX="1"),
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        check=False,
    )
    lines = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    yield from (FaultRow(**line) for line in lines)
    if done.returncode:
        row = FaultRow("crafted files: the process reading them")
        doing = (folder / "doing").read_text()
        row.miss(f"it ended with {done.returncode} at {doing}: {done.stderr[-600:]}")
        yield row


def crafted_sidecars(whole: dict[str, Any], row_taken: int) -> Iterator[tuple[str, bytes]]:
    """Sidecars that no ingest writes, whose digest fits all the same."""
    for path, values in _ABSURD.items():
        for value in values:
            text = repr(value)
            document = with_value(whole, path, value)
            yield f"{path} = {text if len(text) < 60 else text[:60] + '...'}", sealed(document)
    yield "a row that is taken", sealed(whole | {"row": row_taken})
    yield "a field nobody knows", sealed(whole | {"extra": 1})
    yield "no levels", sealed(whole | {"levels": {}})
    half = {"packed": whole["levels"]["packed"]}
    yield "one level only", sealed(whole | {"levels": half})
    yield "a level nobody knows", sealed(whole | {"levels": whole["levels"] | {"full": {}}})
    huge = with_value(whole, "frame.size", [40000, 40000])
    huge = with_value(huge, "frame.crop", {"x": 0, "y": 0, "width": 40000, "height": 40000})
    huge = with_value(huge, "frame.raw_size", [40000, 40000])
    huge = with_value(huge, "levels.packed.shape", [3, 20000, 20000])
    huge = with_value(huge, "levels.packed.scale_x", 0.5)
    yield "a large image, consistently", sealed(with_value(huge, "levels.packed.scale_y", 0.5))
    turned = with_value(whole, "frame.orientation", 6)
    yield "turned, but not its size", sealed(turned)
    yield "brackets without end", b"[" * 200_000
    yield "objects without end", b'{"id":' * 100_000
    yield "a number of a million digits", b'{"row": ' + b"9" * 1_000_000 + b"}"
    yield "an empty object", b"{}"
    yield "null", b"null"
    yield "no UTF-8", b"\xff\xfe" + bytes(40)
    yield "a lone surrogate", sealed(whole | {"split": "\ud800"})


_NUMBERS: tuple[Any, ...] = (0, -1, 10**12, 10**30, 0.5, math.nan, math.inf, -math.inf, "1", None)
_PATHS = ("..", "../stranger", "/etc", "a/b", "", "a\0b", "x" * 5000, ".hidden", 7, None, "a b")
_SIZES: tuple[Any, ...] = (
    [0, 0],
    [-2, -2],
    [1, 1],
    [10**9, 10**9],
    [2**63, 2],
    [10**30, 10**30],
    [2.5, 2],
    [],
    "big",
)
_ABSURD: dict[str, tuple[Any, ...]] = {
    "id": _PATHS,
    "group": _PATHS,
    "row": (*_NUMBERS[1:], True),
    "format_version": (0, 1, 3, None, "2"),
    "split": (7, [], {}),
    "frame.size": (*_SIZES, [32, 48], [50, 32]),
    "frame.raw_size": _SIZES,
    "frame.crop.x": _NUMBERS[1:],
    "frame.crop.width": _NUMBERS,
    "frame.orientation": (0, 9, 10**30, None),
    "sensor.white": (0, -1, 1e300, math.nan, 600, None),
    "sensor.black": ([0] * 3, [-1] * 4, [1e300] * 4, [math.nan] * 4, [70000] * 4),
    "sensor.xyz_to_camera": (
        [[0] * 3] * 3,
        [[1] * 3] * 3,
        [[1e300] * 3] * 3,
        [[1e300, 0, 0], [0, 1e-300, 0], [0, 0, 1]],
        [[1e-300, 0, 0], [0, 1e-300, 0], [0, 0, 1e-300]],
        [[math.nan] * 3] * 3,
        [],
    ),
    "sensor.cfa": ("XXXX", "", 1),
    "levels.packed.shape": (
        [3, 0, 24],
        [3, -16, 24],
        [3, 24, 16],
        [3, 17, 24],
        [3, 16, 24, 1],
        [3, 16],
        [1, 16, 24],
        [3, 10**6, 10**6],
        [3, 2**31, 2**31],
        [3, 2**63, 1],
        [10**30, 1, 1],
        None,
    ),
    "levels.packed.nbytes": (*_NUMBERS, 2**31, 2**63, 100, 2324, 2325),
    "levels.packed.crc32c": ("", "00000000", "zzzzzzzz", "0" * 9, 0, None),
    "levels.packed.scale_x": (0, -0.5, 0.25, 1e300, math.nan, None),
    "levels.packed.scale_factor": (0, -1e-5, 1e-300, 1e300, math.nan, math.inf, None),
    "levels.packed.add_offset": (1, -1e300, 1e300, math.nan, None),
    "levels.packed.statistics": ({}, {"Y": {}}, None, []),
    "levels.packed.statistics.Y.p99": (1e300, -1e300, math.nan, "1", None),
    "levels.packed.statistics.X.share_below_zero": (-1, 2, math.nan),
    "annotation.width": (*_NUMBERS[:-1], 10**7, 47),
    "annotation.boxes": (None, [[]], [{}] * 3, {}),
    "annotation.boxes.0.bbox": (
        [math.nan] * 4,
        ["NaN"] * 4,
        ["Infinity"] * 4,
        [1e308] * 4,
        [-1e308, 0, 1e308, 1],
        [0, 0, 0, 0],
        [100, 100, 5, 5],
        [1, 2, 3],
        [],
    ),
    "annotation.boxes.0.category_id": (0, 4, 99, -1, 10**30, "1"),
    "annotation.boxes.0.iscrowd": (True, 2, None),
    "annotation.boxes.0.findings": ([{}], [{"code": "x", "severity": "fatal"}], None),
    "levels.resized.shape": ([3, 13, 21], [3, 1, 1], [3, 16, 24]),
    "source.size": ("x", None, math.nan),
    "decoder.name": ("dcraw", "", None),
}


def crafted_lists(known: KnownStore) -> Iterator[tuple[str, str, bytes]]:
    """Manifests and metadata that no ingest writes: (what, key, content)."""
    lines = known.whole[MANIFEST_NAME].splitlines(keepends=True)
    for change in (
        {"id": "../../stranger/sidecars/x"},
        {"id": "../x"},
        {"group": ".."},
        {"group": "../stranger"},
        {"group": "/etc"},
        {"row": -1},
        {"row": 10**12},
        {"row": 10**30},
        {"id": "x\0y"},
    ):
        # Past the model, which would not make such a line.
        line = json.dumps(json.loads(lines[1]) | change).replace(" ", "").encode() + b"\n"
        yield f"a line with {change}", MANIFEST_NAME, known.resealed([lines[0], line, *lines[2:-1]])
    nameless = {k: v for k, v in json.loads(lines[1]).items() if k not in ("group", "id")}
    line = json.dumps(nameless, separators=(",", ":")).encode() + b"\n"
    yield "an entry of no group", MANIFEST_NAME, known.resealed([lines[0], line, *lines[2:-1]])
    yield (
        "brackets without end",
        MANIFEST_NAME,
        known.resealed([*lines[:-1], b"[" * 99_999 + b"\n"]),
    )
    yield "no line but the last", MANIFEST_NAME, known.resealed([])
    root = known.document(METADATA_NAME)
    for path, value in {
        "attributes.format_version": 3,
        "attributes.versions": {"zarr": 3},
        "attributes.recipe.fit": [10**9, 10**9],
        "attributes.recipe": [],
        "attributes": None,
        "shape": [10**30],
        "consolidated_metadata": {"metadata": {"../../x": {}}},
    }.items():
        document = root | {path: value} if path == "shape" else with_value(root, path, value)
        yield f"{path} = {value}", METADATA_NAME, json.dumps(document).encode()
    array = next(key for key in known.metadata_keys if "/packed/" in key)
    for path, value in {
        "shape": [10**12, 3, 16, 24],
        "shape.1": -3,
        "shape.2": 10**30,
        "shape.0": math.inf,
        "attributes.scale_factor": math.nan,
        "attributes.add_offset": "x",
        "attributes": [],
    }.items():
        document = with_value(known.document(array), path, value)
        yield f"{path} = {value}", array, json.dumps(document).encode()
    for key in (METADATA_NAME, array):
        yield "brackets without end", key, b"[" * 200_000
