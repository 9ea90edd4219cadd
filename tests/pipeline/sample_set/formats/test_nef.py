"""NEF files: two independent decoders find exactly what was written."""

from __future__ import annotations

import struct
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import UsageError
from pipeline.sample_set import CFA_PATTERNS, NIKON_D750, Cfa, NefCompression, nef_bytes, write_nef
from pipeline.sample_set.formats.tiff_writer import ByteOrder
from tests.pipeline.sample_set.decoders import fast, libraw, random_mosaic

COMPRESSIONS: tuple[NefCompression, ...] = ("lossless", "uncompressed", "packed12")


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("shape", [(22, 22), (51, 98), (64, 130)])
def test_both_decoders_return_the_mosaic(
    compression: NefCompression, byte_order: ByteOrder, shape: tuple[int, int]
) -> None:
    mosaic = random_mosaic(shape, largest=4095 if compression == "packed12" else 16383)
    camera = replace(NIKON_D750, byte_order=byte_order)
    file = nef_bytes(mosaic, compression=compression, camera=camera)
    np.testing.assert_array_equal(libraw(file).pixels, mosaic)
    np.testing.assert_array_equal(fast(file).pixels, mosaic)


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(22, 40),
    width=st.integers(22, 40),
    low=st.integers(0, 16383),
    span=st.integers(0, 16383),
    seed=st.integers(0, 1000),
)
def test_lossless_is_lossless_for_any_size_and_range(
    height: int, width: int, low: int, span: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    mosaic = rng.integers(low, min(low + span, 16383) + 1, (height, width)).astype(np.uint16)
    np.testing.assert_array_equal(libraw(nef_bytes(mosaic)).pixels, mosaic)


def test_lossless_survives_the_seams_between_row_groups() -> None:
    # Rows are coded in groups of two million samples; this has three groups.
    mosaic = random_mosaic((1500, 3000), seed=5)
    np.testing.assert_array_equal(libraw(nef_bytes(mosaic)).pixels, mosaic)


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_filter_and_uneven_black_levels_agree(cfa: Cfa) -> None:
    camera = replace(NIKON_D750, cfa=cfa, black=(600, 604, 608, 612))
    file = nef_bytes(random_mosaic((40, 60)), camera=camera)
    slow, quick = libraw(file), fast(file)
    assert slow.pattern == cfa
    assert slow.black == [600, 604, 612, 608]  # R, G1, B, G2
    assert quick.metadata.cfa is not None
    assert quick.metadata.cfa.pattern == cfa
    by_colour = dict(zip("RGB", (600, None, 612), strict=True))
    by_position = dict(zip(cfa, quick.metadata.black_level.values, strict=True))
    assert by_position["R"] == by_colour["R"]
    assert by_position["B"] == by_colour["B"]


@pytest.mark.parametrize(("orientation", "flip"), [(1, 0), (3, 3), (6, 6), (8, 5)])
def test_orientation_is_noted_and_never_applied(orientation: int, flip: int) -> None:
    mosaic = random_mosaic((30, 50))
    file = nef_bytes(mosaic, camera=replace(NIKON_D750, orientation=orientation))
    assert libraw(file).flip == flip
    assert fast(file).metadata.orientation == orientation
    np.testing.assert_array_equal(libraw(file).pixels, mosaic)


def test_metadata_is_what_was_asked_for() -> None:
    camera = replace(
        NIKON_D750,
        crop=(16, 8, 60, 40),
        iso=3200,
        exposure_time=Fraction(1, 30),
        f_number=Fraction(35, 10),
        captured_at="2020:11:07 19:30:41",
        white_balance=(1.25, 1.0, 2.5),
    )
    file = nef_bytes(random_mosaic((60, 90)), camera=camera)
    slow, quick = libraw(file), fast(file)
    assert slow.crop == quick.crop == (16, 8, 60, 40)
    assert slow.white == 16383
    assert slow.balance == [1.25, 1.0, 2.5, 1.0]
    assert np.linalg.det(slow.matrix) > 0.1
    facts = quick.metadata
    assert facts.camera.model == "NIKON D750"
    assert facts.exposure.iso == 3200
    assert facts.exposure.exposure_time == pytest.approx(1 / 30)
    assert facts.exposure.f_number == pytest.approx(3.5)
    assert facts.capture_time == "2020-11-07T19:30:41"
    np.testing.assert_allclose(facts.color_matrices.color[0].values, slow.matrix.ravel(), atol=1e-6)


def test_twelve_bits_keep_black_in_their_own_unit() -> None:
    camera = replace(NIKON_D750, black=(150, 150, 150, 150))
    file = nef_bytes(random_mosaic((40, 60), largest=4095), compression="packed12", camera=camera)
    assert libraw(file).black == [150] * 4
    assert libraw(file).white == 4095
    assert set(fast(file).metadata.black_level.values) == {150.0}


def test_pixels_are_the_last_thing_in_the_file() -> None:
    mosaic = np.full((30, 50), 0x1234, np.uint16)
    file = nef_bytes(mosaic, compression="uncompressed")
    assert file.endswith(struct.pack("<H", 0x1234) * mosaic.size)


def test_write_nef_writes_the_same_bytes(tmp_path: Path) -> None:
    mosaic = random_mosaic((30, 50))
    write_nef(tmp_path / "a.NEF", mosaic)
    assert (tmp_path / "a.NEF").read_bytes() == nef_bytes(mosaic)


def test_what_the_format_cannot_hold_is_refused() -> None:
    with pytest.raises(UsageError, match="22x22"):
        nef_bytes(random_mosaic((20, 20)))
    with pytest.raises(UsageError, match="4095"):
        nef_bytes(np.full((30, 30), 4096, np.uint16), compression="packed12")
    with pytest.raises(UsageError, match="even width"):
        nef_bytes(np.zeros((30, 31), np.uint16), compression="packed12")
    with pytest.raises(UsageError, match="2-D uint16"):
        nef_bytes(np.zeros((30, 30, 3), np.uint16))
