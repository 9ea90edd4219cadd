"""Forward and backward pass of a step as one CUDA graph: launched as one, not kernel by kernel.

    step = GraphedStep(work, engine, parameters)
    result = step(batch)  # what work(inputs of the batch) gives; its gradients in the parameters

A graph reads and writes the same memory at each replay. So a batch is copied into buffers that
stay, and gradients lie where the capture put them. A batch that does not fit is for the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from genisp_model.data.loader import Batch
from genisp_model.detector.engine import FrozenEngine
from genisp_model.detector.guide import Guide
from genisp_model.detector.losses import Objects
from genisp_model.device import Say
from pipeline.errors import UsageError
from schemas.training import TrainConfig

_cuda: Any = torch.cuda  # its streams are untyped

Result = TypeVar("Result")
#: Runs work until it is warm, then records it; gives what it gave, and what replays it.
Capture = Callable[[Callable[[], Result]], tuple[Result, Callable[[], None]]]

#: Boxes of an image that the buffers have room for; night scenes have some ten.
ROOM = 64
#: Runs before the capture: torch's own advice, for what is made at first use.
WARM = 3


def capture(work: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
    """Warm some work up on a stream of its own, then record it; see `Capture`.

    Every replay computes on the memory of the recording and writes its results over the last ones.
    Gradients must be unset before each run: `work` sees to that.
    """
    side = _cuda.Stream()
    side.wait_stream(_cuda.current_stream())
    with _cuda.stream(side):
        for _ in range(WARM):
            work()
    _cuda.current_stream().wait_stream(side)
    graph = _cuda.CUDAGraph()
    with _cuda.graph(graph):
        result = work()
    return result, graph.replay


@dataclass(frozen=True)
class Inputs:
    """What a step reads, in memory that stays.

    Attributes
    ----------
    images, exposure
        As in `Batch`.
    objects
        Its boxes, padded to `ROOM` for each image.
    """

    images: Tensor
    exposure: Tensor
    objects: Objects

    @classmethod
    def of(cls, batch: Batch) -> Inputs:
        """Of a batch, as copies."""
        return cls(batch.images.clone(), batch.exposure.clone(), padded(batch))

    def take(self, batch: Batch) -> None:
        """Another batch of the same shape, without waiting for the device."""
        objects = padded(batch)
        self.images.copy_(batch.images)
        self.exposure.copy_(batch.exposure)
        self.objects.boxes.copy_(objects.boxes)
        self.objects.labels.copy_(objects.labels)


def padded(batch: Batch) -> Objects:
    """The boxes of a batch, `ROOM` rows for each image."""
    found = Objects.of(
        [target["boxes"] for target in batch.targets],
        [target["labels"] for target in batch.targets],
    )
    spare = ROOM - found.boxes.shape[1]
    return Objects(
        functional.pad(found.boxes, (0, 0, 0, spare)),
        functional.pad(found.labels, (0, spare), value=-1),
    )


class GraphedStep(Generic[Result]):
    """A step's gradients by a graph, recorded with the first batch that it fits.

    Parameters
    ----------
    work
        Computes losses of `Inputs` and adds their gradients; nothing in it may depend on numbers
        that the host reads.
    guide
        Whose losses those are.
    parameters
        That get gradients.
    capture
        Records it.
    """

    def __init__(
        self,
        work: Callable[[Inputs], Result],
        guide: FrozenEngine,
        parameters: Iterable[nn.Parameter],
        capture: Capture[Result] = capture,
    ) -> None:
        self._work, self._guide, self._capture = work, guide, capture
        self._parameters = list(parameters)
        self._inputs: Inputs | None = None
        self._gradients: list[Tensor | None] = []
        self._told = False

    def takes(self, batch: Batch, say: Say) -> bool:
        """Whether it can be replayed; the first time not, says why."""
        reason = self._refusal(batch)
        if reason is not None and not self._told:
            self._told = True
            say(f"cuda-graph: a batch {reason}: steps like it are made without the graph")
        return reason is None

    def _refusal(self, batch: Batch) -> str | None:
        shape = tuple(batch.images.shape)
        if self._guide.resizes((shape[-2], shape[-1])):
            return f"of {shape[-1]}x{shape[-2]} pixels, which the detector resizes"
        if any(len(target["ignore"]) for target in batch.targets):
            return "with regions to ignore"
        if max(len(target["boxes"]) for target in batch.targets) > ROOM:
            return f"with more than {ROOM} boxes in an image"
        if self._inputs is not None and shape != (mine := tuple(self._inputs.images.shape)):
            return f"of shape {shape}, the graph's is {mine}"
        return None

    def __call__(self, batch: Batch) -> Result:
        """What the work gives of a batch that it takes; its gradients replace all others."""
        if self._inputs is None:
            self._record(Inputs.of(batch))
        assert self._inputs is not None
        self._inputs.take(batch)
        self._replay()
        # Whoever sets gradients to None lets go of the memory that the graph writes.
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return self._result

    def _record(self, inputs: Inputs) -> None:
        def work() -> Result:
            for parameter in self._parameters:
                parameter.grad = None
            return self._work(inputs)

        self._result, self._replay = self._capture(work)
        self._inputs = inputs
        self._gradients = [parameter.grad for parameter in self._parameters]


def engine_for_graph(config: TrainConfig, guide: Guide, device: torch.device) -> FrozenEngine:
    """The guide, if its steps can be recorded.

    Raises
    ------
    UsageError
        Without a CUDA device or the frozen engine; with several batches a step, whose gradients a
        replay would not add up; in float16, whose scale would be recorded as it is now; with
        activations that are computed twice.
    """
    reasons = {
        "is for a CUDA device": device.type != "cuda",
        "is for steps of one batch: --accumulate 1": config.accumulate > 1,
        "does not go with --amp fp16": config.amp == "fp16",
        "does not go with --checkpoint-activations": config.checkpoint_activations,
    }
    reason = next((text for text, holds in reasons.items() if holds), None)
    if reason is None and isinstance(guide, FrozenEngine):
        return guide
    mend = "leave it out; a run that has it goes on here with --resume --speedup auto"
    raise UsageError(f"cuda-graph {reason or 'is for the frozen engine'}", mend=mend)
