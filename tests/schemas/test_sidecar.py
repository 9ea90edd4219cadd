"""What a sidecar may say: a digest that fits proves nothing about the one who made it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from schemas.sidecar import Sidecar
from tests.kit.stored import with_value


@pytest.fixture
def document(store_path: Path) -> dict[str, Any]:
    """A sidecar as it is in a store."""
    path = min(store_path.glob("nikon*/sidecars/*.json"))
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_what_an_ingest_writes_is_read_back(store_path: Path) -> None:
    for path in store_path.glob("*/sidecars/*.json"):
        sidecar = Sidecar.model_validate_json(path.read_bytes())
        assert sidecar.to_json() == path.read_bytes()


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "/etc", "a/b", "a\\b", ".x", "a\0", "x" * 201]
)
@pytest.mark.parametrize("field", ["id", "group"])
def test_names_lead_nowhere_else(document: dict[str, Any], field: str, name: str) -> None:
    with pytest.raises(ValidationError, match=field):
        Sidecar.model_validate(document | {field: name})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("format_version", 1),
        ("row", -1),
        ("row", 10**12),
        ("levels", {}),
        ("frame.size", [0, 0]),
        ("frame.size", [10**9, 10**9]),
        ("frame.raw_size", [16, 16]),  # the crop reaches over it
        ("frame.orientation", 6),  # turned, but its size is not
        ("sensor.white", 0.0),
        ("sensor.black", [-1.0] * 4),
        ("levels.packed.shape", [3, 0, 24]),
        ("levels.packed.shape", [1, 328, 492]),
        ("levels.packed.shape", [3, 328, 491]),
        ("levels.packed.shape", [3, 10**6, 10**6]),
        ("levels.packed.nbytes", 0),
        ("levels.packed.nbytes", 10**9),
        ("levels.packed.crc32c", "../../x.."),
        ("levels.packed.scale_x", 0.25),
        ("levels.packed.scale_factor", 0.0),
        ("levels.packed.scale_factor", -1.0),
        ("levels.packed.scale_factor", 1e-300),
        ("levels.packed.scale_factor", math.nan),
        ("levels.packed.add_offset", 1.0),
        ("levels.packed.statistics", {}),
        ("levels.packed.statistics.Y.p99", 1e300),
        ("levels.packed.statistics.Y.share_below_zero", 1.5),
    ],
)
def test_impossible_records_are_refused(document: dict[str, Any], path: str, value: Any) -> None:
    Sidecar.model_validate(document)
    with pytest.raises(ValidationError):
        Sidecar.model_validate(with_value(document, path, value))
