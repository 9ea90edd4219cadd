"""DNG files for hostile tests: decoders see the kind of raw that was meant."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import rawpy

from pipeline.errors import UsageError
from pipeline.sample_set import CFA_PATTERNS, X_TRANS, Cfa, DngFile, dng_bytes
from tests.pipeline.sample_set.decoders import fast, libraw, random_mosaic

FLAT_BLACK = ((512,),)


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_bayer_with_margins(cfa: Cfa, byte_order: str) -> None:
    mosaic = random_mosaic((60, 80))
    dng = DngFile(
        cfa=cfa,
        byte_order="<" if byte_order == "<" else ">",
        active_area=(4, 6, 56, 76),
        default_crop=(2, 2, 60, 40),
        orientation=6,
    )
    file = dng_bytes(mosaic, dng=dng)
    slow, quick = libraw(file), fast(file)
    np.testing.assert_array_equal(slow.pixels, mosaic)
    np.testing.assert_array_equal(quick.pixels, mosaic)
    assert slow.pattern == cfa
    assert slow.visible == (6, 4, 70, 52)
    assert slow.crop == quick.crop == (8, 6, 60, 40)
    assert slow.black == [512] * 4
    assert slow.white == 16383
    assert slow.flip == 6


def test_odd_margins_shift_the_filter() -> None:
    slow = libraw(dng_bytes(random_mosaic((60, 80)), dng=DngFile(active_area=(3, 5, 56, 76))))
    assert slow.pattern == "BGGR"


def test_large_black_patterns_are_lost_by_libraw_and_kept_by_flashraw() -> None:
    levels = tuple(tuple(range(100 + 4 * i, 104 + 4 * i)) for i in range(4))
    file = dng_bytes(random_mosaic((40, 40)), dng=DngFile(black=levels))
    assert libraw(file).black == [100] * 4
    assert fast(file).metadata.black_level.values == tuple(range(100, 116))


def test_x_trans_has_a_six_by_six_filter() -> None:
    file = dng_bytes(random_mosaic((60, 60)), dng=DngFile(cfa=X_TRANS))
    assert libraw(file).pattern == X_TRANS
    assert fast(file).metadata.layout == "x-trans"


def test_monochrome_has_no_filter() -> None:
    mosaic = random_mosaic((40, 60))
    file = dng_bytes(mosaic, dng=DngFile(cfa=None, black=FLAT_BLACK))
    np.testing.assert_array_equal(libraw(file).pixels, mosaic)
    assert libraw(file).pattern == "K"
    assert fast(file).metadata.layout == "monochrome"


def test_linear_rgb_is_a_stack() -> None:
    pixels = np.random.default_rng(0).integers(0, 16384, (40, 60, 3)).astype(np.uint16)
    file = dng_bytes(pixels, dng=DngFile(cfa=None, black=FLAT_BLACK))
    assert libraw(file).pattern == ""
    np.testing.assert_array_equal(libraw(file).pixels[..., :3], pixels)
    np.testing.assert_array_equal(fast(file).pixels, pixels)


def test_an_unknown_model_has_no_matrix_and_a_known_one_libraws_own() -> None:
    mosaic = random_mosaic((40, 60))
    assert not libraw(dng_bytes(mosaic)).matrix.any()
    assert libraw(dng_bytes(mosaic, dng=DngFile(model="NIKON D750"))).matrix.any()
    assert not fast(
        dng_bytes(mosaic, dng=replace(DngFile(), color_matrix=None))
    ).metadata.color_matrices.color


def test_too_small_for_libraw_is_still_written() -> None:
    with pytest.raises(rawpy.LibRawError):
        libraw(dng_bytes(random_mosaic((10, 10))))


def test_linear_pixels_with_a_filter_are_refused() -> None:
    with pytest.raises(UsageError, match="no filter"):
        dng_bytes(np.zeros((40, 40, 3), np.uint16))
