from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.develop.colour import camera_to_xyz
from pipeline.errors import SourceError, UnsupportedRawError
from pipeline.raw.decoders.decoder import DecoderDeclinedError
from pipeline.raw.reader import check_container, decode, probe
from pipeline.sample_set import NIKON_D750, X_TRANS, DngFile, dng_bytes, nef_bytes
from schemas.choices import DecoderName
from tests.kit.places import RAWS
from tests.kit.raw_files import (
    DECODERS,
    convert,
    every_decoder,
    every_format,
    facts_of,
    file_of,
    frame_of,
    needs_the_real_raws,
    noise,
)


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


@pytest.mark.parametrize("code", [3, 6, 17, 209])
def test_filter_colours_that_are_not_red_green_or_blue_are_refused(code: int) -> None:
    # LibRaw looks them up in memory nobody wrote: the same file is RGGB now, and GGGG then.
    file = bytearray(file_of("nef lossless"))
    at = file.index(struct.pack("<HHI", 0x828E, 1, 4))
    file[at + 8] = code
    with pytest.raises(UnsupportedRawError, match="not of red, green and blue"):
        check_container(bytes(file), path="")


def refusal(file: bytes) -> SourceError:
    """What an ingest says before it decodes a single pixel."""
    with pytest.raises(SourceError) as caught:
        camera_to_xyz(facts_of(file).levels.xyz_to_camera, path="a.raw")
    assert caught.value.path == "a.raw"
    assert caught.value.mend
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
        with pytest.raises((SourceError, DecoderDeclinedError)):
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
    with pytest.raises((SourceError, DecoderDeclinedError)):
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
        assert caught.value.mend
