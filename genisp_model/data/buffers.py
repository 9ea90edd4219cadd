"""Memory that is used again as soon as, and only when, nobody can see it any more.

A fresh array of some megabytes costs more to map, page by page, than to fill. So arrays are lent
from a pool: what is lent is an ordinary array or tensor, and its memory comes back when the last
view of it is gone, whoever held it. A consumer that keeps what it was given just makes the pool
grow; nothing it holds is ever overwritten.
"""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import Callable
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

ByteArray = npt.NDArray[np.uint8]


class BufferPool:
    """Buffers of one size, given out and taken back.

    Parameters
    ----------
    nbytes
        Size of a buffer.
    pinned
        Page-locked memory, which a CUDA device reads without the CPU.
    """

    def __init__(self, nbytes: int, *, pinned: bool = False) -> None:
        self.nbytes = nbytes
        self.pinned = pinned
        self.made = 0
        # Taken from and added to by several threads: a deque's append and pop are atomic.
        self._free: deque[ByteArray] = deque()
        self._copying: deque[tuple[Callable[[], bool], ByteArray]] = deque()

    def take(self) -> ByteArray:
        """A buffer nobody uses: (nbytes,) uint8, content undefined."""
        while self._copying and self._copying[0][0]():
            self._free.append(self._copying.popleft()[1])
        try:
            return self._free.pop()
        except IndexError:
            self.made += 1
        if self.pinned:
            # The array keeps the tensor, and so the page lock, alive.
            pinned = torch.empty(self.nbytes, dtype=torch.uint8, pin_memory=True)
            return cast(ByteArray, pinned.numpy())
        return aligned(self.nbytes)

    def give_back(self, buffer: ByteArray) -> None:
        """Return a buffer that nothing refers to any more."""
        self._free.append(buffer)

    def give_back_when(self, is_over: Callable[[], bool], buffer: ByteArray) -> None:
        """Return a buffer once a copy out of it is over; copies end in the order they began."""
        self._copying.append((is_over, buffer))

    def lend(self, buffer: ByteArray, shape: tuple[int, ...]) -> Tensor:
        """A float32 tensor on a buffer's memory; the buffer returns when the tensor's memory dies.

        The tensor's storage holds the very array made here, and every view, slice or reshape of the
        tensor holds the storage: the array dies with the last of them.
        """
        array = floats(buffer, shape)
        weakref.finalize(array, self.give_back, buffer).atexit = False
        return torch.from_numpy(array)


def aligned(nbytes: int) -> ByteArray:
    """Memory that begins where a cache line does, so that whole lines can be written past it."""
    line = 64
    room = np.empty(nbytes + line, np.uint8)
    start = -room.ctypes.data % line
    return room[start : start + nbytes]


def floats(buffer: ByteArray, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """The start of a buffer as float32 of `shape`."""
    nbytes = 4 * math.prod(shape)
    return buffer[:nbytes].view(np.float32).reshape(shape)


def codes(buffer: ByteArray, shape: tuple[int, ...]) -> npt.NDArray[np.uint16]:
    """The start of a buffer as uint16 of `shape`."""
    nbytes = 2 * math.prod(shape)
    return buffer[:nbytes].view(np.uint16).reshape(shape)
