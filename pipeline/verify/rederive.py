"""Derives stored samples again from their raws and annotations, by LibRaw, and compares them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.annotations.index import AnnotationIndex
from pipeline.console.progress import Reporter
from pipeline.develop.frame import choose_frame
from pipeline.develop.steps import develop
from pipeline.errors import GenispError, SourceError, UnsupportedRawError
from pipeline.ingest.inputs import gather
from pipeline.ingest.store_state import StoreState, read_state
from pipeline.ingest.tasks import ProbeTask
from pipeline.ingest.worker import probe_source
from pipeline.raw.decoders.decoder import DecoderDeclinedError
from pipeline.raw.decoders.table import reference
from pipeline.raw.reader import check_container, decode
from pipeline.runtime.executor import WorkerDied, executor
from pipeline.sources.discover import discover
from pipeline.sources.source import Source
from pipeline.store.files import StoreFiles
from pipeline.store.samples import read_level, read_sidecar
from pipeline.verify.records import redo
from schemas.coco import ImageAnnotation
from schemas.finding import Finding, Severity
from schemas.finding_codes import FindingCode
from schemas.recipe import Recipe
from schemas.sidecar import Sidecar

TIME_LIMIT = 300.0


@dataclass(frozen=True)
class RederiveTask:
    """One sample, the raw it should follow from, and what is said about that raw."""

    source: Source
    files: StoreFiles
    group: str
    id: str
    recipe: Recipe
    annotations: tuple[ImageAnnotation, ...]


def plan_rederivation(
    files: StoreFiles, recipe: Recipe, inputs: Sequence[str], reporter: Reporter
) -> tuple[list[RederiveTask], list[Finding]]:
    """One task for every stored sample whose raw is among `inputs`; findings about the others."""
    raws = discover(inputs).raws
    index = gather(inputs, (), ()).index if raws else None
    state = read_state(files, reporter, recheck=False)
    tasks = list(_tasks(files, recipe, state, raws, index))
    findings = []
    missing = len(state.samples) - len(tasks)
    if missing:
        findings.append(
            FindingCode.RAW_NOT_GIVEN.finding(
                where=files.location(),
                message=f"{missing} of {len(state.samples)} samples have no raw here",
                severity=Severity.INFO if tasks else Severity.WARNING,
            )
        )
    unknown = [
        raw.name for raw in raws if not state.sample_of(raw) and raw.name not in state.failures
    ]
    if unknown:
        findings.append(
            FindingCode.RAW_NOT_STORED.finding(
                where=files.location(),
                message=f"{len(unknown)} of {len(raws)} raws here are not in it: {unknown[0]}",
            )
        )
    return tasks, findings


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
                yield _finding(
                    FindingCode.UNDERIVABLE, task, "the decoder crashed or hung on its raw"
                )
            else:
                yield from outcome


def _tasks(
    files: StoreFiles,
    recipe: Recipe,
    state: StoreState,
    raws: Sequence[Source],
    index: AnnotationIndex | None,
) -> Iterator[RederiveTask]:
    for source in raws:
        sample = state.sample_of(source)
        if sample is None or sample.damage:
            continue
        try:
            said = index.lookup(source.name) if index else ()
        except SourceError:
            said = ()  # unusable: no ingest would have taken it either
        yield RederiveTask(source, files, *sample.entry.key, recipe, said)


def rederive(task: RederiveTask) -> tuple[Finding, ...]:
    """What differs between a stored sample and its sources; () if nothing."""
    try:
        sidecar = read_sidecar(task.files, task.group, task.id)
        data = task.source.read_bytes()
        if hashlib.sha256(data).hexdigest() != sidecar.source.sha256:
            return (
                _finding(FindingCode.RAW_CHANGED, task, "the raw is not the one it was made from"),
            )
        return tuple(
            _finding(code, task, message)
            for code, message in (
                *_wrong_facts(task, sidecar),
                *_wrong_boxes(task, sidecar),
                *_wrong_pixels(task, sidecar, data),
            )
        )
    except GenispError as error:
        return (_finding(FindingCode.UNDERIVABLE, task, error.message),)


def _wrong_facts(task: RederiveTask, sidecar: Sidecar) -> Iterator[tuple[FindingCode, str]]:
    outcome = probe_source(ProbeTask(task.source, task.recipe.colour))
    facts = outcome.facts
    if facts is None:
        failure = outcome.failure
        lacking = failure is not None and failure.code == "unsupported"
        code = FindingCode.UNCONFIRMED if lacking else FindingCode.UNDERIVABLE
        why = f": {failure.reason}" if failure else ""
        yield code, f"its raw can no longer be read{why}"
        return
    stored = {"camera": sidecar.camera, "exposure": sidecar.capture, "frame": sidecar.frame}
    size = sidecar.annotation.size if sidecar.annotation else None
    frame = choose_frame(facts.geometry, size)
    derived = {"camera": facts.camera, "exposure": facts.capture, "frame": frame}
    for name, value in stored.items():
        if value != derived[name]:
            yield (
                FindingCode.UNDERIVABLE,
                f"the {name} is not the raw's: {value}, not {derived[name]}",
            )


def _wrong_boxes(task: RederiveTask, sidecar: Sidecar) -> Iterator[tuple[FindingCode, str]]:
    """Boxes against the annotation files given; a raw without any there proves nothing."""
    if task.annotations and _boxes(sidecar.annotation) not in map(_boxes, task.annotations):
        yield FindingCode.BOXES_DIFFER, f"its boxes are not those in {task.annotations[0].file}"


def _boxes(annotation: ImageAnnotation | None) -> str:
    """All that is annotated; but names of files and splits, which depend on how they are given."""
    if annotation is None:
        return ""
    text = annotation.model_dump_json(
        exclude={"file": True, "split": True, "boxes": {"__all__": {"findings"}}}
    )
    return text + "".join("01"[box.trainable] for box in annotation.boxes)


def _wrong_pixels(
    task: RederiveTask, sidecar: Sidecar, data: bytes
) -> Iterator[tuple[FindingCode, str]]:
    check_container(data, path=task.source.name)
    who = "LibRaw"
    try:
        decoded = decode(data, reference().name, path=task.source.name)
    except UnsupportedRawError as error:
        who = sidecar.decoder.name
        yield FindingCode.UNCONFIRMED, f"{error.message}; it was decoded by {who}"
        try:
            decoded = decode(data, who, path=task.source.name)
        except (UnsupportedRawError, DecoderDeclinedError):
            return  # not even by the decoder of that time: nothing to compare
    sensor = decoded.levels.sensor(sidecar.frame)
    if sensor != sidecar.sensor:
        yield FindingCode.UNDERIVABLE, f"levels or matrix differ from {who}'s"
        return
    record = next(iter(sidecar.levels.values()))
    levels = develop(decoded.mosaic, sidecar.frame, sensor, task.recipe, record.fixed_point)
    for name, level in levels.items():
        stored = read_level(task.files, sidecar, name).stored
        wrong = int(np.count_nonzero(stored != level.stored))
        if wrong or level.statistics != sidecar.levels[name].statistics:
            yield (
                FindingCode.UNDERIVABLE,
                f"{wrong} of {stored.size} numbers of {name} differ from {who}'s",
            )


def _finding(code: FindingCode, task: RederiveTask, message: str) -> Finding:
    return code.finding(
        f"{task.group}/{task.id}",
        f"{message} ({task.source.name})",
        mend=redo(task.group, task.id) if code is FindingCode.UNDERIVABLE else None,
    )
