"""Bytes and words at addresses, for compiled code that moves memory: each is one instruction.

Whoever calls these has made sure that the memory is there. Addresses and values are int64 (compiled
code turns a mixture of signed and unsigned integers into floats); words are little endian.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from pipeline.runtime.compiled import compiled

#: A function that writes its own LLVM instructions; called from compiled code like any other.
instructions: Callable[[Any], Any] = intrinsic

#: Bytes that `copy_wide` and `fill_wide` write, and so may write too many at the end of a run.
#: So many that most runs take one step: how often a loop goes round is what a processor guesses
#: wrong, at the price of some ten such copies.
WIDE = 128

_i8, _i32, _i64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_wide = ir.VectorType(_i8, WIDE)


def load(builder: Any, address: Any, kind: ir.Type) -> Any:
    """What is at an address, aligned or not."""
    loaded = builder.load(builder.inttoptr(address, kind.as_pointer()))
    loaded.align = 1
    return loaded


def store(builder: Any, value: Any, address: Any) -> Any:
    """Put a value at an address, aligned or not."""
    stored = builder.store(value, builder.inttoptr(address, value.type.as_pointer()))
    stored.align = 1
    return stored


@compiled(nogil=True)
def address(array: npt.NDArray[Any]) -> int:
    """Where an array's first value is."""
    return np.int64(array.ctypes.data)  # type: ignore[return-value]


def _loader(bits: int) -> Callable[[int], int]:
    @instructions
    def load_word(typing: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            word = load(builder, args[0], ir.IntType(bits))
            return word if bits == _i64.width else builder.zext(word, _i64)

        return (types.uint64 if bits == _i64.width else types.int64)(types.int64), generate

    made: Callable[[int], int] = load_word
    return made


def _storer(bits: int) -> Callable[[int, int], None]:
    @instructions
    def store_word(typing: Any, address: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            store(builder, builder.trunc(args[1], ir.IntType(bits)), args[0])
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), generate

    made: Callable[[int, int], None] = store_word
    return made


#: The unsigned word at an address; `load64` gives uint64, the others int64.
load8, load16, load32, load64 = _loader(8), _loader(16), _loader(32), _loader(64)
#: Put the lowest bits of a value at an address.
store8, store16, store32 = _storer(8), _storer(16), _storer(32)


def _copier(nbytes: int) -> Callable[[int, int], None]:
    kind = ir.VectorType(_i8, nbytes)

    @instructions
    def copy(typing: Any, target: Any, source: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            store(builder, load(builder, args[1], kind), args[0])
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), generate

    made: Callable[[int, int], None] = copy
    return made


#: That many bytes to `target` from `source`, as if all were read before any is written.
copy32, copy_wide = _copier(32), _copier(WIDE)


@instructions
def fill_wide(typing: Any, target: Any, byte: Any) -> Any:
    """One byte, `WIDE` times, to an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        undefined = ir.Constant(_wide, ir.Undefined)
        first = builder.insert_element(undefined, builder.trunc(args[1], _i8), ir.Constant(_i32, 0))
        everywhere = ir.Constant(ir.VectorType(_i32, WIDE), [0] * WIDE)
        store(builder, builder.shuffle_vector(first, first, everywhere), args[0])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@instructions
def equal_bytes(typing: Any, difference: Any) -> Any:
    """How many bytes are equal from the start of two words whose exclusive or, not 0, is given."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        zeros = builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))
        return builder.lshr(zeros, ir.Constant(_i64, 3))

    return types.int64(types.uint64), generate
