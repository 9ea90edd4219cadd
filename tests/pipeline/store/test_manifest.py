from __future__ import annotations

import hashlib
import json
import tracemalloc
from dataclasses import replace

import pytest

from pipeline.errors import DamagedStoreError
from pipeline.store.manifest import dump_manifest, parse_manifest, read_header, sealed_header
from schemas.manifest import FailedSource, ManifestFooter, ManifestHeader, StoredSample
from schemas.recipe import Recipe

HEADER = ManifestHeader(recipe=Recipe(), versions={"zarr": "3.1"})
DONE = StoredSample(
    source="a/X.NEF",
    size=3,
    mtime_ns=5,
    status="done",
    id="X",
    group="g",
    row=0,
    split="val",
    sidecar_digest="sha256:0",
)
FAILED = FailedSource(
    source="b/Y.NEF", size=4, mtime_ns=None, status="failed", code="corrupt", reason="cut"
)


def test_a_manifest_is_read_back_as_written() -> None:
    manifest = parse_manifest(dump_manifest(HEADER, [FAILED, DONE]), path="m")
    assert manifest.header == HEADER
    assert manifest.entries == (DONE, FAILED)


def test_a_line_says_which_of_the_two_kinds_it_is_and_nothing_that_is_its_default() -> None:
    lines = dump_manifest(HEADER, [DONE, FAILED]).splitlines()
    assert lines[1:3] == [
        b'{"source":"a/X.NEF","size":3,"mtime_ns":5,"status":"done","id":"X","group":"g","row":0,'
        b'"split":"val","sidecar_digest":"sha256:0"}',
        b'{"source":"b/Y.NEF","size":4,"mtime_ns":null,"status":"failed","code":"corrupt",'
        b'"reason":"cut"}',
    ]


def test_a_damaged_sample_may_have_lost_its_row_but_never_its_name() -> None:
    lost = replace(DONE, row=None)
    assert parse_manifest(dump_manifest(HEADER, [lost]), path="m").samples == (lost,)
    assert (lost.rows_needed, replace(DONE, row=7).rows_needed) == (1, 8)


def test_the_order_of_entries_does_not_matter() -> None:
    assert dump_manifest(HEADER, [DONE, FAILED]) == dump_manifest(HEADER, [FAILED, DONE])


def test_every_flipped_bit_is_noticed() -> None:
    data = dump_manifest(HEADER, [DONE, FAILED])
    for position in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            with pytest.raises(DamagedStoreError):
                parse_manifest(bytes(damaged), path="m")


def test_every_truncation_is_noticed() -> None:
    data = dump_manifest(HEADER, [DONE, FAILED])
    for length in range(len(data)):
        with pytest.raises(DamagedStoreError):
            parse_manifest(data[:length], path="m")


def test_the_header_survives_damage_further_down() -> None:
    data = dump_manifest(HEADER, [DONE, FAILED])
    assert read_header(data[:-50]) == HEADER
    assert read_header(b"nonsense") is None


@pytest.mark.parametrize(
    "change",
    [
        {"id": "../x"},
        {"id": ""},
        {"id": "a/b"},
        {"id": None},
        {"group": ".."},
        {"group": "/etc"},
        {"row": -1},
        {"row": 10**12},
        {"row": 10**30},
        {"status": "failed"},
        {"status": "lost"},
        {"code": "corrupt"},
    ],
)
def test_a_line_that_leads_elsewhere_is_damage(change: dict[str, object]) -> None:
    header, line, _ = dump_manifest(HEADER, [DONE]).splitlines(keepends=True)
    line = json.dumps(json.loads(line) | change).encode() + b"\n"
    digest = "sha256:" + hashlib.sha256(header + line).hexdigest()
    footer = ManifestFooter(entries=1, digest=digest).model_dump_json().encode() + b"\n"
    with pytest.raises(DamagedStoreError):
        parse_manifest(header + line + footer, path="m")


def test_the_header_is_sealed_by_the_digest() -> None:
    data = dump_manifest(HEADER, [DONE])
    assert sealed_header(data) == HEADER
    for damaged in (data.replace(b"3.1", b"3.7"), data[:-50], b"", b"x\n"):
        assert sealed_header(damaged) is None


def test_an_entry_takes_half_a_kilobyte() -> None:
    """There is one for every sample while a store is open: models of their own took 1.6 kB."""
    count = 1000
    entries = [replace(DONE, id=f"X{row}", source=f"a/X{row}.NEF", row=row) for row in range(count)]
    data = dump_manifest(HEADER, entries)
    tracemalloc.start()
    try:
        manifest = parse_manifest(data, path="m")
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(manifest.entries) == count
    assert taken / count < 700
