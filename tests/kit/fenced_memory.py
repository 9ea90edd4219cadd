"""Memory with a fence behind it: a native reader that goes past the end of its input is seen."""

from __future__ import annotations

import ctypes
import mmap
import resource

import numpy as np
import numpy.typing as npt

_PROT_NONE = 0


class Fenced:
    """Memory that ends at a page nobody may touch: reading or writing past it ends the process."""

    def __init__(self, nbytes: int) -> None:
        page = resource.getpagesize()
        self.nbytes = -(-nbytes // page) * page
        self._map = mmap.mmap(-1, self.nbytes + page)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mprotect(ctypes.c_void_p(address + self.nbytes), page, _PROT_NONE):
            raise OSError(ctypes.get_errno(), "mprotect")

    def holding(self, data: bytes) -> memoryview:
        """`data` directly before the fence."""
        view = memoryview(self._map)[self.nbytes - len(data) : self.nbytes]
        view[:] = data
        return view

    def array(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """Memory directly before the fence."""
        return np.frombuffer(self._map, np.uint8, nbytes, self.nbytes - nbytes)
