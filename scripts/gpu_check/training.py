"""Does a training step on the device do what it does on a CPU, and leave the detector alone?"""

from __future__ import annotations

import copy
import csv
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from genisp_model.data.loader import Batch
from genisp_model.detector import FrozenDetector
from genisp_model.training.run import run_training
from scripts.gpu_check.checking import Bench, NotCheckedError, Result, without_tf32
from scripts.gpu_check.guides import (
    SAMPLE,
    fixed_batch,
    guide,
    in_float64,
    load_guide,
    singles,
    trainer,
)

#: Biases that the InstanceNorm behind them subtracts again: their gradients are rounding.
WITHOUT_EFFECT = {"shallow.conv1.bias", "shallow.conv2.bias"}

#: What torch's convolutions do in float32 unless told otherwise.
TF32 = "float32 as torch has it"
FLOAT64, IEEE, BF16 = "float64", "IEEE float32", "bf16"

#: Arithmetic -> what may differ between a batch of three and three of one: the loss, and the
#: gradient's distance, both relative. All hold for trained weights. Random ones amplify rounding
#: some hundredfold, in float32 to 2 or 3 % of the gradient: there only float64 is held to its
#: limits (the loss itself is summed in float32), and the others are told.
ARITHMETIC: dict[str, tuple[float, float]] = {
    FLOAT64: (1e-6, 1e-6),
    IEEE: (1e-4, 1e-2),
    TF32: (2e-3, 0.1),
    BF16: (2e-2, 0.3),
}


def frozen(bench: Bench, result: Result) -> None:
    """Steps that change every tensor of GenISP and none of the detector's."""
    bench.frame_store("resized")
    for name, weights in dict([SAMPLE, (bench.sizes.detector, bench.sizes.weights)]).items():
        detector = guide(bench, name, weights)
        for amp in bench.amps:
            label = f"{name}, {'bf16' if amp else 'float32'}"
            with result.part(label):
                _frozen(bench, result, detector, label, amp=amp)
        for arithmetic in ARITHMETIC:
            with result.part(f"{name}, batch of three, {arithmetic}"):
                if arithmetic == TF32 and not bench.on_cuda:
                    raise NotCheckedError("there is no TF32 here")
                _three(bench, result, detector, arithmetic)
        with result.part(f"{name}, bf16 and float32"):
            _low_precision(bench, result, detector)
    for arithmetic in (FLOAT64, IEEE):
        with result.part(f"CPU and device, {arithmetic}"):
            _as_on_a_cpu(bench, result, arithmetic)
    result.summary = "hash, anchors, gradients; three of one; against the CPU"


def _frozen(
    bench: Bench, result: Result, detector: FrozenDetector, label: str, *, amp: bool
) -> None:
    batch = fixed_batch(bench, 2)
    detector.losses(batch.images, batch.targets)  # makes the anchors
    state, anchors = detector.state_hash(), _anchors(detector)
    store = bench.frame_store("resized")
    with trainer(bench, store, detector, amp=amp) as run:
        start = [parameter.detach().clone() for parameter in run.isp.parameters()]
        losses = [run._train_step([batch]).loss for _ in range(2)]
        named = dict(run.isp.named_parameters())
    still = [
        name
        for (name, value), before in zip(named.items(), start, strict=True)
        if torch.equal(value, before) and name not in WITHOUT_EFFECT
    ]
    unreached = [
        name
        for name, value in named.items()
        if value.grad is None or not value.grad.isfinite().all()
    ]
    result.found[label] = {"losses": losses, "tensors": len(named)}
    result.require(detector.state_hash() == state, f"{label}: the detector's state changed")
    result.require(
        all(map(torch.equal, anchors, _anchors(detector))), f"{label}: the anchors changed"
    )
    result.require(not still, f"{label}: did not move: {', '.join(still)}")
    result.require(not unreached, f"{label}: no gradient: {', '.join(unreached)}")


def _anchors(detector: FrozenDetector) -> list[Tensor]:
    """The anchors of one cell, by pyramid level: no part of the state dictionary."""
    model: Any = detector.model
    return [anchors.float().cpu() for anchors in model.anchor_generator.cell_anchors]


def _three(bench: Bench, result: Result, detector: FrozenDetector, arithmetic: str) -> None:
    """A batch of three is three batches of one."""
    if arithmetic == BF16:
        bench.require_bf16()
    batch = fixed_batch(bench, 3)
    together = _step(bench, detector, [batch], arithmetic)
    apart = _step(bench, detector, singles(batch), arithmetic)
    required = arithmetic == FLOAT64 or detector.weights != "none"
    name = f"{detector.name}, batch of three, {arithmetic}"
    _judge(result, name, (together, apart), ARITHMETIC[arithmetic] if required else None)


def _low_precision(bench: Bench, result: Result, detector: FrozenDetector) -> None:
    """A step in bf16 beside one in float32."""
    bench.require_bf16()
    batch = fixed_batch(bench, 1)
    steps = [_step(bench, detector, [batch], arithmetic) for arithmetic in (TF32, BF16)]
    required = detector.weights != "none"
    name = f"{detector.name}, bf16 and float32"
    _judge(result, name, steps, ARITHMETIC[BF16] if required else None)


def _as_on_a_cpu(bench: Bench, result: Result, arithmetic: str) -> None:
    """One step from the same start."""
    steps = []
    for device in (torch.device("cpu"), bench.device):
        detector = load_guide(*SAMPLE, device)
        batch = fixed_batch(bench, 1, device)
        steps.append(_step(bench, detector, [batch], arithmetic))
    _judge(result, f"CPU and device, {arithmetic}", steps, ARITHMETIC[arithmetic])


def _step(
    bench: Bench, detector: FrozenDetector, window: list[Batch], arithmetic: str
) -> tuple[float, Tensor]:
    """Loss and gradient, one vector on the CPU, of the first step."""
    store = bench.frame_store("resized")
    if arithmetic == FLOAT64:
        detector, window = copy.deepcopy(detector).double(), [in_float64(one) for one in window]
    full = without_tf32() if arithmetic == IEEE else nullcontext()
    with full, trainer(bench, store, detector, amp=arithmetic == BF16) as run:
        if arithmetic == FLOAT64:
            run.isp.double()
        loss = run._train_step(window).loss
        gradients = [parameter.grad for parameter in run.isp.parameters()]
    return loss, torch.cat([g.flatten().cpu() for g in gradients if g is not None])


def _judge(
    result: Result, name: str, steps: Sequence[tuple[float, Tensor]], limits: Sequence[float] | None
) -> None:
    """Note how far two steps are apart, relatively, in loss and gradient; hold it to limits."""
    one, other = steps
    loss = abs(one[0] - other[0]) / abs(one[0])
    gradient = float((one[1] - other[1]).norm() / one[1].norm())
    result.found[name] = {"loss": loss, "gradient": gradient, "limits": limits}
    if limits is not None:
        result.require(loss <= limits[0], f"{name}: losses differ by {loss:.2g}")
        result.require(gradient <= limits[1], f"{name}: gradients differ by {gradient:.2g}")


def runs(bench: Bench, result: Result) -> None:
    """Whole runs as the command makes them: fewer bits, a graph, deterministic and resumed."""
    bench.frame_store("resized")
    with result.part("bf16 run"):
        bench.require_bf16()
        result.found["bf16"] = _run(bench, "bf16", amp="bf16")
    with result.part("fp16 run"):
        if not bench.on_cuda:
            raise NotCheckedError("float16 takes too long on a processor")
        result.found["fp16"] = _run(bench, "fp16", amp="fp16")
    with result.part("CUDA graph run"):
        if not bench.on_cuda:
            raise NotCheckedError("there are no graphs without a GPU")
        plain, graph = _run(bench, "plain"), _run(bench, "graph", speedups=("cuda-graph",))
        result.found["graph"] = graph
        away = max(abs(ours / theirs - 1) for ours, theirs in zip(graph, plain, strict=True))
        result.require(away < 1e-2, f"by a graph, losses differ by {away:.1g}")
    try:
        with result.part("deterministic run"):
            whole = _run(bench, "whole", deterministic=True)
            _run(bench, "parts", deterministic=True, limit_steps=1)
            resumed = _run(bench, "parts", deterministic=True)
            result.found |= {"deterministic": whole, "resumed after 1": resumed}
            result.require(whole == resumed, "a resumed deterministic run has other losses")
    finally:
        torch.use_deterministic_algorithms(False)
    lengths = {name: len(losses) for name, losses in result.found.items()}
    result.summary = ", ".join(f"{name}: {count} steps" for name, count in lengths.items())


def _run(bench: Bench, name: str, **options: Any) -> list[float]:
    """An epoch with validation, or what is left of it; the losses of the whole run."""
    folder = bench.folder / name
    detector, weights = SAMPLE
    fields: dict[str, Any] = {
        "store": str(bench.frame_store("resized")),
        "val_split": "train",
        "recipe": "default",
        "epochs": 1,
        "batch_size": bench.sizes.batch,
        "device": str(bench.device),
        "detector": detector,
        "detector_weights": weights,
        "box_loss": "smooth_l1",
        "flip": 0.5,
    }
    said: list[str] = []
    code = run_training(fields | options, folder, resume=folder.exists(), say=said.append)
    if code:
        raise RuntimeError(f"train ended with {code}: {said[-1]}")
    with (folder / "steps.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]
