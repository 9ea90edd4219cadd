"""A run goes on with the samples it was started with, or says which are others."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from genisp_model.checkpoint import load_checkpoint
from genisp_model.data.dataset import StoreDataset
from genisp_model.detector.frozen import FrozenDetector, load_frozen_detector
from genisp_model.training.same_store import StoreChanges, digests_of, store_changes
from pipeline.errors import TrainingError
from pipeline.ingest import IngestOptions, run_ingest
from pipeline.store.reader import open_store
from schemas.recipe import Recipe
from tests.genisp_model.training.test_trainer import trainer
from tests.kit.recorder import Recorder


@pytest.fixture
def detector() -> FrozenDetector:
    return load_frozen_detector("sample_retinanet", weights="sample")


@pytest.fixture
def again(tiny_store: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The tiny store, and the folder it is made of: this test's own copies."""
    shutil.copytree(tiny_store.parent / "nod", tmp_path / "nod")
    store = Path(shutil.copytree(tiny_store, tmp_path / "tiny.zarr"))
    return tmp_path / "nod", store


def ingest(nod: Path, store: Path) -> None:
    recipe = Recipe(levels=("resized",), fit=(96, 64))
    run_ingest([str(nod)], str(store), recipe, IngestOptions(), Recorder())


def move_a_box(nod: Path, sample_id: str) -> None:
    for path in nod.rglob("*.json"):
        content = json.loads(path.read_text())
        ids = [one["id"] for one in content["images"] if sample_id in one["file_name"]]
        for box in content["annotations"]:
            if box["image_id"] in ids:
                box["bbox"][2] -= 2
                path.write_text(json.dumps(content))
                return
    raise AssertionError(sample_id)


def test_other_boxes_are_named_and_accepted_on_request(
    again: tuple[Path, Path], tmp_path: Path, detector: FrozenDetector
) -> None:
    nod, store = again
    first = trainer(store, tmp_path / "run", detector, stop_at=3)
    first.fit()
    (moved, *others) = open_store(store).ids("train")
    move_a_box(nod, moved)
    ingest(nod, store)
    second = trainer(store, tmp_path / "run", detector)
    with pytest.raises(TrainingError, match=rf"changed: 1 sample \({moved}\)") as raised:
        second.resume(second.folder.last)
    assert "--accept-changed-store" in raised.value.mend
    assert not any(name in str(raised.value) for name in others)
    second.resume(second.folder.last, accept_changes=True)
    assert second.fit()


def test_raws_that_were_only_touched_change_nothing(
    again: tuple[Path, Path], tmp_path: Path, detector: FrozenDetector
) -> None:
    nod, store = again
    before = open_store(store)
    data = [StoreDataset(before, split="train")]
    unread = digests_of(before, data)
    for position in range(len(data[0])):
        data[0].record(position)
    read = digests_of(before, data)
    for raw in nod.rglob("DSC*"):
        os.utime(raw, (1_600_000_000, 1_600_000_000))
    ingest(nod, store)
    after = open_store(store)
    now = [StoreDataset(after, split="train")]
    assert digests_of(after, now).keys() == read.keys()
    assert not store_changes(read, after, now)
    if digests_of(after, now) != unread:  # the sidecars were written anew
        assert set(store_changes(unread, after, now).changed) <= set(read)


def test_samples_that_came_and_went_are_told_apart(tiny_store: Path) -> None:
    store = open_store(tiny_store)
    data = [StoreDataset(store, split="train")]
    digests = digests_of(store, data)
    first = next(iter(digests))
    before = {name: value for name, value in digests.items() if name != first}
    before["DSC99999"] = ("0" * 16, "")
    changes = store_changes(before, store, data)
    assert changes == StoreChanges(gone=("DSC99999",), new=(first,))
    assert str(changes) == f"gone: 1 sample (DSC99999); new: 1 sample ({first})"
    many = StoreChanges(changed=tuple(f"DSC{number}" for number in range(9)))
    assert "9 samples (DSC0, DSC1, DSC2, DSC3, DSC4 and 4 more)" in str(many)


def test_other_samples_begin_the_epoch_again(
    tiny_store: Path, tmp_path: Path, detector: FrozenDetector
) -> None:
    first = trainer(tiny_store, tmp_path / "run", detector, stop_at=3)
    first.fit()
    second = trainer(tiny_store, tmp_path / "run", detector, split="train")
    known = digests_of(second.store, second._datasets)
    without = dict(list(known.items())[1:])
    replace(load_checkpoint(first.folder.last), samples=without).save(first.folder.last)
    with pytest.raises(TrainingError, match="new: 1 sample"):
        second.resume(second.folder.last)
    second.resume(second.folder.last, accept_changes=True)
    assert (second.step, second.loader.epoch, second.loader.state_dict()["cursor"]) == (3, 1, 0)
