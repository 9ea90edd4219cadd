"""Classes go by name; what is not looked for, and crowds, are regions to ignore."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from genisp_model.data.dataset import StoreDataset, say_what_is_ignored
from genisp_model.data.loader import StreamLoader
from pipeline.errors import UsageError
from pipeline.ingest import IngestOptions, run_ingest
from pipeline.store import open_store
from schemas.recipe import Recipe
from tests.kit.recorder import Recorder
from tests.kit.small_raws import write_small_raw

#: COCO's numbers and names.
CLASSES = {1: "person", 3: "car", 18: "dog"}

BOXES = (
    {"category_id": 5, "bbox": [2, 4, 10, 8]},  # car
    {"category_id": 9, "bbox": [20, 4, 10, 8]},  # pedestrian
    {"category_id": 18, "bbox": [10, 14, 12, 8]},  # Dog
    {"category_id": 9, "bbox": [30, 14, 16, 16], "iscrowd": 1},
    {"category_id": 5, "bbox": [6, 20, 6, 6], "ignore": 1},
    {"category_id": 77, "bbox": [0, 0, 4, 4]},  # no such category
    {"category_id": 5, "bbox": [6, 20, 0, 6]},  # nothing
)
NAMES: dict[object, str] = {5: "car", 9: "pedestrian", 18: "Dog"}
FRAME = (48, 32)


def ingested(folder: Path, recipe: Recipe) -> Path:
    write_small_raw(folder / "raws" / "DSC_1.NEF", np.random.default_rng(0), FRAME)
    image = {"id": 1, "file_name": "DSC_1.NEF", "width": FRAME[0], "height": FRAME[1]}
    document = {
        "images": [image],
        "annotations": [{"id": n, "image_id": 1, **one} for n, one in enumerate(BOXES)],
        "categories": [{"id": number, "name": name} for number, name in NAMES.items()],
    }
    (folder / "raws" / "train.json").write_text(json.dumps(document))
    store = folder / "x.zarr"
    run_ingest([str(folder / "raws")], str(store), recipe, IngestOptions(), Recorder())
    return store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ingested(tmp_path_factory.mktemp("classes"), Recipe(fit=(24, 16)))


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = Recipe(fit=(24, 16), categories=(("Pedestrian", "person"),))
    return ingested(tmp_path_factory.mktemp("mapped"), recipe)


def half(*bboxes: list[int]) -> list[list[float]]:
    return [[x / 2, y / 2, (x + w) / 2, (y + h) / 2] for x, y, w, h in bboxes]


REGIONS = half([30, 14, 16, 16], [6, 20, 6, 6], [0, 0, 4, 4])


def test_the_store_keeps_what_is_annotated(store: Path) -> None:
    sample = open_store(store).read("DSC_1", "resized")
    assert sample.sidecar.annotation is not None
    kept = [(box.category_id, box.category) for box in sample.sidecar.annotation.boxes]
    assert kept == [(one["category_id"], NAMES.get(one["category_id"], "77")) for one in BOXES]
    assert sample.labels.tolist() == [5, 9, 18]
    assert sample.boxes.tolist() == half([2, 4, 10, 8], [20, 4, 10, 8], [10, 14, 12, 8])
    assert sample.ignore.dtype == np.float32
    assert sample.ignore.tolist() == REGIONS
    _, target = StoreDataset(store)[0]
    for name in ("boxes", "labels", "ignore"):
        assert np.array_equal(target[name].numpy(), getattr(sample, name))


def test_labels_are_those_of_the_classes_looked_for(store: Path, mapped: Path) -> None:
    _, target = StoreDataset(store, classes=CLASSES)[0]
    assert target["labels"].tolist() == [3, 18]
    assert target["boxes"].tolist() == half([2, 4, 10, 8], [10, 14, 12, 8])
    assert sorted(target["ignore"].tolist()) == sorted([*REGIONS, *half([20, 4, 10, 8])])

    _, target = StoreDataset(mapped, classes=CLASSES)[0]
    assert target["labels"].tolist() == [3, 1, 18]
    assert target["ignore"].tolist() == REGIONS
    assert open_store(mapped).read("DSC_1", "resized").labels.tolist() == [5, 9, 18]


def test_what_is_not_looked_for_is_counted_and_said(store: Path, mapped: Path) -> None:
    said: list[str] = []
    dataset = StoreDataset(store, split="train", classes=CLASSES)
    say_what_is_ignored(dataset, said.append)
    assert dataset.not_looked_for() == {"pedestrian": 1, "(crowd)": 2, "(no name)": 1}
    (line,) = said
    assert "4 boxes" in line
    assert "1 pedestrian" in line
    assert "--category" in line
    said.clear()
    say_what_is_ignored(StoreDataset(mapped, classes=CLASSES), said.append)
    assert "--category" not in said[0]
    everything = CLASSES | {7: "Pedestrian "}
    assert set(StoreDataset(store, classes=everything).not_looked_for()) == {"(crowd)", "(no name)"}


def test_an_image_of_regions_alone_has_no_boxes_to_train_on(store: Path) -> None:
    dataset = StoreDataset(store, classes={1: "person"})
    assert not dataset.has_boxes()
    assert len(dataset[0][1]["ignore"]) == 6
    with pytest.raises(UsageError, match="no boxes of classes that the detector knows"):
        say_what_is_ignored(dataset, lambda line: None)


def test_regions_are_mirrored_and_scaled_like_boxes(store: Path) -> None:
    dataset = StoreDataset(store, level="packed", classes=CLASSES)
    plain = dataset[0][1]
    (batch,) = StreamLoader(dataset, batch_size=1, flip=1.0, fit=(12, 8))
    (target,), (truth,) = batch.targets, batch.truths
    for name in ("boxes", "ignore"):
        x1, y1, x2, y2 = (plain[name] / 2).unbind(1)
        mirrored = torch.stack([12 - x2, y1, 12 - x1, y2], dim=1)
        torch.testing.assert_close(target[name], mirrored)
    boxes = StoreDataset(store).record(0).truth.bboxes
    assert truth.bboxes[:, 0].tolist() == (48 - boxes[:, 0] - boxes[:, 2]).tolist()
    assert truth.bboxes[:, 1:].tolist() == boxes[:, 1:].tolist()


def test_info_counts_classes_and_regions(store: Path, mapped: Path) -> None:
    from pipeline.console.results import info_text
    from pipeline.store.summary import store_info

    info = store_info(open_store(store))
    assert info.classes == {"car": 3, "pedestrian": 2, "Dog": 1, "77": 1}
    assert (info.boxes, info.boxes_untrainable, info.boxes_ignored) == (7, 4, 3)
    assert "4 untrainable, 3 of them ignore regions" in info_text(info)
    assert store_info(open_store(mapped)).classes["person"] == 2
    assert "category pedestrian=person" in info_text(store_info(open_store(mapped)))
