"""Other ways to the same numbers, up to rounding: what each does, and which pay on which device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from genisp_model.detector.engine import fits
from genisp_model.detector.frozen import FrozenDetector
from genisp_model.detector.guide import Guide
from genisp_model.device import Say
from genisp_model.isp import ISP, ISPOutput
from pipeline.errors import UsageError
from schemas.choices import Amp, Speedup
from schemas.training import TrainConfig

Forward = Callable[[Tensor, Tensor], ISPOutput]


@dataclass(frozen=True)
class DeviceFacts:
    """What decides which speedups pay.

    Attributes
    ----------
    kind
        ``"cpu"``, ``"cuda"``, ...
    name
        As the user knows it, such as ``"NVIDIA H200"``.
    capability
        CUDA's (major, minor) version of the hardware; None elsewhere.
    engine
        Whether the frozen engine guides.
    triton
        Whether Triton is installed.
    amp
        The type that autocast computes in.
    """

    kind: str
    name: str
    capability: tuple[int, int] | None = None
    engine: bool = False
    triton: bool = False
    amp: Amp | None = None


#: What was measured to pay, and where: docs/reference/performance.md ("On a GPU") has the figures,
#: docs/explanation/experiments.md what was tried in vain. Hopper is the architecture of H100 and
#: H200. A device that is not here was not measured, or nothing paid on it.
_HOPPER = (9, 0)
_ON_HOPPER: tuple[Speedup, ...] = ("fused-adam", "fused-detector")


def known_to_pay(facts: DeviceFacts) -> tuple[tuple[Speedup, ...], str]:
    """The speedups to take on a device, and why those, in a few words."""
    if facts.kind == "cpu":
        return (), "none is known to pay on a processor"
    if facts.capability != _HOPPER:
        return (), f"none was measured on {facts.name}; make gpu-check measures them"
    # They were measured together; the kernels never ran in float16.
    if not (facts.engine and facts.triton) or facts.amp == "fp16":
        return (), f"those measured on {facts.name} are for the frozen engine, in bf16 or float32"
    return _ON_HOPPER, f"a step took a quarter less time on {facts.name}'s architecture"


def device_facts(config: TrainConfig, detector: Guide, device: torch.device) -> DeviceFacts:
    """Of this machine and run."""
    known = isinstance(detector, FrozenDetector) and fits(detector)
    on_cuda = device.type == "cuda"
    return DeviceFacts(
        kind=device.type,
        name=torch.cuda.get_device_name(device) if on_cuda else str(device),
        capability=torch.cuda.get_device_capability(device) if on_cuda else None,
        engine=known and not config.plain_detector,
        triton=find_spec("triton") is not None,
        amp=config.amp,
    )


def with_known(config: TrainConfig, facts: DeviceFacts, say: Say) -> TrainConfig:
    """The config with the speedups that pay beside its own; says which and why."""
    chosen, why = known_to_pay(facts)
    say(f"--speedup auto: {', '.join(chosen) or 'nothing'} ({why})")
    return TrainConfig(**config.model_dump() | {"speedups": (*config.speedups, *chosen)})


def speed_up(
    config: TrainConfig, isp: ISP, detector: Guide, device: torch.device
) -> Forward | None:
    """Apply what changes modules and settings; the guide and the optimiser are made later.

    Returns
    -------
    The network's compiled ``forward_with_parameters``, for training; None where it is not compiled.

    Raises
    ------
    UsageError
        If one of them cannot be had here.
    """
    wanted = config.speedups
    if "cudnn-benchmark" in wanted:
        if config.deterministic:
            raise UsageError(
                "cudnn-benchmark takes the algorithm that was fastest this time",
                mend="leave it out, or --deterministic",
            )
        torch.backends.cudnn.benchmark = True
    # A convolution computes in its weights' memory format.
    channels_last: Any = {"memory_format": torch.channels_last}
    if "channels-last-isp" in wanted:
        isp.to(**channels_last)
    if "channels-last-detector" in wanted:
        if not isinstance(detector, nn.Module):
            message = "channels-last-detector is for guides that are torch modules"
            raise UsageError(message, mend="leave it out")
        detector.to(**channels_last)
    if "compile-isp" not in wanted:
        return None
    _refuse_without_compiler(device)
    # For training only: shapes and modes of a validation would each be compiled anew.
    compiled: Forward = torch.compile(isp.forward_with_parameters)
    return compiled


def _refuse_without_compiler(device: torch.device) -> None:
    """Compile something small: what is missing says so now, and not in the midst of a step."""
    try:
        torch.compile(_doubled)(torch.ones(8, device=device))
    except Exception as error:  # the compiler's own errors have no type in common
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(
            f"compile-isp: torch.compile does not work on {device} here: {reason}",
            mend="install a C++ compiler (g++) and Python's headers, or leave compile-isp out",
        ) from error


def _doubled(values: Tensor) -> Tensor:
    return 2 * values
