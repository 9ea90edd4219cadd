"""Hostile annotations and names: what `prep ingest` does with files made by an enemy.

The parts are in `names`, `records`, `documents` and `zips`; `bench` says how each is judged.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.torture.campaign import FaultRow, Scale
from tests.torture.hostile_annotations import documents, labels, names, records, zips
from tests.torture.hostile_annotations.bench import Bench, benches


def run(scale: Scale, folder: Path) -> Iterator[FaultRow]:
    """All rows."""
    with benches(folder) as bench:
        yield from _names(bench, scale)
        yield from _records(bench, scale)
        yield from _zips(bench, scale)
        yield bench.row("1 GB of JSON, 1e6 boxes", documents.large(scale.share))


def _names(bench: Bench, scale: Scale) -> Iterator[FaultRow]:
    rng, count = scale.random("names"), scale.count
    yield bench.row(
        "file_name with ../, drives, absolute paths", names.names_with_folders(rng, count(120, 12))
    )
    yield bench.row("file_name that is odd, and the raw's", names.odd_names(rng, count(90, 12)))
    yield bench.row("file_name that names no file", names.names_of_nothing(rng, count(50, 12)))
    yield bench.row("texts a terminal would obey", names.names_for_terminals(rng, count(60, 12)))
    yield bench.row("names that differ by case or Unicode form", names.twins(rng, count(20, 2)))
    yield bench.row("raws with hostile names", names.names_on_disk(rng, count(90, 12)))
    yield bench.row("pipes, devices, loops, folders as files", names.things_on_disk())


def _records(bench: Bench, scale: Scale) -> Iterator[FaultRow]:
    rng = scale.random("records")
    yield bench.row("numbers of boxes", records.numbers(rng, scale.count(216, 24)))
    yield bench.row("sizes, ids, categories, flags", records.records(rng, scale.count(216, 24)))
    yield bench.row("files that are not whole, not UTF-8, not COCO", documents.documents())
    yield bench.row("Pascal VOC files of every kind of damage", labels.voc_files())
    yield bench.row("YOLO labels of every kind of damage", labels.yolo_files())
    yield bench.row("ids given twice, one image in two files", documents.repeats())


def _zips(bench: Bench, scale: Scale) -> Iterator[FaultRow]:
    raw = bench.good / "Sony" / "DSC00001.ARW"
    rng = scale.random("zips")
    yield bench.row("zip members that escape", zips.member_names(raw, rng, scale.count(72, 12)))
    yield bench.row("zips that lie or are broken", zips.broken_archives(raw))
    yield bench.row("zips that explode", zips.bombs(raw, scale.share))
