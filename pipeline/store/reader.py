"""A store opened for reading.

    from pipeline.store import open_store
    store = open_store("data.zarr")
    sample = store.read("DSC01088", level="packed")

Chunks are decoded directly; only writing metadata needs zarr (`zarr_metadata`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.errors import DamagedStoreError, UsageError
from pipeline.store.files import StoreFiles
from pipeline.store.header import read_root
from pipeline.store.keys import MANIFEST_NAME
from pipeline.store.manifest import entry_for, parse_manifest
from pipeline.store.open_files import StorePlace, open_files
from pipeline.store.samples import Sample, committed, read_level, read_sidecar
from schemas.choices import DEFAULT_STORE
from schemas.manifest import FailedSource, StoredSample
from schemas.recipe import LevelName, Recipe
from schemas.sidecar import Sidecar

_NO_SPLITS = (
    "run prep ingest with the same sources again and --split train=FILE --split val=FILE for their "
    "annotation files; or give these the names train.json and val.json, or lay them into folders "
    "train/ and val/: only sidecars are written anew"
)


@dataclass(frozen=True)
class Store:
    """A store opened for reading: what was committed when it was opened.

    Attributes
    ----------
    files
        Where it is.
    recipe
        How its numbers were made.
    versions
        Packages that created it.
    entries
        Committed samples by key (see `ids`), in order of group and row.
    failed
        Sources that could not be ingested.
    warnings
        What opening had to work around, in words.
    unlisted
        Damage of sidecars that the manifest does not list: nobody knows whose they are.
    """

    files: StoreFiles
    recipe: Recipe
    versions: dict[str, str]
    entries: dict[str, StoredSample]
    failed: tuple[FailedSource, ...] = ()
    warnings: tuple[str, ...] = ()
    unlisted: tuple[DamagedStoreError, ...] = ()

    @property
    def location(self) -> str:
        """Where it is, for messages."""
        return self.files.location()

    @property
    def path(self) -> Path:
        """The folder of a store that is in one."""
        return Path(self.location)

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __repr__(self) -> str:
        splits = ", ".join(f"{count} {name}" for name, count in sorted(self.splits.items()))
        return f"<Store {self.location} ({len(self)} samples: {splits}; {self.recipe.colour})>"

    def ids(self, split: str | None = None) -> tuple[str, ...]:
        """Sample ids, of one split or all, in stored order.

        An id is the raw's file stem; where two groups share a stem it is ``"group/stem"``.
        """
        if split is None:
            return tuple(self.entries)
        found = tuple(key for key, entry in self.entries.items() if entry.split == split)
        if not found:
            known = ", ".join(sorted(name for name in self.splits if name)) or "none"
            raise UsageError(
                f"no sample has split {split!r} (splits here: {known})",
                path=self.location,
                mend="name one of those" if known != "none" else _NO_SPLITS,
            )
        return found

    @property
    def splits(self) -> dict[str, int]:
        """Samples by split; "" counts those without one."""
        return dict(Counter(entry.split or "" for entry in self.entries.values()))

    @property
    def cameras(self) -> tuple[str, ...]:
        """Group names: camera and annotation frame."""
        return tuple(dict.fromkeys(entry.group for entry in self.entries.values()))

    def entry(self, sample_id: str) -> StoredSample:
        """The manifest's line of a sample.

        Raises
        ------
        UsageError
            If there is no such sample.
        """
        found = self.entries.get(sample_id) or self._by_full_name.get(sample_id)
        if found is None:
            mend = "prep info lists what is there; ids are file stems"
            raise UsageError(f"no sample {sample_id!r}", path=self.location, mend=mend)
        return found

    @cached_property
    def _by_full_name(self) -> dict[str, StoredSample]:
        """Entries by ``"group/stem"``, which names every sample."""
        return {f"{entry.group}/{entry.id}": entry for entry in self.entries.values()}

    def sidecar(self, sample_id: str) -> Sidecar:
        """Read and check a sample's sidecar."""
        return read_sidecar(self.files, *self.entry(sample_id).key)

    def read(self, sample_id: str, level: LevelName = "packed") -> Sample:
        """Read one sample.

        Raises
        ------
        UsageError
            If the sample or the level is not in this store.
        DamagedStoreError
            If its chunk or sidecar does not match its record.
        """
        return read_level(self.files, self.sidecar(sample_id), level)


def open_store(path: StorePlace = DEFAULT_STORE) -> Store:
    """Open a store for reading.

    Reads the root metadata and the manifest, and lists the sidecars: samples committed since the
    manifest was written are found too.

    Parameters
    ----------
    path
        The store's folder; or its files, if it is kept elsewhere.

    Raises
    ------
    NoStoreError
        If there is nothing at `path`, or something else.
    IncompatibleStoreError
        If its format version is not 2.
    """
    files = open_files(path)
    recipe, versions = read_root(files)
    notes: list[str] = []
    done: dict[tuple[str, str], StoredSample] = {}
    failed: tuple[FailedSource, ...] = ()
    try:
        data = files.get_or_none(MANIFEST_NAME)
        if data is not None:
            manifest = parse_manifest(data, path=files.location(MANIFEST_NAME))
            done = {entry.key: entry for entry in manifest.samples}
            failed = manifest.failures
    except DamagedStoreError as error:
        notes.append(str(error))
    unlisted: list[DamagedStoreError] = []
    for group, sample_id in committed(files):
        if (group, sample_id) not in done:
            try:
                done[group, sample_id] = entry_for(read_sidecar(files, group, sample_id))
            except DamagedStoreError as error:
                unlisted.append(error)
    notes += map(str, unlisted)
    ordered = sorted(done.values(), key=lambda entry: (entry.group, entry.rows_needed))
    stems = Counter(entry.id for entry in ordered)
    entries = {e.id if stems[e.id] == 1 else f"{e.group}/{e.id}": e for e in ordered}
    return Store(files, recipe, versions, entries, failed, tuple(notes), tuple(unlisted))
