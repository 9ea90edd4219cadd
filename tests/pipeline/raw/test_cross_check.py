from __future__ import annotations

import pytest

from pipeline.raw.cross_check import CHECK_FIRST, SAMPLE_EVERY, DecoderTrust

NIKON, SONY = "NIKON D750, lossless, 14 bit", "DSC-RX100M7, arw2, 14 bit"


def decide(trust: DecoderTrust, decoder_class: str) -> tuple[str, bool]:
    """Decide about a file for which the decoders agree."""
    decoder, compare = trust.decide(decoder_class)
    if compare:
        trust.agree(decoder_class)
    return decoder, compare


def test_the_first_two_files_of_a_class_and_every_fiftieth_are_compared() -> None:
    trust = DecoderTrust("auto")
    decisions = [decide(trust, NIKON) for _ in range(201)]
    assert {decoder for decoder, _ in decisions} == {"genisp"}
    assert [i for i, (_, compare) in enumerate(decisions) if compare] == [0, 1, 50, 100, 150, 200]
    assert (CHECK_FIRST, SAMPLE_EVERY) == (2, 50)


def test_no_file_goes_unchecked_before_two_are_known_to_agree() -> None:
    """However many workers have drawn one by then."""
    trust = DecoderTrust("auto")
    assert [trust.decide(NIKON)[1] for _ in range(16)] == [True] * 16
    trust.agree(NIKON)
    assert trust.decide(NIKON)[1]
    trust.agree(NIKON)
    assert not trust.decide(NIKON)[1]


def test_each_class_is_counted_by_itself() -> None:
    trust = DecoderTrust("auto")
    for _ in range(10):
        decide(trust, NIKON)
    assert [decide(trust, SONY)[1] for _ in range(3)] == [True, True, False]


def test_one_difference_hands_the_class_over_and_no_other() -> None:
    trust = DecoderTrust("auto")
    trust.decide(NIKON)
    trust.decide(SONY)
    assert trust.distrust(NIKON, "3 samples")
    assert [trust.decide(NIKON) for _ in range(60)] == [("libraw", False)] * 60
    assert trust.decide(SONY) == ("genisp", True)
    assert trust.distrusted == {NIKON: "3 samples"}


def test_a_class_is_handed_over_once_and_keeps_its_first_reason() -> None:
    trust = DecoderTrust("auto")
    assert trust.distrust(NIKON, "white 16383.0 against 15520.0")
    assert not trust.distrust(NIKON, "3 samples")
    assert trust.distrusted[NIKON].startswith("white")


def test_the_record_cannot_be_changed_from_outside() -> None:
    trust = DecoderTrust("auto")
    trust.distrusted[NIKON] = "by mistake"
    assert trust.decide(NIKON)[0] == "genisp"


def test_a_file_that_only_libraw_knows_goes_to_libraw() -> None:
    assert DecoderTrust("auto").decide("") == ("libraw", False)


@pytest.mark.parametrize("choice", ["libraw", "flashraw"])
def test_an_explicit_choice_is_kept_whatever_was_found(choice: str) -> None:
    trust = DecoderTrust("libraw" if choice == "libraw" else "flashraw")
    trust.distrust(NIKON, "3 samples")
    assert [trust.decide(name) for name in (NIKON, NIKON, SONY, "")] == [(choice, False)] * 4


def test_trust_is_not_shared_between_ingests() -> None:
    first = DecoderTrust("auto")
    first.distrust(NIKON, "3 samples")
    assert DecoderTrust("auto").decide(NIKON) == ("genisp", True)
