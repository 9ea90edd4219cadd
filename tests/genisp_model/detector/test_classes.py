"""Names of a detector's classes: COCO's, the stand-in's, or a file's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import get_model
from torchvision.models.detection import FCOS_ResNet50_FPN_Weights

from genisp_model.detector.classes import COCO_CLASSES, COCO_COUNT, class_count, read_classes
from genisp_model.detector.engine import FrozenEngine
from genisp_model.detector.frozen import load_frozen_detector
from pipeline.errors import UsageError
from schemas.coco import CLASS_NAMES


def test_cocos_classes_are_those_of_every_published_detector() -> None:
    listed = FCOS_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    assert len(listed) == COCO_COUNT
    assert len(COCO_CLASSES) == 80
    assert all(listed[label] == name for label, name in COCO_CLASSES.items())
    assert {label: COCO_CLASSES[label] for label in CLASS_NAMES} == CLASS_NAMES


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("person\nbicycle\n", {1: "person", 2: "bicycle"}),
        ("__background__\nperson\n", {1: "person"}),
        ("# ours\n3: traffic light\n\n0:dog", {3: "traffic light", 0: "dog"}),
        ("\ufeffa b \r\nc\r\n", {1: "a b", 2: "c"}),
    ],
)
def test_a_file_of_names_with_or_without_labels(
    tmp_path: Path, text: str, expected: dict[int, str]
) -> None:
    path = tmp_path / "classes.txt"
    path.write_text(text, "utf-8")
    assert read_classes(path) == expected


@pytest.mark.parametrize("text", ["", "# none\n", "1:\n", "a\nA \n", "1: a\n1: b\n", "x" * 300])
def test_a_file_that_names_no_classes_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "classes.txt"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_classes(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.txt", tmp_path / "bytes.txt"):
        if path.name == "bytes.txt":
            path.write_bytes(b"\xff\xfe\x00")
        with pytest.raises(UsageError, match="cannot be read"):
            read_classes(path)


def test_the_stand_in_has_its_own_classes_and_takes_other_names() -> None:
    detector = load_frozen_detector("sample_retinanet", "sample")
    assert detector.class_names == CLASS_NAMES
    renamed = load_frozen_detector("sample_retinanet", "sample", classes={3: "auto"})
    assert FrozenEngine(renamed, checked=False).class_names == {3: "auto"}
    (found,) = renamed.predict(torch.rand(1, 3, 96, 128))
    assert set(found["labels"].tolist()) <= {3}
    with pytest.raises(UsageError, match="no class 4"):
        load_frozen_detector("sample_retinanet", "sample", classes={4: "bus"})


def test_weights_of_another_number_of_classes_need_names(tmp_path: Path) -> None:
    options: dict[str, Any] = {"weights": None, "weights_backbone": None, "num_classes": 3}
    name = "ssdlite320_mobilenet_v3_large"
    own = get_model(name, **options)
    path = tmp_path / "own.safetensors"
    save_file({key: value.contiguous() for key, value in own.state_dict().items()}, path)
    with pytest.raises(UsageError, match="3 classes") as caught:
        load_frozen_detector(name, path)
    assert "--detector-classes" in caught.value.mend
    detector = load_frozen_detector(name, path, classes={1: "cup", 2: "tram"})
    assert detector.class_names == {1: "cup", 2: "tram"}
    box = {"boxes": torch.tensor([[4.0, 4, 60, 60]]), "labels": torch.tensor([2])}
    assert all(
        value.isfinite() for value in detector.losses(torch.rand(1, 3, 64, 64), [box]).values()
    )


@pytest.mark.parametrize(
    "name",
    ["fcos_resnet50_fpn", "ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_fpn"],
)
def test_the_number_of_classes_is_read_from_weights(name: str) -> None:
    like = get_model(name, weights=None, weights_backbone=None).state_dict()
    own = get_model(name, weights=None, weights_backbone=None, num_classes=7).state_dict()
    assert class_count(like, like) == COCO_COUNT
    assert class_count(own, like) == 7
    assert class_count({}, like) is None
