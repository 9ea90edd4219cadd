"""Streaming a store into training: decode threads in this process, no worker processes.

    from genisp_model.data import StoreDataset, StreamLoader
    loader = StreamLoader(StoreDataset("data.zarr", split="train"), batch_size=2, device="cuda")
    for batch in loader:
        loss = model(batch.images, batch.targets)

Chunks are read, checked and decompressed by threads: all three release the interpreter lock. On a
CPU they also convert, into memory that is used again once a batch is dropped (`buffers`). For a
CUDA device they fill pinned memory with the stored 16-bit codes, half the bytes over the bus. A
thread of its own then copies each batch to the device and converts it there, while the device still
works on earlier batches: the training loop finds the next batch on the device already.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import KW_ONLY, dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genisp_model.data.augment import (
    fitted_size,
    flip_boxes,
    flip_image,
    resize_images,
    scale_boxes,
)
from genisp_model.data.buffers import BufferPool, ByteArray, codes, floats
from genisp_model.data.dataset import ReadMemory, StoreDataset, Target, target_of
from genisp_model.data.order import BatchPlan, Cursor, Purpose, chosen, fingerprint
from genisp_model.data.sample_index import SampleIndex, SampleRecord
from genisp_model.data.scale_jitter import UNSCALED, ScaleJitter, View
from genisp_model.data.sensor_augment import UNCHANGED, SensorAugment, measured_exposure
from genisp_model.data.truth import Truth
from pipeline.errors import DamagedStoreError, UsageError
from pipeline.store.chunk.fast_decode import mirror

_log = logging.getLogger(__name__)

#: Bytes: where a tensor in packed memory may begin, whatever its type.
_ALIGNED = 16
_cuda: Any = torch.cuda  # its streams and events are untyped


@dataclass(frozen=True)
class Batch:
    """Samples of one shape.

    The tensors are the receiver's: nothing overwrites them as long as anything refers to them.

    Attributes
    ----------
    images
        (B, 3, h, w) float32 CIE XYZ, unclipped, on the loader's device.
    targets
        B torchvision detection targets (see `StoreDataset.target`), tensors on that device.
    ids
        B sample ids.
    exposure
        (B,) float32 on that device: `StoreDataset.exposure` of each.
    truths
        B times what is annotated, for the evaluation; empty in batches that are not a store's, and
        where `scale_jitter` has changed what there is to see.
    """

    images: Tensor
    targets: list[Target]
    ids: tuple[str, ...]
    exposure: Tensor
    truths: tuple[Truth, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)


@dataclass
class _Reading:
    """A batch on its way: the memory its images are read into, and the threads' work on it."""

    epoch: int
    positions: npt.NDArray[np.int64]
    flipped: npt.NDArray[np.bool_]
    buffer: ByteArray
    work: list[Future[None]]


@dataclass
class _Finished:
    """A batch, and what a CUDA device must have passed before it may be used."""

    batch: Batch
    event: Any = None  # torch.cuda.Event
    #: One tensor of each piece of device memory the batch lies in.
    memory: tuple[Tensor, ...] = ()


@dataclass(eq=False)
class StreamLoader:
    """Batches of a dataset, epoch after epoch.

    One pass over the loader reads what is left of the current epoch and moves on to the next one;
    after a pass that was broken off, the next pass continues behind the last batch handed out.
    `set_epoch` starts an epoch from its beginning.

    A loader belongs to the process that made it: its threads do not live on in a fork, and both
    would get the same samples. Iterating it in another process raises `UsageError`.

    Attributes
    ----------
    dataset
        What to read; its `transform` must be None (nothing here runs one sample at a time).
    batch_size
        Samples in a full batch. Samples of one shape only go together: every shape ends in one
        batch that may be short.
    seed, shuffle, drop_last, rank, world
        The order, see `BatchPlan`. It does not depend on threads, prefetch or device.
    threads
        That decode. Two feed a training step on most machines.
    prefetch
        Batches decoded ahead of the one in use. On a CUDA device one more than that is in use or
        waits there, as float32.
    device
        Where batches go.
    flip
        Probability that an image is mirrored left and right together with its boxes, drawn from
        (seed, epoch, position).
    fit
        (long side, short side) in pixels: images are reduced to fit, on the device, by area
        averaging, with their boxes; for stores that hold only the packed level.
    scale_jitter
        Enlarges a random part of an image, or reduces it, with its boxes, drawn from (seed, epoch,
        position). `truths` of a batch are then empty: its targets are what can be evaluated.
    sensor
        Other exposures, more noise and other colours, drawn from (seed, epoch, position); before
        `fit`. `exposure` of a batch is then measured on its images.
    skip_damaged
        True: a damaged sample is left out of its batch and listed in `skipped`, and a batch without
        any sound sample is left out. False: it ends the pass with `DamagedStoreError`.
    skipped
        Damaged samples met so far, with the reason.
    """

    dataset: StoreDataset
    _: KW_ONLY
    batch_size: int = 2
    seed: int = 0
    shuffle: bool = True
    drop_last: bool = False
    rank: int = 0
    world: int = 1
    threads: int = 2
    prefetch: int = 2
    device: torch.device | str = "cpu"
    flip: float = 0.0
    fit: tuple[int, int] | None = None
    scale_jitter: ScaleJitter = UNSCALED
    sensor: SensorAugment = UNCHANGED
    skip_damaged: bool = False
    skipped: dict[str, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._check()
        self._process = os.getpid()
        self._device = torch.device(self.device)
        index = self.dataset.index
        self._plan = BatchPlan(
            tuple(index.shape_numbers.tolist()),
            self.batch_size,
            self.seed,
            self.shuffle,
            self.drop_last,
            self.rank,
            self.world,
        )
        self._fingerprint = fingerprint(self.dataset.ids, self._plan)
        self._epoch = 0
        self._done = 0
        self._on_cuda = self._device.type == "cuda"
        largest = index.largest
        value_bytes = 2 if self._on_cuda else 4
        size = min(self.batch_size, len(index)) * largest * value_bytes
        self._pool = BufferPool(size, pinned=self._on_cuda)
        self._scratch = threading.local()
        self._copies = _cuda.Stream(self._device) if self._on_cuda else None
        # On a CPU a batch is made where it is wanted: there is nothing to copy, and nobody to wait.
        self._finishes_ahead = self._on_cuda

    def _check(self) -> None:
        if self.dataset.transform is not None:
            raise UsageError(
                "a StreamLoader runs no transform",
                mend="use flip and fit, change the batches it gives, or use a torch DataLoader",
            )
        if self.threads < 1 or self.prefetch < 1 or not 0 <= self.flip <= 1:
            raise UsageError(
                f"threads={self.threads}, prefetch={self.prefetch}, flip={self.flip}",
                mend="at least one thread and one batch ahead; flip is a probability, 0 to 1",
            )
        if self.sensor and self.dataset.recipe.colour == "xyz-balanced":
            raise UsageError(
                "xyz-balanced values are clipped: no other exposure, noise or matrix gives them",
                path=self.dataset.files.location(),
                mend="leave exposure, noise and matrices as they are, or ingest with --colour xyz",
            )
        if self.sensor.matrix_jitter and self.dataset.recipe.colour != "xyz":
            raise UsageError(
                f"matrices turn XYZ, this store holds {self.dataset.recipe.colour}",
                path=self.dataset.files.location(),
                mend="leave matrix jitter out, or ingest with --colour xyz",
            )

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise UsageError(
                f"this loader was made in process {self._process}, and is read in its fork "
                f"{os.getpid()}: both would get the same samples",
                path=self.dataset.files.location(),
                mend="make a StreamLoader in each process, after the fork, with its rank and world",
            )

    def _end(self, executor: ThreadPoolExecutor) -> None:
        """Wait for threads; in a fork there are none, and their locks may be held for ever."""
        if os.getpid() == self._process:
            executor.shutdown(wait=True, cancel_futures=True)

    @property
    def epoch(self) -> int:
        """The epoch the next batch belongs to, from 0."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch."""
        self._epoch, self._done = epoch, 0

    def __len__(self) -> int:
        """Batches of a whole epoch for this rank."""
        return len(self._plan.batches(self._epoch))

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch comes from: seed, epoch, cursor. Small and plain.

        It counts batches handed out, not those read ahead: saved while a batch is in use, it says
        that this batch is done. It is the same on every rank, and may be loaded under another
        number of ranks.
        """
        return Cursor(self._plan.seed, self._epoch, self._done, self._fingerprint).to_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken, at once: nothing is read to get there.

        Raises
        ------
        UsageError
            If it belongs to other samples, or another batch_size, shuffle or drop_last.
        """
        cursor = Cursor.from_dict(state)
        if cursor.plan != self._fingerprint:
            raise UsageError(
                "the state belongs to other samples or another batch_size, shuffle or drop_last",
                path=self.dataset.files.location(),
                mend="resume with the same store, split and options, or start a new run",
            )
        self.seed = cursor.seed
        self._plan = self._plan.with_seed(cursor.seed)
        self._epoch, self._done = cursor.epoch, cursor.done

    def __iter__(self) -> Iterator[Batch]:
        self._check_process()
        plan, epoch, done = self._plan, self._epoch, self._done
        total = len(plan.all_batches(epoch))
        batches = plan.batches(epoch, done)
        todo = iter(batches)
        executor = ThreadPoolExecutor(self.threads, thread_name_prefix="genisp-stream")
        reading: deque[_Reading] = deque()

        def make() -> _Finished | None:
            """The next batch; those after it are read meanwhile: threads never run dry."""
            for positions in islice(todo, 1 + self.prefetch - len(reading)):
                reading.append(self._start(executor, positions, epoch))
            return self._finish(reading.popleft())

        try:
            with closing(self._made(make, len(batches))) as made:
                for batch in made:
                    self._done = min(self._done + plan.world, total)
                    if batch is not None:
                        yield batch
                        del batch  # else its memory would wait for the next one
                        self._check_process()
        finally:
            # Reached when the consumer breaks off, too: the generator is closed with its last
            # reference. What was read ahead is dropped, buffers and all.
            self._end(executor)
        self.set_epoch(epoch + 1)

    def _made(self, make: Callable[[], _Finished | None], count: int) -> Generator[Batch | None]:
        """What `make` gives, `count` times; where a device is waited for, one call ahead.

        There a thread of its own does everything about a batch, also handing its images to the
        threads that read. Each thread that is woken may take the interpreter lock from the one that
        wakes it, for 5 ms and more: the training loop wakes this one thread, and does so last.
        """
        if not self._finishes_ahead:
            for _ in range(count):
                yield self._handed_over(make())
            return
        executor = ThreadPoolExecutor(1, thread_name_prefix="genisp-stream-upload")
        try:
            ahead = deque(executor.submit(make) for _ in range(min(count, 1)))
            for following in range(count - 1, -1, -1):
                batch = self._handed_over(ahead.popleft().result())
                if following:
                    ahead.append(executor.submit(make))
                yield batch
                del batch
        finally:
            self._end(executor)

    def _start(
        self, executor: ThreadPoolExecutor, positions: npt.NDArray[np.int64], epoch: int
    ) -> _Reading:
        """Hand the images of a batch to the threads."""
        seed = self._plan.seed
        flipped = chosen(positions, self.flip, seed=seed, epoch=epoch, purpose=Purpose.FLIP)
        buffer = self._pool.take()
        shape = (len(positions), *self.dataset.index.shape(int(positions[0])))
        work = []
        for slot, position in enumerate(positions.tolist()):
            if self._on_cuda:
                out = codes(buffer, shape)[slot]
                work.append(executor.submit(self._read_codes, position, out))
            else:
                image = floats(buffer, shape)[slot]
                work.append(executor.submit(self._read_values, position, image, flipped[slot]))
        return _Reading(epoch, positions, flipped, buffer, work)

    def _read_codes(self, position: int, out: npt.NDArray[np.uint16]) -> None:
        """In a thread: a chunk's codes into `out`, (3, h, w)."""
        self.dataset.read_codes(position, self._thread_memory(), out)

    def _read_values(self, position: int, out: npt.NDArray[np.float32], flipped: bool) -> None:
        """In a thread: a chunk's values into `out`, (3, h, w)."""
        self.dataset.read_values(position, self._thread_memory(), out)
        if flipped:
            mirror(out)

    def _thread_memory(self) -> ReadMemory:
        """This thread's own."""
        memory: ReadMemory | None = getattr(self._scratch, "memory", None)
        if memory is None:
            memory = self._scratch.memory = self.dataset.memory()
        return memory

    def _handed_over(self, finished: _Finished | None) -> Batch | None:
        """The batch, for use on the device's current stream; None if there is nothing in it."""
        if finished is None:
            return None
        if finished.event is not None:
            using = _cuda.current_stream(self._device)
            using.wait_event(finished.event)
            for tensor in finished.memory:
                # Made on one stream, used on another: the allocator must wait for both.
                tensor.record_stream(using)
        return finished.batch

    def _finish(self, reading: _Reading) -> _Finished | None:
        """Wait for a batch's images and make its tensors; None if all of them were skipped."""
        sound = [slot for slot in range(len(reading.work)) if self._is_sound(reading, slot)]
        shape = (len(reading.positions), *self.dataset.index.shape(int(reading.positions[0])))
        if not sound:
            self._pool.give_back(reading.buffer)
            return None
        if self._copies is not None:
            with torch.cuda.stream(self._copies):
                images = self._upload(reading, shape, self._copies)
                finished = self._batch(images, reading, sound)
                finished.event = _cuda.Event()
                finished.event.record(self._copies)
            return finished
        images = self._pool.lend(reading.buffer, shape).to(self._device)
        return self._batch(images, reading, sound)

    def _is_sound(self, reading: _Reading, slot: int) -> bool:
        """Wait for one image; False if it is damaged and damage is skipped."""
        try:
            reading.work[slot].result()
        except DamagedStoreError as error:
            if not self.skip_damaged:
                raise
            sample_id = str(self.dataset.index.ids[reading.positions[slot]])
            self.skipped[sample_id] = str(error)
            _log.warning("left out: %s", error)
            return False
        return True

    def _upload(
        self, reading: _Reading, shape: tuple[int, ...], copies: torch.cuda.Stream
    ) -> Tensor:
        """Copy codes to the device beside whatever it computes, and convert them there."""
        stored = torch.from_numpy(codes(reading.buffer, shape))
        stored = stored.to(self._device, non_blocking=True)
        # The pinned buffer is free for other images when the device has passed this point.
        event = _cuda.Event()
        event.record(copies)
        self._pool.give_back_when(event.query, reading.buffer)
        images = dequantised(stored, self.dataset.index, reading.positions)
        for slot in np.flatnonzero(reading.flipped).tolist():
            images[slot] = flip_image(images[slot])
        return images

    def _batch(self, images: Tensor, reading: _Reading, sound: list[int]) -> _Finished:
        """Targets to the images: mirrored, scaled and moved as they are."""
        if len(sound) < len(images):
            images = images[sound]
        positions, flipped = reading.positions[sound], reading.flipped[sound]
        height, width = images.shape[-2:]
        fitted = (width, height) if self.fit is None else fitted_size((width, height), self.fit)
        targets: list[Target] = []
        truths: list[Truth] = []
        records = [self.dataset.record(position) for position in positions.tolist()]
        views = self._views(positions, (width, height), reading.epoch)
        scale = fitted[0] / width, fitted[1] / height
        for position, record, mirrored, view in zip(
            positions.tolist(), records, flipped, views, strict=True
        ):
            boxes, ignore = (
                flip_boxes(some, width) if mirrored else some
                for some in (record.boxes, record.ignore)
            )
            labels = record.labels.copy()
            if view is not None:
                boxes, labels, ignore = view.carry(boxes, labels, ignore)
            boxes, ignore = (scale_boxes(some, *scale) for some in (boxes, ignore))
            targets.append(target_of(position, record, boxes, labels, ignore))
            truths.append(record.truth.mirrored() if mirrored else record.truth)
        exposure = torch.from_numpy(np.array([one.exposure for one in records]))
        changed = self._changed(images, reading.epoch, positions, records, views)
        images = resize_images(images, fitted)
        targets, exposure, packed = _moved(targets, exposure, self._device)
        if changed is not None:
            exposure = changed
            for slot, target in enumerate(targets):
                target["exposure"] = exposure[slot]
        batch = Batch(
            images=images,
            targets=targets,
            ids=tuple(self.dataset.index.ids[positions].tolist()),
            exposure=exposure,
            truths=() if self.scale_jitter else tuple(truths),
        )
        return _Finished(batch, memory=(images, packed, exposure))

    def _views(
        self, positions: npt.NDArray[np.int64], size: tuple[int, int], epoch: int
    ) -> Sequence[View | None]:
        """What is seen of each image of a size (width, height); None for all of it."""
        if not self.scale_jitter:
            return [None] * len(positions)
        return self.scale_jitter.draw(positions, size, seed=self._plan.seed, epoch=epoch)

    def _changed(
        self,
        images: Tensor,
        epoch: int,
        positions: npt.NDArray[np.int64],
        records: list[SampleRecord],
        views: Sequence[View | None],
    ) -> Tensor | None:
        """Augment images where they are; their exposures after that, (B,), or None if unchanged.

        Noise comes after the scale: another lens, not a digital zoom.
        """
        if not self.sensor and not self.scale_jitter:
            return None
        exposures = [record.exposure for record in records]
        changes = self.sensor.draw(positions, exposures, seed=self._plan.seed, epoch=epoch)
        is_camera = self.dataset.recipe.colour == "camera"
        seen = []
        for image, view, change, record in zip(images, views, changes, records, strict=True):
            if view is not None:
                view.show(image)
            change.apply(image, record.sensor, is_camera=is_camera)
            seen.append(image if view is None else view.lit(image))
        return torch.stack([measured_exposure(image) for image in seen])


def dequantised(stored: Tensor, index: SampleIndex, positions: npt.NDArray[np.int64]) -> Tensor:
    """Stored codes as values, on the device they are on, with the numbers a CPU computes.

    Parameters
    ----------
    stored
        (B, 3, h, w) uint16.
    index, positions
        Where the scale of each of the B images stands.

    Returns
    -------
    (B, 3, h, w) float32.
    """
    images = stored.to(torch.float32)
    for slot, position in enumerate(positions.tolist()):
        images[slot].sub_(float(index.zero_code[position]))
        images[slot].mul_(float(index.scale_factor[position]))
    return images


def _moved(
    targets: list[Target], exposure: Tensor, device: torch.device
) -> tuple[list[Target], Tensor, Tensor]:
    """Targets and exposures with their tensors on a device, and the memory they lie in.

    Some forty small tensors a batch: each alone would cost a copy that waits for the device.
    """
    if device.type == "cpu":
        return targets, exposure, exposure
    small = [value for one in targets for value in one.values() if isinstance(value, Tensor)]
    sent, packed = sent_together([exposure, *small], device)
    exposure, *there = sent
    left = iter(there)
    targets = [
        {name: next(left) if isinstance(value, Tensor) else value for name, value in one.items()}
        for one in targets
    ]
    return targets, exposure, packed


def sent_together(tensors: list[Tensor], device: torch.device) -> tuple[list[Tensor], Tensor]:
    """Small tensors of any types, copied to a device by one copy that nobody waits for.

    Parameters
    ----------
    tensors
        On the CPU.
    device
        Where they go.

    Returns
    -------
    tuple
        The same tensors there, views into one piece of memory, and that memory as uint8.
    """
    sizes = [tensor.numel() * tensor.element_size() for tensor in tensors]
    starts = np.cumsum([0, *(-(-size // _ALIGNED) * _ALIGNED for size in sizes)]).tolist()
    packed = torch.empty(starts[-1], dtype=torch.uint8, pin_memory=device.type == "cuda")
    views = [
        (packed[start : start + size], tensor)
        for start, size, tensor in zip(starts, sizes, tensors, strict=False)
    ]
    for view, tensor in views:
        view.view(tensor.dtype).copy_(tensor.flatten())
    there = packed.to(device, non_blocking=True)
    sent = [
        there[start : start + size].view(tensor.dtype).view(tensor.shape)
        for start, size, tensor in zip(starts, sizes, tensors, strict=False)
    ]
    return sent, there
