"""Proves a store: structure, every checksum, every sidecar, and all of them against each other.

Nothing is written. Each finding names the sample, what is wrong and the command that mends it.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from pipeline.console.progress import Reporter
from pipeline.errors import REDO, DamagedStoreError
from pipeline.ingest.store_state import CHECK_THREADS
from pipeline.runtime.threads import in_order
from pipeline.store.chunk.format import decode_chunk
from pipeline.store.disk import TEMPORARY_MARK
from pipeline.store.files import StoreFiles
from pipeline.store.header import read_root
from pipeline.store.keys import METADATA_NAME, chunk_key, chunk_row, sidecar_key
from pipeline.store.layouts import KnownLayouts, group_layout
from pipeline.store.lock import COMMITS_NAME, LOCK_NAME, OWNER_NAME
from pipeline.store.manifest import (
    MANIFEST_NAME,
    Manifest,
    dump_manifest,
    entry_for,
    parse_manifest,
)
from pipeline.store.samples import committed, read_chunk, read_sidecar, sample_damage
from pipeline.store.zarr_metadata import zarr_documents
from pipeline.verify.records import check_record, damaged, redo
from pipeline.verify.rederive import plan_rederivation, rederive_all
from pipeline.verify.split_leakage import neighbour_leakage
from schemas.events import VerifySummary
from schemas.finding import Finding, Severity
from schemas.layout import GroupLayout, StoreLayout
from schemas.manifest import ManifestEntry, ManifestHeader
from schemas.recipe import Recipe


@dataclass(frozen=True)
class _Checked:
    """One sample after its own checks; `entry` is None when its sidecar is unreadable."""

    group: str
    id: str
    entry: ManifestEntry | None
    layout: GroupLayout | None
    sha256: str
    nbytes: int
    findings: tuple[Finding, ...]


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
    manifest = _Listed(files, header)
    layouts = _layouts(files, recipe, checked, manifest.done)
    for finding in (
        *_check_rows(checked),
        *_check_layouts(checked, layouts),
        *_check_metadata(files, StoreLayout(recipe=recipe, versions=versions, groups=layouts.all)),
        *manifest.findings,
        *_check_manifest(manifest, header, checked),
        *_check_strays(files, recipe, checked, manifest.done, layouts),
        *_check_splits(checked),
    ):
        tally.add(finding)
    if layouts.unfinished and not tally.counts[Severity.ERROR]:
        tally.add(_unfinished(files))
    derived = 0
    if options.sources:
        tasks, missing = plan_rederivation(files, recipe, options.sources, reporter)
        derived = len(tasks)
        for finding in (*missing, *rederive_all(tasks, options.workers, reporter)):
            tally.add(finding)
    reporter.close()
    errors, warnings = tally.counts[Severity.ERROR], tally.counts[Severity.WARNING]
    return VerifySummary(
        store=str(files.root),
        exit_code=4 if errors or (options.strict and warnings) else 0,
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
) -> Iterator[_Checked]:
    keys = list(committed(files))
    tally.reporter.stage("verify", len(keys))

    def check(key: tuple[str, str]) -> _Checked:
        return _check_sample(files, recipe, *key, quick=quick)

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


def _check_sample(
    files: StoreFiles, recipe: Recipe, group: str, sample_id: str, *, quick: bool
) -> _Checked:
    """Everything that can be said of one sample alone."""
    name = f"{group}/{sample_id}"
    try:
        sidecar = read_sidecar(files, group, sample_id, every_byte=True)
    except DamagedStoreError as error:
        found = damaged("sidecar", name, error.message, error.hint)
        return _Checked(group, sample_id, None, None, "", 0, (found,))
    findings = list(check_record(sidecar, recipe, name))
    nbytes = 0
    if quick:
        wrong = sample_damage(files, sidecar, recheck=False)
        if wrong:
            findings.append(damaged("chunk", name, wrong))
    else:
        for level, record in sidecar.levels.items():
            path = str(files.path(chunk_key(group, level, sidecar.row)))
            try:
                chunk = read_chunk(files, sidecar, level)
                nbytes += len(chunk)
                decode_chunk(chunk, record.shape, record.crc32c, path=path)
            except DamagedStoreError as error:
                findings.append(damaged("chunk", name, f"{level}: {error.message}", error.hint))
    return _Checked(
        group,
        sample_id,
        entry_for(sidecar),
        group_layout(sidecar, 0),
        sidecar.source.sha256,
        nbytes,
        tuple(findings),
    )


def _check_rows(checked: list[_Checked]) -> Iterator[Finding]:
    owners: dict[tuple[str, int], list[_Checked]] = defaultdict(list)
    for one in checked:
        if one.entry is not None:
            owners[one.group, one.entry.row or 0].append(one)
    for (group, row), claiming in owners.items():
        # The chunk is one sample's: the others are those whose checksum it does not have.
        wrong = [one for one in claiming if one.findings] or claiming
        for one in wrong if len(claiming) > 1 else ():
            others = ", ".join(other.id for other in claiming if other is not one)
            yield damaged("row", f"{group}/{one.id}", f"row {row} is claimed by {others}, too")


def _layouts(
    files: StoreFiles,
    recipe: Recipe,
    checked: list[_Checked],
    done: dict[tuple[str, str], ManifestEntry],
) -> KnownLayouts:
    said: dict[str, list[GroupLayout]] = defaultdict(list)
    for one in checked:
        if one.layout is not None:
            said[one.group].append(one.layout)
    # A sample that is lost keeps its row: the manifest knows it.
    entries = done | {(one.group, one.id): one.entry for one in checked if one.entry}
    rows = Counter[str]()
    for entry in entries.values():
        rows[entry.group or ""] = max(rows[entry.group or ""], (entry.row or 0) + 1)
    return KnownLayouts(files, recipe, said, rows)


def _check_layouts(checked: list[_Checked], layouts: KnownLayouts) -> Iterator[Finding]:
    """All samples of a group have one shape, scale and camera."""
    for one in checked:
        if one.layout is not None and one.layout != layouts.of_samples[one.group]:
            message = "its shape, scale or camera are not those of its group"
            yield damaged("layout", f"{one.group}/{one.id}", message, redo(one.group, one.id))


class _Listed:
    """What the manifest says, if it is this store's.

    Attributes
    ----------
    data
        Its bytes.
    manifest
        None if it is missing, damaged or another store's.
    findings
        Why it is.
    done
        Its samples by (group, id).
    """

    def __init__(self, files: StoreFiles, header: ManifestHeader) -> None:
        self.data = b""
        self.manifest: Manifest | None = None
        self.findings: list[Finding] = []
        try:
            self.data = files.get(MANIFEST_NAME)
            manifest = parse_manifest(self.data, path=MANIFEST_NAME)
            if manifest.header.recipe == header.recipe:
                self.manifest = manifest
            else:
                self.findings.append(damaged("manifest", MANIFEST_NAME, "it is another store's"))
        except FileNotFoundError:
            self.findings.append(damaged("manifest", MANIFEST_NAME, "the manifest is missing"))
        except DamagedStoreError as error:
            self.findings.append(damaged("manifest", MANIFEST_NAME, error.message, error.hint))
        entries = self.manifest.entries if self.manifest else ()
        self.done = {(e.group or "", e.id or ""): e for e in entries if e.status == "done"}


def _unfinished(files: StoreFiles) -> Finding:
    return Finding(
        code="unfinished",
        severity=Severity.WARNING,
        where=str(files.root),
        message="an ingest was interrupted: rows are reserved that hold no sample yet",
        mend="run the same prep ingest command again: it continues",
    )


def _check_metadata(files: StoreFiles, layout: StoreLayout) -> Iterator[Finding]:
    """Every zarr.json against what the sidecars say it must be, byte for byte."""
    for key, document in zarr_documents(layout).items():
        try:
            if files.get(key) != document:
                yield damaged("metadata", key, "the zarr metadata is damaged")
        except FileNotFoundError:
            yield damaged("metadata", key, "the zarr metadata is missing")
        except DamagedStoreError as error:
            yield damaged("metadata", key, f"the zarr metadata {error.message}", error.hint)


def _check_manifest(
    listed: _Listed, header: ManifestHeader, checked: list[_Checked]
) -> Iterator[Finding]:
    if listed.manifest is None:
        return
    entries = listed.manifest.entries
    if listed.manifest.header != header:
        yield damaged("manifest", MANIFEST_NAME, "its versions are not the store's")
    failed = [e.source for e in entries if e.status == "failed"]
    once = len(listed.done) + len(set(failed)) == len(entries)
    if not once or dump_manifest(listed.manifest.header, entries) != listed.data:
        message = "its lines are twice there, out of order, or not written as they should be"
        yield damaged("manifest", MANIFEST_NAME, message)
    if failed:
        yield Finding(
            code="failed-sources",
            severity=Severity.INFO,
            where=MANIFEST_NAME,
            message=f"{len(failed)} of the sources seen could not be ingested, such as {failed[0]}",
            mend="prep ingest --retry-failed with the same sources tries them again",
        )
    present = {(one.group, one.id): one.entry for one in checked}
    behind = sum(key not in listed.done for key in present)
    if behind:
        yield Finding(
            code="manifest-behind",
            severity=Severity.WARNING,
            where=MANIFEST_NAME,
            message=f"{behind} committed samples are not in it: an ingest was interrupted",
            mend="run the same prep ingest command again: it continues",
        )
    for key, entry in listed.done.items():
        name = "/".join(key)
        if key not in present:
            message = "the sidecar is missing, the manifest lists the sample"
            mend = f"{REDO}; if the sample never was in this store, delete {MANIFEST_NAME} first"
            yield damaged("sidecar", name, message, mend)
        elif present[key] not in (None, entry):
            mend = f"prep ingest takes the sidecar's word; to make the sample again, {redo(*key)}"
            yield damaged("manifest", name, "manifest and sidecar disagree", mend)


def _check_strays(
    files: StoreFiles,
    recipe: Recipe,
    checked: list[_Checked],
    done: dict[tuple[str, str], ManifestEntry],
    layouts: KnownLayouts,
) -> Iterator[Finding]:
    """Files that belong to no sample."""
    expected = {METADATA_NAME, MANIFEST_NAME, LOCK_NAME, COMMITS_NAME, OWNER_NAME}
    groups = {one.group for one in checked} | {group for group, _ in done}
    for group in groups | {layout.name for layout in layouts.all}:
        expected.add(f"{group}/{METADATA_NAME}")
        expected.update(f"{group}/{level}/{METADATA_NAME}" for level in recipe.levels)
    lost = {one.group for one in checked if one.entry is None and (one.group, one.id) not in done}
    expected.update(sidecar_key(one.group, one.id) for one in checked)
    for entry in (*(one.entry for one in checked if one.entry), *done.values()):
        for level in recipe.levels:
            expected.add(chunk_key(entry.group or "", level, entry.row or 0))
    for key in files.walk():
        *folders, name = key.split("/")
        chunk = len(folders) == 2 and folders[1] in recipe.levels and chunk_row(name) is not None
        left = chunk or TEMPORARY_MARK in name
        if key in expected or (chunk and folders[0] in lost):
            continue
        yield Finding(
            code="stray-file",
            severity=Severity.WARNING,
            where=key,
            message="left by an interrupted ingest" if left else "not part of the store",
            mend="run the same prep ingest command again" if left else "move it elsewhere",
        )


def _check_splits(checked: list[_Checked]) -> Iterator[Finding]:
    """The same raw twice, and held-out samples with a neighbour frame in train."""
    by_content: dict[str, list[_Checked]] = defaultdict(list)
    for one in checked:
        if one.entry is not None:
            by_content[one.sha256].append(one)
    for twins in by_content.values():
        if len(twins) > 1:
            splits = {twin.entry.split for twin in twins if twin.entry}
            yield Finding(
                code="same-raw",
                severity=Severity.WARNING,
                where=f"{twins[0].group}/{twins[0].id}",
                message=f"the same raw is stored as {', '.join(t.id for t in twins[:3])}"
                + (f" and {len(twins) - 3} more" if len(twins) > 3 else "")
                + (f", in splits {sorted(map(str, splits))}" if len(splits) > 1 else ""),
                mend="remove one of the files from the sources and ingest into a new store",
            )
    by_sample = {(one.group, one.id): one.entry.split for one in checked if one.entry is not None}
    leakage = neighbour_leakage(by_sample)
    if leakage.leaking:
        held_out, trained = leakage.examples[0]
        yield Finding(
            code="neighbour-leakage",
            severity=Severity.INFO,
            where="splits",
            message=f"{leakage.leaking} of {leakage.total} held-out samples have a neighbour frame "
            f"(number ±1) in train, such as {held_out[1]} beside {trained[1]}",
            mend="do not read scores on these splits as independent",
        )
