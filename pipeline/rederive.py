"""Derives stored samples again from their raws, by LibRaw, and compares every number."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.colour import FixedPoint
from pipeline.develop import develop
from pipeline.errors import GenispError
from pipeline.files import StoreFiles
from pipeline.raw import check_container, decode
from pipeline.reporting import Reporter
from pipeline.scheduler import WorkerDied, executor
from pipeline.sources import Source, discover
from pipeline.state import StoreState, read_state
from pipeline.store import read_level, read_sidecar
from schemas.finding import Finding, Severity
from schemas.recipe import Recipe

TIME_LIMIT = 300.0


@dataclass(frozen=True)
class RederiveTask:
    """One sample and the raw it should follow from."""

    source: Source
    store: str
    group: str
    id: str
    recipe: Recipe


def plan_rederivation(
    files: StoreFiles, recipe: Recipe, inputs: Sequence[str], reporter: Reporter
) -> tuple[list[RederiveTask], list[Finding]]:
    """One task for every stored sample whose raw is among `inputs`; a finding if some have none."""
    raws = discover(inputs).raws
    state = read_state(files, reporter, recheck=False)
    tasks = list(_tasks(files, recipe, state, raws))
    missing = len(state.samples) - len(tasks)
    if not missing:
        return tasks, []
    finding = Finding(
        code="raw-not-given",
        severity=Severity.INFO if tasks else Severity.WARNING,
        where=str(files.root),
        message=f"{missing} of {len(state.samples)} samples have no raw here",
        mend="name the folders they were ingested from",
    )
    return tasks, [finding]


def rederive_all(
    tasks: Sequence[RederiveTask], workers: int, reporter: Reporter
) -> Iterator[Finding]:
    """Yield what differs."""
    reporter.stage("derive", len(tasks), sum(task.source.size for task in tasks))
    with executor(min(workers, len(tasks)), time_limit=TIME_LIMIT) as workforce:
        for task, outcome in workforce.run(rederive, iter(tasks)):
            died = isinstance(outcome, WorkerDied)
            reporter.step(task.source.size, failed=died or bool(outcome))
            if isinstance(outcome, WorkerDied):
                yield _finding("underivable", task, "the decoder crashed or hung on its raw")
            else:
                yield from outcome


def _tasks(
    files: StoreFiles, recipe: Recipe, state: StoreState, raws: Sequence[Source]
) -> Iterator[RederiveTask]:
    for source in raws:
        sample = state.sample_of(source)
        if sample is not None and not sample.damage:
            entry = sample.entry
            yield RederiveTask(source, str(files.root), entry.group or "", entry.id or "", recipe)


def rederive(task: RederiveTask) -> tuple[Finding, ...]:
    """What differs between a stored sample and its raw; () if nothing."""
    files = StoreFiles(Path(task.store))
    try:
        sidecar = read_sidecar(files, task.group, task.id)
        data = task.source.read_bytes()
        if hashlib.sha256(data).hexdigest() != sidecar.source.sha256:
            return (_finding("raw-changed", task, "the raw is not the one it was made from"),)
        check_container(data, path=task.source.name)
        decoded = decode(data, "libraw", path=task.source.name)
        sensor = decoded.levels.sensor(sidecar.frame)
        if sensor != sidecar.sensor:
            return (_finding("underivable", task, "levels or matrix differ from LibRaw's"),)
        record = next(iter(sidecar.levels.values()))
        point = FixedPoint(record.scale_factor, record.add_offset)
        levels = develop(decoded.mosaic, sidecar.frame, sensor, task.recipe, point)
        found = []
        for name, level in levels.items():
            stored = read_level(files, sidecar, name).stored
            wrong = int(np.count_nonzero(stored != level.stored))
            if wrong or level.statistics != sidecar.levels[name].statistics:
                message = f"{wrong} of {stored.size} numbers of {name} differ from LibRaw's"
                found.append(_finding("underivable", task, message))
        return tuple(found)
    except GenispError as error:
        return (_finding("underivable", task, error.message),)


def _finding(code: str, task: RederiveTask, message: str) -> Finding:
    return Finding(
        code=code,
        severity=Severity.ERROR,
        where=f"{task.group}/{task.id}",
        message=f"{message} ({task.source.name})",
        mend="prep ingest with the same sources and store redoes samples whose raw changed",
    )
