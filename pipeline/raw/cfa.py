"""Colour filter arrays: which colour sits on which site.

A pattern is four letters in reading order from the top-left of an area: ``"RGGB"``. Colour indices
are LibRaw's: 0 R, 1 G1, 2 B, 3 G2, where G1 shares its row with R and G2 with B.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, get_args

from pipeline.errors import UnsupportedRawError
from schemas.sidecar import CfaPattern

PATTERNS: Final[tuple[CfaPattern, ...]] = get_args(CfaPattern)

#: Colour index -> (row, column) inside the 2x2 cell, for each pattern.
Sites = tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]


def pattern_from_indices(cell: Sequence[Sequence[int]], *, path: str = "") -> CfaPattern:
    """Spell LibRaw's ``raw_pattern`` as letters.

    Parameters
    ----------
    cell
        Colour indices 0..3 of the 2x2 cell at the top-left of the full sensor.

    Raises
    ------
    UnsupportedRawError
        If the cell is not 2x2, not one of the four Bayer patterns, or G1 is not beside R.
    """
    if len(cell) != 2 or any(len(row) != 2 for row in cell):
        shape = f"{len(cell)}x{len(cell[0]) if cell else 0}"
        raise UnsupportedRawError(
            f"colour filter array is {shape}, not 2x2 (X-Trans, monochrome or full-colour sensor)",
            path=path,
            mend="only Bayer sensors can be converted; leave this file out",
        )
    letters = "".join("RGBG"[index] if 0 <= index < 4 else "?" for row in cell for index in row)
    pattern = checked_pattern(letters, path=path)
    # Black levels come by colour index, so which green is which may not be guessed either.
    if [cell[row][column] for row, column in sites(pattern)] != [0, 1, 2, 3]:
        raise UnsupportedRawError(
            f"colour filter array {[list(row) for row in cell]} does not tell its greens apart",
            path=path,
            mend="only Bayer sensors can be converted; leave this file out",
        )
    return pattern


def checked_pattern(letters: str, *, path: str = "") -> CfaPattern:
    """Return `letters` if it is one of the four Bayer patterns, else raise."""
    for pattern in PATTERNS:
        if letters == pattern:
            return pattern
    raise UnsupportedRawError(
        f"colour filter array {letters!r} is no Bayer pattern",
        path=path,
        mend="only Bayer sensors can be converted; leave this file out",
    )


def shifted(pattern: CfaPattern, *, x: int, y: int) -> CfaPattern:
    """The same array as seen from `x`, `y` sites further right and down."""
    letters = "".join(
        pattern[2 * ((row + y) % 2) + (column + x) % 2] for row in (0, 1) for column in (0, 1)
    )
    return checked_pattern(letters)


def sites(pattern: CfaPattern) -> Sites:
    """(row, column) of R, G1, B, G2 inside the 2x2 cell, in that order."""
    red = divmod(pattern.index("R"), 2)
    blue = divmod(pattern.index("B"), 2)
    return red, (red[0], 1 - red[1]), blue, (blue[0], 1 - blue[1])


def by_colour_index(
    pattern: CfaPattern, by_position: Sequence[float]
) -> tuple[float, float, float, float]:
    """Reorder four values given by position in the cell (reading order) to R, G1, B, G2."""
    red, green1, blue, green2 = (by_position[2 * row + column] for row, column in sites(pattern))
    return red, green1, blue, green2
