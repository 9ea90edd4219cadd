"""Blosc's bitshuffle, done and undone at memory speed; and codes turned into values on the way.

A bitshuffled block holds its 16-bit codes as 16 bit planes: bit 0 of every code, then bit 1, and so
on (https://github.com/kiyo-masui/bitshuffle; C-Blosc applies it block by block). Undoing it costs
Blosc more than LZ4 does. Here a tile of codes is transposed in vector registers, and may leave them
as float32.

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
from numba.extending import intrinsic

from pipeline.compiled import compiled

Bytes = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
F32 = npt.NDArray[np.float32]

#: A function that writes its own LLVM instructions; called from compiled code like any other.
_instructions: Callable[[Any], Any] = intrinsic

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


def _at(builder: Any, address: Any, offset: Any, kind: ir.Type) -> Any:
    """A pointer to `kind`, `offset` bytes from an address."""
    if isinstance(offset, int):
        offset = ir.Constant(_i64, offset)
    return builder.inttoptr(builder.add(address, offset), kind.as_pointer())


def _load(builder: Any, address: Any, offset: Any, kind: ir.Type) -> Any:
    loaded = builder.load(_at(builder, address, offset, kind))
    loaded.align = 1
    return loaded


def _put(builder: Any, value: Any, address: Any, offset: Any) -> None:
    builder.store(value, _at(builder, address, offset, value.type)).align = 1


def _put_past_caches(builder: Any, value: Any, address: Any, offset: Any) -> None:
    """`_put` of 32 bytes to an aligned address, without reading what was there into a cache."""
    store = builder.store(value, _at(builder, address, offset, value.type))
    store.align = ALIGNMENT
    store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(_i32, 1)]))


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


def _tile_of_codes(builder: Any, planes: Any, stride: Any) -> list[Any]:
    """A tile's codes: half h of vector 2 j + e // 8 holds codes 128 h + 16 j + e for e in 0..7."""
    rows = []
    for k in range(BITS):
        offset = builder.mul(stride, ir.Constant(_i64, k))
        rows.append(_load(builder, planes, offset, _vector))
    return _zip_lanes(builder, _swap_bits(builder, rows))


def _halves(start: int) -> list[int]:
    return [start + lane for lane in range(_HALF)]


def _tile_to_codes(put: Callable[..., None]) -> Callable[..., None]:
    """The instructions that turn a tile of bit planes into 256 uint16, written by `put`.

    They take addresses: of the tile in the first plane, bytes from plane to plane, and where to.
    """

    @_instructions
    def tile_to_codes(typing: Any, planes: Any, stride: Any, out: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            planes, stride, out = args
            vectors = _tile_of_codes(builder, planes, stride)
            for half in range(LANES // _HALF):
                for i in range(0, BITS, 2):
                    lanes = _halves(half * _HALF) + _halves(LANES + half * _HALF)
                    whole = _shuffle(builder, vectors[i], vectors[i + 1], lanes)
                    put(builder, whole, out, 256 * half + 16 * i)
            return context.get_dummy_value()

        return types.void(types.uint64, types.uint64, types.uint64), generate

    made: Callable[..., None] = tile_to_codes
    return made


def _tile_to_values(put: Callable[..., None]) -> Callable[..., None]:
    """The same for 256 float32 ``(code - zero) * scale``."""

    @_instructions
    def tile_to_values(
        typing: Any, planes: Any, stride: Any, out: Any, zero: Any, scale: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            planes, stride, out, zero, scale = args

            def splat(scalar: Any) -> Any:
                undefined = ir.Constant(_half_floats, ir.Undefined)
                one = builder.insert_element(undefined, scalar, ir.Constant(_i32, 0))
                return _shuffle(builder, one, one, [0] * _HALF)

            zeros, scales = splat(zero), splat(scale)
            vectors = _tile_of_codes(builder, planes, stride)
            for half in range(LANES // _HALF):
                for i, vector in enumerate(vectors):
                    part = _shuffle(builder, vector, vector, _halves(half * _HALF))
                    exact = builder.fsub(builder.uitofp(part, _half_floats), zeros)
                    put(builder, builder.fmul(exact, scales), out, 512 * half + 32 * i)
            return context.get_dummy_value()

        address = types.uint64
        return types.void(address, address, address, types.float32, types.float32), generate

    made: Callable[..., None] = tile_to_values
    return made


@_instructions
def _tile_to_planes(typing: Any, codes: Any, planes: Any, stride: Any) -> Any:
    """256 uint16 at address `codes` to a tile at `planes`: `_tile_to_codes` undone."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        codes, planes, stride = args
        part = ir.VectorType(_i16, _HALF)
        vectors = []
        for i in range(BITS):
            halves = [_load(builder, codes, 256 * half + 16 * i, part) for half in (0, 1)]
            vectors.append(_shuffle(builder, halves[0], halves[1], range(LANES)))
        for k, row in enumerate(_swap_bits(builder, _unzip_lanes(builder, vectors))):
            _put(builder, row, planes, builder.mul(stride, ir.Constant(_i64, k)))
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64, types.uint64), generate


@_instructions
def _all_written(typing: Any) -> Any:
    """Whoever is told next that the work is done sees what was written past the caches."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


_codes_anywhere, _codes_aligned = _tile_to_codes(_put), _tile_to_codes(_put_past_caches)
_values_anywhere, _values_aligned = _tile_to_values(_put), _tile_to_values(_put_past_caches)

_compiled = compiled(nogil=True, error_model="numpy")


@_compiled
def _code_at(planes: Bytes, stride: int, index: int) -> int:
    """One code out of a block, bit by bit: for what is left over behind the last whole tile."""
    code = 0
    for k in range(BITS):
        code |= ((planes[k * stride + index // 8] >> (index % 8)) & 1) << k
    return code


@_compiled
def block_to_codes(planes: Bytes, codes: U16) -> None:
    """Undo the bitshuffle of one block.

    Parameters
    ----------
    planes
        (2 n,) uint8, C-contiguous.
    codes
        (n,) uint16, C-contiguous, filled here. Blosc leaves a block alone whose n is no multiple
        of 8: it is copied.
    """
    if codes.size % 8:
        codes[:] = planes.view(np.uint16)
        return
    stride = planes.size // BITS
    tiles = stride // TILE_BYTES
    for tile in range(tiles):
        source = np.uint64(planes.ctypes.data + tile * TILE_BYTES)
        target = np.uint64(codes.ctypes.data + 2 * tile * TILE_CODES)
        if target % ALIGNMENT == 0:
            _codes_aligned(source, np.uint64(stride), target)
        else:
            _codes_anywhere(source, np.uint64(stride), target)
    _all_written()
    for index in range(tiles * TILE_CODES, codes.size):
        codes[index] = _code_at(planes, stride, index)


@_compiled
def block_to_values(planes: Bytes, values: F32, zero: np.float32, scale: np.float32) -> None:
    """Undo the bitshuffle of one block, leaving ``(code - zero) * scale`` in (n,) float32."""
    if values.size % 8:
        codes = planes.view(np.uint16)
        for index in range(values.size):
            values[index] = (np.float32(codes[index]) - zero) * scale
        return
    stride = planes.size // BITS
    tiles = stride // TILE_BYTES
    for tile in range(tiles):
        source = np.uint64(planes.ctypes.data + tile * TILE_BYTES)
        target = np.uint64(values.ctypes.data + 4 * tile * TILE_CODES)
        if target % ALIGNMENT == 0:
            _values_aligned(source, np.uint64(stride), target, zero, scale)
        else:
            _values_anywhere(source, np.uint64(stride), target, zero, scale)
    _all_written()
    for index in range(tiles * TILE_CODES, values.size):
        values[index] = (np.float32(_code_at(planes, stride, index)) - zero) * scale


@_compiled
def planes_to_codes(planes: Bytes, block: int, codes: U16) -> None:
    """`block_to_codes` for every block of `block` bytes; the last may be shorter.

    Parameters
    ----------
    planes
        (2 n,) uint8: a chunk as Blosc compresses it, after its bitshuffle.
    block
        Blosc's block size in bytes, even.
    codes
        (n,) uint16, filled here.
    """
    for start in range(0, planes.size, block):
        end = min(start + block, planes.size)
        block_to_codes(planes[start:end], codes[start // 2 : end // 2])


@_compiled
def planes_to_values(
    planes: Bytes, block: int, values: F32, zero: np.float32, scale: np.float32
) -> None:
    """`block_to_values` for every block of `block` bytes; the last may be shorter."""
    for start in range(0, planes.size, block):
        end = min(start + block, planes.size)
        block_to_values(planes[start:end], values[start // 2 : end // 2], zero, scale)


@_compiled
def block_to_planes(codes: U16, planes: Bytes) -> None:
    """Bitshuffle one block: (n,) uint16 codes to (2 n,) uint8, filled here."""
    if codes.size % 8:
        planes[:] = codes.view(np.uint8)
        return
    stride = planes.size // BITS
    tiles = stride // TILE_BYTES
    for tile in range(tiles):
        source = np.uint64(codes.ctypes.data + 2 * tile * TILE_CODES)
        target = np.uint64(planes.ctypes.data + tile * TILE_BYTES)
        _tile_to_planes(source, target, np.uint64(stride))
    for start in range(tiles * TILE_CODES, codes.size, 8):
        for k in range(BITS):
            byte = 0
            for bit in range(8):
                byte |= ((codes[start + bit] >> k) & 1) << bit
            planes[k * stride + start // 8] = byte
