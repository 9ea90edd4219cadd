"""What most tests need: a small sample set, a store made from it, and a reporter that remembers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.ingest import IngestOptions, run_ingest
from pipeline.sample_set import write_sample_set
from schemas.events import IngestSummary
from schemas.recipe import Recipe
from tests.kit.places import RAWS, SHARED
from tests.kit.recorder import Recorder


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="session")
def _sample_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("session") / "nod"
    write_sample_set(folder, images=6, seed=3)
    return folder


@pytest.fixture(scope="session")
def _store(_sample_set: Path) -> Path:
    path = _sample_set.parent / "data.zarr"
    summary = run_ingest([str(_sample_set)], str(path), Recipe(), IngestOptions(), Recorder())
    assert summary.exit_code == 0
    return path


@pytest.fixture
def nod(_sample_set: Path, tmp_path: Path) -> Path:
    """A folder of six raws of two cameras with their annotations, this test's own copy."""
    return Path(shutil.copytree(_sample_set, tmp_path / "nod"))


@pytest.fixture
def store_path(_store: Path, tmp_path: Path) -> Path:
    """A store made from `nod`, this test's own copy."""
    return Path(shutil.copytree(_store, tmp_path / "data.zarr"))


Ingest = Callable[..., IngestSummary]


@pytest.fixture
def ingest(recorder: Recorder) -> Ingest:
    """``ingest(sources..., store, recipe=..., **options)`` in this process."""

    def run(*paths: Path, recipe: Recipe | None = None, **options: object) -> IngestSummary:
        *sources, store = map(str, paths)
        how = IngestOptions(**options)  # type: ignore[arg-type]
        return run_ingest(sources, store, recipe or Recipe(), how, recorder)

    return run


@pytest.fixture
def shared() -> Path:
    """The folder of real raws and annotations beside the checkout; skips where it is absent."""
    if not (RAWS / "complete").is_dir():
        pytest.skip(f"no real raws at {SHARED} (set GENISP_SHARED)")
    return SHARED
