"""Raws of every format the decoders know, written small, and how they are read back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.develop.colour import camera_to_xyz
from pipeline.develop.frame import choose_frame
from pipeline.raw.cross_check import decode_checked
from pipeline.raw.damage import check_mosaic
from pipeline.raw.decoders import table
from pipeline.raw.facts import (
    DecodedRaw,
    Geometry,
    Levels,
    RawFacts,
    check_levels,
    matrix3,
)
from pipeline.raw.reader import check_container, probe
from pipeline.sample_set import (
    NIKON_D750,
    SONY_RX100M7,
    CameraFile,
    arw_bytes,
    encode_arw2,
    nef_bytes,
)
from schemas.choices import DecoderName
from schemas.sidecar import Frame, Rect
from tests.kit.places import NIKON_D1, RAWS

Mosaic = npt.NDArray[np.uint16]

needs_the_real_raws = pytest.mark.skipif(
    not NIKON_D1.is_file(), reason=f"the real raws are not beside the checkout ({RAWS})"
)

DECODERS: tuple[DecoderName, ...] = tuple(entry.name for entry in table.DECODERS)
every_decoder = pytest.mark.parametrize("decoder", DECODERS)
SHAPE = (40, 64)


def noise(shape: tuple[int, int] = SHAPE, *, seed: int = 0, largest: int = 12000) -> Mosaic:
    return np.random.default_rng(seed).integers(0, largest, shape).astype(np.uint16)


def dim(shape: tuple[int, int], *, seed: int = 0) -> Mosaic:
    """A dark picture: little light, the noise of a sensor, black near 700."""
    random = np.random.default_rng(seed)
    return np.rint(3000 + random.normal(0, 40, shape)).astype(np.uint16)


def dark_12_bit(camera: CameraFile) -> CameraFile:
    red, green1, green2, blue = camera.black
    return replace(camera, black=(red // 4, green1 // 4, green2 // 4, blue // 4))


@dataclass(frozen=True)
class Format:
    """A way of writing a mosaic, and what a decoder has to find in it."""

    write: Callable[[Mosaic, CameraFile], bytes]
    camera: CameraFile
    found: Callable[[Mosaic], Mosaic] = lambda mosaic: mosaic

    def file(self, mosaic: Mosaic | None = None, **changes: object) -> bytes:
        camera = replace(self.camera, **changes)  # type: ignore[arg-type]
        return self.write(noise() if mosaic is None else mosaic, camera)


def _packed12(mosaic: Mosaic, camera: CameraFile) -> bytes:
    return nef_bytes(mosaic // 4, compression="packed12", camera=dark_12_bit(camera))


BIG_NIKON = replace(NIKON_D750, byte_order=">")


FORMATS = {
    "nef lossless": Format(lambda m, c: nef_bytes(m, camera=c), NIKON_D750),
    "nef lossless, big-endian": Format(lambda m, c: nef_bytes(m, camera=c), BIG_NIKON),
    "nef uncompressed": Format(
        lambda m, c: nef_bytes(m, compression="uncompressed", camera=c), NIKON_D750
    ),
    "nef uncompressed, big-endian": Format(
        lambda m, c: nef_bytes(m, compression="uncompressed", camera=c), BIG_NIKON
    ),
    "nef 12 bit": Format(_packed12, NIKON_D750, lambda m: m // 4),
    "nef 12 bit, big-endian": Format(_packed12, BIG_NIKON, lambda m: m // 4),
    "arw2": Format(lambda m, c: arw_bytes(m, camera=c), SONY_RX100M7, lambda m: encode_arw2(m)[1]),
    "arw uncompressed": Format(
        lambda m, c: arw_bytes(m, compression="uncompressed", camera=c), SONY_RX100M7
    ),
}


every_format = pytest.mark.parametrize("name", FORMATS)


@cache
def file_of(name: str) -> bytes:
    return FORMATS[name].file()


def facts_of(file: bytes) -> RawFacts:
    facts = probe(file, whole=True, path="a.raw")
    assert facts is not None
    return facts


def frame_of(facts: RawFacts) -> Frame:
    return choose_frame(facts.geometry)


def check(decoded: DecodedRaw) -> None:
    """`check_mosaic` with the whole sensor as the frame."""
    height, width = decoded.mosaic.shape
    whole = Rect(x=0, y=0, width=width, height=height)
    frame = choose_frame(Geometry((width, height), whole, None, 1))
    check_mosaic(decoded, frame, decoded.levels.sensor(frame), path="a.raw")


def convert(file: bytes, decoder: DecoderName) -> DecodedRaw:
    """Every guard an ingest has, in its order; LibRaw answers where flashraw declines or doubts."""
    check_container(file, path="a.raw")
    decoded, _ = decode_checked(file, decoder, compare=False, path="a.raw")
    check_levels(decoded.levels, path="a.raw")
    camera_to_xyz(decoded.levels.xyz_to_camera, path="a.raw")
    check(decoded)
    return decoded


def levels_with(**changes: object) -> Levels:
    black = (600.0, 600.0, 600.0, 600.0)
    matrix = matrix3([0.9020, -0.2890, -0.0715, -0.4535, 1.2436, 0.2348, -0.0934, 0.1919, 0.7086])
    return replace(
        Levels("RGGB", black, 16383.0, matrix, (2.0, 1.0, 1.5)),
        **changes,  # type: ignore[arg-type]
    )


def decoded_as(mosaic: Mosaic, **changes: object) -> DecodedRaw:
    return DecodedRaw(mosaic, levels_with(**changes), "libraw", None)
