"""One training run, from its options to its checkpoints.

    from genisp_model.training import Trainer

Open `trainer` first: the loop, from a batch to the network's next step.

- `start`: the network that a run begins with, and which parts of it are trained.
- `samples`: what a run trains on, and what it is scored on.
- `schedule`: the learning rate of a step.
- `augmentation`: how training pictures are changed, from options to what the loader does.
- `precision`: fewer bits, and the scale of the loss in float16.
- `memory`: what needs less memory, where a run has run out of it.
- `speedups`: other ways to the same numbers, and which pay on which device.
- `cuda_graph`: forward and backward pass of a step launched as one.
- `step`: what one step tells, read from the device in one piece.
- `overfit`: one batch instead of an epoch.
- `best`: which validation was the best, and whether it is time to stop.
- `average`: a moving average of the weights.
- `pace`: how fast a run goes, and when it will end.
- `validation`: scores and pictures of the same samples every time.
- `run`: what the command ``train`` does with its options.
- `environment`: where a run runs: machine, versions, commit.
- `run_folder`: what a run writes, in files people already know how to read. Its checkpoints are
  `genisp_model.checkpoint`: evaluation, enhance and export read them too.
- `config_toml`: the run's options as ``--config`` reads them.
- `run_lock`, `run_log`: its one writer, and its tables.
- `report`: what a step and an epoch tell: rows of the tables, lines for the user.
- `same_run`: whether a checkpoint is one of this run.
- `same_store`: whether the store still holds what a run was started with.
"""

from __future__ import annotations

from genisp_model.training.run_folder import RunFolder
from genisp_model.training.trainer import Trainer

__all__ = ["RunFolder", "Trainer"]
