"""How well a frozen detector sees through a rendering: COCO AP, and the guidance loss per image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from genisp_model.detector import FrozenDetector
from genisp_model.stream import Batch, StreamLoader
from schemas.coco import CLASS_NAMES

#: Batch -> (B, 3, H, W) pictures for the detector.
Renderer = Callable[[Batch], Tensor]


@dataclass(frozen=True)
class Evaluation:
    """Scores of one rendering on one split.

    Attributes
    ----------
    ap, ap50, ap75
        COCO box AP over the three classes, 0..1; -1 where there is no box at all.
    ap_by_class
        AP of person, bicycle, car; -1 where a class has no box.
    losses
        Guidance loss by sample id.
    block
        The usual twelve lines.
    """

    ap: float
    ap50: float
    ap75: float
    ap_by_class: dict[str, float]
    losses: dict[str, float]
    block: str

    @property
    def loss(self) -> float:
        """Mean guidance loss over samples."""
        return float(np.mean(list(self.losses.values()))) if self.losses else float("nan")


@dataclass(frozen=True)
class Paired:
    """A difference over the same images: mean, standard error, and mean in standard errors."""

    mean: float
    standard_error: float

    @property
    def in_standard_errors(self) -> float:
        """Mean over standard error; infinite for a constant difference."""
        return self.mean / self.standard_error if self.standard_error else float("inf")


def paired_gain(worse: Evaluation, better: Evaluation) -> Paired:
    """How much lower `better`'s guidance loss is, paired over images."""
    ids = sorted(worse.losses)
    gains = np.array([worse.losses[name] - better.losses[name] for name in ids])
    error = gains.std(ddof=1) / np.sqrt(len(gains)) if len(gains) > 1 else float("inf")
    return Paired(float(gains.mean()), float(error))


@torch.no_grad()
def evaluate(
    render: Renderer, detector: FrozenDetector, batches: StreamLoader | Sequence[Batch]
) -> Evaluation:
    """Render every batch, score the detector on it.

    Parameters
    ----------
    render
        Makes pictures of a batch.
    detector
        Frozen; its state does not change.
    batches
        One pass is read.
    """
    losses: dict[str, float] = {}
    truths: list[dict[str, Tensor]] = []
    predictions: list[dict[str, Tensor]] = []
    for batch in batches:
        pictures = render(batch)
        for number, sample_id in enumerate(batch.ids):
            picture, target = pictures[number : number + 1], batch.targets[number]
            parts = detector.losses(picture, [target])
            losses[sample_id] = float(sum(part.float() for part in parts.values()))
            truths.append({name: target[name].cpu() for name in ("boxes", "labels")})
            (found,) = detector.predict(picture)
            predictions.append({name: value.float().cpu() for name, value in found.items()})
    stats, by_class, block = _coco(truths, predictions, list(losses))
    return Evaluation(stats[0], stats[1], stats[2], by_class, losses, block)


def _coco(
    truths: Sequence[dict[str, Tensor]],
    predictions: Sequence[dict[str, Tensor]],
    ids: Sequence[str],
) -> tuple[list[float], dict[str, float], str]:
    """COCO's numbers by faster-coco-eval."""
    from faster_coco_eval import COCO, COCOeval_faster

    annotations = list(_annotations(truths))
    detections = list(_detections(predictions))
    if not annotations:
        return [-1.0] * 3, dict.fromkeys(CLASS_NAMES.values(), -1.0), "no boxes in this split"
    lines: list[str] = []
    truth = COCO(
        {
            "images": [{"id": n, "file_name": name} for n, name in enumerate(ids)],
            "annotations": annotations,
            "categories": [{"id": n, "name": name} for n, name in CLASS_NAMES.items()],
        }
    )
    if not detections:
        return [0.0] * 3, dict.fromkeys(CLASS_NAMES.values(), 0.0), "no detections"
    scored = COCOeval_faster(truth, truth.loadRes(detections), "bbox", print_function=lines.append)
    scored.evaluate()
    scored.accumulate()
    lines.clear()
    scored.summarize()
    # precision: (thresholds, recall, class, area, max detections); area all, 100 detections.
    precision = np.asarray(scored.eval["precision"])[:, :, :, 0, -1]
    by_class = {}
    for position, name in enumerate(CLASS_NAMES.values()):
        known = precision[:, :, position]
        known = known[known > -1]
        by_class[name] = float(known.mean()) if known.size else -1.0
    return [float(value) for value in scored.stats[:3]], by_class, "\n".join(lines[:12])


def _annotations(truths: Sequence[dict[str, Tensor]]) -> Iterator[dict[str, object]]:
    number = 0
    for image, truth in enumerate(truths):
        for box, label in zip(truth["boxes"].tolist(), truth["labels"].tolist(), strict=True):
            number += 1
            width, height = box[2] - box[0], box[3] - box[1]
            yield {
                "id": number,
                "image_id": image,
                "category_id": label,
                "bbox": [box[0], box[1], width, height],
                "area": width * height,
                "iscrowd": 0,
            }


def _detections(predictions: Sequence[dict[str, Tensor]]) -> Iterator[dict[str, object]]:
    for image, found in enumerate(predictions):
        columns = (found["boxes"].tolist(), found["labels"].tolist(), found["scores"].tolist())
        for box, label, score in zip(*columns, strict=True):
            if label in CLASS_NAMES:
                yield {
                    "image_id": image,
                    "category_id": label,
                    "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                    "score": score,
                }
