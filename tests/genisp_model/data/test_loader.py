"""The streaming loader: same numbers, same order, whatever runs beside it."""

from __future__ import annotations

import gc
import json
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genisp_model.data.augment import flip_boxes, flip_image
from genisp_model.data.buffers import BufferPool
from genisp_model.data.dataset import StoreDataset
from genisp_model.data.loader import Batch, StreamLoader, dequantised, sent_together
from pipeline.errors import DamagedStoreError, UsageError
from pipeline.store.keys import chunk_key
from pipeline.store.reader import open_store

WITHOUT_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.fixture(scope="session")
def dataset(_store: Path) -> StoreDataset:
    """Six samples of several shapes; tests only read it."""
    return StoreDataset(_store)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    gc.collect()
    assert not [t.name for t in threading.enumerate() if t.name.startswith("genisp-stream")]


def order(batches: list[Batch]) -> list[tuple[str, ...]]:
    return [batch.ids for batch in batches]


def test_batches_hold_the_numbers_and_boxes_of_the_dataset(dataset: StoreDataset) -> None:
    batches = list(StreamLoader(dataset, batch_size=2))
    assert sorted(i for batch in batches for i in batch.ids) == sorted(dataset.ids)
    for batch in batches:
        assert batch.images.shape[:2] == (len(batch), 3)
        for slot, sample_id in enumerate(batch.ids):
            image, target = dataset[dataset.ids.index(sample_id)]
            assert torch.equal(batch.images[slot], image)
            assert batch.exposure[slot] == target["exposure"]
            for name, value in target.items():
                assert np.array_equal(batch.targets[slot][name], value)


def test_numbers_are_those_of_the_store(dataset: StoreDataset) -> None:
    store = open_store(dataset.files)
    for batch in StreamLoader(dataset, batch_size=3):
        for image, sample_id in zip(batch.images, batch.ids, strict=True):
            assert np.array_equal(image.numpy(), store.read(sample_id, "resized").xyz)


def test_threads_and_prefetch_change_nothing(dataset: StoreDataset) -> None:
    reference = list(StreamLoader(dataset, threads=1, prefetch=1, flip=0.5))
    for threads in (2, 3, 4):
        batches = list(StreamLoader(dataset, threads=threads, prefetch=threads, flip=0.5))
        assert order(batches) == order(reference)
        for one, other in zip(batches, reference, strict=True):
            assert torch.equal(one.images, other.images)


def test_epochs_differ_and_can_be_visited(dataset: StoreDataset) -> None:
    loader = StreamLoader(dataset, batch_size=1, seed=5)
    epochs = [order(list(loader)) for _ in range(3)]
    assert loader.epoch == 3
    assert len({str(epoch) for epoch in epochs}) == 3
    loader.set_epoch(1)
    assert order(list(loader)) == epochs[1]
    assert order(list(StreamLoader(dataset, batch_size=1, seed=6))) != epochs[0]
    assert len(loader) == len(dataset)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cut=st.integers(0, 6), epoch=st.integers(0, 3), size=st.integers(1, 3))
def test_resuming_equals_not_stopping(
    dataset: StoreDataset, cut: int, epoch: int, size: int
) -> None:
    loader = StreamLoader(dataset, batch_size=size, flip=0.5)
    loader.set_epoch(epoch)
    whole = [(batch.ids, batch.images.sum().item()) for batch in loader]
    loader.set_epoch(epoch)
    begun = []
    for batch in loader if cut else ():
        begun.append((batch.ids, batch.images.sum().item()))
        if len(begun) == cut:
            break
    state = json.loads(json.dumps(loader.state_dict()))
    if len(begun) < cut:  # the epoch ended by itself
        assert (state["epoch"], state["cursor"]) == (epoch + 1, 0)
        return
    resumed = StreamLoader(dataset, batch_size=size, flip=0.5, seed=99, threads=1)
    resumed.load_state_dict(state)
    rest = [(batch.ids, batch.images.sum().item()) for batch in resumed]
    assert begun + rest == whole
    assert resumed.state_dict() == {**state, "epoch": epoch + 1, "cursor": 0}


def test_a_pass_that_was_broken_off_continues(dataset: StoreDataset) -> None:
    loader = StreamLoader(dataset, batch_size=1)
    first = next(iter(loader))
    assert order([first, *loader]) == order(list(StreamLoader(dataset, batch_size=1)))


def test_a_state_of_another_plan_is_refused(dataset: StoreDataset) -> None:
    state = StreamLoader(dataset, batch_size=2).state_dict()
    with pytest.raises(UsageError, match="another batch_size"):
        StreamLoader(dataset, batch_size=3).load_state_dict(state)
    with pytest.raises(UsageError, match="not a loader's state"):
        StreamLoader(dataset).load_state_dict({})


def test_three_ranks_share_an_epoch(dataset: StoreDataset) -> None:
    ranks = [StreamLoader(dataset, batch_size=1, rank=rank, world=3) for rank in range(3)]
    parts = [[batch.ids[0] for batch in loader] for loader in ranks]
    assert sorted(i for part in parts for i in part) == sorted(dataset.ids)
    assert [len(part) for part in parts] == [2, 2, 2]


def test_flipped_images_carry_their_boxes(dataset: StoreDataset) -> None:
    for batch in StreamLoader(dataset, flip=1.0):
        width = batch.images.shape[-1]
        for slot, sample_id in enumerate(batch.ids):
            image, target = dataset[dataset.ids.index(sample_id)]
            assert torch.equal(batch.images[slot], flip_image(image))
            flipped = torch.from_numpy(flip_boxes(target["boxes"].numpy(), width))
            assert torch.equal(batch.targets[slot]["boxes"], flipped)


def test_fit_reduces_images_and_boxes_together(dataset: StoreDataset) -> None:
    for batch in StreamLoader(dataset, batch_size=1, fit=(120, 80)):
        image, target = dataset[dataset.ids.index(batch.ids[0])]
        height, width = batch.images.shape[-2:]
        assert max(width, height) <= 120
        assert min(width, height) <= 80
        # Area averaging keeps the mean of a plane.
        torch.testing.assert_close(batch.images.mean(), image.mean(), rtol=1e-4, atol=1e-6)
        share = target["boxes"] / target["boxes"].new_tensor([image.shape[2], image.shape[1]] * 2)
        fitted = batch.targets[0]["boxes"] / torch.tensor([width, height] * 2)
        torch.testing.assert_close(fitted, share)
        height_width = batch.targets[0]["boxes"][:, 2:] - batch.targets[0]["boxes"][:, :2]
        torch.testing.assert_close(batch.targets[0]["area"], height_width.prod(dim=1))


def test_batches_that_are_held_are_never_overwritten(dataset: StoreDataset) -> None:
    loader = StreamLoader(dataset, batch_size=1, prefetch=1)
    held = []
    for _ in range(3):
        for number, batch in enumerate(loader):
            # Written over by their holder, and held by nothing but a small view.
            batch.images.fill_(float(number))
            held.append((float(number), batch.images[0, 1, 2:4]))
    assert all((view == number).all() for number, view in held)


def test_memory_of_dropped_batches_is_used_again(dataset: StoreDataset) -> None:
    loader = StreamLoader(dataset, batch_size=1, prefetch=2)
    for _ in range(4):
        for batch in loader:
            del batch
    # At most two ahead, one being waited for, one in use.
    assert loader._pool.made <= 4


def test_a_lent_buffer_returns_with_its_last_view() -> None:
    pool = BufferPool(64)
    buffer = pool.take()
    tensor = pool.lend(buffer, (2, 3))
    view = tensor.flatten()[1:2].numpy()
    del tensor
    assert pool.take() is not buffer
    del view
    assert pool.take() is buffer
    pool.give_back_when(lambda: False, pool.take())
    assert pool.made == 3


@pytest.fixture
def damaged(store_path: Path) -> tuple[StoreDataset, str]:
    """A dataset one of whose chunks has a flipped bit, and that sample's id."""
    dataset = StoreDataset(store_path)
    group, row = dataset.index.group(3).name, dataset.record(3).row
    path = store_path / chunk_key(group, "resized", row)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    return dataset, dataset.ids[3]


def test_a_damaged_chunk_ends_the_pass_and_names_the_sample(
    damaged: tuple[StoreDataset, str],
) -> None:
    dataset, sample_id = damaged
    with pytest.raises(DamagedStoreError, match=f"sample {sample_id}: checksum mismatch"):
        list(StreamLoader(dataset))


@pytest.mark.parametrize("size", [1, 2, 6])
def test_damaged_samples_are_skipped_and_listed_on_request(
    damaged: tuple[StoreDataset, str], size: int
) -> None:
    dataset, sample_id = damaged
    loader = StreamLoader(dataset, batch_size=size, skip_damaged=True)
    for _ in range(2):
        batches = list(loader)
        sound = {i for i in dataset.ids if i != sample_id}
        assert sorted(i for batch in batches for i in batch.ids) == sorted(sound)
        for batch in batches:
            assert len(batch.images) == len(batch.targets) == len(batch.exposure) == len(batch.ids)
            for image, name in zip(batch.images, batch.ids, strict=True):
                assert torch.equal(image, dataset[dataset.ids.index(name)][0])
    assert list(loader.skipped) == [sample_id]


def test_any_error_in_a_thread_reaches_the_consumer(
    dataset: StoreDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk gone")

    monkeypatch.setattr(dataset, "read_values", fail)
    with pytest.raises(OSError, match="disk gone"):
        list(StreamLoader(dataset, skip_damaged=True))


def test_breaking_off_leaves_no_thread(dataset: StoreDataset) -> None:
    for _ in StreamLoader(dataset, batch_size=1, threads=3):
        break
    gc.collect()
    assert not [t for t in threading.enumerate() if t.name.startswith("genisp-stream")]


def test_impossible_options_are_refused(dataset: StoreDataset, store_path: Path) -> None:
    for options in ({"threads": 0}, {"prefetch": 0}, {"flip": 1.5}, {"batch_size": 0}):
        with pytest.raises(UsageError):
            StreamLoader(dataset, **options)
    with pytest.raises(UsageError, match="no transform"):
        StreamLoader(StoreDataset(store_path, transform=lambda *sample: sample))


def test_codes_converted_by_torch_are_the_same_numbers(dataset: StoreDataset) -> None:
    index, positions = dataset.index, np.array([0])
    stored = np.empty((1, *index.shape(0)), np.uint16)
    dataset.read_codes(0, dataset.memory(0), stored[0])
    images = dequantised(torch.from_numpy(stored), index, positions)
    assert torch.equal(images[0], dataset[0][0])


@pytest.mark.cuda
@WITHOUT_CUDA
def test_a_cuda_device_gets_the_same_batches(dataset: StoreDataset) -> None:
    for _ in range(3):
        expected = list(StreamLoader(dataset, flip=0.5))
        loader = StreamLoader(dataset, flip=0.5, device="cuda", prefetch=1)
        for batch, reference in zip(loader, expected, strict=True):
            assert batch.images.is_cuda
            assert batch.targets[0]["boxes"].is_cuda
            assert torch.equal(batch.images.cpu(), reference.images)


def test_targets_of_a_batch_reach_the_device_in_one_copy() -> None:
    tensors = [
        torch.tensor(0.5),
        torch.arange(12, dtype=torch.float32).reshape(3, 4),
        torch.empty((0, 4)),
        torch.tensor([1, -(2**40)]),
        torch.tensor([True, False, True]),
    ]
    sent, packed = sent_together(tensors, torch.device("cpu"))
    for ours, theirs in zip(sent, tensors, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)
        assert ours.untyped_storage().data_ptr() == packed.untyped_storage().data_ptr()
    sent[1].zero_()
    assert sent[3].tolist() == [1, -(2**40)]  # its neighbour's memory is its own


class AheadLoader(StreamLoader):
    """Its batches are finished by a thread, as for a GPU."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._finishes_ahead = True


def test_batches_finished_ahead_are_the_same(dataset: StoreDataset) -> None:
    options: dict[str, Any] = {"batch_size": 2, "flip": 0.5, "prefetch": 3}
    ours, plain = AheadLoader(dataset, **options), StreamLoader(dataset, **options)
    for _ in range(2):
        for batch, reference in zip(ours, plain, strict=True):
            assert batch.ids == reference.ids
            assert torch.equal(batch.images, reference.images)
            assert torch.equal(batch.exposure, reference.exposure)
            for one, other in zip(batch.targets, reference.targets, strict=True):
                assert torch.equal(one["boxes"], other["boxes"])
            # What is finished ahead is not handed out yet.
            assert ours.state_dict() == plain.state_dict()


def test_an_error_met_ahead_reaches_the_consumer(
    dataset: StoreDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk gone")

    monkeypatch.setattr(dataset, "read_values", fail)
    with pytest.raises(OSError, match="disk gone"):
        list(AheadLoader(dataset, skip_damaged=True))


def test_breaking_off_while_batches_are_finished_leaves_no_thread(dataset: StoreDataset) -> None:
    for _ in AheadLoader(dataset, batch_size=1, threads=3, prefetch=4):
        break
    gc.collect()
    assert not [t for t in threading.enumerate() if t.name.startswith("genisp-stream")]


def in_a_fork(work: Callable[[], object]) -> str:
    """What a forked child's `work` gave, or raised, as text; the child may take 20 s."""
    theirs, ours = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads: that is it
        child = os.fork()
    if not child:
        signal.alarm(20)
        try:
            said = str(work())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(ours, said.encode())
        os._exit(0)
    os.close(ours)
    with os.fdopen(theirs) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("kind", [StreamLoader, AheadLoader])
def test_a_fork_gets_an_error_and_no_sample_twice(
    dataset: StoreDataset, kind: type[StreamLoader]
) -> None:
    loader = kind(dataset, batch_size=1)
    batches = iter(loader)
    seen = list(next(batches).ids)
    for work in (
        lambda: next(batches).ids,
        lambda: next(iter(loader)).ids,
        lambda: list(loader),
    ):
        said = in_a_fork(work)
        assert said.startswith("UsageError")
        assert "both would get the same samples" in said

    def left() -> str:
        nonlocal batches
        batches = iter(())  # the child drops the pass it inherited
        gc.collect()
        fresh = kind(dataset, batch_size=1)
        return str(sum(len(batch) for batch in fresh))

    assert in_a_fork(left) == str(len(dataset))
    seen += [name for batch in batches for name in batch.ids]
    assert sorted(seen) == sorted(dataset.ids)
