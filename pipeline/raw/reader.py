"""The one seam to raw decoding: one reference, two faster decoders, one answer.

LibRaw is the reference: geometry always comes from it. Where they have been compared with LibRaw
(`cross_check` decides when), `sony_arw2` and `nikon_lossless` decode what they were made for, and
flashraw the rest; LibRaw decodes everything else.
"""

from __future__ import annotations

import zlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from pipeline.errors import CorruptRawError, SourceError, UnsupportedRawError
from pipeline.raw.decoders.flashraw import (
    FlashrawDeclinedError,
    FlashrawFacts,
    decode_flashraw,
    flashraw_facts,
    flashraw_version,
)
from pipeline.raw.decoders.libraw import decode_libraw, geometry, libraw_version
from pipeline.raw.decoders.nikon_lossless import decode_lossless, lossless_image
from pipeline.raw.decoders.sony_arw2 import arw2_image, decode_arw2, impossible_blocks
from pipeline.raw.facts import COPY_AGAIN, LEAVE_OUT, DecodedRaw, DecoderName, Geometry, RawFacts
from pipeline.raw.tiff import TiffFacts, check_extents, read_tiff
from schemas.sidecar import Camera, Capture

#: The largest of the codes of red, green and blue in a colour filter array (TIFF/EP).
_BLUE = 2

#: Enough for the directories of every camera tried; pixels come after.
PROBE_BYTES = 256 * 1024


@cache  # the package's metadata are a file, parsed as an e-mail is
def decoder_version(name: DecoderName) -> str:
    """Version of a decoder, as recorded in sidecars; ``"unknown"`` for a tree not installed."""
    if name == "genisp":
        try:
            return version("genisp")
        except PackageNotFoundError:
            return "unknown"
    return flashraw_version() if name == "flashraw" else libraw_version()


def check_container(data: bytes, *, path: str) -> TiffFacts | None:
    """Refuse a whole file that is empty, or whose TIFF directories point beyond its end.

    Nor is image data accepted that no encoder writes: what is left of a download cut off early.
    Nor colours that are not red, green or blue: LibRaw looks those up in memory nobody wrote.
    Returns its directories' facts, None for containers that are no TIFF.
    """
    if not data:
        raise CorruptRawError("the file is empty", path=path, hint=COPY_AGAIN)
    facts = read_tiff(data, path=path)
    if facts is not None:
        check_extents(facts, len(data), path=path)
        for image in facts.raw_images:
            if max(image.cfa, default=0) > _BLUE:
                message = f"its colour filter array is not of red, green and blue {image.cfa}"
                raise UnsupportedRawError(message, path=path, hint=LEAVE_OUT)
        if blocks := impossible_blocks(data, facts):
            message = f"{blocks} blocks of 16 bytes of its image data are no ARW2: lost or damaged"
            raise CorruptRawError(message, path=path, hint=COPY_AGAIN)
    return facts


def probe(data: bytes, *, whole: bool, path: str) -> RawFacts | None:
    """What a raw says about itself; pixels are decoded only if there is no other way.

    Parameters
    ----------
    data
        The file, or its first `PROBE_BYTES`.
    whole
        Whether `data` is all of it.

    Returns
    -------
    None when the beginning is not enough: ask again with the whole file.

    Raises
    ------
    UnsupportedRawError, CorruptRawError
        If the file is no raw we can convert.
    """
    try:
        tiff = check_container(data, path=path) if whole else read_tiff(data, path=path)
        sizes = geometry(data, path=path)
        try:
            facts = flashraw_facts(data, path=path)
        except FlashrawDeclinedError:
            if not whole:
                return None
            levels = decode_libraw(data, path=path).levels
            return RawFacts(_camera(tiff, path), sizes, levels, _capture(tiff), "")
        capture = facts.capture if tiff is None else _capture(tiff)
        return RawFacts(
            facts.camera, sizes, facts.levels, capture, _decoder_class(facts, sizes, tiff)
        )
    except SourceError:
        if not whole:
            return None
        raise


def decode(data: bytes, decoder: DecoderName, *, path: str) -> DecodedRaw:
    """Decode the mosaic and its levels.

    Raises
    ------
    CorruptRawError
        If the decoder finds damage.
    UnsupportedRawError
        If it is no Bayer raw, or absurdly large.
    FlashrawDeclinedError
        If flashraw does not know the format (unless LibRaw is asked).
    """
    if decoder == "libraw":
        return decode_libraw(data, path=path)
    own = _decode_own(data, path=path) if decoder == "genisp" else None
    return own or decode_flashraw(data, path=path)


def _decode_own(data: bytes, *, path: str) -> DecodedRaw | None:
    """ARW2 and Nikon's lossless code, with flashraw's levels; None for everything else."""
    tiff = read_tiff(data, path=path)
    if tiff is None:
        return None
    facts = flashraw_facts(data, path=path)
    mosaic = None
    # Blocks are little-endian, and so are files with them.
    if (image := arw2_image(tiff)) and data[:2] == b"II":
        mosaic = decode_arw2(data, image, path=path)
    elif image := lossless_image(tiff):
        mosaic = decode_lossless(data, tiff, image)
    if mosaic is None or mosaic.shape[::-1] != facts.geometry.raw_size:
        return None
    return DecodedRaw(mosaic, facts.levels, "genisp", mosaic)


def _decoder_class(facts: FlashrawFacts, sizes: Geometry, tiff: TiffFacts | None) -> str:
    """Everything by which files that are decoded alike are told from one whose header differs."""
    levels, own = facts.levels, facts.geometry
    alike = (own.raw_size, own.orientation_flag) == (sizes.raw_size, sizes.orientation_flag)
    alike = alike and own.camera_crop == (sizes.camera_crop or sizes.active_area)
    raws = () if tiff is None else tiff.raw_images
    structure = "+".join(
        f"{image.tags}/{image.compression}/{' '.join(map(str, image.tone_corners))}"
        for image in raws
    )
    matrix = zlib.crc32(repr(levels.xyz_to_camera).encode())
    black = " ".join(f"{level:g}" for level in levels.black)
    return ", ".join(
        (
            facts.decoder_class,
            f"black {black}, white {levels.white:g}, matrix {matrix:08x}",
            "white balance" if levels.as_shot_balance else "no white balance",
            "frame as LibRaw's" if alike else "frame unlike LibRaw's",
            f"tags {structure}",
        )
    )


def _camera(tiff: TiffFacts | None, path: str) -> Camera:
    if tiff is None or not tiff.model:
        message = "the file does not name its camera"
        raise UnsupportedRawError(message, path=path, hint=LEAVE_OUT)
    return Camera(make=tiff.make or "", model=tiff.model)


def _capture(tiff: TiffFacts | None) -> Capture:
    if tiff is None:
        return Capture()
    return Capture(
        iso=tiff.iso,
        exposure_time=tiff.exposure_time,
        f_number=tiff.f_number,
        captured_at=tiff.captured_at,
    )
