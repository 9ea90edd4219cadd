"""How well a frozen detector sees through a rendering.

    from genisp_model.evaluation import evaluate

- `scores`: one rendering of one split: COCO AP, and the guidance loss of each image.
- `comparison`: every rendering of a split beside the classical one.
- `run`: what the command ``evaluate`` does with its options.
"""

from __future__ import annotations

from genisp_model.evaluation.scores import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]
