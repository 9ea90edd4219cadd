"""What all models here have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class StrictModel(BaseModel):
    """Immutable, and a field nobody declared is an error: a typo must not pass as data."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
