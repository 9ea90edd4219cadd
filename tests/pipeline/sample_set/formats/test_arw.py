"""ARW files: two independent decoders find exactly what the writer says they will."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import UsageError
from pipeline.sample_set import CFA_PATTERNS, SONY_RX100M7, Cfa, arw_bytes, encode_arw2, write_arw
from pipeline.sample_set.formats.tiff_writer import ByteOrder
from tests.pipeline.sample_set.decoders import fast, libraw, random_mosaic


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(22, 40),
    groups=st.integers(1, 3),
    low=st.integers(0, 16383),
    span=st.integers(0, 16383),
    seed=st.integers(0, 1000),
)
def test_arw2_decodes_to_the_mosaic_the_writer_returns(
    height: int, groups: int, low: int, span: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    mosaic = rng.integers(low, min(low + span, 16383) + 1, (height, 32 * groups)).astype(np.uint16)
    file, decoded = arw_bytes(mosaic), encode_arw2(mosaic)[1]
    np.testing.assert_array_equal(libraw(file).pixels, decoded)
    np.testing.assert_array_equal(fast(file).pixels, decoded)


def test_arw2_loses_next_to_nothing_in_the_dark() -> None:
    # Below 2000 codes lie 2 apart, and a span under 128 codes is kept whole.
    rng = np.random.default_rng(0)
    mosaic = rng.integers(700, 900, (40, 96)).astype(np.uint16)
    decoded = encode_arw2(mosaic)[1]
    assert np.abs(decoded.astype(int) - mosaic).max() <= 1


def test_arw2_loses_little_anywhere() -> None:
    mosaic = random_mosaic((64, 320))
    error = np.abs(encode_arw2(mosaic)[1].astype(int) - mosaic)
    # 7 bits over the whole range of 11-bit codes: half a step is 8 codes of at most 32.
    assert error.max() <= 9 * 32


@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_plain_samples_come_back_in_either_byte_order(byte_order: ByteOrder) -> None:
    mosaic = random_mosaic((51, 97))
    camera = replace(SONY_RX100M7, byte_order=byte_order)
    file = arw_bytes(mosaic, compression="uncompressed", camera=camera)
    np.testing.assert_array_equal(libraw(file).pixels, mosaic)
    if byte_order == "<":  # flashraw 0.1 reads big-endian ARW samples as little-endian
        np.testing.assert_array_equal(fast(file).pixels, mosaic)


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_every_filter_order_is_understood(cfa: Cfa) -> None:
    file = arw_bytes(random_mosaic((40, 64)), camera=replace(SONY_RX100M7, cfa=cfa))
    assert libraw(file).pattern == cfa
    pattern = fast(file).metadata.cfa
    assert pattern is not None
    assert pattern.pattern == cfa


def test_metadata_is_what_was_asked_for() -> None:
    camera = replace(
        SONY_RX100M7,
        black=(800, 804, 808, 812),
        crop=(12, 12, 64, 40),
        orientation=8,
        iso=6400,
        white_balance=(1.5, 1.0, 2.25),
    )
    file = arw_bytes(random_mosaic((64, 96)), camera=camera)
    slow, quick = libraw(file), fast(file)
    assert slow.crop == quick.crop == (12, 12, 64, 40)
    assert slow.black == [800, 804, 812, 808]  # R, G1, B, G2
    assert quick.metadata.black_level.values == (800, 804, 808, 812)
    assert slow.white == 16383
    assert slow.balance == [1536, 1024, 2304, 1024]
    assert slow.flip == 5
    assert quick.metadata.orientation == 8
    assert quick.metadata.exposure.iso == 6400
    assert quick.metadata.camera.model == "DSC-RX100M7"
    matrix = quick.metadata.color_matrices.color[0].values
    np.testing.assert_allclose(matrix, slow.matrix.ravel(), atol=1e-6)


def test_full_size_has_the_margins_of_the_real_camera() -> None:
    crop = (12, 12, 5472, 3648)
    mosaic = np.full((3672, 5504), 800, np.uint16)
    mosaic[0, 0], mosaic[-1, -1] = 801, 802
    file = arw_bytes(mosaic, compression="uncompressed", camera=replace(SONY_RX100M7, crop=crop))
    slow = libraw(file)
    assert slow.visible == (0, 0, 5496, 3672)
    assert slow.crop == fast(file).crop == crop
    assert slow.pixels[0, 0] == 801
    assert slow.pixels[-1, -1] == 802


def test_write_arw_returns_the_mosaic_that_will_be_read(tmp_path: Path) -> None:
    mosaic = random_mosaic((30, 64))
    returned = write_arw(tmp_path / "a.ARW", mosaic)
    np.testing.assert_array_equal(libraw((tmp_path / "a.ARW").read_bytes()).pixels, returned)
    assert write_arw(tmp_path / "b.ARW", mosaic, compression="uncompressed") is not None


def test_what_the_format_cannot_hold_is_refused() -> None:
    with pytest.raises(UsageError, match="32"):
        arw_bytes(random_mosaic((30, 60)))
    with pytest.raises(UsageError, match="little-endian"):
        arw_bytes(random_mosaic((30, 64)), camera=replace(SONY_RX100M7, byte_order=">"))
    with pytest.raises(UsageError, match="16383"):
        arw_bytes(np.full((30, 64), 16384, np.uint16))
