"""flashraw: several times faster than LibRaw, strict about truncation, young: cross-checked."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence

import flashraw

from pipeline.errors import CorruptRawError, UnsupportedRawError
from pipeline.raw.cfa import by_colour_index, checked_pattern
from pipeline.raw.decoders.decoder import DecoderDeclinedError, EarlyFacts, RawFile
from pipeline.raw.facts import (
    COPY_AGAIN,
    LEAVE_OUT,
    MAX_DIMENSION,
    MAX_SAMPLES,
    DecodedRaw,
    Geometry,
    Levels,
    as_shot_balance,
    matrix3,
)
from pipeline.raw.undecodable import other_sensor
from schemas.sidecar import Camera, Capture, Rect

#: Errors that mean "not mine", not "damaged": LibRaw is asked instead.
_DECLINED = (
    flashraw.UnsupportedFormatError,
    flashraw.UnsupportedCompressionError,
    flashraw.CameraUnsupportedError,
    flashraw.InvalidMetadataError,
    flashraw.InternalError,
    flashraw.NotAvailableError,
)

_D65 = 21  # EXIF LightSource


def version() -> str:
    """Version of the library."""
    return importlib.metadata.version("flashraw")


def read_facts(file: RawFile) -> EarlyFacts:
    """Facts from a file or its beginning, in 0.2 ms.

    Raises
    ------
    DecoderDeclinedError
        If it cannot say, for whatever reason.
    UnsupportedRawError
        If the sensor is not Bayer.
    """
    try:
        with flashraw.open(file.data, max_samples=MAX_SAMPLES, max_dimension=MAX_DIMENSION) as raw:
            metadata, frame = raw.metadata, raw.frame_info
    except flashraw.FlashRawError as error:
        raise DecoderDeclinedError(str(error)) from error
    camera, exposure = metadata.camera, metadata.exposure
    mode = metadata.extra.get("mode", metadata.compression)
    return EarlyFacts(
        camera=Camera(make=camera.make, model=camera.model),
        levels=_levels(metadata, file.path),
        capture=Capture(
            iso=exposure.iso,
            exposure_time=exposure.exposure_time,
            f_number=exposure.f_number,
            captured_at=metadata.capture_time,
        ),
        geometry=Geometry(
            (frame.width, frame.height),
            _rect(frame.active_area),
            _rect(frame.crop),
            frame.orientation,
        ),
        decoder_class=", ".join(
            (
                camera.model,
                mode,
                f"{metadata.bits_per_sample} bit",
                # flashraw 0.1.0 reads big-endian uncompressed ARW as little-endian, without error.
                "big-endian" if file.data[:2] == b"MM" else "little-endian",
                metadata.cfa.pattern if metadata.cfa else "no CFA",
            )
        ),
    )


def can_decode(file: RawFile) -> bool:
    """Whether it may be asked: always, since it declines by itself what it does not know."""
    return True


def decode(file: RawFile) -> DecodedRaw:
    """Decode a whole file.

    Raises
    ------
    DecoderDeclinedError
        If it does not know the format.
    CorruptRawError
        If data is truncated or damaged.
    UnsupportedRawError
        If it is not a Bayer mosaic, or absurdly large.
    MemoryError
        If there is not enough of it.
    """
    try:
        with flashraw.open(file.data, max_samples=MAX_SAMPLES, max_dimension=MAX_DIMENSION) as raw:
            levels = _levels(raw.metadata, file.path)
            frame = raw.decode(
                "raw-u16", threads=1, corruption_policy="strict", apply_opcodes=False
            )
    except _DECLINED as error:
        raise DecoderDeclinedError(str(error)) from error
    except flashraw.CorruptFileError as error:
        raise CorruptRawError(str(error), path=file.path, mend=COPY_AGAIN) from error
    except flashraw.OutOfMemoryError as error:
        raise MemoryError(str(error)) from error
    except flashraw.FlashRawError as error:
        raise UnsupportedRawError(str(error), path=file.path, mend=LEAVE_OUT) from error
    if frame.array.ndim != 2:
        raise other_sensor("linear", path=file.path)
    return DecodedRaw(frame.array, levels, "flashraw", frame)


def _rect(rect: flashraw.Rect) -> Rect:
    return Rect(x=rect.x, y=rect.y, width=rect.width, height=rect.height)


def _levels(metadata: flashraw.Metadata, path: str) -> Levels:
    black, cfa = metadata.black_level, metadata.cfa
    if metadata.layout != "bayer" or cfa is None:
        raise other_sensor(metadata.layout, path=path)
    uneven = black.row_deltas or black.col_deltas or max(black.rows, black.cols) > 2
    if uneven or black.samples != 1 or len(set(metadata.white_level)) != 1:
        raise DecoderDeclinedError("levels are more than a 2x2 pattern and one white")
    pattern = checked_pattern(cfa.pattern, path=path)
    by_position = _numbers([black.at(x, y) for y in (0, 1) for x in (0, 1)])
    return Levels(
        cfa=pattern,
        black=by_colour_index(pattern, by_position),
        white=float(metadata.white_level[0]),
        xyz_to_camera=matrix3(_numbers(_daylight_matrix(metadata.color_matrices.color))),
        as_shot_balance=as_shot_balance(_numbers(metadata.white_balance or ())),
    )


def _numbers(values: Sequence[float | None]) -> Sequence[float]:
    """What flashraw read; it gives None for what is not a finite number."""
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(values):
        raise DecoderDeclinedError("a level or a matrix is no number")
    return numbers


def _daylight_matrix(matrices: Sequence[flashraw.ColorMatrix]) -> Sequence[float]:
    """The D65 matrix, which is the one LibRaw uses; zeros if there is none."""
    for matrix in matrices:
        if matrix.illuminant == _D65 and len(matrix.values) == 9:
            return matrix.values
    return [0.0] * 9
