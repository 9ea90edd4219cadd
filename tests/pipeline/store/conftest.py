from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.store.local.files import LocalFiles


@pytest.fixture
def files(tmp_path: Path) -> LocalFiles:
    return LocalFiles(tmp_path / "store")
