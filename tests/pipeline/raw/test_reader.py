"""The decode seam: two decoders, one answer, and nothing damaged gets through."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.develop.colour import camera_to_xyz
from pipeline.develop.frame import choose_frame
from pipeline.errors import CorruptRawError, SourceError, UnsupportedRawError
from pipeline.raw.damage import check_mosaic, lost_samples, may_hide_damage
from pipeline.raw.decoders.flashraw import FlashrawDeclinedError
from pipeline.raw.decoders.nikon_lossless import coded_bits
from pipeline.raw.facts import (
    DecodedRaw,
    DecoderName,
    Geometry,
    Levels,
    RawFacts,
    as_shot_balance,
    check_levels,
    differences,
    matrix3,
)
from pipeline.raw.reader import PROBE_BYTES, check_container, decode, decoder_version, probe
from pipeline.sample_set import (
    CFA_PATTERNS,
    NIKON_D750,
    SONY_RX100M7,
    X_TRANS,
    CameraFile,
    Cfa,
    DngFile,
    arw_bytes,
    dng_bytes,
    encode_arw2,
    nef_bytes,
)
from schemas.sidecar import Frame, Rect

Mosaic = npt.NDArray[np.uint16]

SHARED = Path(os.environ.get("GENISP_SHARED", Path(__file__).resolve().parents[4] / "shared"))
RAWS = SHARED / "raws"
NIKON_D1 = RAWS / "complete" / "RAW_NIKON_D1.NEF"
needs_the_real_raws = pytest.mark.skipif(
    not NIKON_D1.is_file(), reason=f"the real raws are not beside the checkout ({RAWS})"
)

DECODERS: tuple[DecoderName, ...] = ("libraw", "flashraw", "genisp")
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
    try:
        decoded = decode(file, decoder, path="a.raw")
        if may_hide_damage(file, decoded, path="a.raw"):
            reference = decode(file, "libraw", path="a.raw")
            decoded = reference if differences(reference, decoded) else decoded
    except FlashrawDeclinedError:
        decoded = decode(file, "libraw", path="a.raw")
    check_levels(decoded.levels, path="a.raw")
    camera_to_xyz(decoded.levels.xyz_to_camera, path="a.raw")
    check(decoded)
    return decoded


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
    ("orientation", "crop"), [(1, None), (6, (4, 2, 48, 32)), (3, (6, 4, 40, 30))]
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


def test_classes_tell_formats_apart() -> None:
    names = ("nef lossless", "nef uncompressed", "nef 12 bit", "arw2", "arw uncompressed")
    assert len({facts_of(file_of(name)).decoder_class for name in names}) == len(names)


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

    monkeypatch.setattr("pipeline.raw.decoders.flashraw.version", version)
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


def levels_with(**changes: object) -> Levels:
    black = (600.0, 600.0, 600.0, 600.0)
    matrix = matrix3([0.9020, -0.2890, -0.0715, -0.4535, 1.2436, 0.2348, -0.0934, 0.1919, 0.7086])
    return replace(
        Levels("RGGB", black, 16383.0, matrix, (2.0, 1.0, 1.5)),
        **changes,  # type: ignore[arg-type]
    )


def decoded_as(mosaic: Mosaic, **changes: object) -> DecodedRaw:
    return DecodedRaw(mosaic, levels_with(**changes), "libraw", None)


def test_equal_decodings_do_not_differ() -> None:
    assert differences(decoded_as(noise()), decoded_as(noise().copy())) == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cfa": "BGGR"}, "cfa RGGB against BGGR"),
        ({"black": (600.0, 600.0, 601.0, 600.0)}, "black"),
        ({"white": 15520.0}, "white 16383.0 against 15520.0"),
        ({"xyz_to_camera": matrix3([1, 0, 0, 0, 1, 0, 0, 0, 1])}, "xyz_to_camera"),
        ({"as_shot_balance": None}, "as_shot_balance"),
    ],
)
def test_a_difference_in_levels_is_named(changes: dict[str, object], words: str) -> None:
    (found,) = differences(decoded_as(noise()), decoded_as(noise(), **changes))
    assert words in found


def test_one_different_sample_is_counted() -> None:
    other = noise()
    other[7, 9] += 1
    assert differences(decoded_as(noise()), decoded_as(other)) == ("1 samples",)


def test_different_sizes_are_named_not_compared() -> None:
    (found,) = differences(decoded_as(noise()), decoded_as(noise((40, 32))))
    assert "(40, 64) against (40, 32)" in found


def test_a_format_the_decoders_read_differently_is_noticed() -> None:
    # flashraw 0.1 reads Sony's plain samples little-endian whatever the file says.
    camera = replace(SONY_RX100M7, byte_order=">")
    file = arw_bytes(noise(), compression="uncompressed", camera=camera)
    reference = decode(file, "libraw", path="")
    np.testing.assert_array_equal(reference.mosaic, noise())
    try:
        fast = decode(file, "flashraw", path="")
    except (FlashrawDeclinedError, SourceError):
        return
    assert differences(reference, fast)


# --- truncation ----------------------------------------------------------------------------------


@every_format
@every_decoder
def test_a_ladder_of_cuts_is_refused_step_by_step(name: str, decoder: DecoderName) -> None:
    file = file_of(name)
    cuts = {0, 1, 2, 3, 4, 7, 8, 9, 16, 63, 64, 65, *range(100, len(file), 211)}
    cuts |= {len(file) // 2, len(file) * 9 // 10, len(file) - 2, len(file) - 1}
    for length in sorted(cuts):
        with pytest.raises(SourceError):
            convert(file[:length], decoder)


@every_format
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_any_cut_is_refused(name: str, data: st.DataObject) -> None:
    file = file_of(name)
    cut = file[: data.draw(st.integers(0, len(file) - 1))]
    for decoder in DECODERS:
        with pytest.raises(SourceError):
            convert(cut, decoder)
    with pytest.raises(SourceError):
        probe(cut, whole=True, path="")


@every_format
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_flashraw_alone_notices_any_cut(name: str, data: st.DataObject) -> None:
    # The second line of defence, should a container's directories ever be wrong.
    file = file_of(name)
    cut = file[: data.draw(st.integers(0, len(file) - 1))]
    with pytest.raises((SourceError, FlashrawDeclinedError)):
        decode(cut, "flashraw", path="")


@every_decoder
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_mosaic_of_a_cut_arw2_is_refused_even_without_its_container(
    decoder: DecoderName, share: float
) -> None:
    # LibRaw fills the rest with the last row it could read, without a word.
    file = file_of("arw2")
    pixels = noise().size
    cut = file[: len(file) - round(pixels * (1 - share))]
    with pytest.raises(SourceError):
        check(decode(cut, decoder, path=""))


@every_format
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_damaged_headers_raise_errors_of_ours_and_nothing_else(
    name: str, data: st.DataObject
) -> None:
    file = bytearray(file_of(name))
    places = st.integers(0, min(1500, len(file) - 1))
    for place in data.draw(st.lists(places, min_size=1, max_size=6)):
        file[place] = data.draw(st.integers(0, 255))
    damaged = bytes(file)
    for decoder in DECODERS:
        try:
            decoded = convert(damaged, decoder)
        except SourceError:
            continue
        assert decoded.mosaic.size > 0
    try:
        frame = frame_of(facts_of(damaged))
    except SourceError:
        return
    assert frame.crop.x + frame.crop.width <= frame.raw_size[0]
    assert frame.crop.y + frame.crop.height <= frame.raw_size[1]


@pytest.mark.shared_data
@needs_the_real_raws
@every_decoder
def test_real_damaged_files_are_refused(decoder: DecoderName) -> None:
    files = sorted((RAWS / "hostile").iterdir())
    assert files
    for path in files:
        with pytest.raises(SourceError):
            convert(path.read_bytes(), decoder)


# --- damage inside -------------------------------------------------------------------------------


def zero_tail(file: bytes, count: int) -> bytes:
    return file[:-count] + bytes(count)


@every_format
@every_decoder
@pytest.mark.parametrize("share", [0.1, 0.25, 0.6])
def test_a_tail_of_zeros_is_refused(name: str, decoder: DecoderName, share: float) -> None:
    # What an interrupted download leaves: the right length, the end never written. In a lossless
    # NEF zeros are codes: each sample is 127 below its neighbour, and flashraw clamps at 0.
    mosaic = noise((64, 640), largest=16384)
    file = FORMATS[name].file(mosaic)
    with pytest.raises(CorruptRawError):
        convert(zero_tail(file, round(share * len(file))), decoder)


@every_format
@every_decoder
@pytest.mark.parametrize("count", [16, 17, 30, 64, 200])
def test_a_short_tail_of_zeros_is_refused(name: str, decoder: DecoderName, count: int) -> None:
    # Less than a quarter of the last row: its zeros alone are too few to be noticed.
    mosaic = dim((64, 640))
    file = FORMATS[name].file(mosaic)
    convert(file, decoder)
    with pytest.raises(CorruptRawError):
        convert(zero_tail(file, count), decoder)


def test_a_tail_of_zeros_is_refused_where_black_is_0_if_it_has_an_edge() -> None:
    mosaic = dim((64, 640))
    mosaic[-1, -24:] = 0
    with pytest.raises(CorruptRawError, match="the last 24 samples or more"):
        check(decoded_as(mosaic, black=(0.0, 0.0, 0.0, 0.0)))
    # Lost from the middle of one row on, or from its last samples on: the next row tells.
    for lost in (640 + 100, 640 + 3):
        mosaic = dim((64, 640))
        mosaic.reshape(-1)[-lost:] = 0
        with pytest.raises(CorruptRawError, match=f"the last {lost} samples or more"):
            check(decoded_as(mosaic, black=(0.0, 0.0, 0.0, 0.0)))


def test_a_dark_corner_that_a_camera_clips_to_0_is_believed() -> None:
    mosaic = dim((64, 640))
    mosaic[-20:, -200:] = 0
    check(decoded_as(mosaic, black=(0.0, 0.0, 0.0, 0.0)))


@pytest.mark.parametrize("step", [127, 31])
@pytest.mark.parametrize("clamped", [False, True])
def test_zeros_read_as_nikons_code_are_known_by_their_even_fall(step: int, clamped: bool) -> None:
    part = dim((8, 64))
    if clamped:
        part[-1, 52:54] = 3 * step + 5
    for x in range(54, 64):
        part[-1, x] = max(0, int(part[-1, x - 2]) - step)
    assert lost_samples(part, 600) == 8
    part[-1, 60] += 3
    assert lost_samples(part, 600) == 0


def test_even_light_is_no_fall() -> None:
    part = np.tile(np.array([1000, 700], np.uint16), (8, 32))
    assert lost_samples(part, 600) == 0
    part[-1] -= np.arange(64, dtype=np.uint16) // 2  # one DN a cell: a gradient without noise
    assert lost_samples(part, 600) == 0


@pytest.mark.parametrize("length", [24, 47])
def test_a_block_of_zeros_within_a_row_is_refused(length: int) -> None:
    mosaic = dim((64, 640))
    mosaic[30, 100 : 100 + 2 * length : 2] = 0  # one colour: LibRaw's code goes by colour
    with pytest.raises(CorruptRawError, match="1 of 64 rows"):
        check(decoded_as(mosaic))
    mosaic[30, 100 + 2 * 12] = 1
    if length == 24:
        check(decoded_as(mosaic))


# --- what formats say about themselves -----------------------------------------------------------


@pytest.mark.parametrize("fill", [b"\0", b"\xff"])
@pytest.mark.parametrize("block", [0, 7, 100, 159])
def test_an_arw2_block_that_no_encoder_writes_is_refused(fill: bytes, block: int) -> None:
    # Its largest and its smallest sample are in one place. Both decoders read it without a word.
    file = bytearray(file_of("arw2"))
    start = len(file) - SHAPE[0] * SHAPE[1] + 16 * block
    file[start : start + 16] = fill * 16
    assert decode(bytes(file), "libraw", path="").mosaic.size
    with pytest.raises(CorruptRawError, match=r"^a.raw: 1 blocks of 16 bytes .* no ARW2"):
        check_container(bytes(file), path="a.raw")


@pytest.mark.parametrize("largest", [1, 900, 16384])
def test_every_block_of_a_whole_arw2_is_believed(largest: int) -> None:
    for mosaic in (noise((64, 640), largest=largest), np.full((64, 640), 16383, np.uint16)):
        check_container(arw_bytes(mosaic), path="")


@pytest.mark.parametrize("big_endian", [False, True])
def test_the_bits_of_nikons_code_are_counted_from_the_samples(big_endian: bool) -> None:
    name = "nef lossless, big-endian" if big_endian else "nef lossless"
    for mosaic in (noise(), noise(largest=40), dim((64, 640))):
        file = FORMATS[name].file(mosaic)
        facts = check_container(file, path="")
        assert facts is not None
        assert facts.nikon_linearisation == (0x46, 2048, 2048, 2048, 2048)
        (image,) = facts.raw_images
        predictors = np.full((2, 2), 2048, np.int32)
        bits = coded_bits(mosaic, predictors, 14)
        assert 0 <= 8 * sum(image.byte_counts) - bits < 16
        if mosaic.min() > 0:  # a zero may be a sample that flashraw clamped
            assert not may_hide_damage(file, decode(file, "flashraw", path=""), path="")


@pytest.mark.parametrize("missing", [9, 40, 100])
def test_a_nikon_code_that_ends_early_is_doubted(missing: int) -> None:
    # flashraw fills the last row up without a word; the strip says that it has all it should.
    mosaic = dim((64, 640))
    file = bytearray(FORMATS["nef lossless"].file(mosaic))
    facts = check_container(bytes(file), path="")
    assert facts is not None
    (count,) = facts.raw_images[0].byte_counts
    at = file.index(struct.pack("<HHII", 0x117, 4, 1, count))
    struct.pack_into("<I", file, at + 8, count - missing)
    cut = bytes(file[: len(file) - missing])
    check_container(cut, path="")
    assert may_hide_damage(cut, decode(cut, "flashraw", path=""), path="")
    with pytest.raises(CorruptRawError):
        decode(cut, "libraw", path="")


@pytest.mark.parametrize("light", [0, 2900])
def test_a_nikon_code_that_leaves_the_range_is_doubted(light: int) -> None:
    # A flipped bit makes every later sample of its row and colour too dark; flashraw clamps to 0.
    mosaic = noise((64, 640), largest=60) + np.uint16(5 + light)
    file = FORMATS["nef lossless"].file(mosaic)
    start = len(file) - 20_000
    refused = 0
    for bit in range(0, 8 * 64):
        damaged = bytearray(file)
        damaged[start + bit // 8] ^= 1 << bit % 8
        try:
            decode(bytes(damaged), "libraw", path="")
        except CorruptRawError:
            refused += 1
            try:
                fast = decode(bytes(damaged), "flashraw", path="")
            except CorruptRawError:
                continue
            assert may_hide_damage(bytes(damaged), fast, path=""), f"bit {bit}"
    assert refused > 50


def test_a_plain_sample_of_too_many_bits_is_doubted() -> None:
    # 17,000 is below what is still believed of an ARW2, but 14 bits cannot say it.
    file = bytearray(file_of("arw uncompressed"))
    file[-700:-698] = struct.pack("<H", 17_000)
    fast = decode(bytes(file), "flashraw", path="")
    check(fast)
    assert may_hide_damage(bytes(file), fast, path="")
    with pytest.raises(CorruptRawError):
        decode(bytes(file), "libraw", path="")


@pytest.mark.skipif(sys.platform != "linux", reason="other C libraries have no such option")
def test_what_libraw_does_not_write_is_zeros_not_the_last_picture() -> None:
    # It takes the strip for a JPEG, finds none, says nothing, and hands out memory as it was.
    file = bytearray(file_of("arw2"))
    entry = struct.pack("<HHIH", 0x103, 3, 1, 32767)
    struct.pack_into("<H", file, file.index(entry) + 8, 7)
    for seed in range(3):
        pictures = [np.random.default_rng(seed).bytes(size) for size in range(3000, 9000, 8)]
        del pictures
        assert decode(bytes(file), "libraw", path="").mosaic.max() == 0
        with pytest.raises(CorruptRawError, match="no image data"):
            convert(bytes(file), "libraw")


@pytest.mark.parametrize("code", [3, 6, 17, 209])
def test_filter_colours_that_are_not_red_green_or_blue_are_refused(code: int) -> None:
    # LibRaw looks them up in memory nobody wrote: the same file is RGGB now, and GGGG then.
    file = bytearray(file_of("nef lossless"))
    at = file.index(struct.pack("<HHI", 0x828E, 1, 4))
    file[at + 8] = code
    with pytest.raises(UnsupportedRawError, match="not of red, green and blue"):
        check_container(bytes(file), path="")


def test_a_matrix_that_is_no_number_is_libraws_to_read() -> None:
    # Negative fractions read as floats are NaN; flashraw gives None for it.
    file = bytearray(dng_bytes(dim((40, 64)), dng=DngFile(model="NIKON D750")))
    at = file.index(struct.pack("<HHI", 0xC622, 10, 9))
    struct.pack_into("<H", file, at + 2, 11)
    assert facts_of(bytes(file)).decoder_class == ""
    with pytest.raises(FlashrawDeclinedError, match="no number"):
        decode(bytes(file), "flashraw", path="")


@every_format
def test_whole_files_are_not_doubted(name: str) -> None:
    for seed in range(3):
        file = FORMATS[name].file(dim((64, 640), seed=seed))
        assert not may_hide_damage(file, decode(file, "flashraw", path=""), path="")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"black": (602,) * 4}, "black 602 602 602 602"),
        ({"cfa": "BGGR"}, "BGGR"),
        ({"byte_order": ">"}, "big-endian"),
    ],
)
def test_files_that_differ_in_their_levels_are_another_class(
    change: dict[str, Any], words: str
) -> None:
    known = facts_of(file_of("nef lossless")).decoder_class
    other = facts_of(FORMATS["nef lossless"].file(**change)).decoder_class
    assert words in other
    assert words not in known


@pytest.mark.parametrize(("tag", "at", "value"), [(0x103, 8, 7), (0x115, 2, 1), (0x827D, 0, 0)])
def test_a_damaged_header_is_another_class(tag: int, at: int, value: int) -> None:
    # Else flashraw, trusted with the camera's whole files, would be trusted with this one.
    file = bytearray(file_of("nef lossless"))
    seen = {0x103: (0x103, 3, 1, 34713), 0x115: (0x115, 3, 1, 1), 0x827D: (0x828D, 3, 2)}[tag]
    entry = struct.pack("<HHI" + "H" * (len(seen) - 3), *seen)
    assert file.count(entry) == 1
    place = file.index(entry) + at
    if tag == 0x827D:
        value = 0x7F8D  # a tag nobody knows
    struct.pack_into("<H", file, place, value)
    damaged = probe(bytes(file), whole=True, path="")
    assert damaged is not None
    assert damaged.decoder_class != facts_of(file_of("nef lossless")).decoder_class


def test_another_matrix_is_another_class() -> None:
    # flashraw takes the matrix of a DNG from the file, LibRaw from its own table.
    matrix = (1.0, -0.2890, -0.0715, -0.4535, 1.2436, 0.2348, -0.0934, 0.1919, 0.7086)
    known = DngFile(model="NIKON D750")
    files = [dng_bytes(dim(SHAPE), dng=dng) for dng in (known, replace(known, color_matrix=matrix))]
    assert len({facts_of(file).decoder_class for file in files}) == 2


def test_a_frame_that_only_flashraw_finds_is_another_class() -> None:
    crop = (4, 2, 48, 32)
    whole, file = (FORMATS["nef lossless"].file(crop=crop) for _ in range(2))
    make = whole.index(struct.pack("<HHI", 0x10F, 2, len("NIKON CORPORATION") + 1))
    file = whole[: make + 4] + struct.pack("<I", 131_073) + whole[make + 8 :]
    classes = [facts_of(data).decoder_class for data in (whole, file)]
    assert "frame as LibRaw's" in classes[0]
    assert "frame unlike LibRaw's" in classes[1]


@every_decoder
def test_repeated_last_rows_are_refused_and_counted(decoder: DecoderName) -> None:
    mosaic = noise()
    mosaic[-5:] = mosaic[-6]
    with pytest.raises(CorruptRawError, match=r"5 of 40 rows .* repeat") as caught:
        convert(FORMATS["arw2"].file(mosaic), decoder)
    assert "again" in caught.value.hint


@every_decoder
@pytest.mark.parametrize("value", [0, 600, 601, 8191])
def test_blank_rows_are_refused(decoder: DecoderName, value: int) -> None:
    mosaic = noise()
    mosaic[20:22] = value
    with pytest.raises(CorruptRawError, match="2 of 40 rows"):
        convert(FORMATS["nef lossless"].file(mosaic), decoder)


@every_decoder
@pytest.mark.parametrize("level", [0, 300, 600])
def test_a_mosaic_that_never_exceeds_black_is_refused(decoder: DecoderName, level: int) -> None:
    with pytest.raises(CorruptRawError, match="above the black level"):
        convert(FORMATS["nef uncompressed"].file(np.full(SHAPE, level, np.uint16)), decoder)


@every_decoder
@pytest.mark.parametrize("level", [16383, 15520, 15360])
def test_overexposed_rows_are_believed(decoder: DecoderName, level: int) -> None:
    # Sensors saturate at the format's white, or below it: 15520 on a D750, 15360 on an RX100 VII.
    mosaic = noise()
    mosaic[:6] = level
    decoded = convert(FORMATS["nef uncompressed"].file(mosaic), decoder)
    np.testing.assert_array_equal(decoded.mosaic, mosaic)


def test_rows_clipped_to_zero_are_believed_where_black_is_zero() -> None:
    # Old Nikons subtract black in the camera, so that dark rows are clipped to 0.
    mosaic = noise()
    mosaic[:6] = 0
    check(decoded_as(mosaic, black=(0.0, 0.0, 0.0, 0.0)))
    with pytest.raises(CorruptRawError, match="6 of 40 rows"):
        check(decoded_as(mosaic))


def test_a_row_that_is_blank_for_a_quarter_is_refused_unless_black_is_zero() -> None:
    mosaic = noise()
    mosaic[10, 48:] = 0
    with pytest.raises(CorruptRawError, match="1 of 40 rows"):
        check(decoded_as(mosaic))
    check(decoded_as(mosaic, black=(0.0, 0.0, 0.0, 0.0)))


def test_a_few_dead_pixels_do_not_cost_the_sample() -> None:
    mosaic = noise()
    mosaic[:, ::8] = 0
    check(decoded_as(mosaic))


@every_decoder
def test_a_sample_far_above_white_is_refused(decoder: DecoderName) -> None:
    file = file_of("nef uncompressed")
    with pytest.raises(SourceError) as caught:
        convert(file[:-2] + b"\xff\xff", decoder)
    if decoder == "libraw":
        assert "65535" in caught.value.message


def test_codes_of_sony_above_white_are_believed() -> None:
    mosaic = noise(largest=16384)
    mosaic[3, 5:20] = 16383
    decoded = convert(FORMATS["arw2"].file(mosaic), "libraw")
    assert decoded.mosaic.max() > 16383


def test_damage_outside_the_crop_does_not_cost_the_sample() -> None:
    mosaic = noise()
    mosaic[:4] = 0
    file = FORMATS["nef uncompressed"].file(mosaic, crop=(4, 4, 48, 32))
    facts = facts_of(file)
    frame = frame_of(facts)
    decoded = decode(file, "libraw", path="")
    check_mosaic(decoded, frame, facts.levels.sensor(frame), path="")
    with pytest.raises(CorruptRawError, match="4 of 40 rows"):
        check(decoded)


def test_a_mosaic_of_another_size_than_announced_is_refused() -> None:
    frame = frame_of(facts_of(file_of("nef lossless")))
    small = decoded_as(noise((38, 64)))
    with pytest.raises(CorruptRawError, match="64x38"):
        check_mosaic(small, frame, small.levels.sensor(frame), path="")


# --- what is no Bayer raw ------------------------------------------------------------------------


def refusal(file: bytes) -> SourceError:
    """What an ingest says before it decodes a single pixel."""
    with pytest.raises(SourceError) as caught:
        camera_to_xyz(facts_of(file).levels.xyz_to_camera, path="a.raw")
    assert caught.value.path == "a.raw"
    assert caught.value.hint
    return caught.value


OTHER_SENSORS = {
    "x-trans": (dng_bytes(noise(), dng=DngFile(cfa=X_TRANS)), "2x2|Bayer|mosaic"),
    "mono": (dng_bytes(noise(), dng=DngFile(cfa=None)), "mosaic"),
    "linear": (dng_bytes(np.dstack([noise()] * 3), dng=DngFile(cfa=None)), "mosaic"),
}


@pytest.mark.parametrize(("file", "reason"), OTHER_SENSORS.values(), ids=OTHER_SENSORS)
def test_other_sensors_are_refused_by_name(file: bytes, reason: str) -> None:
    error = refusal(file)
    assert isinstance(error, UnsupportedRawError)
    assert any(word in error.message for word in reason.split("|")), error.message
    for decoder in DECODERS:
        with pytest.raises((SourceError, FlashrawDeclinedError)):
            decode(file, decoder, path="")


def test_an_unknown_camera_is_refused_because_it_has_no_matrix() -> None:
    file = nef_bytes(noise(), camera=replace(NIKON_D750, model="NIKON D9999"))
    assert "unknown camera" in refusal(file).message
    for decoder in DECODERS:
        with pytest.raises(SourceError):
            convert(file, decoder)


@every_decoder
@pytest.mark.parametrize(("width", "height"), [(60_000, 40), (64, 60_000), (30_000, 30_000)])
def test_absurd_sizes_are_refused_before_anything_is_allocated(
    decoder: DecoderName, width: int, height: int
) -> None:
    # LibRaw keeps 16 bits of a size, so all of these fit what it can hold.
    file = bytearray(file_of("nef uncompressed"))
    for tag, old, new in ((0x100, 64, width), (0x101, 40, height)):
        entry = struct.pack("<HHII", tag, 4, 1, old)
        assert file.count(entry) == 1
        at = file.index(entry)
        file[at : at + 12] = struct.pack("<HHII", tag, 4, 1, new)
    absurd = bytes(file)
    with pytest.raises(SourceError, match=f"{width}x{height}"):
        check_container(absurd, path="")
    with pytest.raises((SourceError, FlashrawDeclinedError)):
        decode(absurd, decoder, path="")
    with pytest.raises(SourceError):
        facts_of(absurd)


JPEG = bytes.fromhex("ffd8ffe000104a46494600010100000100010000ffdb004300") + bytes(64) + b"\xff\xd9"
NOT_RAWS = {
    "empty": b"",
    "one byte": b"I",
    "text": b"This is no photograph.\n" * 50,
    "jpeg": JPEG + bytes(5000),
    "zeros": bytes(10_000),
    "random": np.random.default_rng(0).bytes(10_000),
    "zip": b"PK\x03\x04" + bytes(5000),
    "json": b'{"images": [], "annotations": []}' * 20,
    "tiff without images": b"II*\0" + struct.pack("<IHI", 8, 0, 0),
}


@pytest.mark.parametrize("content", NOT_RAWS.values(), ids=NOT_RAWS)
def test_what_is_no_raw_is_refused_whatever_its_name(content: bytes) -> None:
    for read in (
        lambda: probe(content, whole=True, path="DSC01088.ARW"),
        lambda: decode(content, "libraw", path="DSC01088.ARW"),
        lambda: convert(content, "flashraw"),
    ):
        with pytest.raises(SourceError) as caught:
            read()
        assert caught.value.path
        assert caught.value.hint


# --- levels --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("black", "white"),
    [
        ((600.0, 600.0, 600.0, 600.0), 600.0),
        ((0.0, 0.0, 0.0, 20000.0), 16383.0),
        ((8992.0, 800.0, 800.0, 800.0), 16383.0),  # one bit flipped
        ((-1.0, 0.0, 0.0, 0.0), 16383.0),
        ((0.0, 0.0, 0.0, 0.0), 0.0),
        ((float("nan"), 0.0, 0.0, 0.0), 16383.0),
    ],
)
def test_levels_no_sensor_has_are_refused(
    black: tuple[float, float, float, float], white: float
) -> None:
    with pytest.raises(UnsupportedRawError, match="not plausible"):
        check_levels(levels_with(black=black, white=white), path="")


def test_levels_of_both_cameras_are_plausible() -> None:
    check_levels(levels_with(), path="")
    check_levels(levels_with(black=(0.0, 0.0, 0.0, 0.0), white=4095.0), path="")


@pytest.mark.parametrize(
    ("multipliers", "expected"),
    [
        ([2048.0, 1024.0, 1536.0, 1024.0], (2.0, 1.0, 1.5)),  # Sony's scale
        ([2.0, 1.0, 1.5, 0.0], (2.0, 1.0, 1.5)),
        ([0.0, 1.0, 0.0, 0.0], None),  # LibRaw's way of saying none
        ([2.0, 1.0], None),
        (None, None),
        ([2.0, 0.0, 1.5, 1.0], None),
        ([2.0, -1.0, 1.5, 1.0], None),
        ([1026.0, 1.0, 684.0], None),  # one bit flipped
        ([3e-8, 1.0, 2e-8], None),
        ([2.0, 1.0, float("nan")], None),
        ([float("inf"), 1.0, 1.5], None),
        ([31.0, 1.0, 0.04], (31.0, 1.0, 0.04)),
    ],
)
def test_a_balance_has_green_one_or_is_none(
    multipliers: list[float] | None, expected: tuple[float, float, float] | None
) -> None:
    assert as_shot_balance(multipliers) == expected


def test_a_matrix_read_in_single_precision_is_spelled_shortest() -> None:
    table = [1.0315, -0.4390, -0.0937, -0.4859, 1.2734, 0.2365, -0.0734, 0.1537, 0.5997]
    single = [float(np.float32(value)) for value in table]
    assert single[0] != table[0]
    assert (
        matrix3(single) == matrix3(table) == (tuple(table[:3]), tuple(table[3:6]), tuple(table[6:]))
    )


def test_the_pattern_of_a_sidecar_is_the_crops_not_the_sensors() -> None:
    file = FORMATS["nef lossless"].file(cfa="GRBG", crop=(6, 4, 40, 30))
    facts = facts_of(file)
    assert facts.levels.sensor(frame_of(facts)).cfa == "GRBG"
    odd = frame_of(facts).model_copy(update={"crop": Rect(x=7, y=4, width=40, height=30)})
    assert facts.levels.sensor(odd).cfa == "RGGB"


def test_spelling_does_not_depend_on_numpys_print_options() -> None:
    """colour-science sets ``legacy="1.13"`` on import: str() then cuts float32 to eight digits."""
    plain = as_shot_balance((2.1103515625, 1.0, 1.0 / 3)), matrix3([1 / 3, 1.0315, -2 / 7] * 3)
    for options in ({"legacy": "1.13"}, {"precision": 2}, {"floatmode": "fixed"}):
        with np.printoptions(**options):
            again = (
                as_shot_balance((2.1103515625, 1.0, 1.0 / 3)),
                matrix3([1 / 3, 1.0315, -2 / 7] * 3),
            )
        assert again == plain
    assert plain[1][0] == (0.33333334, 1.0315, -0.2857143)
