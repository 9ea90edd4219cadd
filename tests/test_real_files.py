"""Real camera raws, real damaged raws, and the real RAW-NOD annotations."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import rawpy

from pipeline.annotations.coco_file import load_coco
from pipeline.annotations.index import build_index
from pipeline.raw.tiff import read_tiff
from pipeline.store import open_store
from pipeline.store.local.files import LocalFiles
from pipeline.verify import VerifyOptions, run_verify
from schemas.recipe import Recipe
from tests.conftest import Ingest
from tests.kit.recorder import Recorder

pytestmark = pytest.mark.shared_data


@pytest.mark.parametrize("decoder", ["auto", "libraw", "flashraw"])
def test_a_real_bggr_raw_equals_a_plain_evaluation_within_one_step(
    shared: Path, tmp_path: Path, ingest: Ingest, decoder: str
) -> None:
    summary = ingest(shared / "raws" / "complete", tmp_path / "real.zarr", decoder=decoder)
    assert (summary.exit_code, summary.ingested) == (0, 1)

    with rawpy.imread(str(shared / "raws" / "complete" / "RAW_NIKON_D1.NEF")) as raw:
        mosaic = raw.raw_image.astype(np.float64) / raw.white_level  # black is 0
        to_xyz = np.linalg.inv(raw.rgb_xyz_matrix[:3].astype(np.float64))
    blue, red = mosaic[0::2, 0::2], mosaic[1::2, 1::2]
    green = (mosaic[0::2, 1::2] + mosaic[1::2, 0::2]) / 2
    expected = np.einsum("ij,jyx->iyx", to_xyz, np.stack([red, green, blue]))

    sample = open_store(tmp_path / "real.zarr").read("RAW_NIKON_D1", level="packed")
    step = sample.sidecar.levels["packed"].scale_factor
    assert sample.xyz.shape == (3, 662, 1006)
    assert np.abs(sample.xyz - expected).max() < step


def test_a_real_raw_with_samples_above_white_is_stored_to_half_a_code(
    shared: Path, tmp_path: Path, ingest: Ingest, recorder: Recorder
) -> None:
    path = shared / "real-raws" / "NIKON_D5000_over_white.dng"
    if not path.is_file():
        pytest.skip(f"no {path}")
    summary = ingest(path, tmp_path / "real.zarr")
    assert (summary.exit_code, summary.ingested, recorder.findings) == (0, 1, [])

    with rawpy.imread(str(path)) as raw:
        x, y = raw.sizes.crop_left_margin, raw.sizes.crop_top_margin
        shown = raw.raw_image[y : y + raw.sizes.crop_height, x : x + raw.sizes.crop_width]
        mosaic = shown.astype(np.float64) / raw.white_level  # black is 0
        to_xyz = np.linalg.inv(raw.rgb_xyz_matrix[:3].astype(np.float64))
    assert (x % 2, y % 2, mosaic.max()) == (0, 0, 4095 / 3840)
    blue, red = mosaic[0::2, 1::2], mosaic[1::2, 0::2]  # GBRG
    green = (mosaic[0::2, 0::2] + mosaic[1::2, 1::2]) / 2
    expected = np.einsum("ij,jyx->iyx", to_xyz, np.stack([red, green, blue]))

    sample = open_store(tmp_path / "real.zarr").read("NIKON_D5000_over_white", level="packed")
    record = sample.sidecar.levels["packed"]
    codes = (expected - record.add_offset) / record.scale_factor
    assert np.abs(sample.stored - codes).max() < 0.52


def test_a_real_mirrored_raw_says_that_it_is(shared: Path) -> None:
    path = shared / "real-raws" / "GoPro_HERO6.GPR"
    if not path.is_file():
        pytest.skip(f"no {path}")
    facts = read_tiff(path.read_bytes())
    assert facts is not None
    assert facts.orientation == 2


def test_every_hostile_raw_is_refused_with_a_reason(
    shared: Path, tmp_path: Path, ingest: Ingest, recorder: Recorder
) -> None:
    hostile = shared / "raws" / "hostile"
    summary = ingest(hostile, tmp_path / "store.zarr")
    assert summary.exit_code == 3
    assert summary.samples == 0
    assert set(recorder.errors) == {path.name for path in hostile.iterdir()}
    assert all(message and mend for _, message, mend in recorder.errors.values())


def test_hostile_raws_are_refused_by_libraw_alone_too(
    shared: Path, tmp_path: Path, ingest: Ingest
) -> None:
    summary = ingest(shared / "raws" / "hostile", tmp_path / "store.zarr", decoder="libraw")
    assert (summary.exit_code, summary.samples) == (3, 0)


def test_hostile_raws_harm_nothing_stored_beside_them(
    shared: Path, tmp_path: Path, ingest: Ingest
) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(shared / "raws", mixed, ignore=shutil.ignore_patterns("*.md"))
    assert ingest(mixed, tmp_path / "store.zarr").exit_code == 3
    assert open_store(tmp_path / "store.zarr").ids() == ("RAW_NIKON_D1",)


def test_all_nod_annotations_load_and_none_is_lost(shared: Path) -> None:
    files = [
        load_coco(path.read_bytes(), name=path.name)
        for path in sorted((shared / "nod-annotations").glob("*.json"))
    ]
    index = build_index(files)
    boxes = [box for image in index.images for box in image.boxes]
    assert (len(index), len(boxes)) == (7219, 46751)
    (image,) = index.lookup("DSC_0674.NEF")
    flat = [box for box in image.boxes if not box.trainable]
    assert [box.bbox for box in flat] == [(1764, 872, 2, 0)]
    assert [finding.code for finding in flat[0].findings] == ["zero-area"]
    assert sum(not box.trainable for box in boxes) == 1


#: File, and what its refusal says: why, and what helps.
REFUSED = {
    "cases/05-high-efficiency-nef/z8.NEF": ("Nikon's High Efficiency code", "lossless"),
    "real-raws/jpeg_named.nef": ("this is a JPEG picture, no camera raw", "leave it out"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_cannot_be_decoded_are_refused_for_the_true_reason(
    shared: Path, tmp_path: Path, ingest: Ingest, recorder: Recorder, name: str
) -> None:
    if not (shared / name).exists():
        pytest.skip(f"no {name}")
    assert ingest(shared / name, tmp_path / "s.zarr").exit_code == 3
    ((_, message, mend),) = recorder.errors.values()
    reason, help_ = REFUSED[name]
    assert reason in message
    assert help_ in mend


def test_a_gopro_is_refused_for_its_code_or_stored_by_the_decoder_that_reads_it(
    shared: Path, tmp_path: Path, ingest: Ingest, recorder: Recorder
) -> None:
    gopro = shared / "real-raws" / "GoPro_HERO6.GPR"
    if not gopro.exists():
        pytest.skip("no GoPro")
    camera = Recipe(colour="camera")
    assert ingest(gopro, tmp_path / "a.zarr", recipe=camera).exit_code == 3
    ((_, message, mend),) = recorder.errors.values()
    assert "GoPro's VC-5" in message
    assert "gpr_tools" in mend
    assert "--decoder flashraw" in mend
    summary = ingest(gopro, tmp_path / "b.zarr", recipe=camera, decoder="flashraw")
    assert (summary.exit_code, summary.samples) == (0, 1)
    how = VerifyOptions(sources=(str(gopro),))
    verified = run_verify(LocalFiles(tmp_path / "b.zarr"), recorder, how)
    assert (verified.exit_code, verified.derived) == (0, 1)
    assert "unconfirmed" in recorder.codes
