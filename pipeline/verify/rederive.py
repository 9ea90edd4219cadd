"""Derives stored samples again from their raws and annotations, by LibRaw, and compares them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.annotations.columns import Annotation
from pipeline.annotations.index import AnnotationIndex
from pipeline.console.progress import Reporter
from pipeline.develop.frame import choose_frame
from pipeline.develop.steps import develop
from pipeline.errors import GenispError, SourceError, UnsupportedRawError
from pipeline.ingest.failure import Failure
from pipeline.ingest.inputs import Inputs, gather
from pipeline.ingest.notices import not_given_finding
from pipeline.ingest.recognise import Recognised, recognise, with_samples
from pipeline.ingest.store_state import SampleState, read_state
from pipeline.ingest.survey import OldBoxes, annotations_of, boxes_left, in_stored_frame
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
    """One sample, the raw it should follow from, and what is said about that raw.

    Attributes
    ----------
    record_gone
        Whether its annotation file is given, and says nothing of that raw any more.
    """

    source: Source
    files: StoreFiles
    group: str
    id: str
    recipe: Recipe
    annotations: tuple[ImageAnnotation, ...]
    record_gone: bool = False


def plan_rederivation(
    files: StoreFiles, recipe: Recipe, inputs: Sequence[str], reporter: Reporter
) -> tuple[list[RederiveTask], list[Finding]]:
    """One task for every stored sample whose raw is among `inputs`; findings about the others."""
    raws = discover(inputs).raws
    state = read_state(files, reporter, recheck=False)
    recognised = recognise(raws, state, reporter)
    given = gather(inputs, (), ()) if raws else None
    said = annotations_of(recognised, given.index if given else AnnotationIndex())
    tasks, boxes_not_given, findings = list[RederiveTask](), list[SampleState](), list[Finding]()
    stored = with_samples(recognised, state)
    for one, sample in stored:
        if sample.damage:
            continue
        annotations, left = _said(one, sample, said(one)[1], given)
        if left == "kept":
            boxes_not_given.append(sample)
        tasks.append(
            RederiveTask(one.given, files, *sample.entry.key, recipe, annotations, left == "gone")
        )
    if boxes_not_given:
        findings.append(not_given_finding(boxes_not_given))
    missing = len(state.samples) - len(tasks)
    if missing:
        findings.append(
            FindingCode.RAW_NOT_GIVEN.finding(
                where=files.location(),
                message=f"{missing} of {len(state.samples)} samples have no raw here",
                severity=Severity.INFO if tasks else Severity.WARNING,
            )
        )
    known = {one.given.name for one, _ in stored} | state.failures.keys()
    unknown = [
        one.given.name for one in recognised if one.how != "copy" and one.given.name not in known
    ]
    if unknown:
        findings.append(
            FindingCode.RAW_NOT_STORED.finding(
                where=files.location(),
                message=f"{len(unknown)} of {len(raws)} raws here are not in it: {unknown[0]}",
            )
        )
    return tasks, findings


def _said(
    one: Recognised,
    sample: SampleState,
    said: tuple[Annotation, ...] | Failure,
    given: Inputs | None,
) -> tuple[tuple[ImageAnnotation, ...], OldBoxes]:
    """What is annotated about a stored sample, and what becomes of its boxes where nothing is."""
    try:
        annotations = () if isinstance(said, Failure) else in_stored_frame(said, sample)
    except SourceError:
        return (), ""
    if annotations or isinstance(said, Failure):
        return annotations, ""  # unusable: no ingest would have taken it either
    return (), boxes_left(one, sample, given.annotation_files if given else ())


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
    outcome = probe_source(ProbeTask(task.source))
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
    """Boxes against the annotation files given."""
    if task.record_gone and sidecar.annotation is not None:
        file = sidecar.annotation.file
        yield FindingCode.BOXES_DIFFER, f"its annotation is not in {file} any more"
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
    # Numbers: where a matrix is from, stores of earlier versions do not say.
    origin = {"matrix_source", "matrix_model"}
    if sensor.model_dump(exclude=origin) != sidecar.sensor.model_dump(exclude=origin):
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
