from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from genisp_model.data.truth import Truth
from genisp_model.evaluation.scores import (
    Evaluation,
    _coco,
    _evaluation,
    paired_ap_gain,
    paired_gain,
)
from schemas.coco import CLASS_NAMES


def scene(rng: np.random.Generator, count: int) -> dict[str, Tensor]:
    corner = rng.uniform(0, 300, (count, 2))
    size = rng.uniform(8, 150, (count, 2))
    boxes = np.concatenate([corner, corner + size], axis=1).astype(np.float32)
    return {
        "boxes": torch.from_numpy(boxes),
        "labels": torch.from_numpy(rng.integers(1, 4, count)),
    }


def guesses(rng: np.random.Generator, truth: dict[str, Tensor]) -> dict[str, Tensor]:
    """The truth, jittered, some of it mislabelled or missed, with false alarms."""
    kept = rng.random(len(truth["labels"])) < 0.8
    boxes = truth["boxes"][kept] + torch.from_numpy(
        rng.normal(0, 4, (int(kept.sum()), 4)).astype(np.float32)
    )
    labels = truth["labels"][kept].clone()
    wrong = rng.random(len(labels)) < 0.1
    labels[wrong] = 1
    alarms = scene(rng, 3)
    return {
        "boxes": torch.cat([boxes, alarms["boxes"]]),
        "labels": torch.cat([labels, alarms["labels"]]),
        "scores": torch.from_numpy(rng.random(len(labels) + 3).astype(np.float32)),
    }


def truth_of(one: dict[str, Tensor]) -> Truth:
    """In a frame of 500x500 pixels, every box an object."""
    boxes = one["boxes"].double().numpy()
    sides = boxes[:, 2:] - boxes[:, :2]
    names = tuple(CLASS_NAMES[label] for label in one["labels"].tolist())
    bboxes = np.hstack([boxes[:, :2], sides])
    return Truth.made((500, 500), names, bboxes, sides.prod(axis=1), np.zeros(len(boxes)))


def test_the_truth_itself_scores_one_and_nothing_scores_zero() -> None:
    rng = np.random.default_rng(5)
    scenes = [scene(rng, 4) for _ in range(5)]
    truths = [truth_of(one) for one in scenes]
    perfect = [one | {"scores": torch.ones(4)} for one in scenes]
    assert _coco(truths, perfect, list("abcde"), CLASS_NAMES).stats[:3] == pytest.approx([1.0] * 3)
    nothing = [{name: value[:0] for name, value in one.items()} for one in perfect]
    assert _coco(truths, nothing, list("abcde"), CLASS_NAMES).stats[:3] == [0.0] * 3


def test_a_paired_gain_is_the_mean_difference_with_its_standard_error() -> None:
    def scores(values: list[float]) -> Evaluation:
        losses = dict(zip("abcd", values, strict=True))
        return Evaluation(0, 0, 0, {}, losses, "")

    gain = paired_gain(scores([2, 3, 4, 5]), scores([1, 1, 3, 3]))
    assert gain.mean == pytest.approx(1.5)
    assert gain.standard_error == pytest.approx(np.std([1, 2, 1, 2], ddof=1) / 2)
    assert gain.in_standard_errors == pytest.approx(gain.mean / gain.standard_error)


def test_the_ap_gain_is_the_difference_with_a_jackknife_error() -> None:
    rng = np.random.default_rng(6)
    scenes = [scene(rng, 3) for _ in range(8)]
    ids = list("abcdefgh")

    def scored(found: list[dict[str, Tensor]]) -> Evaluation:
        return _evaluation(
            dict.fromkeys(ids, 1.0),
            dict(zip(ids, map(truth_of, scenes), strict=True)),
            dict(zip(ids, found, strict=True)),
            CLASS_NAMES,
        )

    perfect = scored([one | {"scores": torch.ones(3)} for one in scenes])
    rough = scored([guesses(rng, one) for one in scenes])
    same = paired_ap_gain(perfect, perfect)
    assert (same.mean, same.standard_error) == (0.0, 0.0)
    gain = paired_ap_gain(rough, perfect)
    assert gain.mean == pytest.approx(1 - rough.ap)
    assert 0 < gain.standard_error < gain.mean
