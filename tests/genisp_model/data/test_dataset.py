"""A store as a map-style dataset."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from genisp_model.data.dataset import StoreDataset, Target, collate
from genisp_model.data.sample_index import STATISTICS
from pipeline.errors import DamagedStoreError, UsageError
from pipeline.store.keys import chunk_key, sidecar_key
from pipeline.store.local.files import LocalFiles
from pipeline.store.manifest import dump_manifest, parse_manifest
from pipeline.store.reader import Store, open_store
from schemas.recipe import LevelName, Recipe
from tests.conftest import Ingest
from tests.kit.fresh_process import run_python


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
    path = store_path / chunk_key(dataset.index.group(1).name, "resized", dataset.record(1).row)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    damages = [bytes(flipped), whole[:-9], whole + b"x", b""]
    for data in damages:
        path.write_bytes(data)
        with pytest.raises(DamagedStoreError, match=f"sample {dataset.ids[1]}: ") as caught:
            dataset[1]
        assert caught.value.path == str(path)
        assert caught.value.mend
    path.unlink()
    with pytest.raises(DamagedStoreError, match=f"sample {dataset.ids[1]}: the chunk is missing"):
        dataset[1]
    assert len(dataset[0]) == 2


def test_a_damaged_sidecar_names_its_sample_when_it_is_read(store_path: Path) -> None:
    store = open_store(store_path)
    for lost in (0, 2):
        sidecar_path(store, store.ids()[lost]).write_text("{}")
    dataset = StoreDataset(store)
    for position, name in enumerate(store.ids()):
        if position in (0, 2):
            with pytest.raises(DamagedStoreError, match=f"sample {name}: the sidecar is damaged"):
                dataset[position]
        else:
            assert torch.equal(
                dataset[position][0], torch.from_numpy(store.read(name, "resized").xyz)
            )


def test_a_group_without_a_sound_sidecar_cannot_be_opened(store_path: Path) -> None:
    store = open_store(store_path)
    for name in store.ids():
        if store.entry(name).group == store.cameras[0]:
            sidecar_path(store, name).write_text("{}")
    with pytest.raises(DamagedStoreError, match="the sidecar is damaged"):
        StoreDataset(store)


def test_a_sample_unlike_its_group_is_refused(store_path: Path) -> None:
    store = open_store(store_path)
    name = store.ids()[1]
    sidecar = store.sidecar(name)
    other = sidecar.levels["resized"].model_copy(update={"scale_factor": 1e-3})
    forged = sidecar.model_copy(update={"levels": {**sidecar.levels, "resized": other}}).sealed()
    sidecar_path(store, name).write_bytes(forged.to_json())
    with pytest.raises(DamagedStoreError, match=f"sample {name}: its resized level has not"):
        StoreDataset(store)[1]


def test_opening_reads_one_sidecar_of_each_group_and_reading_each_once(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = LocalFiles.get_or_none

    def spy(files: LocalFiles, key: str) -> bytes | None:
        read.append(key)
        return original(files, key)

    monkeypatch.setattr(LocalFiles, "get_or_none", spy)

    def sidecars() -> int:
        return sum("/sidecars/" in key for key in read)

    dataset = StoreDataset(store_path)
    assert sidecars() == len(dataset.index.groups) == 2
    for _ in range(2):
        list(dataset)
    assert sidecars() == 2 + len(dataset)


def sidecar_path(store: Store, sample_id: str) -> Path:
    entry = store.entry(sample_id)
    return store.path / sidecar_key(*entry.key)


def test_whether_there_are_boxes_is_told_without_reading_on(store_path: Path) -> None:
    store = open_store(store_path)
    dataset = StoreDataset(store)
    assert dataset.has_boxes()
    for name in store.ids():
        sidecar = store.sidecar(name)
        bare = sidecar.model_copy(update={"annotation": None}).sealed()
        sidecar_path(store, name).write_bytes(bare.to_json())
    assert dataset.has_boxes()  # it remembers
    assert not StoreDataset(store).has_boxes()


def test_reading_imports_nothing_that_writes() -> None:
    code = (
        "import sys, genisp_model.data.loader\n"
        "heavy = {'rawpy', 'flashraw', 'dask', 'distributed', 'zarr', 'fsspec'}\n"
        "sys.exit(' '.join(heavy & set(sys.modules)) or None)"
    )
    assert run_python(code) == ""


def test_a_manifest_that_lists_a_sample_in_another_split_is_not_followed(
    store_path: Path,
) -> None:
    """An older manifest, or a forged one: training on what is held out must not go unnoticed."""
    path = store_path / "manifest.jsonl"
    manifest = parse_manifest(path.read_bytes(), path="")
    moved = [replace(entry, split="train") for entry in manifest.samples]
    path.write_bytes(dump_manifest(manifest.header, moved))
    dataset = StoreDataset(store_path, split="train")
    held_out = [one for one in dataset.ids if open_store(store_path).sidecar(one).split != "train"]
    for sample_id in held_out:
        with pytest.raises(DamagedStoreError, match=f"sample {sample_id}: its split is"):
            dataset[dataset.ids.index(sample_id)]
    assert held_out


def test_samples_nobody_can_list_are_not_missing_without_a_word(store_path: Path) -> None:
    (store_path / "manifest.jsonl").unlink()
    victim = next(store_path.glob("*/sidecars/*.json"))
    victim.write_text("{}")
    assert len(open_store(store_path)) == 5
    with pytest.raises(DamagedStoreError, match="the manifest does not list its sample") as caught:
        StoreDataset(store_path, split="train")
    assert caught.value.path == str(victim)
    assert "or delete the sidecar" in caught.value.mend
