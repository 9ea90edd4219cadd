from __future__ import annotations

import errno
import json
import os
import shutil
import zipfile
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rawpy

from pipeline.errors import (
    DamagedStoreError,
    IncompatibleStoreError,
    NoStoreError,
    StoreError,
    UsageError,
)
from pipeline.ingest.run import MANIFEST_EVERY, IngestOptions, manifest_every, plan_ingest
from pipeline.ingest.worker import develop_source
from pipeline.raw.decoders.decoder import DecoderDeclinedError
from pipeline.raw.reader import decode
from pipeline.runtime.executor import WorkerDied
from pipeline.sample_set import SONY_RX100M7, write_arw
from pipeline.sample_set.formats.camera_file import CameraFile
from pipeline.sample_set.formats.dng import DngFile, write_dng
from pipeline.store import open_store
from pipeline.store.local.files import LocalFiles
from pipeline.verify import VerifyOptions, run_verify
from schemas.recipe import Recipe
from schemas.sidecar import Sidecar
from tests.conftest import Ingest
from tests.kit.recorder import Recorder
from tests.kit.stored import sealed
from tests.kit.trees import chunks, tree


def whole(store: Path) -> bool:
    """Whether verify finds nothing, warnings included."""
    options = VerifyOptions(strict=True)
    return run_verify(LocalFiles(store), Recorder(), options).exit_code == 0


def edit_json(path: Path, change: Any) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_same_sources_and_recipe_give_the_same_bytes(
    nod: Path, tmp_path: Path, store_path: Path, ingest: Ingest
) -> None:
    ingest(nod, tmp_path / "again.zarr")
    assert chunks(tmp_path / "again.zarr") == chunks(store_path)


def test_both_decoders_give_the_same_bytes(nod: Path, tmp_path: Path, ingest: Ingest) -> None:
    for decoder in ("libraw", "flashraw"):
        ingest(nod, tmp_path / f"{decoder}.zarr", decoder=decoder)
        store = open_store(tmp_path / f"{decoder}.zarr")
        assert {store.sidecar(i).decoder.name for i in store} == {decoder}
    assert chunks(tmp_path / "libraw.zarr") == chunks(tmp_path / "flashraw.zarr")


def test_a_second_run_changes_nothing(nod: Path, tmp_path: Path, ingest: Ingest) -> None:
    ingest(nod, tmp_path / "s.zarr")
    before = tree(tmp_path / "s.zarr")
    summary = ingest(nod, tmp_path / "s.zarr")
    assert (summary.up_to_date, summary.ingested, summary.exit_code) == (6, 0, 0)
    assert tree(tmp_path / "s.zarr") == before


def test_the_same_raws_named_from_another_folder_are_recognised(
    nod: Path, tmp_path: Path, ingest: Ingest
) -> None:
    ingest(nod, tmp_path / "s.zarr")
    summary = ingest(nod / "Sony", tmp_path / "s.zarr")
    assert (summary.up_to_date, summary.ingested, summary.samples) == (3, 0, 6)


def test_a_later_ingest_extends_the_store(nod: Path, tmp_path: Path, ingest: Ingest) -> None:
    ingest(nod / "Sony", tmp_path / "s.zarr")
    summary = ingest(nod, tmp_path / "s.zarr")
    assert (summary.up_to_date, summary.ingested, summary.samples) == (3, 3, 6)
    assert whole(tmp_path / "s.zarr")


def test_a_changed_raw_is_redone_in_its_place(nod: Path, tmp_path: Path, ingest: Ingest) -> None:
    ingest(nod, tmp_path / "s.zarr")
    first, second = sorted((nod / "Nikon").glob("*.NEF"))[:2]
    before = open_store(tmp_path / "s.zarr").sidecar(first.stem)
    shutil.copy(second, first)
    summary = ingest(nod, tmp_path / "s.zarr")
    after = open_store(tmp_path / "s.zarr").sidecar(first.stem)
    assert (summary.redone, summary.up_to_date) == (1, 5)
    assert (after.row, after.group) == (before.row, before.group)
    assert after.source.sha256 != before.source.sha256


def test_new_boxes_rewrite_the_sidecar_only(nod: Path, tmp_path: Path, ingest: Ingest) -> None:
    ingest(nod, tmp_path / "s.zarr")
    before = tree(tmp_path / "s.zarr")
    path = next((nod / "Sony").glob("*train*.json"))
    edit_json(path, lambda coco: coco["annotations"][0].update(bbox=[1, 2, 33, 44]))
    summary = ingest(nod, tmp_path / "s.zarr")
    after = tree(tmp_path / "s.zarr")
    changed = {name for name in after if after[name] != before[name]}
    assert summary.reannotated == 1
    assert len(changed) == 2
    assert "manifest.jsonl" in changed
    assert whole(tmp_path / "s.zarr")


def test_an_ingest_without_annotations_keeps_the_boxes(
    nod: Path, tmp_path: Path, ingest: Ingest
) -> None:
    ingest(nod, tmp_path / "s.zarr")
    before = tree(tmp_path / "s.zarr")
    for path in nod.rglob("*.json"):
        path.unlink()
    assert ingest(nod, tmp_path / "s.zarr").up_to_date == 6
    assert tree(tmp_path / "s.zarr") == before


def test_raws_without_annotation_are_ingested_and_counted(
    nod: Path, tmp_path: Path, ingest: Ingest
) -> None:
    for path in (nod / "Sony").glob("*.json"):
        path.unlink()
    summary = ingest(nod, tmp_path / "s.zarr")
    assert (summary.exit_code, summary.raws_without_annotation) == (0, 3)
    store = open_store(tmp_path / "s.zarr")
    bare = [i for i in store if store.sidecar(i).annotation is None]
    assert len(bare) == 3
    assert {store.entry(i).split for i in bare} == {None}
    assert store.read(bare[0]).boxes.shape == (0, 4)


def test_annotations_without_raw_are_reported(
    nod: Path, tmp_path: Path, ingest: Ingest, recorder: Recorder
) -> None:
    next((nod / "Nikon").glob("*.NEF")).unlink()
    summary = ingest(nod, tmp_path / "s.zarr")
    assert (summary.exit_code, summary.annotations_without_raw, summary.samples) == (0, 1, 5)
    assert "annotation-without-raw" in recorder.codes


def test_named_annotations_and_splits_are_used(nod: Path, tmp_path: Path, ingest: Ingest) -> None:
    boxes = tmp_path / "elsewhere.json"
    shutil.move(next((nod / "Sony").glob("*train*.json")), boxes)
    for path in nod.rglob("*.json"):
        path.unlink()
    ingest(nod, tmp_path / "s.zarr", splits=(("night", str(boxes)),))
    store = open_store(tmp_path / "s.zarr")
    assert store.splits["night"] == len(json.loads(boxes.read_text())["images"])


def test_broken_json_costs_its_boxes_not_the_raws_and_is_mended_later(
    nod: Path, tmp_path: Path, ingest: Ingest, recorder: Recorder
) -> None:
    path = next((nod / "Sony").glob("*train*.json"))
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    summary = ingest(nod, tmp_path / "s.zarr")
    assert (summary.exit_code, summary.samples, summary.failed) == (3, 6, 1)
    assert recorder.errors[f"Sony/{path.name}"][0] == "annotation"
    path.write_bytes(good)
    summary = ingest(nod, tmp_path / "s.zarr")
    assert (summary.exit_code, summary.failed) == (0, 0)
    assert summary.reannotated > 0
    assert not open_store(tmp_path / "s.zarr").failed


def test_contradictory_annotations_refuse_the_image_by_both_names(
    nod: Path, tmp_path: Path, ingest: Ingest, recorder: Recorder
) -> None:
    original = next((nod / "Sony").glob("*val*.json"))
    other = original.with_name("corrected_val.json")
    shutil.copy(original, other)
    edit_json(other, lambda coco: coco["annotations"][0].update(bbox=[0, 0, 9, 9]))
    summary = ingest(nod, tmp_path / "s.zarr")
    assert (summary.exit_code, summary.samples) == (3, 5)
    (message,) = [message for _, message, _ in recorder.errors.values()]
    assert original.name in message
    assert other.name in message


def test_boxes_that_cannot_be_trained_on_stay_in_the_sidecar_only(
    nod: Path, tmp_path: Path, ingest: Ingest, recorder: Recorder
) -> None:
    path = next((nod / "Nikon").glob("*val*.json"))
    edit_json(path, lambda coco: coco["annotations"][0].update(bbox=[10, 10, 5, 0]))
    summary = ingest(nod, tmp_path / "s.zarr")
    assert (summary.exit_code, summary.boxes_untrainable) == (0, 1)
    assert "zero-area" in recorder.codes
    store = open_store(tmp_path / "s.zarr")
    (sample,) = [store.read(i) for i in store.ids("val") if "nikon" in (store.entry(i).group or "")]
    assert sample.sidecar.annotation is not None
    assert len(sample.boxes) == len(sample.sidecar.annotation.boxes) - 1


def test_strict_refuses_samples_with_findings(
    nod: Path, tmp_path: Path, ingest: Ingest, recorder: Recorder
) -> None:
    path = next((nod / "Nikon").glob("*val*.json"))
    edit_json(path, lambda coco: coco["annotations"][0].update(bbox=[10, 10, 5, 0]))
    summary = ingest(nod, tmp_path / "s.zarr", strict=True)
    assert (summary.exit_code, summary.samples) == (3, 5)
    assert any("--strict" in message for _, message, _ in recorder.errors.values())


def test_an_annotation_of_another_size_is_refused_naming_both_sizes(
    nod: Path, tmp_path: Path, ingest: Ingest, recorder: Recorder
) -> None:
    path = next((nod / "Nikon").glob("*val*.json"))
    edit_json(path, lambda coco: coco["images"][0].update(width=3936, height=2624))
    assert ingest(nod, tmp_path / "s.zarr").exit_code == 3
    ((code, message, _),) = recorder.errors.values()
    assert code == "frame"
    assert "3936x2624" in message
    assert "984x656" in message


@pytest.mark.parametrize("decoder", ["auto", "libraw"])
def test_truncated_raws_cost_themselves_only_and_are_remembered(
    nod: Path, tmp_path: Path, ingest: Ingest, recorder: Recorder, decoder: str
) -> None:
    victims = [next((nod / "Sony").glob("*.ARW")), next((nod / "Nikon").glob("*.NEF"))]
    whole_bytes = [path.read_bytes() for path in victims]
    for path, data in zip(victims, whole_bytes, strict=True):
        path.write_bytes(data[:-1000])
    summary = ingest(nod, tmp_path / "s.zarr", decoder=decoder)
    assert (summary.exit_code, summary.failed, summary.samples) == (3, 2, 4)
    assert {code for code, _, _ in recorder.errors.values()} == {"corrupt"}
    again = ingest(nod, tmp_path / "s.zarr", decoder=decoder)
    assert (again.exit_code, again.failed_before, again.up_to_date) == (3, 2, 4)
    for path, data in zip(victims, whole_bytes, strict=True):
        path.write_bytes(data)
    mended = ingest(nod, tmp_path / "s.zarr", decoder=decoder)
    assert (mended.exit_code, mended.ingested, mended.samples) == (0, 2, 6)
    assert whole(tmp_path / "s.zarr")


def test_a_failed_source_keeps_its_row_for_later(
    nod: Path, tmp_path: Path, store_path: Path, ingest: Ingest
) -> None:
    """Damage only pixels show: the row is given out before, and filled after the mend."""
    victim = sorted((nod / "Sony").glob("*.ARW"))[0]
    good = victim.read_bytes()
    victim.write_bytes(good[: len(good) // 2] + bytes(len(good) - len(good) // 2))
    assert ingest(nod, tmp_path / "s.zarr").exit_code == 3
    victim.write_bytes(good)
    assert ingest(nod, tmp_path / "s.zarr").exit_code == 0
    assert chunks(tmp_path / "s.zarr") == chunks(store_path)


def test_damaged_samples_are_redone_and_only_those(
    nod: Path, tmp_path: Path, ingest: Ingest
) -> None:
    store = tmp_path / "s.zarr"
    ingest(nod, store)
    before = tree(store)
    names = sorted(before)
    packed = [name for name in names if "packed/c." in name]
    sidecars = [name for name in names if "/sidecars/" in name]
    metadata = [name for name in names if name.endswith("zarr.json")]
    for name in (packed[0], sidecars[3], *metadata, "manifest.jsonl"):
        data = bytearray(before[name])
        data[len(data) // 3] ^= 8
        (store / name).write_bytes(data)
    (store / packed[-1]).unlink()
    (store / sidecars[1]).unlink()
    summary = ingest(nod, store)
    assert summary.exit_code == 0
    assert summary.up_to_date == 2
    assert tree(store) == before
    assert whole(store)


def test_damage_whose_source_is_not_given_is_reported(
    nod: Path, tmp_path: Path, ingest: Ingest
) -> None:
    store = tmp_path / "s.zarr"
    ingest(nod, store)
    (name, *_) = [name for name in chunks(store) if "nikon" in name]
    (store / name).unlink()
    summary = ingest(nod / "Sony", store)
    assert (summary.exit_code, summary.damaged) == (4, 1)
    assert ingest(nod, store).exit_code == 0
    assert whole(store)


def test_what_interrupted_commits_left_is_removed(
    nod: Path, tmp_path: Path, ingest: Ingest
) -> None:
    store = tmp_path / "s.zarr"
    ingest(nod, store)
    before = tree(store)
    group = store / "nikon-d750_984x656"
    (group / "packed" / "c.99.0.0.0").write_bytes(b"chunk without sidecar")
    (group / "packed" / ".c.1.0.0.0.tmp-4711").write_bytes(b"half")
    (group / "sidecars" / "GONE.json").write_bytes(b"{half")
    # A group whose samples were all refused after its metadata had been written.
    shutil.copytree(group / "packed", store / "nikon-d750_40x30" / "packed")
    for chunk in (store / "nikon-d750_40x30").glob("*/*c.*"):
        chunk.unlink()
    assert not whole(store)
    ingest(nod, store)
    assert tree(store) == before
    assert not (store / "nikon-d750_40x30").exists()


def test_a_sample_that_moved_is_not_made_twice_if_the_run_is_killed_before_the_manifest(
    nod: Path, tmp_path: Path, ingest: Ingest
) -> None:
    """The manifest still has it in its old group; the sidecar in the new one counts."""
    store = tmp_path / "s.zarr"
    ingest(nod, store)
    before = (store / "manifest.jsonl").read_bytes()
    path = next((nod / "Nikon").glob("*train*.json"))
    edit_json(path, lambda coco: coco["images"][0].update(width=976, height=648))
    assert ingest(nod, store).exit_code == 0
    moved = tree(store)
    (store / "manifest.jsonl").write_bytes(before)
    assert ingest(nod, store).exit_code == 0
    assert tree(store) == moved


def test_another_recipe_is_refused_with_both_named(
    nod: Path, tmp_path: Path, ingest: Ingest
) -> None:
    ingest(nod / "Sony", tmp_path / "s.zarr")
    before = tree(tmp_path / "s.zarr")
    with pytest.raises(IncompatibleStoreError) as raised:
        ingest(nod, tmp_path / "s.zarr", recipe=Recipe(colour="camera"))
    assert "colour xyz," in raised.value.message
    assert "colour camera," in raised.value.message
    assert tree(tmp_path / "s.zarr") == before


@pytest.mark.parametrize("colour", ["xyz", "xyz-balanced", "camera"])
@pytest.mark.parametrize("levels", [("packed",), ("resized",), ("packed", "resized")])
def test_every_recipe_makes_a_whole_store(
    nod: Path, tmp_path: Path, ingest: Ingest, colour: Any, levels: Any
) -> None:
    recipe = Recipe(colour=colour, levels=levels, codec="zstd", fit=(200, 100))
    assert ingest(nod, tmp_path / "s.zarr", recipe=recipe).exit_code == 0
    assert whole(tmp_path / "s.zarr")


def test_a_folder_that_is_no_store_is_left_alone(nod: Path, tmp_path: Path, ingest: Ingest) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years of work")
    with pytest.raises(NoStoreError):
        ingest(nod, tmp_path / "precious")
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(NoStoreError):
        ingest(nod, tmp_path / "file")
    assert tree(tmp_path / "precious") == {"thesis.txt": b"years of work"}


def test_a_missing_source_is_wrong_usage_and_makes_no_store(tmp_path: Path, ingest: Ingest) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        ingest(tmp_path / "nowhere", tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()


def test_a_full_disk_stops_the_run_and_the_same_command_continues(
    nod: Path, tmp_path: Path, store_path: Path, ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, allowed = os.replace, iter(range(12))

    def full(source: Any, target: Any) -> None:
        if next(allowed, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(StoreError, match="No space left"):
            ingest(nod, tmp_path / "s.zarr")
    assert not [name for name in tree(tmp_path / "s.zarr") if ".tmp-" in name]
    assert ingest(nod, tmp_path / "s.zarr").exit_code == 0
    assert chunks(tmp_path / "s.zarr") == chunks(store_path)


def zipped(folder: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, path.relative_to(folder.parent))
    return archive


def test_an_archive_is_read_in_place(
    nod: Path, tmp_path: Path, store_path: Path, ingest: Ingest
) -> None:
    archive = zipped(nod, tmp_path / "nod.zip")
    assert ingest(archive, tmp_path / "s.zarr").exit_code == 0
    assert chunks(tmp_path / "s.zarr") == chunks(store_path)
    assert ingest(archive, tmp_path / "s.zarr").up_to_date == 6
    assert not list(tmp_path.glob("**/nod.zip/*"))


def test_a_cut_archive_yields_what_it_has_and_the_rest_later(
    nod: Path, tmp_path: Path, store_path: Path, ingest: Ingest, recorder: Recorder
) -> None:
    archive = zipped(nod, tmp_path / "nod.zip")
    complete = archive.read_bytes()
    archive.write_bytes(complete[: len(complete) * 2 // 3])
    cut = ingest(archive, tmp_path / "s.zarr")
    assert cut.exit_code == 3
    assert 0 < cut.samples < 6
    ((_, message, mend),) = recorder.errors.values()
    assert "ends" in message
    assert mend
    archive.write_bytes(complete)
    assert ingest(archive, tmp_path / "s.zarr").exit_code == 0
    assert len(open_store(tmp_path / "s.zarr")) == 6
    assert sorted(chunks(tmp_path / "s.zarr").values()) == sorted(chunks(store_path).values())


def test_a_dry_run_says_what_would_happen_and_writes_nothing(
    nod: Path, tmp_path: Path, ingest: Ingest, recorder: Recorder
) -> None:
    def plan() -> dict[str, int]:
        store = str(tmp_path / "s.zarr")
        return plan_ingest([str(nod)], store, Recipe(), IngestOptions(), recorder).statuses

    assert plan() == {"new": 6}
    assert not (tmp_path / "s.zarr").exists()
    ingest(nod / "Sony", tmp_path / "s.zarr")
    before = tree(tmp_path / "s.zarr")
    assert plan() == {"new": 3, "up-to-date": 3}
    assert tree(tmp_path / "s.zarr") == before


def noise_raws(folder: Path, camera: CameraFile) -> Path:
    """Four raws of one class."""
    folder.mkdir()
    rng = np.random.default_rng(5)
    for number in range(4):
        mosaic = rng.normal(900, 20, (64, 96)).astype(np.uint16)
        write_arw(folder / f"DSC{number}.ARW", mosaic, compression="uncompressed", camera=camera)
    return folder


def test_decoders_that_disagree_hand_the_class_to_libraw(
    tmp_path: Path, ingest: Ingest, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """flashraw 0.1 reads big-endian uncompressed ARW with the bytes swapped, without an error."""
    raws = noise_raws(tmp_path / "raws", replace(SONY_RX100M7, byte_order=">"))
    assert ingest(raws, tmp_path / "s.zarr").exit_code == 0
    assert "decoders-disagree" in recorder.codes
    store = open_store(tmp_path / "s.zarr")
    assert {store.sidecar(i).decoder.name for i in store} == {"libraw"}

    class ManyWorkers:
        """As many as there are tasks: all are drawn before the first is done."""

        workers = 4

        def run(self, function: Any, tasks: Any) -> Any:
            for task in list(tasks):
                yield task, function(task)

    monkeypatch.setattr("pipeline.ingest.run.executor", lambda *_, **__: nullcontext(ManyWorkers()))
    assert ingest(raws, tmp_path / "many.zarr").exit_code == 0
    assert tree(tmp_path / "many.zarr") == tree(tmp_path / "s.zarr")


NEW_SONY = replace(SONY_RX100M7, model="ILCE-7M5")
"""LibRaw gives it the matrix of the ILCE-7, flashraw one of its own."""


@pytest.mark.parametrize("decoder", ["auto", "libraw"])
def test_a_range_is_planned_by_the_matrix_that_is_stored(
    tmp_path: Path, ingest: Ingest, recorder: Recorder, decoder: str
) -> None:
    raws = noise_raws(tmp_path / "raws", NEW_SONY)
    summary = ingest(raws, tmp_path / "s.zarr", decoder=decoder)
    assert (summary.exit_code, summary.ingested) == (0, 4)
    assert [one.code for one in recorder.findings].count("decoders-disagree") == (decoder == "auto")
    assert [one.code for one in recorder.findings].count("relatives-matrix") == 1
    store = open_store(tmp_path / "s.zarr")
    for name in store:
        sidecar = store.sidecar(name)
        with rawpy.imread(str(raws / f"{name}.ARW")) as raw:
            stored = np.array(sidecar.sensor.xyz_to_camera, np.float32)
            assert np.array_equal(stored, raw.rgb_xyz_matrix[:3])
        assert sidecar.sensor.matrix_source == "relative"
        assert sidecar.sensor.matrix_model == "ILCE-7"
        assert sidecar.decoder.name == "libraw"
    sources = VerifyOptions(strict=True, sources=(str(raws),))
    assert run_verify(LocalFiles(tmp_path / "s.zarr"), Recorder(), sources).exit_code == 0


def test_a_store_that_does_not_say_where_its_matrix_is_from_still_follows_from_its_raws(
    tmp_path: Path, ingest: Ingest
) -> None:
    """As stores of earlier versions do not."""
    raws = noise_raws(tmp_path / "raws", replace(SONY_RX100M7, model="DSC-RX1RM3"))
    ingest(raws, tmp_path / "s.zarr")
    for path in (tmp_path / "s.zarr").glob("*/sidecars/*.json"):
        old = Sidecar.model_validate_json(path.read_bytes())
        bare = {"matrix_source": "table", "matrix_model": ""}
        new = old.model_copy(update={"sensor": old.sensor.model_copy(update=bare)}).sealed()
        assert b"matrix_" not in new.to_json()
        path.write_bytes(new.to_json())
    sources = VerifyOptions(sources=(str(raws),))
    recorder = Recorder()
    run_verify(LocalFiles(tmp_path / "s.zarr"), recorder, sources)
    assert "underivable" not in recorder.codes


def test_strict_takes_no_relatives_matrix(
    tmp_path: Path, ingest: Ingest, recorder: Recorder
) -> None:
    raws = noise_raws(tmp_path / "raws", replace(SONY_RX100M7, model="DSC-RX1RM3"))
    assert ingest(raws, tmp_path / "s.zarr", strict=True).samples == 0
    assert all("that of DSC-RX1R," in message for _, message, _ in recorder.errors.values())
    assert len(recorder.errors) == 4


def test_libraw_decodes_one_file_of_a_class_before_ranges_are_planned(
    tmp_path: Path, ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def counted(data: bytes, decoder: Any, *, path: str) -> Any:
        asked.append(path)
        return decode(data, decoder, path=path)

    monkeypatch.setattr("pipeline.ingest.worker.decode", counted)
    raws = noise_raws(tmp_path / "raws", SONY_RX100M7)
    assert ingest(raws, tmp_path / "s.zarr").ingested == 4
    assert asked == ["DSC0.ARW"]


@pytest.mark.parametrize("decoder", ["auto", "libraw", "flashraw"])
def test_a_dng_of_an_unknown_camera_is_stored_by_its_own_matrix(
    tmp_path: Path, ingest: Ingest, recorder: Recorder, decoder: str
) -> None:
    (tmp_path / "raws").mkdir()
    mosaic = np.random.default_rng(5).integers(500, 9000, (64, 96)).astype(np.uint16)
    write_dng(tmp_path / "raws" / "a.dng", mosaic, dng=DngFile(model="SIGMA fp"))
    assert ingest(tmp_path / "raws", tmp_path / "s.zarr", decoder=decoder).exit_code == 0
    assert recorder.findings == []
    sample = open_store(tmp_path / "s.zarr").read("a", level="packed")
    assert sample.sidecar.sensor.matrix_source == "file"
    camera = (mosaic.astype(np.float64) - 512) / (16383 - 512)
    planes = [camera[0::2, 0::2], (camera[0::2, 1::2] + camera[1::2, 0::2]) / 2, camera[1::2, 1::2]]
    to_xyz = np.linalg.inv(np.array(DngFile().color_matrix).reshape(3, 3))
    expected = np.einsum("ij,jyx->iyx", to_xyz, np.stack(planes))
    step = sample.sidecar.levels["packed"].scale_factor
    assert np.abs(sample.xyz - expected).max() < step
    sources = VerifyOptions(strict=True, sources=(str(tmp_path / "raws"),))
    assert run_verify(LocalFiles(tmp_path / "s.zarr"), Recorder(), sources).exit_code == 0


def test_a_camera_without_any_matrix_is_refused_for_the_true_reason_and_camera_rgb_is_not(
    tmp_path: Path, ingest: Ingest, recorder: Recorder
) -> None:
    (tmp_path / "raws").mkdir()
    mosaic = np.random.default_rng(5).integers(500, 9000, (64, 96)).astype(np.uint16)
    warm = {0xC622: None, 0xC65B: None}  # the matrix for illuminant A is left
    write_dng(tmp_path / "raws" / "a.dng", mosaic, dng=DngFile(model="SIGMA fp", tags=warm))
    assert ingest(tmp_path / "raws", tmp_path / "s.zarr").exit_code == 3
    ((_, message, mend),) = recorder.errors.values()
    assert "SIGMA fp" in message
    assert "none for daylight" in message
    assert "--colour camera" in mend
    summary = ingest(tmp_path / "raws", tmp_path / "c.zarr", recipe=Recipe(colour="camera"))
    assert summary.exit_code == 0


def test_a_chosen_decoder_that_declines_one_file_of_a_class_is_not_asked_again_for_ever(
    tmp_path: Path, ingest: Ingest, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()

    def declining(data: bytes, decoder: Any, *, path: str) -> Any:
        calls[decoder] += 1
        if decoder == "flashraw" and calls[decoder] == 2:
            raise DecoderDeclinedError("not today")
        return decode(data, decoder, path=path)

    monkeypatch.setattr("pipeline.raw.cross_check.decode", declining)
    raws = noise_raws(tmp_path / "raws", SONY_RX100M7)
    summary = ingest(raws, tmp_path / "s.zarr", decoder="flashraw")
    assert (summary.exit_code, summary.ingested) == (0, 4)
    assert calls == {"flashraw": 4, "libraw": 1}
    assert "decoders-disagree" in recorder.codes


def test_a_raw_whose_workers_die_is_reported_with_what_helps_and_that_helps(
    nod: Path, tmp_path: Path, ingest: Ingest, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deadly:
        workers = 1

        def run(self, function: Any, tasks: Any) -> Any:
            for task in tasks:
                deadly = function is develop_source and task.source.name.endswith("DSC01088.ARW")
                yield task, WorkerDied(1.5) if deadly else function(task)

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.ingest.run.executor", lambda *_, **__: nullcontext(Deadly()))
        summary = ingest(nod, tmp_path / "s.zarr")
    assert (summary.exit_code, summary.failed, summary.ingested) == (3, 1, 5)
    ((code, message, mend),) = recorder.errors.values()
    assert code == "crash"
    assert "crashed, twice" in message
    assert "--retry-failed" in mend
    assert ingest(nod, tmp_path / "s.zarr").failed_before == 1
    assert ingest(nod, tmp_path / "s.zarr", retry_failed=True).exit_code == 0
    ingest(nod, tmp_path / "undisturbed.zarr")
    assert tree(tmp_path / "s.zarr") == tree(tmp_path / "undisturbed.zarr")


@pytest.mark.parametrize("kind", ["*/sidecars/*.json", "*/packed/c.*"])
def test_damage_is_never_forgotten_however_often_ingest_runs_without_the_source(
    nod: Path, tmp_path: Path, ingest: Ingest, kind: str
) -> None:
    store = tmp_path / "s.zarr"
    ingest(nod, store)
    before = tree(store)
    victim = next(path for path in sorted(store.glob(kind)) if "sony" in str(path))
    victim.write_bytes(victim.read_bytes() + b"X")
    for _ in range(3):
        summary = ingest(nod / "Nikon", store)
        assert (summary.exit_code, summary.damaged, summary.samples) == (4, 1, 5)
        assert not whole(store)
    assert ingest(nod, store).exit_code == 0
    assert tree(store) == before


def test_a_folder_without_raws_is_wrong_usage_and_makes_no_store(
    tmp_path: Path, ingest: Ingest
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no camera raws found"):
        ingest(tmp_path / "empty", tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()


def test_names_in_the_manifest_do_not_depend_on_where_the_sources_are(
    nod: Path, tmp_path: Path, ingest: Ingest
) -> None:
    archive = zipped(nod, tmp_path / "nod.zip")
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    ingest(archive, tmp_path / "s.zarr")
    assert str(tmp_path).encode() not in (tmp_path / "s.zarr" / "manifest.jsonl").read_bytes()
    for sidecar in (tmp_path / "s.zarr").glob("*/sidecars/*"):
        assert str(tmp_path) not in sidecar.read_text()


def test_a_sidecar_in_anothers_row_is_mended_without_harm_to_the_other(
    nod: Path, tmp_path: Path, ingest: Ingest
) -> None:
    """Made again in the row it claims, it would destroy the chunks of the sample that has it."""
    ingest(nod, tmp_path / "s.zarr")
    before = tree(tmp_path / "s.zarr")
    first, second, third = sorted((tmp_path / "s.zarr").glob("nikon*/sidecars/*.json"))
    for victim, other in ((first, second), (second, first), (third, second)):
        for manifest in (True, False):
            document = json.loads(victim.read_text())
            victim.write_bytes(sealed(document | {"row": json.loads(other.read_text())["row"]}))
            if not manifest:
                (tmp_path / "s.zarr" / "manifest.jsonl").unlink()
            summary = ingest(nod, tmp_path / "s.zarr")
            assert (summary.redone, summary.up_to_date, summary.exit_code) == (1, 5, 0)
            assert tree(tmp_path / "s.zarr") == before


def test_a_store_without_metadata_and_manifest_is_mended_from_its_samples(
    nod: Path, tmp_path: Path, ingest: Ingest
) -> None:
    store = tmp_path / "s.zarr"
    ingest(nod, store)
    before = tree(store)
    for path in (*store.rglob("zarr.json"), store / "manifest.jsonl"):
        path.write_bytes(b"")
    with pytest.raises(DamagedStoreError, match="neither zarr"):
        open_store(store)
    with pytest.raises(DamagedStoreError, match="neither zarr"):
        ingest(nod, store, recipe=Recipe(codec="zstd"))
    summary = ingest(nod, store)
    assert (summary.up_to_date, summary.exit_code) == (6, 0)
    assert tree(store) == before


def test_the_manifest_of_another_store_brings_no_samples(
    nod: Path, tmp_path: Path, ingest: Ingest
) -> None:
    ingest(nod, tmp_path / "all.zarr", recipe=Recipe(codec="zstd"))
    ingest(nod / "Sony", tmp_path / "s.zarr")
    before = tree(tmp_path / "s.zarr")
    shutil.copy(tmp_path / "all.zarr" / "manifest.jsonl", tmp_path / "s.zarr" / "manifest.jsonl")
    assert ingest(nod / "Sony", tmp_path / "s.zarr").exit_code == 0
    assert tree(tmp_path / "s.zarr") == before


@pytest.mark.parametrize(
    "name", ["zarr.json", "manifest.jsonl", "*/sidecars/*.json", "*/packed/c.*"]
)
def test_a_folder_or_a_broken_sector_in_place_of_a_file_is_mended(
    nod: Path, tmp_path: Path, ingest: Ingest, name: str
) -> None:
    ingest(nod, tmp_path / "s.zarr")
    before = tree(tmp_path / "s.zarr")
    victim = next((tmp_path / "s.zarr").glob(name))
    victim.unlink()
    victim.mkdir()
    assert ingest(nod, tmp_path / "s.zarr").exit_code == 0
    assert tree(tmp_path / "s.zarr") == before
    victim.unlink()
    victim.symlink_to("/proc/self/mem")
    assert ingest(nod, tmp_path / "s.zarr").exit_code == 0
    assert tree(tmp_path / "s.zarr") == before
    assert not victim.is_symlink()


def test_other_bytes_for_the_same_sidecar_are_written_anew(
    nod: Path, tmp_path: Path, ingest: Ingest
) -> None:
    ingest(nod, tmp_path / "s.zarr")
    before = tree(tmp_path / "s.zarr")
    victim = next((tmp_path / "s.zarr").glob("*/sidecars/*.json"))
    victim.write_bytes(victim.read_bytes().replace(b"e-", b"E-"))
    assert ingest(nod, tmp_path / "s.zarr").redone == 1
    assert tree(tmp_path / "s.zarr") == before


def test_the_manifest_of_a_huge_store_is_written_less_often() -> None:
    assert [manifest_every(n) for n in (0, 7219, 100_000, 100_001, 1_000_000)] == [
        MANIFEST_EVERY * times for times in (1, 1, 1, 2, 10)
    ]


def test_raws_that_are_passed_over_are_counted_and_named_once(
    nod: Path, tmp_path: Path, ingest: Ingest, recorder: Recorder
) -> None:
    for name in ("a.tar", "DSC1.ARW.part", "b.braw"):
        (nod / name).write_bytes(b"x")
    summary = ingest(nod, tmp_path / "s.zarr")
    assert (summary.exit_code, summary.samples, summary.raws_passed_over) == (0, 6, 3)
    (finding,) = [one for one in recorder.findings if one.code == "raw-passed-over"]
    assert "1 .braw, 1 .part, 1 .tar" in finding.message
    assert "DSC1.ARW.part" in finding.message


def test_a_folder_of_nothing_else_says_what_is_there(tmp_path: Path, ingest: Ingest) -> None:
    (tmp_path / "raws.tar").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"no camera raws found; 1 \.tar"):
        ingest(tmp_path, tmp_path / "s.zarr")
