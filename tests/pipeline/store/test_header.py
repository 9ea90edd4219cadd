from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.errors import DamagedStoreError, IncompatibleStoreError, NoStoreError
from pipeline.store import open_store
from pipeline.store.manifest import dump_manifest, parse_manifest
from schemas.recipe import Recipe


def test_no_store_and_foreign_folders_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(NoStoreError, match="there is no store here"):
        open_store(tmp_path / "missing.zarr")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
    with pytest.raises(NoStoreError, match="not one of our stores"):
        open_store(tmp_path / "foreign")


def of_version_3(store: Path) -> None:
    """What a later version of this tool might leave: its own number in every file."""
    for path in (store / "zarr.json", *store.glob("*/sidecars/*.json")):
        text = path.read_text()
        assert '"format_version": 2' in text
        path.write_text(text.replace('"format_version": 2', '"format_version": 3'))
    manifest = parse_manifest((store / "manifest.jsonl").read_bytes(), path="")
    header = manifest.header.model_copy(update={"format_version": 3})
    (store / "manifest.jsonl").write_bytes(dump_manifest(header, manifest.entries))


@pytest.mark.parametrize("lost", ["zarr.json", "manifest.jsonl", "nothing"])
def test_another_format_version_is_refused_by_number(store_path: Path, lost: str) -> None:
    of_version_3(store_path)
    (store_path / lost).unlink(missing_ok=True)
    with pytest.raises(IncompatibleStoreError, match="version 3; this version reads 2"):
        open_store(store_path)


@pytest.mark.parametrize("manifest", ["whole", "damaged", "gone"])
def test_a_wrong_digit_in_the_root_is_damage_not_another_version(
    store_path: Path, manifest: str
) -> None:
    root = store_path / "zarr.json"
    root.write_text(root.read_text().replace('"format_version": 2', '"format_version": 4'))
    path = store_path / "manifest.jsonl"
    if manifest == "damaged":
        path.write_bytes(path.read_bytes()[:-9])
    elif manifest == "gone":
        path.unlink()
        with pytest.raises(DamagedStoreError, match="neither zarr"):
            open_store(store_path)
        return
    assert len(open_store(store_path)) == 6


def test_the_root_of_another_store_is_not_believed(store_path: Path) -> None:
    root = json.loads((store_path / "zarr.json").read_text())
    recipe = Recipe(codec="zstd")
    root["attributes"] |= {
        "recipe": recipe.model_dump(mode="json"),
        "recipe_fingerprint": recipe.fingerprint,
    }
    (store_path / "zarr.json").write_text(json.dumps(root))
    assert open_store(store_path).recipe == Recipe()


def test_the_manifest_of_another_store_is_not_believed(store_path: Path) -> None:
    path = store_path / "manifest.jsonl"
    manifest = parse_manifest(path.read_bytes(), path="")
    header = manifest.header.model_copy(update={"recipe": Recipe(codec="zstd")})
    path.write_bytes(dump_manifest(header, manifest.entries))
    assert open_store(store_path).recipe == Recipe()


def test_brackets_without_end_in_the_root_are_damage(store_path: Path) -> None:
    (store_path / "zarr.json").write_bytes(b"[" * 200_000)
    assert len(open_store(store_path)) == 6


def test_a_damaged_root_is_survived_by_the_manifest(store_path: Path) -> None:
    (store_path / "zarr.json").write_bytes(b"{")
    assert len(open_store(store_path)) == 6
