"""Removing what is no sample, or no sample any more; its user holds the store's lock."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import get_args

from pipeline.store.files import StoreFiles
from pipeline.store.keys import (
    GROUP_NAME,
    METADATA_NAME,
    SIDECARS,
    chunk_key,
    chunk_row,
    sidecar_key,
)
from schemas.manifest import StoredSample
from schemas.recipe import LevelName

LEVELS: tuple[LevelName, ...] = get_args(LevelName)


def remove_orphans(files: StoreFiles, owners: Iterable[StoredSample]) -> None:
    """Delete what interrupted ingests left: chunks, sidecars and groups that no owner has.

    Parameters
    ----------
    owners
        Every sample of the store, damaged ones included.
    """
    rows: dict[str, set[int | None]] = defaultdict(set)
    sidecars: dict[str, set[str]] = defaultdict(set)
    for entry in owners:
        rows[entry.group].add(entry.row)
        sidecars[entry.group].add(f"{entry.id}.json")
    for group in files.names():
        for key in _chunk_files(files, group):
            if chunk_row(key.rsplit("/", 1)[-1]) not in rows[group]:
                files.delete(key)
        for name in files.names(f"{group}/{SIDECARS}"):
            if name.endswith(".json") and name not in sidecars[group]:
                files.delete(f"{group}/{SIDECARS}/{name}")
        if not rows[group] and GROUP_NAME.fullmatch(group):
            _remove_group(files, group)


def _remove_group(files: StoreFiles, name: str) -> None:
    """Delete the metadata of a group without samples, and its folders where they are empty."""
    for level in LEVELS:
        files.delete(f"{name}/{level}/{METADATA_NAME}")
        files.remove_empty_folder(f"{name}/{level}")
    files.delete(f"{name}/{METADATA_NAME}")
    files.remove_empty_folder(f"{name}/{SIDECARS}")
    files.remove_empty_folder(name)


def remove_sample(files: StoreFiles, entry: StoredSample, levels: Sequence[LevelName]) -> None:
    """Uncommit a sample and delete its chunks."""
    files.delete(sidecar_key(*entry.key))
    if entry.row is not None:
        for level in levels:
            files.delete(chunk_key(entry.group, level, entry.row))


def _chunk_files(files: StoreFiles, group: str) -> Iterator[str]:
    for level in LEVELS:
        for name in files.names(f"{group}/{level}"):
            if chunk_row(name) is not None:
                yield f"{group}/{level}/{name}"
