"""Our LZ4 against LZ4 itself (in numcodecs) and against its format read in plain Python."""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numcodecs import lz4

from pipeline.store.chunk.addresses import WIDE, address
from pipeline.store.chunk.lz4 import SHORTEST, TABLE_SIZE, compress, decompress, largest_block
from tests.kit.fresh_process import run_python

Bytes = npt.NDArray[np.uint8]

PLANES = 16
FENCE = 0xA5


def compressed(data: bytes, plane: int | None = None) -> bytes:
    """`data` compressed by us."""
    source = np.frombuffer(data + bytes(WIDE), np.uint8)
    target = np.full(largest_block(len(data)) + 1, FENCE, np.uint8)
    table = np.full(TABLE_SIZE, -7, np.int32)  # what an earlier block left
    size = compress(address(source), len(data), plane or len(data), address(target), table)
    assert target[-1] == FENCE
    return target[:size].tobytes()


def decompressed(block: bytes, nbytes: int, planes: int = PLANES) -> bytes | None:
    """A block decompressed by us, plane by plane; None if it was refused."""
    source = np.frombuffer(block, np.uint8).copy()
    target = np.full(nbytes + WIDE + 64, FENCE, np.uint8)
    rows = np.zeros(planes, np.int64)
    at = address(source)
    sound = decompress(at, at + source.size, at + source.size, address(target), nbytes, rows)
    assert (target[nbytes + WIDE :] == FENCE).all(), "written behind what was given"
    return b"".join(plane_bytes(source, target, rows, nbytes // planes)) if sound else None


def plane_bytes(
    source: Bytes, target: Bytes, rows: npt.NDArray[np.int64], plane: int
) -> list[bytes]:
    """Each plane's bytes, from whichever array its address is in."""
    found = []
    for row in rows.tolist():
        for array in (source, target):
            start = row - address(array)
            if start >= 0 and start + plane <= array.size:
                found.append(array[start : start + plane].tobytes())
                break
    assert len(found) == rows.size, "an address outside both arrays"
    return found


def by_lz4(block: bytes, nbytes: int) -> bytes | None:
    """LZ4's own verdict; numcodecs puts the size before the block."""
    try:
        whole = lz4.decompress(struct.pack("<i", nbytes) + block)
    except RuntimeError:
        return None
    return bytes(whole) if len(whole) == nbytes else None


def sequences(block: bytes) -> list[tuple[int, int, int]]:
    """(literals, distance, length) as the format's specification reads; the last has no match."""
    at, found = 0, []

    def length(nibble: int) -> int:
        nonlocal at
        total = nibble
        while nibble == 15 and (more := block[at]) is not None:
            at, total = at + 1, total + more
            if more != 255:
                break
        return total

    while at < len(block):
        token = block[at]
        at += 1
        literals = length(token >> 4)
        at += literals
        if at == len(block):
            found.append((literals, 0, 0))
            break
        distance = int.from_bytes(block[at : at + 2], "little")
        at += 2
        found.append((literals, distance, 4 + length(token & 15)))
    return found


@st.composite
def patchwork(draw: st.DrawFn, multiple: int = 1) -> bytes:
    """Noise, runs, and repetitions of what came before: near, far, and over plane ends."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    data = bytearray()
    for kind in draw(st.lists(st.sampled_from(["noise", "run", "near", "far"]), max_size=12)):
        count = int(rng.integers(1, draw(st.sampled_from([8, 40, 300, 9000]))))
        if kind == "noise" or not data:
            data += rng.bytes(count)
        elif kind == "run":
            data += bytes([int(rng.integers(256))]) * count
        else:
            back = int(rng.integers(1, min(len(data), 40 if kind == "near" else 70_000) + 1))
            for _ in range(count):
                data.append(data[-back])
    return bytes(data) + rng.bytes(-len(data) % multiple or (0 if data else multiple))


@given(patchwork(), st.integers(1, 40_000))
@example(b"x", 1)
@example(bytes(100_000), 7)
@settings(max_examples=200, deadline=None)
def test_lz4_reads_what_we_write(data: bytes, plane: int) -> None:
    block = compressed(data, plane)
    assert by_lz4(block, len(data)) == data
    assert compressed(data, plane) == block


@given(patchwork(multiple=PLANES))
@settings(max_examples=200, deadline=None)
def test_we_read_what_we_and_lz4_write(data: bytes) -> None:
    assert decompressed(compressed(data), len(data)) == data
    assert decompressed(lz4.compress(data, 1)[4:], len(data)) == data
    assert decompressed(lz4.compress(data, 1)[4:], len(data), planes=1) == data


@given(patchwork())
@settings(max_examples=100, deadline=None)
def test_no_match_is_shorter_than_it_pays(data: bytes) -> None:
    found = sequences(compressed(data))
    assert sum(literals + length for literals, _, length in found) == len(data)
    for _, distance, length in found[:-1]:
        assert length >= SHORTEST
        assert distance == 1 or 32 <= distance < 65536


def test_runs_and_repetitions_are_found() -> None:
    noise = np.random.default_rng(0).bytes(3000)
    assert len(compressed(bytes(50_000))) < 250
    assert len(compressed(noise + noise + noise)) < 3100


def test_what_is_too_far_back_is_not_named() -> None:
    rng = np.random.default_rng(9)
    again, between = rng.bytes(3000), rng.bytes(66_000)
    data = again + between + again
    assert by_lz4(compressed(data, 8192), len(data)) == data


def test_planes_of_noise_are_not_copied() -> None:
    """The lowest planes are incompressible, the highest constant: what night images are."""
    plane = 4096
    rng = np.random.default_rng(3)
    noise, constant = rng.bytes(9 * plane), bytes(7 * plane)
    source = np.frombuffer(compressed(noise + constant, plane), np.uint8).copy()
    target = np.zeros(PLANES * plane + WIDE, np.uint8)
    rows = np.zeros(PLANES, np.int64)
    begin = address(source)
    assert decompress(
        begin, begin + source.size, begin + source.size, address(target), PLANES * plane, rows
    )
    in_source = [begin <= row < begin + source.size for row in rows.tolist()]
    assert in_source == [True] * 9 + [False] * 7
    assert not target[: 9 * plane].any()
    assert b"".join(plane_bytes(source, target, rows, plane)) == noise + constant


def test_a_match_into_a_plane_that_was_not_copied() -> None:
    plane = 2048
    rng = np.random.default_rng(4)
    planes = [rng.bytes(plane) for _ in range(6)]
    # Pieces over the end of one plane, inside another, and of two planes at once.
    again = planes[1][-300:] + planes[2][:300] + rng.bytes(50) + planes[4][700:900]
    data = b"".join(planes) + again + rng.bytes(-len(again) % plane)
    data += b"".join(planes[2:4]) + bytes(PLANES * plane - len(data) - 2 * plane)
    for block in (compressed(data, plane), lz4.compress(data, 1)[4:]):
        assert decompressed(block, len(data)) == data


@given(patchwork(multiple=PLANES), st.booleans(), st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_blocks_are_refused_or_read_as_lz4_reads_them(
    data: bytes, own: bool, changes: st.DataObject
) -> None:
    block = bytearray(compressed(data) if own else lz4.compress(data, 1)[4:])
    for _ in range(changes.draw(st.integers(1, 3))):
        at = changes.draw(st.integers(0, len(block) - 1))
        block[at] = changes.draw(st.integers(0, 255))
    del block[changes.draw(st.integers(1, len(block))) :]
    result = decompressed(bytes(block), len(data))
    if result is not None:
        assert result == by_lz4(bytes(block), len(data))


def literals(data: bytes, match: int = 0) -> bytes:
    """A token with its count of literals, and the literals; `match` is the token's other half."""
    assert 15 <= len(data) < 15 + 255
    return bytes([0xF0 | match, len(data) - 15]) + data


@pytest.mark.parametrize(
    ("block", "nbytes"),
    [
        pytest.param(literals(bytes(range(60))) + b"\x3c\0\0", 64, id="ends in a match"),
        pytest.param(
            literals(bytes(range(70))) + b"\x46\0\x60" + bytes(6), 80, id="last match too late"
        ),
        pytest.param(
            literals(bytes(range(56))) + b"\x38\0\x40" + bytes(4), 64, id="last literals too few"
        ),
        pytest.param(
            literals(bytes(range(60)), match=15) + b"\x3c\0\xff\xff\xff\0\x20ab",
            60 + 19 + 3 * 255 + 2,
            id="last literals too few, far from the last match's token",
        ),
    ],
)
def test_what_breaks_the_rules_of_a_block_s_end_is_refused(block: bytes, nbytes: int) -> None:
    assert by_lz4(block, nbytes) is None
    assert decompressed(block, nbytes) is None


FENCED = """
import numpy as np
from pipeline.store.chunk.lz4 import decompress
from pipeline.store.chunk.addresses import WIDE, address
from tests.kit.fenced_memory import Fenced

fence, rows = Fenced(4096), np.zeros(16, np.int64)
room = Fenced(4096 + WIDE)
for block in {blocks}:
    source = np.frombuffer(fence.holding(block), np.uint8)
    for nbytes in (64, 1024, 4096):
        at, target = address(source), address(room.array(nbytes + WIDE))
        assert not decompress(at, at + source.size, at + source.size, target, nbytes, rows)
"""


def test_nothing_is_read_or_written_past_the_ends() -> None:
    """Blocks that say more than there is, before a page that ends a process that touches it."""
    some = bytes(range(40))
    blocks = [
        b"\xf0",  # a length that goes on behind the end
        b"\xf0\xff\xff",
        b"\xf0" + b"\xff" * 40 + b"\0",
        b"\xf0\xc8" + some,  # more literals than there are
        b"\x50abc",
        literals(some),  # a match without its distance
        literals(some) + b"\x01",
        literals(some)[:-1] + b"\x0f\x01\0",  # and without its length
        b"\x4f" + some[:4] + b"\x01\0" + b"\xff" * 30 + b"\0" + some,  # longer than the block
        b"\x4f" + some[:4] + b"\x04\0" + b"\xff" * 30 + b"\0" + some,
        b"\x4f" + some[:4] + b"\x05\0\x10" + some,  # from before the block
    ]
    run_python(FENCED.format(blocks=blocks))


@pytest.mark.parametrize("nbytes", [PLANES, 160, 65536])
def test_another_size_than_the_block_s_is_refused(nbytes: int) -> None:
    data = np.random.default_rng(5).bytes(4096) + bytes(4096)
    assert decompressed(compressed(data), nbytes) is None
    assert decompressed(b"", nbytes) is None
