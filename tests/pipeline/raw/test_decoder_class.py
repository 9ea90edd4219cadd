from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest

from pipeline.raw.reader import probe
from pipeline.sample_set import DngFile, dng_bytes
from tests.kit.raw_files import FORMATS, SHAPE, dim, facts_of, file_of


def test_classes_tell_formats_apart() -> None:
    names = ("nef lossless", "nef uncompressed", "nef 12 bit", "arw2", "arw uncompressed")
    assert len({facts_of(file_of(name)).decoder_class for name in names}) == len(names)


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
