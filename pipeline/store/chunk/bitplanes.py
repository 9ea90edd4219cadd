"""Blosc's bitshuffle, done and undone at memory speed; and codes turned into values on the way.

A bitshuffled block holds its 16-bit codes as 16 bit planes: bit 0 of every code, then bit 1, and so
on (https://github.com/kiyo-masui/bitshuffle; C-Blosc applies it block by block). Undoing it costs
Blosc more than LZ4 does. Here a tile of codes is transposed in vector registers, and may leave them
as float32. Each plane is read from an address of its own: they need not lie together.

The tiles are written as LLVM vector instructions, which every processor numba knows has in some
form: no instruction set is assumed. Everything is integer or single-rounded arithmetic: the same
numbers on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types

from pipeline.runtime.compiled import compiled
from pipeline.store.chunk.addresses import address, instructions, load, load8, load16, store

Bytes = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

BITS = 16
#: 16-bit lanes of a vector: what an AVX2 register holds. Wider machines gain little from more.
LANES = 16
#: Lanes of 128 bits: vectors are zipped within these, which is one instruction on x86 and ARM.
_HALF = 8
TILE_CODES = BITS * LANES
TILE_BYTES = 2 * LANES  # of each plane
#: Bytes; output that starts at a multiple is written past the caches, which is faster.
ALIGNMENT = 32

_i16, _i32, _i64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
_float = ir.FloatType()
_vector = ir.VectorType(_i16, LANES)
_half_floats = ir.VectorType(_float, _HALF)

# Swapping bit b of the vector's number with bit b of the position in a lane, b = 3, 2, 1, 0.
_SWAPS = ((8, 0x00FF), (4, 0x0F0F), (2, 0x3333), (1, 0x5555))


def _splat(value: int) -> ir.Constant:
    return ir.Constant(_vector, [value] * LANES)


def _shuffle(builder: Any, first: Any, second: Any, lanes: Sequence[int]) -> Any:
    mask = ir.Constant(ir.VectorType(_i32, len(lanes)), list(lanes))
    return builder.shuffle_vector(first, second, mask)


def _behind(builder: Any, address: Any, offset: int) -> Any:
    return builder.add(address, ir.Constant(_i64, offset))


def _put_past_caches(builder: Any, value: Any, address: Any) -> None:
    """`store` of 32 bytes to an aligned address, without reading what was there into a cache."""
    stored = store(builder, value, address)
    stored.align = ALIGNMENT
    stored.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(_i32, 1)]))


def _swap_bits(builder: Any, vectors: list[Any]) -> list[Any]:
    """Transpose 16 x 16 bits in each lane: bit e of vector k becomes bit k of vector e."""
    vectors = list(vectors)
    for distance, mask in _SWAPS:
        for low in range(BITS):
            if low & distance:
                continue
            high = low | distance
            shifted = builder.lshr(vectors[low], _splat(distance))
            differing = builder.and_(builder.xor(shifted, vectors[high]), _splat(mask))
            vectors[high] = builder.xor(vectors[high], differing)
            back = builder.shl(differing, _splat(distance))
            vectors[low] = builder.xor(vectors[low], back)
    return vectors


def _zip_lanes(builder: Any, vectors: list[Any]) -> list[Any]:
    """Lane j of vector e goes to half-vector lane e % 8 of vector 2 j + e // 8."""
    low, high = [], []
    for start in range(0, LANES, _HALF):
        low += [lane for j in range(4) for lane in (start + j, LANES + start + j)]
        high += [lane for j in range(4, 8) for lane in (start + j, LANES + start + j)]
    for _ in range(4):
        pairs = [(vectors[i], vectors[i + 8]) for i in range(8)]
        vectors = [_shuffle(builder, *pair, lanes) for pair in pairs for lanes in (low, high)]
    return vectors


def _unzip_lanes(builder: Any, vectors: list[Any]) -> list[Any]:
    """`_zip_lanes` undone."""
    even, odd = [], []
    for start in range(0, LANES, _HALF):
        even += [base + start + j for base in (0, LANES) for j in range(0, _HALF, 2)]
        odd += [base + start + j for base in (0, LANES) for j in range(1, _HALF, 2)]
    for _ in range(4):
        pairs = [(vectors[2 * i], vectors[2 * i + 1]) for i in range(8)]
        vectors = [_shuffle(builder, *pair, lanes) for lanes in (even, odd) for pair in pairs]
    return vectors


def _tile_of_codes(builder: Any, rows: Any, start: Any) -> list[Any]:
    """A tile's codes: half h of vector 2 j + e // 8 holds codes 128 h + 16 j + e for e in 0..7."""
    vectors = []
    for k in range(BITS):
        plane = load(builder, _behind(builder, rows, 8 * k), _i64)
        vectors.append(load(builder, builder.add(plane, start), _vector))
    return _zip_lanes(builder, _swap_bits(builder, vectors))


def _halves(start: int) -> list[int]:
    return [start + lane for lane in range(_HALF)]


def _tile_to_codes(put: Callable[..., None]) -> Callable[..., None]:
    """The instructions that turn a tile of bit planes into 256 uint16, written by `put`.

    They take the address of the planes' addresses, the tile's first byte in each, and where to.
    """

    @instructions
    def tile_to_codes(typing: Any, rows: Any, start: Any, out: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            rows, start, out = args
            vectors = _tile_of_codes(builder, rows, start)
            for half in range(LANES // _HALF):
                for i in range(0, BITS, 2):
                    lanes = _halves(half * _HALF) + _halves(LANES + half * _HALF)
                    whole = _shuffle(builder, vectors[i], vectors[i + 1], lanes)
                    put(builder, whole, _behind(builder, out, 256 * half + 16 * i))
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64), generate

    made: Callable[..., None] = tile_to_codes
    return made


def _tile_to_values(put: Callable[..., None]) -> Callable[..., None]:
    """The same for 256 float32 ``(code - zero) * scale``."""

    @instructions
    def tile_to_values(typing: Any, rows: Any, start: Any, out: Any, zero: Any, scale: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            rows, start, out, zero, scale = args

            def splat(scalar: Any) -> Any:
                undefined = ir.Constant(_half_floats, ir.Undefined)
                one = builder.insert_element(undefined, scalar, ir.Constant(_i32, 0))
                return _shuffle(builder, one, one, [0] * _HALF)

            zeros, scales = splat(zero), splat(scale)
            vectors = _tile_of_codes(builder, rows, start)
            for half in range(LANES // _HALF):
                for i, vector in enumerate(vectors):
                    part = _shuffle(builder, vector, vector, _halves(half * _HALF))
                    exact = builder.fsub(builder.uitofp(part, _half_floats), zeros)
                    scaled = builder.fmul(exact, scales)
                    put(builder, scaled, _behind(builder, out, 512 * half + 32 * i))
            return context.get_dummy_value()

        number = types.int64
        return types.void(number, number, number, types.float32, types.float32), generate

    made: Callable[..., None] = tile_to_values
    return made


@instructions
def _tile_to_planes(typing: Any, codes: Any, planes: Any, stride: Any) -> Any:
    """256 uint16 at address `codes` to a tile at `planes`: `_tile_to_codes` undone."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        codes, planes, stride = args
        part = ir.VectorType(_i16, _HALF)
        vectors = []
        for i in range(BITS):
            places = [_behind(builder, codes, 256 * half + 16 * i) for half in (0, 1)]
            halves = [load(builder, place, part) for place in places]
            vectors.append(_shuffle(builder, halves[0], halves[1], range(LANES)))
        for k, row in enumerate(_swap_bits(builder, _unzip_lanes(builder, vectors))):
            offset = builder.mul(stride, ir.Constant(_i64, k))
            store(builder, row, builder.add(planes, offset))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@instructions
def _all_written(typing: Any) -> Any:
    """Whoever is told next that the work is done sees what was written past the caches."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


_codes_anywhere, _codes_aligned = _tile_to_codes(store), _tile_to_codes(_put_past_caches)
_values_anywhere, _values_aligned = _tile_to_values(store), _tile_to_values(_put_past_caches)

_compiled = compiled(nogil=True, error_model="numpy")


@_compiled
def plane_count(codes: int) -> int:
    """Planes of a block: Blosc leaves one alone whose codes are no multiple of 8."""
    return 1 if codes % 8 else BITS


@_compiled
def find_planes(start: int, codes: int) -> I64:
    """Addresses of the planes of a block of `codes` that lie together from `start` on."""
    rows = np.empty(plane_count(codes), np.int64)
    for k in range(rows.size):
        rows[k] = start + k * (codes // 8)
    return rows


@_compiled
def _code_at(rows: I64, index: int) -> int:
    """One code out of a block, bit by bit: for what is left over behind the last whole tile."""
    if rows.size < BITS:
        return load16(rows[0] + 2 * index)
    code = 0
    for k in range(BITS):
        code |= ((load8(rows[k] + index // 8) >> (index % 8)) & 1) << k
    return code


@_compiled
def planes_to_codes(rows: I64, codes: U16) -> None:
    """Undo the bitshuffle of one block.

    Parameters
    ----------
    rows
        (16,) int64: the address of each plane, n / 8 bytes. (1,): the codes, not shuffled.
    codes
        (n,) uint16, C-contiguous, filled here.
    """
    whole = codes.size - codes.size % TILE_CODES if rows.size == BITS else 0
    planes, target = address(rows), address(codes)
    for start in range(0, whole, TILE_CODES):
        if target % ALIGNMENT == 0:
            _codes_aligned(planes, start // 8, target + 2 * start)
        else:
            _codes_anywhere(planes, start // 8, target + 2 * start)
    _all_written()
    for index in range(whole, codes.size):
        codes[index] = _code_at(rows, index)


@_compiled
def planes_to_values(rows: I64, values: F32, zero: np.float32, scale: np.float32) -> None:
    """Undo the bitshuffle of one block, leaving ``(code - zero) * scale`` in (n,) float32."""
    whole = values.size - values.size % TILE_CODES if rows.size == BITS else 0
    planes, target = address(rows), address(values)
    for start in range(0, whole, TILE_CODES):
        if target % ALIGNMENT == 0:
            _values_aligned(planes, start // 8, target + 4 * start, zero, scale)
        else:
            _values_anywhere(planes, start // 8, target + 4 * start, zero, scale)
    _all_written()
    for index in range(whole, values.size):
        values[index] = (np.float32(_code_at(rows, index)) - zero) * scale


@_compiled
def codes_to_planes(codes: U16, planes: Bytes) -> None:
    """Bitshuffle one block: (n,) uint16 codes to (2 n,) uint8, filled here."""
    if codes.size % 8:
        planes[:] = codes.view(np.uint8)
        return
    stride = planes.size // BITS
    tiles = stride // TILE_BYTES
    source, target = address(codes), address(planes)
    for tile in range(tiles):
        _tile_to_planes(source + 2 * tile * TILE_CODES, target + tile * TILE_BYTES, stride)
    for start in range(tiles * TILE_CODES, codes.size, 8):
        for k in range(BITS):
            byte = 0
            for bit in range(8):
                byte |= ((codes[start + bit] >> k) & 1) << bit
            planes[k * stride + start // 8] = byte
