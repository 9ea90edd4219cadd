from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import UnsupportedRawError
from pipeline.raw.facts import as_shot_balance, check_levels, differences, matrix3
from schemas.sidecar import Rect
from tests.kit.raw_files import FORMATS, decoded_as, facts_of, frame_of, levels_with, noise


def test_equal_decodings_do_not_differ() -> None:
    assert differences(decoded_as(noise()), decoded_as(noise().copy())) == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cfa": "BGGR"}, "cfa RGGB against BGGR"),
        ({"black": (600.0, 600.0, 601.0, 600.0)}, "black"),
        ({"white": 15520.0}, "white 16383.0 against 15520.0"),
        ({"xyz_to_camera": matrix3([1, 0, 0, 0, 1, 0, 0, 0, 1])}, "xyz_to_camera"),
        ({"as_shot_balance": None}, "as_shot_balance"),
    ],
)
def test_a_difference_in_levels_is_named(changes: dict[str, object], words: str) -> None:
    (found,) = differences(decoded_as(noise()), decoded_as(noise(), **changes))
    assert words in found


def test_one_different_sample_is_counted() -> None:
    other = noise()
    other[7, 9] += 1
    assert differences(decoded_as(noise()), decoded_as(other)) == ("1 samples",)


def test_different_sizes_are_named_not_compared() -> None:
    (found,) = differences(decoded_as(noise()), decoded_as(noise((40, 32))))
    assert "(40, 64) against (40, 32)" in found


@pytest.mark.parametrize(
    ("black", "white"),
    [
        ((600.0, 600.0, 600.0, 600.0), 600.0),
        ((0.0, 0.0, 0.0, 20000.0), 16383.0),
        ((8992.0, 800.0, 800.0, 800.0), 16383.0),  # one bit flipped
        ((-1.0, 0.0, 0.0, 0.0), 16383.0),
        ((0.0, 0.0, 0.0, 0.0), 0.0),
        ((float("nan"), 0.0, 0.0, 0.0), 16383.0),
    ],
)
def test_levels_no_sensor_has_are_refused(
    black: tuple[float, float, float, float], white: float
) -> None:
    with pytest.raises(UnsupportedRawError, match="not plausible"):
        check_levels(levels_with(black=black, white=white), path="")


def test_levels_of_both_cameras_are_plausible() -> None:
    check_levels(levels_with(), path="")
    check_levels(levels_with(black=(0.0, 0.0, 0.0, 0.0), white=4095.0), path="")


@pytest.mark.parametrize(
    ("multipliers", "expected"),
    [
        ([2048.0, 1024.0, 1536.0, 1024.0], (2.0, 1.0, 1.5)),  # Sony's scale
        ([2.0, 1.0, 1.5, 0.0], (2.0, 1.0, 1.5)),
        ([0.0, 1.0, 0.0, 0.0], None),  # LibRaw's way of saying none
        ([2.0, 1.0], None),
        (None, None),
        ([2.0, 0.0, 1.5, 1.0], None),
        ([2.0, -1.0, 1.5, 1.0], None),
        ([1026.0, 1.0, 684.0], None),  # one bit flipped
        ([3e-8, 1.0, 2e-8], None),
        ([2.0, 1.0, float("nan")], None),
        ([float("inf"), 1.0, 1.5], None),
        ([31.0, 1.0, 0.04], (31.0, 1.0, 0.04)),
    ],
)
def test_a_balance_has_green_one_or_is_none(
    multipliers: list[float] | None, expected: tuple[float, float, float] | None
) -> None:
    assert as_shot_balance(multipliers) == expected


def test_a_matrix_read_in_single_precision_is_spelled_shortest() -> None:
    table = [1.0315, -0.4390, -0.0937, -0.4859, 1.2734, 0.2365, -0.0734, 0.1537, 0.5997]
    single = [float(np.float32(value)) for value in table]
    assert single[0] != table[0]
    assert (
        matrix3(single) == matrix3(table) == (tuple(table[:3]), tuple(table[3:6]), tuple(table[6:]))
    )


def test_the_pattern_of_a_sidecar_is_the_crops_not_the_sensors() -> None:
    file = FORMATS["nef lossless"].file(cfa="GRBG", crop=(6, 4, 40, 30))
    facts = facts_of(file)
    assert facts.levels.sensor(frame_of(facts)).cfa == "GRBG"
    odd = frame_of(facts).model_copy(update={"crop": Rect(x=7, y=4, width=40, height=30)})
    assert facts.levels.sensor(odd).cfa == "RGGB"


def test_spelling_does_not_depend_on_numpys_print_options() -> None:
    """colour-science sets ``legacy="1.13"`` on import: str() then cuts float32 to eight digits."""
    plain = as_shot_balance((2.1103515625, 1.0, 1.0 / 3)), matrix3([1 / 3, 1.0315, -2 / 7] * 3)
    for options in ({"legacy": "1.13"}, {"precision": 2}, {"floatmode": "fixed"}):
        with np.printoptions(**options):
            again = (
                as_shot_balance((2.1103515625, 1.0, 1.0 / 3)),
                matrix3([1 / 3, 1.0315, -2 / 7] * 3),
            )
        assert again == plain
    assert plain[1][0] == (0.33333334, 1.0315, -0.2857143)
