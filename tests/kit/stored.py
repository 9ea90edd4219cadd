"""What a store holds, as tests need it: documents changed and sealed on purpose, codes counted."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.develop.statistics import CODES


def with_value(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of a JSON document with one value replaced; `path` is dotted."""
    copy: dict[str, Any] = json.loads(json.dumps(document))
    *way, last = path.split(".")
    at: Any = copy
    for step in way:
        at = at[int(step)] if isinstance(at, list) else at[step]
    at[int(last) if isinstance(at, list) else last] = value
    return copy


def sealed(document: dict[str, Any]) -> bytes:
    """A sidecar whose digest fits, whatever else is wrong with it."""
    fields = {name: value for name, value in document.items() if name != "digest"}
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    digest = "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    return (json.dumps(fields | {"digest": digest}, indent=1) + "\n").encode()


def histogram(stored: npt.NDArray[np.uint16]) -> npt.NDArray[np.int64]:
    """(3, 65536) counts of every code in each plane of a (3, H, W) level."""
    return np.stack([np.bincount(plane.ravel(), minlength=CODES) for plane in stored])
