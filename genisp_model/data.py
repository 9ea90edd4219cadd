"""A store as a map-style torch dataset.

    from genisp_model.data import StoreDataset, collate
    image, target = StoreDataset("data.zarr", split="train")[0]
    loader = torch.utils.data.DataLoader(dataset, batch_size=2, shuffle=True, collate_fn=collate)

Works with worker processes started by spawn. For training, `genisp_model.stream.StreamLoader` reads
the same samples faster, in this process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from genisp_model.augment import box_areas
from pipeline.boxes import target_arrays
from pipeline.chunk import decode_chunk
from pipeline.errors import DamagedStoreError, UsageError
from pipeline.files import StoreFiles
from pipeline.store import Store, chunk_key, open_store, read_chunk_into
from schemas.recipe import LevelName
from schemas.sidecar import Sidecar

Target = dict[str, Any]
Transform = Callable[[Tensor, Target], tuple[Tensor, Target]]
FloatArray = npt.NDArray[np.float32]

STATISTICS = ("mean", "share_below_zero", "p1", "p50", "p99", "p99_9")
"""Names along the last axis of `SampleIndex.statistics`."""

_BRIGHTNESS_PLANE = 1  # Y, or G for the camera recipe
_BLOCK = 1 << 16  # values converted at a time: 384 KiB in and out, which stay in a core's cache


@dataclass(frozen=True)
class SampleIndex:
    """What reading needs of every sample of one level, in columns.

    Arrays, not objects: 7,000 samples take some megabytes, are handed to a worker process in one
    piece, and are not copied page by page as reference counts change after a fork.

    Attributes
    ----------
    ids
        (n,) str, the store's ids, in stored order; a sample's position here is its image_id.
    groups
        (n,) str, group of each sample.
    rows
        (n,) int64, row within the group.
    shapes
        (n, 3) int64, (3, height, width).
    nbytes
        (n,) int64, size of the chunk.
    crc
        (n,) str, checksum of the chunk, eight hex digits.
    scale_factor, zero_code
        (n,) float32: ``value = (stored - zero_code) * scale_factor``. The zero code is a whole
        number, so the difference is exact and the value is rounded once, on any device.
    boxes
        (m, 4) float32 ``xyxy`` in pixels of the level, all samples one after the other.
    labels
        (m,) int64 COCO ids.
    first_box
        (n + 1,) int64: boxes of sample ``i`` are rows ``first_box[i]:first_box[i + 1]``.
    statistics
        (n, 3, 6) float32 by plane (X, Y, Z, or R, G, B) and `STATISTICS`, in the level's units.
    """

    ids: npt.NDArray[np.str_]
    groups: npt.NDArray[np.str_]
    rows: npt.NDArray[np.int64]
    shapes: npt.NDArray[np.int64]
    nbytes: npt.NDArray[np.int64]
    crc: npt.NDArray[np.str_]
    scale_factor: FloatArray
    zero_code: FloatArray
    boxes: FloatArray
    labels: npt.NDArray[np.int64]
    first_box: npt.NDArray[np.int64]
    statistics: FloatArray

    def __len__(self) -> int:
        return len(self.ids)

    def shape(self, position: int) -> tuple[int, int, int]:
        """(3, height, width) of one sample."""
        planes, height, width = self.shapes[position].tolist()
        return planes, height, width

    @cached_property
    def shape_numbers(self) -> npt.NDArray[np.int64]:
        """(n,) int64: samples with the same number have the same shape."""
        _, numbers = np.unique(self.shapes, axis=0, return_inverse=True)
        return numbers.reshape(-1).astype(np.int64)


def build_index(ids: Sequence[str], sidecars: Sequence[Sidecar], level: LevelName) -> SampleIndex:
    """Columns of samples whose sidecars all hold `level`."""
    records = [sidecar.levels[level] for sidecar in sidecars]
    targets = [_target_arrays(sidecar, level) for sidecar in sidecars]
    statistics = [
        [[getattr(plane, name) for name in STATISTICS] for plane in record.statistics.values()]
        for record in records
    ]
    return SampleIndex(
        ids=np.array(ids, dtype=np.str_),
        groups=np.array([sidecar.group for sidecar in sidecars], dtype=np.str_),
        rows=np.array([sidecar.row for sidecar in sidecars], dtype=np.int64),
        shapes=np.array([record.shape for record in records], dtype=np.int64).reshape(-1, 3),
        nbytes=np.array([record.nbytes for record in records], dtype=np.int64),
        crc=np.array([record.crc32c for record in records], dtype=np.str_),
        scale_factor=np.array([record.scale_factor for record in records], dtype=np.float32),
        zero_code=np.array(
            [round(-record.add_offset / record.scale_factor) for record in records],
            dtype=np.float32,
        ),
        boxes=np.concatenate([np.empty((0, 4), np.float32), *(boxes for boxes, _ in targets)]),
        labels=np.concatenate([np.empty(0, np.int64), *(labels for _, labels in targets)]),
        first_box=np.cumsum([0, *(len(labels) for _, labels in targets)], dtype=np.int64),
        statistics=np.array(statistics, dtype=np.float32).reshape(-1, 3, len(STATISTICS)),
    )


def _target_arrays(sidecar: Sidecar, level: LevelName) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    record = sidecar.levels[level]
    boxes = () if sidecar.annotation is None else sidecar.annotation.boxes
    return target_arrays(boxes, *sidecar.frame.size, record.scale_x, record.scale_y)


class StoreDataset(Dataset[tuple[Tensor, Target]]):
    """Samples of a store, one level of one split, in stored order.

    Every sidecar is read and checked once, here.

    Parameters
    ----------
    store
        A path, or a store already open.
    split
        ``"train"``, ...; all samples when None.
    level
        ``"resized"`` or ``"packed"``.
    transform
        ``(image, target) -> (image, target)``; picklable if worker processes are used.
    skip_damaged
        Leave samples out whose sidecar is damaged, and list them in `skipped`.

    Raises
    ------
    UsageError
        If there is no such split, or the level is not stored.
    DamagedStoreError
        If a sidecar is damaged.
    """

    def __init__(
        self,
        store: str | Path | Store,
        split: str | None = None,
        level: LevelName = "resized",
        transform: Transform | None = None,
        *,
        skip_damaged: bool = False,
    ) -> None:
        opened = store if isinstance(store, Store) else open_store(store)
        self.files: StoreFiles = opened.files
        self.level: LevelName = level
        self.transform = transform
        self.skipped: dict[str, str] = {}
        ids: list[str] = []
        sidecars: list[Sidecar] = []
        for sample_id in opened.ids(split):
            try:
                sidecar = opened.sidecar(sample_id)
            except DamagedStoreError as error:
                if not skip_damaged:
                    raise
                self.skipped[sample_id] = str(error)
                continue
            _require_level(sidecar, level, opened.path)
            ids.append(sample_id)
            sidecars.append(sidecar)
        self.index = build_index(ids, sidecars, level)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, position: int) -> tuple[Tensor, Target]:
        """Read one sample.

        Returns
        -------
        image
            (3, h, w) float32 CIE XYZ, unclipped; the same numbers as ``Store.read(...).xyz``.
        target
            See `target`.

        Raises
        ------
        DamagedStoreError
            If its chunk does not match its record; names the sample.
        """
        position = range(len(self))[position]
        read = np.empty(self.index.nbytes[position] + 1, np.uint8)
        stored = np.empty(self.index.shape(position), np.uint16)
        self.read_stored(position, read, stored)
        image = np.empty(stored.shape, np.float32)
        self.dequantise(position, stored, image)
        sample = torch.from_numpy(image), self.target(position)
        return sample if self.transform is None else self.transform(*sample)

    def __iter__(self) -> Iterator[tuple[Tensor, Target]]:
        return map(self.__getitem__, range(len(self)))

    def __repr__(self) -> str:
        return f"<StoreDataset {self.files.root} ({len(self)} samples, {self.level})>"

    @property
    def ids(self) -> tuple[str, ...]:
        """The store's ids by position."""
        return tuple(self.index.ids.tolist())

    @property
    def exposure(self) -> FloatArray:
        """(n,) float32: the 99th percentile of Y of each image (G for the camera recipe).

        Dividing an image by it brings dark and bright exposures to one scale. It can be tiny, or
        below 0, where an image is nothing but noise: bound it before dividing.
        """
        return self.statistic("p99")

    def statistic(self, name: str, plane: int = _BRIGHTNESS_PLANE) -> FloatArray:
        """(n,) float32 of a statistic in `STATISTICS`, of plane 0, 1 or 2 of each image."""
        return self.index.statistics[:, plane, STATISTICS.index(name)]

    def target(self, position: int) -> Target:
        """What a torchvision detector trains on.

        Returns
        -------
        ``boxes`` (n, 4) float32 ``xyxy`` in pixels of the level; ``labels`` (n,) int64 COCO ids;
        ``image_id`` int, the position; ``area`` (n,) float32 in pixels; ``iscrowd`` (n,) int64
        zeros; ``exposure`` () float32, see `exposure`.
        """
        rows = slice(*self.index.first_box[position : position + 2].tolist())
        boxes = torch.from_numpy(self.index.boxes[rows].copy())
        return {
            "boxes": boxes,
            "labels": torch.from_numpy(self.index.labels[rows].copy()),
            "image_id": position,
            "area": box_areas(boxes),
            "iscrowd": torch.zeros(len(boxes), dtype=torch.int64),
            "exposure": torch.tensor(self.exposure[position]),
        }

    def read_stored(
        self, position: int, read: npt.NDArray[np.uint8], out: npt.NDArray[np.uint16]
    ) -> None:
        """Read, check and decompress one chunk into `out`.

        Parameters
        ----------
        position
            Which sample.
        read
            (at least its ``nbytes + 1``,) uint8, overwritten with the file.
        out
            (3, h, w) uint16, C-contiguous, filled with the stored codes.
        """
        index = self.index
        key = chunk_key(str(index.groups[position]), self.level, int(index.rows[position]))
        try:
            chunk = read_chunk_into(self.files, key, int(index.nbytes[position]), read)
            path = str(self.files.path(key))
            shape = index.shape(position)
            decode_chunk(chunk, shape, str(index.crc[position]), path=path, out=out)
        except DamagedStoreError as error:
            message = f"sample {index.ids[position]}: {error.message}"
            raise DamagedStoreError(message, path=error.path, hint=error.hint) from error

    def dequantise(self, position: int, stored: npt.NDArray[np.uint16], out: FloatArray) -> None:
        """Turn a sample's codes into values, a few rows at a time so that they stay in the cache.

        Parameters
        ----------
        position
            Which sample.
        stored
            (3, h, w) uint16, any strides (a mirrored view, for example).
        out
            (3, h, w) float32, filled with the numbers of ``Store.read(...).xyz``.
        """
        zero, scale = self.index.zero_code[position], self.index.scale_factor[position]
        planes, height, width = stored.shape
        rows = max(1, _BLOCK // width)
        for plane in range(planes):
            for top in range(0, height, rows):
                block = out[plane, top : top + rows]
                np.copyto(block, stored[plane, top : top + rows])
                np.subtract(block, zero, out=block)
                np.multiply(block, scale, out=block)


def collate(
    samples: Sequence[tuple[Tensor, Target]],
) -> tuple[list[Tensor], list[Target]]:
    """Lists of images and of targets, as torchvision detectors take them; nothing is stacked."""
    images, targets = zip(*samples, strict=True)
    return list(images), list(targets)


def _require_level(sidecar: Sidecar, level: LevelName, path: Path) -> None:
    if level not in sidecar.levels:
        raise UsageError(
            f"level {level!r} is not stored (held: {', '.join(sidecar.levels)})",
            path=str(path),
            hint="name a level that is, or ingest into a new store with --levels packed,resized",
        )
