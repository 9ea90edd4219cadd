"""What one optimiser step tells, read from the device in one piece.

Every number read from a GPU waits until it has done all it was given. A step has some ten numbers
to tell; read one by one, they would stop the device as often.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import islice

import torch
from torch import Tensor

from genisp_model.isp import ISPOutput
from pipeline.errors import TrainingError

Range = tuple[float, float]

#: What to do when numbers are none any more; the second part where the loss was scaled.
DIVERGED = "lower --lr, or use --recipe default; checkpoints/last.pt is from before"
IN_FLOAT16 = "begin a new run without --amp fp16, into another --output-dir, or "


@dataclass(frozen=True)
class StepResult:
    """One optimiser step, over all its batches.

    Attributes
    ----------
    loss, parts
        Mean guidance loss (with the gray-world term, if any), and its terms.
    batch_losses
        The loss of each batch.
    gain_range, matrix_range
        Smallest and largest gain and matrix entry; None where the ISP gives none (GenISP: what
        ConvWB and ConvCC gave).
    images
        How many images it saw.
    gradient_norm
        Euclidean norm of the whole gradient before it was clipped; None where it is neither clipped
        nor scaled.
    loss_scale
        What the loss was multiplied by for the backward pass; None where it is not scaled.
    """

    loss: float
    parts: dict[str, float]
    batch_losses: tuple[float, ...]
    gain_range: Range | None
    matrix_range: Range | None
    images: int
    gradient_norm: float | None = None
    loss_scale: float | None = None

    @property
    def overflowed(self) -> bool:
        """Whether the scaled loss gave gradients that are no finite numbers."""
        norm = 0.0 if self.gradient_norm is None else self.gradient_norm
        return self.loss_scale is not None and not math.isfinite(norm)


@dataclass(frozen=True)
class BatchNumbers:
    """What one batch of a step tells, still on the device.

    Attributes
    ----------
    losses
        Scalars by name: the terms, and ``"loss"``, their sum.
    gains, matrix
        As in `ISPOutput`.
    images
        In this batch.
    """

    losses: Mapping[str, Tensor]
    gains: Tensor | None
    matrix: Tensor | None
    images: int

    @classmethod
    def of(cls, losses: Mapping[str, Tensor], output: ISPOutput, images: int) -> BatchNumbers:
        """Keep numbers only, nothing of the graph."""
        gains, matrix = (None if x is None else x.detach() for x in (output.gains, output.matrix))
        return cls({name: x.detach() for name, x in losses.items()}, gains, matrix, images)


def read_step(
    batches: Sequence[BatchNumbers], norm: Tensor | None = None, loss_scale: float | None = None
) -> StepResult:
    """All numbers of a step, with the gradient's norm if given, by one copy from the device."""
    gains = _extremes([batch.gains for batch in batches])
    matrices = _extremes([batch.matrix for batch in batches])
    losses = [value for batch in batches for value in batch.losses.values()]
    norms = [] if norm is None else [norm]
    numbers = iter(read_together([*losses, *gains, *matrices, *norms]))
    images = sum(batch.images for batch in batches)
    totals: dict[str, float] = {}
    batch_losses = []
    for batch in batches:
        found = dict(zip(batch.losses, islice(numbers, len(batch.losses)), strict=True))
        batch_losses.append(found["loss"])
        for name, value in found.items():
            totals[name] = totals.get(name, 0.0) + value * (batch.images / images)
    return StepResult(
        loss=totals.pop("loss"),
        parts=totals,
        batch_losses=tuple(batch_losses),
        gain_range=_range(numbers, gains),
        matrix_range=_range(numbers, matrices),
        images=images,
        gradient_norm=next(numbers, None),
        loss_scale=loss_scale,
    )


def refuse_no_numbers(
    result: StepResult, ids: Sequence[Sequence[str]], *, step: int, path: str
) -> None:
    """Stop before the weights become none; gradients that only overflowed are skipped.

    Parameters
    ----------
    result
        Of the step, before the optimiser.
    ids
        The samples of each of its batches.
    step, path
        Its number, from 1, and the run's folder, for the message.

    Raises
    ------
    TrainingError
        If a loss, or the gradient's norm, is no finite number.
    """
    mend = DIVERGED if result.loss_scale is None else IN_FLOAT16 + DIVERGED
    for names, loss in zip(ids, result.batch_losses, strict=True):
        if not math.isfinite(loss):
            message = f"the loss is {loss} at step {step}, samples {', '.join(names)}"
            raise TrainingError(message, path=path, mend=mend)
    norm = result.gradient_norm
    if norm is not None and not math.isfinite(norm) and not result.overflowed:
        every = ", ".join(name for names in ids for name in names)
        message = f"the gradient is {norm} at step {step}, samples {every}"
        raise TrainingError(message, path=path, mend=mend)


def read_together(scalars: Sequence[Tensor]) -> list[float]:
    """Scalars of one device as Python's numbers, to the bit, waiting for the device once."""
    # At least float32, and the widest there is: nothing is rounded.
    dtype = reduce(torch.promote_types, (one.dtype for one in scalars), torch.float32)
    numbers: list[float] = torch.stack([one.to(dtype).reshape(()) for one in scalars]).tolist()
    return numbers


def _extremes(values: Sequence[Tensor | None]) -> list[Tensor]:
    """The smallest and the largest number of all, as scalars; nothing if there are none."""
    flat = [value.float().flatten() for value in values if value is not None]
    if not flat:
        return []
    together = torch.cat(flat)
    return [together.min(), together.max()]


def _range(numbers: Iterator[float], extremes: Sequence[Tensor]) -> Range | None:
    """The next two numbers, if that many were read."""
    found = list(islice(numbers, len(extremes)))
    return (found[0], found[1]) if found else None
