from __future__ import annotations

from itertools import count
from typing import Literal

import pytest

from pipeline.raw.cross_check import (
    CHECK_FIRST,
    SAMPLE_EVERY,
    Decision,
    DecoderTrust,
    Judgement,
)
from schemas.choices import DecoderChoice

NIKON, SONY = "NIKON D750, lossless, 14 bit", "DSC-RX100M7, arw2, 14 bit"

NUMBERS = count()


def judge(
    trust: DecoderTrust[int], decision: Decision, disagreement: str = "", file: int | None = None
) -> Judgement[int]:
    """Tell what became of a file that was decoded as decided."""
    file = next(NUMBERS) if file is None else file
    return trust.judge(file, decision, succeeded=True, disagreement=disagreement)


def decide(trust: DecoderTrust[int], decoder_class: str) -> Decision:
    """Decide about a file for which the decoders agree."""
    decision = trust.decide(decoder_class)
    assert judge(trust, decision) == Judgement()
    return decision


def trusted(choice: DecoderChoice = "auto") -> DecoderTrust[int]:
    """After two files of one class that were compared and agreed."""
    trust = DecoderTrust[int](choice)
    for _ in range(2):
        decide(trust, NIKON)
    return trust


def test_the_first_two_files_of_a_class_and_every_fiftieth_are_compared() -> None:
    trust = DecoderTrust[int]("auto")
    decisions = [decide(trust, NIKON) for _ in range(201)]
    assert {one.decoder for one in decisions} == {"genisp"}
    assert [i for i, one in enumerate(decisions) if one.compare] == [0, 1, 50, 100, 150, 200]
    assert (CHECK_FIRST, SAMPLE_EVERY) == (2, 50)


def test_no_file_goes_unchecked_before_two_are_known_to_agree() -> None:
    """However many workers have drawn one by then."""
    trust = DecoderTrust[int]("auto")
    drawn = [trust.decide(NIKON) for _ in range(16)]
    assert all(one.compare for one in drawn)
    judge(trust, drawn[0])
    assert trust.decide(NIKON).compare
    judge(trust, drawn[1])
    assert not trust.decide(NIKON).compare


def test_a_file_that_failed_proves_nothing() -> None:
    trust = DecoderTrust[int]("auto")
    for _ in range(5):
        trust.judge(0, trust.decide(NIKON), succeeded=False, disagreement="")
    assert trust.decide(NIKON).compare


def test_each_class_is_counted_by_itself() -> None:
    trust = DecoderTrust[int]("auto")
    for _ in range(10):
        decide(trust, NIKON)
    assert [decide(trust, SONY).compare for _ in range(3)] == [True, True, False]


def test_one_difference_hands_the_class_over_and_no_other() -> None:
    trust = DecoderTrust[int]("auto")
    first, other = trust.decide(NIKON), trust.decide(SONY)
    assert judge(trust, first, "3 samples") == Judgement(first_difference=True)
    assert judge(trust, other) == Judgement()
    assert {trust.decide(NIKON) for _ in range(60)} == {Decision(NIKON, "libraw", compare=False)}
    assert trust.decide(SONY) == Decision(SONY, "genisp", compare=True)


def test_a_class_is_handed_over_once() -> None:
    trust = DecoderTrust[int]("auto")
    first, second = trust.decide(NIKON), trust.decide(NIKON)
    assert judge(trust, first, "white 16383.0 against 15520.0").first_difference
    assert judge(trust, second, "3 samples") == Judgement()


def test_what_was_decoded_fast_and_not_compared_is_decoded_again() -> None:
    trust = trusted()
    unchecked = [trust.decide(NIKON) for _ in range(3)]
    assert not any(one.compare for one in unchecked)
    for file, decision in enumerate(unchecked[:2]):
        assert judge(trust, decision, file=file).keep
    late = trust.decide(NIKON)
    found = judge(trust, trust.decide(NIKON), "a row of zeros")
    assert found == Judgement(first_difference=True, again=(0, 1))
    # Two were still being decoded: their numbers are not kept, and they come again, too.
    assert judge(trust, unchecked[2], file=2) == Judgement(keep=False, again=(2,))
    assert judge(trust, late, file=3) == Judgement(keep=False, again=(3,))
    # By LibRaw this time, which is believed.
    for file in range(4):
        again = trust.decide(NIKON)
        assert again.decoder == "libraw"
        assert judge(trust, again, file=file) == Judgement()


def test_a_file_that_only_libraw_knows_goes_to_libraw() -> None:
    assert DecoderTrust[int]("auto").decide("") == Decision("", "libraw", compare=False)


@pytest.mark.parametrize("choice", ["libraw", "flashraw"])
def test_an_explicit_choice_is_kept_whatever_was_found(
    choice: Literal["libraw", "flashraw"],
) -> None:
    """Nothing is decoded again: it would be decoded in the same way, for ever."""
    trust = trusted(choice)
    assert judge(trust, trust.decide(NIKON), "3 samples") == Judgement(first_difference=True)
    for name in (NIKON, NIKON, SONY, ""):
        assert decide(trust, name) == Decision(name, choice, compare=False)


def test_trust_is_not_shared_between_ingests() -> None:
    first = DecoderTrust[int]("auto")
    judge(first, first.decide(NIKON), "3 samples")
    assert DecoderTrust[int]("auto").decide(NIKON) == Decision(NIKON, "genisp", compare=True)
