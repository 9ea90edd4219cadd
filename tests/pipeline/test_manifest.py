from __future__ import annotations

import pytest

from pipeline.errors import DamagedStoreError
from pipeline.manifest import dump_manifest, parse_manifest, read_header
from schemas.manifest import ManifestEntry, ManifestHeader
from schemas.recipe import Recipe

HEADER = ManifestHeader(recipe=Recipe(), versions={"zarr": "3.1"})
DONE = ManifestEntry(
    source="a/X.NEF", size=3, mtime_ns=5, status="done", id="X", group="g", row=0, split="val"
)
FAILED = ManifestEntry(
    source="b/Y.NEF", size=4, mtime_ns=None, status="failed", code="corrupt", reason="cut"
)


def test_a_manifest_is_read_back_as_written() -> None:
    manifest = parse_manifest(dump_manifest(HEADER, [FAILED, DONE]), path="m")
    assert manifest.header == HEADER
    assert manifest.entries == (DONE, FAILED)


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
