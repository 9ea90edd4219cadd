"""How many bits a mosaic takes in Nikon's lossless code: what its strip must hold.

The code is a Huffman code for the bit length of a difference, followed by the difference itself
(LibRaw nikon_load_raw, trees 5 and 2). Each sample is compared with the one two to the left; the
first two of a row with those two rows above. So the bits follow from magnitudes alone, and are
counted 64 samples at a time, in vector instructions as in `pipeline.bitplanes`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from pipeline.compiled import compiled

U16 = npt.NDArray[np.uint16]
U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]

#: Bits of the samples whose code is known.
DEPTHS: Final = (12, 14)

# How many codes have 1, 2, ... bits, and the symbols in that order. A symbol is a bit length.
_CODES: Final = {
    14: ((0, 1, 4, 2, 2, 3, 1, 2), (7, 6, 8, 5, 9, 4, 10, 3, 11, 12, 2, 0, 1, 13, 14)),
    12: ((0, 1, 4, 2, 3, 1, 2), (5, 4, 6, 3, 7, 2, 8, 1, 9, 0, 10, 11, 12)),
}
#: What a difference is taken to cost that no code says.
_UNSPEAKABLE = 255

_LANES = 64
#: Night and noise stay below; so what only larger differences cost is rarely asked.
_LARGE = 512

_i16, _i64 = ir.IntType(16), ir.IntType(64)
_vector, _truths = ir.VectorType(_i16, _LANES), ir.VectorType(ir.IntType(1), _LANES)

#: A function that writes its own LLVM instructions; called from compiled code like any other.
_instructions: Callable[[Any], Any] = intrinsic
_compiled = compiled(nogil=True)


def coded_bits(mosaic: U16, predictors: I32, depth: int) -> int:
    """Bits that a mosaic takes.

    Parameters
    ----------
    mosaic
        (height, width) uint16, all the file has.
    predictors
        (2, 2) int32: what the first two samples of the first two rows are compared with.
    depth
        Bits of a sample, one of `DEPTHS`.
    """
    mosaic, table = np.ascontiguousarray(mosaic), bits_of_difference(depth)
    return int(_coded_bits(mosaic, predictors, table, depth == DEPTHS[1]))


@cache
def bits_of_difference(depth: int) -> U8:
    """Bits that a difference takes, by its magnitude 0..65535: (65536,) uint8."""
    counts, symbols = _CODES[depth]
    code_lengths = np.repeat(np.arange(1, len(counts) + 1), counts)
    table = np.full(1 << 16, _UNSPEAKABLE, np.uint8)
    for length, code_length in zip(symbols, code_lengths, strict=True):
        table[(1 << length) >> 1 : 1 << length] = code_length + length
    return table


def _bits_above_least(depth: int) -> Callable[[Any], Any]:
    """Instructions that sum over 64 samples how much more they take than a difference of 0 does.

    They take the address of the first sample and want two more behind the last.
    """
    table = bits_of_difference(depth).astype(int)
    # What it costs more to reach each power of two than to stay below.
    steps = [(1 << k, int(table[1 << k] - table[(1 << k) - 1])) for k in range(16)]
    usual = [(least, step) for least, step in steps if step and least < _LARGE]
    rare = [(least, step) for least, step in steps if step and least >= _LARGE]

    @_instructions
    def bits_above_least(typing: Any, samples: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            (samples,) = args
            left, right = (_load(builder, samples, 2 * x) for x in (0, 2))
            down = _call(builder, f"llvm.usub.sat.v{_LANES}i16", _vector, left, right)
            up = _call(builder, f"llvm.usub.sat.v{_LANES}i16", _vector, right, left)
            magnitude = builder.or_(down, up)

            def more(total: Any, some: list[tuple[int, int]]) -> Any:
                for least, step in some:
                    reached = builder.icmp_unsigned(">=", magnitude, _splat(least))
                    total = builder.add(total, builder.select(reached, _splat(step), _splat(0)))
                return total

            below = more(_splat(0), usual)
            large = builder.icmp_unsigned(">=", magnitude, _splat(_LARGE))
            any_large = _call(builder, f"llvm.vector.reduce.or.v{_LANES}i1", ir.IntType(1), large)
            before = builder.block
            with builder.if_then(any_large, likely=False):
                above = more(below, rare)
                within = builder.block
            total = builder.phi(_vector)
            total.add_incoming(below, before)
            total.add_incoming(above, within)
            summed = _call(builder, f"llvm.vector.reduce.add.v{_LANES}i16", _i16, total)
            return builder.zext(summed, _i64)

        return types.uint64(types.uint64), generate

    made: Callable[[Any], Any] = bits_above_least
    return made


def _splat(value: int) -> ir.Constant:
    return ir.Constant(_vector, [value] * _LANES)


def _load(builder: Any, address: Any, offset: int) -> Any:
    place = builder.inttoptr(builder.add(address, ir.Constant(_i64, offset)), _vector.as_pointer())
    loaded = builder.load(place)
    loaded.align = 1
    return loaded


def _call(builder: Any, name: str, returns: ir.Type, *args: Any) -> Any:
    """Call one of LLVM's own functions."""
    kind = ir.FunctionType(returns, [argument.type for argument in args])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.call(function, args)


_of_12, _of_14 = map(_bits_above_least, DEPTHS)


@_compiled
def _coded_bits(mosaic: U16, predictors: I32, table: U8, fourteen: bool) -> int:
    total = np.uint64(0)
    compared = mosaic.shape[1] - 2
    whole = compared // _LANES * _LANES
    for y in range(mosaic.shape[0]):
        line = mosaic[y]
        for x in range(2):
            above = predictors[y, x] if y < 2 else np.int32(mosaic[y - 2, x])
            total += np.uint64(table[abs(np.int32(line[x]) - above)])
        start = np.uint64(line.ctypes.data)
        for x in range(0, whole, _LANES):
            samples = start + np.uint64(2 * x)
            total += _of_14(samples) if fourteen else _of_12(samples)
        total += np.uint64(table[0]) * np.uint64(whole)
        for x in range(whole, compared):
            total += np.uint64(table[abs(np.int32(line[x + 2]) - np.int32(line[x]))])
    return int(total)
