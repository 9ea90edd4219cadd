"""Proves a store: structure, every checksum, every sidecar, and all of them against each other.

Nothing is written. Each finding names the sample, what is wrong and the command that mends it.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from pipeline.chunk import decode_chunk
from pipeline.colour import FixedPoint, fixed_point
from pipeline.develop import level_size, plane_names
from pipeline.errors import DamagedStoreError, GenispError
from pipeline.files import LOCK_NAME, OWNER_NAME, TEMPORARY_MARK, StoreFiles
from pipeline.leakage import neighbour_leakage
from pipeline.manifest import MANIFEST_NAME, entry_for, parse_manifest
from pipeline.rederive import plan_rederivation, rederive_all
from pipeline.reporting import Reporter
from pipeline.state import CHECK_THREADS, sample_damage
from pipeline.store import (
    METADATA_NAME,
    chunk_key,
    committed,
    read_chunk,
    read_root,
    read_sidecar,
    sidecar_key,
)
from pipeline.tasks import covers
from pipeline.zarr_metadata import group_layout, recorded_layout, zarr_documents
from schemas.events import VerifySummary
from schemas.finding import Finding, Severity
from schemas.layout import GroupLayout, StoreLayout
from schemas.manifest import ManifestEntry
from schemas.recipe import Recipe
from schemas.sidecar import Sidecar


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
    for finding in (
        *_check_rows(checked),
        *_check_metadata(files, recipe, versions, checked),
        *_check_manifest(files, recipe, versions, checked),
        *_check_strays(files, recipe, checked),
        *_check_splits(checked),
    ):
        tally.add(finding)
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
    with ThreadPoolExecutor(CHECK_THREADS) as pool:
        for one in pool.map(lambda key: _check_sample(files, recipe, *key, quick=quick), keys):
            for finding in one.findings:
                tally.add(finding)
            tally.samples += 1
            tally.nbytes += one.nbytes
            tally.chunks += 0 if one.layout is None or quick else len(one.layout.levels)
            failed = any(finding.severity is Severity.ERROR for finding in one.findings)
            tally.reporter.step(one.nbytes, failed=failed)
            yield one


def _check_sample(
    files: StoreFiles, recipe: Recipe, group: str, sample_id: str, *, quick: bool
) -> _Checked:
    """Everything that can be said of one sample alone."""
    name = f"{group}/{sample_id}"
    try:
        sidecar = read_sidecar(files, group, sample_id)
    except DamagedStoreError as error:
        found = _damage("sidecar", name, error.message)
        return _Checked(group, sample_id, None, None, "", 0, (found,))
    findings = list(_check_record(sidecar, recipe, name))
    nbytes = 0
    if quick:
        damage = sample_damage(files, sidecar, recheck=False)
        if damage:
            findings.append(_damage("chunk", name, damage))
    else:
        for level, record in sidecar.levels.items():
            path = str(files.path(chunk_key(group, level, sidecar.row)))
            try:
                chunk = memoryview(read_chunk(files, sidecar, level))
                nbytes += len(chunk)
                decode_chunk(chunk, record.shape, record.crc32c, path=path)
            except DamagedStoreError as error:
                findings.append(_damage("chunk", name, f"{level}: {error.message}"))
    return _Checked(
        group,
        sample_id,
        entry_for(sidecar),
        group_layout(sidecar, 0),
        sidecar.source.sha256,
        nbytes,
        tuple(findings),
    )


def _check_record(sidecar: Sidecar, recipe: Recipe, name: str) -> Iterator[Finding]:
    """A sidecar against the recipe, and its parts against each other."""
    if sidecar.recipe_fingerprint != recipe.fingerprint:
        yield _damage("recipe", name, "the sample was made with another recipe")
    if set(sidecar.levels) != set(recipe.levels):
        yield _damage("levels", name, f"levels are {sorted(sidecar.levels)}")
    for level, record in sidecar.levels.items():
        width, height = level_size(sidecar.frame.size, level, recipe)
        if record.shape != (3, height, width):
            yield _damage("shape", name, f"{level} is {record.shape}, not (3, {height}, {width})")
        if tuple(record.statistics) != plane_names(recipe):
            yield _damage("statistics", name, f"{level} has planes {tuple(record.statistics)}")
        try:
            own = fixed_point(sidecar.sensor, recipe.colour)
        except GenispError as error:
            yield _damage("sensor", name, error.message)
            continue
        if not covers(FixedPoint(record.scale_factor, record.add_offset), own):
            yield _damage("range", name, f"{level} cannot hold all values its sensor can produce")
    yield from _check_boxes(sidecar, name)


def _check_boxes(sidecar: Sidecar, name: str) -> Iterator[Finding]:
    """Every box that will be trained on has an area inside the frame."""
    if sidecar.annotation is None:
        return
    width, height = sidecar.frame.size
    annotated = sidecar.annotation.width, sidecar.annotation.height
    if (annotated[0] - annotated[0] % 2, annotated[1] - annotated[1] % 2) != (width, height):
        yield _damage("frame", name, f"annotated as {annotated}, stored frame {(width, height)}")
    for box in sidecar.annotation.boxes:
        x, y, w, h = box.bbox
        inside = x < width and y < height and x + w > 0 and y + h > 0
        if box.trainable and not (w > 0 and h > 0 and inside):
            message = f"box {box.annotation_id} {list(box.bbox)} has no area inside the frame"
            yield _damage("box", name, message)


def _check_rows(checked: list[_Checked]) -> Iterator[Finding]:
    owners: dict[tuple[str, int], list[str]] = defaultdict(list)
    layouts: dict[str, tuple[str, GroupLayout]] = {}
    for one in checked:
        if one.entry is None or one.layout is None:
            continue
        owners[one.group, one.entry.row or 0].append(one.id)
        first_id, first = layouts.setdefault(one.group, (one.id, one.layout))
        if one.layout != first:
            name = f"{one.group}/{one.id}"
            yield _damage("layout", name, f"shape, scale or camera differ from {first_id}'s")
    for (group, row), ids in owners.items():
        if len(ids) > 1:
            yield _damage("row", f"{group}/{ids[1]}", f"row {row} is {ids[0]}'s too")


def _check_metadata(
    files: StoreFiles, recipe: Recipe, versions: dict[str, str], checked: list[_Checked]
) -> Iterator[Finding]:
    """Every zarr.json against what the sidecars say it must be, byte for byte."""
    implied: dict[str, GroupLayout] = {}
    for one in checked:
        if one.layout is not None and one.entry is not None:
            rows = max((one.entry.row or 0) + 1, getattr(implied.get(one.group), "rows", 0))
            implied[one.group] = one.layout.model_copy(update={"rows": rows})
    layouts = dict(implied)
    # Rows and groups that are reserved but hold no sample yet are known from the metadata alone.
    for name in files.names():
        recorded = recorded_layout(files, name, recipe)
        if recorded is not None:
            known = implied.get(name, recorded)
            rows = max(known.rows, recorded.rows)
            layouts[name] = known.model_copy(update={"rows": rows})
    ordered = tuple(layouts[name] for name in sorted(layouts))
    documents = zarr_documents(StoreLayout(recipe=recipe, versions=versions, groups=ordered))
    wrong = [key for key, document in documents.items() if files.get_or_none(key) != document]
    for key in wrong:
        state = "is missing" if files.size(key) is None else "is damaged"
        yield _damage("metadata", key, f"the zarr metadata {state}")
    if layouts != implied and not wrong:
        yield Finding(
            code="unfinished",
            severity=Severity.WARNING,
            where=str(files.root),
            message="an ingest was interrupted: rows are reserved that hold no sample yet",
            mend="run the same prep ingest command again: it continues",
        )


def _check_manifest(
    files: StoreFiles, recipe: Recipe, versions: dict[str, str], checked: list[_Checked]
) -> Iterator[Finding]:
    data = files.get_or_none(MANIFEST_NAME)
    if data is None:
        yield _damage("manifest", MANIFEST_NAME, "the manifest is missing")
        return
    try:
        manifest = parse_manifest(data, path=MANIFEST_NAME)
    except DamagedStoreError as error:
        yield _damage("manifest", MANIFEST_NAME, error.message)
        return
    if (manifest.header.recipe, manifest.header.versions) != (recipe, versions):
        yield _damage("manifest", MANIFEST_NAME, "its recipe or versions are not zarr.json's")
    failed = [e.source for e in manifest.entries if e.status == "failed"]
    if failed:
        yield Finding(
            code="failed-sources",
            severity=Severity.INFO,
            where=MANIFEST_NAME,
            message=f"{len(failed)} of the sources seen could not be ingested, such as {failed[0]}",
            mend="prep ingest --retry-failed with the same sources tries them again",
        )
    recorded = {(e.group or "", e.id or ""): e for e in manifest.entries if e.status == "done"}
    present = {(one.group, one.id): one.entry for one in checked}
    behind = sum(key not in recorded for key in present)
    if behind:
        yield Finding(
            code="manifest-behind",
            severity=Severity.WARNING,
            where=MANIFEST_NAME,
            message=f"{behind} committed samples are not in it: an ingest was interrupted",
            mend="run the same prep ingest command again: it continues",
        )
    for key, entry in recorded.items():
        name = "/".join(key)
        if key not in present:
            yield _damage("sidecar", name, "the sidecar is missing, the manifest lists the sample")
        elif present[key] not in (None, entry):
            yield _damage("manifest", name, "manifest and sidecar disagree")


def _check_strays(files: StoreFiles, recipe: Recipe, checked: list[_Checked]) -> Iterator[Finding]:
    """Files that belong to no sample."""
    expected = {METADATA_NAME, MANIFEST_NAME, LOCK_NAME, OWNER_NAME}
    unreadable = set()
    for group in files.names():
        expected.add(f"{group}/{METADATA_NAME}")
        expected.update(f"{group}/{level}/{METADATA_NAME}" for level in recipe.levels)
    for one in checked:
        expected.add(sidecar_key(one.group, one.id))
        if one.layout is None or one.entry is None:
            unreadable.add(one.group)
            continue
        for level in one.layout.levels:
            expected.add(chunk_key(one.group, level, one.entry.row or 0))
    for key in files.walk():
        if key in expected or key.split("/")[0] in unreadable:
            continue
        left = TEMPORARY_MARK in key or "/c." in key
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
                message=f"the same raw is stored as {', '.join(t.id for t in twins)}"
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


def _damage(code: str, where: str, message: str) -> Finding:
    return Finding(
        code=f"damaged-{code}",
        severity=Severity.ERROR,
        where=where,
        message=message,
        mend="prep ingest with the same sources and store: it redoes just what is damaged",
    )
