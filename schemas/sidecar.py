"""The sidecar: everything known about one stored sample. Its presence is the commit."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field, model_validator

from schemas.base import GrownModel, StrictModel
from schemas.choices import DecoderName
from schemas.coco import ImageAnnotation
from schemas.finding import Finding
from schemas.fixed_point import FixedPoint
from schemas.recipe import LevelName

FORMAT = "genisp-xyz-store"
FORMAT_VERSION: Final = 2

#: Names of groups and samples are names of files: no separators, nothing that leads elsewhere.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$", max_length=200)]

#: More rows than any array will ever have.
MAX_ROWS = 100_000_000
Row = Annotated[int, Field(ge=0, lt=MAX_ROWS)]

#: Longest side in pixels that is believed; no camera comes near.
_MAX_SIDE = 1_000_000
Side = Annotated[int, Field(gt=0, le=_MAX_SIDE)]
Planes = Annotated[int, Field(ge=3, le=3)]
Scale = Annotated[float, Field(gt=0, le=_MAX_SIDE)]

#: What blosc decompresses at once, bytes.
_MAX_BYTES = 2**31 - 17
#: Blosc's header and the checksum, bytes: what a chunk has more than its codes, at worst.
_MOST_OVERHEAD = 20

CfaPattern = Literal["RGGB", "BGGR", "GRBG", "GBRG"]
Orientation = Literal[1, 3, 6, 8]
CropSource = Literal["camera", "centred", "active"]
Matrix3 = tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]]


class Rect(StrictModel):
    """A rectangle on the full sensor, in mosaic pixels; ``x``, ``y`` is its top-left site."""

    x: int = Field(ge=0)
    y: int = Field(ge=0)
    width: int = Field(gt=0)
    height: int = Field(gt=0)


class Frame(GrownModel):
    """Which part of the sensor a sample shows, and which way up.

    Attributes
    ----------
    raw_size
        (width, height) of the whole mosaic, margins included.
    active_area
        What LibRaw calls visible, on the full sensor.
    crop
        What is kept, on the full sensor; even origin, even size.
    crop_source
        ``"camera"``: the crop of the camera's own JPEG; ``"centred"``: centred in the active area
        because the annotation's size asked for it; ``"active"``: the file names no crop.
    orientation_flag
        EXIF orientation in the file.
    orientation
        EXIF orientation applied to the kept part (1: none).
    size
        (width, height) of the frame boxes live in: after the crop and the applied orientation.
    box_scale
        Frame pixels per annotated pixel, across and down: not (1, 1) where the annotated picture
        is a copy of the frame at another scale.
    """

    LATER: ClassVar[tuple[str, ...]] = ("box_scale",)

    raw_size: tuple[Side, Side]
    active_area: Rect
    crop: Rect
    crop_source: CropSource
    orientation_flag: int
    orientation: Orientation
    size: tuple[Side, Side]
    box_scale: tuple[Scale, Scale] = (1.0, 1.0)


class Camera(StrictModel):
    """Make and model as the file spells them."""

    make: str
    model: str


class Sensor(StrictModel):
    """Levels and colour of the mosaic, as the file or LibRaw's table gives them.

    Attributes
    ----------
    cfa
        Colours in reading order from the top-left of the *crop*.
    black
        Black level in DN by colour index R, G1, B, G2 (LibRaw's order).
    white
        White level in DN (LibRaw ``maximum``).
    xyz_to_camera
        LibRaw ``cam_xyz[:3]``: XYZ (D65) -> camera RGB.
    as_shot_balance
        As-shot multipliers of R, G, B with G = 1, or None when the file has none.
    """

    cfa: CfaPattern
    black: tuple[float, float, float, float]
    white: float
    xyz_to_camera: Matrix3
    as_shot_balance: tuple[float, float, float] | None = None


class Capture(StrictModel):
    """EXIF facts of the exposure: ISO, seconds, f-number, local time as written."""

    iso: int | None = None
    exposure_time: float | None = None
    f_number: float | None = None
    captured_at: str | None = None


class PlaneStatistics(StrictModel):
    """Of one plane, in the level's units (XYZ, or camera RGB): mean, share of values below 0,
    and the percentiles 1, 50, 99 and 99.9."""

    mean: float
    share_below_zero: float
    p1: float
    p50: float
    p99: float
    p99_9: float


class LevelRecord(StrictModel):
    """One stored array chunk.

    Attributes
    ----------
    shape
        (3, height, width) of the decoded chunk, uint16.
    scale_x, scale_y
        Level pixels per frame pixel, each axis.
    scale_factor, add_offset
        ``value = stored * scale_factor + add_offset``.
    nbytes
        Size of the chunk file.
    crc32c
        CRC-32C of the compressed bytes, eight hex digits; the chunk file ends with the same.
    statistics
        By plane name: X, Y, Z, or R, G, B for the camera recipe.
    """

    shape: tuple[Planes, Side, Side]
    scale_x: float
    scale_y: float
    scale_factor: float = Field(gt=0)
    add_offset: float
    nbytes: int = Field(gt=0)
    crc32c: str = Field(pattern="^[0-9a-f]{8}$")
    statistics: dict[str, PlaneStatistics] = Field(min_length=3, max_length=3)

    @property
    def fixed_point(self) -> FixedPoint:
        """How its values are kept."""
        return FixedPoint(self.scale_factor, self.add_offset)

    @model_validator(mode="after")
    def _is_possible(self) -> LevelRecord:
        codes = 2 * math.prod(self.shape)
        if codes > _MAX_BYTES:
            raise ValueError(f"{self.shape} is more than a chunk can hold")
        if self.nbytes > codes + _MOST_OVERHEAD:
            raise ValueError(f"{self.nbytes} bytes are too many for a chunk of {self.shape}")
        if not 0 <= -self.add_offset / self.scale_factor < 65536:
            raise ValueError("the value 0 has no code")
        # One code of tolerance: these are sums and products of floats.
        low = self.add_offset - self.scale_factor
        high = self.add_offset + 65536 * self.scale_factor
        for plane in self.statistics.values():
            values = (plane.mean, plane.p1, plane.p50, plane.p99, plane.p99_9)
            if not low <= min(values) <= max(values) <= high:
                raise ValueError("statistics are outside the range of codes")
            if not 0 <= plane.share_below_zero <= 1:
                raise ValueError("share_below_zero is no share")
        return self


class SourceRecord(StrictModel):
    """The raw a sample was made from: label, bytes, modification time, sha256 of its content."""

    name: str
    size: int
    mtime_ns: int | None
    sha256: str


class DecoderRecord(StrictModel):
    """Who decoded the mosaic."""

    name: DecoderName
    version: str


class Sidecar(StrictModel):
    """One sample. ``digest`` covers every other field."""

    format_version: Literal[2] = FORMAT_VERSION
    id: Name
    group: Name
    row: Row
    split: str | None
    camera: Camera
    frame: Frame
    sensor: Sensor
    capture: Capture
    recipe_fingerprint: str
    levels: dict[LevelName, LevelRecord] = Field(min_length=1)
    annotation: ImageAnnotation | None
    source: SourceRecord
    decoder: DecoderRecord
    findings: tuple[Finding, ...] = ()
    digest: str = ""

    @model_validator(mode="after")
    def _fits_together(self) -> Sidecar:
        black, white = self.sensor.black, self.sensor.white
        if not 0 <= min(black) <= max(black) < white:
            raise ValueError(f"levels are not plausible: black {black}, white {white}")
        crop, (full_width, full_height) = self.frame.crop, self.frame.raw_size
        if crop.x + crop.width > full_width or crop.y + crop.height > full_height:
            raise ValueError("the crop reaches over the sensor's edge")
        width, height = self.frame.size
        turned = self.frame.orientation in (6, 8)
        if (crop.width, crop.height) != ((height, width) if turned else (width, height)):
            raise ValueError("the frame is not as large as the crop")
        for name, level in self.levels.items():
            _, rows, columns = level.shape
            if name == "packed" and (columns, rows) != (width // 2, height // 2):
                raise ValueError(f"packed is {columns}x{rows}, the frame {width}x{height}")
            if (level.scale_x, level.scale_y) != (columns / width, rows / height):
                raise ValueError(f"the scale of {name} is not that of its shape")
        return self

    def sealed(self) -> Sidecar:
        """The same sidecar with its digest filled in."""
        return self.model_copy(update={"digest": self.content_digest()})

    def content_digest(self) -> str:
        """``"sha256:..."`` over the canonical JSON of every field but the digest."""
        fields = self.model_dump(mode="json", exclude={"digest"})
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> bytes:
        """The file's bytes: indented, because people read sidecars."""
        fields = self.model_dump(mode="json")
        return (json.dumps(fields, indent=1, ensure_ascii=True) + "\n").encode()
