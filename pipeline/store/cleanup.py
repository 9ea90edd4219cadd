"""Removing what is no sample, or no sample any more; its user holds the store's lock."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from pipeline.errors import DamagedStoreError
from pipeline.store.files import StoreFiles
from pipeline.store.keys import (
    GROUP_NAME,
    METADATA_NAME,
    SIDECARS,
    chunk_key,
    chunk_row,
    is_key,
    sidecar_key,
)
from pipeline.store.samples import looks_like_sidecar
from schemas.manifest import StoredSample
from schemas.recipe import LevelName


def remove_orphans(
    files: StoreFiles, owners: Iterable[StoredSample], levels: Sequence[LevelName]
) -> None:
    """Delete what interrupted ingests left: chunks, sidecars and groups that no owner has.

    Only what is ours by its full name and place; and since people may well keep a JSON file of
    their own among the sidecars, of these only what looks like a sidecar.

    Parameters
    ----------
    owners
        Every sample of the store, damaged ones included.
    levels
        Those of the store's recipe.
    """
    rows: dict[str, set[int | None]] = defaultdict(set)
    sidecars: dict[str, set[str]] = defaultdict(set)
    for entry in owners:
        rows[entry.group].add(entry.row)
        sidecars[entry.group].add(f"{entry.id}.json")
    for group in filter(GROUP_NAME.fullmatch, files.names()):
        for key in _chunk_files(files, group, levels):
            if chunk_row(key.rsplit("/", 1)[-1]) not in rows[group]:
                files.delete(key)
        for name in files.names(f"{group}/{SIDECARS}"):
            key = f"{group}/{SIDECARS}/{name}"
            if is_key(key) and name not in sidecars[group] and _is_sidecar(files, key):
                files.delete(key)
        if not rows[group]:
            _remove_group(files, group, levels)


def _is_sidecar(files: StoreFiles, key: str) -> bool:
    with suppress(DamagedStoreError):
        return looks_like_sidecar(files.get_or_none(key) or b"")
    return False


def _remove_group(files: StoreFiles, name: str, levels: Sequence[LevelName]) -> None:
    """Delete the metadata of a group without samples, and its folders where they are empty."""
    for level in levels:
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


def _chunk_files(files: StoreFiles, group: str, levels: Sequence[LevelName]) -> Iterator[str]:
    for level in levels:
        for name in files.names(f"{group}/{level}"):
            if chunk_row(name) is not None:
                yield f"{group}/{level}/{name}"
