"""A store of thumbnails, small enough to train on in a test."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.ingest import IngestOptions, run_ingest
from pipeline.sample_set import write_sample_set
from schemas.recipe import Recipe
from tests.kit.recorder import Recorder


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """torch's threads wait for each other actively: on a busy machine more of them are slower."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight samples of two cameras, 96x64 pixels: four to train on, the rest held out."""
    folder = tmp_path_factory.mktemp("tiny")
    write_sample_set(folder / "nod", images=8, seed=11)
    store = folder / "tiny.zarr"
    recipe = Recipe(levels=("resized",), fit=(96, 64))
    run_ingest([str(folder / "nod")], str(store), recipe, IngestOptions(), Recorder())
    return store
