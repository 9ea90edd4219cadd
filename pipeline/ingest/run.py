"""From sources to a store: survey, probe, place, develop, and leave the store whole.

Everything that decides is pure and elsewhere (`placement`); here is the order of the steps. The
coordinator alone gives out rows and writes metadata and manifest; workers write chunks and
sidecars.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from pipeline.console.progress import Reporter
from pipeline.errors import StoreError
from pipeline.ingest.class_levels import settle_levels
from pipeline.ingest.failure import Failure, failure_from
from pipeline.ingest.inputs import Inputs, gather, passed_over_text
from pipeline.ingest.notices import (
    distrusted_finding,
    missing_raws_finding,
    names_differ_finding,
    replaced_finding,
    shared_annotations_finding,
    survey_findings,
    unused_category_finding,
)
from pipeline.ingest.outcomes import Ledger
from pipeline.ingest.placement import place
from pipeline.ingest.recognise import recognise
from pipeline.ingest.renew import re_dated, reannotated, shows_another, with_kept_boxes
from pipeline.ingest.store_state import StoreState, read_state
from pipeline.ingest.survey import Item, statuses, survey
from pipeline.ingest.tasks import (
    Destination,
    Placed,
    ProbeOutcome,
    ProbeTask,
    SampleOutcome,
    SampleTask,
)
from pipeline.ingest.worker import develop_source, probe_source, reference_levels
from pipeline.raw.black import BlackWatch
from pipeline.raw.cross_check import DecoderTrust
from pipeline.raw.decoders.table import decoder_packages
from pipeline.raw.facts import Levels
from pipeline.runtime.executor import Executor, WorkerDied, executor, require_handles
from pipeline.runtime.interruption import Interruption
from pipeline.sources.source import Source
from pipeline.store.cleanup import remove_orphans, remove_sample
from pipeline.store.files import StoreFiles
from pipeline.store.header import store_recipe
from pipeline.store.open_files import StorePlace, open_files
from pipeline.store.places import Places, write_places
from pipeline.store.writer import StoreWriter
from schemas.choices import DEFAULT_DECODER, DEFAULT_TIME_LIMIT, DecoderChoice
from schemas.events import IngestSummary, PlanEvent
from schemas.exit_code import ExitCode
from schemas.finding_codes import FindingCode
from schemas.recipe import Recipe

#: The manifest is rewritten this often during a run; a crash costs re-reading newer sidecars. These
#: seconds are for each begun `MANIFEST_SAMPLES`: writing a million lines takes some ten.
MANIFEST_EVERY = 30.0
MANIFEST_SAMPLES = 100_000

#: Bytes without which nothing is begun: no raw can be developed in less, and Python waits for ever
#: for a thread that got no memory to start with.
LEAST_MEMORY = 1 << 26

#: What needs pixels.
_TO_DEVELOP = ("new", "changed", "damaged")


@dataclass(frozen=True)
class IngestOptions:
    """How to run; nothing here changes a stored number.

    Attributes
    ----------
    workers
        Worker processes; 0 runs in this process.
    time_limit
        Seconds a raw may take before its worker is ended.
    decoder
        ``"auto"``: the fast ones where they agree with LibRaw.
    annotations
        Annotation files named by the user, beside those found in the sources.
    splits
        (split, annotation file) pairs named by the user.
    recheck
        Compute the checksums of what is stored already.
    retry_failed
        Try sources again that failed before.
    strict
        Any finding makes its source a failure.
    """

    workers: int = 0
    time_limit: float = DEFAULT_TIME_LIMIT
    decoder: DecoderChoice = DEFAULT_DECODER
    annotations: tuple[str, ...] = ()
    splits: tuple[tuple[str, str], ...] = ()
    recheck: bool = True
    retry_failed: bool = False
    strict: bool = False


def plan_ingest(
    sources: Sequence[str],
    store: StorePlace,
    recipe: Recipe,
    options: IngestOptions,
    reporter: Reporter,
) -> PlanEvent:
    """What `run_ingest` would do, as far as can be told without decoding; writes nothing."""
    files = open_files(store)
    store_recipe(files, recipe)
    inputs = gather(sources, options.annotations, options.splits)
    ledger = Ledger(reporter)
    _report_inputs(inputs, recipe, ledger)
    state = read_state(files, reporter, recheck=options.recheck)
    items = survey(
        recognise(inputs.raws, state, reporter),
        state,
        inputs.index,
        inputs.annotation_files,
        retry_failed=options.retry_failed,
    )
    for finding in survey_findings(items):
        ledger.find(finding)
    for item in items:
        if item.failure is not None:
            ledger.fail(item.source.name, item.failure, item.source)
    to_read = [item.source.size for item in items if item.status in _TO_DEVELOP]
    return PlanEvent(
        exit_code=ExitCode.SOURCES_FAILED if ledger.counts.failed else ExitCode.DONE,
        statuses={str(status): count for status, count in statuses(items).items()},
        recipe=recipe.describe(),
        bytes_to_read=sum(to_read),
        bytes_free=files.free_bytes(),
    )


def run_ingest(
    sources: Sequence[str],
    store: StorePlace,
    recipe: Recipe,
    options: IngestOptions,
    reporter: Reporter,
) -> IngestSummary:
    """Ingest sources into a store; the same call again continues, repairs and keeps up to date.

    Raises
    ------
    UsageError
        If a source does not exist.
    StoreLockedError, IncompatibleStoreError, NoStoreError
        If another process writes the store, it holds another recipe, or it is something else.
    StoreError
        If the disk refuses; what is committed stays, and the same call continues.
    MemoryError
        If there is none to begin with.
    """
    require_handles(options.workers)
    require_memory()
    files = open_files(store)
    store_recipe(files, recipe)
    inputs = gather(sources, options.annotations, options.splits)
    with files.lock() as lease:
        versions = store_recipe(files, recipe) or _versions()
        writer = StoreWriter(files, recipe, versions)
        run = _Run(files, lease, recipe, options, Ledger(reporter), writer)
        try:
            with run.interruption.watched():
                return run.run(inputs)
        finally:
            reporter.close()


def require_memory() -> None:
    """Raise `MemoryError` if there are not `LEAST_MEMORY` bytes to be had."""
    np.empty(LEAST_MEMORY, np.uint8)


def _report_inputs(inputs: Inputs, recipe: Recipe, ledger: Ledger) -> None:
    for name, problem in inputs.problems:
        ledger.fail(name, failure_from(problem))
    for finding in (*inputs.findings, *inputs.index.findings):
        ledger.find(finding)
    for name, counts_as in recipe.categories:
        if name not in inputs.index.categories:
            ledger.find(unused_category_finding(name, counts_as, inputs.index.categories))
    ledger.counts.raws_passed_over = len(inputs.passed_over)
    if names := inputs.passed_over:
        said = passed_over_text(names)
        ledger.find(FindingCode.RAW_PASSED_OVER.finding(where="sources", message=said))


@dataclass
class _Run:
    """One ingest, holding the store's lock."""

    files: StoreFiles
    lease: str
    recipe: Recipe
    options: IngestOptions
    ledger: Ledger
    writer: StoreWriter
    state: StoreState = field(default_factory=StoreState)
    interruption: Interruption = field(default_factory=Interruption)
    store_error: StoreError | None = None
    places: dict[tuple[str, str], str] = field(default_factory=dict)
    replaced: list[str] = field(default_factory=list)

    @property
    def stopping(self) -> bool:
        """Whether nothing new is to be begun: somebody asked for the end, or the disk refuses."""
        return self.interruption.wanted or self.store_error is not None

    def run(self, inputs: Inputs) -> IngestSummary:
        """All steps, in order."""
        _report_inputs(inputs, self.recipe, self.ledger)
        self.files.recover()
        self.state = read_state(
            self.files,
            self.ledger.reporter,
            recheck=self.options.recheck,
            stopping=lambda: self.stopping,
        )
        self.ledger.take_over(self.state)
        self.writer.write_metadata(self.state.groups)
        self.writer.write_manifest(self.ledger.entries())
        items = survey(
            recognise(
                inputs.raws, self.state, self.ledger.reporter, stopping=lambda: self.stopping
            ),
            self.state,
            inputs.index,
            inputs.annotation_files,
            retry_failed=self.options.retry_failed,
        )
        for finding in survey_findings(items):
            self.ledger.find(finding)
        self.places = dict(self.state.places.samples)
        for item in items:
            if not self.stopping:
                self._settle(item)
        to_do = [item for item in items if item.status in _TO_DEVELOP and item.failure is None]
        if to_do and not self.stopping:
            self._develop([with_kept_boxes(self.files, item) for item in to_do])
        self._finish(items)
        self._look_for_missing_raws(inputs, [item.called for item in items])
        return self.ledger.summary(
            self.files.location(),
            interrupted=self.interruption.wanted,
            strict=self.options.strict,
        )

    def _settle(self, item: Item) -> None:
        """Deal with what needs no pixels, and report what is known already."""
        counts = self.ledger.counts
        counts.up_to_date += item.status == "up-to-date"
        counts.failed_before += item.status == "failed-before"
        counts.raws_without_annotation += not item.annotated
        if item.failure is not None:
            before = self.state.failures.get(item.source.name)
            group, row = (before.group, before.row) if before else (None, None)
            self.ledger.fail(item.source.name, item.failure, item.source, group=group, row=row)
        elif item.sample is not None and item.status in ("reannotate", "up-to-date"):
            entry = item.sample.entry
            self.places[entry.key] = item.place
            # Its worker may have been ended after the commit and before it could say so.
            self.ledger.failures.pop(entry.source, None)
            if item.status == "reannotate":
                self.ledger.commit(reannotated(self.files, entry, item))
                counts.reannotated += 1
            elif sidecar := re_dated(self.files, entry, item.source):
                self.ledger.renew(sidecar)

    def _develop(self, to_do: Sequence[Item]) -> None:
        workers = min(self.options.workers, len(to_do))
        with executor(
            workers,
            time_limit=self.options.time_limit,
            stopping=lambda: self.stopping,
        ) as workforce:
            levels = settle_levels(
                self._probe(workforce, to_do),
                self.options.decoder,
                lambda sources: self._reference_levels(workforce, sources),
            )
            for finding in levels.findings:
                self.ledger.find(finding)
            trust = DecoderTrust[Placed](self.options.decoder)
            trust.distrust(levels.distrusted)
            # Inverting a matrix is OpenBLAS's work, which ends the process where memory is short.
            require_memory()
            placement = place(levels.probed, self.state, self.recipe, strict=self.options.strict)
            for source, failure in placement.refused:
                self.ledger.fail(source.name, failure, source)
            self._note_places(to_do, placement.placed)
            self._leave_old_places(placement.placed)
            self.writer.write_metadata(self.state.groups | placement.groups)
            self._run_samples(workforce, placement.placed, trust)
        if self.store_error is not None:
            raise self.store_error

    def _probe(
        self, workforce: Executor, items: Sequence[Item]
    ) -> Iterator[tuple[Item, ProbeOutcome]]:
        self.ledger.reporter.stage("probe", len(items))
        by_name = {item.source.name: item for item in items}
        tasks = (ProbeTask(item.source) for item in items if not self.stopping)
        for task, outcome in workforce.run(probe_source, tasks):
            if isinstance(outcome, WorkerDied):
                outcome = ProbeOutcome(failure=self._crash(outcome))
            self.ledger.reporter.step(failed=outcome.failure is not None)
            yield by_name[task.source.name], outcome

    def _reference_levels(
        self, workforce: Executor, sources: Sequence[Source]
    ) -> Iterator[tuple[Source, Levels | None]]:
        tasks = (ProbeTask(source) for source in sources if not self.stopping)
        for task, levels in workforce.run(reference_levels, tasks):
            yield task.source, None if isinstance(levels, WorkerDied) else levels

    def _run_samples(
        self, workforce: Executor, placed: Sequence[Placed], trust: DecoderTrust[Placed]
    ) -> None:
        """Develop all samples; those of a class whose decoder is found out, once more."""
        sizes = sum(one.raw.source.size for one in placed)
        self.ledger.reporter.stage("develop", len(placed), sizes)
        blacks = BlackWatch()
        queue = deque(placed)
        # A turn ends when the queue is empty; the last results of it may fill it again.
        while queue and not self.stopping:
            for task, outcome in workforce.run(develop_source, self._tasks(queue, trust)):
                if isinstance(outcome, WorkerDied):
                    outcome = SampleOutcome(failure=self._crash(outcome))
                judged = trust.judge(
                    task.sample,
                    task.decision,
                    succeeded=outcome.sidecar is not None,
                    disagreement=outcome.disagreement,
                )
                if judged.first_difference:
                    self.ledger.find(distrusted_finding(task, outcome.disagreement))
                if judged.keep and outcome.sidecar is not None:
                    made = outcome.sidecar
                    blacks.note(made.source.name, made.camera, made.sensor, outcome.darkest)
                queue.extend(judged.again)
                if judged.keep:
                    self._settle_sample(task.sample, outcome)
        for finding in blacks.findings():
            self.ledger.find(finding)

    def _tasks(self, queue: deque[Placed], trust: DecoderTrust[Placed]) -> Iterator[SampleTask]:
        destination = Destination(self.files, self.lease, self.recipe)
        while queue and not self.stopping:
            one = queue.popleft()
            point = self.writer.groups[one.raw.group].fixed_point
            yield SampleTask(one, destination, point, trust.decide(one.raw.decoder_class))

    def _note_places(self, to_do: Sequence[Item], placed: Sequence[Placed]) -> None:
        """Say where the samples to be made come from, before any of them is there.

        If the run is killed, and one of these files changes before the next, it is known for the
        file of that sample and not taken for another one.
        """
        items = {item.source.name: item for item in to_do}
        for one in placed:
            item = items[one.raw.source.name]
            self.places[one.raw.group, one.id] = item.place
            if item.status == "changed" and shows_another(self.files, one):
                self.replaced.append(item.source.name)
        write_places(self.files, Places(self.places, self.state.places.failures))

    def _leave_old_places(self, placed: Sequence[Placed]) -> None:
        """Sources that move to another group give up their old places, which others may have."""
        for one in placed:
            previous = one.raw.previous
            if previous is not None and previous.group != one.raw.group:
                remove_sample(self.files, previous, self.recipe.levels)
                self.ledger.forget(previous)

    def _settle_sample(self, one: Placed, outcome: SampleOutcome) -> None:
        source, ledger = one.raw.source, self.ledger
        if outcome.store_error is not None:
            # Raised once the other workers have ended what they are in the middle of.
            self.store_error = self.store_error or outcome.store_error
            return
        if outcome.failure is not None:
            ledger.fail(source.name, outcome.failure, source, group=one.raw.group, row=one.row)
        elif outcome.sidecar is not None:
            ledger.commit(outcome.sidecar)
            ledger.counts.ingested += one.raw.previous is None
            ledger.counts.redone += one.raw.previous is not None
            ledger.reporter.sample(outcome.sidecar)
        ledger.reporter.step(source.size, failed=outcome.failure is not None)
        ledger.counts.bytes_read += source.size
        if self.writer.manifest_age > manifest_every(len(ledger.samples)):
            self.writer.write_manifest(self.ledger.entries())

    def _crash(self, died: WorkerDied) -> Failure:
        limit = self.options.time_limit
        if died.seconds >= limit:
            reason = f"the decoder did not finish within {limit:g} s and was stopped, twice"
            mend = "try again with --retry-failed and a longer --time-limit"
        else:
            reason = f"the decoder crashed, twice (the second time after {died.seconds:.1f} s)"
            mend = "try again with --retry-failed"
        mend += " or --decoder libraw, or leave this file out; the other files are not affected"
        return Failure("crash", reason, mend)

    def _look_for_missing_raws(self, inputs: Inputs, names: Sequence[str]) -> None:
        if shared := inputs.index.shared(names):
            self.ledger.find(shared_annotations_finding(shared))
        missing = inputs.index.unmatched(names)
        self.ledger.counts.annotations_without_raw = len(missing)
        if not (missing and names):
            return
        wanted = [one.file_name for one in missing]
        if len(missing) == len(inputs.index) and not any(map(inputs.index.mentions, names)):
            self.ledger.find(names_differ_finding(missing[0].file, wanted, names))
        else:
            self.ledger.find(missing_raws_finding(missing[0].file, wanted))

    def _finish(self, items: Sequence[Item]) -> None:
        """Leave nothing beside the samples; write metadata and manifest."""
        replaced = [name for name in self.replaced if name not in self.ledger.failures]
        if replaced:
            self.ledger.find(replaced_finding(replaced))
        self.files.recover()  # workers may have been killed in the middle of a commit
        remove_orphans(self.files, self.ledger.owners(), self.recipe.levels)
        self.writer.trim(self.ledger.rows_in_use())
        self.writer.write_manifest(self.ledger.entries())
        keys = {entry.key for entry in self.ledger.owners()}
        samples = {key: place for key, place in self.places.items() if key in keys}
        here = {item.source.name: item.place for item in items}
        failures = {
            name: here.get(name) or self.state.places.failures.get(name, "")
            for name in self.ledger.failures
        }
        write_places(self.files, Places(samples, {n: p for n, p in failures.items() if p}))


def manifest_every(samples: int) -> float:
    """Seconds between two manifests of a store with so many samples."""
    return MANIFEST_EVERY * max(1, -(-samples // MANIFEST_SAMPLES))


def _versions() -> dict[str, str]:
    found = {}
    for name in ("genisp", "zarr", "numcodecs", *decoder_packages(), "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found
