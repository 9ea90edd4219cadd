"""A look at every row of a mosaic for what damage leaves behind: compiled by numba."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.runtime.compiled import compiled

U16 = npt.NDArray[np.uint16]

#: Samples of one colour in a row that are exactly 0 where black is not. Where one sample in four is
#: 0, as the noise of the highest ISO comes near to, this is seen once in ten million images.
_BLANK_RUN = 24

_compiled = compiled(nogil=True, error_model="numpy")


@_compiled
def _equal(line: U16, other: U16) -> bool:
    for x in range(line.shape[0]):
        if line[x] != other[x]:
            return False
    return True


@_compiled
def _zero_run(line: U16) -> int:
    """Longest run of zeros at every second place of a row: samples of one colour."""
    longest = 0
    for start in range(2):
        run = 0
        for x in range(start, line.shape[0], 2):
            run = run + 1 if line[x] == 0 else 0
            longest = max(longest, run)
    return longest


@_compiled
def _count_above(line: U16, bright: int) -> int:
    count = 0
    for x in range(line.shape[0]):
        count += line[x] > bright
    return count


@_compiled
def inspect_rows(
    mosaic: U16,
    origin: tuple[int, int],
    shape: tuple[int, int],
    darkest_plausible: int,
    bright: int,
) -> tuple[int, int, int, int]:
    """What damage leaves behind in the part of a mosaic at `origin` (y, x) of `shape`.

    Returns
    -------
    largest
        Largest sample in DN.
    above
        Samples above `bright` DN.
    repeated
        Rows identical to the row above that are not one constant value: never seen in real noise,
        left by decoders that run out of data.
    blank
        Rows of one constant value below `darkest_plausible` DN; and, if that is above 0, rows with
        a quarter of their samples at exactly 0, or `_BLANK_RUN` of one colour in a row, where
        decoders clamp what runs out of range, or were given a block of zeros.
    """
    largest, above, repeated, blank = 0, 0, 0, 0
    for y in range(origin[0], origin[0] + shape[0]):
        line = mosaic[y][origin[1] : origin[1] + shape[1]]
        row_largest = int(line.max())
        largest = max(largest, row_largest)
        if row_largest > bright:  # rarely
            above += _count_above(line, bright)
        zeros, zero_run = 0, 0
        if darkest_plausible > 0 and line.min() == 0:  # rarely: so the count is not made for all
            for x in range(line.shape[0]):
                zeros += line[x] == 0
            zero_run = _zero_run(line)
        constant = True
        for x in range(1, line.shape[0]):
            if line[x] != line[0]:
                constant = False
                break
        if zeros > 0 and (4 * zeros >= line.shape[0] or zero_run >= _BLANK_RUN):
            blank += 1
        elif constant:
            blank += line[0] < darkest_plausible
        elif y > origin[0]:
            repeated += _equal(line, mosaic[y - 1][origin[1] : origin[1] + shape[1]])
    return largest, above, repeated, blank


@_compiled
def count_samples(
    mosaic: U16, origin: tuple[int, int], shape: tuple[int, int], every: int
) -> npt.NDArray[np.uint32]:
    """(65536,) uint32: how many samples of each value one in `every` pairs of rows holds.

    Of the part of a mosaic at `origin` (y, x) of `shape`.
    """
    counts = np.zeros(65536, dtype=np.uint32)
    for y in range(shape[0]):
        if y // 2 % every == 0:
            line = mosaic[origin[0] + y]
            for x in range(origin[1], origin[1] + shape[1]):
                counts[line[x]] += 1
    return counts
