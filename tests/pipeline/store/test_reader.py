from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import DamagedStoreError, UsageError
from pipeline.store import open_store
from schemas.manifest import ManifestEntry, ManifestFooter
from schemas.recipe import LevelName, Recipe
from tests.conftest import Ingest
from tests.kit.fresh_process import run_python
from tests.kit.trees import chunks

LEVELS: tuple[LevelName, ...] = ("packed", "resized")

PLAIN_READERS = """
import sys
import numpy, xarray, zarr
root = zarr.open_group(sys.argv[1], mode="r")
for name, group in root.groups():
    for level, array in group.arrays():
        scale, offset = array.attrs["scale_factor"], array.attrs["add_offset"]
        plain = array[0] * scale + offset
        decoded = xarray.open_zarr(sys.argv[1], group=name)[level][0].values
        assert numpy.abs(plain - decoded).max() < 1e-6
        numpy.save(f"{sys.argv[2]}/{name}-{level}.npy", plain)
"""


def test_zarr_and_xarray_decode_the_store_without_a_warning(
    store_path: Path, tmp_path: Path
) -> None:
    subprocess.run(
        [sys.executable, "-W", "error", "-c", PLAIN_READERS, str(store_path), str(tmp_path)],
        check=True,
    )
    store = open_store(store_path)
    for group in store.cameras:
        first = next(i for i in store if store.entry(i).group == group)
        for level in LEVELS:
            plain = np.load(tmp_path / f"{group}-{level}.npy")
            ours = store.read(first, level=level).xyz
            np.testing.assert_allclose(ours, plain, atol=1e-6)


def test_the_api_of_the_contract(store_path: Path) -> None:
    store = open_store(store_path)
    assert len(store) == 6
    assert set(store.ids()) == {i for s in ("train", "val", "test") for i in store.ids(split=s)}
    assert store.cameras == ("nikon-d750_984x656", "sony-dsc-rx100m7_1224x816")
    sample = store.read("DSC01088", level="packed")
    assert sample.xyz.shape == (3, 408, 612)
    assert sample.xyz.dtype == np.dtype("float32")
    assert sample.sidecar.camera.model == "DSC-RX100M7"
    assert [str(a.dtype) for a in (sample.boxes, sample.labels)] == ["float32", "int64"]
    assert sample.boxes.shape == (len(sample.labels), 4)
    assert set(sample.labels.tolist()) <= {1, 2, 3}


def test_boxes_are_scaled_into_each_level_and_never_rounded(
    nod: Path, tmp_path: Path, ingest: Ingest
) -> None:
    ingest(nod, tmp_path / "s.zarr", recipe=Recipe(fit=(200, 100)))
    store = open_store(tmp_path / "s.zarr")
    for sample_id in store:
        sidecar = store.sidecar(sample_id)
        assert sidecar.annotation is not None
        given = np.array([box.bbox for box in sidecar.annotation.boxes])
        corners = np.concatenate([given[:, :2], given[:, :2] + given[:, 2:]], axis=1)
        for level in LEVELS:
            sample = store.read(sample_id, level=level)
            _, height, width = sample.stored.shape
            frame_width, frame_height = sidecar.frame.size
            scale = np.tile([width / frame_width, height / frame_height], 2)
            np.testing.assert_allclose(sample.boxes, corners * scale, rtol=1e-6)
            assert sample.boxes.min() >= 0
            assert (sample.boxes[:, 2] <= width).all()


def test_nothing_heavy_is_imported_to_read(store_path: Path) -> None:
    code = (
        "import sys; from pipeline.store.reader import open_store; "
        "s = open_store(sys.argv[1]); s.read(s.ids()[0]).xyz; "
        "print([m for m in ('torch','zarr','dask','rawpy','numba') if m in sys.modules])"
    )
    assert run_python(code, store_path) == "[]\n"


def test_unknown_ids_splits_and_levels_say_what_there_is(store_path: Path) -> None:
    store = open_store(store_path)
    with pytest.raises(UsageError, match="no sample 'nope'"):
        store.read("nope")
    with pytest.raises(UsageError, match="splits here: test, train, val"):
        store.ids(split="holdout")
    with pytest.raises(UsageError, match="held: packed, resized"):
        store.read("DSC01088", level="full")  # type: ignore[arg-type]


def test_every_sample_is_found_by_its_full_name_without_a_search(store_path: Path) -> None:
    class Counted(dict[str, ManifestEntry]):
        scans = 0

        def values(self) -> Any:
            Counted.scans += 1
            return super().values()

    store = open_store(store_path)
    store = replace(store, entries=Counted(store.entries))
    for sample_id in store:
        entry = store.entry(sample_id)
        assert store.entry(f"{entry.group}/{entry.id}") == entry
    assert Counted.scans == 1


def test_a_damaged_chunk_is_never_returned(store_path: Path) -> None:
    for name in chunks(store_path):
        path = store_path / name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    store = open_store(store_path)
    for sample_id in store:
        for level in LEVELS:
            with pytest.raises(DamagedStoreError, match=f"sample {sample_id}: checksum"):
                store.read(sample_id, level=level)


def test_a_missing_chunk_is_an_error_not_zeros(store_path: Path) -> None:
    store = open_store(store_path)
    entry = store.entry("DSC01088")
    (store_path / f"{entry.group}/packed/c.{entry.row}.0.0.0").unlink()
    with pytest.raises(DamagedStoreError, match="missing"):
        store.read("DSC01088", level="packed")


def test_samples_committed_after_the_manifest_are_found(store_path: Path) -> None:
    lines = (store_path / "manifest.jsonl").read_bytes()
    (store_path / "manifest.jsonl").unlink()
    assert len(open_store(store_path)) == 6
    (store_path / "manifest.jsonl").write_bytes(lines[:-100])
    store = open_store(store_path)
    assert len(store) == 6
    assert "manifest is damaged" in store.warnings[0]


def test_the_same_stem_from_two_cameras_does_not_collide(
    nod: Path, tmp_path: Path, ingest: Ingest
) -> None:
    both = tmp_path / "both"
    both.mkdir()
    shutil.copy(next((nod / "Sony").glob("*.ARW")), both / "DSC0001.ARW")
    shutil.copy(next((nod / "Nikon").glob("*.NEF")), both / "DSC0001.NEF")
    ingest(both, tmp_path / "s.zarr")
    store = open_store(tmp_path / "s.zarr")
    assert store.ids() == (
        "nikon-d750_984x656/DSC0001",
        "sony-dsc-rx100m7_1224x816/DSC0001",
    )
    models = [store.read(sample_id).sidecar.camera.model for sample_id in store]
    assert models == ["NIKON D750", "DSC-RX100M7"]


def test_a_chunk_that_grew_beyond_measure_is_not_read_whole(store_path: Path) -> None:
    store = open_store(store_path)
    entry = store.entry("DSC01088")
    with (store_path / f"{entry.group}/packed/c.{entry.row}.0.0.0").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(DamagedStoreError, match="has more than"):
        store.read("DSC01088", level="packed")


def test_a_manifest_cannot_lead_out_of_the_store(store_path: Path) -> None:
    path = store_path / "manifest.jsonl"
    header, line, *_ = path.read_text().splitlines()
    outside = json.dumps(json.loads(line) | {"id": "../../../elsewhere"}, separators=(",", ":"))
    body = f"{header}\n{outside}\n"
    digest = "sha256:" + hashlib.sha256(body.encode()).hexdigest()
    footer = ManifestFooter(entries=1, digest=digest)
    path.write_text(body + footer.model_dump_json() + "\n")
    store = open_store(store_path)
    assert "manifest is damaged" in store.warnings[0]
    assert len(store) == 6


def test_a_folder_or_an_endless_device_in_place_of_the_manifest_is_survived(
    store_path: Path,
) -> None:
    path = store_path / "manifest.jsonl"
    path.unlink()
    path.mkdir()
    assert "is not a file" in open_store(store_path).warnings[0]
    path.rmdir()
    path.symlink_to("/dev/zero")
    assert "is not a file" in open_store(store_path).warnings[0]
