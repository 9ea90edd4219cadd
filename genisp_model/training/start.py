"""The network that a run begins with, and which parts of it are trained."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from genisp_model.checkpoint import load_isp
from genisp_model.isp import ISP
from genisp_model.recipes import RECIPES
from pipeline.errors import UsageError
from schemas.training import TrainConfig


@dataclass(frozen=True)
class Initial:
    """Another run's network.

    Attributes
    ----------
    path, sha256
        The checkpoint's file, and the digest of its bytes.
    weights
        State dictionary of the network as `load_isp` gives it: the average, if there is one.
    """

    path: Path
    sha256: str
    weights: dict[str, Tensor]

    def facts(self) -> dict[str, str]:
        """For ``environment.json``."""
        return {"path": str(self.path.resolve()), "sha256": self.sha256}


def initial_network(config: TrainConfig) -> Initial | None:
    """The network of the config's ``init_from``; None if it names none.

    Raises
    ------
    UsageError, TrainingError
        As `load_isp`, or if its recipe has another network. Both name the file.
    """
    if not config.init_from:
        return None
    path = Path(config.init_from)
    isp, theirs = load_isp(path)
    if RECIPES[theirs.recipe].make_isp is not RECIPES[config.recipe].make_isp:
        message = f"--init-from: a network of --recipe {theirs.recipe}, this is {config.recipe}"
        mend = f"--recipe {theirs.recipe}, or the checkpoint of another run"
        raise UsageError(message, path=str(path), mend=mend)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Initial(path, digest, isp.state_dict())


def freeze(isp: ISP, names: Sequence[str]) -> tuple[str, ...]:
    """Let parts of a network as they are: their weights take no gradients.

    Parameters
    ----------
    isp
        Is changed.
    names
        Of modules that have weights, as ``named_modules()`` has them; those directly in the network
        also by their class (``"ConvWB"``).

    Returns
    -------
    The parts, as ``named_modules()`` has them, sorted.

    Raises
    ------
    UsageError
        If there is no such part, or nothing is left to train.
    """
    by_class = {type(part).__name__: name for name, part in isp.named_children()}
    chosen = sorted({by_class.get(name, name) for name in names})
    parts = {name: part for name, part in isp.named_modules() if name and _has_weights(part)}
    for name in chosen:
        if name not in parts:
            known = ", ".join(f"{one} ({called})" for called, one in by_class.items())
            example = max(parts, key=lambda one: one.count("."))
            message = f"--freeze {name!r}: the network has no such part with weights"
            raise UsageError(message, mend=f"{known}, or a part of these such as {example}")
        parts[name].requires_grad_(False)
    if not any(weight.requires_grad for weight in isp.parameters()):
        message = f"--freeze {', '.join(chosen)} leaves nothing to train"
        raise UsageError(message, mend="leave out one of them")
    return tuple(chosen)


def train_others(isp: ISP, frozen: Sequence[str]) -> None:
    """Training mode for all but the frozen parts: the statistics of a norm stay as they are."""
    isp.train()
    for name in frozen:
        isp.get_submodule(name).eval()


def describe_frozen(isp: ISP, frozen: Sequence[str]) -> str:
    """For the user: which parts, and how many weights are trained."""
    counts = [weight.numel() for weight in isp.parameters()]
    left = sum(weight.numel() for weight in isp.parameters() if weight.requires_grad)
    return f"frozen: {', '.join(frozen)}; trained: {left:,} of {sum(counts):,} weights"


def _has_weights(part: nn.Module) -> bool:
    return next(part.parameters(), None) is not None
