"""One training run, from its options to its checkpoints.

    from genisp_model.training import Trainer

Open `trainer` first: the loop, from a batch to the network's next step.

- `run`: what the command ``train`` does with its options.
- `start`: the network that a run begins with, and which parts of it are trained.
- `samples`: what a run trains on, and what it is scored on.
- `augmentation`: how training pictures are changed, from options to what the loader does.
- `steps`: what one step is made of: learning rate, precision, speedups, what it tells.
- `overfit`: one batch instead of an epoch.
- `validation`: scores and pictures of the same samples every time.
- `best`: which validation was the best, and whether it is time to stop.
- `memory`: what needs less memory, where a run has run out of it.
- `same_run`: whether a checkpoint is one of this run.
- `same_store`: whether the store still holds what a run was started with.
- `records`: what a run leaves and says: its folder, tables, environment, lines for the user.
"""

from __future__ import annotations

from genisp_model.training.records.run_folder import RunFolder
from genisp_model.training.trainer import Trainer

__all__ = ["RunFolder", "Trainer"]
