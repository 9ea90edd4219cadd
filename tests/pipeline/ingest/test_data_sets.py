"""Published sets of raws, drawn small in their own layouts and names, and ingested by the commands
of docs/how-to/data-sets.md."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

import cli
from pipeline.store import Store, open_store
from schemas.events import IngestSummary
from schemas.sidecar import Sidecar
from tests.conftest import Ingest
from tests.kit.documents import ROOT
from tests.kit.label_sets import voc_text, write_old, write_raw
from tests.kit.small_raws import SMALL_FRAME


def splits(store: Store) -> dict[str | None, int]:
    return dict(Counter(store.sidecar(name).split for name in store))


def boxes(sidecar: Sidecar) -> list[tuple[str, tuple[float, ...]]]:
    assert sidecar.annotation is not None
    return [(box.category, box.bbox) for box in sidecar.annotation.boxes]


def ingested_as_documented(name: str, folder: Path) -> IngestSummary:
    """Run the command that the page's table gives for a set, in the folder above the set."""
    page = (ROOT / "docs" / "how-to" / "data-sets.md").read_text()
    row = re.search(rf"^\| {name} \|.*\| `prep (ingest [^`]+)` \|$", page, re.MULTILINE)
    assert row, f"the table has no command for {name}"
    with contextlib.chdir(folder):
        result = CliRunner().invoke(cli.prep, [*shlex.split(row[1]), "--workers", "0", "--json"])
    return IngestSummary.model_validate_json(result.stdout.splitlines()[-1])


def whole(summary: IngestSummary, images: int) -> None:
    assert (summary.ingested, summary.failed, summary.exit_code) == (images, 0, 0)


def test_raw_nod(tmp_path: Path) -> None:
    """Two cameras; COCO files that name the split, and twins that name the developed pictures."""
    nod = tmp_path / "NOD"
    cameras = {
        "Nikon750": ("DSC_0674.NEF", "DSC_0675.NEF", "NIKON D750"),
        "Sony_RX100m7": ("DSC01088.ARW", "DSC01089.ARW", "DSC-RX100M7"),
    }
    for folder, (*names, model) in cameras.items():
        for name, split in zip(names, ("train", "test"), strict=True):
            write_raw(nod / folder / name, model)
            for prefix, suffix in (("raw_new", name[-4:]), ("rawpy_new", ".JPG")):
                image = {"id": name[:-4], "file_name": name[:-4] + suffix}
                size = {"width": SMALL_FRAME[0], "height": SMALL_FRAME[1]}
                box = {"id": 0, "image_id": name[:-4], "category_id": 3, "bbox": [5, 6, 20, 10]}
                document = {
                    "images": [image | size],
                    "annotations": [box],
                    "categories": [{"id": 3, "name": "car"}],
                }
                write_old(nod / f"{prefix}_{folder}_{split}.json", json.dumps(document))
    whole(ingested_as_documented("RAW-NOD", tmp_path), 4)
    store = open_store(tmp_path / "data.zarr")
    assert splits(store) == {"train": 2, "test": 2}
    assert {store.sidecar(name).camera.model for name in store} == {"NIKON D750", "DSC-RX100M7"}
    assert all(boxes(store.sidecar(name)) == [("car", (5, 6, 20, 10))] for name in store)


def test_pascalraw(tmp_path: Path) -> None:
    """VOC files about pictures of a tenth of the raw's size, named after them, and lists of ids."""
    root = tmp_path / "PASCALRAW"
    small = SMALL_FRAME[0] // 2, SMALL_FRAME[1] // 2
    for number, split in enumerate(("train", "val", "test"), start=1):
        name = f"2014_{number:06d}"
        write_raw(root / "original" / "raw" / f"{name}.nef", "NIKON D3200")
        objects = [("person", 1, 1, *small, 0), ("car", 3, 2, 10, 9, 1)]
        xml = voc_text(f"{name}.png", objects, small)
        write_old(root / "annotations" / f"{name}.xml", xml)
        write_old(root / "trainval" / f"{split}.txt", f"{name}\n")
    write_old(root / "trainval" / "trainval.txt", "2014_000001\n2014_000002\n")
    write_old(root / "README.TXT", "PASCALRAW: Raw Image Database for Object Detection")
    whole(ingested_as_documented("PASCALRAW", tmp_path), 3)
    store = open_store(tmp_path / "data.zarr")
    assert splits(store) == {"train": 1, "val": 1, "test": 1}
    for name in store:
        sidecar, sample = store.sidecar(name), store.read(name, level="packed")
        assert sidecar.camera.model == "NIKON D3200"
        assert boxes(sidecar) == [("person", (0, 0, *small)), ("car", (2, 1, 8, 8))]
        # The first covers the picture, so it covers the level; the difficult one is ignored.
        height, width = sample.xyz.shape[1:]
        assert sample.boxes.tolist() == [[0, 0, width, height]]
        assert len(sample.ignore) == 1


LOD_CLASSES = ("bicycle", "chair", "diningtable", "bottle", "motorbike", "car", "tvmonitor", "bus")


def test_lod(tmp_path: Path) -> None:
    """Numbered pairs: the long exposure and, one higher, the short one, with a VOC file each."""
    root = tmp_path / "LOD"
    for number in range(1, 9):
        kind = "normal" if number % 2 else "dark"
        write_raw(root / f"RAW_{kind}" / f"{number}.DNG", "Canon EOS 5D Mark IV")
        objects = [(LOD_CLASSES[number - 1], 2, 3, 20, 30, 0)]
        xml = voc_text(f"{number}.JPG", objects)
        write_old(root / f"RAW-{kind}-Annotations" / f"{number}.xml", xml)
    write_old(root / "trainval" / "train.txt", "1\n2\n3\n4\n5\n6\n")
    write_old(root / "trainval" / "val.txt", "7\n8\n")
    whole(ingested_as_documented("LOD", tmp_path), 8)
    store = open_store(tmp_path / "data.zarr")
    assert splits(store) == {"train": 6, "val": 2}
    found = [box for name in store for box in boxes(store.sidecar(name))]
    assert sorted(found) == [(name, (1, 2, 19, 28)) for name in sorted(LOD_CLASSES)]
    assert all(len(store.read(name, level="packed").boxes) == 1 for name in store)


def test_aodraw(tmp_path: Path) -> None:
    """COCO with 62 classes numbered from 0; files about scaled and sliced copies lie beside."""
    root = tmp_path / "AODRaw"
    categories = [{"id": number, "name": f"class {number}"} for number in range(1, 62)]
    categories = [{"id": 0, "name": "person"}, *categories]
    width, height = SMALL_FRAME
    for split, numbers in (("train", range(2)), ("test", range(2, 4))):
        images = [
            {"id": i, "file_name": f"{n:08d}.ARW", "width": width, "height": height, "tag": []}
            for i, n in enumerate(numbers)
        ]
        annotations = [
            {
                **{"id": 31 * i + k, "image_id": i, "category_id": 2 * k + i % 2},
                **{"bbox": [k, 2, 9, 10], "area": 90, "ignore": 0, "iscrowd": 0},
                "segmentation": [],
            }
            for i in range(len(images))
            for k in range(31)
        ]
        document = {"images": images, "annotations": annotations, "categories": categories}
        write_old(root / "annotations" / f"{split}_annotations.json", json.dumps(document))
        other = json.dumps(document).replace(f'"width": {width}', f'"width": {width // 3}')
        write_old(
            root / "annotations" / f"{split}_annotations_downsample_scale3_bbox_min_size32.json",
            other.replace(f'"height": {height}', f'"height": {height // 3}'),
        )
        for n in numbers:
            write_raw(root / "images" / f"{n:08d}.ARW", "ILCE-7M3")
            write_old(root / "images" / f"{n:08d}.JPG", b"\xff\xd8\xff\xe0")
    whole(ingested_as_documented("AODRaw", tmp_path), 4)
    store = open_store(tmp_path / "data.zarr")
    assert splits(store) == {"train": 2, "test": 2}
    found = Counter(category for name in store for category, _ in boxes(store.sidecar(name)))
    assert found == {category["name"]: 2 for category in categories}
    labels = {int(label) for name in store for label in store.read(name, level="packed").labels}
    assert labels == set(range(62))


def test_sid(tmp_path: Path) -> None:
    """No boxes; dots in names; lists of pairs that are no annotations."""
    root = tmp_path / "SID"
    for pair in ("00001", "10003", "20001"):
        for name in ("short/{}_00_0.04s.ARW", "short/{}_00_0.1s.ARW", "long/{}_00_10s.ARW"):
            write_raw(root / "Sony" / name.format(pair), "ILCE-7SM2")
    for split, pair in (("train", "00001"), ("test", "10003"), ("val", "20001")):
        line = "./Sony/short/{0}_00_{1}s.ARW ./Sony/long/{0}_00_10s.ARW ISO200 F8\n"
        write_old(
            root / f"Sony_{split}_list.txt", line.format(pair, "0.04") + line.format(pair, "0.1")
        )
    whole(summary := ingested_as_documented("SID", tmp_path), 9)
    assert summary.raws_without_annotation == 9
    store = open_store(tmp_path / "data.zarr")
    assert "00001_00_0.1s" in store.ids()
    assert all(store.sidecar(name).annotation is None for name in store)


@pytest.mark.parametrize("layout", ["images/{s}/{n}", "{s}/images/{n}"])
def test_a_yolo_set(layout: str, tmp_path: Path, ingest: Ingest) -> None:
    """As ultralytics lays one out, and as Roboflow does; the same names in each split."""
    root = tmp_path / "yolo"
    write_old(root / "data.yaml", "names:\n  0: person\n  1: traffic light\nnc: 2\n")
    write_old(root / "README.roboflow.txt", "exported on 1 1 2024")
    for split, text in (("train", "1 0.5 0.5 0.25 0.5\n0 0.25 0.25 0.5 0.5\n"), ("val", "")):
        image = layout.format(s=split, n="DSC_0001")
        write_raw(root / f"{image}.NEF", "NIKON D750", seed=len(split))
        write_old(root / f"{image.replace('images', 'labels')}.txt", text)
    whole(ingest(root, tmp_path / "s.zarr"), 2)
    store = open_store(tmp_path / "s.zarr")
    found = {store.sidecar(name).split: boxes(store.sidecar(name)) for name in store}
    assert found == {
        "train": [("traffic light", (18, 8, 12, 16)), ("person", (0, 0, 24, 16))],
        "val": [],
    }
    summary = ingest(root, tmp_path / "s.zarr")
    assert (summary.up_to_date, summary.exit_code) == (2, 0)
