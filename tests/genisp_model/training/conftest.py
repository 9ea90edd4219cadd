"""Networks that look at small copies: a step takes a tenth of the time."""

from __future__ import annotations

import pytest

from genisp_model import isp


@pytest.fixture
def small_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gains and matrix are regressed from 32x32 pixels."""
    monkeypatch.setattr(isp, "BRANCH_SIZE", 32)
