"""The table of decoders, and a decoder added to it as docs/how-to/new-decoder.md describes."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, get_args

import numpy as np
import pytest

from pipeline.raw.cross_check import DecoderTrust, decode_checked
from pipeline.raw.decoders import flashraw, libraw, own, table
from pipeline.raw.decoders.decoder import Decoder, DecoderDeclinedError, EarlyFactsReader, RawFile
from pipeline.raw.decoders.table import DECODERS, DecoderEntry
from pipeline.raw.facts import DecodedRaw
from pipeline.raw.reader import decode, decoder_version
from pipeline.sample_set import DngFile, dng_bytes
from schemas.choices import DecoderChoice, DecoderName
from tests.kit.fresh_process import run_python
from tests.kit.raw_files import dim, facts_of, file_of
from tests.pipeline.raw.decoders import plain_decoder
from tests.pipeline.raw.decoders.plain_decoder import PLAIN

#: Modules are checked against the protocol by mypy here, since the table names them as text.
MODULES: Final[tuple[Decoder, ...]] = (libraw, own, flashraw)

MOSAIC: Final = dim((40, 64))
DNG: Final = dng_bytes(MOSAIC, dng=DngFile(model="NIKON D750"))


@pytest.fixture
def with_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one line that a new decoder takes."""
    entry = DecoderEntry(PLAIN, plain_decoder.__name__, package=None)
    monkeypatch.setattr(table, "DECODERS", (DECODERS[0], entry, *DECODERS[1:]))


@pytest.mark.usefixtures("with_plain")
def test_a_new_decoder_is_chosen_used_and_cross_checked() -> None:
    decision = DecoderTrust[str]("auto").decide(facts_of(DNG).decoder_class)
    assert (decision.decoder, decision.compare) == (PLAIN, True)
    decoded, disagreement = decode_checked(DNG, PLAIN, compare=True, path="a.dng")
    assert (decoded.decoder, disagreement) == (PLAIN, "")
    np.testing.assert_array_equal(decoded.mosaic, MOSAIC)
    assert decoder_version(PLAIN) == "1.0"


@pytest.mark.usefixtures("with_plain")
def test_what_a_new_decoder_cannot_decode_is_left_to_the_next_ones() -> None:
    assert decode(file_of("arw2"), PLAIN, path="").decoder == "genisp"
    assert decode(file_of("nef 12 bit"), PLAIN, path="").decoder == "flashraw"


@pytest.mark.usefixtures("with_plain")
def test_a_new_decoder_that_is_wrong_is_overruled(monkeypatch: pytest.MonkeyPatch) -> None:
    right = plain_decoder.decode

    def wrong(file: RawFile) -> DecodedRaw:
        decoded = right(file)
        return replace(decoded, mosaic=decoded.mosaic + np.uint16(1))

    monkeypatch.setattr(plain_decoder, "decode", wrong)
    decoded, disagreement = decode_checked(DNG, PLAIN, compare=True, path="a.dng")
    assert decoded.decoder == "libraw"
    assert disagreement == f"plain: {MOSAIC.size} samples"
    unchecked, _ = decode_checked(DNG, PLAIN, compare=False, path="a.dng")
    assert unchecked.decoder == PLAIN


def test_table_and_names_hold_the_same_decoders() -> None:
    names = [entry.name for entry in DECODERS]
    assert sorted(names) == sorted(get_args(DecoderName))
    assert set(get_args(DecoderChoice)) <= {"auto", *names}
    assert table.reference().name in get_args(DecoderChoice)
    assert [entry.name for entry in DECODERS if entry.is_reference] == [names[0]]
    assert [entry.load() for entry in DECODERS] == list(MODULES)


def test_each_decoder_signs_with_its_own_name() -> None:
    file = file_of("arw2")
    assert [decode(file, entry.name, path="").decoder for entry in DECODERS] == [
        entry.name for entry in DECODERS
    ]


def test_flashraw_reads_facts_without_decoding() -> None:
    readers = [entry.name for entry in DECODERS if isinstance(entry.load(), EarlyFactsReader)]
    assert readers == ["flashraw"]


def test_the_last_decoder_asked_says_why_it_declined() -> None:
    with pytest.raises(DecoderDeclinedError, match=r"^flashraw declined: "):
        decode(b"not a raw" + bytes(60), "genisp", path="")


def test_the_table_is_read_without_the_decoders() -> None:
    libraries = ("rawpy", "flashraw", "numba")
    shown = run_python(
        "import sys, pipeline.raw.decoders.table\n"
        f"print([name for name in {libraries} if name in sys.modules])"
    )
    assert shown.strip() == "[]"
