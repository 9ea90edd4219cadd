"""One pass over the mosaic: each sample is read once, for both levels and their histograms.

Compiled by numba, cached beside this file. Everything here is arithmetic on arrays; what the
numbers mean is decided in `colour`, `resample` and `pipeline.raw.cfa`. Without fast-math, so that
the same input gives the same bytes on every machine.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.runtime.compiled import compiled

U16 = npt.NDArray[np.uint16]
F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
U32 = npt.NDArray[np.uint32]
#: Factors of R, G1 + G2 and B, and the constant. Numbers, not an array, so that loops keep them in
#: registers.
Factors = tuple[np.float32, np.float32, np.float32, np.float32]

_compiled = compiled(nogil=True, error_model="numpy")


@_compiled
def _linear_inputs(reds: U16, blues: U16, red_x: int, inputs: F32) -> None:
    """(R, G1 + G2, B) of one packed row, in DN.

    `reds` and `blues` are the mosaic rows that hold the R and the B sites; `red_x` is R's column.
    """
    green1s, blues_, green2s = reds[1 - red_x :], blues[1 - red_x :], blues[red_x:]
    reds = reds[red_x:]
    red, greens, blue = inputs[0], inputs[1], inputs[2]
    for x in range(red.shape[0]):
        red[x] = np.float32(reds[2 * x])
        greens[x] = np.float32(green1s[2 * x]) + np.float32(green2s[2 * x])
        blue[x] = np.float32(blues_[2 * x])


@_compiled
def _clipped_inputs(reds: U16, blues: U16, red_x: int, clip: F32, inputs: F32) -> None:
    """The same with every site brought to [0, 1] and clipped first: LibRaw's way.

    `clip` is (2, 4): black and DN -> [0, 1] gain by colour index R, G1, B, G2.
    """
    zero, one = np.float32(0), np.float32(1)
    for x in range(inputs.shape[1]):
        red = (np.float32(reds[2 * x + red_x]) - clip[0, 0]) * clip[1, 0]
        green1 = (np.float32(reds[2 * x + 1 - red_x]) - clip[0, 1]) * clip[1, 1]
        blue = (np.float32(blues[2 * x + 1 - red_x]) - clip[0, 2]) * clip[1, 2]
        green2 = (np.float32(blues[2 * x + red_x]) - clip[0, 3]) * clip[1, 3]
        inputs[0, x] = min(max(red, zero), one)
        inputs[1, x] = min(max(green1, zero), one) + min(max(green2, zero), one)
        inputs[2, x] = min(max(blue, zero), one)


@_compiled
def _factors(affine: F32) -> Factors:
    return affine[0], affine[1], affine[2], affine[3]


@_compiled
def _code(factors: Factors, red: np.float32, greens: np.float32, blue: np.float32) -> np.float32:
    """The code of one plane, not rounded yet."""
    of_red, of_greens, of_blue, constant = factors
    return of_red * red + of_greens * greens + of_blue * blue + constant


@_compiled
def _rounded(code: np.float32) -> np.uint16:
    """The nearest code. The bounds only matter for the clipped recipe: linear ones stay inside."""
    low, high, half = np.float32(0), np.float32(65535), np.float32(0.5)
    return np.uint16(np.int32(min(max(code, low), high) + half))


# One plane of one packed row: rounded into the level and, before that, weighted into the row of the
# resized level it belongs to, or into two where it straddles their border.


@_compiled
def _plane_alone(inputs: F32, factors: Factors, out: U16) -> None:
    red, greens, blue = inputs[0], inputs[1], inputs[2]
    for x in range(out.shape[0]):
        out[x] = _rounded(_code(factors, red[x], greens[x], blue[x]))


@_compiled
def _plane_into_one(inputs: F32, factors: Factors, out: U16, weight: np.float32, tall: F32) -> None:
    red, greens, blue = inputs[0], inputs[1], inputs[2]
    for x in range(out.shape[0]):
        code = _code(factors, red[x], greens[x], blue[x])
        out[x] = _rounded(code)
        tall[x] += weight * code


@_compiled
def _plane_into_two(
    inputs: F32,
    factors: Factors,
    out: U16,
    weight: np.float32,
    tall: F32,
    next_weight: np.float32,
    next_tall: F32,
) -> None:
    red, greens, blue = inputs[0], inputs[1], inputs[2]
    for x in range(out.shape[0]):
        code = _code(factors, red[x], greens[x], blue[x])
        out[x] = _rounded(code)
        tall[x] += weight * code
        next_tall[x] = next_weight * code


@_compiled
def _count(level: U16, y: int, counts: U32) -> None:
    """Count the codes of row `y` of a (3, h, w) level."""
    # The planes in turn: neighbours in one plane often have the same code, and two additions to one
    # counter have to wait for each other.
    first, second, third = level[0, y], level[1, y], level[2, y]
    counts0, counts1, counts2 = counts[0], counts[1], counts[2]
    for x in range(first.shape[0]):
        counts0[first[x]] += 1
        counts1[second[x]] += 1
        counts2[third[x]] += 1


@_compiled
def _in_tap_blocks(weights: F32) -> F32:
    """(w, taps) weights as (blocks, 3 or 4, w): by tap, filled up to whole blocks with zeros.

    Blocks of three where they leave less to fill than blocks of four.
    """
    outputs, taps = weights.shape
    size = 3 if -taps % 3 < -taps % 4 else 4
    blocks = np.zeros(((taps + size - 1) // size, size, outputs), dtype=np.float32)
    for x in range(outputs):
        for tap in range(taps):
            blocks[tap // size, tap % size, x] = weights[x, tap]
    return blocks


@_compiled
def _average_columns(tall: F32, first: U32, blocks: F32, out: F32) -> None:
    """Area-average one plane along x, its taps added in order.

    `tall` (W + taps,) is averaged along y already, zeros after W; `out` is (w,).
    """
    size = blocks.shape[1]
    out[:] = 0
    for block in range(blocks.shape[0]):
        weights0, weights1 = blocks[block, 0], blocks[block, 1]
        weights2, weights3 = blocks[block, 2], blocks[block, size - 1]
        talls = tall[block * size :]
        tall1, tall2, tall3 = talls[1:], talls[2:], talls[size - 1 :]
        for x in range(out.shape[0]):
            at = first[x]  # unsigned: without a test for negative indices this is vectorised
            total = out[x] + weights0[x] * talls[at]
            total += weights1[x] * tall1[at]
            total += weights2[x] * tall2[at]
            if size == 4:
                total += weights3[x] * tall3[at]
            out[x] = total


@_compiled
def _round_row(codes: F32, out: U16) -> None:
    for x in range(out.shape[0]):
        out[x] = _rounded(codes[x])


@_compiled
def _weights(
    y: int, out_y: int, first_y: I64, weights_y: F32
) -> tuple[np.float32, bool, np.float32]:
    """Weight of input row `y` in output row `out_y`, whether it is the last input row of `out_y`,
    and its weight in the next output row (0 if it has no part in that).
    """
    tap = y - first_y[out_y]
    ends = tap + 1 == weights_y.shape[1] or weights_y[out_y, tap + 1] == 0
    straddles = ends and out_y + 1 < first_y.shape[0] and first_y[out_y + 1] == y
    next_weight = weights_y[out_y + 1, 0] if straddles else np.float32(0)
    return weights_y[out_y, tap], ends, next_weight


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
    out_height = resized.shape[1]
    inputs = np.empty((3, width), dtype=np.float32)
    blocks_x = _in_tap_blocks(weights_x)
    starts_x = first_x.astype(np.uint32)
    tall = np.zeros((3, width + blocks_x.shape[0] * blocks_x.shape[1]), dtype=np.float32)
    next_tall = np.zeros_like(tall)
    short = np.empty(resized.shape[2], dtype=np.float32)
    out_y = 0
    for y in range(height):
        red_y = origin[0] + 2 * y + red_site[0]
        blue_y = origin[0] + 2 * y + 1 - red_site[0]
        reds = mosaic[red_y][origin[1] : origin[1] + 2 * width]
        blues = mosaic[blue_y][origin[1] : origin[1] + 2 * width]
        if clip.shape[0] == 0:
            _linear_inputs(reds, blues, red_site[1], inputs)
        else:
            _clipped_inputs(reds, blues, red_site[1], clip, inputs)
        ends = False
        if out_height == 0:
            for plane in range(3):
                _plane_alone(inputs, _factors(affine[plane]), packed[plane, y])
        else:
            weight, ends, next_weight = _weights(y, out_y, first_y, weights_y)
            for plane in range(3):
                factors, out = _factors(affine[plane]), packed[plane, y]
                into, after = tall[plane], next_tall[plane]
                if ends:
                    _plane_into_two(inputs, factors, out, weight, into, next_weight, after)
                else:
                    _plane_into_one(inputs, factors, out, weight, into)
        _count(packed, y, packed_counts)
        if ends:
            for plane in range(3):
                _average_columns(tall[plane], starts_x, blocks_x, short)
                _round_row(short, resized[plane, out_y])
            _count(resized, out_y, resized_counts)
            tall, next_tall = next_tall, tall
            out_y += 1
