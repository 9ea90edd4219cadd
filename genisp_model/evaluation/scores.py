"""How well a frozen detector sees through a rendering: COCO AP, and the guidance loss per image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genisp_model.data.loader import Batch, StreamLoader
from genisp_model.data.truth import Truth
from genisp_model.detector.guide import BatchGuide, Guide
from schemas.coco import class_key

#: Batch -> (B, 3, H, W) pictures for the detector.
Renderer = Callable[[Batch], Tensor]

#: COCO's sizes of objects.
SIZES: Final = ("small", "medium", "large")

#: Columns of boxes of one image.
Boxes = dict[str, Tensor]


@dataclass(frozen=True)
class Evaluation:
    """Scores of one rendering on one split.

    Attributes
    ----------
    ap, ap50, ap75
        COCO box AP over the classes in `class_names`, 0..1; -1 where there is no box at all.
    ap_by_class
        AP of each of these by name; -1 where a class has no box.
    ap_by_size
        AP of ``"small"``, ``"medium"`` and ``"large"`` objects: areas as annotated, below 32 x 32
        and from 96 x 96 pixels of the annotated frame; -1 where there are none.
    losses
        Guidance loss by sample id.
    block
        The usual twelve lines.
    ap50_by_class
        As `ap_by_class`, at an IoU of 0.5.
    truths
        By sample id: what is annotated.
    predictions
        By sample id, on the CPU: boxes (n, 4) float64 ``xyxy`` in pixels of the annotated frame,
        labels (n,) and scores (n,).
    class_names
        Label -> name of the guide's classes that are annotated in these images.
    """

    ap: float
    ap50: float
    ap75: float
    ap_by_class: dict[str, float]
    losses: dict[str, float]
    block: str
    ap50_by_class: dict[str, float] = field(default_factory=dict)
    ap_by_size: dict[str, float] = field(default_factory=dict)
    truths: dict[str, Truth] = field(default_factory=dict, repr=False)
    predictions: dict[str, Boxes] = field(default_factory=dict, repr=False)
    class_names: Mapping[int, str] = field(default_factory=dict, repr=False)

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
    truths: dict[str, Truth] = {}
    predictions: dict[str, Boxes] = {}
    for batch in batches:
        pictures = render(batch)
        height, width = pictures.shape[-2:]
        annotated = batch.truths or [
            _as_targeted(target, (width, height), detector.class_names) for target in batch.targets
        ]
        seen = _seen(detector, pictures, batch.targets)
        for sample_id, truth, (loss, found) in zip(batch.ids, annotated, seen, strict=True):
            losses[sample_id] = loss
            truths[sample_id] = truth
            predictions[sample_id] = _in_frame(found, (width, height), truth.frame)
    classes = _annotated_classes(truths.values(), detector.class_names)
    return _evaluation(losses, truths, predictions, classes)


def _as_targeted(
    target: Mapping[str, Any], size: tuple[int, int], classes: Mapping[int, str]
) -> Truth:
    """The truth of a batch that is not a store's: its target, in pixels of the picture."""
    boxes = target["boxes"].cpu().double().numpy()
    regions = target.get("ignore", target["boxes"][:0]).cpu().double().numpy()
    names = [classes.get(label, "") for label in target["labels"].tolist()]
    is_region = [not name for name in names] + [True] * len(regions)
    corners = np.concatenate([boxes, regions])
    bboxes = np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
    areas = bboxes[:, 2] * bboxes[:, 3]
    return Truth.made(size, (*names, *[""] * len(regions)), bboxes, areas, is_region)


def _in_frame(found: Boxes, size: tuple[int, int], frame: tuple[int, int]) -> Boxes:
    """Detections in a picture of a size (width, height), in pixels of the annotated frame."""
    scale = torch.tensor([frame[0] / size[0], frame[1] / size[1]] * 2, dtype=torch.float64)
    kept = {name: value.cpu() for name, value in found.items()}
    return kept | {"boxes": kept["boxes"].double() * scale, "scores": kept["scores"].float()}


def _annotated_classes(truths: Iterable[Truth], classes: Mapping[int, str]) -> dict[int, str]:
    """Those of a guide's classes that are annotated."""
    annotated = {class_key(name) for truth in truths for name in truth.names}
    return {label: name for label, name in classes.items() if class_key(name) in annotated}


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
    truths: dict[str, Truth],
    predictions: dict[str, Boxes],
    class_names: Mapping[int, str],
) -> Evaluation:
    found = _coco(list(truths.values()), list(predictions.values()), list(losses), class_names)
    ap, ap50, ap75, *by_size = found.stats
    return Evaluation(
        ap=ap,
        ap50=ap50,
        ap75=ap75,
        ap_by_class=found.by_class,
        losses=losses,
        block=found.block,
        ap50_by_class=found.by_class_50,
        ap_by_size=dict(zip(SIZES, by_size, strict=True)),
        truths=truths,
        predictions=predictions,
        class_names=class_names,
    )


@dataclass(frozen=True)
class _Numbers:
    """COCO's: AP, AP50, AP75, AP of `SIZES`; AP and AP50 by class; the twelve lines."""

    stats: list[float]
    by_class: dict[str, float]
    by_class_50: dict[str, float]
    block: str


def _coco(
    truths: Sequence[Truth],
    predictions: Sequence[Boxes],
    ids: Sequence[str],
    classes: Mapping[int, str],
) -> _Numbers:
    """Scores by faster-coco-eval, in the annotated frame.

    Regions are COCO's crowds: of their class, or of every class where theirs is not one of
    `classes`.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    annotations = list(_annotations(truths, classes))
    detections = list(_detections(predictions, classes))
    if all(one["iscrowd"] for one in annotations):
        none = dict.fromkeys(classes.values(), -1.0)
        return _Numbers([-1.0] * 6, none, dict(none), "no boxes in this split")
    lines: list[str] = []
    truth = COCO(
        {
            "images": [{"id": n, "file_name": name} for n, name in enumerate(ids)],
            "annotations": annotations,
            "categories": [{"id": n, "name": name} for n, name in classes.items()],
        }
    )
    # One that counts for nothing where there is none at all, for which the library has no answer.
    found = truth.loadRes(detections or [_nowhere(len(ids), classes)])
    scored = COCOeval_faster(truth, found, "bbox", print_function=lines.append)
    scored.evaluate()
    scored.accumulate()
    lines.clear()
    scored.summarize()
    # precision: (thresholds, recall, class, area, max detections); area all, 100 detections.
    precision = np.asarray(scored.eval["precision"])[:, :, :, 0, -1]
    names = [classes[label] for label in sorted(classes)]
    return _Numbers(
        [float(value) for value in scored.stats[:6]],
        _by_class(precision, names),
        _by_class(precision[:1], names),  # the first threshold is an IoU of 0.5
        "\n".join(lines[:12]),
    )


def _by_class(precision: npt.NDArray[np.float64], names: Sequence[str]) -> dict[str, float]:
    """(thresholds, recall, class) -> mean precision by class; -1 where a class has no box."""
    found = {}
    for position, name in enumerate(names):
        known = precision[:, :, position]
        known = known[known > -1]
        found[name] = float(known.mean()) if known.size else -1.0
    return found


def _nowhere(images: int, classes: Mapping[int, str]) -> dict[str, object]:
    """A detection without area."""
    return {"image_id": images - 1, "category_id": min(classes), "bbox": [0, 0, 0, 0], "score": 0}


def _annotations(truths: Sequence[Truth], classes: Mapping[int, str]) -> Iterator[dict[str, Any]]:
    labels = {class_key(name): label for label, name in classes.items()}
    number = 0
    for image, truth in enumerate(truths):
        for name, bbox, area, is_region in truth.rows():
            label = labels.get(class_key(name))
            for category in classes if label is None else [label]:
                number += 1
                yield {
                    "id": number,
                    "image_id": image,
                    "category_id": category,
                    "bbox": bbox,
                    "area": area,
                    "iscrowd": int(is_region or label is None),
                }


def _detections(
    predictions: Sequence[Boxes], classes: Mapping[int, str]
) -> Iterator[dict[str, Any]]:
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
