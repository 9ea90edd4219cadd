"""What became of every source in one ingest: the manifest to be, the counts, and what was told."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

from pipeline.manifest import entry_for
from pipeline.reporting import Reporter
from pipeline.sources import Source
from pipeline.state import StoreState
from pipeline.tasks import Failure
from schemas.events import IngestSummary
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
    failures
        Manifest entries of failed sources, by source name.
    counts
        Sources by what was done with them, and other tallies.
    """

    reporter: Reporter
    started: float = field(default_factory=time.monotonic)
    samples: dict[tuple[str, str], ManifestEntry] = field(default_factory=dict)
    failures: dict[str, ManifestEntry] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def take_over(self, state: StoreState) -> None:
        """Start from what the store holds; damaged samples are not counted on."""
        self.samples = {key: s.entry for key, s in state.samples.items() if not s.damage}
        # Failures without a size were no raws (annotation files, archives): they are seen afresh.
        before = {name: entry for name, entry in state.failures.items() if entry.size}
        self.failures = before | self.failures

    def commit(self, sidecar: Sidecar) -> None:
        """A sample is in the store."""
        self.samples[sidecar.group, sidecar.id] = entry_for(sidecar)
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
        return [*self.samples.values(), *self.failures.values()]

    def summary(
        self, store: str, *, interrupted: bool, strict: bool, damaged: int
    ) -> IngestSummary:
        """The last word.

        Parameters
        ----------
        damaged
            Samples that are still damaged because their sources were not given.
        """
        counts = self.counts
        failed = counts["failed"] > 0 or (strict and counts["findings"] > 0)
        return IngestSummary(
            store=store,
            exit_code=130 if interrupted else 3 if failed else 4 if damaged else 0,
            interrupted=interrupted,
            ingested=counts["ingested"],
            redone=counts["redone"],
            reannotated=counts["reannotated"],
            up_to_date=counts["up-to-date"],
            failed=counts["failed"],
            failed_before=counts["failed-before"],
            damaged=damaged,
            samples=len(self.samples),
            boxes_untrainable=counts["boxes untrainable"],
            annotations_without_raw=counts["annotations without raw"],
            raws_without_annotation=counts["raws without annotation"],
            findings=counts["findings"],
            bytes_read=counts["bytes"],
            seconds=time.monotonic() - self.started,
        )
