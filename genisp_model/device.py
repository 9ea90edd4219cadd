"""Where torch computes, and how a command tells its user something."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from pipeline.errors import TrainingError, UsageError

#: Called with lines for the user.
Say = Callable[[str], None]

#: glibc's numbers for ``mallopt``: what is freed at the top of memory and given back to the system,
#: and what is allocated by itself and given back as soon as it is freed; in bytes, and their most.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _NEVER = -1, -3, 2**31 - 1

#: What CUDA's libraries say of too little memory where torch has no type of its own for it.
_NO_MEMORY = (
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


@contextmanager
def memory_errors(device: torch.device, doing: str, *, mend: str, path: str = "") -> Iterator[None]:
    """Turn running out of the device's memory, or the host's, into an error with a mend.

    Parameters
    ----------
    device
        Where it is computed.
    doing
        What, such as ``"at step 3"``; part of the message.
    mend
        What needs less memory there.
    path
        The folder or file it is about.

    Raises
    ------
    TrainingError
        For what was raised inside.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        place = _full(error, device)
        if place is None:
            raise
        message = f"not enough memory on {place} {doing}"
        raise TrainingError(message, path=path, mend=mend) from error


def _full(error: MemoryError | RuntimeError, device: torch.device) -> str | None:
    """Whose memory was not enough; None if the error is about something else."""
    text = str(error)
    if isinstance(error, MemoryError) or "DefaultCPUAllocator: can't allocate memory" in text:
        return "the host"
    out = isinstance(error, torch.OutOfMemoryError) or any(sign in text for sign in _NO_MEMORY)
    return str(device) if out else None


def keep_freed_memory() -> None:
    """Let this process keep the memory of freed tensors for the next ones, where glibc does it.

    Otherwise every large tensor on a CPU is given back to the system when it is freed, and the next
    one is made of pages that the system has to clear first: a quarter of a training step's time.
    What the user has set in the environment stays.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _NEVER)
        mallopt(_MMAP_THRESHOLD, _NEVER)


def choose_device(name: str, say: Say) -> torch.device:
    """The device asked for; ``"auto"`` says which it took.

    Raises
    ------
    UsageError
        If it is no device, not there, or one that keeps no numbers (``meta``).
    TrainingError
        If its memory is full already.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        say("no CUDA device: running on the CPU")
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name!r} is no device", mend="cpu, cuda, cuda:1") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError("there is no CUDA device", mend="use --device cpu, or auto")
    full = "close other programs on it, or name another --device"
    try:
        with memory_errors(device, "for a single number", mend=full):
            torch.ones(1, device=device).item()
    except TrainingError:
        raise
    # A backend that torch was built without says so in its own way: some are modules that are not
    # there, some fail assertions.
    except (RuntimeError, NotImplementedError, ImportError, AssertionError) as error:
        mend = "use --device cpu, or auto"
        if device.type == "cuda":
            mend = f"cuda:0 to cuda:{torch.cuda.device_count() - 1}"
        message = f"--device {name!r} cannot be used here"
        raise UsageError(message, mend=mend) from error
    return device


def peak_memory(device: torch.device) -> int | None:
    """Bytes at the peak: torch's tensors on a CUDA device; else the process's resident size.

    None where the system does not say. The device is not waited for.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        # Not getrusage first: on Linux, its peak is at least that of the process which started us.
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
