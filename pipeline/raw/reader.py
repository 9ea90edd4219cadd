"""From the bytes of a raw to its facts and its mosaic, whichever decoder does it.

LibRaw is the reference: geometry always comes from it. Where they have been compared with LibRaw
(`cross_check` decides when), the fast decoders of `decoders.table` are asked first, in the order of
the table; LibRaw decodes everything else.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from functools import cache

from pipeline.errors import CorruptRawError, SourceError, UnsupportedRawError
from pipeline.raw.decoders import libraw
from pipeline.raw.decoders.decoder import (
    DecoderDeclinedError,
    EarlyFacts,
    EarlyFactsReader,
    RawFile,
)
from pipeline.raw.decoders.sony_arw2 import impossible_blocks
from pipeline.raw.decoders.table import entry_of, fast_decoders, reference
from pipeline.raw.dng_colour import DngColour
from pipeline.raw.facts import COPY_AGAIN, LEAVE_OUT, DecodedRaw, Geometry, Levels, RawFacts
from pipeline.raw.matrix import settled, with_own_matrix
from pipeline.raw.tiff import TiffFacts, check_extents, read_tiff
from pipeline.raw.undecodable import misread, no_raw
from schemas.choices import DecoderName
from schemas.sidecar import Camera, Capture

#: The largest of the codes of red, green and blue in a colour filter array (TIFF/EP).
_BLUE = 2

#: Enough for the directories of every camera tried; pixels come after.
PROBE_BYTES = 256 * 1024


@cache  # the package's metadata are a file, parsed as an e-mail is
def decoder_version(name: DecoderName) -> str:
    """Version of a decoder, as recorded in sidecars."""
    return entry_of(name).load().version()


def check_container(data: bytes, *, path: str) -> TiffFacts | None:
    """Refuse a whole file that is no raw, or whose TIFF directories point beyond its end.

    Image data that no encoder writes are refused too (what is left of a download cut off early),
    and so are colours other than red, green and blue, which LibRaw looks up in memory nobody wrote.
    Returns its directories' facts, None for containers other than TIFF.
    """
    if (refusal := no_raw(data, path=path)) is not None:
        raise refusal
    facts = read_tiff(data, path=path)
    if facts is not None:
        check_extents(facts, len(data), path=path)
        if (refusal := misread(facts, path=path)) is not None:
            raise refusal
        for image in facts.raw_images:
            if max(image.cfa, default=0) > _BLUE:
                message = f"its colour filter array is not of red, green and blue {image.cfa}"
                raise UnsupportedRawError(message, path=path, mend=LEAVE_OUT)
        if blocks := impossible_blocks(data, facts):
            message = f"{blocks} blocks of 16 bytes of its image data are no ARW2: lost or damaged"
            raise CorruptRawError(message, path=path, mend=COPY_AGAIN)
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
        If the file is not a raw that can be converted.
    """
    try:
        tiff = check_container(data, path=path) if whole else read_tiff(data, path=path)
        sizes = _with_orientation(libraw.geometry(data, path=path), tiff)
        try:
            facts = _early_facts(RawFile(data, path))
        except DecoderDeclinedError:
            if not whole:
                return None
            levels = decode(data, reference().name, path=path).levels
            return RawFacts(_camera(tiff, path), sizes, levels, _capture(tiff), "")
        capture = facts.capture if tiff is None else _capture(tiff)
        levels = with_own_matrix(facts.levels, None if tiff is None else tiff.colour)
        decoder_class = _decoder_class(facts, levels, sizes, tiff)
        return RawFacts(facts.camera, sizes, levels, capture, decoder_class, facts.decoder_class)
    except SourceError:
        if not whole:
            return None
        raise


def _with_orientation(sizes: Geometry, tiff: TiffFacts | None) -> Geometry:
    """Sizes with the orientation that a TIFF's first directory states, if it states one.

    That one is the picture's. LibRaw prefers a preview's to an upright picture's, and takes values
    that EXIF does not know for others: 0 for 8.
    """
    if tiff is None or tiff.orientation is None:
        return sizes
    return replace(sizes, orientation_flag=tiff.orientation)


def _early_facts(file: RawFile) -> EarlyFacts:
    """Facts from the first decoder that can read them without decoding."""
    declined = DecoderDeclinedError("no decoder reads its facts")
    for entry in fast_decoders():
        decoder = entry.load()
        if isinstance(decoder, EarlyFactsReader):
            try:
                return decoder.read_facts(file)
            except DecoderDeclinedError as error:
                declined = error
    raise declined


def decode(data: bytes, decoder: DecoderName, *, path: str) -> DecodedRaw:
    """Decode the mosaic and its levels.

    Parameters
    ----------
    data
        The file.
    decoder
        The reference; or a fast decoder, and where that cannot read the file, the fast decoders
        after it in the table.

    Raises
    ------
    CorruptRawError
        If the decoder finds damage.
    UnsupportedRawError
        If it is not a Bayer raw, or absurdly large.
    DecoderDeclinedError
        If only the reference may know the format; names the decoder that was asked last.
    """
    file = RawFile(data, path)
    if decoder == reference().name:
        decoded = reference().load().decode(file)
        levels = settled(decoded.levels, _named_camera(file), _colour(file))
        return replace(decoded, levels=levels)
    declined = DecoderDeclinedError(f"{decoder} declined: not one of its formats")
    fast = fast_decoders()
    for entry in fast[fast.index(entry_of(decoder)) :]:
        fast_decoder = entry.load()
        try:
            if fast_decoder.can_decode(file):
                decoded = fast_decoder.decode(file)
                return replace(decoded, levels=with_own_matrix(decoded.levels, _colour(file)))
        except DecoderDeclinedError as error:
            declined = DecoderDeclinedError(f"{entry.name} declined: {error}")
    raise declined


def _decoder_class(
    facts: EarlyFacts, levels: Levels, sizes: Geometry, tiff: TiffFacts | None
) -> str:
    """Everything by which files that are decoded alike are told from one whose header differs."""
    own = facts.geometry
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


def _named_camera(file: RawFile) -> Camera | None:
    """The camera as the file names it, for containers other than TIFF as a decoder reads it."""
    if file.tiff is not None:
        return Camera(make=file.tiff.make, model=file.tiff.model) if file.tiff.model else None
    try:
        return _early_facts(file).camera
    except (DecoderDeclinedError, SourceError):
        return None


def _colour(file: RawFile) -> DngColour | None:
    return None if file.tiff is None else file.tiff.colour


def _camera(tiff: TiffFacts | None, path: str) -> Camera:
    if tiff is None or not tiff.model:
        message = "the file does not name its camera"
        raise UnsupportedRawError(message, path=path, mend=LEAVE_OUT)
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
