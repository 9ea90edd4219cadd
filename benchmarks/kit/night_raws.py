"""Full-size night raws in real formats, drawn and written by `pipeline.sample_set`.

One street by night is drawn once and photographed at several exposures: mean signal 40 to 300 DN
above black, ISO 800 photon and read noise, lamps and headlights that clip. Not plain noise: what
decoders and compressors cost depends on how the noise varies over the image.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.console.progress import PlainReporter
from pipeline.ingest import IngestOptions, run_ingest
from pipeline.sample_set import (
    NIKON_D750,
    SONY_RX100M7,
    arw_bytes,
    compose_scene,
    nef_bytes,
    render_scene,
)
from pipeline.sample_set.formats.camera_file import CameraFile
from pipeline.sample_set.scene.light import Floats
from pipeline.sample_set.sensor import (
    NIKON_D750_MATRIX,
    SONY_RX100M7_MATRIX,
    Matrix,
    Sensor,
    expose,
)
from schemas.recipe import LevelName, Recipe

LOWEST_SIGNAL, HIGHEST_SIGNAL = 40.0, 300.0  # DN above black, mean of the image
ISO = 800
BOXES = 8  # an image, where there are boxes: NOD has some five
WHITE = 16383


@dataclass(frozen=True)
class RawFormat:
    """One kind of raw: camera, compression and geometry.

    Attributes
    ----------
    shape
        (height, width) of the full sensor area.
    crop
        x, y, width, height of the camera's frame in it.
    """

    name: str
    camera: CameraFile
    matrix: Matrix
    unity_iso: float
    shape: tuple[int, int]
    crop: tuple[int, int, int, int]
    suffix: str


ARW2 = RawFormat(
    "ARW2 5504x3672",
    SONY_RX100M7,
    SONY_RX100M7_MATRIX,
    200.0,
    (3672, 5504),
    (12, 12, 5472, 3648),
    ".ARW",
)
NEF_DX = RawFormat(
    "NEF lossless 3968x2640",
    NIKON_D750,
    NIKON_D750_MATRIX,
    500.0,
    (2640, 3968),
    (16, 8, 3936, 2624),
    ".NEF",
)
NEF_FX = RawFormat(
    "NEF lossless 6032x4032",
    NIKON_D750,
    NIKON_D750_MATRIX,
    500.0,
    (4032, 6032),
    (8, 8, 6016, 4016),
    ".NEF",
)
FORMATS = (ARW2, NEF_DX, NEF_FX)


def write_night_raws(
    folder: Path, formats: Sequence[RawFormat], *, images: int
) -> dict[str, list[Path]]:
    """Write `images` raws of each format, darkest first; paths by format name."""
    scene = compose_scene((0, 0))
    written: dict[str, list[Path]] = {}
    for kind in formats:
        width, height = kind.crop[2] // 2, kind.crop[3] // 2
        xyz = render_scene(scene, width=width, height=height).xyz
        signals = np.geomspace(LOWEST_SIGNAL, HIGHEST_SIGNAL, images)
        written[kind.name] = [
            _write_one(folder, kind, xyz, number, float(signal))
            for number, signal in enumerate(signals)
        ]
    return written


def night_store(folder: Path, *, images: int, levels: tuple[LevelName, ...]) -> Path:
    """A store, ingested as a user would, of `images` full-size ARW2 with boxes."""
    raws = folder / "raws"
    raws.mkdir()
    written = write_night_raws(raws, (ARW2,), images=images)[ARW2.name]
    (raws / "boxes.json").write_text(json.dumps(_boxes(written)), encoding="utf-8")
    store, reporter = folder / "data.zarr", PlainReporter(print, quiet=True)
    run_ingest([str(raws)], str(store), Recipe(levels=levels), IngestOptions(), reporter)
    return store


def _boxes(raws: Sequence[Path]) -> dict[str, Any]:
    """COCO annotations: boxes anywhere, for targets that cost what targets cost."""
    draw, (width, height) = random.Random(1), ARW2.crop[2:]
    annotations = []
    for number in range(BOXES * len(raws)):
        w, h = draw.uniform(50, 800), draw.uniform(50, 800)
        box = [draw.uniform(0, width - w), draw.uniform(0, height - h), w, h]
        link = {"id": number, "image_id": number // BOXES, "category_id": number % 3 + 1}
        annotations.append({**link, "bbox": box, "area": w * h, "iscrowd": 0})
    return {
        "images": [
            {"id": number, "file_name": raw.name, "width": width, "height": height}
            for number, raw in enumerate(raws)
        ],
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name}
            for number, name in enumerate(("person", "bicycle", "car"), 1)
        ],
    }


def _write_one(folder: Path, kind: RawFormat, xyz: Floats, number: int, signal: float) -> Path:
    black = kind.camera.black[0]
    sensor = Sensor(
        matrix=kind.matrix,
        cfa=kind.camera.cfa,
        shape=kind.shape,
        crop=kind.crop,
        black=black,
        white=WHITE,
        unity_iso=kind.unity_iso,
    )
    mosaic = expose(
        xyz,
        sensor,
        mean_signal=signal / (WHITE - black),
        iso=ISO,
        rng=np.random.default_rng([number, *kind.shape]),
    )
    camera = replace(kind.camera, crop=kind.crop, iso=ISO)
    encode = arw_bytes if kind.suffix == ".ARW" else nef_bytes
    path = folder / f"{kind.name.replace(' ', '-')}-{number}{kind.suffix}"
    path.write_bytes(encode(mosaic, camera=camera))
    return path
