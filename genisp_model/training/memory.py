"""What a run that has not enough memory can do about it, in the order of what costs least."""

from __future__ import annotations

from schemas.training import TrainConfig

#: Where there is no option that needs less.
_FREE = "close other programs on the device, or name another --device"


def set_up_mend(config: TrainConfig) -> str:
    """For putting detector and network on the device, before anything is computed with them."""
    engine = "" if config.plain_detector else "--plain-detector makes no second copy of it; "
    return f"{engine}a smaller --detector; or {_FREE}"


def step_mend(config: TrainConfig, *, saved: bool) -> str:
    """For a training step; `saved` says that there is a checkpoint to go on from."""
    if "cuda-graph" in config.speedups:  # it keeps its memory, and goes with neither of the others
        resumed = ["--speedup auto --checkpoint-activations"]
    else:
        resumed = [] if config.checkpoint_activations else ["--checkpoint-activations"]
    return _mend(config, resumed, saved=saved)


def validation_mend(config: TrainConfig, *, saved: bool) -> str:
    """For scoring and drawing, which keep nothing for a backward pass."""
    return _mend(config, [], saved=saved)


def _mend(config: TrainConfig, resumed: list[str], *, saved: bool) -> str:
    """`resumed` are options that a run may go on with; the others are refused then."""
    new = []
    if config.batch_size > 1:
        images = config.batch_size * config.accumulate
        graph = " without cuda-graph" if "cuda-graph" in config.speedups else ""
        new.append(f"--batch-size 1 --accumulate {images}{graph} (the same steps)")
    if config.amp is None:
        new.append("--amp")
    if config.level == "packed":
        new.append("--level resized")
    if not saved:
        return "; or ".join([*resumed, *new, _FREE])
    parts = [f"--resume {option}" for option in resumed]
    if new:
        parts.append("in a new run, into another --output-dir: " + " or ".join(new))
    return "; or ".join([*parts, f"{_FREE}, and --resume"])
