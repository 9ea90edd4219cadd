"""ARW2's blocks decoded by a table, beside LibRaw's loop in plain Python, and LibRaw itself."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import rawpy

from pipeline.errors import CorruptRawError
from pipeline.raw.decoders.sony_arw2 import arw2_image, decode_arw2, impossible_blocks
from pipeline.raw.reader import decode
from pipeline.raw.tiff import TiffFacts, TiffImage, read_tiff
from pipeline.sample_set import arw_bytes
from tests.kit.places import SHARED
from tests.kit.raw_files import file_of, noise

A55 = SHARED / "raws" / "hostile" / "SLT-A55V_truncated.ARW"


def facts_of(file: bytes) -> TiffFacts:
    facts = read_tiff(file)
    assert facts is not None
    return facts


def image_of(file: bytes) -> TiffImage:
    image = arw2_image(facts_of(file))
    assert image is not None
    return image


def with_blocks(file: bytes, blocks: bytes) -> bytes:
    """The file with other image data."""
    image = image_of(file)
    start = image.offsets[0]
    assert len(blocks) == image.byte_counts[0]
    return file[:start] + blocks + file[start + len(blocks) :]


def any_blocks(count: int, rng: np.random.Generator) -> bytes:
    """Random blocks whose extremes have places of their own; else any bits, written by none."""
    words = rng.integers(0, 1 << 32, (count, 4), np.uint32)
    places = np.array([a | b << 4 for a in range(16) for b in range(16) if a != b], np.uint32)
    words[:, 0] = words[:, 0] & ~np.uint32(0xFF << 22) | rng.choice(places, count) << 22
    return words.astype("<u4").tobytes()


def plain_decode(
    blocks: bytes, shape: tuple[int, int], corners: tuple[int, ...]
) -> npt.NDArray[np.uint16]:
    """LibRaw's sony_arw2_load_raw and its tone curve, statement by statement."""
    ends = [0, *(corner >> 2 & 0xFFF for corner in corners), 4095]
    curve = [0] * 4096
    for i in range(5):
        for j in range(ends[i] + 1, ends[i + 1] + 1):
            curve[j] = curve[j - 1] + (1 << i)
    height, width = shape
    mosaic = np.zeros(shape, np.uint16)
    for row in range(height):
        column = 0
        for at in range(row * width, row * width + width, 16):
            (head,) = struct.unpack_from("<I", blocks, at)
            largest, smallest = head & 0x7FF, head >> 11 & 0x7FF
            place_of_largest, place_of_smallest = head >> 22 & 0xF, head >> 26 & 0xF
            shift = 0
            while shift < 4 and 0x80 << shift <= largest - smallest:
                shift += 1
            whole, bit = int.from_bytes(blocks[at : at + 16], "little"), 30
            for i in range(16):
                if i == place_of_largest:
                    code = largest
                elif i == place_of_smallest:
                    code = smallest
                else:
                    code = min(((whole >> bit & 0x7F) << shift) + smallest, 0x7FF)
                    bit += 7
                mosaic[row, column + 2 * i] = curve[code << 1]
            column += 31 if column % 2 else 1
    return mosaic


@pytest.mark.parametrize("seed", range(4))
def test_any_blocks_are_decoded_as_libraw_and_its_loop_in_plain_python_do(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (40, 64)
    blocks = any_blocks(shape[0] * shape[1] // 16, rng)
    file = with_blocks(file_of("arw2"), blocks)
    mosaic = decode_arw2(file, image_of(file), path="")
    assert np.array_equal(mosaic, plain_decode(blocks, shape, image_of(file).tone_corners))
    assert np.array_equal(mosaic, decode(file, "libraw", path="").mosaic)
    assert impossible_blocks(file, facts_of(file)) == 0


def test_every_pair_of_places_and_every_spread_is_decoded() -> None:
    spreads = (0, 1, 127, 128, 255, 256, 511, 512, 1023, 1024, 2047)
    heads = [
        (spread, 0, largest, smallest)
        for spread in spreads
        for largest in range(16)
        for smallest in range(16)
        if largest != smallest
    ]
    words = np.random.default_rng(9).integers(0, 1 << 32, (len(heads), 4), np.uint32)
    packed = [top | low << 11 | a << 22 | b << 26 for top, low, a, b in heads]
    words[:, 0] = words[:, 0] & np.uint32(0xC0000000) | np.array(packed, np.uint32)
    shape = (len(heads) // 4, 64)
    file = with_blocks(arw_bytes(noise(shape)), words.astype("<u4").tobytes())
    mosaic = decode_arw2(file, image_of(file), path="")
    expected = plain_decode(words.astype("<u4").tobytes(), shape, image_of(file).tone_corners)
    assert np.array_equal(mosaic, expected)


def test_blocks_that_no_encoder_writes_are_decoded_alike_every_time() -> None:
    # They are refused before; but no sample may be what happened to be in memory.
    blocks = np.random.default_rng(3).bytes(40 * 64)
    file = with_blocks(file_of("arw2"), blocks)
    assert impossible_blocks(file, facts_of(file)) > 0
    first = decode_arw2(file, image_of(file), path="")
    for fill in (0, 0xFFFF):
        np.full(first.shape, fill, np.uint16)  # the memory that the next mosaic gets
        assert np.array_equal(decode_arw2(file, image_of(file), path=""), first)


@pytest.mark.parametrize(
    "changed",
    [
        {"width": 48, "height": 40},
        {"tone_corners": ()},
        {"tone_corners": (8000, 10400)},
        {"tone_corners": (10400, 8000, 12900, 14100)},
        {"tone_corners": (8000, 10400, 12900, 16384)},  # 0, in the bits LibRaw keeps of it
        {"offsets": (1024, 2048), "byte_counts": (1280, 1280)},
        {"compression": 1},
    ],
)
def test_what_it_was_not_made_for_is_left_to_others(changed: dict[str, object]) -> None:
    facts = facts_of(file_of("arw2"))
    (image,) = facts.raw_images
    other = replace(image, **changed)  # type: ignore[arg-type]
    assert arw2_image(facts) == image
    assert arw2_image(replace(facts, images=(other,))) is None
    assert arw2_image(replace(facts, images=(image, image))) is None


@pytest.mark.parametrize("shift", [1, 3, 8])
def test_blocks_may_begin_at_any_byte(shift: int) -> None:
    file = file_of("arw2")
    image = image_of(file)
    shifted = replace(image, offsets=(image.offsets[0] + shift,))
    found = decode_arw2(bytes(shift) + file, shifted, path="")
    assert np.array_equal(found, decode_arw2(file, image, path=""))


def test_a_file_that_ends_early_is_refused() -> None:
    file = file_of("arw2")
    with pytest.raises(CorruptRawError, match=r"^a.ARW: truncated: its image ends at byte"):
        decode_arw2(file[:-1], image_of(file), path="a.ARW")


@pytest.mark.shared_data
@pytest.mark.skipif(not A55.is_file(), reason=f"the real raws are not beside the checkout ({A55})")
def test_a_real_cameras_curve_and_geometry_are_understood() -> None:
    start = A55.read_bytes()
    image = image_of(start)
    rng = np.random.default_rng(55)
    blocks = any_blocks(image.byte_counts[0] // 16, rng)
    file = start[: image.offsets[0]].ljust(image.offsets[0], b"\0") + blocks
    mosaic = decode_arw2(file, image, path="")
    with rawpy.imread(str(A55)) as whole:  # LibRaw reads the header of the cut file, too
        assert whole.raw_image.shape == mosaic.shape
    assert np.array_equal(mosaic, decode(file, "libraw", path="").mosaic)
    assert np.array_equal(mosaic, decode(file, "flashraw", path="").mosaic)
