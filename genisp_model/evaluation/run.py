"""What the command ``evaluate`` does: options to a device, a detector, and the scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from genisp_model.data.dataset import StoreDataset, say_what_is_ignored
from genisp_model.detector.classes import read_classes
from genisp_model.detector.engine import guide_by
from genisp_model.detector.frozen import load_frozen_detector
from genisp_model.device import Say, choose_device, keep_freed_memory, memory_errors
from genisp_model.evaluation.comparison import Pictures, compare
from schemas.info import RenderingScore


def run_evaluation(
    options: Mapping[str, Any],
    checkpoint: Path | None,
    say: Say,
    pictures: Pictures | None = None,
) -> list[RenderingScore]:
    """Score every rendering of a split under a frozen detector.

    `pictures` gives the camera's default rendering by sample id; None leaves that one out.

    Raises
    ------
    UsageError, NoStoreError, TrainingError
        If the split, the store or the checkpoint is not there, or memory is too short.
    """
    device = choose_device(options["device"], say)
    if device.type == "cpu":
        keep_freed_memory()
    mend = "close other programs on the device, or --level resized, or another --device"
    with memory_errors(device, "for scoring", mend=mend):
        return _scored(options, checkpoint, device, say, pictures)


def _scored(
    options: Mapping[str, Any],
    checkpoint: Path | None,
    device: torch.device,
    say: Say,
    pictures: Pictures | None,
) -> list[RenderingScore]:
    named = options.get("detector_classes")
    detector = load_frozen_detector(
        options["detector"],
        weights=options["detector_weights"],
        box_loss=options["box_loss"],
        classes=None if named is None else read_classes(named),
    ).to(device)
    dataset = StoreDataset(
        options["store"],
        split=options["split"],
        level=options["level"],
        classes=detector.class_names,
    )
    say_what_is_ignored(dataset, say)
    guide = guide_by(detector, plain=bool(options.get("plain_detector")))
    by_condition = bool(options.get("by_condition"))
    found = compare(
        dataset, guide, checkpoint, device, pictures=pictures, by_condition=by_condition
    )
    scores = [score for score, _ in found]
    if by_condition and not any(score.condition for score in scores):
        say("these images carry no flags that differ, and are of one ISO bin: no conditions")
    return scores
