"""Reading a store.

    from pipeline.store import open_store
    store = open_store("data.zarr")
    sample = store.read("DSC01088", level="packed")

Chunks are decoded directly; only writing metadata needs zarr (`zarr_metadata`).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from pipeline.annotations.boxes import target_arrays
from pipeline.errors import (
    REDO,
    DamagedStoreError,
    IncompatibleStoreError,
    NoStoreError,
    UsageError,
)
from pipeline.store.chunk.format import damaged_chunk, decode_chunk
from pipeline.store.files import StoreFiles
from pipeline.store.manifest import (
    MANIFEST_NAME,
    entry_for,
    parse_manifest,
    read_header,
    sealed_header,
)
from schemas.manifest import ManifestEntry, ManifestHeader
from schemas.recipe import LevelName, Recipe
from schemas.sidecar import FORMAT, FORMAT_VERSION, Sidecar

METADATA_NAME = "zarr.json"
SIDECARS = "sidecars"
DEFAULT_STORE = "data.zarr"
_CHUNK_NAME = re.compile(r"c\.(0|[1-9][0-9]{0,15})\.0\.0\.0")


def chunk_key(group: str, level: LevelName, row: int) -> str:
    """Where a row's chunk is: zarr's default key encoding with "." as separator, flat folders."""
    return f"{group}/{level}/c.{row}.0.0.0"


def chunk_row(name: str) -> int | None:
    """The row whose chunk a file of this name is; None if it is no chunk's name."""
    found = _CHUNK_NAME.fullmatch(name)
    return int(found[1]) if found else None


def sidecar_key(group: str, sample_id: str) -> str:
    """Where a sample's sidecar is."""
    return f"{group}/{SIDECARS}/{sample_id}.json"


@dataclass(frozen=True)
class Sample:
    """One sample at one level.

    Attributes
    ----------
    stored
        (3, H, W) uint16 fixed-point codes as they are in the store.
    sidecar
        Everything known about the sample.
    level
        ``"packed"`` or ``"resized"``.
    """

    stored: npt.NDArray[np.uint16]
    sidecar: Sidecar
    level: LevelName

    @property
    def xyz(self) -> npt.NDArray[np.float32]:
        """(3, H, W) float32 CIE XYZ (D65), about 0..1, unclipped (camera RGB for that recipe)."""
        record = self.sidecar.levels[self.level]
        zero_code = np.float32(record.fixed_point.zero_code)
        return (self.stored.astype(np.float32) - zero_code) * np.float32(record.scale_factor)

    @cached_property
    def _targets(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        record = self.sidecar.levels[self.level]
        boxes = () if self.sidecar.annotation is None else self.sidecar.annotation.boxes
        width, height = self.sidecar.frame.size
        return target_arrays(boxes, width, height, record.scale_x, record.scale_y)

    @property
    def boxes(self) -> npt.NDArray[np.float32]:
        """(n, 4) float32 xyxy in this level's pixels, half-open; untrainable boxes left out."""
        return self._targets[0]

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """(n,) int64 COCO ids: 1 person, 2 bicycle, 3 car."""
        return self._targets[1]


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
    entries: dict[str, ManifestEntry]
    failed: tuple[ManifestEntry, ...] = ()
    warnings: tuple[str, ...] = ()
    unlisted: tuple[DamagedStoreError, ...] = ()

    @property
    def path(self) -> Path:
        """The store's folder."""
        return self.files.root

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __repr__(self) -> str:
        splits = ", ".join(f"{count} {name}" for name, count in sorted(self.splits.items()))
        return f"<Store {self.path} ({len(self)} samples: {splits}; {self.recipe.colour})>"

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
                path=str(self.path),
                hint="name one of those; a split comes from the name of its annotation file",
            )
        return found

    @property
    def splits(self) -> dict[str, int]:
        """Samples by split; "" counts those without one."""
        return dict(Counter(entry.split or "" for entry in self.entries.values()))

    @property
    def cameras(self) -> tuple[str, ...]:
        """Group names: camera and annotation frame."""
        return tuple(dict.fromkeys(entry.group or "" for entry in self.entries.values()))

    def entry(self, sample_id: str) -> ManifestEntry:
        """The manifest's line of a sample.

        Raises
        ------
        UsageError
            If there is no such sample.
        """
        found = self.entries.get(sample_id) or self._by_full_name.get(sample_id)
        if found is None:
            hint = "prep info lists what is there; ids are file stems"
            raise UsageError(f"no sample {sample_id!r}", path=str(self.path), hint=hint)
        return found

    @cached_property
    def _by_full_name(self) -> dict[str, ManifestEntry]:
        """Entries by ``"group/stem"``, which names every sample."""
        return {f"{entry.group}/{entry.id}": entry for entry in self.entries.values()}

    def sidecar(self, sample_id: str) -> Sidecar:
        """Read and check a sample's sidecar."""
        entry = self.entry(sample_id)
        return read_sidecar(self.files, cast(str, entry.group), cast(str, entry.id))

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


def open_store(path: str | Path = DEFAULT_STORE) -> Store:
    """Open a store for reading.

    Reads the root metadata and the manifest, and lists the sidecars: samples committed since the
    manifest was written are found too.

    Raises
    ------
    NoStoreError
        If there is nothing at `path`, or something else.
    IncompatibleStoreError
        If its format version is not 2.
    """
    if "://" in str(path):
        hint = "copy the store to a local folder, or mount it"
        raise UsageError("stores are read from local folders only, yet", path=str(path), hint=hint)
    files = StoreFiles(Path(path))
    recipe, versions = read_root(files)
    notes: list[str] = []
    recorded: tuple[ManifestEntry, ...] = ()
    try:
        data = files.get_or_none(MANIFEST_NAME)
        if data is not None:
            recorded = parse_manifest(data, path=str(files.path(MANIFEST_NAME))).entries
    except DamagedStoreError as error:
        notes.append(str(error))
    done = {(e.group, e.id): e for e in recorded if e.status == "done"}
    unlisted: list[DamagedStoreError] = []
    for group, sample_id in committed(files):
        if (group, sample_id) not in done:
            try:
                done[group, sample_id] = entry_for(read_sidecar(files, group, sample_id))
            except DamagedStoreError as error:
                unlisted.append(error)
    notes += map(str, unlisted)
    ordered = sorted(done.values(), key=lambda e: (e.group or "", e.row or 0))
    stems = Counter(entry.id for entry in ordered)
    entries = {(e.id or "") if stems[e.id] == 1 else f"{e.group}/{e.id}": e for e in ordered}
    failed = tuple(e for e in recorded if e.status == "failed")
    return Store(files, recipe, versions, entries, failed, tuple(notes), tuple(unlisted))


def read_root(files: StoreFiles) -> tuple[Recipe, dict[str, str]]:
    """Recipe and versions, from the root metadata or the manifest.

    The two say the same. If they do not, one is damaged: the root metadata, unless the manifest's
    digest does not fit, or the samples were made with the root's recipe and not the manifest's.

    Raises
    ------
    NoStoreError
        If there is nothing, or something else.
    IncompatibleStoreError
        If the format version is not 2.
    DamagedStoreError
        If there are samples, but neither file says how they were made.
    """
    manifest = _bytes(files, MANIFEST_NAME)
    version, root = _root_header(_bytes(files, METADATA_NAME))
    sealed = sealed_header(manifest)
    headers = [one for one in (sealed, root, read_header(manifest)) if one and one.format == FORMAT]
    usable = [one for one in headers if one.format_version == FORMAT_VERSION]
    foreign = {version, *(str(one.format_version) for one in headers)} - {"", str(FORMAT_VERSION)}
    # A store of another version has no samples that can be read; damage to one digit leaves them.
    if foreign and sealed not in usable and not any(_fingerprints(files)):
        raise _other_version(files, foreign)
    if not usable:
        raise _no_header(files)
    if len({one.recipe for one in usable}) > 1:
        used = next(_fingerprints(files), "")
        usable.sort(key=lambda one: one.recipe.fingerprint != used)
    return usable[0].recipe, usable[0].versions


def _bytes(files: StoreFiles, key: str) -> bytes:
    """What a file holds; nothing if it cannot be read."""
    try:
        return files.get_or_none(key) or b""
    except DamagedStoreError:
        return b""


def _root_header(data: bytes) -> tuple[str, ManifestHeader | None]:
    """Format version and, if they can be used, the facts in the root metadata."""
    version = ""
    try:
        attributes = json.loads(data)["attributes"]
        if attributes["format"] == FORMAT:
            version = str(attributes["format_version"])
        fields = {name: attributes[name] for name in ManifestHeader.model_fields}
        header = ManifestHeader.model_validate(fields)
        if header.recipe.fingerprint == attributes["recipe_fingerprint"]:
            return version, header
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return version, None


def _fingerprints(files: StoreFiles) -> Iterator[str]:
    """Of the recipes that readable samples were made with."""
    for group, sample_id in committed(files):
        with suppress(DamagedStoreError):
            yield read_sidecar(files, group, sample_id).recipe_fingerprint


def made_with(files: StoreFiles, recipe: Recipe) -> bool:
    """Whether every sample that can be read was made with `recipe`, and there is one."""
    return set(_fingerprints(files)) == {recipe.fingerprint}


def _no_header(files: StoreFiles) -> NoStoreError | DamagedStoreError:
    if next(committed(files), None) is None:
        return no_store(files)
    return DamagedStoreError(
        f"neither {METADATA_NAME} nor {MANIFEST_NAME} can be read: both are missing or damaged",
        path=str(files.root),
        hint="prep ingest with the same sources, options and store writes both again",
    )


def _other_version(files: StoreFiles, versions: set[str]) -> IncompatibleStoreError:
    return IncompatibleStoreError(
        f"store format version {', '.join(sorted(versions))}; this version reads {FORMAT_VERSION}",
        path=str(files.root),
        hint="use the version of this tool that wrote it, or ingest into a new store",
    )


def no_store(files: StoreFiles) -> NoStoreError:
    """The error for a path that holds no store of ours."""
    if not files.root.exists():
        what, hint = "there is no store here", f"prep ingest SOURCE --store {files.root} makes one"
    else:
        what = "this is not one of our stores (no readable zarr.json or manifest.jsonl of ours)"
        hint = "name the folder that prep ingest wrote (default: ./data.zarr)"
    return NoStoreError(what, path=str(files.root), hint=hint)


def committed(files: StoreFiles) -> Iterator[tuple[str, str]]:
    """(group, id) of every sidecar there is, by listing folders."""
    for group in files.names():
        for name in files.names(f"{group}/{SIDECARS}"):
            if name.endswith(".json"):
                yield group, name.removesuffix(".json")


def read_sidecar(
    files: StoreFiles, group: str, sample_id: str, *, every_byte: bool = False
) -> Sidecar:
    """Read a sidecar and check its digest and its place.

    Parameters
    ----------
    every_byte
        Refuse one that says the same in other bytes, too (1E-05 for 1e-05, a line end that is
        missing). Nothing else writes it like that, so it is damaged; reading it does no harm.

    Raises
    ------
    DamagedStoreError
        If it is missing, does not parse, its digest does not fit, or it names another sample.
    """
    key = sidecar_key(group, sample_id)
    path = str(files.path(key))
    data = files.get_or_none(key)
    if data is None:
        raise DamagedStoreError("the sidecar is missing", path=path, hint=REDO)
    try:
        sidecar = Sidecar.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "JSON"
        message = f"the sidecar is damaged at {place}: {first['msg']}"
        raise DamagedStoreError(message, path=path, hint=REDO) from error
    if sidecar.digest != sidecar.content_digest():
        raise DamagedStoreError("the sidecar does not fit its digest", path=path, hint=REDO)
    if (sidecar.group, sidecar.id) != (group, sample_id):
        message = f"the sidecar belongs to {sidecar.group}/{sidecar.id}"
        raise DamagedStoreError(message, path=path, hint=REDO)
    if every_byte and data != sidecar.to_json():
        message = "the sidecar is damaged: its content is whole, its bytes are not as written"
        raise DamagedStoreError(message, path=path, hint=REDO)
    return sidecar


def read_chunk(files: StoreFiles, sidecar: Sidecar, level: LevelName) -> memoryview:
    """The bytes of a sample's chunk, unchecked but for their number."""
    nbytes = sidecar.levels[level].nbytes
    buffer = np.empty(nbytes + 1, np.uint8)
    return read_chunk_into(files, chunk_key(sidecar.group, level, sidecar.row), nbytes, buffer)


def read_chunk_into(
    files: StoreFiles, key: str, nbytes: int, buffer: npt.NDArray[np.uint8]
) -> memoryview:
    """The bytes of a chunk, in a buffer that is used again and again.

    Parameters
    ----------
    files, key
        Where the chunk is (`chunk_key`).
    nbytes
        Its size in the sidecar.
    buffer
        (at least ``nbytes + 1``,) uint8; the one byte more shows a file that is too long.

    Returns
    -------
    The first `nbytes` bytes of `buffer`, unchecked but for their number.
    """
    room = buffer.data[: nbytes + 1]
    filled = 0
    try:
        with files.reading(key) as file:
            while count := file.readinto(room[filled:]):
                filled += count
    except FileNotFoundError:
        raise damaged_chunk("the chunk is missing", str(files.path(key))) from None
    if filled != nbytes:
        held = f"more than {nbytes}" if filled > nbytes else str(filled)
        message = f"the chunk has {held} bytes, the sidecar records {nbytes}"
        raise damaged_chunk(message, str(files.path(key)))
    return room[:nbytes]


def read_level(
    files: StoreFiles,
    sidecar: Sidecar,
    level: LevelName,
    out: npt.NDArray[np.uint16] | None = None,
) -> Sample:
    """Read one level of a sample whose sidecar is at hand, into `out` if given."""
    record = sidecar.levels.get(level)
    if record is None:
        raise UsageError(
            f"level {level!r} is not stored (held: {', '.join(sidecar.levels)})",
            path=str(files.root),
            hint="ingest into a new store with --levels packed,resized",
        )
    path = str(files.path(chunk_key(sidecar.group, level, sidecar.row)))
    try:
        chunk = read_chunk(files, sidecar, level)
        stored = decode_chunk(chunk, record.shape, record.crc32c, path=path, out=out)
    except DamagedStoreError as error:
        message = f"sample {sidecar.id}: {error.message}"
        raise DamagedStoreError(message, path=error.path, hint=error.hint) from error
    return Sample(stored, sidecar, level)
