"""The frozen detector that guides GenISP: its losses, its predictions, and nothing that moves.

    detector = load_frozen_detector("retinanet_resnet50_fpn_v2", weights="COCO_V1")
    losses = detector.losses(images, targets)      # differentiable with respect to the images
    sum(losses.values()).backward()

Frozen means parameters *and* statistics. torchvision computes losses only in training mode, and in
training mode 53 BatchNorms of ``retinanet_resnet50_fpn_v2`` would follow our pictures away from
COCO. So everything stays in evaluation mode, and only the few containers that decide between losses
and detections are told otherwise, for the length of one call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, get_args

import torch
from torch import Tensor, nn
from torchvision.models import detection as torchvision_detection
from torchvision.models import get_model, get_model_weights, list_models
from torchvision.models.detection import FCOS, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD

from genisp_model.detector.classes import COCO_CLASSES, COCO_COUNT, class_count
from genisp_model.detector.ignored_regions import leave_out_regions
from genisp_model.detector.stand_in import SAMPLE_CLASSES, sample_detector
from genisp_model.detector.weights import (
    check_sha256,
    file_name,
    install_weights,
    published_weights,
    read_weights,
    state_hash,
)
from pipeline.errors import UsageError
from schemas.choices import DEFAULT_DETECTOR, DEFAULT_DETECTOR_WEIGHTS
from schemas.coco import CLASS_NAMES
from schemas.training import BoxLoss

SAMPLE_DETECTOR = "sample_retinanet"

#: What ``weights="sample"`` stands for: see ``assets/README.md``.
SAMPLE_WEIGHTS = Path(__file__).with_name("assets") / "sample_retinanet.safetensors"
SAMPLE_WEIGHTS_SHA256 = "5b86118543768b56912f75d389c4e02f4fae6de1cef335eb713ae8b67594a647"

# What torchvision's own code computes; only RetinaNet has a choice.
_OWN_BOX_LOSS: tuple[tuple[type[nn.Module], BoxLoss], ...] = (
    (FCOS, "giou"),
    (SSD, "smooth_l1"),
    (GeneralizedRCNN, "smooth_l1"),
)

# The same, by how torchvision names them.
_OWN_BOX_LOSS_BY_NAME: tuple[tuple[str, BoxLoss], ...] = (
    ("fcos", "giou"),
    ("ssd", "smooth_l1"),
    ("fasterrcnn", "smooth_l1"),
    ("maskrcnn", "smooth_l1"),
)

# Published by torchvision with FrozenBatchNorm2d and eps 0 (its overwrite_eps).
_WITHOUT_NORM_EPS = ("retinanet_resnet50_fpn", "fasterrcnn_resnet50_fpn")


class FrozenDetector(nn.Module):
    """A torchvision detector that cannot change.

    Under autocast the convolutions alone are computed in fewer bits; anchors, boxes and losses stay
    in float32.

    Parameters
    ----------
    model
        RetinaNet, FCOS, SSD, Faster R-CNN, or Mask R-CNN, whose masks are left out; taken over, and
        frozen.
    name, weights
        What it is and where its numbers come from; for messages and records.
    classes
        Label -> name of what it finds; None for COCO's.
    box_loss
        Loss of box regression; None takes ``"smooth_l1"`` (the paper's) where the architecture
        leaves a choice, else the architecture's own.

    Attributes
    ----------
    box_loss
        The one in use.
    class_names
        Label -> name. Detections of other labels are left out.
    """

    class_names: Mapping[int, str] = COCO_CLASSES

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str,
        weights: str,
        box_loss: BoxLoss | None = None,
        classes: Mapping[int, str] | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.weights = weights
        self.box_loss = _set_box_loss(model, name, box_loss)
        if isinstance(model, MaskRCNN):
            _drop_masks(model)
        self.model = model.requires_grad_(False)
        self.class_names = dict(classes or COCO_CLASSES)
        _keep_boxes_exact(model)
        leave_out_regions(model)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode, whatever a parent module is told."""
        return super().train(False)

    def losses(
        self, images: Tensor | Sequence[Tensor], targets: Sequence[Mapping[str, Any]]
    ) -> dict[str, Tensor]:
        """What is wrong with these pictures, in the detector's eyes.

        Parameters
        ----------
        images
            (B, 3, H, W) float, or B tensors (3, h, w): RGB, meant for 0..1, need not be clamped.
        targets
            For each image ``boxes`` (n, 4) float ``xyxy`` in its pixels and ``labels`` (n,) int64
            its classes; n may be 0 (shape (0, 4)). Where there is ``ignore`` (m, 4), what lies
            over these regions is left out (`ignored_regions`). Other entries are not looked at.

        Returns
        -------
        dict
            Scalars by torchvision's names: ``classification`` and ``bbox_regression`` (RetinaNet,
            SSD), ``bbox_ctrness`` as well (FCOS), or ``loss_classifier``, ``loss_box_reg``,
            ``loss_objectness``, ``loss_rpn_box_reg`` (Faster R-CNN, which draws its samples from
            torch's global generator). Differentiable with respect to `images`.
        """
        batch = list(images)  # B x (3, H, W)
        wanted = [
            {key: target[key].to(image.device) for key in wanted_entries(target)}
            for image, target in zip(batch, targets, strict=True)
        ]
        self.eval()  # someone may have called .train() on the inner model
        with _loss_mode(self.model):
            losses: dict[str, Tensor] = self.model(batch, wanted)
        return losses

    @torch.no_grad()
    def predict(self, images: Tensor | Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Find objects of its classes.

        Parameters
        ----------
        images
            As in `losses`.

        Returns
        -------
        list
            For each image ``boxes`` (n, 4) ``xyxy`` in its pixels, ``labels`` (n,) int64 in
            `class_names`, ``scores`` (n,), best first.
        """
        self.eval()
        found: list[dict[str, Tensor]] = self.model(list(images))
        return [only_named(detections, self.class_names) for detections in found]

    def state_hash(self) -> str:
        """SHA-256 over every parameter and buffer: training must leave it as it was."""
        return state_hash(self.model)


def load_frozen_detector(
    name: str = DEFAULT_DETECTOR,
    weights: str | Path = DEFAULT_DETECTOR_WEIGHTS,
    *,
    box_loss: BoxLoss | None = None,
    classes: Mapping[int, str] | None = None,
    sha256: str | None = None,
    min_size: int | None = None,
    max_size: int | None = None,
) -> FrozenDetector:
    """Build a detector, give it its weights, freeze it.

    Parameters
    ----------
    name
        A torchvision detection model, or ``"sample_retinanet"``.
    weights
        Name of weights torchvision publishes (``"COCO_V1"``; downloaded once, checked by hash),
        path of a ``.safetensors`` or state dict file, ``"sample"`` for those that come with the
        package (``"sample_retinanet"`` only), or ``"none"`` for random numbers.
    box_loss
        ``"smooth_l1"``, ``"giou"`` or ``"l1"``; see `FrozenDetector`. Changes the regression term
        of the loss only.
    classes
        Label -> name of what it finds (`classes.read_classes`). None for COCO's; the stand-in's
        own are person, bicycle and car. Weights may have another number of classes than COCO, and
        then need them.
    sha256
        Digest the file must have (or its first eight digits or more).
    min_size, max_size
        Short and long side the detector resizes to before it looks; torchvision's when None
        (RetinaNet: 800 and 1333, at which a 1200x800 image is left alone).
    """
    if box_loss is not None and box_loss not in get_args(BoxLoss):
        raise UsageError(
            f"there is no box loss {box_loss!r}", mend="one of " + ", ".join(get_args(BoxLoss))
        )
    sizes = {"min_size": min_size, "max_size": max_size}
    given = {key: size for key, size in sizes.items() if size is not None}
    model, count = _build(name, given), _logits(name)
    if str(weights) == "none":
        if sha256 is not None:
            raise UsageError("random weights have no SHA-256", mend="name a file of weights")
    else:
        path = _find_weights(name, weights)
        state = read_weights(path, sha256=sha256)
        own = class_count(state, model.state_dict()) if name != SAMPLE_DETECTOR else None
        if own is not None and own != count:
            model, count = _build(name, given | {"num_classes": own}), own
        install_weights(model, state, path=path, name=name)
        _match_published_norms(model, name, path)
    named = _named_classes(name, count, classes)
    return FrozenDetector(model, name=name, weights=str(weights), box_loss=box_loss, classes=named)


def detector_names() -> list[str]:
    """Names `load_frozen_detector` knows: all of torchvision's but those that find persons only."""
    models = list_models(torchvision_detection, exclude=["keypointrcnn*"])
    return [SAMPLE_DETECTOR, *models]


def _logits(name: str) -> int:
    """Classes a detector has unless its weights say otherwise, background included."""
    return SAMPLE_CLASSES if name == SAMPLE_DETECTOR else COCO_COUNT


def _named_classes(name: str, count: int, classes: Mapping[int, str] | None) -> Mapping[int, str]:
    """The classes given, if a detector with so many logits can have them; else its own."""
    if classes is None:
        if count != _logits(name):
            raise UsageError(
                f"these weights of {name} have {count} classes, which are not COCO's",
                mend="name them: --detector-classes FILE, one name a line",
            )
        return CLASS_NAMES if name == SAMPLE_DETECTOR else COCO_CLASSES
    wrong = [label for label in classes if not 0 <= label < count]
    if wrong:
        raise UsageError(
            f"{name} has no class {wrong[0]} ({classes[wrong[0]]}): its labels are 0 to "
            f"{count - 1}",
            mend="names alone are numbered from 1; write LABEL: NAME for other labels",
        )
    return classes


def only_box_loss(name: str) -> BoxLoss | None:
    """The box loss of a detector that has one only; None where there is a choice."""
    found = (loss for prefix, loss in _OWN_BOX_LOSS_BY_NAME if name.startswith(prefix))
    return next(found, None)


def _build(name: str, sizes: dict[str, int]) -> nn.Module:
    if name.startswith("keypointrcnn"):
        message = f"{name} finds persons only: boxes of other classes would have no label in it"
        raise UsageError(message, mend="one of " + ", ".join(detector_names()))
    if name not in detector_names():
        raise UsageError(
            f"there is no detector {name!r}", mend="one of " + ", ".join(detector_names())
        )
    if sizes.keys() & {"min_size", "max_size"} and name.startswith("ssd"):
        raise UsageError(f"{name} has one input size", mend="leave min_size and max_size out")
    if name == SAMPLE_DETECTOR:
        sample: nn.Module = sample_detector(**sizes)
        return sample
    # No weights here: torchvision would unpickle them.
    model: nn.Module = get_model(name, weights=None, weights_backbone=None, **sizes)
    return model


def _find_weights(name: str, weights: str | Path) -> Path:
    if name == SAMPLE_DETECTOR and str(weights) == "sample":
        check_sha256(SAMPLE_WEIGHTS, SAMPLE_WEIGHTS_SHA256, mend="install the package again")
        return SAMPLE_WEIGHTS
    published = {} if name == SAMPLE_DETECTOR else get_model_weights(name).__members__
    if str(weights) in published:
        return published_weights(published[str(weights)])
    if str(weights).isidentifier() and not Path(weights).exists():
        packaged = ["sample"] if name == SAMPLE_DETECTOR else []
        known = [*published, *packaged, "none", "the path of a file"]
        raise UsageError(
            f"{name} has no weights called {str(weights)!r}",
            mend="choose among " + ", ".join(known),
        )
    return Path(weights)


def _match_published_norms(model: nn.Module, name: str, path: Path) -> None:
    if name in _WITHOUT_NORM_EPS and path.name == file_name(get_model_weights(name)["COCO_V1"]):
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 0.0


def _drop_masks(model: MaskRCNN) -> None:
    """Make it the Faster R-CNN that it contains: there are no masks to be guided by.

    torchvision takes a model without these three for one that has no masks.
    """
    model.roi_heads.mask_roi_pool = None
    model.roi_heads.mask_head = None
    model.roi_heads.mask_predictor = None


def _set_box_loss(model: nn.Module, name: str, box_loss: BoxLoss | None) -> BoxLoss:
    if isinstance(model, RetinaNet):
        chosen = box_loss or "smooth_l1"
        # The only way torchvision offers; v2 arrives with "giou", v1 with "l1". Its beta is 1.
        model.head.regression_head._loss_type = chosen
        return chosen
    for kind, own in _OWN_BOX_LOSS:
        if isinstance(model, kind):
            if box_loss not in (None, own):
                raise UsageError(
                    f"the box loss of {name} is {own} and cannot be {box_loss}",
                    mend="leave the box loss out, or use a RetinaNet",
                )
            return own
    raise UsageError(
        f"{type(model).__name__} is no detector whose losses can be had without training it",
        mend="RetinaNet, FCOS, SSD and Faster R-CNN are",
    )


def _keep_boxes_exact(model: nn.Module) -> None:
    """Anchors, boxes and losses in float32 also where autocast gives features in bfloat16.

    Its numbers are 4 apart from 512 to 1024: anchors, which torchvision makes in the features' type
    and keeps, would be up to 4 pixels off, predicted boxes as well. Near 1 they are 1/256 apart:
    the focal loss would round the weight of easy background.
    """
    for module in model.modules():
        if isinstance(module, AnchorGenerator | DefaultBoxGenerator):
            module.register_forward_pre_hook(_for_exact_anchors)
    heads: list[Any] = [getattr(model, "head", None)]
    if isinstance(model, GeneralizedRCNN):
        heads = [model.rpn.head, model.roi_heads.box_predictor]
    for head in heads:
        head.register_forward_hook(lambda module, inputs, outputs: _in_float32(outputs))


def _for_exact_anchors(
    module: nn.Module, inputs: tuple[ImageList, list[Tensor]]
) -> tuple[ImageList, list[Tensor]]:
    """What anchors are made from, without the features' numbers, which they do not look at."""
    images, features = inputs
    bare = [one.new_empty((), dtype=_at_least_float32(one)).expand(one.shape) for one in features]
    return images, bare


def _in_float32(outputs: Any) -> Any:
    """A head's outputs: a tensor, or tensors in a dictionary, list or tuple."""
    if isinstance(outputs, Tensor):
        return outputs.to(_at_least_float32(outputs))
    if isinstance(outputs, dict):
        return {name: _in_float32(value) for name, value in outputs.items()}
    return type(outputs)(map(_in_float32, outputs))


def _at_least_float32(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


@contextmanager
def _loss_mode(model: nn.Module) -> Iterator[None]:
    """Make the model compute losses: its own flag, and in an R-CNN those of its two halves.

    The flag of the containers alone: neither a norm below them nor the input resizing is touched.
    """
    containers = [model]
    if isinstance(model, GeneralizedRCNN):
        containers += [model.rpn, model.roi_heads]
    try:
        for container in containers:
            container.training = True
        yield
    finally:
        for container in containers:
            container.training = False


def wanted_entries(target: Mapping[str, Any]) -> Iterator[str]:
    """The entries of a target that losses look at."""
    yield from ("boxes", "labels")
    if "ignore" in target:
        yield "ignore"


def only_named(detections: dict[str, Tensor], classes: Mapping[int, str]) -> dict[str, Tensor]:
    """The detections whose labels are those of `classes`."""
    labels = detections["labels"]
    named = torch.isin(labels, torch.tensor(list(classes), device=labels.device))
    return {key: detections[key][named] for key in ("boxes", "labels", "scores")}
