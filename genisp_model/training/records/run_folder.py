"""The run folder: everything one training wrote, in files people already know how to read."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from genisp_model.checkpoint import continue_with
from genisp_model.files import output_folder, whole_file, writing
from genisp_model.renderings import render_classical
from genisp_model.training.records.config_toml import HEADER, config_toml
from genisp_model.training.records.run_lock import only_writer
from genisp_model.training.records.run_log import RunLog, free_name
from schemas.training import TrainConfig

_log = logging.getLogger(__name__)

#: What a run writes and another one must not be mixed with.
_WRITTEN = (
    "config.json",
    "config.toml",
    "environment.json",
    "steps.csv",
    "results.csv",
    "curves.png",
    "pictures",
    "checkpoints",
    "events.out.tfevents.*",
)

_COLOURS = {1: (235, 80, 70), 2: (90, 200, 90), 3: (80, 170, 255)}


@dataclass(frozen=True)
class PictureRow:
    """One sample before and after.

    Attributes
    ----------
    xyz, made
        (1, 3, h, w): the stored image, and GenISP's picture, clamped for the eye only.
    exposure
        (1,) what the image is divided by.
    target
        Detection target: ``boxes`` xyxy and ``labels``, drawn on both; ``ignore`` in grey.
    class_names
        Label -> name.
    """

    xyz: Tensor
    exposure: Tensor
    made: Tensor
    target: Mapping[str, Tensor]
    class_names: Mapping[int, str]


class RunFolder:
    """One training run on disk.

    Parameters
    ----------
    path
        Made if missing. ``config.json``, ``config.toml``, ``environment.json``, ``steps.csv``,
        ``results.csv``, ``curves.png``, ``pictures/``, ``checkpoints/``, and TensorBoard's events.

    Raises
    ------
    UsageError
        If there is a file in its place. Everything that writes raises `TrainingError` where the
        file system refuses.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        output_folder(path, mend="fix permissions, or name another --output-dir")
        self._steps, self._results = RunLog(path / "steps.csv"), RunLog(path / "results.csv")
        self._board: Any = None
        self._first_step = 1
        self._shown_again: list[dict[str, float]] = []
        self._lock: AbstractContextManager[None] | None = None

    @property
    def last(self) -> Path:
        """The checkpoint to continue from."""
        return self.path / "checkpoints" / "last.pt"

    @property
    def best(self) -> Path:
        """The checkpoint of the best validation so far."""
        return self.path / "checkpoints" / "best.pt"

    @property
    def mend(self) -> str:
        """What to do when the file system has refused."""
        return continue_with(self.last)

    @contextmanager
    def only_writer(self) -> Iterator[None]:
        """Hold the folder's lock while inside; inside of that it is held already.

        Raises
        ------
        RunLockedError
            If another process trains into it.
        """
        if self._lock is not None:
            yield
            return
        self._lock = only_writer(self.path)
        try:
            with self._lock:
                yield
        finally:
            self._lock = None

    def begin(self) -> Path | None:
        """Make room for a new run: what an earlier one left is moved into a folder of its own.

        Returns
        -------
        That folder; None if no step was logged or saved here.
        """
        if not any(path.exists() for path in (self._steps.path, self.last, self.best)):
            return None
        found = [path for pattern in _WRITTEN for path in sorted(self.path.glob(pattern))]
        aside = free_name(self.path / "run")
        with writing(aside, mend=self.mend):
            aside.mkdir()
            for path in found:
                path.rename(aside / path.name)
        return aside

    def describe(
        self,
        config: TrainConfig,
        environment: Mapping[str, Any],
        *,
        resumed_after: int | None = None,
    ) -> None:
        """Write what the run was told, and where it runs: `environment` has the ``device``.

        A run that goes on after step `resumed_after` adds its `environment` to the earlier ones, so
        that a change of machine or versions shows.
        """
        options = config_toml(config, device=environment["device"], output_dir=self.path)
        if resumed_after is not None:
            environment = self._with_earlier({"after_step": resumed_after, **environment})
        told = {"config.json": config.model_dump(mode="json"), "environment.json": environment}
        texts = {name: json.dumps(content, indent=1) + "\n" for name, content in told.items()}
        self._keep_own_options()
        for name, text in {**texts, "config.toml": options}.items():
            with whole_file(self.path / name, mend=self.mend) as path:
                path.write_text(text, encoding="utf-8")

    def _keep_own_options(self) -> None:
        """Rename a ``config.toml`` that somebody wrote by hand, before ours takes its place."""
        path = self.path / "config.toml"
        with writing(path, mend=self.mend):
            if path.is_file() and not path.read_bytes().startswith(HEADER.encode()):
                path.rename(aside := free_name(path))
                _log.warning("%s: not written by a run; kept as %s", path, aside.name)

    def _with_earlier(self, environment: Mapping[str, Any]) -> dict[str, Any]:
        """The recorded environment with this one appended to its ``resumed``."""
        path = self.path / "environment.json"
        try:
            earlier = json.loads(path.read_bytes())
            return {**earlier, "resumed": [*earlier.get("resumed", ()), environment]}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            with writing(path, mend=self.mend):
                path.rename(aside := free_name(path))
            _log.warning("%s: cannot be read; kept as %s", path, aside.name)
        return {"resumed": [environment]}

    def forget_after(self, step: int, *, scored: bool = True) -> None:
        """Drop what was logged beyond a checkpoint: those steps are about to be done again.

        So is the validation at that very step where it is not `scored` in the checkpoint.
        """
        self._steps.forget_after(step, mend=self.mend)
        self._results.forget_after(step if scored else step - 1, mend=self.mend)
        # TensorBoard forgets all there is of a step: training as well as validation.
        self._first_step = step + 1 if scored else step
        self._shown_again = [r for r in self._steps.numbers() if r["step"] >= self._first_step]

    def log_step(self, values: Mapping[str, float | int]) -> None:
        """One optimiser step; `values` has ``step``, and ``epoch`` counted from 1."""
        self._steps.append(values, mend=self.mend)
        self._show("train", values)

    def log_epoch(self, values: Mapping[str, float | int]) -> None:
        """One validation; `values` has ``step``, and ``epoch`` counted from 1."""
        self._results.append(values, mend=self.mend)
        self._show("val", values)
        self.draw_curves()

    def _show(self, group: str, values: Mapping[str, float | int]) -> None:
        """Give TensorBoard a row."""
        with writing(self.path, mend=self.mend):
            if self._board is None:
                from torch.utils.tensorboard.writer import SummaryWriter

                # What a run that was killed had shown of these steps and later ones is dropped.
                self._board = SummaryWriter(str(self.path), purge_step=self._first_step)
                for row in self._shown_again:
                    self._add("train", row)
            self._add(group, values)

    def _add(self, group: str, values: Mapping[str, float | int]) -> None:
        for name, value in values.items():
            if name not in ("step", "epoch"):
                self._board.add_scalar(f"{group}/{name}", value, int(values["step"]))

    def flush(self) -> None:
        """Let TensorBoard's events be where a kill does not reach them.

        Raises
        ------
        TrainingError
            If the file system refuses.
        """
        if self._board is not None:
            with writing(self.path, mend=self.mend):
                self._board.flush()

    def losses_of(self, epoch: int) -> list[float]:
        """The logged loss of each optimiser step of an epoch, counted from 1."""
        return [row["loss"] for row in self._steps.numbers() if row["epoch"] == epoch]

    def draw_curves(self) -> None:
        """``curves.png``: loss by step, validation loss and AP by epoch."""
        from matplotlib.figure import Figure

        steps, epochs = self._steps.numbers(), self._results.numbers()
        figure = Figure(figsize=(9, 3.2), layout="constrained")
        losses, scores = figure.subplots(1, 2)
        if steps:
            losses.plot(
                [row["step"] for row in steps],
                [row["loss"] for row in steps],
                lw=0.7,
                label="train",
            )
        if epochs:
            at = [row["step"] for row in epochs]
            losses.plot(at, [row["loss"] for row in epochs], "o-", label="validation")
            for name in ("ap", "ap50"):
                scores.plot(at, [row[name] for row in epochs], "o-", label=name.upper())
            scores.legend()
        losses.set(xlabel="optimiser step", ylabel="guidance loss", title="Loss")
        losses.legend()
        scores.set(xlabel="optimiser step", ylabel="COCO AP", title="Validation")
        with whole_file(self.path / "curves.png", mend=self.mend) as path:
            figure.savefig(path, dpi=120, format="png")

    def draw_pictures(self, epoch: int, rows: Sequence[PictureRow]) -> None:
        """``pictures/epoch_NNN.png``: a row a sample: classical rendering | GenISP."""
        panels = [
            (
                _picture(render_classical(row.xyz, row.exposure)[0], row),
                _picture(row.made[0], row),
            )
            for row in rows
        ]
        width = max(left.width for left, _ in panels)
        height = sum(left.height + 4 for left, _ in panels)
        sheet = Image.new("RGB", (2 * width + 4, height), "white")
        top = 0
        for left, right in panels:
            sheet.paste(left, (0, top))
            sheet.paste(right, (width + 4, top))
            top += left.height + 4
        target = self.path / "pictures" / f"epoch_{epoch:03}.png"
        with whole_file(target, mend=self.mend) as path:
            sheet.save(path, "PNG")

    def close(self) -> None:
        """Flush TensorBoard; what it cannot write any more is said, and lost."""
        if self._board is None:
            return
        try:
            self._board.close()
        except OSError as error:
            _log.warning("%s: TensorBoard's events are cut short: %s", self.path, error.strerror)
        self._board = None


def _picture(image: Tensor, row: PictureRow) -> Image.Image:
    values = (image.detach().float().clamp(0, 1).cpu() * 255).round().to(torch.uint8)
    picture = Image.fromarray(np.ascontiguousarray(values.permute(1, 2, 0).numpy()))
    draw = ImageDraw.Draw(picture)
    target = row.target
    for region in target["ignore"].tolist():
        draw.rectangle(region, outline=(128, 128, 128), width=1)
    for box, label in zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True):
        colour = _COLOURS.get(label, (255, 255, 255))
        draw.rectangle(box, outline=colour, width=2)
        draw.text((box[0] + 3, box[1] + 1), row.class_names.get(label, str(label)), fill=colour)
    return picture
