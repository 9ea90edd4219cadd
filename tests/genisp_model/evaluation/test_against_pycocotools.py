"""AP of a store is pycocotools' AP on the annotation file it was made from.

The oracle reads the original file, in its own frame and with its own numbers of classes, and the
detections scaled there; nothing of ours is between.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from genisp_model.data.dataset import StoreDataset
from genisp_model.data.loader import StreamLoader
from genisp_model.evaluation.scores import Evaluation, evaluate
from pipeline.ingest import IngestOptions, run_ingest
from pipeline.store import open_store
from schemas.recipe import Recipe
from tests.kit.recorder import Recorder
from tests.kit.small_raws import write_small_raw

FRAME = (192, 128)
IMAGES = 10
# Not on every machine that runs the tests for a GPU.
COCO = pytest.importorskip("pycocotools.coco").COCO
COCOeval = pytest.importorskip("pycocotools.cocoeval").COCOeval

#: Not COCO's numbers, nor its spelling.
CATEGORIES = {1: "Car", 7: "person ", 4: "bicycle", 9: "pedestrian"}
#: The guide's labels.
LABELS = {1: "person", 2: "bicycle", 3: "car"}
MAPPED = {1: 3, 7: 1, 4: 2}

FloatArray = npt.NDArray[np.float64]


def drawn_boxes(rng: np.random.Generator, *, categories: Sequence[int]) -> list[dict[str, Any]]:
    """Objects of all sizes, crowds among them, some over the edge, some with a mask's area; two
    images of nothing, one of a crowd alone."""
    made: list[dict[str, Any]] = []
    for image in range(IMAGES):
        for number in range(0 if image in (2, 5) else int(rng.integers(2, 8))):
            # COCO's large is from 96 x 96 pixels, its medium from 32 x 32.
            side = rng.uniform(*{0: (110, 150), 1: (40, 70)}.get(number, (6, 30)), 2)
            corner = rng.uniform(-4, np.array(FRAME) - 8)
            area = float(side.prod())
            one = {
                "id": len(made) + 1,
                "image_id": image,
                "category_id": int(rng.choice(list(categories))),
                "bbox": [*corner.round(2).tolist(), *side.round(2).tolist()],
                "iscrowd": int(image == 7 or (number > 1 and rng.random() < 0.3)),
                "area": area,
            }
            if number and rng.random() < 0.3:  # a mask covers less than its box
                one |= {"area": 0.6 * area, "segmentation": [[0, 0, 1, 0, 1, 1]]}
            made.append(one)
    return made


def detections(rng: np.random.Generator, document: dict[str, Any]) -> list[FloatArray]:
    """Of each image (n, 6): ``xyxy`` in the frame, score, label. Many within crowds."""
    found = []
    for image in range(IMAGES):
        rows = []
        for one in document["annotations"]:
            if one["image_id"] != image:
                continue
            x, y, width, height = one["bbox"]
            label = MAPPED.get(one["category_id"], 1)
            if one["iscrowd"]:
                for _ in range(3):
                    low = rng.uniform(0, 0.6, 2) * (width, height) + (x, y)
                    rows.append([*low, *(low + rng.uniform(0.2, 0.6, 2) * (width, height)), label])
            elif rng.random() < 0.85:
                box = np.array([x, y, x + width, y + height]) + rng.normal(0, 1, 4)
                rows.append([*box, label if rng.random() < 0.9 else int(rng.integers(1, 4))])
        for _ in range(int(rng.integers(0, 4))):
            low = rng.uniform(0, 90, 2)
            rows.append([*low, *(low + rng.uniform(5, 90, 2)), int(rng.integers(1, 4))])
        table = np.array(rows, np.float64).reshape(-1, 5)
        scores = rng.random(len(table))
        found.append(np.column_stack([table[:, :4], scores, table[:, 4]]))
    return found


class Reciting:
    """A guide that says what it was given, an image after the other, in pixels of the picture."""

    class_names: Mapping[int, str] = LABELS

    def __init__(self, by_image: Sequence[FloatArray]) -> None:
        self.left = list(by_image)
        self.said: list[dict[str, Tensor]] = []

    def losses(self, images: Tensor, targets: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        return {"nothing": images.new_zeros(())}

    def predict(self, images: Tensor) -> list[dict[str, Tensor]]:
        height, width = images.shape[-2:]
        table = self.left.pop(0)
        scale = np.array([width / FRAME[0], height / FRAME[1]] * 2)
        self.said.append(
            {
                "boxes": torch.from_numpy((table[:, :4] * scale).astype(np.float32)),
                "scores": torch.from_numpy(table[:, 4].astype(np.float32)),
                "labels": torch.from_numpy(table[:, 5].astype(np.int64)),
            }
        )
        return self.said[-1:]

    def state_hash(self) -> str:
        return ""


def ingested(folder: Path, document: dict[str, Any], *, larger: int = 1, **recipe: Any) -> Path:
    """A store; the raws are `larger` times what is annotated."""
    rng = np.random.default_rng(0)
    for image in document["images"]:
        size = larger * FRAME[0], larger * FRAME[1]
        write_small_raw(folder / "raws" / image["file_name"], rng, size)
    (folder / "raws" / "val.json").write_text(json.dumps(document))
    store = folder / "x.zarr"
    made = Recipe(levels=("resized",), fit=(71, 50), **recipe)
    run_ingest([str(folder / "raws")], str(store), made, IngestOptions(), Recorder())
    return store


def scored(store: Path, found: Sequence[FloatArray]) -> tuple[Evaluation, Reciting]:
    guide = Reciting(found)
    dataset = StoreDataset(store, split="val", classes=LABELS)
    loader = StreamLoader(dataset, batch_size=1, shuffle=False)
    return evaluate(lambda batch: batch.images, guide, loader), guide


def oracle(document: dict[str, Any], said: Sequence[dict[str, Tensor]], size: FloatArray) -> Any:
    """pycocotools on a document, with what was said in pictures of a size (width, height)."""
    truth = COCO()
    truth.dataset = document
    truth.createIndex()
    numbers = {label: number for number, label in MAPPED.items()}
    scale = np.tile(np.array(FRAME) / size, 2)
    results = []
    for image, found in enumerate(said):
        boxes = found["boxes"].double().numpy() * scale
        columns = boxes.tolist(), found["scores"].tolist(), found["labels"].tolist()
        for (x1, y1, x2, y2), score, label in zip(*columns, strict=True):
            box = [x1, y1, x2 - x1, y2 - y1]
            category = numbers[label]
            results.append(
                {"image_id": image, "category_id": category, "bbox": box, "score": score}
            )
    evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def document_of(boxes: list[dict[str, Any]], categories: Sequence[int]) -> dict[str, Any]:
    width, height = FRAME
    return {
        "info": {},
        "images": [
            {"id": n, "file_name": f"DSC_{n:04}.NEF", "width": width, "height": height}
            for n in range(IMAGES)
        ],
        "annotations": boxes,
        "categories": [{"id": n, "name": CATEGORIES[n]} for n in categories],
    }


def assert_same(ours: Evaluation, theirs: Any) -> None:
    stats = [ours.ap, ours.ap50, ours.ap75, *ours.ap_by_size.values()]
    assert stats == pytest.approx(theirs.stats[:6].tolist(), abs=1e-6)
    for position, number in enumerate(theirs.params.catIds):
        precision = theirs.eval["precision"][:, :, position, 0, 2]
        known = precision[precision > -1]
        expected = known.mean() if known.size else -1
        name = LABELS[MAPPED[number]]
        assert ours.ap_by_class.get(name, -1.0) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("seed", "larger"), [(0, 1), (1, 1), (2, 1), (3, 2)])
def test_ap_is_pycocotools_on_the_original_file(
    tmp_path: Path, seed: int, larger: int, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(seed)
    known = list(MAPPED)
    document = document_of(drawn_boxes(rng, categories=known), known)
    found = detections(rng, document)
    store = ingested(tmp_path, document, larger=larger)
    ours, guide = scored(store, found)
    sidecar = open_store(store).sidecar("DSC_0000")
    assert sidecar.frame.box_scale == (larger, larger)
    _, height, width = sidecar.levels["resized"].shape
    theirs = oracle(document, guide.said, np.array([width, height]))
    capsys.readouterr()
    assert sum(one["iscrowd"] for one in document["annotations"]) > 3
    assert_same(ours, theirs)
    assert min(ours.ap_by_size.values()) > 0  # all sizes are there


def test_a_class_without_counterpart_is_ignored_for_every_class_and_a_mapped_one_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As if the file said so: crowds of each class; or the class that the recipe names."""
    rng = np.random.default_rng(9)
    boxes = drawn_boxes(rng, categories=list(CATEGORIES))
    document = document_of(boxes, list(CATEGORIES))
    found = detections(rng, document)
    store = ingested(tmp_path / "unmapped", document)
    ours, guide = scored(store, found)
    size = np.array(open_store(store).sidecar("DSC_0000").levels["resized"].shape[:0:-1])

    said_otherwise = [one for one in boxes if one["category_id"] != 9]
    for one in boxes:
        if one["category_id"] == 9:
            for number in MAPPED:
                again = {"id": 1000 + len(said_otherwise), "category_id": number, "iscrowd": 1}
                said_otherwise.append(one | again)
    assert_same(ours, oracle(document_of(said_otherwise, list(MAPPED)), guide.said, size))

    mapped, guide = scored(
        ingested(tmp_path / "mapped", document, categories=(("Pedestrian", "person"),)), found
    )
    as_persons = [
        one | {"category_id": 7 if one["category_id"] == 9 else one["category_id"]} for one in boxes
    ]
    assert_same(mapped, oracle(document_of(as_persons, list(MAPPED)), guide.said, size))
    capsys.readouterr()
    assert mapped.ap_by_class["person"] != ours.ap_by_class["person"]


def test_nothing_found_scores_zero_where_there_is_something(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    known = list(MAPPED)
    document = document_of(drawn_boxes(rng, categories=[1, 7]), known)
    store = ingested(tmp_path, document)
    ours, _ = scored(store, [np.zeros((0, 6))] * IMAGES)
    assert (ours.ap, ours.ap50, ours.ap75) == (0, 0, 0)
    assert ours.ap_by_class == {"person": 0, "car": 0}
