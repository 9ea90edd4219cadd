"""The order of samples as a pure function."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genisp_model.data.order import (
    BatchPlan,
    Cursor,
    IntArray,
    Purpose,
    chosen,
    fingerprint,
    random_bits,
    spread_out,
)
from pipeline.errors import UsageError

SHAPES = st.lists(st.integers(0, 3), max_size=40)


def listed(batches: list[IntArray]) -> list[list[int]]:
    return [batch.tolist() for batch in batches]


@given(SHAPES, st.integers(1, 7), st.integers(0, 99), st.integers(0, 9), st.booleans())
def test_every_sample_is_in_exactly_one_batch_of_its_shape(
    shapes: list[int], size: int, seed: int, epoch: int, shuffle: bool
) -> None:
    batches = listed(BatchPlan(shapes, size, seed, shuffle=shuffle).batches(epoch))
    assert sorted(position for batch in batches for position in batch) == list(range(len(shapes)))
    assert all(1 <= len(batch) <= size for batch in batches)
    assert all(len({shapes[position] for position in batch}) == 1 for batch in batches)


@given(SHAPES, st.integers(1, 5), st.integers(1, 5), st.integers(0, 9))
def test_ranks_partition_the_epoch(shapes: list[int], size: int, world: int, epoch: int) -> None:
    plans = [BatchPlan(shapes, size, rank=rank, world=world) for rank in range(world)]
    parts = [listed(plan.batches(epoch)) for plan in plans]
    flat = [position for part in parts for batch in part for position in batch]
    assert sorted(flat) == list(range(len(shapes)))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(SHAPES, st.integers(1, 5), st.integers(1, 5))
def test_dropping_short_batches_gives_every_rank_equally_many_full_ones(
    shapes: list[int], size: int, world: int
) -> None:
    plans = [BatchPlan(shapes, size, drop_last=True, rank=r, world=world) for r in range(world)]
    parts = [listed(plan.batches(0)) for plan in plans]
    assert len({len(part) for part in parts}) == 1
    assert all(len(batch) == size for part in parts for batch in part)


@given(SHAPES, st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(0, 9))
def test_a_cursor_continues_under_another_number_of_ranks(
    shapes: list[int], size: int, before: int, after: int, steps: int
) -> None:
    every = listed(BatchPlan(shapes, size).batches(0))
    done = min(steps * before, len(every))
    left = [
        batch
        for rank in range(after)
        for batch in listed(BatchPlan(shapes, size, rank=rank, world=after).batches(0, done))
    ]
    assert sorted(left) == sorted(every[done:])


def test_seed_and_epoch_change_the_order_and_nothing_else_does() -> None:
    shapes = [0] * 50
    orders = {
        (seed, epoch): listed(BatchPlan(shapes, 2, seed).batches(epoch))
        for seed in range(3)
        for epoch in range(3)
    }
    assert len({json.dumps(order) for order in orders.values()}) == len(orders)
    assert orders[1, 2] == listed(BatchPlan(shapes, 2, 1).batches(2))


def test_the_order_stays_the_same_in_every_version() -> None:
    # A literal: old runs must resume under new versions of everything.
    assert listed(BatchPlan([0, 0, 1, 0, 1, 0, 0], 2, seed=7).batches(3)) == [
        [0, 1],
        [5, 6],
        [2, 4],
        [3],
    ]


def test_stored_order_without_shuffling() -> None:
    plan = BatchPlan([0, 1, 0, 0, 1], 2, shuffle=False)
    assert listed(plan.batches(0)) == listed(plan.batches(1)) == [[0, 2], [1, 4], [3]]


def test_splitmix_finaliser_matches_its_published_sequence() -> None:
    # The first outputs of SplitMix64 from state 0 are finalised multiples of the increment.
    from genisp_model.data.order import _INCREMENT, _scrambled

    states = np.array([0, _INCREMENT], np.uint64)
    assert [f"{word:x}" for word in _scrambled(states).tolist()] == [
        "e220a8397b1dcdaf",
        "6e789e6aa1b965f4",
    ]


def test_places_in_the_order_are_uniform() -> None:
    plan = BatchPlan([0] * 16, 16)
    firsts = [int(plan.batches(epoch)[0][0]) for epoch in range(3200)]
    counts = np.bincount(firsts, minlength=16)
    # 200 expected, standard deviation 13.7: five of them.
    assert counts.min() > 131
    assert counts.max() < 269


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_a_choice_has_its_probability(probability: float) -> None:
    drawn = chosen(np.arange(20_000), probability, seed=3, epoch=1, purpose=Purpose.FLIP)
    assert abs(drawn.mean() - probability) < 0.02


@settings(max_examples=20)
@given(st.integers(-5, 2**70), st.integers(0, 2**65))
def test_any_integer_is_a_seed(seed: int, epoch: int) -> None:
    bits = random_bits([0, 1], seed=seed, epoch=epoch, purpose=Purpose.FLIP)
    assert bits.dtype == np.uint64
    assert bits[0] != bits[1]


def test_a_cursor_survives_json_and_refuses_what_is_none() -> None:
    cursor = Cursor(seed=1, epoch=2, done=3, plan="abc")
    assert Cursor.from_dict(json.loads(json.dumps(cursor.to_dict()))) == cursor
    with pytest.raises(UsageError, match="not a loader's state"):
        Cursor.from_dict({"epoch": 1})


def test_the_fingerprint_covers_samples_and_options_but_not_ranks() -> None:
    plan = BatchPlan([0, 1], 2)
    same = fingerprint(["a", "b"], plan)
    assert fingerprint(["a", "b"], BatchPlan([0, 1], 2, seed=9, rank=1, world=2)) == same
    assert fingerprint(["a", "c"], plan) != same
    assert fingerprint(["a", "b"], BatchPlan([0, 1], 3)) != same
    assert fingerprint(["a", "b"], BatchPlan([0, 0], 2)) != same


@pytest.mark.parametrize(("size", "rank", "world"), [(0, 0, 1), (1, 1, 1), (1, -1, 2), (1, 0, 0)])
def test_impossible_plans_are_refused(size: int, rank: int, world: int) -> None:
    with pytest.raises(UsageError):
        BatchPlan([0], size, rank=rank, world=world)


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_a_part_that_is_spread_out_has_even_distances_also_to_the_ends(size: int) -> None:
    ids = [f"DSC{number:05}" for number in range(size)]
    assert list(spread_out(ids, 0)) == ids
    assert list(spread_out(ids, size + 3)) == ids
    for limit in range(1, size + 1):
        chosen = [ids.index(one) for one in spread_out(ids, limit)]
        assert len(chosen) == limit
        distances = {after - before for before, after in pairwise(chosen)}
        assert distances <= {size // limit, -(-size // limit)}
        assert abs(chosen[0] - (size - 1 - chosen[-1])) <= 1
