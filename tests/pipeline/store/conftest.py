from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.store.files import StoreFiles


@pytest.fixture
def files(tmp_path: Path) -> StoreFiles:
    return StoreFiles(tmp_path / "store")
