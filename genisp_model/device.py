"""Where torch computes, and how a command tells its user something."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pipeline.errors import UsageError

#: Called with lines for the user.
Say = Callable[[str], None]


def choose_device(name: str, say: Say) -> torch.device:
    """The device asked for; ``"auto"`` says which it took.

    Raises
    ------
    UsageError
        If it is no device, not there, or one that keeps no numbers (``meta``).
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
    try:
        torch.ones(1, device=device).item()
    # A backend that torch was built without says so in its own way: some are modules that are not
    # there, some fail assertions.
    except (RuntimeError, NotImplementedError, ImportError, AssertionError) as error:
        mend = "use --device cpu, or auto"
        if device.type == "cuda":
            mend = f"cuda:0 to cuda:{torch.cuda.device_count() - 1}"
        message = f"--device {name!r} cannot be used here"
        raise UsageError(message, mend=mend) from error
    return device
