from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks.growth import exponent, projected
from pipeline.store import open_store
from tests.torture.campaign import Scale
from tests.torture.load import run as load


def test_nothing_breaks_under_load(tmp_path: Path) -> None:
    rows = {row.fault.split(",")[0]: row for row in load.run(Scale(share=0.0), tmp_path)}
    assert [miss for row in rows.values() for miss in row.misses] == []
    tried = [row.tried for row in rows.values()]
    assert tried == [200, 200, 2, 2, 400, 27, 1, 6]
    assert_that_it_can_fail(tmp_path / "many")


def assert_that_it_can_fail(folder: Path) -> None:
    """The checks themselves, on what is wrong by design."""
    store = open_store(folder / "data.zarr")
    sidecars = {sample_id: store.sidecar(sample_id) for sample_id in store}
    splits = {sample_id: sidecar.split for sample_id, sidecar in sidecars.items()}
    assert not load._accounted(store, sidecars, splits).misses
    first, second = list(sidecars)[:2]
    twice = {**sidecars, first: sidecars[second]}
    assert len(load._accounted(store, twice, splits).misses) == 2
    assert len(load._accounted(store, sidecars, {**splits, first: "other"}).misses) == 1
    assert len(load._accounted(store, sidecars, {**splits, "IMG": None}).misses) == 1
    moved = {**sidecars, first: sidecars[first].model_copy(update={"row": 7})}
    assert len(load._own_places(store, moved).misses) == 1
    entries = dict(list(store.entries.items())[1:])
    assert load._streamed(replace(store, entries=entries)).misses == []
    heavy = [{step: {"bytes": many} for step in load.MEMORY_LAWS} for many in (0.0, 1e9)]
    assert len(load._memory(heavy, 1000).misses) == len(load.MEMORY_LAWS)


def test_growth_is_projected_along_lines_and_powers() -> None:
    counts, line, square = [1000, 5000, 20000], [1.5, 3.5, 11.0], [1.0, 25.0, 400.0]
    assert projected(counts, line, 1_000_000) == 501.0
    assert projected(counts, line, 10_000) == 6.0
    assert projected(counts, line, 3000) == 2.5
    assert exponent(counts, square) == 2.0
    assert projected(counts, square, 40_000) == 1600.0
