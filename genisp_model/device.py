"""Where torch computes, and how a command tells its user something."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pipeline.errors import UsageError

#: Called with lines for the user.
Say = Callable[[str], None]


def choose_device(name: str, say: Say) -> torch.device:
    """The device asked for; ``"auto"`` says which it took."""
    if name != "auto":
        try:
            device = torch.device(name)
        except RuntimeError as error:
            raise UsageError(f"--device {name!r} is no device", mend="cpu, cuda, cuda:1") from error
        if device.type == "cuda" and not torch.cuda.is_available():
            raise UsageError("there is no CUDA device", mend="use --device cpu, or auto")
        return device
    if torch.cuda.is_available():
        return torch.device("cuda")
    say("no CUDA device: running on the CPU")
    return torch.device("cpu")
