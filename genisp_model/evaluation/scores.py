"""How well a frozen detector sees through a rendering: COCO AP, and the guidance loss per image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genisp_model.data.loader import Batch, StreamLoader
from genisp_model.detector.guide import BatchGuide, Guide
from schemas.coco import CLASS_NAMES

#: Batch -> (B, 3, H, W) pictures for the detector.
Renderer = Callable[[Batch], Tensor]

#: Columns of boxes of one image.
Boxes = dict[str, Tensor]


@dataclass(frozen=True)
class Evaluation:
    """Scores of one rendering on one split.

    Attributes
    ----------
    ap, ap50, ap75
        COCO box AP over the guide's classes, 0..1; -1 where there is no box at all.
    ap_by_class
        AP of each of these by name; -1 where a class has no box.
    losses
        Guidance loss by sample id.
    block
        The usual twelve lines.
    ap50_by_class
        As `ap_by_class`, at an IoU of 0.5.
    truths, predictions
        By sample id, on the CPU: boxes (n, 4) ``xyxy`` in pixels of the picture and labels (n,);
        predictions also have scores (n,).
    class_names
        COCO id -> name of the guide's classes.
    """

    ap: float
    ap50: float
    ap75: float
    ap_by_class: dict[str, float]
    losses: dict[str, float]
    block: str
    ap50_by_class: dict[str, float] = field(default_factory=dict)
    truths: dict[str, Boxes] = field(default_factory=dict, repr=False)
    predictions: dict[str, Boxes] = field(default_factory=dict, repr=False)
    class_names: Mapping[int, str] = field(default_factory=lambda: CLASS_NAMES, repr=False)

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


def paired_ap_gain(worse: Evaluation, better: Evaluation) -> Paired:
    """How much higher `better`'s AP is, with its jackknife error: each image left out once.

    AP is no mean over images, so its error comes from how it moves when images are missing.
    """
    ids = list(worse.losses)
    without = [[other for other in ids if other != left_out] for left_out in ids]
    moved = np.array([restricted(better, kept).ap - restricted(worse, kept).ap for kept in without])
    error = np.sqrt((len(ids) - 1) * moved.var()) if len(ids) > 1 else float("inf")
    return Paired(better.ap - worse.ap, float(error))


@torch.no_grad()
def evaluate(
    render: Renderer, detector: Guide, batches: StreamLoader | Sequence[Batch]
) -> Evaluation:
    """Render every batch, score the detector on it.

    Parameters
    ----------
    render
        Makes pictures of a batch.
    detector
        Frozen; its state does not change. A `BatchGuide` looks at each batch once.
    batches
        One pass is read.
    """
    losses: dict[str, float] = {}
    truths: dict[str, Boxes] = {}
    predictions: dict[str, Boxes] = {}
    for batch in batches:
        pictures = render(batch)
        seen = _seen(detector, pictures, batch.targets)
        for sample_id, target, (loss, found) in zip(batch.ids, batch.targets, seen, strict=True):
            losses[sample_id] = loss
            truths[sample_id] = {name: target[name].cpu() for name in ("boxes", "labels")}
            predictions[sample_id] = {name: value.float().cpu() for name, value in found.items()}
    return _evaluation(losses, truths, predictions, detector.class_names)


def _seen(
    detector: Guide, pictures: Tensor, targets: Sequence[dict[str, Any]]
) -> Iterator[tuple[float, Boxes]]:
    """Guidance loss and detections of each image."""
    if isinstance(detector, BatchGuide):
        parts, found = detector.losses_and_detections(pictures, targets)
        totals = torch.stack([part.float() for part in parts.values()]).sum(dim=0)
        yield from zip(totals.tolist(), found, strict=True)
        return
    for picture, target in zip(torch.split(pictures, 1), targets, strict=True):
        parts = detector.losses(picture, [target])
        (boxes,) = detector.predict(picture)
        yield float(sum(part.float() for part in parts.values())), boxes


def restricted(whole: Evaluation, ids: Sequence[str]) -> Evaluation:
    """The same scores over some of the images only; nothing is rendered again."""
    return _evaluation(
        {name: whole.losses[name] for name in ids},
        {name: whole.truths[name] for name in ids},
        {name: whole.predictions[name] for name in ids},
        whole.class_names,
    )


def _evaluation(
    losses: dict[str, float],
    truths: dict[str, Boxes],
    predictions: dict[str, Boxes],
    class_names: Mapping[int, str] = CLASS_NAMES,
) -> Evaluation:
    (ap, ap50, ap75), by_class, by_class_50, block = _coco(
        list(truths.values()), list(predictions.values()), list(losses), class_names
    )
    return Evaluation(
        ap=ap,
        ap50=ap50,
        ap75=ap75,
        ap_by_class=by_class,
        losses=losses,
        block=block,
        ap50_by_class=by_class_50,
        truths=truths,
        predictions=predictions,
        class_names=class_names,
    )


def _coco(
    truths: Sequence[Boxes],
    predictions: Sequence[Boxes],
    ids: Sequence[str],
    classes: Mapping[int, str] = CLASS_NAMES,
) -> tuple[list[float], dict[str, float], dict[str, float], str]:
    """COCO's numbers by faster-coco-eval: AP, AP50, AP75; AP and AP50 by class; the lines."""
    from faster_coco_eval import COCO, COCOeval_faster

    annotations = list(_annotations(truths, classes))
    detections = list(_detections(predictions, classes))
    if not annotations:
        none = dict.fromkeys(classes.values(), -1.0)
        return [-1.0] * 3, none, dict(none), "no boxes in this split"
    lines: list[str] = []
    truth = COCO(
        {
            "images": [{"id": n, "file_name": name} for n, name in enumerate(ids)],
            "annotations": annotations,
            "categories": [{"id": n, "name": name} for n, name in classes.items()],
        }
    )
    if not detections:
        present = {label for one in truths for label in one["labels"].tolist()}
        zero = {name: 0.0 if n in present else -1.0 for n, name in classes.items()}
        return [0.0] * 3, zero, dict(zero), "no detections"
    scored = COCOeval_faster(truth, truth.loadRes(detections), "bbox", print_function=lines.append)
    scored.evaluate()
    scored.accumulate()
    lines.clear()
    scored.summarize()
    # precision: (thresholds, recall, class, area, max detections); area all, 100 detections.
    precision = np.asarray(scored.eval["precision"])[:, :, :, 0, -1]
    return (
        [float(value) for value in scored.stats[:3]],
        _by_class(precision, classes),
        _by_class(precision[:1], classes),  # the first threshold is an IoU of 0.5
        "\n".join(lines[:12]),
    )


def _by_class(precision: npt.NDArray[np.float64], classes: Mapping[int, str]) -> dict[str, float]:
    """(thresholds, recall, class) -> mean precision by class; -1 where a class has no box."""
    found = {}
    for position, name in enumerate(classes.values()):
        known = precision[:, :, position]
        known = known[known > -1]
        found[name] = float(known.mean()) if known.size else -1.0
    return found


def _annotations(
    truths: Sequence[Boxes], classes: Mapping[int, str]
) -> Iterator[dict[str, object]]:
    number = 0
    for image, truth in enumerate(truths):
        for box, label in zip(truth["boxes"].tolist(), truth["labels"].tolist(), strict=True):
            if label not in classes:
                continue
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


def _detections(
    predictions: Sequence[Boxes], classes: Mapping[int, str]
) -> Iterator[dict[str, object]]:
    for image, found in enumerate(predictions):
        columns = (found["boxes"].tolist(), found["labels"].tolist(), found["scores"].tolist())
        for box, label, score in zip(*columns, strict=True):
            if label in classes:
                yield {
                    "image_id": image,
                    "category_id": label,
                    "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                    "score": score,
                }
