"""A decoder as docs/how-to/new-decoder.md describes one: for plain samples of 16 bits."""

from __future__ import annotations

from typing import cast

import numpy as np

from pipeline.raw.decoders import flashraw
from pipeline.raw.decoders.decoder import RawFile
from pipeline.raw.facts import DecodedRaw
from pipeline.raw.tiff import UNCOMPRESSED
from schemas.choices import DecoderName

#: A decoder of the project has its name in `DecoderName` and needs no cast.
PLAIN = cast(DecoderName, "plain")


def version() -> str:
    return "1.0"


def can_decode(file: RawFile) -> bool:
    images = file.tiff.raw_images if file.tiff else ()
    return [(one.compression, one.bits_per_sample) for one in images] == [(UNCOMPRESSED, 16)]


def decode(file: RawFile) -> DecodedRaw:
    assert file.tiff is not None
    (image,) = file.tiff.raw_images
    samples = np.frombuffer(file.data, "<u2", image.width * image.height, image.offsets[0])
    mosaic = samples.reshape(image.height, image.width)
    return DecodedRaw(mosaic, flashraw.read_facts(file).levels, PLAIN, mosaic)
