"""From sources to a store: survey, probe, place, develop, and leave the store whole.

Everything that decides is pure and elsewhere (`pipeline.plan`); here is the order of the steps. The
coordinator alone gives out rows and writes metadata and manifest; workers write chunks and
sidecars.
"""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from pipeline import plan
from pipeline.annotations import (
    AnnotationIndex,
    LoadedFile,
    build_index,
    load_coco,
    looks_like_coco,
)
from pipeline.colour import FixedPoint
from pipeline.errors import IncompatibleStoreError, SourceError
from pipeline.files import StoreFiles
from pipeline.manifest import MANIFEST_NAME, dump_manifest, entry_for
from pipeline.plan import Item, Placed
from pipeline.reporting import Reporter
from pipeline.scheduler import Executor, WorkerDied, executor
from pipeline.sources import Discovery, Source, discover
from pipeline.state import StoreState, read_state, remove_orphans, remove_sample
from pipeline.store import (
    METADATA_NAME,
    no_store,
    read_root,
    read_sidecar,
    sidecar_key,
    zarr_documents,
)
from pipeline.tasks import (
    Failure,
    ProbeOutcome,
    ProbeTask,
    SampleOutcome,
    SampleTask,
    develop_source,
    failure_from,
    probe_source,
    untrusted_finding,
)
from pipeline.trust import DecoderChoice, DecoderTrust
from schemas.events import IngestSummary, PlanEvent
from schemas.finding import Finding, Severity
from schemas.layout import GroupLayout, StoreLayout
from schemas.manifest import ManifestEntry, ManifestHeader
from schemas.recipe import Recipe
from schemas.sidecar import Sidecar

#: The manifest is rewritten this often during a run; a crash costs re-reading newer sidecars.
MANIFEST_EVERY = 30.0

_CRASH_MEND = "leave this file out, or try --decoder libraw; the other files are not affected"


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
        ``"auto"``: flashraw where it agrees with LibRaw.
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
    time_limit: float = 120.0
    decoder: DecoderChoice = "auto"
    annotations: tuple[str, ...] = ()
    splits: tuple[tuple[str, str], ...] = ()
    recheck: bool = True
    retry_failed: bool = False
    strict: bool = False


def plan_ingest(
    sources: Sequence[str], store: str, recipe: Recipe, options: IngestOptions, reporter: Reporter
) -> tuple[PlanEvent, int]:
    """What `run_ingest` would do, and the exit code known so far; writes nothing."""
    files = _files(store)
    recipe_of(files, recipe)
    run = _Run(files, recipe, options, reporter)
    found, index = run.look(sources)
    state = read_state(files, recheck=options.recheck)
    items = plan.survey(found.raws, state, index, retry_failed=options.retry_failed)
    to_do = [item for item in items if item.status in ("new", "changed", "damaged")]
    event = PlanEvent(
        statuses={str(status): count for status, count in plan.counts(items).items()},
        recipe=recipe.describe(),
        bytes_to_read=sum(item.source.size for item in to_do),
        bytes_free=_bytes_free(files),
    )
    failing = run.failures or any(item.failure for item in items)
    return event, 3 if failing else 0


def run_ingest(
    sources: Sequence[str], store: str, recipe: Recipe, options: IngestOptions, reporter: Reporter
) -> IngestSummary:
    """Ingest sources into a store; the same call again continues, repairs and keeps up to date.

    Raises
    ------
    StoreLockedError, IncompatibleStoreError, NoStoreError
        If the store cannot be written, holds another recipe, or is something else.
    StoreError
        If the disk refuses; what is committed stays, the same call continues.
    """
    files = _files(store)
    recipe_of(files, recipe)
    with files.lock():
        _, versions = recipe_of(files, recipe)
        run = _Run(files, recipe, options, reporter, versions or _versions())
        try:
            return run.run(sources)
        finally:
            reporter.close()


def recipe_of(files: StoreFiles, wanted: Recipe) -> tuple[Recipe, dict[str, str]]:
    """Recipe and versions of the store at hand, or what a new one would have.

    Raises
    ------
    IncompatibleStoreError
        If the store was made with another recipe.
    NoStoreError
        If something that is no store is there.
    """
    others = [name for name in files.names() if not name.startswith(".")]
    if not others:
        if files.root.exists() and not files.root.is_dir():
            raise no_store(files)
        return wanted, {}
    recipe, versions = read_root(files)
    if recipe != wanted:
        raise IncompatibleStoreError(
            f"the store was made with another recipe\n  store: {recipe.describe()}"
            f"\n  asked: {wanted.describe()}",
            path=str(files.root),
            hint="use the store's own options, or another --store for the new recipe",
        )
    return recipe, versions


@dataclass
class _Run:
    """One ingest: what it has found so far."""

    files: StoreFiles
    recipe: Recipe
    options: IngestOptions
    reporter: Reporter
    versions: dict[str, str] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    state: StoreState = field(default_factory=StoreState)
    entries: dict[tuple[str, str], ManifestEntry] = field(default_factory=dict)
    failures: dict[str, ManifestEntry] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    groups: dict[str, GroupLayout] = field(default_factory=dict)
    interrupted: bool = False
    _manifest_written: float = 0.0

    def run(self, sources: Sequence[str]) -> IngestSummary:
        """All steps, in order."""
        found, index = self.look(sources)
        self.files.remove_temporaries()
        self._read_state()
        items = plan.survey(found.raws, self.state, index, retry_failed=self.options.retry_failed)
        for item in items:
            self._settle(item)
        to_do = [item for item in items if item.status in ("new", "changed", "damaged")]
        to_do = [item for item in to_do if item.failure is None]
        self._write_metadata(self.state.groups)
        if to_do:
            try:
                self._develop(to_do)
            except KeyboardInterrupt:
                self.interrupted = True
        self._finish()
        self._count_annotations(found, index)
        return self._summary()

    def look(self, sources: Sequence[str]) -> tuple[Discovery, AnnotationIndex]:
        """Find sources and read annotations; what cannot be read is a failure, not the end."""
        found = discover(sources)
        for problem in found.problems:
            self._fail(problem.path, failure_from(problem), None)
        loaded = list(self._load_annotations(found.annotations))
        index = build_index(loaded)
        for finding in index.findings:
            self._find(finding)
        return found, index

    def _load_annotations(self, candidates: Sequence[Source]) -> Iterator[LoadedFile]:
        named: list[tuple[str, str | None]] = [(path, None) for path in self.options.annotations]
        named += [(path, split) for split, path in self.options.splits]
        seen: set[tuple[str, str]] = set()
        for path, split in reversed(named):
            for source in discover([path]).annotations:
                seen.add((source.location, source.label))
                yield from self._load(source, split, must_be_coco=True)
        for source in candidates:
            if (source.location, source.label) not in seen:
                yield from self._load(source, None, must_be_coco=False)

    def _load(
        self, source: Source, split: str | None, *, must_be_coco: bool
    ) -> Iterator[LoadedFile]:
        try:
            data = source.read_bytes()
            if must_be_coco or looks_like_coco(data):
                yield load_coco(data, name=source.name, split=split)
            else:
                self._count("other_json")
        except SourceError as error:
            self._fail(source.name, failure_from(error), None)

    def _read_state(self) -> None:
        self.reporter.stage("check", 0)
        self.state = read_state(self.files, recheck=self.options.recheck)
        remove_orphans(self.files, self.state)
        self.entries = {
            key: sample.entry for key, sample in self.state.samples.items() if not sample.damage
        }
        # Failures without a size were no raws (annotation files, archives); they are seen afresh.
        before = {name: entry for name, entry in self.state.failures.items() if entry.size}
        self.failures = before | self.failures

    def _settle(self, item: Item) -> None:
        """Deal with an item that needs no pixels, and report what is known already."""
        self._count(item.status)
        if item.failure is not None:
            before = self.state.failures.get(item.source.name)
            self._fail(item.source.name, item.failure, item, row=before.row if before else None)
        elif item.status == "reannotate":
            self._reannotate(item)

    def _reannotate(self, item: Item) -> None:
        """New boxes for the same pixels: only the sidecar changes."""
        assert item.sample is not None
        entry = item.sample.entry
        old = read_sidecar(self.files, entry.group or "", entry.id or "")
        annotation = item.annotations[0]
        new = old.model_copy(update={"annotation": annotation, "split": annotation.split}).sealed()
        self.files.put(sidecar_key(new.group, new.id), new.to_json())
        self._commit(new)

    def _develop(self, to_do: Sequence[Item]) -> None:
        workers = min(self.options.workers, len(to_do))
        with executor(workers, time_limit=self.options.time_limit) as workforce:
            placement = plan.place(
                self._probe(workforce, to_do), self.state, self.recipe, strict=self.options.strict
            )
            for item, failure in placement.refused:
                self._fail(item.source.name, failure, item)
            self._write_metadata(self.state.groups | placement.groups)
            self._run_samples(workforce, placement.placed)

    def _probe(
        self, workforce: Executor, items: Sequence[Item]
    ) -> Iterator[tuple[Item, ProbeOutcome]]:
        self.reporter.stage("probe", len(items))
        by_name = {item.source.name: item for item in items}
        tasks = (ProbeTask(item.source, self.recipe.colour) for item in items)
        for task, outcome in workforce.run(probe_source, tasks):
            if isinstance(outcome, WorkerDied):
                outcome = ProbeOutcome(failure=self._crash(outcome))
            self.reporter.step(failed=outcome.failure is not None)
            yield by_name[task.source.name], outcome

    def _run_samples(self, workforce: Executor, placed: Sequence[Placed]) -> None:
        trust = DecoderTrust(self.options.decoder)
        self.reporter.stage("develop", len(placed), sum(one.item.source.size for one in placed))
        queue: deque[Placed] = deque(placed)
        unchecked: dict[str, list[Placed]] = {}
        by_name = {one.item.source.name: one for one in placed}
        while queue:
            tasks = self._tasks(queue, trust)
            for task, outcome in workforce.run(develop_source, tasks):
                one = by_name[task.source.name]
                if isinstance(outcome, WorkerDied):
                    outcome = SampleOutcome(failure=self._crash(outcome))
                if outcome.disagreement:
                    if trust.distrust(task.decoder_class, outcome.disagreement):
                        self._find(untrusted_finding(task, outcome.disagreement))
                        queue.extend(unchecked.pop(task.decoder_class, []))
                elif task.decoder == "flashraw" and not task.cross_check:
                    unchecked.setdefault(task.decoder_class, []).append(one)
                self._settle_sample(one, outcome)

    def _tasks(self, queue: deque[Placed], trust: DecoderTrust) -> Iterator[SampleTask]:
        while queue:
            one = queue.popleft()
            level = next(iter(self.groups[one.group].levels.values()))
            decoder, cross_check = trust.decide(one.facts.decoder_class)
            self._leave_old_place(one)
            yield SampleTask(
                source=one.item.source,
                store=str(self.files.root),
                id=one.id,
                group=one.group,
                row=one.row,
                split=one.annotation.split if one.annotation else None,
                camera=one.facts.camera,
                capture=one.facts.capture,
                frame=one.frame,
                annotation=one.annotation,
                findings=one.findings,
                recipe=self.recipe,
                fixed_point=FixedPoint(level.scale_factor, level.add_offset),
                decoder=decoder,
                cross_check=cross_check,
                decoder_class=one.facts.decoder_class,
            )

    def _leave_old_place(self, one: Placed) -> None:
        """A source that moves to another group gives up its old place."""
        sample = one.item.sample
        if sample is not None and sample.entry.group != one.group:
            old = sample.entry
            remove_sample(self.files, old, self.groups.get(old.group or ""))
            self.entries.pop((old.group or "", old.id or ""), None)

    def _settle_sample(self, one: Placed, outcome: SampleOutcome) -> None:
        if outcome.store_error is not None:
            raise outcome.store_error
        if outcome.failure is not None:
            self._fail(
                one.item.source.name, outcome.failure, one.item, row=one.row, group=one.group
            )
        elif outcome.sidecar is not None:
            self._commit(outcome.sidecar)
            self.reporter.sample(outcome.sidecar)
        self.reporter.step(one.item.source.size, failed=outcome.failure is not None)
        self._count("bytes", one.item.source.size)
        if time.monotonic() - self._manifest_written > MANIFEST_EVERY:
            self._write_manifest()

    def _commit(self, sidecar: Sidecar) -> None:
        self.entries[sidecar.group, sidecar.id] = entry_for(sidecar)
        self.failures.pop(sidecar.source.name, None)
        for finding in sidecar.findings:
            self._find(finding)
        for box in sidecar.annotation.boxes if sidecar.annotation else ():
            self._count("boxes_untrainable", not box.trainable)
            for finding in box.findings:
                self._find(finding)

    def _fail(
        self,
        name: str,
        failure: Failure,
        item: Item | None,
        *,
        row: int | None = None,
        group: str | None = None,
    ) -> None:
        source = item.source if item else None
        self.failures[name] = ManifestEntry(
            source=name,
            size=source.size if source else 0,
            mtime_ns=source.mtime_ns if source else None,
            status="failed",
            row=row,
            group=group,
            code=failure.code,
            reason=failure.reason,
            mend=failure.mend,
        )
        self._count("failures")
        self.reporter.error(failure.code, name, failure.reason, failure.mend)

    def _crash(self, died: WorkerDied) -> Failure:
        limit = self.options.time_limit
        if died.seconds >= limit:
            reason = f"the decoder did not finish within {limit:g} s and was stopped"
        else:
            reason = f"the decoder crashed (after {died.seconds:.1f} s)"
        return Failure("crash", reason, _CRASH_MEND)

    def _find(self, finding: Finding) -> None:
        self._count("findings")
        self._count(f"findings_{finding.severity.value}")
        self.reporter.finding(finding)

    def _count(self, what: str, amount: int = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + amount

    def _count_annotations(self, found: Discovery, index: AnnotationIndex) -> None:
        missing = index.unmatched(source.name for source in found.raws)
        self._count("annotations_without_raw", len(missing))
        if missing and found.raws:
            shown = ", ".join(image.file_name for image in missing[:3])
            self._find(
                Finding(
                    code="annotation-without-raw",
                    severity=Severity.WARNING,
                    where=missing[0].file,
                    message=f"{len(missing)} annotated images have no raw here ({shown}"
                    + (", ...)" if len(missing) > 3 else ")"),
                    mend="add the missing raws to the sources and run the same command",
                )
            )

    def _write_metadata(self, groups: dict[str, GroupLayout]) -> None:
        self.groups = dict(groups)
        ordered = tuple(groups[name] for name in sorted(groups))
        layout = StoreLayout(recipe=self.recipe, versions=self.versions, groups=ordered)
        for key, document in zarr_documents(layout).items():
            self.files.put_if_changed(key, document)

    def _write_manifest(self) -> None:
        header = ManifestHeader(recipe=self.recipe, versions=self.versions)
        entries = [*self.entries.values(), *self.failures.values()]
        self.files.put_if_changed(MANIFEST_NAME, dump_manifest(header, entries))
        self._manifest_written = time.monotonic()

    def _finish(self) -> None:
        """Trim groups to what is committed, then write metadata and manifest."""
        rows: dict[str, int] = {}
        kept = [*self.entries.values()]
        kept += [s.entry for s in self.state.samples.values() if s.damage]
        for entry in kept:
            group = entry.group or ""
            rows[group] = max(rows.get(group, 0), (entry.row or 0) + 1)
        for name in [name for name in self.groups if name not in rows]:
            self._remove_group(self.groups.pop(name))
        self._write_metadata(
            {
                name: group.model_copy(update={"rows": rows[name]})
                for name, group in self.groups.items()
            }
        )
        self._write_manifest()

    def _remove_group(self, group: GroupLayout) -> None:
        for level in group.levels:
            self.files.delete(f"{group.name}/{level}/{METADATA_NAME}")
            self.files.remove_empty_folder(f"{group.name}/{level}")
        self.files.delete(f"{group.name}/{METADATA_NAME}")
        self.files.remove_empty_folder(f"{group.name}/sidecars")
        self.files.remove_empty_folder(group.name)

    def _summary(self) -> IngestSummary:
        count = self.counts.get
        failed_before = count("failed-before", 0)
        still_damaged = sum(
            1 for key, s in self.state.samples.items() if s.damage and key not in self.entries
        )
        failed = count("failures", 0) > 0
        strict = self.options.strict and count("findings", 0) > 0
        code = 130 if self.interrupted else 3 if failed or strict else 4 if still_damaged else 0
        redone = count("changed", 0) + count("damaged", 0)
        return IngestSummary(
            store=str(self.files.root),
            exit_code=code,
            interrupted=self.interrupted,
            ingested=max(0, len(self.entries) - count("up-to-date", 0) - redone),
            redone=redone,
            reannotated=count("reannotate", 0),
            up_to_date=count("up-to-date", 0),
            failed=count("failures", 0),
            failed_before=failed_before,
            samples=len(self.entries),
            boxes_untrainable=count("boxes_untrainable", 0),
            annotations_without_raw=count("annotations_without_raw", 0),
            raws_without_annotation=0,
            findings=count("findings", 0),
            bytes_read=count("bytes", 0),
            seconds=time.monotonic() - self.started,
        )


def _files(store: str) -> StoreFiles:
    from pathlib import Path

    return StoreFiles(Path(store))


def _bytes_free(files: StoreFiles) -> int:
    folder = files.root
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _versions() -> dict[str, str]:
    names = ("genisp", "zarr", "numcodecs", "rawpy", "flashraw", "numpy")
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found
