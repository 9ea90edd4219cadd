"""Faults tried in processes of their own, and what came of them.

A trial is a function that runs in a fresh process, forked from one that has imported everything
and has no threads; what it runs in there is in `tests.kit.children`.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.kit.children import mount_memory, private_mounts
from tests.torture.campaign import FaultRow

Parameters = TypeVar("Parameters")


@dataclass(frozen=True)
class Verdict:
    """What came of one fault; `row` is its kind, `miss` is "" if all went well."""

    row: str
    caught: bool = False
    harmless: bool = False
    miss: str = ""


def tried(
    trial: Callable[[Parameters], Verdict | list[Verdict]],
    parameters: Sequence[Parameters],
    *,
    at_once: int = 2,
) -> dict[str, FaultRow]:
    """Run trials in processes of their own; rows by name, in the order of their first fault."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads of a decoder do not survive fork
    os.environ.setdefault("MALLOC_ARENA_MAX", "1")  # others have memory that no limit counts
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.kit.warm_ingest", "tests.torture.resources.run"])
    rows: dict[str, FaultRow] = {}
    with ProcessPoolExecutor(at_once, mp_context=context, max_tasks_per_child=1) as pool:
        futures: list[tuple[Parameters, Future[Verdict | list[Verdict]]]] = [
            (one, pool.submit(_guarded, trial, one)) for one in parameters
        ]
        for one, future in futures:
            found = future.result()
            for verdict in found if isinstance(found, list) else [found]:
                row = rows.setdefault(verdict.row, FaultRow(verdict.row))
                row.record(
                    caught=verdict.caught,
                    harmless=verdict.harmless,
                    survived=not verdict.miss,
                    what=f"{verdict.miss} ({trial.__name__}, {one})",
                )
    return rows


def _guarded(
    trial: Callable[[Parameters], Verdict | list[Verdict]], parameters: Parameters
) -> Verdict | list[Verdict]:
    try:
        return trial(parameters)
    except Exception:  # a trial that cannot be carried out has to be seen
        return Verdict("trials that failed themselves", miss=traceback.format_exc())


def can_mount(folder: Path) -> Verdict:
    """A trial: whether this user may mount; a miss says why not."""
    try:
        private_mounts()
        mount_memory(folder, "size=100k")
    except OSError as error:
        return Verdict("mounts", miss=str(error))
    return Verdict("mounts")
