"""One frozen detector, one split, every rendering: does the trained network help, and how much?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genisp_model.checkpoint import load_isp
from genisp_model.data.dataset import StoreDataset
from genisp_model.data.loader import Batch, StreamLoader
from genisp_model.detector.guide import Guide
from genisp_model.evaluation.scores import Evaluation, Renderer, evaluate, paired_gain, restricted
from genisp_model.isp import ISP
from genisp_model.recipes import RECIPES
from genisp_model.renderings import render_classical, render_gray_world, render_xyz
from pipeline.store import open_store
from schemas.coco import FLAG_NAMES
from schemas.info import RenderingScore
from schemas.sidecar import Sidecar

CLASSICAL, CAMERA = "classical", "camera default"
UNTRAINED, TRAINED = "GenISP untrained", "GenISP trained"

#: Sample id -> (3, h, w) float32 RGB in 0..1, of the shape of the dataset's image.
Pictures = Callable[[str], npt.NDArray[np.float32]]

#: Largest ISO of each bin but the last.
ISO_BINS = (400, 1600)


def renderings(
    checkpoint: Path | None, device: torch.device, pictures: Pictures | None = None
) -> dict[str, Renderer]:
    """Every rendering by name, plainest first.

    The camera's default only with `pictures`, the networks only with a checkpoint. The untrained
    network is the recipe's, with the run's seed, also where the run began with another's weights.
    """
    found: dict[str, Renderer] = {
        "naive XYZ": lambda batch: render_xyz(batch.images, batch.exposure),
        "gray-world + gamma": lambda batch: render_gray_world(batch.images, batch.exposure),
        CLASSICAL: lambda batch: render_classical(batch.images, batch.exposure),
    }
    if pictures is not None:
        found[CAMERA] = _shown(pictures)
    if checkpoint is not None:
        trained, config = load_isp(checkpoint)
        torch.manual_seed(config.seed)
        untrained = RECIPES[config.recipe].make_isp()
        found[UNTRAINED] = _renderer(untrained.to(device).eval())
        found[TRAINED] = _renderer(trained.to(device))
    return found


def compare(
    dataset: StoreDataset,
    detector: Guide,
    checkpoint: Path | None,
    device: torch.device,
    *,
    batch_size: int = 1,
    pictures: Pictures | None = None,
    by_condition: bool = False,
) -> Iterator[tuple[RenderingScore, Evaluation]]:
    """Score every rendering; paired figures are against the classical one.

    Parameters
    ----------
    dataset, detector, checkpoint, device, batch_size
        What is scored, by whom, and how many images at a time.
    pictures
        Gives the camera's default picture, asked for a batch at a time; without it that rendering
        is left out.
    by_condition
        Score also over the images of each condition, see `conditions`.

    Yields
    ------
    The score as data, and everything it was made from: all renderings over all images, then all
    renderings over the images of each condition.
    """
    scored: dict[str, Evaluation] = {}
    for name, render in renderings(checkpoint, device, pictures).items():
        loader = StreamLoader(dataset, batch_size=batch_size, shuffle=False, device=device)
        scored[name] = evaluate(render, detector, loader)
    yield from _scores(scored, "")
    if by_condition:
        store = open_store(dataset.files)
        slices = conditions({name: store.sidecar(name) for name in dataset.ids})
        for condition, ids in slices.items():
            yield from _scores(
                {name: restricted(whole, ids) for name, whole in scored.items()}, condition
            )


def conditions(sidecars: Mapping[str, Sidecar]) -> dict[str, tuple[str, ...]]:
    """Images by condition: for each per-box flag, then by ISO.

    An image has a flag if at least one of its boxes has it, and has it not if its boxes state it
    and none has it; where no box states it, the image is in neither. What does not divide the
    images in two or more is left out.

    Parameters
    ----------
    sidecars
        By sample id.

    Returns
    -------
    Sample ids by condition: ``"isextreme"``, ``"not isextreme"``, ..., ``"ISO <=400"``, ...; in the
    order of `sidecars`.
    """
    families: list[dict[str, list[str]]] = []
    for flag in FLAG_NAMES:
        families.append({flag: [], f"not {flag}": []})
        for name, sidecar in sidecars.items():
            stated = _stated(sidecar, flag)
            if stated:
                families[-1][flag if any(stated) else f"not {flag}"].append(name)
    by_iso: dict[str, list[str]] = {name: [] for name in _iso_names()}
    for name, sidecar in sidecars.items():
        if sidecar.capture.iso is not None:
            by_iso[_iso_names()[int(np.searchsorted(ISO_BINS, sidecar.capture.iso))]].append(name)
    families.append(by_iso)
    held = [{name: tuple(ids) for name, ids in one.items() if ids} for one in families]
    return {name: ids for one in held if len(one) > 1 for name, ids in one.items()}


def _stated(sidecar: Sidecar, flag: str) -> list[bool]:
    boxes = () if sidecar.annotation is None else sidecar.annotation.boxes
    return [box.flags[flag] for box in boxes if flag in box.flags]


def _iso_names() -> tuple[str, ...]:
    low, high = ISO_BINS
    return f"ISO <={low}", f"ISO {low + 1}-{high}", f"ISO >{high}"


def _scores(
    scored: Mapping[str, Evaluation], condition: str
) -> Iterator[tuple[RenderingScore, Evaluation]]:
    for name, result in scored.items():
        gain = paired_gain(scored[CLASSICAL], result)
        yield (
            RenderingScore(
                rendering=name,
                condition=condition,
                ap=result.ap,
                ap50=result.ap50,
                ap75=result.ap75,
                ap_by_class=result.ap_by_class,
                ap50_by_class=result.ap50_by_class,
                ap_by_size=result.ap_by_size,
                loss=result.loss,
                gain=gain.mean,
                gain_error=gain.standard_error if len(result.losses) > 1 else 0.0,
                images=len(result.losses),
                lines=result.block,
            ),
            result,
        )


def _shown(pictures: Pictures) -> Renderer:
    def render(batch: Batch) -> Tensor:
        stacked = np.stack([pictures(name) for name in batch.ids])
        return torch.from_numpy(stacked).to(batch.images)

    return render


def _renderer(isp: ISP) -> Renderer:
    def render(batch: Batch) -> Tensor:
        pictures: Tensor = isp(batch.images, batch.exposure)
        return pictures

    return render
