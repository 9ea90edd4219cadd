"""The sample set as a whole: a folder the rest of the project can take for NOD."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO

from pipeline.errors import UsageError
from pipeline.sample_set import SampleSetSummary, write_sample_set
from pipeline.sample_set.annotation_file import Shot, coco_document, split_shots
from pipeline.sample_set.dataset import turn_to_sensor
from tests.pipeline.sample_set.decoders import fast, libraw


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> SampleSetSummary:
    return write_sample_set(tmp_path_factory.mktemp("sample") / "new")


def documents(sample: SampleSetSummary) -> dict[Path, dict[str, Any]]:
    return {path: json.loads(path.read_text()) for path in sample.annotations}


def frames(sample: SampleSetSummary) -> dict[str, tuple[int, int]]:
    every = [image for document in documents(sample).values() for image in document["images"]]
    return {image["id"]: (image["width"], image["height"]) for image in every}


def test_the_default_set_holds_every_variant(sample: SampleSetSummary) -> None:
    variants = set()
    for path in sample.raws:
        facts = fast(path.read_bytes()).metadata
        order = path.read_bytes()[:2].decode()
        variants.add((path.suffix, order, facts.compression, facts.bits_per_sample))
    assert variants >= {
        (".ARW", "II", "sony-arw2", 14),
        (".ARW", "II", "uncompressed", 14),
        (".NEF", "II", "nikon-huffman", 14),
        (".NEF", "MM", "nikon-huffman", 14),
        (".NEF", "II", "uncompressed", 14),
        (".NEF", "MM", "uncompressed", 14),
        (".NEF", "II", "uncompressed", 12),
        (".NEF", "MM", "uncompressed", 12),
    }


def test_both_decoders_agree_about_every_raw(sample: SampleSetSummary) -> None:
    sizes = frames(sample)
    for path in sample.raws:
        slow, quick = libraw(path.read_bytes()), fast(path.read_bytes())
        np.testing.assert_array_equal(slow.pixels, quick.pixels, err_msg=path.name)
        assert slow.crop == quick.crop, path.name
        assert slow.crop[2:] == sizes[path.stem], path.name
        assert slow.pattern == "RGGB", path.name
        assert (slow.white,) == quick.metadata.white_level, path.name
        assert set(slow.black) == set(quick.metadata.black_level.values), path.name
        matrix = quick.metadata.color_matrices.color[0].values
        np.testing.assert_allclose(matrix, slow.matrix.ravel(), atol=1e-6)


def test_frames_are_dark_but_not_black(sample: SampleSetSummary) -> None:
    for path in sample.raws:
        view = libraw(path.read_bytes())
        x, y, w, h = view.crop
        assert view.black[0] in (800, 600, 150)
        signal = view.pixels[y : y + h, x : x + w].astype(np.float64) - view.black[0]
        mean = signal.mean() / (view.white - view.black[0])
        assert 0.0027 < mean < 0.033, path.name
        if mean < 0.01:
            assert (signal < 0).any(), path.name


def test_one_raw_was_held_upright_and_its_boxes_stay_in_the_sensor_frame(
    sample: SampleSetSummary,
) -> None:
    sizes = frames(sample)
    turned = [path for path in sample.raws if libraw(path.read_bytes()).flip == 5]
    assert len(turned) == 1
    width, height = sizes[turned[0].stem]
    assert width > height


def test_annotations_are_valid_coco_in_nods_layout(sample: SampleSetSummary) -> None:
    seen: list[str] = []
    total = 0
    for path, document in documents(sample).items():
        assert list(document) == ["info", "licenses", "images", "categories", "annotations"]
        assert "Synthetic" in document["info"]["description"]
        assert [c["name"] for c in document["categories"]] == ["person", "bicycle", "car"]
        assert [a["id"] for a in document["annotations"]] == list(
            range(len(document["annotations"]))
        )
        seen += [image["id"] for image in document["images"]]
        total += len(document["annotations"])
        for image in document["images"]:
            assert list(image) == ["id", "width", "height", "file_name", "license"]
            assert (path.parent / image["file_name"]).is_file()
            assert image["id"] == Path(image["file_name"]).stem
        for annotation in document["annotations"]:
            check_annotation(annotation, frames(sample))
    assert sorted(seen) == sorted(path.stem for path in sample.raws)
    assert total == sample.boxes


def check_annotation(annotation: dict[str, Any], sizes: dict[str, tuple[int, int]]) -> None:
    keys = ["image_id", "bbox", "category_id", "id", "iscrowd", "area"]
    assert list(annotation) == keys
    x, y, w, h = annotation["bbox"]
    assert all(isinstance(value, int) for value in annotation["bbox"])
    width, height = sizes[annotation["image_id"]]
    assert 0 <= x < x + w <= width
    assert 0 <= y < y + h <= height
    assert annotation["area"] == w * h
    assert annotation["iscrowd"] == 0
    assert annotation["category_id"] in (1, 2, 3)


def test_pycocotools_loads_the_annotations(sample: SampleSetSummary) -> None:
    for path in sample.annotations:
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(str(path))
        boxes = len(coco.loadAnns(coco.getAnnIds()))
        assert boxes == len(json.loads(path.read_text())["annotations"])
        assert coco.getCatIds() == [1, 2, 3]


def test_file_names_are_nods(sample: SampleSetSummary) -> None:
    names = [f"{path.parent.name}/{path.name}" for path in sample.raws]
    assert names[0] == "Sony/DSC01088.ARW"
    assert "Nikon/DSC_0550.NEF" in names
    numbers = [int(path.stem[3:]) for path in sample.raws if path.suffix == ".ARW"]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] - numbers[0] > len(numbers) - 1  # with gaps
    assert {path.name for path in sample.annotations} == {
        f"raw_new_{camera}_{split}.json"
        for camera in ("Sony_RX100m7", "Nikon750")
        for split in ("train", "val", "test")
    }
    assert sample.size == sum(p.stat().st_size for p in (*sample.raws, *sample.annotations))
    assert sample.cameras == ("DSC-RX100M7", "NIKON D750")


def test_same_seed_same_bytes_however_many_images(sample: SampleSetSummary, tmp_path: Path) -> None:
    again = write_sample_set(tmp_path / "again", images=2)
    for path in again.raws:
        [twin] = [other for other in sample.raws if other.name == path.name]
        assert path.read_bytes() == twin.read_bytes()
    other = write_sample_set(tmp_path / "other", images=1, seed=1)
    assert other.raws[0].name == again.raws[0].name
    assert other.raws[0].read_bytes() != again.raws[0].read_bytes()


def test_full_size_is_the_cameras_size(tmp_path: Path) -> None:
    summary = write_sample_set(tmp_path / "full", images=1, full_size=True)
    view = libraw(summary.raws[0].read_bytes())
    assert view.pixels.shape == (3672, 5504)
    assert view.crop == (12, 12, 5472, 3648)
    assert frames(summary) == {"DSC01088": (5472, 3648)}


def test_what_cannot_be_done_is_refused(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty") as refusal:
        write_sample_set(tmp_path)
    assert refusal.value.mend
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"]
    with pytest.raises(UsageError, match="not a directory"):
        write_sample_set(tmp_path / "note.txt")
    with pytest.raises(UsageError, match="images is 0"):
        write_sample_set(tmp_path / "new", images=0)
    with pytest.raises(UsageError, match="seed"):
        write_sample_set(tmp_path / "new", seed=-1)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("count", [1, 2, 3, 10, 50])
def test_splits_hold_everything_once_and_leave_none_empty(count: int) -> None:
    empty = np.zeros((0, 4), np.int64)
    shots = [
        Shot(f"DSC{i:05d}", Path(f"DSC{i:05d}.ARW"), (64, 40), empty, empty[:, 0])
        for i in range(count)
    ]
    splits = split_shots(shots, np.random.default_rng(0))
    assert sorted(shot.stem for part in splits.values() for shot in part) == [
        shot.stem for shot in shots
    ]
    assert splits["train"]
    if count >= 3:
        assert splits["val"]
        assert splits["test"]
    if count == 50:
        assert {name: len(part) for name, part in splits.items()} == {
            "train": 34,
            "val": 8,
            "test": 8,
        }


def test_a_document_of_images_without_boxes_is_fine() -> None:
    empty = np.zeros((0, 4), np.int64)
    shot = Shot("DSC00001", Path("DSC00001.ARW"), (64, 40), empty, empty[:, 0])
    document = coco_document([shot], description="Synthetic")
    assert document["annotations"] == []


@pytest.mark.parametrize(("orientation", "upright_turns"), [(1, 0), (8, 1), (6, -1)])
def test_turning_upright_again_brings_the_scene_back(orientation: int, upright_turns: int) -> None:
    xyz = np.random.default_rng(0).random((3, 8, 5), np.float32)
    xyz[:, 2:4, 1:4] = 9.0  # the object: x 1, y 2, width 3, height 2
    boxes = np.array([[1, 2, 3, 2]], np.int64)
    turned, [[x, y, w, h]] = turn_to_sensor(xyz, boxes, orientation)
    np.testing.assert_array_equal(np.rot90(turned, upright_turns, axes=(1, 2)), xyz)
    assert (turned[:, y : y + h, x : x + w] == 9.0).all()
    assert w * h == 6
    doubled = turn_to_sensor(xyz, boxes * 2, orientation, 2)[1]
    np.testing.assert_array_equal(doubled, [[2 * x, 2 * y, 2 * w, 2 * h]])
