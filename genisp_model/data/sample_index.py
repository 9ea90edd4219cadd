"""What is known of a store's samples without their pixels, kept small.

`SampleIndex` is read from the manifest and one sidecar of each group when a dataset is opened;
`SampleRecord` is what a sample's own sidecar adds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from genisp_model.data.truth import Truth
from pipeline.develop.resample import area_weights
from pipeline.errors import DamagedStoreError, UsageError
from pipeline.store.reader import Store
from pipeline.store.samples import targets
from schemas.coco import Box
from schemas.fixed_point import FixedPoint
from schemas.recipe import LevelName
from schemas.sidecar import LevelRecord, Matrix3, Sensor, Sidecar

FloatArray = npt.NDArray[np.float32]

STATISTICS = ("mean", "share_below_zero", "p1", "p50", "p99", "p99_9")
"""Names along the last axis of `SampleRecord.statistics`."""

#: Y, or G for the camera recipe.
BRIGHTNESS_PLANE = 1


@dataclass(frozen=True)
class GroupIndex:
    """What all samples of a group have in common at one level.

    Attributes
    ----------
    name
        Of the group.
    shape
        (3, height, width).
    scale_factor, add_offset
        ``value = stored * scale_factor + add_offset``.
    """

    name: str
    shape: tuple[int, int, int]
    scale_factor: float
    add_offset: float


@dataclass(frozen=True)
class SampleIndex:
    """What is known of every sample before its sidecar is read.

    Arrays, not objects: 7,000 samples take less than a megabyte, are handed to a worker process in
    one piece, and are not copied page by page as reference counts change after a fork.

    Attributes
    ----------
    ids
        (n,) str, the store's ids, in stored order; a sample's position here is its image_id.
    groups
        Groups of the samples.
    group_numbers
        (n,) int64: which of `groups` a sample is in.
    """

    ids: npt.NDArray[np.str_]
    groups: tuple[GroupIndex, ...]
    group_numbers: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)

    def group(self, position: int) -> GroupIndex:
        """The group of one sample."""
        return self.groups[int(self.group_numbers[position])]

    def shape(self, position: int) -> tuple[int, int, int]:
        """(3, height, width) of one sample."""
        return self.group(position).shape

    @property
    def largest(self) -> int:
        """Values of the largest image."""
        return max((math.prod(group.shape) for group in self.groups), default=0)

    @cached_property
    def shape_numbers(self) -> npt.NDArray[np.int64]:
        """(n,) int64: samples with the same number have the same shape."""
        shapes = sorted({group.shape for group in self.groups})
        numbers = np.array([shapes.index(group.shape) for group in self.groups], np.int64)
        return numbers[self.group_numbers]

    @cached_property
    def scale_factor(self) -> FloatArray:
        """(n,) float32: ``value = (stored - zero_code) * scale_factor``."""
        factors = np.array([group.scale_factor for group in self.groups], np.float32)
        return factors[self.group_numbers]

    @cached_property
    def zero_code(self) -> FloatArray:
        """(n,) float32: the code of the value 0.

        It is a whole number, so the difference is exact and the value is rounded once, on any
        device.
        """
        zeros = [
            FixedPoint(group.scale_factor, group.add_offset).zero_code for group in self.groups
        ]
        return np.array(zeros, np.float32)[self.group_numbers]


@dataclass(frozen=True, slots=True)
class SensorFacts:
    """What is needed to say what a sensor would have measured instead.

    Attributes
    ----------
    xyz_to_camera
        (3, 3) rows: XYZ (D65) -> camera RGB, white as 1.
    floor
        Camera RGB of 0 DN: no site is below.
    cells, size
        (width, height) of the frame in 2x2 cells of the mosaic, and of the level in pixels.
    """

    xyz_to_camera: Matrix3
    floor: float
    cells: tuple[int, int]
    size: tuple[int, int]

    @classmethod
    def of(cls, sensor: Sensor, held: LevelRecord) -> SensorFacts:
        """Of a sample's sensor and level; one object for all samples that are alike."""
        _, height, width = held.shape
        floor = -max(sensor.black) / (sensor.white - min(sensor.black))
        cells = round(width / held.scale_x / 2), round(height / held.scale_y / 2)
        return _shared(cls(sensor.xyz_to_camera, floor, cells, (width, height)))

    @property
    def taps(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Across and down: how noise of cells looks in the level, see `moving_average`."""
        across, down = map(moving_average, self.cells, self.size)
        return across, down


@lru_cache(maxsize=1024)
def _shared(facts: SensorFacts) -> SensorFacts:
    """The first of equal ones."""
    return facts


@lru_cache(maxsize=256)
def moving_average(count_in: int, count_out: int) -> tuple[float, float]:
    """Area averages of white noise, made from white noise of the averages' own number.

    Averages share the inputs at their borders, so neighbours are correlated. With the factors a and
    b that this gives, ``a * white[i] + b * white[i + 1]`` has the mean variance of ``count_out``
    averages of ``count_in`` values of variance 1, and the same variance when summed up: that of an
    average over many of them is right, too. Where nothing is averaged they are 1 and 0.
    """
    weights = area_weights(count_in, count_out).weights.astype(np.float64)
    variance = float((weights**2).sum(axis=1).mean())  # a^2 + b^2
    summed = count_out / count_in  # (a + b)^2
    both, apart = math.sqrt(summed), math.sqrt(max(0.0, 2 * variance - summed))
    return (both + apart) / 2, (both - apart) / 2


@dataclass(frozen=True, slots=True)
class SampleRecord:
    """What only a sample's sidecar says, of one level.

    Bytes, not arrays: one is kept for every sample that was read, and small arrays between the
    buffers of reading make holes that are never filled again (8 kB a sample).

    Attributes
    ----------
    row
        Within the group.
    nbytes, crc
        Size of the chunk, and its checksum as eight hex digits.
    box_bytes, label_bytes, ignore_bytes, statistic_bytes
        What `boxes`, `labels`, `ignore` and `statistics` show.
    sensor
        What the pixels were made with.
    truth
        What is annotated, for the evaluation.
    """

    row: int
    nbytes: int
    crc: str
    box_bytes: bytes
    label_bytes: bytes
    ignore_bytes: bytes
    statistic_bytes: bytes
    sensor: SensorFacts
    truth: Truth

    @classmethod
    def of(
        cls,
        sidecar: Sidecar,
        level: LevelName,
        label_of: Callable[[Box], int | None],
        class_of: Callable[[str], str],
    ) -> SampleRecord:
        """The record of a sidecar that holds `level`.

        `label_of` and `class_of`: see `pipeline.annotations.boxes.target_arrays` and `Truth`.
        """
        held = sidecar.levels[level]
        boxes, labels, ignore = targets(sidecar, level, label_of)
        statistics = [
            [getattr(plane, name) for name in STATISTICS] for plane in held.statistics.values()
        ]
        return cls(
            row=sidecar.row,
            nbytes=held.nbytes,
            crc=held.crc32c,
            box_bytes=boxes.tobytes(),
            label_bytes=labels.tobytes(),
            ignore_bytes=ignore.tobytes(),
            statistic_bytes=np.array(statistics, np.float32).tobytes(),
            sensor=SensorFacts.of(sidecar.sensor, held),
            truth=Truth.of(sidecar, class_of),
        )

    @property
    def boxes(self) -> FloatArray:
        """(n, 4) float32 ``xyxy`` in pixels of the level."""
        return np.frombuffer(self.box_bytes, np.float32).reshape(-1, 4)

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """(n,) int64."""
        return np.frombuffer(self.label_bytes, np.int64)

    @property
    def ignore(self) -> FloatArray:
        """(m, 4) float32 ``xyxy`` in pixels of the level: neither target nor background."""
        return np.frombuffer(self.ignore_bytes, np.float32).reshape(-1, 4)

    @property
    def statistics(self) -> FloatArray:
        """(3, 6) float32 by plane (X, Y, Z, or R, G, B) and `STATISTICS`, in the level's units."""
        return np.frombuffer(self.statistic_bytes, np.float32).reshape(3, len(STATISTICS))

    @property
    def exposure(self) -> np.float32:
        """See `StoreDataset.exposure`."""
        value: np.float32 = self.statistics[BRIGHTNESS_PLANE, STATISTICS.index("p99")]
        return value


def build_index(store: Store, ids: Sequence[str], level: LevelName) -> SampleIndex:
    """The index of some samples; reads one sidecar of each group."""
    members: dict[str, list[str]] = {}
    for sample_id in ids:
        members.setdefault(store.entry(sample_id).group, []).append(sample_id)
    numbers = {name: number for number, name in enumerate(members)}
    return SampleIndex(
        ids=np.array(ids, dtype=np.str_),
        groups=tuple(_some_group_index(store, stems, level) for stems in members.values()),
        group_numbers=np.array(
            [numbers[store.entry(sample_id).group] for sample_id in ids], np.int64
        ),
    )


def _some_group_index(store: Store, ids: Sequence[str], level: LevelName) -> GroupIndex:
    """A group as the first sound sidecar of its samples describes it."""
    first: DamagedStoreError | None = None
    for sample_id in ids:
        try:
            sidecar = store.sidecar(sample_id)
        except DamagedStoreError as error:
            first = first or error
            continue
        found = group_index(sidecar, level)
        if found is None:
            raise UsageError(
                f"level {level!r} is not stored (held: {', '.join(sidecar.levels)})",
                path=store.location,
                mend="name a level that is, or ingest into a new store with --levels "
                "packed,resized",
            )
        return found
    raise first or AssertionError("a group without samples")


def group_index(sidecar: Sidecar, level: LevelName) -> GroupIndex | None:
    """A sample's group as its sidecar describes it; None if it does not hold the level."""
    held = sidecar.levels.get(level)
    if held is None:
        return None
    return GroupIndex(sidecar.group, held.shape, held.scale_factor, held.add_offset)
