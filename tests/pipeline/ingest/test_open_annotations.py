"""Annotation files of the world, from the file to the boxes of a store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UsageError
from pipeline.store import open_store
from pipeline.store.local.files import LocalFiles
from pipeline.verify import VerifyOptions, run_verify
from schemas.recipe import Recipe
from tests.conftest import Ingest
from tests.kit.places import SHARED
from tests.kit.recorder import Recorder
from tests.kit.small_raws import write_small_raw

FRAME = (192, 128)
RECIPE = Recipe(fit=(96, 64))
BOX = (24.0, 32.0, 48.0, 40.0)


def write_raws(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        write_small_raw(folder / name, np.random.default_rng(number), FRAME)


def write_coco(path: Path, *images: dict[str, Any], size: tuple[int, int] = FRAME) -> None:
    """One annotated image each: ``file_name`` and what its annotation record says."""
    records = [
        {"id": n, "file_name": image["file_name"], "width": size[0], "height": size[1]}
        for n, image in enumerate(images)
    ]
    boxes = [
        {"id": n, "image_id": n, "category_id": 1, "bbox": BOX}
        | {key: value for key, value in image.items() if key != "file_name"}
        for n, image in enumerate(images)
    ]
    categories = [{"id": 1, "name": "person"}]
    document = {"images": records, "annotations": boxes, "categories": categories}
    path.write_text(json.dumps(document))


@pytest.mark.parametrize("size", [(96, 64), (186, 124), (192, 128)])
def test_boxes_of_a_shrunk_jpeg_land_on_the_same_pixels(
    tmp_path: Path, ingest: Ingest, recorder: Recorder, size: tuple[int, int]
) -> None:
    write_raws(tmp_path / "raws", "A.NEF")
    across, down = size[0] / FRAME[0], size[1] / FRAME[1]
    bbox = [BOX[0] * across, BOX[1] * down, BOX[2] * across, BOX[3] * down]
    write_coco(tmp_path / "raws" / "train.json", {"file_name": "A.JPG", "bbox": bbox}, size=size)
    assert ingest(tmp_path / "raws", tmp_path / "s.zarr", recipe=RECIPE).exit_code == 0
    store = open_store(tmp_path / "s.zarr")
    for level in ("packed", "resized"):
        assert store.read("A", level=level).boxes == pytest.approx(np.array([[12, 16, 36, 36]]))
    annotation = store.sidecar("A").annotation
    assert annotation is not None
    assert annotation.boxes[0].bbox == pytest.approx(bbox)  # as annotated
    assert recorder.codes == (set() if size == FRAME else {"scaled-boxes"})
    options = VerifyOptions(sources=(str(tmp_path / "raws"),))
    assert run_verify(LocalFiles(tmp_path / "s.zarr"), recorder, options).errors == 0
    again = ingest(tmp_path / "raws", tmp_path / "s.zarr", recipe=RECIPE)
    assert (again.up_to_date, again.exit_code) == (1, 0)


def test_where_no_name_fits_a_pair_is_shown(
    tmp_path: Path, ingest: Ingest, recorder: Recorder
) -> None:
    write_raws(tmp_path / "raws", "NIGHT_0001.NEF", "other.NEF")
    write_coco(tmp_path / "raws" / "train.json", {"file_name": "x.jpg"}, {"file_name": "n1.jpg"})
    write_coco(tmp_path / "raws" / "val.json", {"file_name": "night-0001.jpg"})
    assert ingest(tmp_path / "raws", tmp_path / "s.zarr", recipe=RECIPE).exit_code == 0
    (finding,) = recorder.findings
    assert finding.code == "names-differ"
    assert "such as night-0001.jpg and NIGHT_0001.NEF" in finding.message


def test_an_image_whose_record_cannot_be_read_is_refused_and_taken_once_it_is_mended(
    tmp_path: Path, ingest: Ingest, recorder: Recorder
) -> None:
    raws = tmp_path / "raws"
    write_raws(raws, "A.NEF", "B.NEF")
    write_coco(raws / "train.json", {"file_name": "A.NEF", "bbox": []}, {"file_name": "B.NEF"})
    summary = ingest(raws, tmp_path / "s.zarr", recipe=RECIPE)
    assert (summary.exit_code, summary.ingested) == (3, 1)
    assert "annotation 0" in recorder.errors["A.NEF"][1]
    write_coco(raws / "train.json", {"file_name": "A.NEF"}, {"file_name": "B.NEF"})
    summary = ingest(raws, tmp_path / "s.zarr", recipe=RECIPE)
    assert (summary.exit_code, summary.ingested, summary.up_to_date) == (0, 1, 1)


def test_a_store_without_splits_says_how_to_get_them(tmp_path: Path, ingest: Ingest) -> None:
    raws = tmp_path / "raws"
    write_raws(raws, "A.NEF")
    write_coco(raws / "boxes.json", {"file_name": "A.NEF"})
    ingest(raws, tmp_path / "s.zarr", recipe=RECIPE)
    with pytest.raises(UsageError) as caught:
        open_store(tmp_path / "s.zarr").ids("train")
    assert "--split train=FILE" in caught.value.mend
    split = (("train", str(raws / "boxes.json")),)
    assert ingest(raws, tmp_path / "s.zarr", recipe=RECIPE, splits=split).reannotated == 1
    assert open_store(tmp_path / "s.zarr").ids("train") == ("A",)


#: Case -> (exit code, boxes by raw, splits).
CASES = {
    "08-polygons-only": (0, {"DSC_0001.NEF": 2}, {"train"}),
    "09-dotted-names": (0, {"scene.001.NEF": 1, "scene.NEF": 0}, {"train", None}),
    "10-double-extension": (0, {"DSC_0001.NEF": 1}, {"train"}),
    "11-split-by-folder": (
        0,
        {"train/DSC_00010.NEF": 1, "valid/DSC_00020.NEF": 1, "test/DSC_00030.NEF": 1},
        {"train", "val", "test"},
    ),
    "12-same-name-two-folders": (
        0,
        {"101ND750/DSC_0001.NEF": 1, "102ND750/DSC_0001.NEF": 1},
        {"train"},
    ),
    "16-normalised-boxes": (3, {}, set()),
}


@pytest.mark.shared_data
@pytest.mark.parametrize("case", CASES)
def test_reported_cases(tmp_path: Path, ingest: Ingest, recorder: Recorder, case: str) -> None:
    if not (SHARED / "cases" / case).is_dir():
        pytest.skip(f"no {SHARED / 'cases' / case}")
    exit_code, boxes, splits = CASES[case]
    assert ingest(SHARED / "cases" / case, tmp_path / "s.zarr").exit_code == exit_code
    store = open_store(tmp_path / "s.zarr")
    sidecars = [store.sidecar(name) for name in store.ids()]
    found = {
        one.source.name: len(one.annotation.boxes) if one.annotation else 0 for one in sidecars
    }
    assert found == boxes
    assert {one.split for one in sidecars} == splits
    if exit_code:
        assert all("fractions" in message for _, message, _ in recorder.errors.values())
