"""What became of every source in one ingest: the manifest to be, the counts, and what was told."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field

from pipeline.console.progress import Reporter
from pipeline.ingest.failure import Failure
from pipeline.ingest.store_state import StoreState
from pipeline.sources.source import Source
from pipeline.store.manifest import entry_for
from schemas.events import IngestSummary
from schemas.exit_code import ExitCode
from schemas.finding import Finding
from schemas.manifest import FailedSource, ManifestEntry, StoredSample
from schemas.sidecar import Sidecar


@dataclass
class Counts:
    """What an ingest counts as it goes; fields of its summary, under the same names.

    Attributes
    ----------
    ingested, redone, reannotated, up_to_date, failed, failed_before
        Sources by what was done with them.
    boxes_untrainable
        Of the samples that were committed.
    bytes_read
        Sizes of the sources that were developed.
    """

    ingested: int = 0
    redone: int = 0
    reannotated: int = 0
    up_to_date: int = 0
    failed: int = 0
    failed_before: int = 0
    boxes_untrainable: int = 0
    annotations_without_raw: int = 0
    raws_without_annotation: int = 0
    raws_passed_over: int = 0
    findings: int = 0
    bytes_read: int = 0


@dataclass
class Ledger:
    """Collects outcomes and passes them on to the reporter.

    Attributes
    ----------
    samples
        Manifest entries of whole samples, by (group, id).
    damaged
        Manifest entries of damaged samples, until they are redone: they must not be forgotten.
    failures
        Manifest entries of failed sources, by source name.
    """

    reporter: Reporter
    started: float = field(default_factory=time.monotonic)
    samples: dict[tuple[str, str], StoredSample] = field(default_factory=dict)
    damaged: dict[tuple[str, str], StoredSample] = field(default_factory=dict)
    failures: dict[str, FailedSource] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)

    def take_over(self, state: StoreState) -> None:
        """Start from what the store holds."""
        for key, sample in state.samples.items():
            (self.damaged if sample.damage else self.samples)[key] = sample.entry
        # Failures without a size were no raws (annotation files, archives): they are seen afresh.
        before = {name: entry for name, entry in state.failures.items() if entry.size}
        self.failures = before | self.failures

    def commit(self, sidecar: Sidecar) -> None:
        """A sample is in the store."""
        key = sidecar.group, sidecar.id
        self.samples[key] = entry_for(sidecar)
        self.damaged.pop(key, None)
        self.failures.pop(sidecar.source.name, None)
        for finding in sidecar.findings:
            self.find(finding)
        for box in sidecar.annotation.boxes if sidecar.annotation else ():
            self.counts.boxes_untrainable += not box.trainable
            for finding in box.findings:
                self.find(finding)

    def renew(self, sidecar: Sidecar) -> None:
        """A sample's record says something new of its source; nothing else is another."""
        self.samples[sidecar.group, sidecar.id] = entry_for(sidecar)

    def fail(
        self,
        name: str,
        failure: Failure,
        source: Source | None = None,
        *,
        group: str | None = None,
        row: int | None = None,
    ) -> None:
        """A source could not be ingested; the row it was given stays reserved for it."""
        self.failures[name] = FailedSource(
            source=name,
            size=source.size if source else 0,
            mtime_ns=source.mtime_ns if source else None,
            status="failed",
            group=group,
            row=row,
            code=failure.code,
            reason=failure.reason,
            mend=failure.mend,
        )
        self.counts.failed += 1
        self.reporter.error(failure.code, name, failure.reason, failure.mend)

    def find(self, finding: Finding) -> None:
        """Something was noticed."""
        self.counts.findings += 1
        self.reporter.finding(finding)

    def entries(self) -> list[ManifestEntry]:
        """All lines of the manifest."""
        return [*self.owners(), *self.failures.values()]

    def forget(self, entry: StoredSample) -> None:
        """A sample was removed from the store."""
        self.samples.pop(entry.key, None)
        self.damaged.pop(entry.key, None)

    def owners(self) -> list[StoredSample]:
        """Every sample of the store, damaged ones included."""
        return [*self.samples.values(), *self.damaged.values()]

    def rows_in_use(self) -> dict[str, int]:
        """Rows each group needs for the samples it has, damaged ones included."""
        rows: dict[str, int] = {}
        for entry in self.owners():
            rows[entry.group] = max(rows.get(entry.group, 0), entry.rows_needed)
        return rows

    def summary(self, store: str, *, interrupted: bool, strict: bool) -> IngestSummary:
        """The last word. Samples still damaged are those whose sources were not given."""
        failed = self.counts.failed > 0 or (strict and self.counts.findings > 0)
        if interrupted:
            exit_code = ExitCode.INTERRUPTED
        elif failed:
            exit_code = ExitCode.SOURCES_FAILED
        else:
            exit_code = ExitCode.DAMAGED if self.damaged else ExitCode.DONE
        return IngestSummary(
            store=store,
            exit_code=exit_code,
            interrupted=interrupted,
            damaged=len(self.damaged),
            samples=len(self.samples),
            seconds=time.monotonic() - self.started,
            **asdict(self.counts),
        )
