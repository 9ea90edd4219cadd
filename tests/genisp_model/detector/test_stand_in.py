"""The stand-in detector as packaged: the right file, frozen, and able to see by day."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torchvision.ops import box_iou

from genisp_model.detector import frozen
from genisp_model.detector.frozen import (
    SAMPLE_DETECTOR,
    FrozenDetector,
    load_frozen_detector,
)
from genisp_model.renderings import render_classical
from pipeline.errors import GenispError
from pipeline.sample_set import compose_scene, render_scene
from schemas.coco import CLASS_NAMES

SCENES = (88, 90)  # neither trained on nor held out
LARGE = 40**2  # pixels of a box


@pytest.fixture(scope="module")
def detector() -> FrozenDetector:
    return load_frozen_detector(SAMPLE_DETECTOR, weights="sample")


def day(number: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A well-lit scene as the classical rendering shows it, and what is in it."""
    scene = render_scene(
        compose_scene((1_000_003, number)), width=612, height=408, illumination="day"
    )
    boxes = torch.from_numpy(scene.boxes).float().reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    picture = render_classical(torch.from_numpy(scene.xyz)[None])  # (1, 3, 408, 612)
    return picture, {"boxes": boxes, "labels": torch.from_numpy(scene.labels)}


def test_the_packaged_file_is_small_and_has_the_hash_that_is_asked_for() -> None:
    path = frozen.SAMPLE_WEIGHTS
    assert hashlib.sha256(path.read_bytes()).hexdigest() == frozen.SAMPLE_WEIGHTS_SHA256
    assert path.stat().st_size < 4e6


def test_another_file_in_its_place_is_refused(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = tmp_path_factory.mktemp("assets") / "sample_retinanet.safetensors"
    data = bytearray(frozen.SAMPLE_WEIGHTS.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    monkeypatch.setattr(frozen, "SAMPLE_WEIGHTS", damaged)
    with pytest.raises(GenispError, match="SHA-256"):
        load_frozen_detector(SAMPLE_DETECTOR, weights="sample")


def test_its_weights_are_32_bit_numbers_once_loaded(detector: FrozenDetector) -> None:
    assert {p.dtype for p in detector.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in detector.parameters())


def test_predictions_and_losses_leave_it_as_it_was(detector: FrozenDetector) -> None:
    before = detector.state_hash()
    picture, target = day(SCENES[0])
    picture.requires_grad_()
    torch.autograd.backward(sum(detector.losses(picture, [target]).values(), torch.tensor(0.0)))
    detector.predict(picture.detach())
    assert detector.state_hash() == before
    assert picture.grad is not None
    assert picture.grad.abs().sum() > 0


def test_its_labels_are_cocos(detector: FrozenDetector) -> None:
    assert detector.class_names == CLASS_NAMES
    (found,) = detector.predict(day(SCENES[0])[0])
    assert set(found["labels"].tolist()) <= set(CLASS_NAMES)


def test_it_finds_most_large_objects_by_day(detector: FrozenDetector) -> None:
    met = wanted = 0
    for number in SCENES:
        picture, target = day(number)
        (found,) = detector.predict(picture)
        sure = found["scores"] > 0.3
        boxes, labels = found["boxes"][sure], found["labels"][sure]
        for box, label in zip(target["boxes"], target["labels"], strict=True):
            if (box[2:] - box[:2]).prod() < LARGE:
                continue
            wanted += 1
            overlaps = box_iou(box[None], boxes[labels == label])
            met += int(bool((overlaps >= 0.5).any()))
    assert wanted >= 4
    assert met >= 0.6 * wanted
