"""Detectors, trainers and batches for the checks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from genisp_model.data import StoreDataset
from genisp_model.data.loader import Batch, StreamLoader
from genisp_model.detector import FrozenDetector, load_frozen_detector
from genisp_model.training import RunFolder, Trainer
from genisp_model.training.run import train_config
from scripts.gpu_check.checking import Bench

SAMPLE = ("sample_retinanet", "sample")


def guide(bench: Bench, name: str, weights: str) -> FrozenDetector:
    """A frozen detector on the bench's device, the same one each time it is asked for."""
    if name not in bench.guides:
        bench.guides[name] = load_guide(name, weights, bench.device)
    return bench.guides[name]


def timed_guide(bench: Bench) -> FrozenDetector:
    """The one that timings are about."""
    return guide(bench, bench.sizes.detector, bench.sizes.weights)


def load_guide(name: str, weights: str, device: torch.device) -> FrozenDetector:
    """A frozen detector on a device; with random weights, one whose activations have a scale."""
    torch.manual_seed(0)
    detector = load_frozen_detector(name, weights).to(device)
    if weights == "none":
        _calibrate(detector)
    return detector


@torch.no_grad()
def _calibrate(detector: FrozenDetector) -> None:
    """BatchNorm statistics of noise.

    Random weights with the statistics they start with let activations grow from block to block, and
    what low precision does to such numbers says nothing about trained ones.
    """
    norms = [module for module in detector.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average
        norm.training = True
    device = next(detector.parameters()).device
    model: Any = detector.model
    model.backbone(torch.randn(2, 3, 256, 384, device=device))
    for norm in norms:
        norm.training = False


@contextmanager
def trainer(
    bench: Bench, store: Path, detector: FrozenDetector, **options: Any
) -> Iterator[Trainer]:
    """A trainer of the default recipe on a store's split ``"train"``; its folder is removed."""
    fields: dict[str, Any] = {
        "store": str(store),
        "recipe": "default",
        "val_split": "",
        "batch_size": bench.sizes.batch,
        "detector": detector.name,
        "detector_weights": detector.weights,
        "flip": 0.0,
    }
    device = next(detector.parameters()).device
    with TemporaryDirectory(dir=bench.folder) as name:
        folder = RunFolder(Path(name))
        try:
            yield Trainer(
                train_config(fields | options), detector, folder, device, lambda text: None
            )
        finally:
            folder.close()


def full_frames(bench: Bench) -> bool:
    """Whether the store has frames of the size that timings are about."""
    store = bench.frames.get("resized")
    return store is not None and StoreDataset(store).index.shape(0)[1:] == bench.sizes.frame


def fixed_batch(bench: Bench, count: int, device: torch.device | None = None) -> Batch:
    """The same batch every time: of the store, or noise if the store's frames are of other size."""
    device = device or bench.device
    if full_frames(bench):
        dataset = StoreDataset(bench.frame_store("resized"))
        loader = StreamLoader(dataset, batch_size=count, shuffle=False, device=device)
        (batch,) = islice(loader, 1)
        return batch
    height, width = bench.sizes.frame
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, height, width, generator=generator).mul_(0.02).to(device)
    box = torch.tensor([[0.1, 0.2, 0.3, 0.6], [0.5, 0.4, 0.7, 0.8]])
    boxes = (box * torch.tensor([width, height, width, height])).to(device)
    labels = torch.tensor([1, 3], device=device)
    return Batch(
        images=images,
        targets=[{"boxes": boxes, "labels": labels} for _ in range(count)],
        ids=tuple(f"noise{number}" for number in range(count)),
        exposure=torch.full((count,), 0.02, device=device),
    )


def singles(batch: Batch) -> list[Batch]:
    """The same images as batches of one."""
    return [
        Batch(
            images=batch.images[slot : slot + 1],
            targets=[batch.targets[slot]],
            ids=(batch.ids[slot],),
            exposure=batch.exposure[slot : slot + 1],
        )
        for slot in range(len(batch))
    ]


def in_float64(batch: Batch) -> Batch:
    """The same numbers in float64."""
    targets = [target | {"boxes": target["boxes"].double()} for target in batch.targets]
    return replace(
        batch,
        images=batch.images.double(),
        targets=targets,
        exposure=batch.exposure.double(),
    )
