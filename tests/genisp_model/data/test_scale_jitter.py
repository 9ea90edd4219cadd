"""Another scale and another part of a picture: boxes go where their pixels go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genisp_model.data.augment import flip_boxes
from genisp_model.data.dataset import StoreDataset
from genisp_model.data.loader import Batch, StreamLoader
from genisp_model.data.scale_jitter import ScaleJitter, View, Window
from genisp_model.data.sensor_augment import SensorAugment, measured_exposure
from pipeline.errors import UsageError

Row = list[float]


@pytest.fixture(scope="session")
def dataset(_store: Path) -> StoreDataset:
    return StoreDataset(_store)


def rows_of(boxes: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array(boxes, np.float32).reshape(-1, 4)


def plainly(view: View, box: Row) -> tuple[Row, float]:
    """A box (x1, y1, x2, y2) moved and clipped, and how much of its area is left, 0..1."""
    part, place = view.source, view.target
    across, down = place.width / part.width, place.height / part.height
    left, right = ((x - part.x) * across + place.x for x in (box[0], box[2]))
    top, bottom = ((y - part.y) * down + place.y for y in (box[1], box[3]))
    seen = [
        min(max(left, place.x), place.x + place.width),
        min(max(top, place.y), place.y + place.height),
        min(max(right, place.x), place.x + place.width),
        min(max(bottom, place.y), place.y + place.height),
    ]
    area = (right - left) * (bottom - top)
    return seen, (seen[2] - seen[0]) * (seen[3] - seen[1]) / area


views = st.builds(
    lambda low, more, size, seed: ScaleJitter(low, min(10.0, low * more)).draw(
        [0], size, seed=seed, epoch=0
    )[0],
    low=st.floats(0.1, 10),
    more=st.floats(1, 20),
    size=st.just((400, 300)),
    seed=st.integers(0, 2**64 - 1),
)
# Quarters of a pixel are exact in float32.
sides = st.integers(1, 600)
boxes = st.builds(
    lambda x, y, w, h: [x / 4, y / 4, min(400, (x + w) / 4), min(300, (y + h) / 4)],
    *(st.integers(0, 1590), st.integers(0, 1190), sides, sides),
)


@settings(deadline=None)
@given(view=views, targets=st.lists(boxes, max_size=8), regions=st.lists(boxes, max_size=4))
def test_boxes_are_those_of_the_plain_formula(
    view: View, targets: list[Row], regions: list[Row]
) -> None:
    labels = np.arange(len(targets), dtype=np.int64)
    found, kept, ignored = view.carry(rows_of(targets), labels, rows_of(regions))
    moved = [plainly(view, box) for box in targets]
    undecided = {row for row, (_, share) in enumerate(moved) if abs(share - 0.5) < 1e-3}
    assert (
        set(kept) - undecided
        == {row for row, (_, share) in enumerate(moved) if share >= 0.5} - undecided
    )
    wanted = [moved[row][0] for row in kept]
    assert found == pytest.approx(rows_of(wanted), abs=1e-3)
    # What is no target any more, and is seen, is ignored: never background.
    lost = [box for row, (box, share) in enumerate(moved) if share > 0 and row not in kept]
    still = [box for box, share in map(lambda one: plainly(view, one), regions) if share > 0]
    large = [box for box in still + lost if min(box[2] - box[0], box[3] - box[1]) > 1e-3]
    for box in large:
        assert np.abs(ignored - rows_of(box)).max(axis=1).min() < 1e-3
    assert len(large) <= len(ignored) <= len(still) + len(lost)
    for some in (found, ignored):
        assert some.dtype == np.float32
        assert (some[:, 2:] > some[:, :2]).all()
        assert (some >= 0).all()
        assert (some <= [400, 300, 400, 300]).all()


@settings(deadline=None, max_examples=40)
@given(view=views, box=boxes)
def test_what_is_bright_is_where_its_box_is(view: View, box: Row) -> None:
    x1, y1, x2, y2 = (round(edge) for edge in box)
    x2, y2 = max(x2, x1 + 1), max(y2, y1 + 1)
    image = torch.zeros(1, 300, 400)
    image[:, y1:y2, x1:x2] = 1
    view.show(image)
    seen, _ = plainly(view, [x1, y1, x2, y2])
    if min(seen[2] - seen[0], seen[3] - seen[1]) < 1:
        return  # nothing, or less than a pixel at an edge
    # Bilinear light reaches half a pixel of the original too far on each side.
    far = max(1.0, view.target.width / view.source.width) / 2 + 1
    for axis, low, high in ((-2, seen[0], seen[2]), (-1, seen[1], seen[3])):
        bright = image.amax(dim=(0, axis)).nonzero().flatten()
        assert low - far <= bright.min() <= low + 1
        assert high - 1 <= bright.max() + 1 <= high + far


def test_the_light_of_a_reduced_picture_stays_and_a_part_keeps_its_range() -> None:
    image = torch.rand((3, 300, 400), generator=torch.Generator().manual_seed(0)) - 0.2
    reduced, enlarged = image.clone(), image.clone()
    small = View(Window(0, 0, 400, 300), Window(37, 11, 251, 188))
    small.show(reduced)
    assert small.lit(reduced).mean().item() == pytest.approx(image.mean().item(), rel=1e-4)
    assert reduced.count_nonzero() <= 3 * 251 * 188
    View(Window(50, 60, 133, 100), Window(0, 0, 400, 300)).show(enlarged)
    part = image[:, 60:160, 50:183]
    assert part.min() <= enlarged.min() < enlarged.max() <= part.max()
    assert enlarged.mean().item() == pytest.approx(part.mean().item(), abs=0.01)


def test_scales_and_places_are_drawn_over_all_that_is_possible() -> None:
    drawn = ScaleJitter(0.5, 2.0).draw(range(4000), (400, 300), seed=0, epoch=0)
    scales = np.log2([view.target.width / view.source.width for view in drawn])
    assert abs(scales.mean()) < 0.05
    assert scales.min() == pytest.approx(-1, abs=0.01)
    assert scales.max() == pytest.approx(1, abs=0.01)
    assert abs((scales < -0.5).mean() - 0.25) < 0.03  # even in the logarithm
    for view in drawn:
        smaller, whole = sorted((view.source, view.target), key=lambda one: one.width)
        assert whole == Window(0, 0, 400, 300)
        assert 0 <= smaller.x <= 400 - smaller.width
        assert 0 <= smaller.y <= 300 - smaller.height
    narrow = [view.source for view in drawn if 200 <= view.source.width < 240]
    assert min(one.x for one in narrow) < 5
    assert max(one.x + one.width for one in narrow) > 395


def test_scales_that_mean_nothing_are_refused() -> None:
    for low, high in ((2, 1), (0, 1), (0.05, 1), (1, 11), (float("nan"), 1), (1, float("inf"))):
        with pytest.raises(UsageError, match="scales from"):
            ScaleJitter(low, high)


ALL: dict[str, Any] = {
    "sensor": SensorAugment(exposure_stops=2, noise=0.003, matrix_jitter=0.5),
    "scale_jitter": ScaleJitter(0.6, 2.5),
    "flip": 0.5,
    "seed": 4,
}


def by_id(batches: list[Batch]) -> dict[str, dict[str, Any]]:
    return {
        name: {"image": batch.images[slot]} | batch.targets[slot]
        for batch in batches
        for slot, name in enumerate(batch.ids)
    }


def assert_same(one: dict[str, dict[str, Any]], other: dict[str, dict[str, Any]]) -> None:
    assert one.keys() == other.keys()
    for name, held in one.items():
        for field, value in held.items():
            assert np.array_equal(value, other[name][field])


def test_batches_threads_ranks_and_cuts_change_nothing(dataset: StoreDataset) -> None:
    def loader(**options: Any) -> StreamLoader:
        return StreamLoader(dataset, **(ALL | options))

    reference = by_id(list(loader(batch_size=1)))
    assert_same(reference, by_id(list(loader(batch_size=3, threads=3))))
    parts = [batch for rank in (0, 1) for batch in loader(batch_size=2, rank=rank, world=2)]
    assert_same(reference, by_id(parts))
    first = loader(batch_size=1)
    begun = [next(iter(first))]
    second = loader(batch_size=1, seed=9)
    second.load_state_dict(first.state_dict())
    assert_same(reference, by_id(begun + list(second)))


def test_a_batch_has_the_boxes_and_exposures_of_what_is_seen(dataset: StoreDataset) -> None:
    jitter = ScaleJitter(0.5, 3)
    for batch in StreamLoader(dataset, batch_size=2, flip=1.0, scale_jitter=jitter):
        assert batch.truths == ()
        height, width = batch.images.shape[-2:]
        for slot, name in enumerate(batch.ids):
            position = dataset.ids.index(name)
            image, target = dataset[position]
            [view] = jitter.draw([position], (width, height), seed=0, epoch=0)
            mirrored = (flip_boxes(target[field].numpy(), width) for field in ("boxes", "ignore"))
            boxes, ignore = mirrored
            boxes, labels, ignore = view.carry(boxes, target["labels"].numpy(), ignore)
            found = batch.targets[slot]
            assert np.array_equal(found["boxes"], boxes)
            assert np.array_equal(found["labels"], labels)
            assert np.array_equal(found["ignore"], ignore)
            assert found["area"].shape == found["iscrowd"].shape == found["labels"].shape
            image = image.flip(-1).contiguous()
            view.show(image)
            assert torch.equal(batch.images[slot], image)
            assert found["exposure"] == batch.exposure[slot] == measured_exposure(view.lit(image))


def test_without_jitter_everything_is_as_it_was(dataset: StoreDataset) -> None:
    assert not ScaleJitter()
    for batch in StreamLoader(dataset, scale_jitter=ScaleJitter()):
        assert len(batch.truths) == len(batch)
        for slot, name in enumerate(batch.ids):
            image, target = dataset[dataset.ids.index(name)]
            assert torch.equal(batch.images[slot], image)
            assert all(np.array_equal(batch.targets[slot][one], target[one]) for one in target)
