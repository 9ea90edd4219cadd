"""Proves a store: structure, every checksum, every sidecar, and all of them against each other.

Nothing is written. Each finding names the sample, what is wrong and the command that mends it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from pipeline.console.progress import Reporter
from pipeline.ingest.store_state import CHECK_THREADS
from pipeline.runtime.threads import in_order
from pipeline.store.files import StoreFiles
from pipeline.store.header import read_root
from pipeline.store.samples import committed
from pipeline.verify.rederive import plan_rederivation, rederive_all
from pipeline.verify.samples import Checked, check_sample
from pipeline.verify.split_leakage import check_splits
from pipeline.verify.structure import (
    Listed,
    check_layouts,
    check_manifest,
    check_metadata,
    check_rows,
    check_strays,
    known_layouts,
    unfinished,
)
from schemas.events import VerifySummary
from schemas.exit_code import ExitCode
from schemas.finding import Finding, Severity
from schemas.layout import GroupLayout, StoreLayout
from schemas.manifest import ManifestHeader
from schemas.recipe import Recipe


@dataclass
class _Tally:
    """What one verification found so far."""

    reporter: Reporter
    counts: Counter[Severity] = field(default_factory=Counter)
    samples: int = 0
    chunks: int = 0
    nbytes: int = 0

    def add(self, finding: Finding) -> None:
        self.counts[finding.severity] += 1
        self.reporter.finding(finding)


@dataclass(frozen=True)
class VerifyOptions:
    """How deep to look.

    Attributes
    ----------
    quick
        Structure, sidecars and sizes only; no chunk is read.
    strict
        Warnings count as damage.
    sources
        Derive samples again from these raws and compare.
    workers
        Processes for that; 0 works in this one.
    """

    quick: bool = False
    strict: bool = False
    sources: tuple[str, ...] = ()
    workers: int = 0


def run_verify(files: StoreFiles, reporter: Reporter, options: VerifyOptions) -> VerifySummary:
    """Check a whole store.

    Raises
    ------
    NoStoreError, IncompatibleStoreError
        If there is nothing of ours to check.
    """
    started = time.monotonic()
    recipe, versions = read_root(files)
    tally = _Tally(reporter)
    checked = list(_check_samples(files, recipe, tally, quick=options.quick))
    header = ManifestHeader(recipe=recipe, versions=versions)
    manifest = Listed(files, header)
    layouts = known_layouts(files, recipe, checked, manifest.done)
    for finding in (
        *check_rows(checked),
        *check_layouts(checked, layouts),
        *check_metadata(files, StoreLayout(recipe=recipe, versions=versions, groups=layouts.all)),
        *manifest.findings,
        *check_manifest(manifest, header, checked),
        *check_strays(files, recipe, checked, manifest.done, layouts),
        *check_splits(checked),
    ):
        tally.add(finding)
    if layouts.unfinished and not tally.counts[Severity.ERROR]:
        tally.add(unfinished(files))
    derived = 0
    if options.sources:
        tasks, missing = plan_rederivation(files, recipe, options.sources, reporter)
        derived = len(tasks)
        for finding in (*missing, *rederive_all(tasks, options.workers, reporter)):
            tally.add(finding)
    reporter.close()
    errors, warnings = tally.counts[Severity.ERROR], tally.counts[Severity.WARNING]
    damaged = errors or (options.strict and warnings)
    return VerifySummary(
        store=files.location(),
        exit_code=ExitCode.DAMAGED if damaged else ExitCode.DONE,
        samples=tally.samples,
        chunks=tally.chunks,
        derived=derived,
        bytes_checked=tally.nbytes,
        errors=errors,
        warnings=warnings,
        seconds=time.monotonic() - started,
    )


def _check_samples(
    files: StoreFiles, recipe: Recipe, tally: _Tally, *, quick: bool
) -> Iterator[Checked]:
    keys = list(committed(files))
    tally.reporter.stage("verify", len(keys))

    def check(key: tuple[str, str]) -> Checked:
        return check_sample(files, recipe, *key, quick=quick)

    layouts: dict[str, GroupLayout] = {}
    for one in in_order(check, keys, CHECK_THREADS):
        for finding in one.findings:
            tally.add(finding)
        tally.samples += 1
        tally.nbytes += one.nbytes
        tally.chunks += 0 if one.layout is None or quick else len(one.layout.levels)
        failed = any(finding.severity is Severity.ERROR for finding in one.findings)
        tally.reporter.step(one.nbytes, failed=failed)
        # Equal layouts are kept once: a model for every sample would be most of the memory.
        if one.layout is not None and one.layout == layouts.setdefault(one.group, one.layout):
            one = replace(one, layout=layouts[one.group])
        yield one
