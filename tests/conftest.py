"""What most tests need: a small sample set, a store made from it, and a reporter that remembers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline.ingest import IngestOptions, run_ingest
from pipeline.sample_set import write_sample_set
from schemas.events import IngestSummary
from schemas.finding import Finding
from schemas.recipe import Recipe
from schemas.sidecar import Sidecar


@dataclass
class Recorder:
    """A reporter that keeps what it was told."""

    samples: list[str] = field(default_factory=list)
    errors: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    steps: int = 0

    def stage(self, name: str, total: int, total_bytes: int = 0) -> None:
        pass

    def step(self, nbytes: int = 0, *, failed: bool = False) -> None:
        self.steps += 1

    def sample(self, sidecar: Sidecar) -> None:
        self.samples.append(sidecar.id)

    def error(self, code: str, path: str, message: str, mend: str) -> None:
        self.errors[path] = (code, message, mend)

    def finding(self, finding: Finding) -> None:
        self.findings.append(finding)

    def close(self) -> None:
        pass

    @property
    def codes(self) -> set[str]:
        """Codes of all findings."""
        return {finding.code for finding in self.findings}


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


def tree(root: Path) -> dict[str, bytes]:
    """Every file below `root` with its bytes."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def chunks(root: Path) -> dict[str, bytes]:
    """The chunk files of a store with their bytes."""
    return {name: data for name, data in tree(root).items() if "/c." in name}


@pytest.fixture
def shared() -> Path:
    """The folder of real raws and annotations beside the checkout; skips where it is absent."""
    folder = Path(os.environ.get("GENISP_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (folder / "raws" / "complete").is_dir():
        pytest.skip(f"no real raws at {folder} (set GENISP_SHARED)")
    return folder
