"""How long a step takes, where the time and the memory go, and what makes it faster."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import islice, pairwise
from typing import Any, Literal

import torch

from genisp_model.data import StoreDataset
from genisp_model.data.loader import Batch, StreamLoader
from genisp_model.detector import FrozenDetector
from genisp_model.training import Trainer
from schemas.recipe import LevelName
from scripts.gpu_check.checking import (
    Bench,
    NotCheckedError,
    Result,
    backends,
    changed,
    profiled,
    with_tf32_products,
    without_tf32,
)
from scripts.gpu_check.guides import fixed_batch, full_frames, timed_guide, trainer

#: Largest share of a step that may be spent waiting for data.
WAIT_LIMIT = 0.02
SMALL_GPU = 8e9  # bytes

_cuda: Any = torch.cuda  # its events are untyped


class Clock:
    """A moment of the device's own time; of the host's where there is no GPU."""

    def __init__(self, bench: Bench) -> None:
        self._event: Any = _cuda.Event(enable_timing=True) if bench.on_cuda else None
        if self._event is not None:
            self._event.record(_cuda.current_stream(bench.device))
        self._seconds = time.perf_counter()

    def since(self, earlier: Clock) -> float:
        """Milliseconds; both moments must have passed."""
        if self._event is not None:
            return float(earlier._event.elapsed_time(self._event))
        return 1e3 * (self._seconds - earlier._seconds)


def step_times(bench: Bench, result: Result) -> None:
    """Milliseconds a step while streaming, the share of waiting, and the parts of a step."""
    sizes = bench.sizes
    detector = timed_guide(bench)
    if not full_frames(bench):
        result.unchecked.append("frames of the full size while streaming: the store has others")
    for amp in bench.amps:
        for level, threads, way in _ways(bench):
            name = f"{'bf16' if amp else 'float32'}, {level}, {threads} threads{_WAYS[way]}"
            with result.part(name):
                row = _streamed(bench, detector, level, threads, amp=amp, **_OPTIONS[way])
                result.found[name] = row
                bench.say(
                    f"  {name:44} {row['ms a step']:8.1f} ms  {row['images/s']:7.1f} images/s  "
                    f"waiting {row['share waiting']:.1%} (host {row['host share waiting']:.1%}, "
                    f"first pass {row['share waiting, first pass']:.1%})"
                )
                # The packed level is for those who have no other: its figures are only told.
                too_long = row["share waiting"] > WAIT_LIMIT and level == "resized"
                result.require(
                    not (too_long and bench.on_cuda), f"{name}: {row['share waiting']:.1%} waiting"
                )
        with result.part("parts of a step"):
            parts = _parts(bench, detector, amp=amp)
            result.found[f"parts, {'bf16' if amp else 'float32'}"] = parts
            bench.say("  " + ", ".join(f"{name} {ms:.1f} ms" for name, ms in parts.items()))
    result.summary = f"batch {sizes.batch}, {sizes.detector}: " + ", ".join(
        f"{name} {row['ms a step']:.0f} ms"
        for name, row in result.found.items()
        if "ms a step" in row
    )


Way = Literal["plain", "engine", "fused"]
#: How a detector guides: in words behind a row's name, and as options of a run.
_WAYS: dict[Way, str] = {"plain": ", torchvision's path", "engine": "", "fused": ", fused detector"}
_OPTIONS: dict[Way, dict[str, Any]] = {
    "plain": {"plain_detector": True},
    "engine": {},
    "fused": {"speedups": ("fused-adam", "fused-detector")},
}


def _ways(bench: Bench) -> Iterator[tuple[LevelName, int, Way]]:
    """Every stream under the engine; the first of them under the others, too."""
    for number, (level, threads) in enumerate(bench.sizes.streams):
        yield level, threads, "engine"
        if number == 0:
            yield level, threads, "plain"
            if bench.on_cuda:
                yield level, threads, "fused"


def _streamed(
    bench: Bench,
    detector: FrozenDetector,
    level: LevelName,
    threads: int,
    *,
    amp: bool,
    **more: Any,
) -> dict[str, Any]:
    """Steps of two passes over the store, as the trainer makes them, each timed on the device.

    Each step ends with its losses on the host, so the device has nothing to do until the next batch
    is there: all the time between is waiting for data. Packed images are reduced on the device. The
    first pass also reads every sidecar, which no later one does: its waiting is told by itself.
    """
    store = bench.frame_store(level)
    fit = bench.sizes.fit if level == "packed" else None
    with trainer(bench, store, detector, amp=amp, level=level, flip=0.5, **more) as run:
        options: dict[str, Any] = {"batch_size": bench.sizes.batch, "flip": 0.5, "fit": fit}
        dataset = StoreDataset(store, split="train", level=level)
        loader = StreamLoader(dataset, device=bench.device, threads=threads, **options)
        first = _timed_steps(bench, run, loader)
        rows = _timed_steps(bench, run, loader)
    counted = rows[bench.sizes.warm :] or rows[-1:]
    took = statistics.median(row.step for row in counted)
    return {
        "steps": len(counted),
        "ms a step": round(took, 2),
        "images/s": round(1e3 * bench.sizes.batch / took, 2),
        "ms of logging a step, not in these": round(statistics.mean(r.log for r in counted), 2),
        "share waiting": _share(row.wait / row.step for row in counted),
        "host share waiting": _share(row.host_wait / row.step for row in counted),
        "share waiting, first pass": _share(
            row.wait / row.step for row in first[bench.sizes.warm :] or first[-1:]
        ),
        "ms waiting by step": [round(row.wait, 2) for row in (*first, *rows)],
        "ms by step": [round(row.step, 2) for row in (*first, *rows)],
    }


@dataclass(frozen=True)
class _Row:
    """Milliseconds of one step: all of it, waiting for its batch (device, host), logging after."""

    step: float
    wait: float
    host_wait: float
    log: float


def _timed_steps(bench: Bench, run: Trainer, loader: StreamLoader) -> list[_Row]:
    """One pass over a loader."""
    rows: list[_Row] = []
    batches = iter(loader)
    while True:
        idle, before = Clock(bench), time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return rows
        host, ready = time.perf_counter() - before, Clock(bench)
        step = run._train_step([batch])
        done = Clock(bench)
        bench.synchronise()
        before = time.perf_counter()
        run._log(0, step, 1.0, host)
        log = time.perf_counter() - before
        rows.append(_Row(done.since(idle), ready.since(idle), 1e3 * host, 1e3 * log))


def _share(shares: Iterable[float]) -> float:
    return round(statistics.mean(shares), 4)


def _parts(bench: Bench, detector: FrozenDetector, *, amp: bool) -> dict[str, float]:
    """Median milliseconds of a step's parts on a batch that is there already."""
    batch = fixed_batch(bench, bench.sizes.batch)
    rows: list[dict[str, float]] = []
    with trainer(bench, bench.frame_store("resized"), detector, amp=amp) as run:
        for _ in range(bench.sizes.warm + bench.sizes.steps):
            run.optimiser.zero_grad(set_to_none=True)
            clocks = [Clock(bench)]
            with run.precision.autocast():
                output = run._forward(batch.images, batch.exposure)
                clocks.append(Clock(bench))
                losses = run.guide.losses(output.image, batch.targets)
            clocks.append(Clock(bench))
            torch.autograd.backward(torch.stack(list(losses.values())).sum())
            clocks.append(Clock(bench))
            run.optimiser.step()
            clocks.append(Clock(bench))
            bench.synchronise()
            names = ("GenISP", "detector and losses", "backward", "Adam")
            took = [later.since(one) for one, later in pairwise(clocks)]
            rows.append(dict(zip(names, took, strict=True)))
    counted = rows[bench.sizes.warm :]
    return {name: round(statistics.median(r[name] for r in counted), 2) for name in counted[0]}


def memory(bench: Bench, result: Result) -> None:
    """Peak memory by batch size, arithmetic and checkpointing of activations."""
    if not bench.on_cuda:
        raise NotCheckedError("there is no GPU memory to measure")
    sizes = bench.sizes
    detector = timed_guide(bench)
    free, total = _cuda.mem_get_info(bench.device)
    outside = total - free - torch.cuda.memory_reserved(bench.device)
    held = torch.cuda.memory_allocated(bench.device)
    result.found = {
        "outside torch, GB": round(outside / 1e9, 2),
        "detector and what else is there, GB": round(held / 1e9, 2),
    }
    bench.say("  peak GB, allocated / reserved")
    for amp in bench.amps:
        for kept in (True, False):
            name = f"{'bf16' if amp else 'float32'}, {'kept' if kept else 'checkpointed'}"
            row: dict[str, Any] = {}
            for count in sizes.memory_batches:
                with result.part(f"{name}, batch {count}"):
                    try:
                        row[str(count)] = _peak(bench, detector, count, amp=amp, kept=kept)
                    except torch.OutOfMemoryError:
                        result.found[f"out of memory, {name}"] = count
                        break
            result.found[name] = row
            text = "  ".join(f"{c}: {a:.2f} / {r:.2f}" for c, (a, r) in row.items())
            bench.say(f"  {name:22} {text}")
            fitting = [int(c) for c, (_, reserved) in row.items() if 1e9 * reserved < SMALL_GPU]
            result.found[f"largest batch under 8 GB, {name}"] = max(fitting, default=0)
    result.summary = f"largest batch of {sizes.memory_batches} under 8 GB: " + ", ".join(
        f"{name.removeprefix('largest batch under 8 GB, ')} {count}"
        for name, count in result.found.items()
        if name.startswith("largest")
    )


def _peak(
    bench: Bench, detector: FrozenDetector, count: int, *, amp: bool, kept: bool
) -> tuple[float, float]:
    """Largest gigabytes allocated and reserved in two steps."""
    batch = fixed_batch(bench, count)
    options = {"amp": amp, "checkpoint_activations": not kept}
    with trainer(bench, bench.frame_store("resized"), detector, **options) as run:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(bench.device)
        for _ in range(2):
            run._train_step([batch])
        allocated = torch.cuda.max_memory_allocated(bench.device)
        reserved = torch.cuda.max_memory_reserved(bench.device)
    return round(allocated / 1e9, 3), round(reserved / 1e9, 3)


def _compiled(run: Trainer, **options: Any) -> None:
    forward = torch.compile(run.isp.forward_with_parameters, **options)
    run.isp.forward_with_parameters = forward  # type: ignore[method-assign]


def _detector_in_bf16(run: Trainer) -> None:
    detector: Any = run.detector
    detector.to(torch.bfloat16)


@dataclass(frozen=True)
class Variant:
    """One change of a step.

    Attributes
    ----------
    amp
        Whether it and what it is compared with compute in bf16.
    options
        Of the training's config.
    prepare
        Called with the trainer.
    setting
        Makes the context that every step runs in.
    """

    amp: bool = True
    options: dict[str, Any] = field(default_factory=dict)
    prepare: Callable[[Trainer], None] = lambda run: None
    setting: Callable[[], AbstractContextManager[None]] = nullcontext


def variants(bench: Bench) -> dict[str, Variant]:
    """All that are timed, in the order of what they may give; the compiler's minutes come last.

    The first of each arithmetic changes nothing and shows the noise.
    """
    cudnn = backends.cudnn
    # Without a GPU the compiler itself would be waited for; there the code path is what counts.
    backend: dict[str, Any] = {} if bench.on_cuda else {"backend": "eager"}
    modes: dict[str, Any] = {"mode": "reduce-overhead"} if bench.on_cuda else backend
    both = ("channels-last-isp", "channels-last-detector")
    return {
        "nothing (bf16)": Variant(),
        "detector channels_last": Variant(options={"speedups": ("channels-last-detector",)}),
        "both channels_last": Variant(options={"speedups": both}),
        "fused Adam": Variant(options={"speedups": ("fused-adam",)}),
        "cudnn.benchmark": Variant(setting=partial(changed, cudnn, "benchmark", True)),
        "GenISP channels_last": Variant(options={"speedups": ("channels-last-isp",)}),
        "detector in bf16": Variant(prepare=_detector_in_bf16),
        "activations checkpointed": Variant(options={"checkpoint_activations": True}),
        "nothing (float32)": Variant(amp=False),
        "float32, both channels_last": Variant(amp=False, options={"speedups": both}),
        "matrix products in TF32": Variant(amp=False, setting=with_tf32_products),
        "float32, cudnn.benchmark": Variant(
            amp=False, setting=partial(changed, cudnn, "benchmark", True)
        ),
        "convolutions without TF32": Variant(amp=False, setting=without_tf32),
        "GenISP compiled": Variant(prepare=partial(_compiled, **backend)),
        "compiled, reduce-overhead": Variant(prepare=partial(_compiled, **modes)),
    }


def compare_variants(bench: Bench, result: Result) -> None:
    """Every variant against the plain step, in turn.

    Random weights amplify rounding some hundredfold: under such a detector the differences of
    losses compare variants with each other, and say nothing about training.
    """
    sizes = bench.sizes
    store = bench.frame_store("resized")
    batch = fixed_batch(bench, sizes.batch)
    plain = timed_guide(bench)
    bench.say(f"  {'variant':28} {'ms':>8} {'gain':>6}   loss after a step, relative difference")
    with ExitStack() as stack:
        baselines = {
            amp: stack.enter_context(trainer(bench, store, plain, amp=amp)) for amp in bench.amps
        }
        plain_losses = {amp: _losses(bench, run, batch) for amp, run in baselines.items()}
        for name, variant in variants(bench).items():
            with result.part(name):
                if bench.is_late:
                    raise NotCheckedError("the time given was over")
                if sizes.variants and name not in sizes.variants:
                    raise NotCheckedError("left out at this size")
                amp = variant.amp and bench.has_bf16
                detector, options = copy.deepcopy(plain), variant.options | {"amp": amp}
                with trainer(bench, store, detector, **options) as run:
                    variant.prepare(run)
                    row = _in_turn(bench, batch, baselines[amp], run, variant)
                # The first loss is before any step: its difference is the forward pass's own.
                wanted = plain_losses[amp]
                pairs = zip(row["losses"], wanted, strict=True)
                away = [abs(ours - theirs) / abs(theirs) for ours, theirs in pairs]
                result.found[name] = row | {"loss differences": away}
                bench.say(
                    f"  {name:28} {row['ms a step']:8.2f} {row['gain']:6.3f}   {away[1]:.1e} "
                    f"(at once {away[0]:.1e}; first step {row['first step in s']:.1f} s)"
                )
            torch.compiler.reset()
    best = sorted(result.found, key=lambda name: -result.found[name]["gain"])[:3]
    gains = ", ".join(f"{name} x{result.found[name]['gain']:.3f}" for name in best)
    result.summary = f"largest gains: {gains}"


def _losses(bench: Bench, run: Trainer, batch: Batch) -> list[float]:
    """The losses of the first steps, which warm up."""
    return [run._train_step([batch]).loss for _ in range(bench.sizes.warm)]


def _in_turn(
    bench: Bench, batch: Batch, baseline: Trainer, run: Trainer, variant: Variant
) -> dict[str, Any]:
    """Warm the variant up, which gives its losses, then time both round by round."""
    begun = time.perf_counter()
    with variant.setting():
        losses = [run._train_step([batch]).loss]
        first = time.perf_counter() - begun
        losses += [run._train_step([batch]).loss for _ in range(bench.sizes.warm - 1)]
    rounds: list[tuple[float, float]] = []
    for number in range(bench.sizes.rounds):
        pair = {}
        for one in (baseline, run) if number % 2 else (run, baseline):
            with variant.setting() if one is run else nullcontext():
                pair[one is run] = _timed(bench, one, batch)
        rounds.append((pair[False], pair[True]))
    ratios = [before / after for before, after in rounds]
    return {
        "ms a step": round(statistics.median(after for _, after in rounds), 3),
        "ms of the plain step": round(statistics.median(before for before, _ in rounds), 3),
        "gain": round(statistics.median(ratios), 4),
        "gains by round": [round(ratio, 4) for ratio in ratios],
        "first step in s": round(first, 2),
        "losses": losses,
    }


def _timed(bench: Bench, run: Trainer, batch: Batch) -> float:
    """Milliseconds a step, each of which ends with its losses on the host."""
    bench.synchronise()
    started = time.perf_counter()
    for _ in range(bench.sizes.steps):
        run._train_step([batch])
    bench.synchronise()
    return 1e3 * (time.perf_counter() - started) / bench.sizes.steps


def kernels(bench: Bench, result: Result) -> None:
    """The fifteen kernels that take most of a step (operators where there is no GPU)."""
    sizes = bench.sizes
    detector = timed_guide(bench)
    batch = fixed_batch(bench, sizes.batch)
    with trainer(bench, bench.frame_store("resized"), detector, amp=bench.has_bf16) as run:
        for _ in range(sizes.warm):
            run._train_step([batch])
        rows = profiled(bench, lambda: run._train_step([batch]))
    whole = sum(milliseconds for milliseconds, _, _ in rows)
    for milliseconds, count, name in rows[:15]:
        bench.say(f"  {milliseconds:8.2f} ms {milliseconds / whole:6.1%} {count:5} x {name[:90]}")
    result.found = {
        "ms in all": round(whole, 2),
        "kernels": len(rows),
        "launches": sum(count for _, count, _ in rows),
        "top": [
            {"ms": round(ms, 3), "share": round(ms / whole, 4), "count": count, "name": name}
            for ms, count, name in islice(rows, 15)
        ],
    }
    result.summary = f"{whole:.1f} ms in {result.found['launches']} launches"
