"""What a store holds when an ingest starts: every sample, checked, and every failure remembered."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from pipeline.chunk import check_chunk
from pipeline.errors import DamagedStoreError
from pipeline.files import StoreFiles
from pipeline.manifest import MANIFEST_NAME, entry_for, parse_manifest
from pipeline.reporting import Reporter
from pipeline.sources import Source
from pipeline.store import (
    SIDECARS,
    chunk_key,
    committed,
    read_chunk,
    read_sidecar,
    sidecar_key,
)
from pipeline.zarr_metadata import group_layout
from schemas.coco import ImageAnnotation
from schemas.layout import GroupLayout
from schemas.manifest import ManifestEntry
from schemas.recipe import LevelName
from schemas.sidecar import Sidecar

#: Chunks checked at once; checksums release the interpreter.
CHECK_THREADS = 4


@dataclass(frozen=True)
class SampleState:
    """One committed sample, as far as planning needs it.

    Attributes
    ----------
    damage
        What is wrong with it, "" if it is whole.
    annotation
        `annotation_key` of what its sidecar says.
    frame_size
        (width, height) an annotation must have for the stored pixels to fit it; None if unknown.
    """

    entry: ManifestEntry
    annotation: str = ""
    frame_size: tuple[int, int] | None = None
    damage: str = ""


@dataclass
class StoreState:
    """Everything an ingest must know of a store before it plans.

    Attributes
    ----------
    samples
        By (group, id).
    failures
        Remembered failed sources, by source name.
    groups
        Layout of every group with a readable sidecar; ``rows`` counts committed rows.
    """

    samples: dict[tuple[str, str], SampleState] = field(default_factory=dict)
    failures: dict[str, ManifestEntry] = field(default_factory=dict)
    groups: dict[str, GroupLayout] = field(default_factory=dict)
    _by_name: dict[str, SampleState] = field(default_factory=dict)
    _by_file: dict[tuple[str, int, int | None], list[SampleState]] = field(default_factory=dict)

    def add(self, sample: SampleState) -> None:
        """Remember a sample under its own name and its source's."""
        entry = sample.entry
        self.samples[entry.group or "", entry.id or ""] = sample
        self._by_name[entry.source] = sample
        self._by_file.setdefault(_file_key(entry.source, entry.size, entry.mtime_ns), []).append(
            sample
        )

    def sample_of(self, source: Source) -> SampleState | None:
        """The sample made from a source: by its name, else by file name, size and time.

        The second way finds it again when the same files are named from another folder.
        """
        found = self._by_name.get(source.name)
        if found is None:
            twins = self._by_file.get(_file_key(source.name, source.size, source.mtime_ns), [])
            found = twins[0] if len(twins) == 1 else None
        return found

    def rows(self, group: str) -> set[int]:
        """Rows of a group that belong to a sample or are reserved for a failed source."""
        owners = [sample.entry for sample in self.samples.values()] + list(self.failures.values())
        return {e.row for e in owners if e.group == group and e.row is not None}


def annotation_key(annotation: ImageAnnotation | None) -> str:
    """A short text that differs whenever what is annotated does.

    The annotation file's name is left out, and findings with it: they depend on the folder given.
    """
    if annotation is None:
        return ""
    boxes = {"__all__": {"findings": True}}
    text = annotation.model_dump_json(exclude={"file": True, "boxes": boxes})
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def read_state(files: StoreFiles, reporter: Reporter, *, recheck: bool) -> StoreState:
    """Read every sidecar and check every chunk it names.

    Parameters
    ----------
    recheck
        Compute all checksums; otherwise only presence and size are looked at.
    """
    state = StoreState()
    recorded = _recorded(files)
    state.failures = {e.source: e for e in recorded if e.status == "failed"}
    known = {(e.group or "", e.id or ""): e for e in recorded if e.status == "done"}
    present = list(committed(files))

    def look(key: tuple[str, str]) -> tuple[tuple[str, str], Sidecar | None, str]:
        try:
            sidecar = read_sidecar(files, *key)
        except DamagedStoreError as error:
            return key, None, error.message
        return key, sidecar, sample_damage(files, sidecar, recheck=recheck)

    with ThreadPoolExecutor(CHECK_THREADS) as pool:
        reporter.stage("check", len(present))
        for key, sidecar, damage in pool.map(look, present):
            reporter.step(failed=bool(damage))
            if sidecar is None:
                if key in known:
                    state.add(SampleState(known[key], damage=damage))
                continue
            _add_group(state, sidecar)
            state.add(_sample_state(sidecar, damage))
    for key, entry in known.items():
        if key not in state.samples:
            state.add(SampleState(entry, damage="its sidecar is missing"))
    return state


def sample_damage(files: StoreFiles, sidecar: Sidecar, *, recheck: bool) -> str:
    """What is wrong with a sample's chunks, "" if nothing."""
    for level, record in sidecar.levels.items():
        key = chunk_key(sidecar.group, level, sidecar.row)
        try:
            if recheck:
                chunk = memoryview(read_chunk(files, sidecar, level))
                check_chunk(chunk, record.crc32c, path=str(files.path(key)))
            elif files.size(key) != record.nbytes:
                return f"the {level} chunk is missing or has another size"
        except DamagedStoreError as error:
            return error.message
    return ""


def remove_orphans(files: StoreFiles, state: StoreState) -> int:
    """Delete chunks no sample owns and sidecars nobody can read: what interrupted commits left."""
    removed = 0
    for group in files.names():
        rows = {s.entry.row for s in state.samples.values() if s.entry.group == group}
        for key in _chunk_files(files, group):
            if _row_of(key) not in rows:
                files.delete(key)
                removed += 1
        for name in files.names(f"{group}/{SIDECARS}"):
            if (group, name.removesuffix(".json")) not in state.samples:
                files.delete(f"{group}/{SIDECARS}/{name}")
                removed += 1
    return removed


def remove_sample(files: StoreFiles, entry: ManifestEntry, levels: Sequence[LevelName]) -> None:
    """Uncommit a sample and delete its chunks."""
    files.delete(sidecar_key(entry.group or "", entry.id or ""))
    for level in levels:
        files.delete(chunk_key(entry.group or "", level, entry.row or 0))


def _chunk_files(files: StoreFiles, group: str) -> Iterator[str]:
    for level in ("packed", "resized"):
        for name in files.names(f"{group}/{level}"):
            if name.startswith("c."):
                yield f"{group}/{level}/{name}"


def _row_of(key: str) -> int | None:
    row = key.rsplit("/", 1)[-1].split(".")[1]
    return int(row) if row.isdecimal() else None


def _sample_state(sidecar: Sidecar, damage: str) -> SampleState:
    annotation = sidecar.annotation
    return SampleState(
        entry=entry_for(sidecar),
        annotation=annotation_key(annotation),
        frame_size=(annotation.width, annotation.height) if annotation else sidecar.frame.size,
        damage=damage,
    )


def _add_group(state: StoreState, sidecar: Sidecar) -> None:
    known = state.groups.get(sidecar.group)
    rows = max(sidecar.row + 1, known.rows if known else 0)
    base = known or group_layout(sidecar, rows)
    state.groups[sidecar.group] = base.model_copy(update={"rows": rows})


def _recorded(files: StoreFiles) -> tuple[ManifestEntry, ...]:
    data = files.get_or_none(MANIFEST_NAME)
    if data is None:
        return ()
    try:
        return parse_manifest(data, path=str(files.path(MANIFEST_NAME))).entries
    except DamagedStoreError:
        return ()  # rebuilt from the sidecars; failures are tried again


def _file_key(name: str, size: int, mtime_ns: int | None) -> tuple[str, int, int | None]:
    return PurePosixPath(name).name.casefold(), size, mtime_ns
