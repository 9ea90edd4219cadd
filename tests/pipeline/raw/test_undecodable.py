"""True reasons: LibRaw's "unsupported" and "damaged" as what the file is."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import pytest

from pipeline.errors import CorruptRawError, SourceError, UnsupportedRawError
from pipeline.raw.cross_check import decode_checked
from pipeline.raw.decoders.table import DECODERS, reference
from pipeline.raw.reader import check_container, decode, probe
from pipeline.sample_set import X_TRANS, DngFile, dng_bytes
from schemas.choices import DecoderName
from tests.kit.odd_raws import FLOATS, coded_dng, nikon_of, plain_tiff
from tests.kit.raw_files import SHAPE, file_of, noise

NOISE = np.random.default_rng(5).bytes(2 * SHAPE[0] * SHAPE[1])
DEFLATED = coded_dng(zlib.compress(noise().tobytes()), 8)


def refused(file: bytes) -> SourceError:
    """What LibRaw's decoding says."""
    with pytest.raises(SourceError) as caught:
        decode(file, reference().name, path="a.raw")
    assert caught.value.path == "a.raw"
    assert caught.value.mend
    return caught.value


CODES = {
    "GoPro": (coded_dng(NOISE, 9), "GoPro's VC-5", "gpr_tools"),
    "JPEG XL": (coded_dng(NOISE, 52546), "JPEG XL", "DNG 1.6"),
    "JPEG 2000": (coded_dng(NOISE, 34712), "JPEG 2000", "DNG"),
    "Deflate": (DEFLATED, "Deflate", "DNG"),
    "unknown": (coded_dng(NOISE, 64999), "TIFF code 64999", "rawpy"),
    "32 bits": (coded_dng(noise().astype("<u4").tobytes(), 1, bits=32), "32 bits", "DNG"),
    "TIFF": (plain_tiff(noise()), "a TIFF picture (64x40 RGB)", "own raw"),
    "zeros": (bytes(10_000), "zeros", "copy"),
    "RAF": (b"FUJIFILMCCD-RAW 0201FF129502" + bytes(4000), "begins as a Fujifilm RAF", "copy"),
    "CR3": (b"\0\0\0\x18ftypcrx " + bytes(4000), "begins as a Canon CR3", "copy"),
    "X3F": (b"FOVb\0\0\3\0" + bytes(4000), "Foveon", "leave"),
    "text": (b"no photograph at all\n" * 90, "this is a text", "leave"),
}


@pytest.mark.parametrize(("file", "reason", "mend"), CODES.values(), ids=CODES)
def test_a_file_that_libraw_cannot_read_is_named_as_what_it_is(
    file: bytes, reason: str, mend: str
) -> None:
    error = refused(file)
    assert reason in error.message
    assert mend in error.mend
    assert "truncated" not in error.message


@pytest.mark.parametrize(
    "file",
    [coded_dng(NOISE[:-9], 34892), file_of("nef lossless")[:-500]],
    ids=["lossy JPEG that is none", "cut"],
)
def test_damage_stays_damage(file: bytes) -> None:
    error = refused(file)
    assert isinstance(error, CorruptRawError)
    assert "truncated or damaged" in error.message


@pytest.mark.parametrize(("number", "name"), [(13, "High Efficiency"), (14, "High Efficiency*")])
def test_high_efficiency_is_refused_before_any_decoder_sees_it(number: int, name: str) -> None:
    # LibRaw knows these numbers on some models only, and reads the data as another code on others.
    with pytest.raises(UnsupportedRawError) as caught:
        check_container(nikon_of(number), path="")
    assert f"Nikon's {name} code" in caught.value.message
    assert "lossless" in caught.value.mend


@pytest.mark.parametrize("number", [3, 12])
def test_other_numbers_of_nikon_are_not(number: int) -> None:
    check_container(nikon_of(number), path="")
    check_container(nikon_of(13, code=7), path="")


@pytest.mark.parametrize("kind", ["<f2", "<f4"])
@pytest.mark.parametrize("pack", [bytes, zlib.compress])
def test_floating_point_is_refused(kind: str, pack: Callable[[bytes], bytes]) -> None:
    # LibRaw makes integers of them, scaled by the largest of the picture.
    values = (noise() / 16383).astype(kind)
    code = 1 if pack is bytes else 8
    file = coded_dng(pack(values.tobytes()), code, bits=8 * values.itemsize, extra=FLOATS)
    with pytest.raises(UnsupportedRawError, match="floating point"):
        check_container(file, path="")


SENSORS = {
    "x-trans": (dng_bytes(noise(), dng=DngFile(cfa=X_TRANS)), "X-Trans"),
    "monochrome": (dng_bytes(noise(), dng=DngFile(cfa=None)), "monochrome"),
    "linear": (dng_bytes(np.dstack([noise()] * 3), dng=DngFile(cfa=None)), "full colour"),
}


@pytest.mark.parametrize("decoder", [entry.name for entry in DECODERS])
@pytest.mark.parametrize(("file", "name"), SENSORS.values(), ids=SENSORS)
def test_every_decoder_names_another_sensor_alike(
    file: bytes, name: str, decoder: DecoderName
) -> None:
    for read in (
        lambda: probe(file, whole=True, path=""),
        lambda: decode(file, decoder, path=""),
    ):
        with pytest.raises(UnsupportedRawError, match=name):
            read()


def test_the_mend_names_a_decoder_that_reads_the_file() -> None:
    with pytest.raises(UnsupportedRawError) as caught:
        decode_checked(DEFLATED, "genisp", compare=True, path="")
    assert "--decoder flashraw" in caught.value.mend
    decoded, disagreement = decode_checked(DEFLATED, "flashraw", compare=False, path="")
    assert np.array_equal(decoded.mosaic, noise())
    assert disagreement == ""


def test_the_mend_names_no_decoder_where_none_reads_it() -> None:
    with pytest.raises(UnsupportedRawError) as caught:
        decode_checked(coded_dng(NOISE, 52546), "genisp", compare=True, path="")
    assert "--decoder" not in caught.value.mend
