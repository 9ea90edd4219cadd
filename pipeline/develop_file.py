"""Develops one raw file outside any store: the steps of an ingest, without row, boxes or commit."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.develop.colour import own_range
from pipeline.develop.frame import choose_frame
from pipeline.develop.steps import Level, develop
from pipeline.errors import CorruptRawError, GenispError, SourceError, UnreadableSourceError
from pipeline.ingest.failure import failure_from
from pipeline.raw.black import check_black
from pipeline.raw.damage import check_mosaic
from pipeline.raw.decoders.table import reference
from pipeline.raw.reader import decode, probe
from pipeline.safe_text import printable
from pipeline.sources.location import reading
from pipeline.sources.source import Source
from schemas.fixed_point import FixedPoint
from schemas.recipe import LevelName, Recipe
from schemas.sidecar import Frame


@dataclass(frozen=True)
class Developed:
    """One level of one raw.

    Attributes
    ----------
    xyz
        (3, h, w) float32 CIE XYZ (D65), about 0..1, unclipped, upright; camera RGB for that recipe.
    brightness
        The 99th percentile of Y (of G for camera RGB) of the whole level, as in a sidecar.
    frame
        Crop and orientation.
    """

    xyz: npt.NDArray[np.float32]
    brightness: float
    frame: Frame


def develop_file(path: str, recipe: Recipe, level: LevelName) -> Developed:
    """Decode and develop a raw in this process, as `prep ingest` would without an annotation.

    The values go through the fixed point of a store, so that a network sees what it was trained on.
    An annotation of an upright frame could have overruled the orientation flag; here it counts.

    Parameters
    ----------
    path
        A raw file.
    recipe
        Colour and fit; its levels do not matter.
    level
        ``"packed"`` or ``"resized"``.

    Raises
    ------
    SourceError
        If it cannot be read, is no raw we can convert, or is damaged.
    """
    try:
        return _develop(_source(path), recipe.model_copy(update={"levels": (level,)}), level)
    except GenispError:
        raise
    except Exception as error:  # a decoder's own exceptions are known only to it
        failure = failure_from(error)
        raise SourceError(failure.reason, path=printable(path), mend=failure.mend) from error


def _source(path: str) -> Source:
    label = printable(path)
    if Path(path).is_dir():
        mend = "name the files in it, for example FOLDER/*.ARW"
        raise UnreadableSourceError("expected a raw file, found a folder", path=label, mend=mend)
    with reading(path, label):
        found = os.stat(path)
    return Source(label, os.path.abspath(path), found.st_size, found.st_mtime_ns)


def _develop(source: Source, recipe: Recipe, level: LevelName) -> Developed:
    data = source.read_bytes()
    facts = probe(data, whole=True, path=source.name)
    if facts is None:
        raise CorruptRawError("the file says nothing about itself", path=source.name)
    frame = choose_frame(facts.geometry, path=source.name)
    # LibRaw, the reference: one file alone earns the faster decoder no trust.
    decoded = decode(data, reference().name, path=source.name)
    point = own_range(decoded.levels, recipe.colour, path=source.name)
    sensor = decoded.levels.sensor(frame)
    check_mosaic(decoded, frame, sensor, path=source.name)
    check_black(decoded.mosaic, frame, sensor, path=source.name)
    made = develop(decoded.mosaic, frame, sensor, recipe, point)[level]
    brightness = made.statistics[recipe.brightness_plane].p99
    return Developed(_values(made, point), brightness, frame)


def _values(level: Level, point: FixedPoint) -> npt.NDArray[np.float32]:
    """The same numbers as `pipeline.store.samples.Sample.xyz`."""
    zero_code = np.float32(point.zero_code)
    return (level.stored.astype(np.float32) - zero_code) * np.float32(point.scale_factor)
