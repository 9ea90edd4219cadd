"""Which validation was the best so far, and whether it is time to stop."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from genisp_model.evaluation.scores import Evaluation
from schemas.choices import BestBy


@dataclass
class Best:
    """The best score so far. A score that is as good is no better one.

    Attributes
    ----------
    by
        ``"loss"``: lowest mean guidance loss; ``"ap"``: highest COCO AP.
    patience
        Validations in a row without a better score after which a run stops; 0 for never.
    score
        Infinity (``"loss"``) or minus infinity (``"ap"``) before the first.
    since
        Validations since then.
    """

    by: BestBy
    patience: int = 0
    score: float = field(init=False)
    since: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.score = math.inf if self.by == "loss" else -math.inf

    def take(self, scores: Evaluation) -> bool:
        """Whether a validation is the best so far; it is remembered."""
        if not why_no_score(scores, self.by) and self._is_better(scores):
            self.score, self.since = _of(scores, self.by), 0
            return True
        self.since += 1
        return False

    def _is_better(self, scores: Evaluation) -> bool:
        found = _of(scores, self.by)
        return found < self.score if self.by == "loss" else found > self.score

    @property
    def is_exhausted(self) -> bool:
        """Whether patience has ended."""
        return 0 < self.patience <= self.since

    def __str__(self) -> str:
        """``"best validation loss 0.1234"``; empty before the first."""
        if not math.isfinite(self.score):
            return ""
        return f"best validation {_NAMES[self.by]} {self.score:.4f}"

    def why_stopped(self) -> str:
        """For the user, where `is_exhausted`."""
        return (
            f"stopped early: {self.since} validations without a better {_NAMES[self.by]} "
            f"(--patience {self.patience}); --resume with a larger one, or 0, goes on"
        )


_NAMES = {"loss": "loss", "ap": "AP"}


def why_no_score(scores: Evaluation, by: BestBy) -> str:
    """Why a validation cannot be the best; empty if it can."""
    if not math.isfinite(scores.loss):
        return "the validation loss is no number"
    if by == "ap" and scores.ap < 0:
        return "no box is annotated in the validation split, so there is no AP"
    return ""


def _of(scores: Evaluation, by: BestBy) -> float:
    return scores.loss if by == "loss" else scores.ap
