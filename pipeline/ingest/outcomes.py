"""What became of every source in one ingest: the manifest to be, the counts, and what was told."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

from pipeline.console.progress import Reporter
from pipeline.ingest.failure import Failure
from pipeline.ingest.store_state import StoreState
from pipeline.sources.source import Source
from pipeline.store.manifest import entry_for
from schemas.events import IngestSummary
from schemas.exit_code import ExitCode
from schemas.finding import Finding
from schemas.manifest import ManifestEntry
from schemas.sidecar import Sidecar


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
    counts
        Sources by what was done with them, and other tallies.
    """

    reporter: Reporter
    started: float = field(default_factory=time.monotonic)
    samples: dict[tuple[str, str], ManifestEntry] = field(default_factory=dict)
    damaged: dict[tuple[str, str], ManifestEntry] = field(default_factory=dict)
    failures: dict[str, ManifestEntry] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

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
            self.counts["boxes untrainable"] += not box.trainable
            for finding in box.findings:
                self.find(finding)

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
        self.failures[name] = ManifestEntry(
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
        self.counts["failed"] += 1
        self.reporter.error(failure.code, name, failure.reason, failure.mend)

    def find(self, finding: Finding) -> None:
        """Something was noticed."""
        self.counts["findings"] += 1
        self.reporter.finding(finding)

    def entries(self) -> list[ManifestEntry]:
        """All lines of the manifest."""
        return [*self.owners(), *self.failures.values()]

    def forget(self, entry: ManifestEntry) -> None:
        """A sample was removed from the store."""
        key = entry.group or "", entry.id or ""
        self.samples.pop(key, None)
        self.damaged.pop(key, None)

    def owners(self) -> list[ManifestEntry]:
        """Every sample of the store, damaged ones included."""
        return [*self.samples.values(), *self.damaged.values()]

    def rows_in_use(self) -> dict[str, int]:
        """Rows each group needs for the samples it has, damaged ones included."""
        rows: dict[str, int] = {}
        for entry in self.owners():
            group = entry.group or ""
            rows[group] = max(rows.get(group, 0), (entry.row or 0) + 1)
        return rows

    def summary(self, store: str, *, interrupted: bool, strict: bool) -> IngestSummary:
        """The last word. Samples still damaged are those whose sources were not given."""
        counts = self.counts
        failed = counts["failed"] > 0 or (strict and counts["findings"] > 0)
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
            ingested=counts["ingested"],
            redone=counts["redone"],
            reannotated=counts["reannotated"],
            up_to_date=counts["up-to-date"],
            failed=counts["failed"],
            failed_before=counts["failed-before"],
            damaged=len(self.damaged),
            samples=len(self.samples),
            boxes_untrainable=counts["boxes untrainable"],
            annotations_without_raw=counts["annotations without raw"],
            raws_without_annotation=counts["raws without annotation"],
            findings=counts["findings"],
            bytes_read=counts["bytes"],
            seconds=time.monotonic() - self.started,
        )
