"""One frozen detector, one split, every rendering: does the trained network help, and how much?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from genisp_model.checkpoint import load_isp
from genisp_model.data import StoreDataset
from genisp_model.detector import FrozenDetector
from genisp_model.evaluate import Evaluation, Renderer, evaluate, paired_gain
from genisp_model.isp import GenISP
from genisp_model.recipes import RECIPES
from genisp_model.renderings import render_classical, render_gray_world, render_xyz
from genisp_model.stream import Batch, StreamLoader
from schemas.info import RenderingScore

UNTRAINED, TRAINED = "GenISP untrained", "GenISP trained"


def renderings(checkpoint: Path | None, device: torch.device) -> dict[str, Renderer]:
    """Every rendering by name, plainest first; the networks only with a checkpoint.

    The untrained network is the one that run started from: same recipe, same seed.
    """
    found: dict[str, Renderer] = {
        "naive XYZ": lambda batch: render_xyz(batch.images, batch.exposure),
        "gray-world + gamma": lambda batch: render_gray_world(batch.images, batch.exposure),
        "classical": lambda batch: render_classical(batch.images, batch.exposure),
    }
    if checkpoint is not None:
        trained, config = load_isp(checkpoint)
        torch.manual_seed(config.seed)
        untrained = GenISP(RECIPES[config.recipe].isp)
        found[UNTRAINED] = _renderer(untrained.to(device).eval())
        found[TRAINED] = _renderer(trained.to(device))
    return found


def compare(
    dataset: StoreDataset,
    detector: FrozenDetector,
    checkpoint: Path | None,
    device: torch.device,
    *,
    batch_size: int = 1,
) -> Iterator[tuple[RenderingScore, Evaluation]]:
    """Score every rendering; paired figures are against the classical one.

    Yields
    ------
    The score as data, and everything it was made from.
    """
    reference: Evaluation | None = None
    scored: list[tuple[str, Evaluation]] = []
    for name, render in renderings(checkpoint, device).items():
        loader = StreamLoader(dataset, batch_size=batch_size, shuffle=False, device=device)
        scored.append((name, evaluate(render, detector, loader)))
        if name == "classical":
            reference = scored[-1][1]
    for name, result in scored:
        gain = paired_gain(reference, result) if reference else None
        yield (
            RenderingScore(
                rendering=name,
                ap=result.ap,
                ap50=result.ap50,
                ap75=result.ap75,
                ap_by_class=result.ap_by_class,
                loss=result.loss,
                gain=gain.mean if gain else 0.0,
                gain_error=gain.standard_error if gain and len(result.losses) > 1 else 0.0,
                images=len(result.losses),
            ),
            result,
        )


def _renderer(isp: GenISP) -> Renderer:
    def render(batch: Batch) -> Tensor:
        pictures: Tensor = isp(batch.images, batch.exposure)
        return pictures

    return render
