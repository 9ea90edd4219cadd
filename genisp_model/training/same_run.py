"""Whether a checkpoint is one of this run."""

from __future__ import annotations

from pathlib import Path

from genisp_model.checkpoint import Checkpoint
from genisp_model.detector.guide import Guide
from pipeline.errors import TrainingError
from schemas.training import TrainConfig


def refuse_another_run(saved: Checkpoint, config: TrainConfig, detector: Guide, path: Path) -> None:
    """Refuse a checkpoint, `path`, of another recipe, setting or detector.

    Raises
    ------
    TrainingError
        It names every difference.
    """
    differences = saved.config.differences(config)
    if saved.detector and saved.detector != detector.state_hash():
        differences.append("the detector's weights")
    if differences:
        raise TrainingError(
            "this run was started otherwise: " + "; ".join(differences),
            path=str(path),
            mend="leave these options out, or name another --output-dir for a new run",
        )
