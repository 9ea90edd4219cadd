"""What a raw says about itself, in the same words whichever decoder was asked. Pure values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.errors import UnsupportedRawError
from pipeline.raw.cfa import shifted
from schemas.choices import DecoderName
from schemas.sidecar import Camera, Capture, CfaPattern, Frame, Matrix3, MatrixSource, Rect, Sensor

#: No camera in sight has more; a header that claims more is damaged or hostile.
MAX_SAMPLES = 250_000_000
MAX_DIMENSION = 32_768

#: Black levels of cameras are up to a seventh of white (2048 of 15000). A file that claims more is
#: damaged, and would make the fixed point of its whole group coarse.
MAX_BLACK_SHARE = 1 / 4

#: Samples may exceed the largest number of a format's bits by this much: Sony's ARW2 codes reach
#: 17204 where 14 bits end at 16383 (1.0501), also in a DNG made of them.
CODE_HEADROOM = 17 / 16

#: Above this a matrix inverts to noise; real cameras stay below 10.
MAX_CONDITION = 1e3

#: White balance goes up to about 5 (blue under candles).
MAX_BALANCE = 32.0

COPY_AGAIN = "copy the file from the card or archive again, then run the same command"
LEAVE_OUT = "leave this file out; nothing is guessed about it"


@dataclass(frozen=True)
class MatrixOrigin:
    """Where a colour matrix is from.

    Attributes
    ----------
    source
        ``"table"``: the decoder's table, for this very model; ``"file"``: the DNG's own;
        ``"relative"``: LibRaw's table, for a model whose name begins alike.
    model
        That model, or the beginning that its name and this one share; "" unless a relative.
    """

    source: MatrixSource = "table"
    model: str = ""


@dataclass(frozen=True, slots=True)
class Levels:
    """What the numbers of a mosaic mean.

    Attributes
    ----------
    cfa
        Pattern from the top-left of the full sensor.
    black
        DN by colour index R, G1, B, G2.
    white
        DN.
    xyz_to_camera
        (3, 3) XYZ (D65) -> camera, see `matrix3`.
    as_shot_balance
        R, G, B multipliers with G = 1, or None.
    origin
        Of the matrix; see `pipeline.raw.matrix`.
    matrix_problem
        Why the matrix is zeros, "" if it is not, or if nobody has asked.
    """

    cfa: CfaPattern
    black: tuple[float, float, float, float]
    white: float
    xyz_to_camera: Matrix3
    as_shot_balance: tuple[float, float, float] | None
    origin: MatrixOrigin = MatrixOrigin()
    matrix_problem: str = ""

    def sensor(self, frame: Frame) -> Sensor:
        """The same as a sidecar records it: the pattern as seen from the crop's corner."""
        return Sensor(
            cfa=shifted(self.cfa, x=frame.crop.x, y=frame.crop.y),
            black=self.black,
            white=self.white,
            xyz_to_camera=self.xyz_to_camera,
            as_shot_balance=self.as_shot_balance,
            matrix_source=self.origin.source,
            matrix_model=self.origin.model,
        )


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes on the full sensor, in mosaic pixels, and the EXIF orientation in the file."""

    raw_size: tuple[int, int]
    active_area: Rect
    camera_crop: Rect | None
    orientation_flag: int


@dataclass(frozen=True, slots=True)
class RawFacts:
    """What is known of a raw before its pixels are decoded.

    Attributes
    ----------
    decoder_class
        Camera, compression, bit depth, byte order, CFA, levels and structure: files of one class
        are decoded by the same code, so a header that was damaged is in a class of its own. ``""``
        when only LibRaw can decode it.
    level_class
        Camera, compression, bit depth, byte order and CFA: files of which LibRaw's levels are
        learned from one. ``""`` where the levels are LibRaw's already.
    """

    camera: Camera
    geometry: Geometry
    levels: Levels
    capture: Capture
    decoder_class: str
    level_class: str = ""


@dataclass(frozen=True)
class DecodedRaw:
    """A decoded mosaic.

    Attributes
    ----------
    mosaic
        (height, width) uint16, full sensor, DN. Its memory belongs to `owner`.
    """

    mosaic: npt.NDArray[np.uint16]
    levels: Levels
    decoder: DecoderName
    owner: object


def differences(reference: DecodedRaw, other: DecodedRaw) -> tuple[str, ...]:
    """What two decodings of one file disagree about, in words; () if nothing."""
    found = []
    if reference.mosaic.shape != other.mosaic.shape:
        found.append(f"mosaic {reference.mosaic.shape} against {other.mosaic.shape}")
    elif not np.array_equal(reference.mosaic, other.mosaic):
        count = int(np.count_nonzero(reference.mosaic != other.mosaic))
        found.append(f"{count} samples")
    return (*found, *level_differences(reference.levels, other.levels).values())


def level_differences(reference: Levels, other: Levels) -> dict[str, str]:
    """What two decoders read differently, in words, by the field of `Levels`."""
    found = {}
    for name in ("cfa", "black", "white", "xyz_to_camera", "as_shot_balance"):
        ours, theirs = getattr(reference, name), getattr(other, name)
        if ours != theirs:
            found[name] = f"{name} {ours} against {theirs}"
    return found


def check_levels(levels: Levels, *, path: str) -> None:
    """Refuse levels no sensor has.

    Raises
    ------
    UnsupportedRawError
        Unless 0 <= black <= `MAX_BLACK_SHARE` of white, and white > 0.
    """
    largest = MAX_BLACK_SHARE * levels.white
    if not (min(levels.black) >= 0 and levels.white > 0 and max(levels.black) <= largest):
        message = f"levels are not plausible: black {levels.black}, white {levels.white}"
        raise UnsupportedRawError(message, path=path, mend=LEAVE_OUT)


def matrix3(values: Sequence[float]) -> Matrix3:
    """Nine numbers as rows, each through single precision and spelled shortest.

    LibRaw's table says 10315 / 10000 and its float32 reads 1.0314999...; spelled shortest that is
    1.0315 again, so both decoders give the same number, and so the same bytes in the store.
    """
    single = [_single(value) for value in values]
    rows = [(single[i], single[i + 1], single[i + 2]) for i in (0, 3, 6)]
    return rows[0], rows[1], rows[2]


def as_shot_balance(multipliers: Sequence[float] | None) -> tuple[float, float, float] | None:
    """R, G, B with G = 1; None when absent. LibRaw gives [0, 1, 0, 0] when the file has none.

    So is one that no light asks for: a damaged file's.
    """
    if multipliers is None or len(multipliers) < 3 or min(multipliers[:3]) <= 0:
        return None
    red, green, blue = multipliers[:3]
    ratios = red / green, blue / green
    if not all(1 / MAX_BALANCE <= ratio <= MAX_BALANCE for ratio in ratios):
        return None
    return _single(ratios[0]), 1.0, _single(ratios[1])


def _single(value: float) -> float:
    # Not str(): that depends on numpy's print options, which any library may have changed.
    spelled = np.format_float_scientific(np.float32(value), unique=True)
    return float(spelled) if math.isfinite(value) else 0.0


def largest_code(sensor: Sensor) -> int:
    """Largest sample in DN that is still believed: the largest code of the sensor's format.

    White is where a table, or the maker, says that the sensor saturates: up to half a bit below the
    end of the format (3840 of 4095, 15000 of 16383). Hot pixels and compressed highlights lie
    between. The format is told by white, not by the file's bits a sample: a DNG keeps 12 bits in
    16.
    """
    bits = (math.ceil(sensor.white) - 1).bit_length()
    return math.ceil(max(sensor.white, (1 << bits) - 1) * CODE_HEADROOM)


def usual_largest(white: float) -> int:
    """A little above white, DN: samples up to there are no news, and every store holds them."""
    return math.ceil(white * CODE_HEADROOM)
