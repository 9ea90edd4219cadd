"""Nikon's code, decoded and counted, beside plain sums, the writer, LibRaw, and damaged files."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.raw.decoders.nikon_lossless import (
    bits_of_difference,
    coded_bits,
    decode_lossless,
    lossless_image,
)
from pipeline.raw.reader import decode
from pipeline.raw.tiff import TiffFacts, TiffImage, read_tiff
from pipeline.sample_set import NIKON_D750, nef_bytes
from tests.kit.raw_files import dim, file_of, noise

Mosaic = npt.NDArray[np.uint16]
DEPTHS = (12, 14)


def plain_sum(mosaic: Mosaic, predictors: npt.NDArray[np.int32], depth: int) -> int:
    table, samples = bits_of_difference(depth), mosaic.astype(int)
    total = 0
    for y, row in enumerate(samples):
        above = predictors[y] if y < 2 else samples[y - 2, :2]
        differences = np.concatenate([row[:2] - above, row[2:] - row[:-2]])
        total += int(table[abs(differences)].sum())
    return total


def parts_of(file: bytes) -> tuple[TiffFacts, TiffImage]:
    facts = read_tiff(file)
    assert facts is not None
    image = lossless_image(facts)
    assert image is not None
    return facts, image


def decoded(file: bytes, **changed: object) -> Mosaic | None:
    """Decode; `changed` are fields of the image that differ from what the file says."""
    facts, image = parts_of(file)
    return decode_lossless(file, facts, replace(image, **changed))  # type: ignore[arg-type]


# --- counted -------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", DEPTHS)
def test_codes_of_both_depths_are_complete(depth: int) -> None:
    table = bits_of_difference(depth)[: 1 << depth].astype(int)
    lengths = [int(table[(1 << length) >> 1]) - length for length in range(depth + 1)]
    assert sum(2.0**-length for length in lengths) == 1


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("width", [2, 3, 65, 130])
def test_bits_are_those_of_the_plain_sum(depth: int, width: int) -> None:
    rng = np.random.default_rng(width)
    predictors = rng.integers(0, 1 << depth, (2, 2)).astype(np.int32)
    # From noise to differences that no code says.
    for largest in (1, 2, 40, 513, 1 << depth, 1 << 16):
        mosaic = rng.integers(0, largest, (7, width)).astype(np.uint16)
        assert coded_bits(mosaic, predictors, depth) == plain_sum(mosaic, predictors, depth)


# --- decoded -------------------------------------------------------------------------------------


def extremes(shape: tuple[int, int]) -> Mosaic:
    """Samples at both ends of the range: the longest codes there are, in every row."""
    rng = np.random.default_rng(1)
    return rng.choice(np.array([0, 1, 16382, 16383], np.uint16), shape)


def every_difference() -> Mosaic:
    """Each difference of 14 bits, up and down, at even and odd places."""
    steps = np.arange(1 << 14, dtype=np.uint16)
    rows = np.zeros((24, len(steps)), np.uint16)
    rows[0, ::4], rows[1, 2::4], rows[2, 1::4], rows[3, 3::4] = (steps[i::4] for i in range(4))
    return rows


@pytest.mark.parametrize(
    "mosaic",
    [
        noise(),
        noise((22, 22)),
        noise((23, 66)),
        noise((64, 640), largest=16384),
        dim((64, 640)),
        extremes((40, 64)),
        extremes((25, 24)),
        every_difference(),
        np.zeros((29, 34), np.uint16),
    ],
    ids=lambda mosaic: f"{mosaic.shape}, {mosaic.max()}",
)
@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_samples_are_those_written_and_those_of_libraw(mosaic: Mosaic, byte_order: str) -> None:
    camera = replace(NIKON_D750, byte_order=byte_order)  # type: ignore[arg-type]
    file = nef_bytes(mosaic, camera=camera)
    found = decoded(file)
    assert found is not None
    assert np.array_equal(found, mosaic)
    assert np.array_equal(decode(file, "libraw", path="").mosaic, mosaic)


def test_what_lies_behind_the_code_is_not_read() -> None:
    file = file_of("nef lossless")
    for behind in (b"", b"\xff" * 5, np.random.default_rng(0).bytes(5000)):
        found = decoded(file + behind)
        assert found is not None
        assert np.array_equal(found, noise())


@pytest.mark.parametrize("missing", [1, 2, 9, 100, 2000])
def test_a_code_that_ends_early_is_left_to_others(missing: int) -> None:
    file = file_of("nef lossless")
    (count,) = parts_of(file)[1].byte_counts
    assert decoded(file, byte_counts=(count - missing,)) is None
    assert decoded(file[:-missing]) is None


@pytest.mark.parametrize("room", [1, 9, 512, 4096])
def test_a_code_may_have_room_behind_it(room: int) -> None:
    # Which cameras pad is not known; LibRaw decodes such a file to the same samples.
    file = file_of("nef lossless")
    (count,) = parts_of(file)[1].byte_counts
    entry = struct.pack("<HHII", 0x117, 4, 1, count)
    padded = file.replace(entry, struct.pack("<HHII", 0x117, 4, 1, count + room)) + bytes(room)
    assert parts_of(padded)[1].byte_counts == (count + room,)
    found = decoded(padded)
    assert found is not None
    assert np.array_equal(found, noise())
    assert np.array_equal(decode(padded, "libraw", path="").mosaic, noise())


def test_a_sample_that_leaves_the_range_is_left_to_others() -> None:
    for facts_changed in ((0x46, 0, 0, 0, 0), (0x46, 16383, 16383, 16383, 16383)):
        file = file_of("nef lossless")
        facts, image = parts_of(file)
        other = replace(facts, nikon_linearisation=facts_changed)
        assert decode_lossless(file, other, image) is None


@pytest.mark.parametrize("seed", range(20))
def test_any_bits_are_decoded_as_libraw_does_or_left_to_others(seed: int) -> None:
    rng = np.random.default_rng(seed)
    file = bytearray(file_of("nef lossless"))
    start = parts_of(bytes(file))[1].offsets[0]
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(start, len(file)))
        file[at] ^= 1 << int(rng.integers(8))
    found = decoded(bytes(file))
    if found is not None:
        assert np.array_equal(found, decode(bytes(file), "libraw", path="").mosaic)


def test_garbage_is_left_to_others() -> None:
    rng = np.random.default_rng(7)
    file = file_of("nef lossless")
    facts, image = parts_of(file)
    (start,), (count,) = image.offsets, image.byte_counts
    for fill in (bytes(count), b"\xff" * count, rng.bytes(count)):
        assert decode_lossless(file[:start] + fill, facts, image) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"width": 63},
        {"width": 0},
        {"bits_per_sample": 16},
        {"compression": 1},
        {"offsets": (1024, 2048), "byte_counts": (1280, 1280)},
        {"byte_counts": ()},
        {"width": 32_000, "height": 32_000},
    ],
)
def test_what_it_was_not_made_for_is_left_to_others(changed: dict[str, object]) -> None:
    facts, image = parts_of(file_of("nef lossless"))
    other = replace(image, **changed)  # type: ignore[arg-type]
    assert lossless_image(replace(facts, images=(other,))) is None
    assert lossless_image(replace(facts, images=(image, image))) is None
    lossy = replace(facts, nikon_linearisation=(0x44, 2048, 2048, 2048, 2048))
    assert lossless_image(lossy) is None
