from __future__ import annotations

import hashlib
import pickle
import urllib.error
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models.detection import FCOS, RetinaNet_ResNet50_FPN_V2_Weights
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import box_iou

from genisp_model.detector.frozen import (
    FrozenDetector,
    detector_names,
    load_frozen_detector,
    only_box_loss,
)
from genisp_model.detector.stand_in import sample_detector
from genisp_model.detector.weights import published_weights
from pipeline.errors import GenispError, UsageError
from schemas.training import BoxLoss

BOX_LOSSES: tuple[BoxLoss, ...] = ("smooth_l1", "giou", "l1")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def detector() -> FrozenDetector:
    return load_frozen_detector("sample_retinanet", "none")


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 90, 121, requires_grad=True)


def _targets(n: int = 2) -> list[dict[str, Any]]:
    boxes = torch.tensor([[10.0, 20.0, 60.0, 80.0], [50.0, 5.0, 110.0, 40.0]])[:n]
    labels = torch.tensor([1, 3])[:n]
    return [{"boxes": boxes, "labels": labels, "image_id": i} for i in range(2)]


def _total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def _tiny_fcos(max_size: int = 128) -> FCOS:
    backbone = sample_detector().backbone
    anchors = AnchorGenerator(((8,), (16,), (32,), (64,)), ((1.0,),) * 4)
    return FCOS(backbone, 4, anchor_generator=anchors, min_size=90, max_size=max_size)


def test_losses_reach_the_image_and_only_the_image(
    detector: FrozenDetector, images: Tensor
) -> None:
    losses = detector.losses(images, _targets())
    assert set(losses) == {"classification", "bbox_regression"}
    torch.autograd.backward(_total(losses))
    assert images.grad is not None
    assert (images.grad != 0).float().mean() > 0.99
    assert all(not p.requires_grad and p.grad is None for p in detector.parameters())


def test_empty_targets_leave_only_the_classification(
    detector: FrozenDetector, images: Tensor
) -> None:
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    losses = detector.losses(images, [empty, empty])
    assert losses["bbox_regression"] == 0
    assert losses["classification"] > 0


def test_images_may_differ_in_size(detector: FrozenDetector) -> None:
    images = [torch.rand(3, 90, 121), torch.rand(3, 101, 70)]
    one = {"boxes": torch.tensor([[10.0, 20.0, 60.0, 80.0]]), "labels": torch.tensor([2])}
    assert torch.isfinite(_total(detector.losses(images, [one, one])))
    assert len(detector.predict(images)) == 2


def test_a_target_too_few_is_refused(detector: FrozenDetector, images: Tensor) -> None:
    with pytest.raises(ValueError, match="zip"):
        detector.losses(images, _targets()[:1])


def test_box_loss_changes_the_regression_term_alone(images: Tensor) -> None:
    model = sample_detector()
    found = {}
    for box_loss in BOX_LOSSES:
        frozen = FrozenDetector(model, name="sample", weights="none", box_loss=box_loss)
        assert frozen.box_loss == box_loss
        found[box_loss] = frozen.losses(images, _targets())
    classification = {losses["classification"].item() for losses in found.values()}
    regression = {losses["bbox_regression"].item() for losses in found.values()}
    assert len(classification) == 1
    assert len(regression) == 3


def test_smooth_l1_is_the_default_and_what_torch_computes(
    detector: FrozenDetector, images: Tensor
) -> None:
    assert detector.box_loss == "smooth_l1"
    model: Any = detector.model
    frozen = detector.losses(images, _targets())
    wanted = [{key: t[key] for key in ("boxes", "labels")} for t in _targets()]
    batch, targets = model.transform(list(images), wanted)
    features = list(model.backbone(batch.tensors).values())
    deltas = model.head(features)["bbox_regression"]
    anchors = model.anchor_generator(batch, features)
    by_hand = torch.zeros(())
    for target, delta, anchor in zip(targets, deltas, anchors, strict=True):
        matched = model.proposal_matcher(box_iou(target["boxes"], anchor))
        positive = matched >= 0
        truth = model.box_coder.encode_single(target["boxes"][matched[positive]], anchor[positive])
        by_hand = by_hand + nn.functional.smooth_l1_loss(
            delta[positive], truth, reduction="sum"
        ) / max(1, int(positive.sum()))
    torch.testing.assert_close(frozen["bbox_regression"], by_hand / 2)


def test_retinanet_v2_is_frozen_to_the_last_statistic() -> None:
    """Its 53 BatchNorms drift in train mode; here nothing moves, and the losses are the same."""
    frozen = load_frozen_detector(weights="none", min_size=64, max_size=96)
    isp = nn.Conv2d(3, 3, 1)
    parent = nn.ModuleDict({"isp": isp, "detector": frozen})
    before = frozen.state_hash()
    optimiser = torch.optim.Adam(parent.parameters(), lr=1e-2)
    images = torch.rand(2, 3, 64, 96)
    targets = [{"boxes": torch.tensor([[8.0, 8.0, 50.0, 60.0]]), "labels": torch.tensor([1])}] * 2
    parent.train()
    frozen.model.train()  # even behind our back
    losses = frozen.losses(isp(images), targets)
    torch.autograd.backward(_total(losses))
    optimiser.step()
    assert frozen.state_hash() == before
    norms = [m for m in frozen.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 53
    assert not any(module.training for module in frozen.modules())
    assert parent["isp"].training

    frozen.model.train()
    for norm in norms:
        norm.eval()
    with torch.no_grad():
        again = frozen.losses(isp(images), targets)
        frozen.model.train()
        for norm in norms:
            norm.eval()
        theirs = frozen.model(list(isp(images)), targets)
        assert {k: v.item() for k, v in again.items()} == {k: v.item() for k, v in theirs.items()}
        frozen.model.train()
        frozen.model(list(images), targets)  # torchvision's way, the published mistake
    assert frozen.state_hash() != before


@pytest.mark.parametrize(
    "make",
    [
        sample_detector,
        lambda: _tiny_fcos(max_size=1024),
        lambda: get_model("ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None),
        lambda: get_model(
            "fasterrcnn_mobilenet_v3_large_320_fpn",
            **{"weights": None, "weights_backbone": None, "min_size": 200, "max_size": 1024},
        ),
    ],
    ids=["retinanet", "fcos", "ssdlite", "faster r-cnn"],
)
def test_autocast_leaves_anchors_and_boxes_exact(make: Callable[[], nn.Module]) -> None:
    """In bfloat16 a coordinate near 1000 is up to 4 pixels off, and torchvision keeps anchors."""
    detector = FrozenDetector(make(), name="any", weights="none")
    model: Any = detector.model
    anchors: list[Tensor] = []
    losses: list[Tensor] = []
    maker = getattr(model, "rpn", model).anchor_generator
    maker.register_forward_hook(lambda module, inputs, made: anchors.append(made[0]))
    images = torch.rand(1, 3, 200, 1024)
    box = {"boxes": torch.tensor([[901.3, 130.2, 931.7, 182.9]]), "labels": torch.tensor([1])}
    for enabled in (False, True, False):
        torch.manual_seed(0)  # R-CNN draws its samples
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            found = detector.losses(images, [box])
        assert {value.dtype for value in found.values()} == {torch.float32}
        losses.append(_total(found))
    assert torch.equal(anchors[0], anchors[1])
    assert torch.equal(losses[0], losses[2])
    torch.testing.assert_close(losses[0], losses[1], rtol=0.02, atol=0)


def test_a_two_stage_detector_guides_as_well(images: Tensor) -> None:
    frozen = load_frozen_detector(
        "fasterrcnn_mobilenet_v3_large_320_fpn", "none", min_size=90, max_size=128
    )
    before = frozen.state_hash()
    losses = frozen.losses(images, _targets())
    assert set(losses) == {
        *("loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg")
    }
    torch.autograd.backward(_total(losses))
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert frozen.state_hash() == before
    assert not any(module.training for module in frozen.modules())
    assert len(frozen.predict(images)) == 2
    assert frozen.box_loss == "smooth_l1"


@pytest.mark.parametrize("name", detector_names())
def test_every_detector_guides_with_the_options_of_a_plain_run(name: str) -> None:
    """Its losses reach the picture, and it finds boxes, with the box loss that a run gives it."""
    small: dict[str, Any] = {"min_size": 64, "max_size": 96}
    sizes = {} if name.startswith("ssd") else small  # which have one size
    box_loss = only_box_loss(name)
    frozen = load_frozen_detector(name, "none", box_loss=box_loss, **sizes)
    assert frozen.box_loss == (box_loss or "smooth_l1")
    picture = torch.rand(1, 3, 64, 96, requires_grad=True)
    losses = frozen.losses(picture, _targets()[:1])
    assert not any("mask" in loss for loss in losses)
    torch.autograd.backward(_total(losses))
    assert picture.grad is not None
    assert picture.grad.abs().sum() > 0
    (found,) = frozen.predict(picture)
    assert set(found) == {"boxes", "labels", "scores"}


def test_fcos_guides_with_its_own_box_loss(images: Tensor) -> None:
    frozen = FrozenDetector(_tiny_fcos(), name="fcos", weights="none")
    assert frozen.box_loss == "giou"
    losses = frozen.losses(images, _targets())
    assert set(losses) == {"classification", "bbox_regression", "bbox_ctrness"}
    with pytest.raises(UsageError, match="fcos is giou and cannot be smooth_l1"):
        FrozenDetector(_tiny_fcos(), name="fcos", weights="none", box_loss="smooth_l1")


def test_the_mode_is_restored_after_a_failed_call(detector: FrozenDetector, images: Tensor) -> None:
    wrong = [{"boxes": torch.zeros(4), "labels": torch.zeros(1, dtype=torch.int64)}] * 2
    with pytest.raises(AssertionError):
        detector.losses(images, wrong)
    assert not detector.model.training


def test_predictions_are_of_our_classes_in_image_pixels(
    detector: FrozenDetector, images: Tensor
) -> None:
    cast(Any, detector.model).score_thresh = 0.0
    for found in detector.predict(images):
        assert len(found["boxes"]) == len(found["labels"]) == len(found["scores"]) > 0
        assert set(found["labels"].tolist()) <= {1, 2, 3}
        assert (found["boxes"][:, 2] <= 121).all()
        assert (found["boxes"][:, 3] <= 90).all()
        assert (found["scores"].diff() <= 0).all()
        assert not found["scores"].requires_grad


def test_the_sample_detector_keeps_the_size_unless_told() -> None:
    image = [torch.rand(3, 70, 100)]
    batch, _ = sample_detector().transform(image)
    assert batch.image_sizes == [(70, 100)]
    batch, _ = sample_detector(min_size=140, max_size=400).transform(image)
    assert batch.image_sizes == [(140, 200)]


def test_the_sample_detector_is_small_and_has_no_running_statistics() -> None:
    model = sample_detector()
    assert sum(p.numel() for p in model.parameters()) == 955_672
    assert not list(model.buffers())


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_come_back_from_a_file(tmp_path: Path, suffix: str, half: bool) -> None:
    model = sample_detector()
    path = tmp_path / f"weights{suffix}"
    state = {k: v.half() if half else v for k, v in model.state_dict().items()}
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    frozen = load_frozen_detector("sample_retinanet", path, sha256=digest[:12].upper())
    for name, value in frozen.model.state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, state[name].float(), rtol=0, atol=0)


def test_a_wrong_hash_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(sample_detector().state_dict(), path)
    with pytest.raises(GenispError, match="expected 00000000") as caught:
        load_frozen_detector("sample_retinanet", path, sha256="00000000")
    assert caught.value.path == str(path)
    with pytest.raises(UsageError, match="no SHA-256"):
        load_frozen_detector("sample_retinanet", path, sha256="00")


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("wrap", [lambda bomb: bomb, lambda bomb: {"weight": bomb}])
def test_a_pickle_is_refused_and_not_run(tmp_path: Path, wrap: Callable[[object], object]) -> None:
    path, touched = tmp_path / "weights.pth", tmp_path / "touched"
    torch.save(wrap(_Bomb(touched)), path)
    with pytest.raises(GenispError, match="not a readable file of weights") as caught:
        load_frozen_detector("sample_retinanet", path)
    assert not touched.exists()
    assert caught.value.path == str(path)
    path.write_bytes(pickle.dumps(_Bomb(touched)))
    with pytest.raises(GenispError, match="not a readable"):
        load_frozen_detector("sample_retinanet", path)
    assert not touched.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_damaged_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    state = sample_detector().state_dict()
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    whole = path.read_bytes()
    for damaged in (b"", b"hello", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(GenispError, match="not a readable file of weights"):
            load_frozen_detector("sample_retinanet", path)


def test_foreign_weights_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    state = sample_detector().state_dict()
    first = next(iter(state))
    torch.save({k: v for k, v in state.items() if k != first} | {"x": torch.ones(1)}, path)
    with pytest.raises(GenispError, match=rf"sample_retinanet.*missing.*{first}.*unknown.*: x"):
        load_frozen_detector("sample_retinanet", path)
    torch.save(state | {first: torch.ones(2, 2)}, path)
    with pytest.raises(GenispError, match=rf"1 shapes differ, first: .*{first}"):
        load_frozen_detector("sample_retinanet", path)
    torch.save([1, 2], path)
    with pytest.raises(GenispError, match="no state dict"):
        load_frozen_detector("sample_retinanet", path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(GenispError, match="no such file") as caught:
        load_frozen_detector("sample_retinanet", tmp_path / "no.pth")
    assert "--detector-weights" in caught.value.mend


def test_offline_says_which_file_goes_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(GenispError, match="no route to host") as caught:
        published_weights(RetinaNet_ResNet50_FPN_V2_Weights.COCO_V1)
    name = "retinanet_resnet50_fpn_v2_coco-5905b1c5.pth"
    folder = tmp_path / "hub" / "checkpoints"
    assert caught.value.path == str(folder / name)
    assert f"https://download.pytorch.org/models/{name}" in caught.value.mend
    assert f"put {name} into {folder}" in caught.value.mend
    assert "--detector-weights PATH" in caught.value.mend


def test_a_cached_copy_must_have_the_hash_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    digest = hashlib.sha256(b"right").hexdigest()
    path = folder / f"tiny-{digest[:8]}.pth"
    weights = cast(Any, SimpleNamespace(url=f"https://example.org/models/{path.name}?x=1"))
    path.write_bytes(b"right")
    assert published_weights(weights) == path
    path.write_bytes(b"wrong")
    with pytest.raises(GenispError, match="SHA-256") as caught:
        published_weights(weights)
    assert "delete it" in caught.value.mend


def test_wrong_names_are_answered_with_the_right_ones() -> None:
    with pytest.raises(UsageError, match="no detector 'yolo'") as caught:
        load_frozen_detector("yolo", "none")
    assert "retinanet_resnet50_fpn_v2" in caught.value.mend
    with pytest.raises(UsageError, match="finds persons only"):
        load_frozen_detector("keypointrcnn_resnet50_fpn", "none")
    assert not any("keypoint" in name for name in detector_names())
    with pytest.raises(UsageError, match="no weights called 'COCO_V1'"):
        load_frozen_detector("sample_retinanet")
    with pytest.raises(UsageError, match="no box loss 'l2'"):
        load_frozen_detector("sample_retinanet", "none", box_loss=cast(BoxLoss, "l2"))
    with pytest.raises(UsageError, match="one input size"):
        load_frozen_detector("ssd300_vgg16", "none", min_size=300)
    with pytest.raises(UsageError, match="random weights"):
        load_frozen_detector("sample_retinanet", "none", sha256="0" * 64)


def test_other_modules_are_no_detectors() -> None:
    with pytest.raises(UsageError, match="Linear is no detector"):
        FrozenDetector(nn.Linear(1, 1), name="linear", weights="none")


def test_the_hash_covers_every_parameter_and_buffer() -> None:
    frozen = load_frozen_detector(
        "fasterrcnn_mobilenet_v3_large_320_fpn", "none", min_size=64, max_size=64
    )
    before = frozen.state_hash()
    assert len(before) == 64
    norm = next(m for m in frozen.modules() if isinstance(m, nn.BatchNorm2d))
    assert norm.running_mean is not None
    norm.running_mean[0] += 1e-3
    assert frozen.state_hash() != before
