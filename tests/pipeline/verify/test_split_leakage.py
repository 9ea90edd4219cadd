from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.verify.split_leakage import MAX_EXAMPLES, SplitLeakage, neighbour_leakage


def test_a_held_out_frame_next_to_a_training_frame_leaks() -> None:
    leakage = neighbour_leakage(
        {
            "DSC_0674": "train",
            "DSC_0675": "val",
            "DSC_0673": "test",
            "DSC_0676": "test",
            "DSC_0674b": "test",
        }
    )
    assert leakage.splits == {"test": SplitLeakage(1, 3), "val": SplitLeakage(1, 1)}
    assert (leakage.leaking, leakage.total) == (2, 4)
    assert leakage.examples == (("DSC_0673", "DSC_0674"), ("DSC_0675", "DSC_0674"))


def test_numbers_carry_over_a_power_of_ten() -> None:
    assert neighbour_leakage({"DSC_0999": "train", "DSC_1000": "val"}).leaking == 1


def test_other_prefixes_and_other_cameras_are_no_neighbours() -> None:
    assert neighbour_leakage({"DSC_0674": "train", "DSC00675": "val"}).leaking == 0
    keyed = {("nikon", "DSC_0674"): "train", ("sony", "DSC_0675"): "val"}
    assert neighbour_leakage(keyed).leaking == 0
    assert neighbour_leakage({**keyed, ("sony", "DSC_0676"): "train"}).leaking == 1


def test_unsplit_and_unnumbered_samples_count_as_little_as_they_can() -> None:
    leakage = neighbour_leakage({"a": "train", "b": "val", "c1": None, "c2": "val", "c": "train"})
    assert leakage.splits == {"val": SplitLeakage(0, 2)}
    assert leakage.examples == ()
    assert neighbour_leakage({}).splits == {}


def test_a_number_too_long_for_a_counter_is_still_a_number() -> None:
    long = "9" * 5000
    leakage = neighbour_leakage({long: "train", long[:-1] + "8": "val"})
    assert leakage.leaking == 1


@given(st.dictionaries(st.integers(0, 60), st.sampled_from(["train", "val", "test", None])))
def test_counts_equal_the_plain_definition(numbers: dict[int, str | None]) -> None:
    leakage = neighbour_leakage({f"DSC_{number:04d}": split for number, split in numbers.items()})
    held_out = [number for number, split in numbers.items() if split in ("val", "test")]
    leaking = [
        number
        for number in held_out
        if numbers.get(number - 1) == "train" or numbers.get(number + 1) == "train"
    ]
    assert (leakage.leaking, leakage.total) == (len(leaking), len(held_out))
    assert len(leakage.examples) == min(len(leaking), MAX_EXAMPLES)
