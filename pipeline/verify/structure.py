"""All samples against each other, the manifest, the metadata and the files that are there."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from pipeline.errors import REDO, DamagedStoreError
from pipeline.store.files import StoreFiles
from pipeline.store.keys import (
    MANIFEST_NAME,
    METADATA_NAME,
    PLACES_NAME,
    chunk_key,
    is_chunk,
    sidecar_key,
)
from pipeline.store.layouts import KnownLayouts
from pipeline.store.manifest import Manifest, dump_manifest, parse_manifest
from pipeline.store.zarr_metadata import zarr_documents
from pipeline.verify.records import damaged, redo
from pipeline.verify.samples import Checked
from schemas.finding import Finding
from schemas.finding_codes import FindingCode
from schemas.layout import GroupLayout, StoreLayout
from schemas.manifest import ManifestHeader, StoredSample
from schemas.recipe import Recipe


def check_rows(checked: list[Checked]) -> Iterator[Finding]:
    """No two samples of a group claim one row."""
    owners: dict[tuple[str, int], list[Checked]] = defaultdict(list)
    for one in checked:
        if one.entry is not None and one.entry.row is not None:
            owners[one.group, one.entry.row].append(one)
    for (group, row), claiming in owners.items():
        # The chunk is one sample's: the others are those whose checksum it does not have.
        wrong = [one for one in claiming if one.findings] or claiming
        for one in wrong if len(claiming) > 1 else ():
            others = ", ".join(other.id for other in claiming if other is not one)
            yield damaged(
                FindingCode.DAMAGED_ROW,
                f"{group}/{one.id}",
                f"row {row} is claimed by {others}, too",
            )


def known_layouts(
    files: StoreFiles,
    recipe: Recipe,
    checked: list[Checked],
    done: dict[tuple[str, str], StoredSample],
) -> KnownLayouts:
    """The layout of every group, from samples, manifest and metadata."""
    said: dict[str, list[GroupLayout]] = defaultdict(list)
    for one in checked:
        if one.layout is not None:
            said[one.group].append(one.layout)
    # A sample that is lost keeps its row: the manifest knows it.
    entries = done | {(one.group, one.id): one.entry for one in checked if one.entry}
    rows = Counter[str]()
    for entry in entries.values():
        rows[entry.group] = max(rows[entry.group], entry.rows_needed)
    return KnownLayouts(files, recipe, said, rows)


def check_layouts(checked: list[Checked], layouts: KnownLayouts) -> Iterator[Finding]:
    """All samples of a group have one shape, scale and camera."""
    for one in checked:
        if one.layout is not None and one.layout != layouts.of_samples[one.group]:
            message = "its shape, scale or camera are not those of its group"
            yield damaged(
                FindingCode.DAMAGED_LAYOUT,
                f"{one.group}/{one.id}",
                message,
                redo(one.group, one.id),
            )


class Listed:
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
                self.findings.append(
                    damaged(FindingCode.DAMAGED_MANIFEST, MANIFEST_NAME, "it is another store's")
                )
        except FileNotFoundError:
            self.findings.append(
                damaged(FindingCode.DAMAGED_MANIFEST, MANIFEST_NAME, "the manifest is missing")
            )
        except DamagedStoreError as error:
            self.findings.append(
                damaged(FindingCode.DAMAGED_MANIFEST, MANIFEST_NAME, error.message, error.mend)
            )
        samples = self.manifest.samples if self.manifest else ()
        self.done = {entry.key: entry for entry in samples}


def unfinished(files: StoreFiles) -> Finding:
    """The finding for a store whose ingest did not end."""
    return FindingCode.UNFINISHED.finding(
        where=files.location(),
        message="an ingest was interrupted: rows are reserved that hold no sample yet",
    )


def check_metadata(files: StoreFiles, layout: StoreLayout) -> Iterator[Finding]:
    """Every zarr.json against what the sidecars say it must be, byte for byte."""
    for key, document in zarr_documents(layout).items():
        try:
            if files.get(key) != document:
                yield damaged(FindingCode.DAMAGED_METADATA, key, "the zarr metadata is damaged")
        except FileNotFoundError:
            yield damaged(FindingCode.DAMAGED_METADATA, key, "the zarr metadata is missing")
        except DamagedStoreError as error:
            yield damaged(
                FindingCode.DAMAGED_METADATA, key, f"the zarr metadata {error.message}", error.mend
            )


def check_manifest(
    listed: Listed, header: ManifestHeader, checked: list[Checked]
) -> Iterator[Finding]:
    """The manifest against the samples that are there, and its lines against each other."""
    if listed.manifest is None:
        return
    entries = listed.manifest.entries
    if listed.manifest.header != header:
        yield damaged(
            FindingCode.DAMAGED_MANIFEST, MANIFEST_NAME, "its versions are not the store's"
        )
    failed = [entry.source for entry in listed.manifest.failures]
    once = len(listed.done) + len(set(failed)) == len(entries)
    if not once or dump_manifest(listed.manifest.header, entries) != listed.data:
        message = "its lines are twice there, out of order, or not written as they should be"
        yield damaged(FindingCode.DAMAGED_MANIFEST, MANIFEST_NAME, message)
    if failed:
        yield FindingCode.FAILED_SOURCES.finding(
            where=MANIFEST_NAME,
            message=f"{len(failed)} of the sources seen could not be ingested, such as {failed[0]}",
        )
    present = {(one.group, one.id): one.entry for one in checked}
    behind = sum(key not in listed.done for key, entry in present.items() if entry)
    if behind:
        yield FindingCode.MANIFEST_BEHIND.finding(
            where=MANIFEST_NAME,
            message=f"{behind} committed samples are not in it: an ingest was interrupted",
        )
    for key, entry in listed.done.items():
        name = "/".join(key)
        if key not in present:
            message = "the sidecar is missing, the manifest lists the sample"
            mend = f"{REDO}; if the sample never was in this store, delete {MANIFEST_NAME} first"
            yield damaged(FindingCode.DAMAGED_SIDECAR, name, message, mend)
        elif present[key] not in (None, entry):
            mend = f"prep ingest takes the sidecar's word; to make the sample again, {redo(*key)}"
            yield damaged(FindingCode.DAMAGED_MANIFEST, name, "manifest and sidecar disagree", mend)


def check_strays(
    files: StoreFiles,
    recipe: Recipe,
    checked: list[Checked],
    done: dict[tuple[str, str], StoredSample],
    layouts: KnownLayouts,
) -> Iterator[Finding]:
    """Files that belong to no sample."""
    expected = {METADATA_NAME, MANIFEST_NAME, PLACES_NAME}
    groups = {one.group for one in checked} | {group for group, _ in done}
    for group in groups | {layout.name for layout in layouts.all}:
        expected.add(f"{group}/{METADATA_NAME}")
        expected.update(f"{group}/{level}/{METADATA_NAME}" for level in recipe.levels)
    lost = {one.group for one in checked if one.entry is None and (one.group, one.id) not in done}
    expected.update(sidecar_key(one.group, one.id) for one in checked)
    for entry in (*(one.entry for one in checked if one.entry), *done.values()):
        if entry.row is not None:
            expected.update(chunk_key(entry.group, level, entry.row) for level in recipe.levels)
    for key in files.walk():
        group, _, rest = key.partition("/")
        chunk = is_chunk(key) and rest.partition("/")[0] in recipe.levels
        left = chunk or files.is_unfinished(key)
        if key in expected or (chunk and group in lost):
            continue
        yield FindingCode.STRAY_FILE.finding(
            where=key,
            message="left by an interrupted ingest" if left else "not part of the store",
            mend="run the same prep ingest command again" if left else "move it elsewhere",
        )
