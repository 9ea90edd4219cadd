"""What the checks share: how large they are, what they find, how one runs after the other."""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch

from genisp_model.detector import FrozenDetector
from genisp_model.training.steps.precision import has_bfloat16
from schemas.recipe import LevelName

Status = Literal["passed", "failed", "not checked"]
Say = Callable[[str], None]


class NotCheckedError(Exception):
    """Why something could not be checked here: nothing is wrong with it, and nothing is known."""


@dataclass(frozen=True)
class Sizes:
    """How much the checks do.

    Attributes
    ----------
    raws, full_size, fit
        The sample set that is drawn, and what its images are reduced to: (long, short side).
    frames
        Samples of the stores that timings read, by level.
    frame
        (height, width) that timings are about.
    batch
        Images a step.
    batches_in_flight
        Batches read under load.
    warm, steps, rounds
        Steps before a timing, steps of a timing, and how often a variant and the baseline take
        turns.
    streams
        What steps are timed with while streaming: level, and threads that decode.
    variants
        Those that are timed; empty for all.
    detector, weights
        The one that is timed; ``"none"`` for random weights.
    memory_batches
        Batch sizes whose memory is measured.
    """

    raws: int
    full_size: bool
    fit: tuple[int, int]
    frames: dict[LevelName, int]
    frame: tuple[int, int]
    batch: int
    batches_in_flight: int
    warm: int
    steps: int
    rounds: int
    streams: tuple[tuple[LevelName, int], ...]
    variants: tuple[str, ...]
    detector: str
    weights: str
    memory_batches: tuple[int, ...]


FULL = Sizes(
    raws=4,
    full_size=True,
    fit=(1333, 800),
    frames={"resized": 96, "packed": 48},
    frame=(800, 1200),
    batch=8,
    batches_in_flight=200,
    warm=3,
    steps=4,
    rounds=3,
    streams=(("resized", 2), ("resized", 4), ("packed", 2), ("packed", 8)),
    variants=(),
    detector="retinanet_resnet50_fpn_v2",
    weights="none",
    memory_batches=(1, 2, 4, 8),
)
#: The same code where nobody waits for numbers.
SMALL = Sizes(
    raws=2,
    full_size=False,
    fit=(96, 64),
    frames={"resized": 3, "packed": 2},
    frame=(64, 96),
    batch=1,
    batches_in_flight=6,
    warm=2,
    steps=1,
    rounds=1,
    streams=(("resized", 1), ("packed", 2)),
    variants=("fused Adam", "GenISP compiled", "convolutions without TF32"),
    detector="sample_retinanet",
    weights="sample",
    memory_batches=(1, 2),
)


@dataclass
class Bench:
    """Where the checks run.

    Attributes
    ----------
    device, sizes, say
        What is checked, how much, and who hears of it.
    folder
        For stores and runs; removed afterwards.
    until
        `time.monotonic` after which nothing long is begun.
    given
        A store to use instead of drawing a sample set.
    samples, frames
        Stores, once they are made: one with images of several shapes, and by level one with many
        samples of one shape in split ``"train"``.
    guides
        Detectors on the device, by name, once they are loaded.
    """

    device: torch.device
    sizes: Sizes
    say: Say
    folder: Path
    until: float
    given: Path | None = None
    samples: Path | None = None
    frames: dict[LevelName, Path] = field(default_factory=dict)
    guides: dict[str, FrozenDetector] = field(default_factory=dict)

    @property
    def on_cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    @property
    def has_bf16(self) -> bool:
        """Whether the device computes in bfloat16; a processor without takes 30 times as long."""
        if self.on_cuda:
            return has_bfloat16(self.device)
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())

    def require_bf16(self) -> None:
        """Raise `NotCheckedError` where the device does not compute in bfloat16."""
        if not self.has_bf16:
            raise NotCheckedError("the device does not compute in bfloat16")

    @property
    def amps(self) -> tuple[bool, ...]:
        """What is tried: with autocast to bfloat16, where the device has it, and without."""
        return (True, False) if self.has_bf16 else (False,)

    @property
    def is_late(self) -> bool:
        """Whether the time given is over."""
        return time.monotonic() > self.until

    def sample_store(self) -> Path:
        """The store of several shapes, or `NotCheckedError`."""
        if self.samples is None:
            raise NotCheckedError("there is no store to read")
        return self.samples

    def frame_store(self, level: LevelName) -> Path:
        """The store of many frames of a level, or `NotCheckedError`."""
        if level not in self.frames:
            raise NotCheckedError(f"there is no store of {level} frames")
        return self.frames[level]

    def synchronise(self) -> None:
        """Wait until the device has done what it was told."""
        if self.on_cuda:
            torch.cuda.synchronize(self.device)


@dataclass
class Result:
    """What one check found.

    Attributes
    ----------
    name, status, seconds, summary
        In a line.
    wrong
        What is not as it should be.
    unchecked
        Parts that could not be checked, with the reason.
    found
        Numbers, by name.
    error
        Traceback of what ended the check early.
    parts, parts_checked
        How many parts there are, and how many were looked at, whatever they showed. A check none of
        whose parts could be looked at has not passed.
    after_part
        Called after each part with what was wrong with it, or ``""``: a kernel that fails can end
        the whole process with the next part.
    """

    name: str
    status: Status = "not checked"
    seconds: float = 0.0
    summary: str = "not reached"
    wrong: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    parts: int = 0
    parts_checked: int = 0
    after_part: Callable[[str], None] = field(default=lambda text: None, repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """All that was found."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.repr}

    def require(self, condition: bool, otherwise: str) -> None:
        """Note what is wrong and go on: one call of the machine must tell everything."""
        if not condition:
            self.wrong.append(otherwise)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part whose failure leaves the others to be checked."""
        self.parts += 1
        known = len(self.wrong)
        try:
            yield
        except NotCheckedError as error:
            self.unchecked.append(f"{name}: {error}")
        except Exception as error:
            self.wrong.append(f"{name}: {_first_line(error)}")
            self.error += traceback.format_exc()
            self.parts_checked += 1
        else:
            self.parts_checked += 1
        self.after_part("".join(f"  wrong: {text}\n" for text in self.wrong[known:]))

    @property
    def lines(self) -> list[str]:
        """The check in text: one line, and one for all that is wrong or unknown."""
        first = f"{self.status:12} {self.name:12} {self.seconds:6.1f} s  {self.summary}"
        wrong = [f"{'':14}wrong: {text}" for text in self.wrong]
        return [first, *wrong, *(f"{'':14}not checked: {text}" for text in self.unchecked)]


Check = Callable[[Bench, Result], None]


def run_checks(
    checks: Mapping[str, Check],
    bench: Bench,
    left_out: Mapping[str, str],
    save: Callable[..., None],
) -> list[Result]:
    """Run every check, whatever becomes of the others.

    Parameters
    ----------
    checks
        By name, in order.
    left_out
        Checks that are not run, and why.
    save
        Called with all results before the first check and after each: what was found is on disk
        even if the machine goes away.
    """
    results: list[Result] = []

    def after_part(text: str) -> None:
        if text:
            bench.say(text.rstrip("\n"))
        save(results)

    results += [Result(name, after_part=after_part) for name in checks]
    save(results)
    for result in results:
        if result.name in left_out:
            result.summary = left_out[result.name]
        else:
            _run(checks[result.name], bench, result)
        bench.say(result.lines[0])
        save(results)
    return results


def _run(check: Check, bench: Bench, result: Result) -> None:
    if bench.is_late:
        result.summary = "the time given was over"
        return
    gc.collect()  # what the last check held must not count as this one's memory
    torch.cuda.empty_cache()
    started = time.monotonic()
    result.summary = ""
    try:
        check(bench, result)
        bench.synchronise()
    except NotCheckedError as error:
        result.summary = str(error)
        result.status = "failed" if result.wrong else "not checked"
    except Exception as error:
        result.wrong.append(_first_line(error))
        result.error += traceback.format_exc()
        result.status = "failed"
    else:
        unknown = result.parts > 0 and result.parts_checked == 0
        result.status = "failed" if result.wrong else "not checked" if unknown else "passed"
    result.seconds = round(time.monotonic() - started, 2)


def _first_line(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}"
    return text.splitlines()[0]


#: torch's settings of CUDA's libraries; its stubs leave out the newer ones.
backends: Any = torch.backends


def profiled(bench: Bench, step: Callable[[], object]) -> list[tuple[float, int, str]]:
    """Milliseconds, count and name of each kernel of a step (operators where there is no GPU).

    Largest first. The step must have been warmed up.
    """
    activities = [torch.profiler.ProfilerActivity.CPU]
    if bench.on_cuda:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    bench.synchronise()
    with torch.profiler.profile(activities=activities) as profile:
        step()
        bench.synchronise()
    rows = []
    for event in profile.key_averages():
        of_device = "CUDA" in str(event.device_type)
        if of_device == bench.on_cuda and not event.is_user_annotation:
            time_us = event.self_device_time_total if of_device else event.self_cpu_time_total
            rows.append((float(time_us) / 1e3, int(event.count), str(event.key)))
    return sorted(rows, reverse=True)


def without_tf32() -> AbstractContextManager[None]:
    """Convolutions in full float32.

    By torch's older switch: once the newer ones (``fp32_precision``) have been set, reading an
    older one raises, and torch's own compiler reads them.
    """
    return changed(backends.cudnn, "allow_tf32", False)


def with_tf32_products() -> AbstractContextManager[None]:
    """Matrix products in TF32, too; by the older switch, see `without_tf32`."""
    return changed(backends.cuda.matmul, "allow_tf32", True)


@contextmanager
def changed(owner: Any, name: str, value: object) -> Iterator[None]:
    """One of torch's global settings, put back afterwards."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
