"""The training loop, visible: data, picture, frozen detector, loss, step, log.

stream -> ISP -> frozen guide's losses -> backward through the guide -> the ISP's step
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from genisp_model.checkpoint import Checkpoint, load_checkpoint
from genisp_model.data.dataset import StoreDataset
from genisp_model.data.loader import Batch, StreamLoader
from genisp_model.detector.engine import FrozenEngine, guide_by
from genisp_model.detector.guide import Guide
from genisp_model.device import Say, memory_errors, peak_memory
from genisp_model.isp import ISPOutput, gray_world_loss
from genisp_model.recipes import RECIPES
from genisp_model.training.augmentation import loader_options
from genisp_model.training.best import Best, why_no_score
from genisp_model.training.memory import set_up_mend, step_mend, validation_mend
from genisp_model.training.overfit import first_batch, instead_of_epoch
from genisp_model.training.records.pace import Pace, ahead
from genisp_model.training.records.report import EpochReport, StepReport
from genisp_model.training.records.run_folder import RunFolder
from genisp_model.training.same_run import refuse_another_run
from genisp_model.training.same_store import StoreChanges, digests_of, store_changes
from genisp_model.training.samples import open_samples
from genisp_model.training.start import freeze, initial_network, train_others
from genisp_model.training.steps.average import WeightAverage
from genisp_model.training.steps.cuda_graph import GraphedStep, Inputs, engine_for_graph
from genisp_model.training.steps.precision import Precision
from genisp_model.training.steps.schedule import learning_rate, refuse_long_warmup
from genisp_model.training.steps.speedups import speed_up
from genisp_model.training.steps.step import BatchNumbers, StepResult, read_step, refuse_no_numbers
from genisp_model.training.validation import Batches, draw, validate
from pipeline.errors import TrainingError
from pipeline.store.reader import open_store
from schemas.training import TrainConfig

#: Optimiser steps between checkpoints: what a kill can cost.
CHECKPOINT_EVERY = 20


@dataclass
class Trainer:
    """One run: its network, its frozen guide, its data, and where it stands.

    Parameters
    ----------
    config
        What to do.
    detector
        The frozen guide, on `device`. Where the frozen engine knows its parts, the engine guides in
        its place, unless the config says ``plain_detector``.
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
    detector: Guide
    folder: RunFolder
    device: torch.device
    say: Say
    stop: Callable[[], bool] = lambda: False
    step: int = 0
    losses: list[float] = field(default_factory=list)
    pace: Pace = field(default_factory=Pace, init=False)
    _begun: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        config = self.config
        torch.manual_seed(config.seed)
        if config.deterministic:
            torch.use_deterministic_algorithms(True)
        self.precision = Precision(config.amp, self.device)
        with self._memory("for the detector and the network", set_up_mend(config)):
            self.isp = RECIPES[config.recipe].make_isp().to(self.device)
            self.frozen_parts = freeze(self.isp, config.freeze)
            train_others(self.isp, self.frozen_parts)
            self._compiled = speed_up(config, self.isp, self.detector, self.device)
            self.average = WeightAverage(self.isp, config.ema) if config.ema else None
            self._frozen = self.detector.state_hash()
            self.guide = guide_by(
                self.detector,
                plain=config.plain_detector,
                fused="fused-detector" in config.speedups,
            )
        self.best_so_far = Best(config.best_by, config.patience)
        trained = [weight for weight in self.isp.parameters() if weight.requires_grad]
        self._graph: GraphedStep[BatchNumbers] | None = None
        if "cuda-graph" in config.speedups:
            engine = engine_for_graph(config, self.guide, self.device)
            self._graph = GraphedStep(self._recorded, engine, trained)
        fused = True if "fused-adam" in config.speedups else None  # None: torch's choice
        self.optimiser = torch.optim.Adam(trained, lr=config.lr, fused=fused)
        self.store = open_store(config.store)
        flip = 0.0 if config.overfit_one_batch else config.flip
        self.loader = self._loader(config.split, shuffle=True, flip=flip)
        self._an_epoch = len(self.loader)
        self._steps = config.epochs * math.ceil(self._an_epoch / config.accumulate)
        refuse_long_warmup(config, self._steps)
        self.validation: Batches | None = None
        if config.val_split and config.overfit_one_batch:
            self.validation = [self._one_batch]
        elif config.val_split:
            self.validation = self._loader(config.val_split, shuffle=False, flip=0.0)

    def _memory(self, doing: str, mend: str) -> AbstractContextManager[None]:
        return memory_errors(self.device, doing, mend=mend, path=str(self.folder.path))

    def _loader(self, split: str, *, shuffle: bool, flip: float) -> StreamLoader:
        dataset = open_samples(
            *(self.store, self.config, split, self.guide.class_names, self.say),
            limit=0 if shuffle else self.config.val_limit,
        )
        return StreamLoader(
            dataset,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            shuffle=shuffle,
            flip=flip,
            **(loader_options(self.config) if shuffle else {}),
            device=self.device,
            skip_damaged=self.config.skip_damaged,
        )

    def resume(self, path: Path, *, accept_changes: bool = False) -> None:
        """Continue exactly where a checkpoint was taken.

        Parameters
        ----------
        path
            Of the checkpoint.
        accept_changes
            Go on with other samples than the run was started with. If samples came or went, the
            epoch begins again.

        Raises
        ------
        TrainingError
            If it belongs to another store, recipe, setting or detector, or the store's samples have
            changed; every difference is named.
        """
        saved = load_checkpoint(path)
        refuse_another_run(saved, self.config, self.detector, path)
        changes = self._changes(saved, path)
        if changes and not accept_changes:
            raise TrainingError(
                f"the store is not what this run was started with: {changes}",
                path=self.config.store,
                mend="train anew into another --output-dir, or add --accept-changed-store",
            )
        try:
            with self._memory("for the checkpoint", set_up_mend(self.config)):
                self._restore(saved, changes)
        except TrainingError:
            raise
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            message = f"its state does not fit this run ({type(error).__name__}: {error})"
            mend = "use the version of this tool that wrote it, or begin a new run"
            raise TrainingError(message, path=str(path), mend=mend) from error
        state = self.loader.state_dict()  # at the end of an epoch, its validation is still to come
        self.folder.forget_after(self.step, scored=state["cursor"] < len(self.loader))
        if changes:
            self.say(f"warning: the store has changed since this run was started: {changes}")
        self.say(f"continuing after step {self.step}, {self._where()}")

    def _changes(self, saved: Checkpoint, path: Path) -> StoreChanges:
        if saved.samples is None:
            self.say(f"warning: {path} does not say which samples it was trained on: not compared")
            return StoreChanges()
        return store_changes(saved.samples, self.store, self._datasets)

    def _restore(self, saved: Checkpoint, changes: StoreChanges) -> None:
        self.isp.load_state_dict(saved.isp)
        if self.average is not None:
            self.average.isp.load_state_dict(saved.average or {})
        mine = self.optimiser.param_groups[0]["fused"]  # not the checkpoint's: it may change
        groups = [group | {"fused": mine} for group in saved.optimiser["param_groups"]]
        self.optimiser.load_state_dict(saved.optimiser | {"param_groups": groups})
        if changes.gone or changes.new:
            self.loader.set_epoch(saved.epoch)
        else:
            self.loader.load_state_dict(saved.loader)
        torch.set_rng_state(saved.rng)
        if saved.device_rng is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(saved.device_rng, self.device)
        if saved.precision is not None:
            self.precision.load_state_dict(saved.precision)
        self.step = saved.step
        self.best_so_far.score, self.best_so_far.since = saved.best, saved.since_best

    def _where(self) -> str:
        done, total = self.loader.epoch, self.config.epochs
        return f"in epoch {done + 1} of {total}" if done < total else f"all {done} epochs are done"

    @property
    def _datasets(self) -> list[StoreDataset]:
        loaders = [self.loader, self.validation]
        return [one.dataset for one in loaders if isinstance(one, StreamLoader)]

    def save(self, path: Path) -> None:
        """Write a checkpoint of this moment; what was logged until then is on disk before it."""
        self.folder.flush()
        on_cuda = self.device.type == "cuda"
        Checkpoint(
            config=self.config,
            step=self.step,
            epoch=self.loader.epoch,
            isp={name: value.cpu() for name, value in self.isp.state_dict().items()},
            optimiser=self.optimiser.state_dict(),
            loader=self.loader.state_dict(),
            rng=torch.get_rng_state(),
            best=self.best,
            since_best=self.best_so_far.since,
            average=None if self.average is None else self.average.state_dict(),
            device_rng=torch.cuda.get_rng_state(self.device) if on_cuda else None,
            samples=digests_of(self.store, self._datasets),
            detector=self._frozen,
            precision=self.precision.state_dict(),
        ).save(path)

    def fit(self) -> bool:
        """Train to the end; False if it was stopped before.

        A run that reaches ``limit_steps`` is scored and saved there like one that reaches its end;
        so it is when its patience has ended.

        Raises
        ------
        TrainingError
            If the loss is no number any more, or the run folder cannot be written.
        RunLockedError
            If another process writes that folder.
        """
        with self.folder.only_writer():
            if self.step == 0:
                self.begin()
            while self.loader.epoch < self.config.epochs and not self._has_ended():
                epoch = self.loader.epoch
                if not self._train_epoch(epoch):
                    if not self._is_enough():
                        self.save(self.folder.last)
                        return False
                    if self.loader.state_dict()["cursor"] >= len(self.loader):
                        self.loader.set_epoch(epoch + 1)  # the limit is the end of the epoch
                self._end_epoch(epoch)
                self.save(self.folder.last)
        if self.detector.state_hash() != self._frozen:
            raise TrainingError("the frozen detector has changed", mend="please report this")
        return True

    def begin(self) -> None:
        """Take the network to begin with, and let the folder be this run's alone.

        What an earlier run left there is moved aside, and said.
        """
        if self._begun:
            return
        if (initial := initial_network(self.config)) is not None:
            for isp in [self.isp] if self.average is None else [self.isp, self.average.isp]:
                isp.load_state_dict(initial.weights)
        self._begun = True
        if (aside := self.folder.begin()) is not None:
            self.say(f"what an earlier run left here is now in {aside}")

    @property
    def best(self) -> float:
        """The best validation score so far, as `Best` has it."""
        return self.best_so_far.score

    def _is_enough(self) -> bool:
        return 0 < self.config.limit_steps <= self.step

    def _has_ended(self) -> bool:
        return self._is_enough() or self.best_so_far.is_exhausted

    def _set_rate(self, epoch: int) -> None:
        rate = learning_rate(self.config, step=self.step, epoch=epoch, steps=self._steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate

    def _train_epoch(self, epoch: int) -> bool:
        """The rest of an epoch; False if it was stopped inside."""
        started, waited = time.monotonic(), 0.0
        one = self.config.overfit_one_batch
        batches = instead_of_epoch(self.loader, self._one_batch) if one else iter(self.loader)
        while True:
            mend = step_mend(self.config, saved=self.folder.last.exists())
            with self._memory(f"at step {self.step + 1}", mend):
                before = time.monotonic()
                window = list(islice(batches, self.config.accumulate))
                waited += time.monotonic() - before
                if not window:
                    return True
                self._set_rate(epoch)
                result = self._train_step(window)
            self.step += 1
            if self.average is not None:
                self.average.update(self.isp, self.step)
            self.losses.append(result.loss)
            self._log(epoch, result, time.monotonic() - started, waited)
            started, waited = time.monotonic(), 0.0
            if self.step % CHECKPOINT_EVERY == 0:
                self.save(self.folder.last)
            if self._is_enough() or self.stop():
                return False

    @cached_property
    def _one_batch(self) -> Batch:
        """Also in a run that is continued."""
        with self._memory("for the first batch", step_mend(self.config, saved=False)):
            return first_batch(self.loader, self.config.store)

    def _train_step(self, window: list[Batch]) -> StepResult:
        """One optimiser step over some batches; the host waits for the device once, before it."""
        images = sum(len(batch) for batch in window)
        self.optimiser.zero_grad(set_to_none=True)
        batches = [self._backward(batch, len(batch) / images) for batch in window]
        norm = self.precision.gradient_norm(self.isp.parameters(), self.config.clip_grad)
        result = read_step(batches, norm, self.precision.scale)
        ids = [batch.ids for batch in window]
        refuse_no_numbers(result, ids, step=self.step + 1, path=str(self.folder.path))
        self.precision.step(self.optimiser, result)
        return result

    def _backward(self, batch: Batch, share: float) -> BatchNumbers:
        """Add a batch's gradients, weighted by its share of the step's images."""
        if self._graph is not None and self._graph.takes(batch, self.say):
            return self._graph(batch)
        with self.precision.autocast():
            output = self._forward(batch.images, batch.exposure)
            losses = self.guide.losses(output.image, batch.targets)
        return self._add_gradients(output, losses, share)

    def _recorded(self, inputs: Inputs) -> BatchNumbers:
        """The same in one graph, of a step of one batch."""
        engine = self.guide
        assert isinstance(engine, FrozenEngine)
        with self.precision.autocast(cached=False):  # casts are recorded where they are used
            output = self._forward(inputs.images, inputs.exposure)
            losses = engine.losses_of(output.image, inputs.objects)
        means = {name: values.sum() / len(values) for name, values in losses.items()}
        return self._add_gradients(output, means, 1.0)

    def _add_gradients(
        self, output: ISPOutput, losses: Mapping[str, Tensor], share: float
    ) -> BatchNumbers:
        parts = dict(losses)
        loss = torch.stack([part.float() for part in parts.values()]).sum()
        if self.config.gray_world:
            parts["gray_world"] = gray_world_loss(output.image.float())
            loss = loss + self.config.gray_world * parts["gray_world"]
        torch.autograd.backward(self.precision.scaled(loss * share))
        return BatchNumbers.of(parts | {"loss": loss}, output, len(output.image))

    def _forward(self, images: Tensor, exposure: Tensor) -> ISPOutput:
        forward = self._compiled or self.isp.forward_with_parameters
        if not self.config.checkpoint_activations:
            return forward(images, exposure)
        output: ISPOutput = checkpoint(forward, images, exposure, use_reentrant=False)
        return output

    def _log(self, epoch: int, result: StepResult, seconds: float, waited: float) -> None:
        self.pace.stepped(seconds, result.images)
        done = {"step": self.step, "epoch": epoch, "cursor": self.loader.state_dict()["cursor"]}
        left = ahead(self.config, **done, batches=self._an_epoch)
        told = StepReport(
            step=self.step,
            steps=self.step + left.steps,
            epoch=epoch + 1,
            epochs=self.config.epochs,
            result=result,
            rate=self.optimiser.param_groups[0]["lr"],
            seconds=seconds,
            data_seconds=waited,
            eta=self.pace.eta(left),
            memory=peak_memory(self.device),
        )
        self.folder.log_step(told.row())
        for line in told.lines():
            self.say(line)

    def render(self, batch: Batch) -> Tensor:
        """Pictures of a batch, as the detector sees them: by the average, if there is one."""
        isp = self.isp if self.average is None else self.average.isp
        with self.precision.autocast():
            pictures: Tensor = isp(batch.images, batch.exposure)
            return pictures.float()

    def _end_epoch(self, epoch: int) -> None:
        """Say how it went; validate where it is due, always at the end of the run."""
        losses = self.folder.losses_of(epoch + 1)
        rate = self.pace.images_per_second()
        told = EpochReport(self.step, epoch + 1, self.config.epochs, losses, rate)
        self.say(told.training_line())
        last = epoch + 1 == self.config.epochs or self._is_enough()
        if self.validation is not None and (last or (epoch + 1) % self.config.val_every == 0):
            self._validate(told)

    def _validate(self, told: EpochReport) -> None:
        """Score, draw, and keep the network if it is the best."""
        assert self.validation is not None
        started = time.monotonic()
        mend = validation_mend(self.config, saved=self.folder.last.exists())
        self.isp.eval()
        with self._memory(f"in the validation after epoch {told.epoch}", mend):
            scores = validate(self.render, self.guide, self.validation, self.device)
        with self._memory(f"for the pictures after epoch {told.epoch}", mend):
            draw(self.render, self.guide, self.validation, self.folder, told.epoch)
        train_others(self.isp, self.frozen_parts)
        self.folder.log_epoch(told.row(scores))
        self.say(told.validation_line(scores))
        if self.best_so_far.take(scores):
            self.save(self.folder.best)
        elif why := why_no_score(scores, self.config.best_by):
            self.say(f"warning: {why}: this is no best checkpoint")
        self.pace.validated(time.monotonic() - started)
