"""The project's own decoder: ARW2 and Nikon's lossless code, with levels as flashraw reads them."""

from __future__ import annotations

import importlib.metadata

from pipeline.raw.decoders import flashraw
from pipeline.raw.decoders.decoder import DecoderDeclinedError, RawFile
from pipeline.raw.decoders.nikon_lossless import decode_lossless, lossless_image
from pipeline.raw.decoders.sony_arw2 import arw2_image, decode_arw2
from pipeline.raw.facts import DecodedRaw


def version() -> str:
    """Version of this package; ``"unknown"`` for a source tree that is not installed."""
    try:
        return importlib.metadata.version("genisp")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def can_decode(file: RawFile) -> bool:
    """Whether the one image of a file is ARW2 or Nikon's lossless code."""
    tiff = file.tiff
    if tiff is None:
        return False
    return _is_arw2(file) or lossless_image(tiff) is not None


def decode(file: RawFile) -> DecodedRaw:
    """Decode a whole file.

    Raises
    ------
    DecoderDeclinedError
        If anything about it is odd, or flashraw cannot read its levels.
    CorruptRawError
        If it ends before its image does.
    UnsupportedRawError
        If the sensor is not Bayer.
    """
    tiff, facts, mosaic = file.tiff, flashraw.read_facts(file), None
    if tiff is not None and _is_arw2(file) and (image := arw2_image(tiff)):
        mosaic = decode_arw2(file.data, image, path=file.path)
    elif tiff is not None and (image := lossless_image(tiff)):
        mosaic = decode_lossless(file.data, tiff, image)
    if mosaic is None or mosaic.shape[::-1] != facts.geometry.raw_size:
        raise DecoderDeclinedError("not a plain file of ARW2 or Nikon's lossless code")
    return DecodedRaw(mosaic, facts.levels, "genisp", mosaic)


def _is_arw2(file: RawFile) -> bool:
    # Blocks are little-endian, and so are files with them.
    return file.tiff is not None and file.data[:2] == b"II" and arw2_image(file.tiff) is not None
