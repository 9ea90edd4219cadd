"""What a camera writes besides the pixels, and the two cameras of the sample set."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.errors import UsageError
from pipeline.sample_set.formats.tiff_writer import (
    ByteOrder,
    Directory,
    Field,
    Strip,
    ascii_field,
    byte_field,
    long_field,
    rational_field,
    short_field,
    undefined_field,
)

Cfa = Literal["RGGB", "BGGR", "GRBG", "GBRG"]
CFA_PATTERNS: tuple[Cfa, ...] = ("RGGB", "BGGR", "GRBG", "GBRG")
Mosaic = npt.NDArray[np.uint16]

# LibRaw refuses anything smaller (tried with 0.22: 20 fails, 22 opens).
_SMALLEST_SIDE = 22

_CFA_CODES = {"R": 0, "G": 1, "B": 2}  # TIFF/EP, CFAPattern
_PHOTOMETRIC_CFA = 32803


@dataclass(frozen=True)
class CameraFile:
    """Everything a raw says about itself; change fields with `dataclasses.replace`.

    Parameters
    ----------
    make, model
        As the camera writes them; LibRaw finds the colour matrix by these.
    cfa
        Colours of the 2x2 cell at the top-left of the full sensor area, in reading order.
    black
        Black level of R, G1 (beside R), G2 (beside B), B: the order of the file tags. LibRaw
        answers by colour index instead: R, G1, B, G2. Units of the mosaic. Decoders disagree about
        uneven greens in an ARW whose filter starts with B or G2 (no camera writes one).
    crop
        The camera JPEG's frame in the full sensor area: x, y, width, height, in mosaic pixels.
        None: the file does not say.
    byte_order
        ``"<"`` or ``">"``.
    orientation
        EXIF orientation, 1..8. Never applied to the pixels.
    iso, exposure_time, f_number, captured_at
        EXIF; exposure in seconds, time as ``YYYY:MM:DD HH:MM:SS``.
    white_balance
        As-shot gains of R, G, B, green = 1.
    """

    make: str
    model: str
    cfa: Cfa = "RGGB"
    black: tuple[int, int, int, int] = (0, 0, 0, 0)
    crop: tuple[int, int, int, int] | None = None
    byte_order: ByteOrder = "<"
    orientation: int = 1
    iso: int = 1600
    exposure_time: Fraction = Fraction(1, 60)
    f_number: Fraction = Fraction(28, 10)
    captured_at: str = "2020:01:01 21:00:00"
    white_balance: tuple[float, float, float] = (2.0, 1.0, 1.5)


SONY_RX100M7 = CameraFile("SONY", "DSC-RX100M7", black=(800, 800, 800, 800))
NIKON_D750 = CameraFile("NIKON CORPORATION", "NIKON D750", black=(600, 600, 600, 600))


def require_mosaic(mosaic: npt.NDArray[np.generic], *, largest: int) -> Mosaic:
    """Check that a mosaic can be written.

    Parameters
    ----------
    mosaic
        (H, W), uint16, both sides at least 22 pixels.
    largest
        Largest sample the format holds.
    """
    if mosaic.ndim != 2 or mosaic.dtype != np.uint16:
        raise UsageError(f"a mosaic is 2-D uint16, this is {mosaic.ndim}-D {mosaic.dtype}")
    if min(mosaic.shape) < _SMALLEST_SIDE:
        raise UsageError(f"LibRaw opens no raw below 22x22 pixels, this is {mosaic.shape}")
    if int(mosaic.max()) > largest:
        raise UsageError(f"sample {int(mosaic.max())} does not fit, the format ends at {largest}")
    return mosaic.astype(np.uint16, copy=False)


def raw_directory(
    shape: tuple[int, int], pixels: bytes, *, cfa: str, bits: int, compression: int
) -> dict[int, Field | Directory | Strip]:
    """Tags every raw image directory needs.

    Parameters
    ----------
    shape
        Height and width of the full sensor area, pixels.
    pixels
        The encoded strip.
    cfa
        4 or 36 letters in reading order.
    bits
        Bits a sample.
    compression
        TIFF compression code.
    """
    height, width = shape
    side = 2 if len(cfa) == 4 else 6
    return {
        0x00FE: long_field(0),  # NewSubfileType: the full image
        0x0100: long_field(width),
        0x0101: long_field(height),
        0x0102: short_field(bits),
        0x0103: short_field(compression),
        0x0106: short_field(_PHOTOMETRIC_CFA),
        0x0111: Strip(pixels),
        0x0115: short_field(1),  # SamplesPerPixel
        0x0116: long_field(height),  # RowsPerStrip
        0x0117: long_field(len(pixels)),
        0x011C: short_field(1),  # PlanarConfiguration
        0x828D: short_field(side, side),
        0x828E: byte_field(bytes(_CFA_CODES[letter] for letter in cfa)),
    }


def first_directory(
    camera: CameraFile, raw: Directory, maker_note: bytes | None = None
) -> Directory:
    """IFD0 of a camera raw: camera, orientation, time, and links to the raw image and EXIF.

    Parameters
    ----------
    camera
        Facts to write.
    raw
        Directory of the raw image, written as a SubIFD.
    maker_note
        Bytes of EXIF MakerNote, if any.
    """
    return Directory(
        {
            0x010F: ascii_field(camera.make),
            0x0110: ascii_field(camera.model),
            0x0112: short_field(camera.orientation),
            # Not "Adobe...", "dcraw..." or "UFRaw...": LibRaw takes those for converted files.
            0x0131: ascii_field("synthetic sample"),
            0x0132: ascii_field(camera.captured_at),
            0x014A: raw,
            0x8769: exif_directory(camera, maker_note),
        }
    )


def exif_directory(camera: CameraFile, maker_note: bytes | None = None) -> Directory:
    """EXIF directory with exposure, aperture, ISO and capture time."""
    entries: dict[int, Field | Directory | Strip] = {
        0x829A: rational_field(camera.exposure_time),
        0x829D: rational_field(camera.f_number),
        0x8827: short_field(camera.iso),
        0x9000: undefined_field(b"0230"),
        0x9003: ascii_field(camera.captured_at),
        0x9004: ascii_field(camera.captured_at),
    }
    if maker_note is not None:
        entries[0x927C] = undefined_field(maker_note)
    return Directory(entries)
