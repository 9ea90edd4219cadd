from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UnsupportedRawError
from pipeline.raw.cfa import (
    PATTERNS,
    by_colour_index,
    checked_pattern,
    pattern_from_indices,
    shifted,
    sites,
)
from pipeline.sample_set import X_TRANS
from schemas.sidecar import CfaPattern

# LibRaw's raw_pattern: 0 R, 1 the G beside R, 2 B, 3 the G beside B.
LIBRAW_CELLS: dict[CfaPattern, list[list[int]]] = {
    "RGGB": [[0, 1], [3, 2]],
    "BGGR": [[2, 3], [1, 0]],
    "GRBG": [[1, 0], [2, 3]],
    "GBRG": [[3, 2], [0, 1]],
}
# What a sensor that sees R = 10, G1 = 20, B = 30, G2 = 40 everywhere would record, by hand.
HAND_MADE: dict[CfaPattern, list[list[int]]] = {
    "RGGB": [[10, 20, 10, 20], [40, 30, 40, 30], [10, 20, 10, 20], [40, 30, 40, 30]],
    "BGGR": [[30, 40, 30, 40], [20, 10, 20, 10], [30, 40, 30, 40], [20, 10, 20, 10]],
    "GRBG": [[20, 10, 20, 10], [30, 40, 30, 40], [20, 10, 20, 10], [30, 40, 30, 40]],
    "GBRG": [[40, 30, 40, 30], [10, 20, 10, 20], [40, 30, 40, 30], [10, 20, 10, 20]],
}

patterns = st.sampled_from(PATTERNS)
steps = st.integers(-5, 5)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_sites_find_each_colour_in_a_hand_made_mosaic(pattern: CfaPattern) -> None:
    mosaic = np.array(HAND_MADE[pattern])
    seen = [set(mosaic[y::2, x::2].ravel()) for y, x in sites(pattern)]
    assert seen == [{10}, {20}, {30}, {40}]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(("x", "y"), [(0, 0), (1, 0), (0, 1), (1, 1), (2, 1), (1, 2)])
def test_a_crop_of_a_hand_made_mosaic_has_the_shifted_pattern(
    pattern: CfaPattern, x: int, y: int
) -> None:
    crop = np.array(HAND_MADE[pattern])[y:, x:]
    seen = [int(crop[row, column]) for row, column in sites(shifted(pattern, x=x, y=y))]
    assert seen == [10, 20, 30, 40]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_cells_libraw_gives_are_read_as_their_letters(pattern: CfaPattern) -> None:
    assert pattern_from_indices(LIBRAW_CELLS[pattern]) == pattern


@given(pattern=patterns, x=steps, y=steps)
def test_shifting_twice_by_the_same_step_changes_nothing(
    pattern: CfaPattern, x: int, y: int
) -> None:
    assert shifted(shifted(pattern, x=x, y=y), x=x, y=y) == pattern


@given(pattern=patterns, x=steps, y=steps, more_x=steps, more_y=steps)
def test_shifts_add_up(pattern: CfaPattern, x: int, y: int, more_x: int, more_y: int) -> None:
    in_two_steps = shifted(shifted(pattern, x=x, y=y), x=more_x, y=more_y)
    assert in_two_steps == shifted(pattern, x=x + more_x, y=y + more_y)


@given(pattern=patterns)
def test_sites_cover_the_cell_and_greens_share_the_right_rows(pattern: CfaPattern) -> None:
    red, green1, blue, green2 = sites(pattern)
    assert {red, green1, blue, green2} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert green1[0] == red[0]
    assert green2[0] == blue[0]
    assert "".join(pattern[2 * y + x] for y, x in (red, green1, blue, green2)) == "RGBG"


def test_levels_by_position_become_levels_by_colour_index() -> None:
    # File tags list R, G1, G2, B, which is the reading order of RGGB; LibRaw swaps the last two.
    assert by_colour_index("RGGB", (600, 604, 608, 612)) == (600, 604, 612, 608)
    assert by_colour_index("BGGR", (612, 608, 604, 600)) == (600, 604, 612, 608)
    assert by_colour_index("GRBG", (604, 600, 612, 608)) == (600, 604, 612, 608)
    assert by_colour_index("GBRG", (608, 612, 600, 604)) == (600, 604, 612, 608)


@pytest.mark.parametrize(
    "cell",
    [
        np.array(["RGBG".index(letter) for letter in X_TRANS]).reshape(6, 6).tolist(),
        [[6]],
        [],
        [[0, 1], [3]],
    ],
    ids=["x-trans", "mono", "empty", "ragged"],
)
def test_an_array_that_is_not_2x2_is_refused(cell: list[list[int]]) -> None:
    with pytest.raises(UnsupportedRawError, match="not 2x2"):
        pattern_from_indices(cell, path="a.raf")


@pytest.mark.parametrize("cell", [[[0, 0], [1, 2]], [[0, 1], [2, 3]], [[0, 1], [3, 7]]])
def test_four_colours_that_are_no_bayer_cell_are_refused(cell: list[list[int]]) -> None:
    with pytest.raises(UnsupportedRawError, match="no Bayer pattern"):
        pattern_from_indices(cell)


@pytest.mark.parametrize("cell", [[[0, 3], [1, 2]], [[0, 1], [1, 2]]])
def test_greens_that_cannot_be_told_apart_are_refused(cell: list[list[int]]) -> None:
    with pytest.raises(UnsupportedRawError, match="greens"):
        pattern_from_indices(cell)


@pytest.mark.parametrize("letters", ["RGBG", "rggb", "CYGM", ""])
def test_letters_that_are_no_bayer_pattern_are_refused(letters: str) -> None:
    with pytest.raises(UnsupportedRawError, match="no Bayer pattern"):
        checked_pattern(letters)
