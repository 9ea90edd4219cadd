"""The losses and image gradients of a frozen RetinaNet, in less memory and time than torchvision's.

    engine = FrozenEngine(detector)
    losses = engine.losses(images, targets)        # as detector.losses, same numbers

BatchNorms are folded into convolutions, layers keep only what the gradient towards the image needs
(`layers`), the losses keep the logits and never wait for the device (`losses`), and
anchors are made once for each size of image. Equal up to rounding: the engine is compared with the
untouched detector when it is made.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNetHead

from genisp_model.detector.frozen import FrozenDetector, only_named, wanted_entries
from genisp_model.detector.frozen_network import frozen_network, use_fused_kernels
from genisp_model.detector.guide import Guide
from genisp_model.detector.losses import Objects, box_loss, focal_loss, match
from pipeline.errors import TrainingError, UsageError

#: Largest relative difference from the untouched detector, both in float64.
TOLERANCE = 1e-6
#: (height, width) of the picture that is compared.
_CHECKED = (96, 128)

Size = tuple[int, int]


class FrozenEngine:
    """A frozen RetinaNet's losses, image gradients and detections.

    Parameters
    ----------
    detector
        On the device and in the type it is to compute in; left as it is. What is not folded shares
        its memory.
    checked
        Compare with the detector on a picture first.
    fused
        Several layers in one kernel, channels last: for a GPU, see `layers` and `kernels`.

    Raises
    ------
    UsageError
        If the detector is no RetinaNet with torchvision's head; see `fits`.
    TrainingError
        If losses or image gradient differ from the detector's.
    """

    def __init__(
        self, detector: FrozenDetector, *, checked: bool = True, fused: bool = False
    ) -> None:
        if not fits(detector):
            raise UsageError(
                f"the frozen engine does not know the parts of {detector.name}",
                mend="use the detector's own losses (--plain-detector)",
            )
        if checked:
            _compare(detector)
        model: Any = detector.model
        self.detector = detector
        self.class_names = detector.class_names
        self.model = model
        classification, regression = model.head.classification_head, model.head.regression_head
        self.classes = int(classification.num_classes)
        self.backbone = frozen_network(model.backbone)
        self.classify = _tower(classification.conv, classification.cls_logits)
        self.regress = _tower(regression.conv, regression.bbox_reg)
        self.fused = fused
        if fused:
            for part in (self.backbone, self.classify, self.regress):
                use_fused_kernels(part)
        self._anchors: dict[tuple[Any, ...], Tensor] = {}
        self._sizes: dict[Size, Size] = {}
        self._colours: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}

    def losses(
        self, images: Tensor | Sequence[Tensor], targets: Sequence[Mapping[str, Any]]
    ) -> dict[str, Tensor]:
        """As `FrozenDetector.losses`.

        Nothing here waits for the device where `images` is one tensor that need not be resized and
        the targets are on its device. A box without width or height makes the losses NaN.
        """
        found = self.losses_by_image(images, targets)
        return {name: values.sum() / len(values) for name, values in found.items()}

    def losses_by_image(
        self, images: Tensor | Sequence[Tensor], targets: Sequence[Mapping[str, Any]]
    ) -> dict[str, Tensor]:
        """The losses of each image, (B,) each: `losses` is their mean."""
        batch, boxes = self._prepared(images, targets)
        return self._losses(self._seen(batch.tensors), batch, boxes)

    @torch.no_grad()
    def predict(self, images: Tensor | Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """As `FrozenDetector.predict`."""
        batch, _ = self._prepared(images, None)
        return self._detections(self._seen(batch.tensors), batch, _sizes(images))

    @torch.no_grad()
    def losses_and_detections(
        self, images: Tensor | Sequence[Tensor], targets: Sequence[Mapping[str, Any]]
    ) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
        """`losses_by_image` and `predict` from one pass, without gradients."""
        batch, boxes = self._prepared(images, targets)
        seen = self._seen(batch.tensors)
        return self._losses(seen, batch, boxes), self._detections(seen, batch, _sizes(images))

    def losses_of(self, images: Tensor, objects: Objects) -> dict[str, Tensor]:
        """`losses_by_image` of one tensor and padded boxes: the same shapes, the same kernels."""
        size = (images.shape[-2], images.shape[-1])
        if self.resizes(size):
            raise UsageError(
                f"this detector looks at {size[1]}x{size[0]} pixels in another size",
                mend="give it a list of images, which are resized one by one",
            )
        batch = ImageList(self._padded(images), [size] * len(images))
        return self._losses(self._seen(batch.tensors), batch, objects)

    def resizes(self, size: Size) -> bool:
        """Whether images of this (height, width) are looked at in another size."""
        return self._size(size) != size

    def state_hash(self) -> str:
        """Of the untouched detector."""
        return self.detector.state_hash()

    def _prepared(
        self, images: Tensor | Sequence[Tensor], targets: Sequence[Mapping[str, Any]] | None
    ) -> tuple[ImageList, Objects]:
        """Normalised, resized if need be, padded to multiples of 32; and the boxes in them."""
        wanted = None if targets is None else _wanted(images, targets)
        kept = isinstance(images, Tensor) and all(self._size(s) == s for s in _sizes(images)[:1])
        if isinstance(images, Tensor) and kept:
            batch = ImageList(self._padded(images), _sizes(images))
        else:
            batch, wanted = self.model.transform(list(images), wanted)
        if wanted is None:
            wanted = [_nothing(image) for image in images]
        return batch, Objects.of(
            [one["boxes"] for one in wanted],
            [one["labels"] for one in wanted],
            [one.get("ignore", one["boxes"][:0]) for one in wanted],
        )

    def _size(self, size: Size) -> Size:
        """What an image's (height, width) becomes; asked of torchvision without computing it."""
        if size not in self._sizes:
            image, _ = self.model.transform.resize(torch.empty(3, *size, device="meta"))
            self._sizes[size] = (image.shape[-2], image.shape[-1])
        return self._sizes[size]

    def _padded(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> the same, normalised; zeros up to multiples of 32 below and right."""
        divisor = self.model.transform.size_divisible
        height, width = images.shape[-2:]
        key = (images.dtype, images.device)
        if key not in self._colours:
            transform = self.model.transform
            mean, deviation = (
                torch.as_tensor(value, dtype=images.dtype, device=images.device)[:, None, None]
                for value in (transform.image_mean, transform.image_std)
            )
            self._colours[key] = mean, deviation
        mean, deviation = self._colours[key]
        margins = (0, -width % divisor, 0, -height % divisor)
        return functional.pad((images - mean) / deviation, margins)

    def _seen(self, images: Tensor) -> _Seen:
        features = self.backbone(images)
        levels = [features] if isinstance(features, Tensor) else list(features.values())
        return _Seen(
            levels,
            logits=[self.classify(level) for level in levels],
            deltas=[self.regress(level) for level in levels],
        )

    def _losses(self, seen: _Seen, batch: ImageList, objects: Objects) -> dict[str, Tensor]:
        anchors = self._anchors_of(batch.tensors, seen.levels)
        matcher, coder = self.model.proposal_matcher, self.model.head.regression_head.box_coder
        matches = match(anchors, objects, matcher.low_threshold, matcher.high_threshold)
        deltas = torch.cat([_in_rows(level, 4) for level in seen.deltas], dim=1)
        kind, clip = self.detector.box_loss, coder.bbox_xform_clip
        classification = focal_loss(seen.logits, matches, self.classes, fused=self.fused)
        regression = box_loss(kind, deltas, anchors, matches, clip)
        return {
            "classification": classification,
            "bbox_regression": regression + objects.poison(),
        }

    def _detections(
        self, seen: _Seen, batch: ImageList, sizes: list[Size]
    ) -> list[dict[str, Tensor]]:
        """By torchvision's own code, from its own arrangement of the numbers."""
        logits = [_in_rows(level, self.classes) for level in seen.logits]
        deltas = [_in_rows(level, 4) for level in seen.deltas]
        anchors = self._anchors_of(batch.tensors, seen.levels)
        by_level = list(torch.split(anchors, [level.shape[1] for level in deltas]))
        found = self.model.postprocess_detections(
            {"cls_logits": logits, "bbox_regression": deltas},
            [by_level] * len(batch.image_sizes),
            batch.image_sizes,
        )
        found = self.model.transform.postprocess(found, batch.image_sizes, sizes)
        return [only_named(one, self.class_names) for one in found]

    def _anchors_of(self, images: Tensor, levels: list[Tensor]) -> Tensor:
        """(A, 4), the same for each image of a batch."""
        key = (images.shape[-2:], images.device, torch.promote_types(images.dtype, torch.float32))
        if key not in self._anchors:
            one = ImageList(images[:1], [(images.shape[-2], images.shape[-1])])
            with torch.no_grad():
                (self._anchors[key],) = self.model.anchor_generator(one, levels)
        return self._anchors[key]


class _Seen:
    """What the network says of a batch: features, logits and deltas by pyramid level."""

    def __init__(self, levels: list[Tensor], logits: list[Tensor], deltas: list[Tensor]) -> None:
        self.levels, self.logits, self.deltas = levels, logits, deltas


def guide_by(detector: Guide, *, plain: bool = False, fused: bool = False) -> Guide:
    """The engine where it knows the detector's parts, else the detector itself; so if `plain`.

    Raises
    ------
    UsageError
        If `fused` and there is nothing to fuse: no engine, no CUDA device, or no Triton.
    """
    if not plain and isinstance(detector, FrozenDetector) and fits(detector):
        if fused and not (next(detector.parameters()).is_cuda and find_spec("triton")):
            raise _nothing_to_fuse()
        return FrozenEngine(detector, fused=fused)
    if fused:
        raise _nothing_to_fuse()
    return detector


def _nothing_to_fuse() -> UsageError:
    return UsageError(
        "fused-detector is for a RetinaNet in the frozen engine, on a CUDA device, with "
        "Triton installed",
        mend="leave it out; a run that has it goes on here with --resume --speedup auto",
    )


def fits(detector: FrozenDetector) -> bool:
    """Whether the engine computes this detector's losses."""
    model: Any = detector.model
    if not isinstance(model, RetinaNet) or type(model).forward is not RetinaNet.forward:
        return False
    weights = model.head.regression_head.box_coder.weights if _own_head(model) else ()
    return _own_head(model) and tuple(weights) == (1.0, 1.0, 1.0, 1.0)


def _own_head(model: Any) -> bool:
    rescues = bool(model.proposal_matcher.allow_low_quality_matches)
    return type(model.head).forward is RetinaNetHead.forward and rescues


def _tower(convolutions: nn.Module, last: nn.Module) -> nn.Module:
    return nn.Sequential(frozen_network(convolutions), frozen_network(last))


def _in_rows(level: Tensor, columns: int) -> Tensor:
    """(B, anchors * columns, h, w) -> (B, h * w * anchors, columns), at least float32."""
    batch, _, height, width = level.shape
    rows = level.view(batch, -1, columns, height, width).permute(0, 3, 4, 1, 2)
    rows = rows.reshape(batch, -1, columns)
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


def _sizes(images: Tensor | Sequence[Tensor]) -> list[Size]:
    return [(image.shape[-2], image.shape[-1]) for image in images]


def _wanted(
    images: Tensor | Sequence[Tensor], targets: Sequence[Mapping[str, Any]]
) -> list[dict[str, Tensor]]:
    wanted = []
    for image, target in zip(images, targets, strict=True):
        one = {key: target[key].to(image.device) for key in wanted_entries(target)}
        boxes = one["boxes"]
        # As torchvision says it, under python -O too; no shape asks the device.
        if boxes.dim() != 2 or boxes.shape[-1] != 4:
            raise AssertionError("Expected boxes of shape [N, 4].")
        wanted.append(one)
    return wanted


def _nothing(image: Tensor) -> dict[str, Tensor]:
    return {
        "boxes": image.new_zeros((0, 4)),
        "labels": torch.zeros(0, dtype=torch.int64, device=image.device),
    }


def _compare(detector: FrozenDetector) -> None:
    """Losses and image gradient of one picture in float64, folded and untouched."""
    exact = copy.deepcopy(detector).to(torch.float64)
    device = next(exact.parameters()).device
    engine = FrozenEngine(exact, checked=False)
    height, width = _CHECKED
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand(1, 3, height, width, generator=generator, dtype=torch.float64)
    box = torch.tensor([[0.1, 0.2, 0.5, 0.9], [0.6, 0.1, 0.9, 0.4]], dtype=torch.float64)
    box = box * torch.tensor([width, height, width, height])
    most = engine.classes - 1
    target = {
        "boxes": box.to(device),
        "labels": torch.tensor([min(1, most), min(3, most)], device=device),
        "ignore": box.to(device)[:1] + width / 4,
    }
    found = []
    with _without_resizing(exact), torch.enable_grad():
        for one in (exact, engine):
            image = picture.to(device).requires_grad_()
            with torch.autocast(device.type, enabled=False):
                losses = one.losses(image, [target])
            (gradient,) = torch.autograd.grad(torch.stack(list(losses.values())).sum(), image)
            found.append({"image gradient": gradient, **losses})
    theirs, ours = found
    for name, value in theirs.items():
        away = float((ours[name] - value).detach().norm() / value.detach().norm())
        if not away <= TOLERANCE:  # also where it is no number
            raise TrainingError(
                f"the frozen engine and {detector.name} differ: {name} by {away:.2g} of "
                f"{float(value.detach().norm()):.3g}, {TOLERANCE:g} is allowed",
                mend="train with --plain-detector, and please report this",
            )


@contextmanager
def _without_resizing(detector: FrozenDetector) -> Iterator[None]:
    """So that the picture compared may be small."""
    transform: Any = detector.model.transform
    before = transform.min_size, transform.max_size
    transform.min_size, transform.max_size = (min(_CHECKED),), max(_CHECKED)
    try:
        yield
    finally:
        transform.min_size, transform.max_size = before
