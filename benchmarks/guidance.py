"""A guidance step through the frozen engine beside torchvision's own path: memory and CPU time.

    python -m benchmarks.guidance [--size 800x1216] [--rounds R] [--detector NAME] [--json FILE]

A guidance step is GenISP, the frozen detector's losses, and the backward pass to GenISP's weights,
of one image. Three tables, in one run:

- what is saved for the backward pass, in float32 and under autocast to bfloat16: each storage once,
  weights not counted (`torch.autograd.graph.saved_tensors_hooks`). On CUDA torch's autocast also
  casts GroupNorm's inputs to float32, so that torchvision's path keeps more there;
- CPU seconds of a step in float32, in turn, order reversed every round; the ratio is the median of
  ratios within a round. Threads as torch takes them (``OMP_NUM_THREADS``);
- the same of a validation, without gradients: GenISP, the losses and the detections. torchvision's
  path looks at the picture once for each, the engine once for both.

Weights are random: no figure depends on them. Freed memory is kept, as `train` does on a CPU.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.kit.machine import in_turn, machine_facts, summary, write_json
from genisp_model.detector import FrozenDetector, load_frozen_detector
from genisp_model.detector.engine import FrozenEngine
from genisp_model.detector.guide import BatchGuide
from genisp_model.device import keep_freed_memory
from genisp_model.isp import GenISP

#: COCO night scenes have 2 to 5 boxes; these are xyxy as shares of the image.
BOXES = ((0.10, 0.30, 0.25, 0.70), (0.50, 0.40, 0.58, 0.60), (0.70, 0.45, 0.95, 0.75))
LABELS = (1, 2, 3)
#: Targets: MiB kept an image in float32 and bfloat16, and CPU time as a share of torchvision's.
TARGETS = {"float32": 1300, "bfloat16": 900, "step": 0.70, "validation": 0.55}

Guide = FrozenDetector | FrozenEngine


class Setting:
    """GenISP, an image and its boxes, and both paths of one detector."""

    def __init__(self, detector: str, size: tuple[int, int]) -> None:
        torch.manual_seed(0)
        height, width = size
        plain = load_frozen_detector(detector, "none")
        self.guides: dict[str, Guide] = {"torchvision": plain, "engine": FrozenEngine(plain)}
        self.isp = GenISP()
        self.image = torch.rand(1, 3, height, width).mul_(0.02)
        self.exposure = torch.full((1,), 0.02)
        shares = torch.tensor([width, height, width, height])
        boxes = torch.tensor(BOXES) * shares
        self.targets = [{"boxes": boxes, "labels": torch.tensor(LABELS)}]

    def forward(self, guide: Guide) -> Tensor:
        """The loss of one image."""
        output = self.isp.forward_with_parameters(self.image, self.exposure)
        losses = guide.losses(output.image, self.targets)
        return torch.stack([part.float() for part in losses.values()]).sum()

    def step(self, guide: Guide) -> None:
        """Forward and backward."""
        self.isp.zero_grad(set_to_none=True)
        torch.autograd.backward(self.forward(guide))

    @torch.no_grad()
    def validation(self, guide: Guide) -> None:
        """Losses and detections of one image."""
        picture = self.isp(self.image, self.exposure)
        if isinstance(guide, BatchGuide):
            guide.losses_and_detections(picture, self.targets)
        else:
            guide.losses(picture, self.targets)
            guide.predict(picture)

    def mebibytes(self, guide: Guide, *, low_precision: bool) -> float:
        """Saved for the backward pass."""
        weights = {value.untyped_storage().data_ptr() for value in self._weights(guide)}
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=low_precision)
        with hooks, autocast:
            loss = self.forward(guide)
        assert loss.requires_grad  # holds what was kept until it is counted
        return sum(kept.values()) / 2**20

    def _weights(self, guide: Guide) -> list[Tensor]:
        networks: list[nn.Module] = [self.isp]
        if isinstance(guide, FrozenEngine):
            networks += [guide.backbone, guide.classify, guide.regress]
        else:
            networks.append(guide)
        tensors = [value for network in networks for value in network.buffers()]
        return tensors + [value for network in networks for value in network.parameters()]


def measure(
    setting: Setting, rounds: int, say: Callable[[str], None], *, low_precision: bool
) -> dict[str, Any]:
    """All tables."""
    document: dict[str, Any] = {"mebibytes": {}}
    say(f"{'saved for backward, MiB an image':36}{'torchvision':>12}{'engine':>9}{'target':>9}")
    for name in ("float32", "bfloat16") if low_precision else ("float32",):
        row = {
            path: round(setting.mebibytes(guide, low_precision=name == "bfloat16"), 1)
            for path, guide in setting.guides.items()
        }
        document["mebibytes"][name] = row
        say(f"{name:36}{row['torchvision']:12.0f}{row['engine']:9.0f}{TARGETS[name]:9.0f}")
    document |= {
        "step": _in_turn("step", setting.step, setting, rounds, say),
        "validation": _in_turn("validation", setting.validation, setting, rounds, say),
        "threads": torch.get_num_threads(),
    }
    return document


def _in_turn(
    name: str,
    work: Callable[[Guide], None],
    setting: Setting,
    rounds: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """CPU seconds of some work by both paths."""
    paths = {path: partial(work, guide) for path, guide in setting.guides.items()}
    taken = in_turn(paths, rounds=rounds)
    pairs = zip(taken["engine"], taken["torchvision"], strict=True)
    ratio = round(statistics.median(ours / theirs for ours, theirs in pairs), 3)
    theirs, ours = (statistics.median(taken[path]) for path in ("torchvision", "engine"))
    say(f"{f'CPU seconds a {name}, median':36}{theirs:12.2f}{ours:9.2f}")
    say(f"{'  as a share of torchvision':36}{'':12}{ratio:9.3f}{TARGETS[name]:9.2f}")
    return {"cpu": {path: summary(seconds) for path, seconds in taken.items()}, "ratio": ratio}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.guidance", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--size", default="800x1216", help="height x width")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--detector", default="retinanet_resnet50_fpn_v2")
    parser.add_argument("--no-bfloat16", action="store_true", help="it is slow on most processors")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    height, width = (int(side) for side in options.size.split("x"))
    print(f"{options.detector}, {height}x{width}, load {os.getloadavg()[0]:.1f}")
    keep_freed_memory()  # as train does
    setting = Setting(options.detector, (height, width))
    document = measure(setting, options.rounds, print, low_precision=not options.no_bfloat16)
    if options.json:
        facts = machine_facts(("torch", "torchvision", "numpy"))
        write_json(options.json, {"machine": facts, "size": [height, width], **document})


if __name__ == "__main__":
    main()
