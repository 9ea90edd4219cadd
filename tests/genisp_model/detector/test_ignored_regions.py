"""What lies over a region to ignore is neither object nor background, in every family's losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import box_iou, sigmoid_focal_loss

from genisp_model.detector.engine import FrozenEngine
from genisp_model.detector.frozen import FrozenDetector
from genisp_model.detector.ignored_regions import lie_over
from genisp_model.detector.stand_in import sample_detector

#: Far over every edge of the picture: each anchor lies in it.
EVERYWHERE = torch.tensor([[-5000.0, -5000.0, 5000.0, 5000.0]])
BOX = torch.tensor([[10.0, 20.0, 60.0, 80.0]])


def _retinanet(**options: int) -> nn.Module:
    model: nn.Module = sample_detector(**options)
    return model


def _fcos() -> nn.Module:
    anchors = AnchorGenerator(((8,), (16,), (32,), (64,)), ((1.0,),) * 4)
    backbone = sample_detector().backbone
    model: nn.Module = FCOS(backbone, 4, anchor_generator=anchors, min_size=90, max_size=128)
    return model


def _torchvisions(name: str, **options: Any) -> nn.Module:
    model: nn.Module = get_model(name, weights=None, weights_backbone=None, **options)
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "retinanet": _retinanet,
    "retinanet that resizes": lambda: _retinanet(min_size=180, max_size=250),
    "fcos": _fcos,
    "ssdlite": lambda: _torchvisions("ssdlite320_mobilenet_v3_large", num_classes=4),
    "faster r-cnn": lambda: _torchvisions(
        "fasterrcnn_mobilenet_v3_large_320_fpn", num_classes=4, min_size=64, max_size=96
    ),
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module", params=MODELS)
def detector(request: pytest.FixtureRequest) -> FrozenDetector:
    torch.manual_seed(0)
    return FrozenDetector(MODELS[request.param](), name=request.param, weights="none")


def picture() -> Tensor:
    return torch.rand(1, 3, 90, 121, generator=torch.Generator().manual_seed(1))


def target(regions: Tensor | None = None, boxes: Tensor = BOX) -> dict[str, Tensor]:
    one = {"boxes": boxes, "labels": torch.ones(len(boxes), dtype=torch.int64)}
    return one if regions is None else one | {"ignore": regions}


def losses(detector: FrozenDetector, one: dict[str, Tensor]) -> dict[str, Tensor]:
    torch.manual_seed(3)  # Faster R-CNN draws samples
    return detector.losses(picture(), [one])


def test_no_region_changes_nothing(detector: FrozenDetector) -> None:
    before = losses(detector, target())
    assert losses(detector, target(torch.zeros(0, 4))) == before
    nowhere = torch.tensor([[500.0, 500.0, 600.0, 600.0]])
    for name, value in losses(detector, target(nowhere)).items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_a_region_everywhere_leaves_no_background(detector: FrozenDetector) -> None:
    """Without an object nothing is left to be wrong; Faster R-CNN keeps background then."""
    image = picture().requires_grad_()
    found = detector.losses(image, [target(EVERYWHERE, BOX[:0])])
    total = torch.stack(list(found.values())).sum()
    assert torch.isfinite(total)
    if "loss_objectness" in found:
        return
    assert total == 0
    (gradient,) = torch.autograd.grad(total, image)
    assert not gradient.any()


def test_a_region_over_an_object_leaves_the_object(detector: FrozenDetector) -> None:
    background = losses(detector, target())
    found = losses(detector, target(EVERYWHERE))
    for name, value in found.items():
        if "regression" in name or "ctrness" in name:
            torch.testing.assert_close(value, background[name])
    changed = {name for name in found if found[name] != background[name]}
    assert changed & {"classification", "loss_objectness", "loss_classifier"}
    assert sum(found.values()) > 0


def test_the_loss_is_that_of_the_anchors_outside() -> None:
    """RetinaNet's, by torchvision's parts and intersections over the anchor's own area."""
    detector: Any = FrozenDetector(sample_detector(), name="sample", weights="none")
    model, regions = detector.model, torch.tensor([[30.0, 5.0, 110.0, 60.0], [0.0, 60, 40, 90]])
    batch, _ = model.transform(list(picture()), None)
    features = list(model.backbone(batch.tensors).values())
    (logits,) = model.head(features)["cls_logits"]
    (anchors,) = model.anchor_generator(batch, features)
    matched = model.proposal_matcher(box_iou(BOX, anchors))
    total = torch.zeros(())
    kept = 0
    for anchor, row, match in zip(anchors.tolist(), logits, matched.tolist(), strict=True):
        x1, y1, x2, y2 = anchor
        inside = max(
            max(0, min(x2, right) - max(x1, left)) * max(0, min(y2, bottom) - max(y1, top))
            for left, top, right, bottom in regions.tolist()
        )
        if match == -2 or (match < 0 and inside >= 0.5 * (x2 - x1) * (y2 - y1)):
            continue
        kept += 1
        truth = torch.zeros_like(row)
        truth[1] = float(match >= 0)
        total = total + sigmoid_focal_loss(row, truth, reduction="sum")
    assert kept < (matched != -2).sum()
    expected = total / (matched >= 0).sum()
    one = target(regions)
    found = [detector.losses(picture(), [one]), FrozenEngine(detector).losses(picture(), [one])]
    for each in found:
        torch.testing.assert_close(each["classification"], expected)


@pytest.mark.parametrize("kind", ["retinanet", "retinanet that resizes"])
def test_the_engine_leaves_out_what_the_detector_does(kind: str) -> None:
    detector = FrozenDetector(MODELS[kind](), name="sample", weights="none")
    engine = FrozenEngine(detector)
    region = torch.tensor([[30.0, 5.0, 110.0, 60.0]])
    images = torch.cat([picture(), picture()])
    targets = [target(region), target(torch.zeros(0, 4), BOX[:0])]
    ours, theirs = engine.losses(images, targets), detector.losses(images, targets)
    without = detector.losses(images, [target(), target(None, BOX[:0])])
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value)
    assert theirs["classification"] < without["classification"]


def test_half_of_a_box_in_one_region_is_over_it() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10.1], [20, 0, 30, 10], [0, 0, 0, 0]])
    halves = torch.tensor([[0.0, 0, 10, 5], [20, 0, 24, 10], [26, 0, 30, 10]])
    assert lie_over(boxes, halves).tolist() == [True, False, False, False]
    assert lie_over(boxes, None).tolist() == [False] * 4
