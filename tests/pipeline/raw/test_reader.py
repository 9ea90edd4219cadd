"""The decode seam: two decoders, one answer, and nothing damaged gets through."""

from __future__ import annotations

import struct
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from pipeline.errors import SourceError
from pipeline.raw.decoders.decoder import DecoderDeclinedError
from pipeline.raw.facts import differences
from pipeline.raw.reader import PROBE_BYTES, decode, decoder_version, probe
from pipeline.sample_set import (
    CFA_PATTERNS,
    NIKON_D750,
    SONY_RX100M7,
    Cfa,
    DngFile,
    arw_bytes,
    dng_bytes,
    nef_bytes,
)
from schemas.choices import DecoderName
from schemas.sidecar import Rect
from tests.kit.places import NIKON_D1
from tests.kit.raw_files import (
    DECODERS,
    FORMATS,
    convert,
    dim,
    every_decoder,
    every_format,
    facts_of,
    file_of,
    frame_of,
    needs_the_real_raws,
    noise,
)

# --- facts and pixels ----------------------------------------------------------------------------


@every_format
@every_decoder
def test_every_format_is_decoded_to_the_samples_written(name: str, decoder: DecoderName) -> None:
    decoded = convert(file_of(name), decoder)
    np.testing.assert_array_equal(decoded.mosaic, FORMATS[name].found(noise()))
    ours = ("arw2", "nef lossless", "nef lossless, big-endian")
    left = decoder == "genisp" and name not in ours
    assert decoded.decoder == ("flashraw" if left else decoder)
    assert decoded.mosaic.dtype == np.uint16
    assert decoded.mosaic.flags.c_contiguous


@every_format
@pytest.mark.parametrize("cfa", CFA_PATTERNS)
@pytest.mark.parametrize(
    ("orientation", "crop"),
    [(1, None), (6, (4, 2, 48, 32)), (3, (6, 4, 40, 30)), (7, (4, 2, 48, 32)), (2, None)],
)
def test_all_decoders_agree_on_every_variant(
    name: str, cfa: Cfa, orientation: int, crop: tuple[int, int, int, int] | None
) -> None:
    file = FORMATS[name].file(noise(seed=3), cfa=cfa, orientation=orientation, crop=crop)
    reference, *fast = (decode(file, decoder, path="a.raw") for decoder in DECODERS)
    assert [differences(reference, one) for one in fast] == [(), ()]
    assert {one.levels for one in (reference, *fast)} == {facts_of(file).levels}
    assert reference.levels.cfa == cfa
    geometry = facts_of(file).geometry
    assert geometry.orientation_flag == orientation
    assert geometry.raw_size == (64, 40)
    assert geometry.camera_crop == (
        None if crop is None else Rect(x=crop[0], y=crop[1], width=crop[2], height=crop[3])
    )


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
@every_decoder
def test_black_is_given_by_colour_index(cfa: Cfa, decoder: DecoderName) -> None:
    # The tag lists R, G1, G2, B whatever the filter; LibRaw's index is R, G1, B, G2.
    camera = replace(NIKON_D750, cfa=cfa, black=(600, 604, 608, 612))
    levels = decode(nef_bytes(noise(), camera=camera), decoder, path="").levels
    assert levels.black == (600, 604, 612, 608)


@pytest.mark.parametrize("name", ["arw2", "arw uncompressed"])
@pytest.mark.parametrize("cfa", ["RGGB", "GRBG"])
@every_decoder
def test_black_of_a_sony_is_given_by_colour_index(
    name: str, cfa: Cfa, decoder: DecoderName
) -> None:
    file = FORMATS[name].file(cfa=cfa, black=(800, 804, 808, 812))
    assert decode(file, decoder, path="").levels.black == (800, 804, 812, 808)


@every_format
def test_facts_are_what_was_written(name: str) -> None:
    camera = FORMATS[name].camera
    exposed = replace(
        camera,
        iso=12800,
        exposure_time=Fraction(1, 30),
        f_number=Fraction(18, 10),
        captured_at="2019:11:05 22:14:09",
        white_balance=(2.125, 1.0, 1.5),
    )
    facts = facts_of(FORMATS[name].write(noise(), exposed))
    assert (facts.camera.make, facts.camera.model) == (camera.make, camera.model)
    assert facts.capture.iso == 12800
    assert facts.capture.exposure_time == pytest.approx(1 / 30, rel=1e-9)
    assert facts.capture.f_number == pytest.approx(1.8, rel=1e-9)
    assert facts.capture.captured_at == "2019:11:05 22:14:09"
    assert facts.levels.white == (4095 if "12 bit" in name else 16383)
    assert facts.levels.as_shot_balance == (2.125, 1.0, 1.5)
    assert camera.model in facts.decoder_class


def test_matrices_are_spelled_as_in_the_table() -> None:
    sony, nikon = facts_of(file_of("arw2")).levels, facts_of(file_of("nef lossless")).levels
    assert sony.xyz_to_camera == (
        (1.0315, -0.4390, -0.0937),
        (-0.4859, 1.2734, 0.2365),
        (-0.0734, 0.1537, 0.5997),
    )
    assert nikon.xyz_to_camera == (
        (0.9020, -0.2890, -0.0715),
        (-0.4535, 1.2436, 0.2348),
        (-0.0934, 0.1919, 0.7086),
    )


@every_format
@pytest.mark.parametrize("length", [64 * 1024, PROBE_BYTES])
def test_the_beginning_says_the_same_as_the_whole_file(name: str, length: int) -> None:
    camera = replace(FORMATS[name].camera, crop=(8, 8, 440, 330), orientation=8)
    file = FORMATS[name].write(noise((360, 512)), camera)
    assert len(file) > 64 * 1024
    start = file[:length]
    assert probe(start, whole=len(start) == len(file), path="") == facts_of(file)


@every_format
@pytest.mark.parametrize("length", [0, 1, 8, 64, 200, 400])
def test_a_beginning_that_is_too_short_asks_for_more_or_says_the_same(
    name: str, length: int
) -> None:
    file = file_of(name)
    assert probe(file[:length], whole=False, path="") in (None, facts_of(file))


def test_versions_of_all_decoders_are_known() -> None:
    assert decoder_version("genisp")[0].isdigit()
    assert decoder_version("libraw")[0].isdigit()
    assert decoder_version("flashraw").count(".") == 2


def test_versions_are_looked_up_once_not_for_every_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[str] = []

    def version(name: str) -> str:
        looked_up.append(name)
        return "1.2.3"

    monkeypatch.setattr("importlib.metadata.version", version)
    decoder_version.cache_clear()
    try:
        assert [decoder_version("flashraw") for _ in range(3)] == ["1.2.3"] * 3
    finally:
        decoder_version.cache_clear()
    assert looked_up == ["flashraw"]


@pytest.mark.shared_data
@needs_the_real_raws
def test_a_real_raw_is_read_alike_by_all_decoders_and_from_its_beginning() -> None:
    file = NIKON_D1.read_bytes()
    reference, *fast = (convert(file, decoder) for decoder in DECODERS)
    assert [differences(reference, one) for one in fast] == [(), ()]
    assert reference.levels.cfa == "BGGR"
    assert reference.levels.white == 4095
    facts = facts_of(file)
    assert facts.camera.model == "NIKON D1"
    assert frame_of(facts).size == (2012, 1324)
    assert facts.capture.exposure_time == pytest.approx(1 / 250)
    assert probe(file[:PROBE_BYTES], whole=False, path="") in (None, facts)


# --- differences ---------------------------------------------------------------------------------


def test_a_format_the_decoders_read_differently_is_noticed() -> None:
    # flashraw 0.1 reads Sony's plain samples little-endian whatever the file says.
    camera = replace(SONY_RX100M7, byte_order=">")
    file = arw_bytes(noise(), compression="uncompressed", camera=camera)
    reference = decode(file, "libraw", path="")
    np.testing.assert_array_equal(reference.mosaic, noise())
    try:
        fast = decode(file, "flashraw", path="")
    except (DecoderDeclinedError, SourceError):
        return
    assert differences(reference, fast)


# --- truncation ----------------------------------------------------------------------------------


# --- damage inside -------------------------------------------------------------------------------


# --- what formats say about themselves -----------------------------------------------------------


def test_a_matrix_that_is_no_number_is_libraws_to_read() -> None:
    # Negative fractions read as floats are NaN; flashraw gives None for it.
    file = bytearray(dng_bytes(dim((40, 64)), dng=DngFile(model="NIKON D750")))
    at = file.index(struct.pack("<HHI", 0xC622, 10, 9))
    struct.pack_into("<H", file, at + 2, 11)
    assert facts_of(bytes(file)).decoder_class == ""
    with pytest.raises(DecoderDeclinedError, match="no number"):
        decode(bytes(file), "flashraw", path="")


# --- what is no Bayer raw ------------------------------------------------------------------------


# --- levels --------------------------------------------------------------------------------------
