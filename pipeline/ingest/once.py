"""One object for equal values: what an ingest knows of all its files at once is mostly the same."""

from __future__ import annotations

from typing import Any, TypeVar

_Value = TypeVar("_Value")


class Once:
    """Called with a value, gives the first equal one that it was called with."""

    def __init__(self) -> None:
        self._known: dict[Any, Any] = {}

    def __call__(self, value: _Value) -> _Value:
        known: _Value = self._known.setdefault(value, value)
        return known
