"""Does the frozen engine give a GPU torchvision's numbers, and what are its parts worth there?"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genisp_model.data.loader import Batch
from genisp_model.detector import FrozenDetector
from genisp_model.detector.engine import FrozenEngine
from genisp_model.detector.losses import Objects
from genisp_model.isp import GenISP
from genisp_model.training.steps.cuda_graph import capture
from scripts.gpu_check.checking import (
    Bench,
    NotCheckedError,
    Result,
    backends,
    changed,
    profiled,
    without_tf32,
)
from scripts.gpu_check.guides import SAMPLE, fixed_batch, guide, timed_guide

_cuda: Any = torch.cuda

Guide = FrozenDetector | FrozenEngine

#: Largest relative difference of loss and image gradient from torchvision's, by arithmetic; for
#: trained weights. Random ones amplify rounding some hundredfold: there it is only told.
LIMITS = {"IEEE float32": (1e-5, 1e-3), "bf16": (2e-2, 0.3)}


@dataclass
class _Step:
    """One training step on a batch that is there already.

    Attributes
    ----------
    isp, guide, optimiser, batch
        What steps.
    amp
        Whether in bf16.
    forward
        GenISP's forward pass.
    """

    isp: GenISP
    guide: Guide
    optimiser: torch.optim.Optimizer
    batch: Batch
    amp: bool
    forward: Callable[..., Any]

    def gradients(self, *, cached: bool = True) -> Tensor:
        """Forward and backward; the loss."""
        batch = self.batch
        with _autocast(batch.images.device, self.amp, cached=cached):
            output = self.forward(batch.images, batch.exposure)
            losses = self.guide.losses(output.image, batch.targets)
        loss = torch.stack([part.float() for part in losses.values()]).sum()
        torch.autograd.backward(loss)
        return loss.detach()

    def __call__(self) -> float:
        """The whole step, with its loss on the host: the one read a step needs."""
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.gradients()
        self.optimiser.step()
        return float(loss)


def engine_check(bench: Bench, result: Result) -> None:
    """Equality, waits, time and memory beside torchvision's path; what is worth most first."""
    with result.part("equality"):
        _equality(bench, result)
    with result.part("host waits"):
        _waits(bench, result)
    variants = _variants()
    for name in list(variants)[:_CERTAIN]:
        with result.part(name):
            _time(bench, result, name, variants[name])
    with result.part("kernels"):
        _kernels(bench, result)
    for name in list(variants)[_CERTAIN:]:
        with result.part(name):
            if bench.is_late:
                raise NotCheckedError("the time given was over")
            _time(bench, result, name, variants[name])
    torch.compiler.reset()
    with result.part("memory"):
        _memory(bench, result)
    times = {name: row["ms"] for name, row in result.found.items() if "ms" in row}
    result.summary = ", ".join(f"{name} {ms:.1f} ms" for name, ms in times.items())


def _autocast(device: torch.device, amp: bool, *, cached: bool = True) -> Any:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=amp, cache_enabled=cached)


def _equality(bench: Bench, result: Result) -> None:
    for name, weights in dict([SAMPLE, (bench.sizes.detector, bench.sizes.weights)]).items():
        detector = guide(bench, name, weights)
        FrozenEngine(detector)  # compared by itself, in float64
        engine = FrozenEngine(detector, checked=False, fused=bench.on_cuda)
        batch = fixed_batch(bench, min(2, bench.sizes.batch))
        images = _rendered(batch)
        for arithmetic, limits in LIMITS.items():
            amp = arithmetic == "bf16"
            if amp and not bench.has_bf16:
                continue
            with nullcontext() if amp else without_tf32():
                theirs, ours = (_seen(one, images, batch, amp=amp) for one in (detector, engine))
            away = {part: _away(ours[part], value) for part, value in theirs.items()}
            result.found[f"{name}, {arithmetic}, against torchvision"] = away
            texts = ", ".join(f"{part} {value:.1e}" for part, value in away.items())
            bench.say(f"  {name}, {arithmetic}: {texts}")
            if weights != "none":
                for part, value in away.items():
                    most = limits[part == "image gradient"]
                    text = f"{name}, {arithmetic}: {part} differs by {value:.1e}"
                    result.require(value <= most, text)


def _rendered(batch: Batch) -> Tensor:
    """Pictures that a detector might see."""
    torch.manual_seed(0)
    with torch.no_grad():
        isp = GenISP().to(batch.images.device)
        pictures: Tensor = isp(batch.images, batch.exposure)
    return pictures


def _seen(one: Guide, images: Tensor, batch: Batch, *, amp: bool) -> dict[str, Tensor]:
    """Losses and image gradient."""
    images = images.detach().requires_grad_()
    with _autocast(images.device, amp):
        losses = one.losses(images, batch.targets)
    (gradient,) = torch.autograd.grad(torch.stack(list(losses.values())).sum(), images)
    return {name: value.detach() for name, value in losses.items()} | {"image gradient": gradient}


def _away(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def _waits(bench: Bench, result: Result) -> None:
    """How often the host waits for the device in a step, as CUDA itself counts it."""
    if not bench.on_cuda:
        raise NotCheckedError("there is no device to wait for")
    for name in ("torchvision", "engine"):
        step = _made(bench, _Variant(engine=name == "engine"))
        step()
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                step.optimiser.zero_grad(set_to_none=True)
                step.gradients()
                step.optimiser.step()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        places = [
            f"{'/'.join(one.filename.split('/')[-2:])}:{one.lineno}"
            for one in heard
            if "synchronizing" in str(one.message)
        ]
        result.found[f"host waits, {name}"] = {"count": len(places), "places": sorted(set(places))}
        bench.say(f"  host waits a step, {name}: {len(places)} {sorted(set(places))[:4]}")
        if name == "engine":
            result.require(not places, f"the engine waits at {', '.join(sorted(set(places)))}")


@dataclass(frozen=True)
class _Variant:
    """How a step is made: the detector's path, arithmetic, Adam, GenISP, a graph."""

    engine: bool = True
    amp: bool = True
    fused: bool = False
    adam: bool = False
    benchmark: bool = False
    compiled: bool = False
    graph: bool = False


#: How many of the variants below need neither a compiler nor a graph.
_CERTAIN = 6


def _variants() -> dict[str, _Variant]:
    """By worth: what others build upon first, what may fail last."""
    best: dict[str, Any] = {"fused": True, "adam": True}
    return {
        "torchvision, bf16": _Variant(engine=False),
        "engine, bf16": _Variant(),
        "engine fused, fused Adam, bf16": _Variant(**best),
        "torchvision, float32": _Variant(engine=False, amp=False),
        "engine, float32": _Variant(amp=False),
        "engine fused, fused Adam, float32": _Variant(**best, amp=False),
        "as before, GenISP compiled, bf16": _Variant(**best, compiled=True),
        "as before, one CUDA graph, bf16": _Variant(**best, compiled=True, graph=True),
        "one CUDA graph, not compiled, bf16": _Variant(**best, graph=True),
        "fused, one CUDA graph, compiled, float32": _Variant(
            **best, amp=False, compiled=True, graph=True
        ),
        "fused, cudnn.benchmark, bf16": _Variant(**best, benchmark=True),
    }


def _made(bench: Bench, variant: _Variant, count: int | None = None) -> _Step:
    """A step of a variant, from the same start each time."""
    torch.manual_seed(0)
    plain = timed_guide(bench)
    one: Guide = plain
    if variant.engine:
        one = FrozenEngine(plain, checked=False, fused=variant.fused and bench.on_cuda)
    isp = GenISP().to(bench.device)
    forward: Callable[..., Any] = isp.forward_with_parameters
    if variant.compiled:
        # Without a GPU the compiler itself would be waited for; there the code path is what counts.
        backend: dict[str, Any] = {} if bench.on_cuda else {"backend": "eager"}
        forward = torch.compile(forward, **backend)
    optimiser = torch.optim.Adam(isp.parameters(), lr=1e-4, fused=True if variant.adam else None)
    batch = fixed_batch(bench, count or bench.sizes.batch)
    return _Step(isp, one, optimiser, batch, variant.amp, forward)


def _time(bench: Bench, result: Result, name: str, variant: _Variant) -> None:
    if not bench.on_cuda and variant.graph:
        raise NotCheckedError("there are no graphs without a GPU")
    if variant.amp:
        bench.require_bf16()
    setting: AbstractContextManager[None] = nullcontext()
    if variant.benchmark:
        setting = changed(backends.cudnn, "benchmark", True)
    with setting:
        begun = time.perf_counter()
        step = _made(bench, variant)
        run: Callable[[], float] = _Graph(step) if variant.graph else step
        losses = [run()]
        first = time.perf_counter() - begun
        losses += [run() for _ in range(bench.sizes.warm)]
        rounds = [_milliseconds(bench, run) for _ in range(bench.sizes.rounds)]
    row: dict[str, Any] = {
        "ms": round(statistics.median(rounds), 2),
        "rounds": [round(ms, 2) for ms in rounds],
        "first step in s": round(first, 2),
        "losses": losses,
    }
    result.found[name] = row
    bench.say(
        f"  {name:46} {row['ms']:8.2f} ms   loss {losses[0]:.6f} -> {losses[-1]:.6f}   "
        f"first step {first:.1f} s"
    )


def _milliseconds(bench: Bench, run: Callable[[], float]) -> float:
    bench.synchronise()
    started = time.perf_counter()
    for _ in range(bench.sizes.steps):
        run()
    bench.synchronise()
    return 1e3 * (time.perf_counter() - started) / bench.sizes.steps


class _Graph:
    """A step whose forward and backward pass are one CUDA graph."""

    def __init__(self, step: _Step) -> None:
        engine, batch = step.guide, step.batch
        assert isinstance(engine, FrozenEngine)
        # Boxes padded to a fixed number: the graph holds for other boxes, too.
        boxes = [torch.nn.functional.pad(t["boxes"], (0, 0, 0, 1)) for t in batch.targets]
        labels = [torch.nn.functional.pad(t["labels"], (0, 1), value=-1) for t in batch.targets]
        # Kept as long as the graph: it reads this memory at each replay.
        self.objects = objects = Objects.of(boxes, labels)
        self.step = step

        def gradients() -> Tensor:
            step.optimiser.zero_grad(set_to_none=True)
            with _autocast(batch.images.device, step.amp, cached=False):
                output = step.forward(batch.images, batch.exposure)
                losses = engine.losses_of(output.image, objects)
            loss = torch.stack([part.float().mean() for part in losses.values()]).sum()
            torch.autograd.backward(loss)
            return loss.detach()

        self.loss, self._replay = capture(gradients)

    def __call__(self) -> float:
        """Replay writes the gradients anew: there is nothing to set to zero."""
        self._replay()
        self.step.optimiser.step()
        return float(self.loss)


def _memory(bench: Bench, result: Result) -> None:
    """Peak gigabytes allocated in two steps, by batch size."""
    if not bench.on_cuda or bench.is_late:
        raise NotCheckedError("no GPU, or no time left")
    for amp in (True, False):
        for engine in (False, True):
            name = f"peak GB, {'engine' if engine else 'torchvision'}, {'bf16' if amp else 'fp32'}"
            row: dict[str, Any] = {}
            for count in bench.sizes.memory_batches:
                variant = _Variant(engine=engine, amp=amp, fused=engine)
                step = _made(bench, variant, count)
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats(bench.device)
                held = torch.cuda.memory_allocated(bench.device)
                try:
                    for _ in range(2):
                        step()
                except torch.OutOfMemoryError:
                    row[str(count)] = "out of memory"
                    break
                peak = torch.cuda.max_memory_allocated(bench.device)
                reserved = torch.cuda.max_memory_reserved(bench.device)
                row[str(count)] = [round(x / 1e9, 2) for x in (peak, reserved, held)]
                del step
            result.found[name] = row
            bench.say(f"  {name} (allocated, reserved, before): {row}")


def _kernels(bench: Bench, result: Result) -> None:
    """The kernels that take most of the best certain variant's step."""
    step = _made(bench, _Variant(fused=True, adam=True, amp=bench.has_bf16))
    for _ in range(bench.sizes.warm):
        step()
    rows = [(round(ms, 3), count, name) for ms, count, name in profiled(bench, step)]
    result.found["kernels"] = {
        "ms in all": round(sum(ms for ms, _, _ in rows), 2),
        "top": rows[:40],
    }
    for milliseconds, count, name in rows[:25]:
        bench.say(f"  {milliseconds:8.2f} ms {count:5} x {name[:100]}")
