"""A validation: scores and pictures of the same samples every time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch

from genisp_model.data.loader import Batch, StreamLoader
from genisp_model.detector.guide import Guide
from genisp_model.evaluation.scores import Evaluation, Renderer, evaluate
from genisp_model.training.records.run_folder import PictureRow, RunFolder

#: Samples drawn after each validation.
PICTURES = 4

Batches = StreamLoader | list[Batch]


def validate(render: Renderer, guide: Guide, batches: Batches, device: torch.device) -> Evaluation:
    """Score all batches, from the first; random numbers stay as they are.

    Parameters
    ----------
    render, guide
        Makes the pictures; looks at them.
    batches
        What is scored.
    device
        Where all of it is.
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        return evaluate(render, guide, _from_the_first(batches))


def draw(render: Renderer, guide: Guide, batches: Batches, folder: RunFolder, epoch: int) -> None:
    """Draw the first samples into a run folder, as of an epoch, counted from 1."""
    folder.draw_pictures(epoch, list(islice(_pictures(render, guide, batches), PICTURES)))


def _from_the_first(batches: Batches) -> Batches:
    if isinstance(batches, StreamLoader):
        batches.set_epoch(0)
    return batches


@torch.no_grad()
def _pictures(render: Renderer, guide: Guide, batches: Batches) -> Iterator[PictureRow]:
    for batch in _from_the_first(batches):
        made = render(batch)
        for row, target in enumerate(batch.targets):
            one = slice(row, row + 1)
            yield PictureRow(
                batch.images[one], batch.exposure[one], made[one], target, guide.class_names
            )
