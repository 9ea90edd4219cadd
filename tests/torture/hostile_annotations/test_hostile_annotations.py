from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.store.keys import sample_id, sidecar_key
from tests.torture.campaign import Scale
from tests.torture.hostile_annotations import documents, names, records, zips
from tests.torture.hostile_annotations.bench import (
    Bench,
    Result,
    Trial,
    Variant,
    benches,
    has_boxes,
    shown_safely,
    write_coco,
)
from tests.torture.hostile_annotations.command_server import Ended

#: The short form: one trial of most kinds.
SCALE = Scale(share=0.01)


def test_hostile_annotations_and_names_do_no_harm(tmp_path: Path) -> None:
    with benches(tmp_path / "bench") as bench:
        rng, raw = SCALE.random("short"), bench.good / "Sony" / "DSC00001.ARW"
        quick = [
            *names.names_with_folders(rng, 12),
            *names.names_for_terminals(rng, 12),
            *names.names_on_disk(rng, 12),
            *names.things_on_disk(),
            *records.numbers(rng, 24),
            *records.records(rng, 24),
            *documents.documents(),
            *documents.repeats(),
            *zips.member_names(raw, rng, 12),
            *zips.broken_archives(raw),
            *zips.bombs(raw, SCALE.share),
        ]
        row = bench.row("all", [replace(trial, thorough=False) for trial in quick])
        assert row.misses == []
        assert row.tried > 300
        assert row.caught > 200
        assert row.harmless > 80
        assert_that_it_can_fail(bench)


def assert_that_it_can_fail(bench: Bench) -> None:
    """The judge itself, on what is wrong by design."""

    def wrong(folder: Path) -> list[Variant]:
        write_coco(folder / "a_train.json", {"DSC00001.ARW": [[9.0, 9.0, 9.0, 9.0]]})
        (folder.parent / "outside" / "late.txt").symlink_to("nowhere")
        return [
            Variant("not noticed", ("no such words",)),
            Variant("other boxes", (), has_boxes("Nikon/DSC_0002.NEF", [[7.0, 7.0, 7.0, 7.0]])),
        ]

    row = bench.row("wrong", [Trial("wrong", wrong, room=-(1 << 40), thorough=False)])
    for sign in ("not noticed", "has [[3.25", "MiB more memory", "DSC00001.ARW was not ingested"):
        assert any(sign in miss for miss in row.misses), row.misses
    printed = Ended(0, b"a\x1b[2Jb", b"", 0, 0.0)
    assert "is printed" in shown_safely(printed, live=False)
    assert "is printed" in shown_safely(printed, live=True)
    assert Result(replace(printed, code=1), [], {}, Path()).failed


@given(st.lists(st.text(st.characters(exclude_categories=[]), max_size=40), max_size=12))
@settings(max_examples=100, deadline=None)
def test_any_names_give_sidecars_of_their_own_inside_the_store(names: list[str]) -> None:
    taken: set[str] = set()
    for number, name in enumerate(names):
        own = sample_id(name, f"{number}/{name}.ARW", taken)
        path = PurePosixPath(sidecar_key("group_1x1", own))
        assert path.parent == PurePosixPath("group_1x1/sidecars")
        assert path.name == f"{own}.json"
        assert path.name != "zarr.json"
        assert path.name.isascii()
        assert path.name.isprintable()
        assert own.casefold() not in taken
        taken.add(own.casefold())
