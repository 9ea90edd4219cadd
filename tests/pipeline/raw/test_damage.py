from __future__ import annotations

import struct
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import CorruptRawError, SourceError
from pipeline.raw.damage import check_mosaic, lost_samples, may_hide_damage
from pipeline.raw.decoders.decoder import DecoderDeclinedError
from pipeline.raw.decoders.nikon_lossless import coded_bits
from pipeline.raw.reader import check_container, decode, probe
from pipeline.sample_set import arw_bytes
from schemas.choices import DecoderName
from tests.kit.raw_files import (
    DECODERS,
    FORMATS,
    SHAPE,
    check,
    convert,
    decoded_as,
    dim,
    every_decoder,
    every_format,
    facts_of,
    file_of,
    frame_of,
    noise,
)


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
    with pytest.raises((SourceError, DecoderDeclinedError)):
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


@every_format
def test_whole_files_are_not_doubted(name: str) -> None:
    for seed in range(3):
        file = FORMATS[name].file(dim((64, 640), seed=seed))
        assert not may_hide_damage(file, decode(file, "flashraw", path=""), path="")


@every_decoder
def test_repeated_last_rows_are_refused_and_counted(decoder: DecoderName) -> None:
    mosaic = noise()
    mosaic[-5:] = mosaic[-6]
    with pytest.raises(CorruptRawError, match=r"5 of 40 rows .* repeat") as caught:
        convert(FORMATS["arw2"].file(mosaic), decoder)
    assert "again" in caught.value.mend


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
