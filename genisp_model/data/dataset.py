"""A store as a map-style torch dataset.

    from genisp_model.data import StoreDataset, collate
    image, target = StoreDataset("data.zarr", split="train")[0]
    loader = torch.utils.data.DataLoader(dataset, batch_size=2, shuffle=True, collate_fn=collate)

Works with worker processes started by spawn. For training, `genisp_model.data.loader` reads
the same samples faster, in this process.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from genisp_model.data.augment import box_areas
from genisp_model.data.buffers import aligned, floats
from genisp_model.data.order import spread_out
from genisp_model.data.sample_index import (
    BRIGHTNESS_PLANE,
    STATISTICS,
    FloatArray,
    SampleRecord,
    build_index,
    group_index,
)
from pipeline.errors import REDO, DamagedStoreError, UsageError
from pipeline.store.chunk.fast_decode import decode_codes, decode_values, work_size
from pipeline.store.chunk.format import largest_chunk
from pipeline.store.files import StoreFiles
from pipeline.store.keys import chunk_key, sidecar_key
from pipeline.store.reader import Store, open_store
from pipeline.store.samples import read_chunk_into, read_sidecar
from schemas.coco import Box, class_key
from schemas.recipe import LevelName

#: What `StoreDataset.not_looked_for` calls regions of the annotation itself.
_CROWD, _NO_NAME = "(crowd)", "(no name)"
_REGIONS = frozenset({_CROWD, _NO_NAME})

Target = dict[str, Any]
Transform = Callable[[Tensor, Target], tuple[Tensor, Target]]


@dataclass(frozen=True)
class ReadMemory:
    """What reading a sample works in, used again and again.

    Attributes
    ----------
    file
        (bytes of a chunk + 1,) uint8: the chunk as it is in the file.
    work
        (`work_size` of an image,) uint8: bit planes.
    """

    file: npt.NDArray[np.uint8]
    work: npt.NDArray[np.uint8]


class StoreDataset(Dataset[tuple[Tensor, Target]]):
    """Samples of a store, one level of one split, in stored order.

    Opening reads the manifest and one sidecar of each group. A sample's own sidecar is read and
    checked when the sample is asked for the first time, and what is needed of it kept.

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
    classes
        Label -> name of the classes that are looked for, such as a detector's `class_names`: boxes
        get their labels by name, and those of other classes become regions to ignore. Without it,
        labels are the category ids as annotated (NOD: 1 person, 2 bicycle, 3 car).
    limit
        At most this many samples, at even distances in stored order, always the same; 0 for all.

    Raises
    ------
    UsageError
        If there is no such split, or the level is not stored.
    DamagedStoreError
        If every sidecar of a group is damaged, or one that the manifest does not list: then nobody
        knows which split it belongs to.
    """

    def __init__(
        self,
        store: str | Path | Store,
        split: str | None = None,
        level: LevelName = "resized",
        transform: Transform | None = None,
        classes: Mapping[int, str] | None = None,
        limit: int = 0,
    ) -> None:
        opened = store if isinstance(store, Store) else open_store(store)
        self.files: StoreFiles = opened.files
        if opened.unlisted:
            raise _unlisted(opened.unlisted)
        self.split = split
        self.level: LevelName = level
        self.transform = transform
        self.index = build_index(opened, spread_out(opened.ids(split), limit), level)
        self.recipe = opened.recipe
        self.labels: Mapping[str, int] | None = None
        if classes is not None:
            self.labels = {class_key(name): label for label, name in classes.items()}
        self._records: dict[int, SampleRecord] = {}

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
            If its sidecar is damaged, or its chunk does not match it; names the sample.
        """
        position = range(len(self))[position]
        shape = self.index.shape(position)
        image = floats(aligned(4 * math.prod(shape)), shape)
        self.read_values(position, self.memory(position), image)
        sample = torch.from_numpy(image), self.target(position)
        return sample if self.transform is None else self.transform(*sample)

    def __iter__(self) -> Iterator[tuple[Tensor, Target]]:
        return map(self.__getitem__, range(len(self)))

    def __repr__(self) -> str:
        return f"<StoreDataset {self.files.location()} ({len(self)} samples, {self.level})>"

    @property
    def ids(self) -> tuple[str, ...]:
        """The store's ids by position."""
        return tuple(self.index.ids.tolist())

    @property
    def exposure(self) -> FloatArray:
        """(n,) float32: the 99th percentile of Y of each image (G for the camera recipe).

        Dividing an image by it brings dark and bright exposures to one scale. It can be tiny, or
        below 0, where an image is nothing but noise: bound it before dividing. Reads every
        sidecar.
        """
        return self.statistic("p99")

    def statistic(self, name: str, plane: int = BRIGHTNESS_PLANE) -> FloatArray:
        """(n,) float32 of a statistic in `STATISTICS`, of plane 0, 1 or 2 of each image.

        Reads every sidecar.
        """
        records = [self.record(position).statistics for position in range(len(self))]
        column = np.reshape(records, (-1, 3, len(STATISTICS)))[:, plane, STATISTICS.index(name)]
        return column.astype(np.float32)

    def record(self, position: int) -> SampleRecord:
        """What a sample's sidecar says of it; read once. Any thread may ask.

        Raises
        ------
        DamagedStoreError
            If the sidecar is damaged, its level is not like its group's, or its split not what the
            manifest says; names the sample.
        """
        known = self._records.get(position)
        if known is None:
            group = self.index.group(position)
            sample_id = str(self.index.ids[position])
            stem = sample_id.rpartition("/")[2]
            with _naming(sample_id):
                sidecar = read_sidecar(self.files, group.name, stem)
                if group_index(sidecar, self.level) != group:
                    raise DamagedStoreError(
                        f"its {self.level} level has not the shape and scale of its group's others",
                        path=self.files.location(sidecar_key(group.name, stem)),
                        mend="prep verify says which sample differs",
                    )
                if self.split is not None and sidecar.split != self.split:
                    raise DamagedStoreError(
                        f"its split is {sidecar.split!r}, the manifest lists it in {self.split!r}",
                        path=self.files.location(sidecar_key(group.name, stem)),
                        mend=f"{REDO}; the manifest follows the sidecars",
                    )
            known = self._records[position] = SampleRecord.of(
                sidecar, self.level, self._label_of, self.recipe.class_of
            )
        return known

    def _label_of(self, box: Box) -> int | None:
        if self.labels is None:
            return box.label
        return self.labels.get(class_key(self.recipe.class_of(box.category)))

    def known_record(self, position: int) -> SampleRecord | None:
        """`record`, if it has been read already."""
        return self._records.get(position)

    def has_boxes(self) -> bool:
        """Whether any sample has a box to train on; reads sidecars up to the first that has.

        Damaged ones are passed over: reading their samples will tell.
        """
        for position in range(len(self)):
            with suppress(DamagedStoreError):
                if len(self.record(position).boxes):
                    return True
        return False

    def not_looked_for(self) -> Counter[str]:
        """Objects by name of a class that `classes` lack, and crowds as ``"(crowd)"``.

        All are regions to ignore. Reads every sidecar; damaged ones are passed over.
        """
        found: Counter[str] = Counter()
        for position in range(len(self)):
            with suppress(DamagedStoreError):
                for name, _, _, is_region in self.record(position).truth.rows():
                    if is_region:
                        found[_CROWD if name else _NO_NAME] += 1
                    elif self.labels is not None and class_key(name) not in self.labels:
                        found[name] += 1
        return found

    def target(self, position: int) -> Target:
        """What a torchvision detector trains on.

        Returns
        -------
        ``boxes`` (n, 4) float32 ``xyxy`` in pixels of the level; ``labels`` (n,) int64, see
        `classes`; ``ignore`` (m, 4) float32, regions that are neither target nor background;
        ``image_id`` int, the position; ``area`` (n,) float32 in pixels; ``iscrowd`` (n,) int64
        zeros; ``exposure`` () float32, see `exposure`.
        """
        record = self.record(position)
        return target_of(
            position, record, record.boxes.copy(), record.labels.copy(), record.ignore.copy()
        )

    def memory(self, position: int | None = None) -> ReadMemory:
        """Memory for reading one sample, or any if `position` is None; one thread at a time."""
        values = self.index.largest if position is None else math.prod(self.index.shape(position))
        chunk = largest_chunk(2 * values)
        return ReadMemory(np.empty(chunk + 1, np.uint8), np.empty(work_size(2 * values), np.uint8))

    def read_codes(self, position: int, memory: ReadMemory, out: npt.NDArray[np.uint16]) -> None:
        """Read, check and decompress one chunk.

        Parameters
        ----------
        position
            Which sample.
        memory
            Overwritten (see `memory`).
        out
            (3, h, w) uint16, C-contiguous, filled with the stored codes.

        Raises
        ------
        DamagedStoreError
            If the chunk does not match its record; names the sample.
        """
        shape = self.index.shape(position)
        with self._read(position, memory) as (chunk, crc, path):
            decode_codes(chunk, shape, crc, path=path, work=memory.work, out=out)

    def read_values(self, position: int, memory: ReadMemory, out: FloatArray) -> None:
        """`read_codes` with the codes turned into values on the way.

        Parameters
        ----------
        out
            (3, h, w) float32, C-contiguous, filled with the numbers of ``Store.read(...).xyz``.
        """
        zero, scale = self.index.zero_code[position], self.index.scale_factor[position]
        work = memory.work
        with self._read(position, memory) as (chunk, crc, path):
            decode_values(chunk, crc, path=path, work=work, out=out, zero=zero, scale=scale)

    @contextmanager
    def _read(self, position: int, memory: ReadMemory) -> Iterator[tuple[memoryview, str, str]]:
        """A chunk's bytes, its checksum and its path; damage met in its use names the sample."""
        record, group = self.record(position), self.index.group(position)
        key = chunk_key(group.name, self.level, record.row)
        with _naming(str(self.index.ids[position])):
            chunk = read_chunk_into(self.files, key, record.nbytes, memory.file)
            yield chunk, record.crc, self.files.location(key)


def target_of(
    position: int,
    record: SampleRecord,
    boxes: FloatArray,
    labels: npt.NDArray[np.int64],
    ignore: FloatArray,
) -> Target:
    """`StoreDataset.target` with boxes and regions as they were scaled, mirrored or cut.

    (n, 4) and (m, 4) float32 ``xyxy``, and (n,) int64; this keeps them.
    """
    return {
        "boxes": torch.from_numpy(boxes),
        "labels": torch.from_numpy(labels),
        "ignore": torch.from_numpy(ignore),
        "image_id": position,
        "area": torch.from_numpy(box_areas(boxes)),
        "iscrowd": torch.from_numpy(np.zeros(len(boxes), np.int64)),
        "exposure": torch.from_numpy(np.array(record.exposure)),
    }


def say_what_is_ignored(dataset: StoreDataset, say: Callable[[str], None]) -> None:
    """Name and count what is annotated and not looked for; see `StoreDataset.not_looked_for`.

    Raises
    ------
    UsageError
        If objects are annotated, and none of a class that is looked for.
    """
    found = dataset.not_looked_for()
    unknown = Counter({name: count for name, count in found.items() if name not in _REGIONS})
    if found:
        classes = ", ".join(f"{count:,} {name}" for name, count in found.most_common())
        hint = (
            "; to map a class: prep ingest --category NAME=NAME into a new store, or "
            "--detector-classes FILE"
        )
        say(
            f"split {dataset.split!r}: {found.total():,} boxes are regions to ignore, neither "
            f"objects nor background: {classes}{hint if unknown else ''}"
        )
    if unknown and not dataset.has_boxes():
        raise UsageError(
            f"split {dataset.split!r} has no boxes of classes that the detector knows",
            path=dataset.files.location(),
            mend="map its classes to the detector's, as said above",
        )


@contextmanager
def _naming(sample_id: str) -> Iterator[None]:
    """Damage met in the block names the sample."""
    try:
        yield
    except DamagedStoreError as error:
        message = f"sample {sample_id}: {error.message}"
        raise DamagedStoreError(message, path=error.path, mend=error.mend) from error


def _unlisted(damage: Sequence[DamagedStoreError]) -> DamagedStoreError:
    """The error for samples that would be missing without a word."""
    first = damage[0]
    return DamagedStoreError(
        f"{first.message}, and the manifest does not list its sample ({len(damage)} such sidecars)",
        path=first.path,
        mend=f"{first.mend}; or delete the sidecar to do without its sample",
    )


def collate(
    samples: Sequence[tuple[Tensor, Target]],
) -> tuple[list[Tensor], list[Target]]:
    """Lists of images and of targets, as torchvision detectors take them; nothing is stacked."""
    images, targets = zip(*samples, strict=True)
    return list(images), list(targets)
