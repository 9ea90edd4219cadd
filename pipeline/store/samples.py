"""One sample as it is stored: its sidecar, which is its commit, and its chunks.

All of them are checked as they are read: a sidecar by its digest, a chunk by its checksum.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from pipeline.annotations.boxes import Targets, label_as_annotated, target_arrays
from pipeline.errors import REDO, DamagedStoreError, UsageError
from pipeline.store.chunk.format import check_chunk, damaged_chunk, decode_chunk
from pipeline.store.files import StoreFiles
from pipeline.store.keys import GROUP_NAME, SIDECARS, chunk_key, is_key, sidecar_key
from schemas.coco import Box
from schemas.recipe import LevelName
from schemas.sidecar import Sidecar


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
    def _targets(self) -> Targets:
        return targets(self.sidecar, self.level)

    @property
    def boxes(self) -> npt.NDArray[np.float32]:
        """(n, 4) float32 xyxy in this level's pixels, half-open; untrainable boxes left out."""
        return self._targets.boxes

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """(n,) int64 category ids as annotated (NOD: 1 person, 2 bicycle, 3 car).

        Files may number their classes differently; names are in the sidecar
        (`schemas.coco.Box.category`).
        """
        return self._targets.labels

    @property
    def ignore(self) -> npt.NDArray[np.float32]:
        """(m, 4) float32 xyxy in this level's pixels: regions neither target nor background."""
        return self._targets.ignore


def targets(
    sidecar: Sidecar,
    level: LevelName,
    label_of: Callable[[Box], int | None] = label_as_annotated,
) -> Targets:
    """Boxes, labels and regions to ignore of a sample in a level's pixels, see `target_arrays`."""
    record = sidecar.levels[level]
    boxes = () if sidecar.annotation is None else sidecar.annotation.boxes
    (width, height), (across, down) = sidecar.frame.size, sidecar.frame.box_scale
    scale = record.scale_x * across, record.scale_y * down
    return target_arrays(boxes, width / across, height / down, *scale, label_of=label_of)


def committed(files: StoreFiles) -> Iterator[tuple[str, str]]:
    """(group, id) of every sidecar there is, by listing folders."""
    for group in filter(GROUP_NAME.fullmatch, files.names()):
        for name in files.names(f"{group}/{SIDECARS}"):
            if is_key(f"{group}/{SIDECARS}/{name}"):
                yield group, name.removesuffix(".json")


def looks_like_sidecar(data: bytes) -> bool:
    """Whether these may be the bytes of a sidecar, whole or damaged, and not a file of the user's.

    It is the user's if it is some other JSON, or does not even begin like an object.
    """
    if b'"recipe_fingerprint"' in data:
        return True
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return data[:1] in (b"", b"\0", b"{")
    return False


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
    path = files.location(key)
    data = files.get_or_none(key)
    if data is None:
        raise DamagedStoreError("the sidecar is missing", path=path, mend=REDO)
    try:
        sidecar = Sidecar.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "JSON"
        message = f"the sidecar is damaged at {place}: {first['msg']}"
        raise DamagedStoreError(message, path=path, mend=REDO) from error
    if sidecar.digest != sidecar.content_digest():
        raise DamagedStoreError("the sidecar does not fit its digest", path=path, mend=REDO)
    if (sidecar.group, sidecar.id) != (group, sample_id):
        message = f"the sidecar belongs to {sidecar.group}/{sidecar.id}"
        raise DamagedStoreError(message, path=path, mend=REDO)
    if every_byte and data != sidecar.to_json():
        message = "the sidecar is damaged: its content is whole, its bytes are not as written"
        raise DamagedStoreError(message, path=path, mend=REDO)
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
    try:
        filled = files.read_into(key, room)
    except FileNotFoundError:
        raise damaged_chunk("the chunk is missing", files.location(key)) from None
    if filled != nbytes:
        held = f"more than {nbytes}" if filled > nbytes else str(filled)
        message = f"the chunk has {held} bytes, the sidecar records {nbytes}"
        raise damaged_chunk(message, files.location(key))
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
            path=files.location(),
            mend="ingest into a new store with --levels packed,resized",
        )
    path = files.location(chunk_key(sidecar.group, level, sidecar.row))
    try:
        chunk = read_chunk(files, sidecar, level)
        stored = decode_chunk(chunk, record.shape, record.crc32c, path=path, out=out)
    except DamagedStoreError as error:
        message = f"sample {sidecar.id}: {error.message}"
        raise DamagedStoreError(message, path=error.path, mend=error.mend) from error
    return Sample(stored, sidecar, level)


def sample_damage(files: StoreFiles, sidecar: Sidecar, *, recheck: bool) -> str:
    """What is wrong with a sample's chunks, "" if nothing."""
    for level, record in sidecar.levels.items():
        key = chunk_key(sidecar.group, level, sidecar.row)
        try:
            if recheck:
                chunk = read_chunk(files, sidecar, level)
                check_chunk(chunk, record.crc32c, path=files.location(key))
            elif files.size(key) != record.nbytes:
                return f"the {level} chunk is missing or has another size"
        except DamagedStoreError as error:
            return error.message
    return ""
