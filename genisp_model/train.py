"""The training loop, visible: data, picture, frozen detector, loss, step, log.

stream -> GenISP -> frozen detector's losses -> backward through the detector -> GenISP's step
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from genisp_model.checkpoint import Checkpoint, load_checkpoint
from genisp_model.data import StoreDataset
from genisp_model.detector import FrozenDetector
from genisp_model.evaluate import Evaluation, evaluate
from genisp_model.frozen_engine import guide_by
from genisp_model.isp import GenISP, GenISPOutput, gray_world_loss
from genisp_model.recipes import RECIPES
from genisp_model.runlog import PictureRow, RunFolder
from genisp_model.stream import Batch, StreamLoader
from pipeline.errors import TrainingError, UsageError
from schemas.training import TrainConfig

#: Optimiser steps between checkpoints: what a kill can cost.
CHECKPOINT_EVERY = 20
#: A gain or matrix entry beyond this is called diverging (learning experiment, section 7).
RUNAWAY = 20.0
#: Validation samples drawn after each epoch.
PICTURES = 4

Say = Callable[[str], None]


@dataclass(frozen=True)
class StepResult:
    """One optimiser step, over all its batches.

    Attributes
    ----------
    loss, parts
        Mean guidance loss (with the gray-world term, if any), and its terms.
    gain_range, matrix_range
        Smallest and largest numbers ConvWB and ConvCC gave.
    images
        How many images it saw.
    """

    loss: float
    parts: dict[str, float]
    gain_range: tuple[float, float]
    matrix_range: tuple[float, float]
    images: int


@dataclass
class Trainer:
    """One run: its network, its frozen guide, its data, and where it stands.

    Parameters
    ----------
    config
        What to do.
    detector
        The frozen guide, on `device`.
    folder
        Where everything goes.
    device
        Where it runs.
    say
        Called with lines for the user.
    stop
        Asked after every optimiser step; True ends the run there, with a checkpoint.
    """

    config: TrainConfig
    detector: FrozenDetector
    folder: RunFolder
    device: torch.device
    say: Say
    stop: Callable[[], bool] = lambda: False
    step: int = 0
    best: float = math.inf
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        config = self.config
        torch.manual_seed(config.seed)
        if config.deterministic:
            torch.use_deterministic_algorithms(True)
        self.isp = GenISP(RECIPES[config.recipe].isp).to(self.device)
        self._speed_up()
        self.guide = guide_by(
            self.detector,
            plain=config.plain_detector,
            fused="fused-detector" in config.speedups,
        )
        fused = True if "fused-adam" in config.speedups else None  # None: torch's choice
        self.optimiser = torch.optim.Adam(self.isp.parameters(), lr=config.lr, fused=fused)
        self.loader = self._loader(config.split, shuffle=True, flip=config.flip)
        self.validation = (
            self._loader(config.val_split, shuffle=False, flip=0.0) if config.val_split else None
        )

    def _speed_up(self) -> None:
        if "cudnn-benchmark" in self.config.speedups:
            if self.config.deterministic:
                raise UsageError(
                    "cudnn-benchmark takes the algorithm that was fastest this time",
                    mend="leave it out, or --deterministic",
                )
            torch.backends.cudnn.benchmark = True
        # A convolution computes in its weights' memory format.
        channels_last: Any = {"memory_format": torch.channels_last}
        if "channels-last-isp" in self.config.speedups:
            self.isp.to(**channels_last)
        if "channels-last-detector" in self.config.speedups:
            self.detector.to(**channels_last)

    def _loader(self, split: str, *, shuffle: bool, flip: float) -> StreamLoader:
        dataset = StoreDataset(self.config.store, split=split, level=self.config.level)
        if not dataset.has_boxes():
            raise UsageError(
                f"split {split!r} has no boxes to train or score on",
                path=self.config.store,
                mend="ingest the annotations of these raws, or name another split",
            )
        return StreamLoader(
            dataset,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            shuffle=shuffle,
            flip=flip,
            device=self.device,
            skip_damaged=self.config.skip_damaged,
        )

    def resume(self, path: Path) -> None:
        """Continue exactly where a checkpoint was taken.

        Raises
        ------
        TrainingError
            If it belongs to another store, recipe or setting; every difference is named.
        """
        saved = load_checkpoint(path)
        differences = saved.config.differences(self.config)
        if differences:
            raise TrainingError(
                "this run was started otherwise: " + "; ".join(differences),
                path=str(path),
                mend="use the same options, or another --output-dir for a new run",
            )
        self.isp.load_state_dict(saved.isp)
        self.optimiser.load_state_dict(saved.optimiser)
        self.loader.load_state_dict(saved.loader)
        torch.set_rng_state(saved.rng)
        self.step, self.best = saved.step, saved.best
        self.folder.forget_after(self.step)
        self.say(f"continuing after step {self.step}, epoch {self.loader.epoch}")

    def save(self, path: Path) -> None:
        """Write a checkpoint of this moment."""
        Checkpoint(
            config=self.config,
            step=self.step,
            epoch=self.loader.epoch,
            isp={name: value.cpu() for name, value in self.isp.state_dict().items()},
            optimiser=self.optimiser.state_dict(),
            loader=self.loader.state_dict(),
            rng=torch.get_rng_state(),
            best=self.best,
        ).save(path)

    def fit(self) -> bool:
        """Train to the end; False if it was stopped before.

        Raises
        ------
        TrainingError
            If the loss is no number any more.
        """
        frozen = self.detector.state_hash()
        while self.loader.epoch < self.config.epochs and not self._is_enough():
            epoch = self.loader.epoch
            self._set_rate(epoch)
            finished = self._train_epoch(epoch)
            if not finished:
                self.save(self.folder.last)
                return self._is_enough()
            self._validate(epoch)
            self.save(self.folder.last)
        if self.detector.state_hash() != frozen:
            raise TrainingError("the frozen detector has changed", mend="please report this")
        return True

    def _is_enough(self) -> bool:
        return 0 < self.config.limit_steps <= self.step

    def _set_rate(self, epoch: int) -> None:
        passed = sum(epoch >= step for step in self.config.lr_steps)
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.lr * self.config.lr_gamma**passed

    def _train_epoch(self, epoch: int) -> bool:
        """The rest of an epoch; False if it was stopped inside."""
        started, waited = time.monotonic(), 0.0
        batches = self._batches()
        while True:
            before = time.monotonic()
            window = list(islice(batches, self.config.accumulate))
            waited += time.monotonic() - before
            if not window:
                return True
            try:
                result = self._train_step(window)
            except torch.OutOfMemoryError as error:
                raise TrainingError(
                    f"not enough memory on {self.device} at step {self.step + 1}",
                    path=str(self.folder.path),
                    mend="--batch-size 1 with a larger --accumulate steps alike; --amp and "
                    "--checkpoint-activations need less too",
                ) from error
            self.step += 1
            self.losses.append(result.loss)
            self._log(epoch, result, time.monotonic() - started, waited)
            started, waited = time.monotonic(), 0.0
            if self.step % CHECKPOINT_EVERY == 0:
                self.save(self.folder.last)
            if self._is_enough() or self.stop():
                return False

    def _batches(self) -> Iterator[Batch]:
        if not self.config.overfit_one_batch:
            yield from self.loader
            return
        first = next(iter(self.loader))
        for _ in range(len(self.loader)):
            yield first
        self.loader.set_epoch(self.loader.epoch + 1)

    def _train_step(self, window: list[Batch]) -> StepResult:
        images = sum(len(batch) for batch in window)
        totals: dict[str, float] = {}
        gains: list[Tensor] = []
        matrices: list[Tensor] = []
        self.optimiser.zero_grad(set_to_none=True)
        for batch in window:
            with self._autocast():
                output = self._forward(batch)
                parts = self.guide.losses(output.image, batch.targets)
            loss = torch.stack([part.float() for part in parts.values()]).sum()
            if self.config.gray_world:
                colour = gray_world_loss(output.image.float())
                parts = parts | {"gray_world": colour}
                loss = loss + self.config.gray_world * colour
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"the loss is {float(loss.detach())} at step {self.step + 1}, samples "
                    + ", ".join(batch.ids),
                    path=str(self.folder.path),
                    mend="lower --lr, or use --recipe default; checkpoints/last.pt is from before",
                )
            share = len(batch) / images
            (loss * share).backward()  # type: ignore[no-untyped-call]
            for name, part in (parts | {"loss": loss}).items():
                totals[name] = totals.get(name, 0.0) + float(part.detach()) * share
            gains.append(output.gains.detach())
            matrices.append(output.matrix.detach())
        self.optimiser.step()
        return StepResult(
            loss=totals.pop("loss"),
            parts=totals,
            gain_range=_range(gains),
            matrix_range=_range(matrices),
            images=images,
        )

    def _forward(self, batch: Batch) -> GenISPOutput:
        if not self.config.checkpoint_activations:
            return self.isp.forward_with_parameters(batch.images, batch.exposure)
        output: GenISPOutput = checkpoint(
            self.isp.forward_with_parameters, batch.images, batch.exposure, use_reentrant=False
        )
        return output

    def _autocast(self) -> Any:
        if not self.config.amp:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _log(self, epoch: int, result: StepResult, seconds: float, waited: float) -> None:
        (gain_low, gain_high), (matrix_low, matrix_high) = result.gain_range, result.matrix_range
        rate = self.optimiser.param_groups[0]["lr"]
        self.folder.log_step(
            {
                "step": self.step,
                "epoch": epoch,
                "loss": result.loss,
                **result.parts,
                "lr": rate,
                "gain_min": gain_low,
                "gain_max": gain_high,
                "matrix_min": matrix_low,
                "matrix_max": matrix_high,
                "seconds": seconds,
                "data_seconds": waited,
            }
        )
        self.say(
            f"epoch {epoch + 1}/{self.config.epochs}  step {self.step}  loss {result.loss:.4f}  "
            f"time: {seconds:.2f}  data: {waited:.3f}  {result.images / max(seconds, 1e-9):.2f} "
            f"images/s  lr {rate:g}"
        )
        if gain_low < 0 or max(abs(gain_high), abs(matrix_low), abs(matrix_high)) > RUNAWAY:
            self.say(
                f"warning: diverging: gains {gain_low:.3g} to {gain_high:.3g}, matrix "
                f"{matrix_low:.3g} to {matrix_high:.3g}; --recipe default bounds both"
            )

    def render(self, batch: Batch) -> Tensor:
        """The network's pictures of a batch, as the detector sees them."""
        with self._autocast():
            pictures: Tensor = self.isp(batch.images, batch.exposure)
            return pictures.float()

    def _validate(self, epoch: int) -> None:
        if self.validation is None:
            return
        self.isp.eval()
        self.validation.set_epoch(0)
        scores = evaluate(self.render, self.guide, self.validation)
        self.validation.set_epoch(0)
        self.folder.draw_pictures(epoch + 1, list(islice(self._pictures(), PICTURES)))
        self.isp.train()
        self._report(epoch, scores)

    @torch.no_grad()
    def _pictures(self) -> Iterator[PictureRow]:
        """The first validation samples, always the same ones."""
        assert self.validation is not None
        for batch in self.validation:
            made = self.render(batch)
            for row, target in enumerate(batch.targets):
                one = slice(row, row + 1)
                yield PictureRow(batch.images[one], batch.exposure[one], made[one], target)

    def _report(self, epoch: int, scores: Evaluation) -> None:
        self.folder.log_epoch(
            {
                "step": self.step,
                "epoch": epoch + 1,
                "loss": scores.loss,
                "ap": scores.ap,
                "ap50": scores.ap50,
                "ap75": scores.ap75,
                **{f"ap_{name}": value for name, value in scores.ap_by_class.items()},
            }
        )
        self.say(
            f"validation after epoch {epoch + 1}: loss {scores.loss:.4f}  AP {scores.ap:.3f}  "
            f"AP50 {scores.ap50:.3f}"
        )
        if scores.loss < self.best:
            self.best = scores.loss
            self.save(self.folder.best)


def _range(values: list[Tensor]) -> tuple[float, float]:
    flat = torch.cat([value.float().flatten() for value in values])
    return float(flat.min()), float(flat.max())
