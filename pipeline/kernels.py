"""The fused pass over the mosaic: one read of every sample gives both levels and their histograms.

Compiled by numba, cached beside this file. Everything here is arithmetic on arrays: what the
numbers mean is decided in `pipeline.colour`, `pipeline.cfa` and `pipeline.resample`. No fast-math:
the same input gives the same bytes on every machine.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.compiled import compiled

U16 = npt.NDArray[np.uint16]
F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
U32 = npt.NDArray[np.uint32]
I32 = npt.NDArray[np.int32]
U8 = npt.NDArray[np.uint8]

#: Taps of a resized pixel are added in blocks of this many: fixed, so the loop has no branch.
_TAP_BLOCK = 4

#: Samples of one colour in a row that are exactly 0 where black is not. Where one sample in four is
#: 0, as the noise of the highest ISO comes near to, this is seen once in ten million images.
_BLANK_RUN = 24

_compiled = compiled(nogil=True, error_model="numpy")


@_compiled
def _linear_row(reds: U16, blues: U16, red_x: int, affine: F32, row: F32) -> None:
    """Codes (before rounding) of one packed row: an affine map of (R, G1 + G2, B).

    `reds` and `blues` are the mosaic rows that hold the R and the B sites; `red_x` is R's column.
    """
    green1s, blues_, green2s = reds[1 - red_x :], blues[1 - red_x :], blues[red_x:]
    reds = reds[red_x:]
    for plane in range(3):
        out = row[plane]
        of_red, of_greens, of_blue = affine[plane, 0], affine[plane, 1], affine[plane, 2]
        constant = affine[plane, 3]
        for x in range(out.shape[0]):
            greens = np.float32(green1s[2 * x]) + np.float32(green2s[2 * x])
            out[x] = (
                of_red * np.float32(reds[2 * x])
                + of_greens * greens
                + of_blue * np.float32(blues_[2 * x])
                + constant
            )


@_compiled
def _clipped_row(reds: U16, blues: U16, red_x: int, clip: F32, affine: F32, row: F32) -> None:
    """The same with every site clipped to [0, 1] first: LibRaw's way.

    `clip` is (2, 4): black and DN -> [0, 1] gain by colour index R, G1, B, G2.
    """
    zero, one = np.float32(0), np.float32(1)
    for x in range(row.shape[1]):
        red = (np.float32(reds[2 * x + red_x]) - clip[0, 0]) * clip[1, 0]
        green1 = (np.float32(reds[2 * x + 1 - red_x]) - clip[0, 1]) * clip[1, 1]
        blue = (np.float32(blues[2 * x + 1 - red_x]) - clip[0, 2]) * clip[1, 2]
        green2 = (np.float32(blues[2 * x + red_x]) - clip[0, 3]) * clip[1, 3]
        red = min(max(red, zero), one)
        blue = min(max(blue, zero), one)
        greens = min(max(green1, zero), one) + min(max(green2, zero), one)
        for plane in range(3):
            row[plane, x] = (
                affine[plane, 0] * red
                + affine[plane, 1] * greens
                + affine[plane, 2] * blue
                + affine[plane, 3]
            )


@_compiled
def _store(codes: F32, level: U16, y: int, counts: U32) -> None:
    """Round (3, w) codes to the nearest into row `y` of a (3, h, w) level, and count them.

    The bounds only matter for the clipped recipe: linear recipes cannot leave 0..65535.
    """
    low, high, half = np.float32(0), np.float32(65535), np.float32(0.5)
    for plane in range(3):
        exact, rounded = codes[plane], level[plane, y]
        for x in range(exact.shape[0]):
            rounded[x] = np.uint16(np.int32(min(max(exact[x], low), high) + half))
    # In turn, because neighbours in one plane often share a code and would wait for each other.
    first, second, third = level[0, y], level[1, y], level[2, y]
    counts0, counts1, counts2 = counts[0], counts[1], counts[2]
    for x in range(first.shape[0]):
        counts0[first[x]] += 1
        counts1[second[x]] += 1
        counts2[third[x]] += 1


@_compiled
def _in_tap_blocks(weights: F32) -> F32:
    """(w, taps) weights as (taps, w), taps filled up to whole blocks with zeros."""
    outputs, taps = weights.shape
    blocks = (taps + _TAP_BLOCK - 1) // _TAP_BLOCK
    by_tap = np.zeros((blocks * _TAP_BLOCK, outputs), dtype=np.float32)
    for x in range(outputs):
        for tap in range(taps):
            by_tap[tap, x] = weights[x, tap]
    return by_tap


@_compiled
def _average_columns(tall: F32, first: U32, by_tap: F32, out: F32) -> None:
    """Area-average one plane along x, its taps added in order.

    `tall` (W + taps,) is averaged along y already, zeros after W; `out` is (w,).
    """
    out[:] = 0
    for tap in range(0, by_tap.shape[0], _TAP_BLOCK):
        weights0, weights1 = by_tap[tap], by_tap[tap + 1]
        weights2, weights3 = by_tap[tap + 2], by_tap[tap + 3]
        tall0, tall1 = tall[tap:], tall[tap + 1 :]
        tall2, tall3 = tall[tap + 2 :], tall[tap + 3 :]
        for x in range(out.shape[0]):
            at = first[x]  # unsigned: no test for negative indices, so this becomes vector code
            total = out[x] + weights0[x] * tall0[at]
            total += weights1[x] * tall1[at]
            total += weights2[x] * tall2[at]
            out[x] = total + weights3[x] * tall3[at]


@_compiled
def _accumulate(row: F32, weight: np.float32, tall: F32) -> None:
    for plane in range(3):
        codes, total = row[plane], tall[plane]
        for x in range(codes.shape[0]):
            total[x] += weight * codes[x]


@_compiled
def develop_rows(
    mosaic: U16,
    origin: tuple[int, int],
    red_site: tuple[int, int],
    clip: F32,
    affine: F32,
    first_y: I64,
    weights_y: F32,
    first_x: I64,
    weights_x: F32,
    packed: U16,
    resized: U16,
    packed_counts: U32,
    resized_counts: U32,
) -> None:
    """Fill both levels and their histograms.

    Parameters
    ----------
    mosaic
        The full sensor, uint16, C-contiguous.
    origin, red_site
        (y, x) of the crop's corner on the sensor, and of the R site in the crop's 2x2 cell.
    clip
        (2, 4) float32 black and gain for the clipped recipe; (0, 0) for the linear ones.
    affine
        (3, 4) float32: factors of R, G1 + G2, B and the constant, giving codes in 0..65535.
    first_y, weights_y, first_x, weights_x
        Area weights of the resized level along each axis.
    packed, resized
        (3, H, W) and (3, h, w) uint16, filled here; h = 0 for no resized level.
    packed_counts, resized_counts
        (3, 65536) uint32, added to.
    """
    height, width = packed.shape[1], packed.shape[2]
    row = np.empty((3, width), dtype=np.float32)
    by_tap = _in_tap_blocks(weights_x)
    starts_x = first_x.astype(np.uint32)
    tall = np.zeros((3, width + by_tap.shape[0]), dtype=np.float32)
    short = np.empty((3, resized.shape[2]), dtype=np.float32)
    out_y = 0
    for y in range(height):
        red_y = origin[0] + 2 * y + red_site[0]
        blue_y = origin[0] + 2 * y + 1 - red_site[0]
        reds = mosaic[red_y][origin[1] : origin[1] + 2 * width]
        blues = mosaic[blue_y][origin[1] : origin[1] + 2 * width]
        if clip.shape[0] == 0:
            _linear_row(reds, blues, red_site[1], affine, row)
        else:
            _clipped_row(reds, blues, red_site[1], clip, affine, row)
        _store(row, packed, y, packed_counts)
        # An input row belongs to one output row, or to two where it straddles their border.
        while out_y < resized.shape[1]:
            tap = y - first_y[out_y]
            if tap < 0:
                break
            _accumulate(row, weights_y[out_y, tap], tall)
            if tap + 1 < weights_y.shape[1] and weights_y[out_y, tap + 1] > 0:
                break
            for plane in range(3):
                _average_columns(tall[plane], starts_x, by_tap, short[plane])
            _store(short, resized, out_y, resized_counts)
            tall[:] = 0
            out_y += 1


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
def inspect_rows(
    mosaic: U16, origin: tuple[int, int], shape: tuple[int, int], darkest_plausible: int
) -> tuple[int, int, int]:
    """What damage leaves behind in the part of a mosaic at `origin` (y, x) of `shape`.

    Returns
    -------
    largest
        Largest sample in DN.
    repeated
        Rows identical to the row above that are not one constant value: never seen in real noise,
        left by decoders that run out of data.
    blank
        Rows of one constant value below `darkest_plausible` DN; and, if that is above 0, rows with
        a quarter of their samples at exactly 0, or `_BLANK_RUN` of one colour in a row, where
        decoders clamp what runs out of range, or were given a block of zeros.
    """
    largest, repeated, blank = 0, 0, 0
    for y in range(origin[0], origin[0] + shape[0]):
        line = mosaic[y][origin[1] : origin[1] + shape[1]]
        row_largest = int(line.max())
        largest = max(largest, row_largest)
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
    return largest, repeated, blank


@_compiled
def coded_bits(mosaic: U16, predictors: I32, bits_of_difference: U8) -> int:
    """Bits that a mosaic takes in a code of differences to the sample two to the left.

    Parameters
    ----------
    predictors
        (2, 2) int32: what the first two samples of the first two rows are compared with; those of
        later rows are compared with the samples two rows above.
    bits_of_difference
        (65536,) uint8, by magnitude.
    """
    total = 0
    for y in range(mosaic.shape[0]):
        line = mosaic[y]
        for x in range(2):
            above = predictors[y, x] if y < 2 else np.int32(mosaic[y - 2, x])
            total += bits_of_difference[abs(np.int32(line[x]) - above)]
        ahead, bits = line[2:], 0
        for x in range(ahead.shape[0]):
            bits += bits_of_difference[abs(np.int32(ahead[x]) - np.int32(line[x]))]
        total += bits
    return total
