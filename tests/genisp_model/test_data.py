"""A store as a map-style dataset."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from genisp_model.data import STATISTICS, StoreDataset, Target, collate
from pipeline.errors import DamagedStoreError, UsageError
from pipeline.store import chunk_key, open_store, sidecar_key
from schemas.recipe import LevelName, Recipe
from tests.conftest import Ingest


@pytest.mark.parametrize("level", ["resized", "packed"])
def test_samples_are_what_the_store_reads(store_path: Path, level: LevelName) -> None:
    store = open_store(store_path)
    dataset = StoreDataset(store, level=level)
    assert dataset.ids == store.ids()
    for position, sample_id in enumerate(dataset.ids):
        image, target = dataset[position]
        expected = store.read(sample_id, level)
        assert image.dtype == torch.float32
        assert np.array_equal(image.numpy(), expected.xyz)
        assert np.array_equal(target["boxes"].numpy(), expected.boxes)
        assert np.array_equal(target["labels"].numpy(), expected.labels)
        assert target["image_id"] == position
        assert target["iscrowd"].tolist() == [0] * len(expected.labels)
        statistics = expected.sidecar.levels[level].statistics["Y"]
        assert target["exposure"].item() == np.float32(statistics.p99)


def test_targets_are_in_torchvision_format(store_path: Path) -> None:
    _, target = StoreDataset(store_path)[0]
    boxes = target["boxes"]
    assert boxes.dtype == target["area"].dtype == torch.float32
    assert target["labels"].dtype == target["iscrowd"].dtype == torch.int64
    assert boxes.shape == (len(target["labels"]), 4)
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_statistics_of_every_sample_are_at_hand(store_path: Path) -> None:
    store, dataset = open_store(store_path), StoreDataset(store_path)
    for name in STATISTICS:
        recorded = [
            getattr(store.sidecar(i).levels["resized"].statistics["Z"], name) for i in store
        ]
        assert dataset.statistic(name, plane=2).tolist() == np.array(recorded, np.float32).tolist()
    assert np.array_equal(dataset.exposure, dataset.statistic("p99", plane=1))


def test_a_split_is_selected_and_an_unknown_one_refused(store_path: Path) -> None:
    store = open_store(store_path)
    assert StoreDataset(store_path, split="train").ids == store.ids("train")
    with pytest.raises(UsageError, match="no sample has split 'nope'"):
        StoreDataset(store_path, split="nope")


def test_a_level_that_is_not_stored_is_refused(nod: Path, tmp_path: Path, ingest: Ingest) -> None:
    for folder in nod.iterdir():
        if "Nikon" in folder.name:
            shutil.rmtree(folder)
    store = tmp_path / "packed.zarr"
    ingest(nod, store, recipe=Recipe(levels=("packed",)))
    with pytest.raises(UsageError, match="level 'resized' is not stored"):
        StoreDataset(store)
    assert len(StoreDataset(store, level="packed")) > 0


def test_positions_count_from_either_end_and_end(store_path: Path) -> None:
    dataset = StoreDataset(store_path)
    assert dataset[-1][1]["image_id"] == len(dataset) - 1
    assert sum(1 for _ in dataset) == len(dataset)
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def brighter(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    return image * 2, target


def test_a_transform_sees_image_and_target(store_path: Path) -> None:
    image, _ = StoreDataset(store_path, transform=brighter)[0]
    assert torch.equal(image, 2 * StoreDataset(store_path)[0][0])


def test_samples_are_their_receivers_own(store_path: Path) -> None:
    dataset = StoreDataset(store_path)
    first, again = dataset[0], dataset[0]
    first[0].zero_()
    first[1]["boxes"].zero_()
    assert again[0].abs().sum() > 0
    assert dataset[0][1]["boxes"].sum() > 0


def test_spawned_workers_give_the_same_samples(store_path: Path) -> None:
    dataset = StoreDataset(store_path, transform=brighter)
    loader = DataLoader(
        dataset, 2, num_workers=1, collate_fn=collate, multiprocessing_context="spawn"
    )
    seen = [(image, target) for batch in loader for image, target in zip(*batch, strict=True)]
    assert len(seen) == len(dataset)
    for position, (image, target) in enumerate(seen):
        assert target["image_id"] == position
        assert torch.equal(image, dataset[position][0])


def test_a_pickled_dataset_is_small_and_equal(store_path: Path) -> None:
    dataset = StoreDataset(store_path)
    data = pickle.dumps(dataset)
    assert len(data) < 10_000
    assert torch.equal(pickle.loads(data)[1][0], dataset[1][0])


def test_a_damaged_chunk_names_its_sample(store_path: Path) -> None:
    dataset = StoreDataset(store_path)
    index = dataset.index
    path = store_path / chunk_key(str(index.groups[1]), "resized", int(index.rows[1]))
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    damages = [bytes(flipped), whole[:-9], whole + b"x", b""]
    for data in damages:
        path.write_bytes(data)
        with pytest.raises(DamagedStoreError, match=f"sample {dataset.ids[1]}: ") as caught:
            dataset[1]
        assert caught.value.path == str(path)
        assert caught.value.hint
    path.unlink()
    with pytest.raises(DamagedStoreError, match=f"sample {dataset.ids[1]}: the chunk is missing"):
        dataset[1]
    assert len(dataset[0]) == 2


def test_a_damaged_sidecar_ends_opening_or_is_listed(store_path: Path) -> None:
    store = open_store(store_path)
    lost = store.ids()[2]
    entry = store.entry(lost)
    (store_path / sidecar_key(entry.group or "", lost)).write_text("{}")
    with pytest.raises(DamagedStoreError, match=lost):
        StoreDataset(store)
    dataset = StoreDataset(store, skip_damaged=True)
    assert set(dataset.skipped) == {lost}
    assert dataset.ids == tuple(i for i in store.ids() if i != lost)


def test_reading_imports_nothing_that_writes() -> None:
    code = (
        "import sys, genisp_model.stream\n"
        "heavy = {'rawpy', 'flashraw', 'dask', 'distributed', 'zarr', 'numba', 'fsspec'}\n"
        "sys.exit(' '.join(heavy & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
