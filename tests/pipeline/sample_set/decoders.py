"""What the two independent decoders say about a file: the oracles of these tests."""

from __future__ import annotations

import io
from dataclasses import dataclass

import flashraw
import numpy as np
import numpy.typing as npt
import rawpy


@dataclass(frozen=True)
class LibRawView:
    """Pixels and facts as LibRaw gives them; black by colour index, crop as x, y, w, h."""

    pixels: npt.NDArray[np.uint16]
    pattern: str
    black: list[int]
    white: int
    matrix: npt.NDArray[np.float32]
    balance: list[float]
    flip: int
    crop: tuple[int, int, int, int]
    visible: tuple[int, int, int, int]


@dataclass(frozen=True)
class FlashrawView:
    """Pixels and facts as flashraw gives them; black by position in the 2x2 cell."""

    pixels: npt.NDArray[np.uint16]
    metadata: flashraw.Metadata
    crop: tuple[int, int, int, int]


def libraw(file: bytes) -> LibRawView:
    """Decode with LibRaw; any complaint is raised."""
    with rawpy.imread(io.BytesIO(file)) as raw:
        raw.unpack()
        sizes = raw.sizes
        pattern = raw.raw_pattern
        return LibRawView(
            pixels=raw.raw_image.copy(),
            pattern="" if pattern is None else "".join("RGBG??K"[i] for i in pattern.ravel()),
            black=list(raw.black_level_per_channel),
            white=raw.white_level,
            matrix=raw.rgb_xyz_matrix[:3].copy(),
            balance=list(raw.camera_whitebalance),
            flip=sizes.flip,
            crop=(
                *(sizes.crop_left_margin, sizes.crop_top_margin),
                *(sizes.crop_width, sizes.crop_height),
            ),
            visible=(sizes.left_margin, sizes.top_margin, sizes.width, sizes.height),
        )


def fast(file: bytes) -> FlashrawView:
    """Decode with flashraw, refusing anything damaged."""
    with flashraw.open(file) as raw:
        frame = raw.decode(output="raw-u16", corruption_policy="strict")
        pixels = np.array(frame.array).squeeze()
        crop = frame.crop
        return FlashrawView(pixels, raw.metadata, (crop.x, crop.y, crop.width, crop.height))


def random_mosaic(
    shape: tuple[int, int], *, largest: int = 16383, seed: int = 0
) -> npt.NDArray[np.uint16]:
    """White noise over the whole range: the hardest thing to encode."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, largest + 1, shape).astype(np.uint16)
