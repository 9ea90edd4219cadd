"""A NOD-like folder: two cameras, real formats, COCO boxes, three splits."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import UsageError
from pipeline.sample_set.annotation_file import Shot, coco_document, split_shots
from pipeline.sample_set.formats.arw import ArwCompression, arw_bytes
from pipeline.sample_set.formats.camera_file import NIKON_D750, SONY_RX100M7, CameraFile, Mosaic
from pipeline.sample_set.formats.nef import NefCompression, nef_bytes
from pipeline.sample_set.formats.tiff_writer import ByteOrder
from pipeline.sample_set.scene.composition import compose_scene
from pipeline.sample_set.scene.light import Floats, temperature_rgb
from pipeline.sample_set.scene.render import render_scene
from pipeline.sample_set.sensor import (
    NIKON_D750_MATRIX,
    SONY_RX100M7_MATRIX,
    Matrix,
    Sensor,
    expose,
    white_balance,
)
from schemas.sample_set import SampleSetSummary

_log = logging.getLogger(__name__)

# Mean signal of the darkest frames (as in NOD) and of the brightest, as a share of white.
_DARKEST, _BRIGHTEST = 0.003, 0.03


@dataclass(frozen=True)
class _Variant:
    """One way a camera stores a file."""

    compression: ArwCompression | NefCompression
    byte_order: ByteOrder = "<"
    orientation: int = 1


@dataclass(frozen=True)
class _Body:
    """One camera of the set; geometries are (height, width) and x, y, width, height."""

    folder: str
    stem: str  # format of the file stem, given a number
    suffix: str
    annotations: str  # format of the annotation file name, given a split
    first_number: int
    camera: CameraFile
    matrix: Matrix
    unity_iso: float
    isos: tuple[int, ...]
    variants: tuple[_Variant, ...]
    small: tuple[tuple[int, int], tuple[int, int, int, int]]
    full: tuple[tuple[int, int], tuple[int, int, int, int]]


# ISO and gain: a one-inch sensor holds about 1e4 electrons at ISO 125, a full frame one 8e4 at 100.
_SONY = _Body(
    folder="Sony",
    stem="DSC{:05d}",
    suffix=".ARW",
    annotations="raw_new_Sony_RX100m7_{}.json",
    first_number=1088,
    camera=SONY_RX100M7,
    matrix=SONY_RX100M7_MATRIX,
    unity_iso=200.0,
    isos=(200, 400, 800, 1600),
    # No big-endian ARW: Sony writes none, and decoders disagree about them.
    variants=(
        _Variant("arw2"),
        _Variant("uncompressed"),
        _Variant("arw2"),
        _Variant("arw2", orientation=8),
        _Variant("uncompressed"),
        _Variant("arw2"),
    ),
    small=((840, 1280), (12, 12, 1224, 816)),
    full=((3672, 5504), (12, 12, 5472, 3648)),
)
_NIKON = _Body(
    folder="Nikon",
    stem="DSC_{:04d}",
    suffix=".NEF",
    annotations="raw_new_Nikon750_{}.json",
    first_number=550,
    camera=NIKON_D750,
    matrix=NIKON_D750_MATRIX,
    unity_iso=500.0,
    isos=(400, 800, 1600, 3200),
    variants=(
        _Variant("lossless"),
        _Variant("uncompressed"),
        _Variant("packed12"),
        _Variant("lossless", ">"),
        _Variant("uncompressed", ">"),
        _Variant("packed12", ">"),
        _Variant("lossless", orientation=6),
        _Variant("lossless"),
    ),
    small=((672, 1016), (16, 8, 984, 656)),
    full=((2640, 3968), (16, 8, 3936, 2624)),
)
_BODIES = (_SONY, _NIKON)


def write_sample_set(
    directory: Path, *, images: int = 12, seed: int = 0, full_size: bool = False
) -> SampleSetSummary:
    """Write a synthetic night set in the two cameras' own formats.

    Parameters
    ----------
    directory
        Created if missing; must be empty.
    images
        How many raws, at least 1; cameras take turns.
    seed
        Same seed, same bytes on the same machine; the first images do not depend on `images`.
    full_size
        The cameras' real sizes (20 and 10 megapixels) instead of about 1 megapixel.
    """
    if images < 1:
        raise UsageError(f"images is {images}", mend="ask for at least one image")
    if seed < 0:
        raise UsageError(f"seed is {seed}", mend="choose a seed of 0 or more")
    _require_empty(directory)
    shots: dict[str, list[Shot]] = {body.folder: [] for body in _BODIES}
    numbers = {body.folder: body.first_number for body in _BODIES}
    for index in range(images):
        body = _BODIES[index % len(_BODIES)]
        folder = directory / body.folder
        folder.mkdir(parents=True, exist_ok=True)
        shot = _write_shot(
            folder, body, number=numbers[body.folder], index=index, seed=seed, full_size=full_size
        )
        _log.debug("%s: %d boxes", shot.path, len(shot.boxes))
        shots[body.folder].append(shot)
        numbers[body.folder] += int(np.random.default_rng([seed, index, 2]).integers(1, 5))
    annotations = [
        path
        for body in _BODIES
        for path in _write_annotations(directory / body.folder, body, shots[body.folder], seed)
    ]
    every = [shot for body in _BODIES for shot in shots[body.folder]]
    paths = tuple(shot.path for shot in every)
    return SampleSetSummary(
        raws=paths,
        annotations=tuple(annotations),
        boxes=sum(len(shot.boxes) for shot in every),
        size=sum(path.stat().st_size for path in (*paths, *annotations)),
        cameras=tuple(body.camera.model for body in _BODIES if shots[body.folder]),
    )


def _require_empty(directory: Path) -> None:
    if directory.exists() and not directory.is_dir():
        raise UsageError("not a directory", path=str(directory), mend="name a new directory")
    if directory.is_dir() and any(directory.iterdir()):
        raise UsageError(
            "the directory is not empty; a sample set is never mixed with other files",
            path=str(directory),
            mend="name a new directory, or remove this one first",
        )


def _write_shot(
    folder: Path, body: _Body, *, number: int, index: int, seed: int, full_size: bool
) -> Shot:
    variant = body.variants[index // len(_BODIES) % len(body.variants)]
    sensor = _sensor(body, variant, full_size=full_size)
    _, _, width, height = sensor.crop
    # At full size all four sites of a CFA cell see one value: lenses do not resolve single pixels.
    step = 2 if full_size else 1
    scene = compose_scene((seed, index), aspect=_upright(variant, width, height))
    size = (width // step, height // step)
    size = size if variant.orientation == 1 else (size[1], size[0])
    rendered = render_scene(scene, width=size[0], height=size[1])
    xyz, boxes = turn_to_sensor(rendered.xyz, rendered.boxes * step, variant.orientation, step)

    rng = np.random.default_rng([seed, index, 1])
    mean_signal = math.exp(rng.uniform(math.log(_DARKEST), math.log(_BRIGHTEST)))
    iso = _choose_iso(rng, body, mean_signal)
    mosaic = expose(xyz, sensor, mean_signal=mean_signal, iso=iso, rng=rng)
    camera = _facts(body, variant, sensor, rng=rng, index=index, iso=iso)
    gains = white_balance(body.matrix, temperature_rgb(scene.temperature))
    camera = replace(camera, white_balance=gains)
    stem = body.stem.format(number)
    path = folder / f"{stem}{body.suffix}"
    path.write_bytes(_encode(mosaic, variant.compression, camera))
    return Shot(stem, path, (width, height), boxes, rendered.labels)


def _upright(variant: _Variant, width: int, height: int) -> float:
    """Width over height of the upright frame."""
    return width / height if variant.orientation == 1 else height / width


def _sensor(body: _Body, variant: _Variant, *, full_size: bool) -> Sensor:
    shape, crop = body.full if full_size else body.small
    # The black level is the same voltage in 12 bits, a quarter of the number.
    divisor = 4 if variant.compression == "packed12" else 1
    return Sensor(
        matrix=body.matrix,
        cfa=body.camera.cfa,
        shape=shape,
        crop=crop,
        black=body.camera.black[0] // divisor,
        white=16384 // divisor - 1,
        unity_iso=body.unity_iso,
    )


def turn_to_sensor(
    xyz: Floats, boxes: npt.NDArray[np.int64], orientation: int, step: int = 1
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Turn an upright scene into the sensor's frame of a camera that was held on its side.

    Parameters
    ----------
    xyz
        (3, h, w), the scene upright.
    boxes
        (n, 4) int64 xywh, in units of 1 / `step` pixels of `xyz`.
    orientation
        EXIF 1, 6 or 8: how a viewer has to turn the result to make it upright again.
    step
        Box units per pixel of `xyz`.
    """
    if orientation == 1:
        return xyz, boxes
    height, width = xyz.shape[1] * step, xyz.shape[2] * step
    x, y, w, h = boxes.T
    if orientation == 8:
        turned, corner = np.rot90(xyz, -1, axes=(1, 2)), (height - y - h, x)
    elif orientation == 6:
        turned, corner = np.rot90(xyz, 1, axes=(1, 2)), (y, width - x - w)
    else:
        raise ValueError(f"orientation {orientation}: only 1, 6 and 8 are written")
    return np.ascontiguousarray(turned), np.stack([*corner, h, w], axis=1)


def _choose_iso(rng: np.random.Generator, body: _Body, mean_signal: float) -> int:
    """Darker frames tend to higher ISO, as automatic exposure does."""
    darkness = math.log(_BRIGHTEST / mean_signal) / math.log(_BRIGHTEST / _DARKEST)
    position = darkness * (len(body.isos) - 1) + float(rng.uniform(-0.7, 0.7))
    return body.isos[round(min(max(position, 0), len(body.isos) - 1))]


def _facts(
    body: _Body,
    variant: _Variant,
    sensor: Sensor,
    *,
    rng: np.random.Generator,
    index: int,
    iso: int,
) -> CameraFile:
    # An invented evening: the bytes must not depend on the machine's clock.
    moment = datetime(2020, 11, 7, 19, 30) + timedelta(seconds=41 * index)
    return replace(
        body.camera,
        black=(sensor.black,) * 4,
        crop=sensor.crop,
        byte_order=variant.byte_order,
        orientation=variant.orientation,
        iso=iso,
        exposure_time=Fraction(1, int(rng.choice([10, 15, 30, 60, 125]))),
        f_number=Fraction(int(rng.choice([28, 32, 35, 40])), 10),
        captured_at=moment.strftime("%Y:%m:%d %H:%M:%S"),
    )


def _encode(
    mosaic: Mosaic, compression: ArwCompression | NefCompression, camera: CameraFile
) -> bytes:
    if camera.make == SONY_RX100M7.make:
        return arw_bytes(
            mosaic, compression="arw2" if compression == "arw2" else "uncompressed", camera=camera
        )
    if compression == "arw2":
        raise ValueError("a NEF holds no ARW2")
    return nef_bytes(mosaic, compression=compression, camera=camera)


def _write_annotations(folder: Path, body: _Body, shots: list[Shot], seed: int) -> list[Path]:
    paths = []
    for split, members in split_shots(shots, np.random.default_rng([seed, 3])).items():
        if members:
            path = folder / body.annotations.format(split)
            description = (
                "Synthetic night street in the layout of RAW-NOD: rendered, not photographed."
                f" {body.camera.model}, {split}, seed {seed}"
            )
            document = coco_document(members, description=description)
            path.write_text(json.dumps(document), encoding="utf-8")
            paths.append(path)
    return paths
