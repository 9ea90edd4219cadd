"""Train the stand-in detector on well-lit drawings of the sample scenes.

    python -m scripts.learning.train_sample_detector --out FILE [--minutes M] [--steps N] [--seed S]

Scenes come from `pipeline.sample_set`, by day, with seeds far from those ``prep sample`` uses, and
are rendered as `genisp_model.renderings.render_classical` does. The detector must know the objects
but not the night: pictures get mild changes of colour, contrast and sharpness, little noise, and
never darkness. What is lost at night is then the rendering's to win back.

The first part of the training looks at small crops, the rest at nearly whole frames. Weights are
saved in half precision, several times on the way, and scored at the end on held-out scenes.

Two processes share the work; their gradients are averaged. With the same seed, steps, processes and
torch, the weights are the same; with ``--minutes`` the schedule follows the clock where that is
faster, and they are not.
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn
from torch.nn import functional

from genisp_model.data.augment import flip_boxes, flip_image
from genisp_model.data.loader import Batch
from genisp_model.detector.frozen import SAMPLE_DETECTOR, FrozenDetector, load_frozen_detector
from genisp_model.detector.stand_in import sample_detector
from genisp_model.evaluation import evaluate
from genisp_model.renderings import render_classical
from pipeline.sample_set import compose_scene, render_scene

SCENE_SEED = 1_000_003  # `write_sample_set` composes scenes by (seed, index), too
SIZE = (612, 408)  # the packed level of the small sample set
HELD_OUT = 60  # scenes 0 .. 59; training takes those from 1000 on

_FIRST_TRAINING_SCENE = 1000
_SMALL, _LARGE = (256, 384), (384, 576)  # crops, height and width
_SMALL_PHASE = 0.6  # of the training
_WARM_UP = 0.05
_LARGEST_STEP, _SMALLEST_STEP = 1.5e-3, 1e-5  # learning rates
_BATCH = 2  # pictures a process
_SAVE_EVERY = 60.0  # seconds
_VISIBLE = 0.35  # share of a box's area that must be in the crop


@dataclass(frozen=True)
class Pictures:
    """Rendered scenes.

    Attributes
    ----------
    images
        (n, 3, H, W) uint8 sRGB.
    boxes, labels
        n tensors: (m, 4) float ``xyxy`` and (m,) int64.
    """

    images: Tensor
    boxes: list[Tensor]
    labels: list[Tensor]


@dataclass(frozen=True)
class Settings:
    """One training run."""

    out: Path
    cache: Path
    seed: int
    steps: int
    minutes: float
    processes: int


def draw_scenes(first: int, count: int, *, processes: int) -> Pictures:
    """Render scenes ``first .. first + count - 1`` by day."""
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        drawn = list(pool.map(_draw, range(first, first + count), chunksize=8))
    images, boxes, labels = zip(*drawn, strict=True)
    return Pictures(
        torch.from_numpy(np.stack(images)),
        [torch.from_numpy(box) for box in boxes],
        [torch.from_numpy(label) for label in labels],
    )


def _draw(
    number: int,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    width, height = SIZE
    scene = compose_scene((SCENE_SEED, number), aspect=width / height)
    drawn = render_scene(scene, width=width, height=height, illumination="day")
    (picture,) = render_classical(torch.from_numpy(drawn.xyz)[None])  # (3, H, W)
    boxes = drawn.boxes.astype(np.float32)
    boxes[:, 2:] += boxes[:, :2]
    return (picture * 255).round().to(torch.uint8).numpy(), boxes, drawn.labels


def crop(
    pictures: Pictures, number: int, size: tuple[int, int], rng: np.random.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """A scaled and perhaps mirrored part of a picture, with the boxes that can be seen in it.

    Parameters
    ----------
    size
        Height and width of the part.

    Returns
    -------
    The picture (3, height, width) float in 0..1, and torchvision's target.
    """
    height, width = size
    image = pictures.images[number].float().div_(255)  # (3, H, W)
    full_height, full_width = image.shape[1:]
    smallest = max(height / full_height, width / full_width)
    scale = smallest if rng.random() < 0.4 else rng.uniform(smallest, max(1.0, smallest))
    # Scale and crop in one: a window of the frame, resampled to the crop.
    part = (round(height / scale), round(width / scale))
    part = (min(part[0], full_height), min(part[1], full_width))
    top = int(rng.integers(0, full_height - part[0] + 1))
    left = int(rng.integers(0, full_width - part[1] + 1))
    window = image[None, :, top : top + part[0], left : left + part[1]]
    (image,) = functional.interpolate(window, size=size, mode="bilinear", antialias=True)
    zoom = torch.tensor([width / part[1], height / part[0]] * 2)
    offset = torch.tensor([left, top] * 2, dtype=torch.float32)
    boxes, labels = _visible((pictures.boxes[number] - offset) * zoom, size, pictures, number)
    if rng.random() < 0.5:
        image, boxes = flip_image(image), torch.from_numpy(flip_boxes(boxes.numpy(), width))
    return image, {"boxes": boxes, "labels": labels}


def _visible(
    boxes: Tensor, size: tuple[int, int], pictures: Pictures, number: int
) -> tuple[Tensor, Tensor]:
    limits = torch.tensor([size[1], size[0]] * 2, dtype=torch.float32)
    inside = boxes.clamp_min(0).minimum(limits)  # (m, 4)
    sides = (inside[:, 2:] - inside[:, :2]).clamp_min(0)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    kept = (sides.prod(dim=1) >= _VISIBLE * areas) & (sides.amin(dim=1) >= 4)
    return inside[kept], pictures.labels[number][kept]


def jitter(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Another camera in the same daylight: (3, H, W) -> the same shape, in 0..1."""
    gains = torch.tensor(rng.uniform(0.85, 1.15, 3) * rng.uniform(0.8, 1.2), dtype=image.dtype)
    image = (image * gains[:, None, None]).clamp(0, 1) ** float(rng.uniform(0.75, 1.35))
    if rng.random() < 0.25:
        padded = functional.pad(image[None], (1, 1, 1, 1), mode="replicate")
        (image,) = functional.avg_pool2d(padded, 3, stride=1)
    if rng.random() < 0.5:
        noise = rng.standard_normal(tuple(image.shape), dtype=np.float32)
        image = image + float(rng.uniform(0, 0.025)) * torch.from_numpy(noise)
    return image.clamp(0, 1)


def learning_rate(progress: float) -> float:
    """One cycle: a short rise, then a cosine down. `progress` is 0..1."""
    if progress < _WARM_UP:
        return _LARGEST_STEP * (0.05 + 0.95 * progress / _WARM_UP)
    rest = (progress - _WARM_UP) / (1 - _WARM_UP)
    return _SMALLEST_STEP + (_LARGEST_STEP - _SMALLEST_STEP) * (1 + math.cos(math.pi * rest)) / 2


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the state dict as half-precision safetensors, under its name only when complete."""
    state = {name: value.detach().half().contiguous() for name, value in model.state_dict().items()}
    unfinished = path.with_name(path.name + ".part")
    save_file(state, unfinished)
    unfinished.chmod(0o644)  # it was made for its owner alone
    os.replace(unfinished, path)


def score(pictures: Pictures, weights: Path) -> str:
    """COCO's numbers of saved weights."""
    detector: FrozenDetector = load_frozen_detector(SAMPLE_DETECTOR, weights)
    result = evaluate(lambda batch: batch.images, detector, list(_batches(pictures)))
    classes = ", ".join(f"{name} {ap:.3f}" for name, ap in result.ap_by_class.items())
    return f"AP {result.ap:.3f} ({classes}), AP50 {result.ap50:.3f}, loss {result.loss:.3f}"


def _batches(pictures: Pictures) -> Iterator[Batch]:
    for number, (boxes, labels) in enumerate(zip(pictures.boxes, pictures.labels, strict=True)):
        image = pictures.images[number : number + 1].float() / 255
        target = {"boxes": boxes, "labels": labels}
        yield Batch(image, [target], (str(number),), torch.ones(1))


def _train(rank: int, settings: Settings, meeting: str) -> None:
    """One process of the training."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=settings.processes
    )
    pictures = torch.load(settings.cache, weights_only=True)
    pictures = Pictures(*pictures["training"])
    torch.manual_seed(settings.seed)  # the same start in every process
    model = sample_detector().train()
    # Sharper boxes than the smooth loss gives in so short a time; the weights serve either.
    model.head.regression_head._loss_type = "l1"
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LARGEST_STEP, weight_decay=0.02)
    rng = np.random.default_rng([settings.seed, rank])
    started = saved = time.monotonic()
    average = math.nan
    for step in range(settings.steps):
        elapsed = time.monotonic() - started
        progress = _agree(max(step / settings.steps, elapsed / (60 * settings.minutes)))
        if progress >= 1:
            break
        loss = _step(model, optimizer, pictures, rng, progress)
        average = loss if math.isnan(average) else 0.97 * average + 0.03 * loss
        if rank == 0 and step % 50 == 0:
            click.echo(f"step {step}, {progress:.0%}, {elapsed:.0f} s: loss {average:.3f}")
        if rank == 0 and time.monotonic() - saved > _SAVE_EVERY:
            saved = time.monotonic()
            save_weights(model, settings.out)
    if rank == 0:
        save_weights(model, settings.out)
    distributed.destroy_process_group()


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    pictures: Pictures,
    rng: np.random.Generator,
    progress: float,
) -> float:
    size = _SMALL if progress < _SMALL_PHASE else _LARGE
    numbers = rng.integers(0, len(pictures.images), _BATCH).tolist()
    images, targets = zip(*(crop(pictures, n, size, rng) for n in numbers), strict=True)
    losses: dict[str, Tensor] = model([jitter(image, rng) for image in images], list(targets))
    loss = torch.stack(list(losses.values())).sum()
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    _average_gradients(model)
    nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(progress)
    optimizer.step()
    return float(loss.detach())


def _average_gradients(model: nn.Module) -> None:
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()


def _agree(progress: float) -> float:
    """The first process's clock is everybody's."""
    value = torch.tensor([progress], dtype=torch.float64)
    distributed.broadcast(value, 0)
    return float(value)


def _prepare(settings: Settings, scenes: int) -> None:
    if settings.cache.exists():
        return
    click.echo(f"drawing {scenes + HELD_OUT} scenes")
    training = draw_scenes(_FIRST_TRAINING_SCENE, scenes, processes=settings.processes)
    held_out = draw_scenes(0, HELD_OUT, processes=settings.processes)
    parts = {"training": training, "held_out": held_out}
    torch.save({name: (p.images, p.boxes, p.labels) for name, p in parts.items()}, settings.cache)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Weights to write.")
@click.option("--minutes", default=math.inf, help="Time limit; the schedule ends with it.")
@click.option("--steps", default=6000, help="Steps at most; fewer if the time is over.")
@click.option("--seed", default=0)
@click.option("--scenes", default=450, help="Training scenes.")
@click.option("--processes", default=2, help="Processes that share the work.")
@click.option("--cache", type=click.Path(path_type=Path), help="Drawn scenes, kept here.")
def main(
    out: Path,
    minutes: float,
    steps: int,
    seed: int,
    scenes: int,
    processes: int,
    cache: Path | None,
) -> None:
    """Train the stand-in detector on well-lit drawings of the sample scenes."""
    with tempfile.TemporaryDirectory() as folder:
        cache = cache or Path(folder) / "scenes.pt"
        settings = Settings(out, cache, seed, steps, minutes, processes)
        _prepare(settings, scenes)
        shared = (settings, str(Path(folder) / "meeting"))
        spawn(_train, args=shared, nprocs=processes)
        held_out = Pictures(*torch.load(cache, weights_only=True)["held_out"])
    click.echo(f"{HELD_OUT} held-out scenes: {score(held_out, out)}")
    digest = hashlib.sha256(out.read_bytes()).hexdigest()
    click.echo(f"{out}: {out.stat().st_size} bytes, SHA-256 {digest}")


if __name__ == "__main__":
    main()
