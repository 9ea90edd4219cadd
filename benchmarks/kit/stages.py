"""Where the CPU time of the real per-image path goes: its steps, timed where they are called."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pipeline.develop import kernels, steps
from pipeline.ingest import worker
from pipeline.raw import cross_check
from pipeline.sources.source import Source
from pipeline.store.local.files import LocalFiles
from schemas.sidecar import Sidecar

REST = "everything else"
STAGES = (
    "read",
    "sha256",
    "container check",
    "decode",
    "inspect rows",
    "transform, resize, histogram",
    "statistics",
    "encode packed",
    "encode resized",
    "write and fsync",
    "sidecar",
    REST,
)


@dataclass
class StageClock:
    """CPU seconds by stage; a stage inside another counts for itself only."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    _inner: list[float] = field(default_factory=lambda: [0.0])

    def timed(
        self, work: Callable[..., Any], stage: str | Callable[..., str]
    ) -> Callable[..., Any]:
        """`work`, its time added to `stage`, which may depend on its arguments."""

        def run(*arguments: Any, **named: Any) -> Any:
            self._inner.append(0.0)
            start = time.process_time()
            try:
                return work(*arguments, **named)
            finally:
                total = time.process_time() - start
                name = stage if isinstance(stage, str) else stage(*arguments)
                self.seconds[name] += total - self._inner.pop()
                self._inner[-1] += total

        return run


@contextmanager
def stage_clock() -> Iterator[StageClock]:
    """Time `worker.develop_source`, called as ``worker.develop_source``, by stage."""
    clock = StageClock()
    places: list[tuple[Any, str, str | Callable[..., str]]] = [
        (Source, "read_bytes", "read"),
        (hashlib, "sha256", "sha256"),
        (worker, "check_container", "container check"),
        (cross_check, "decode", "decode"),
        (worker, "check_mosaic", "inspect rows"),
        (kernels, "develop_rows", "transform, resize, histogram"),
        (steps, "level_statistics", "statistics"),
        (worker, "encode_chunk", _encoded_level()),
        (LocalFiles, "put", "write and fsync"),
        (Sidecar, "sealed", "sidecar"),
        (Sidecar, "to_json", "sidecar"),
        (worker, "develop_source", REST),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
    try:
        for owner, name, stage in places:
            setattr(owner, name, clock.timed(getattr(owner, name), stage))
        yield clock
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def _encoded_level() -> Callable[..., str]:
    """Levels come largest first, as the default recipe orders them."""
    calls = 0

    def stage(*_: Any) -> str:
        nonlocal calls
        calls += 1
        return "encode packed" if calls % 2 else "encode resized"

    return stage
