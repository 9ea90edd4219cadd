"""Samples against the levels that a file states: above white, and nowhere near black."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.raw.facts import usual_largest
from pipeline.sample_set import NIKON_D750, DngFile, nef_bytes, write_dng
from pipeline.store import open_store
from pipeline.store.local.files import LocalFiles
from pipeline.verify.run import VerifyOptions, run_verify
from schemas.sidecar import Sensor, Sidecar
from tests.conftest import Ingest
from tests.kit.recorder import Recorder

Mosaic = npt.NDArray[np.uint16]
SHAPE = (64, 96)


def dng(white: int, black: int = 512) -> DngFile:
    """Of a camera whose matrix both LibRaw and the file have."""
    return DngFile(model="NIKON D750", white=white, black=((black, black), (black, black)))


def picture(*, least: int, most: int, seed: int = 0) -> Mosaic:
    random = np.random.default_rng(seed)
    return (least + (most - least) * random.random(SHAPE) ** 2).astype(np.uint16)


def xyz_of(mosaic: Mosaic, sensor: Sensor) -> npt.NDArray[np.float64]:
    """The contract for RGGB in plain numpy, double precision."""
    values = mosaic.astype(np.float64) - sensor.black[0]
    assert (sensor.cfa, set(sensor.black)) == ("RGGB", {sensor.black[0]})
    red, blue = values[0::2, 0::2], values[1::2, 1::2]
    green = (values[0::2, 1::2] + values[1::2, 0::2]) / 2
    camera = np.stack([red, green, blue]) / (sensor.white - sensor.black[0])
    to_xyz = np.linalg.inv(np.array(sensor.xyz_to_camera))
    return np.asarray(np.einsum("ij,jyx->iyx", to_xyz, camera), np.float64)


def assert_stored(store: Path, name: str, mosaic: Mosaic) -> Sidecar:
    """Each stored code is within half a code of the contract's value: nothing saturates."""
    sample = open_store(store).read(name, level="packed")
    record = sample.sidecar.levels["packed"]
    codes = (xyz_of(mosaic, sample.sidecar.sensor) - record.add_offset) / record.scale_factor
    assert np.abs(sample.stored - codes).max() < 0.52
    return sample.sidecar


@pytest.mark.parametrize("decoder", ["auto", "libraw"])
@pytest.mark.parametrize(
    ("white", "hot"), [(3840, 4095), (15000, 16383), (15360, 17204), (16383, 17204), (4096, 4100)]
)
def test_hot_pixels_above_white_are_stored_as_they_are(
    tmp_path: Path, ingest: Ingest, recorder: Recorder, white: int, hot: int, decoder: str
) -> None:
    mosaic = picture(least=200, most=white, seed=1)
    mosaic[10, 11] = mosaic[40:42, 20:22] = hot
    write_dng(tmp_path / "a.dng", mosaic, dng=dng(white, white // 32))
    summary = ingest(tmp_path / "a.dng", tmp_path / "data.zarr", decoder=decoder)
    assert (summary.exit_code, recorder.findings) == (0, [])
    assert assert_stored(tmp_path / "data.zarr", "a", mosaic).findings == ()


def test_highlights_above_white_are_stored_and_counted(
    tmp_path: Path, ingest: Ingest, recorder: Recorder
) -> None:
    mosaic = picture(least=400, most=14000)
    mosaic[:20] = 16383  # a third of it saturates, and not where the file says
    write_dng(tmp_path / "a.dng", mosaic, dng=dng(15000))
    assert ingest(tmp_path / "a.dng", tmp_path / "data.zarr").exit_code == 0
    (finding,) = assert_stored(tmp_path / "data.zarr", "a", mosaic).findings
    assert (finding.code, finding.severity) == ("above-white", "info")
    assert "31.2% of its samples" in finding.message
    assert [one.code for one in recorder.findings] == ["above-white"]


@pytest.mark.parametrize("share", [0.3, 1 / 6144])
def test_samples_beyond_the_format_are_damage_and_counted(
    tmp_path: Path, ingest: Ingest, recorder: Recorder, share: float
) -> None:
    mosaic = picture(least=400, most=14000)
    count = round(share * mosaic.size)
    mosaic.reshape(-1)[:: mosaic.size // count][:count] = 40000
    write_dng(tmp_path / "a.dng", mosaic, dng=dng(15000))
    assert ingest(tmp_path / "a.dng", tmp_path / "data.zarr").exit_code == 3
    code, message, mend = recorder.errors["a.dng"]
    assert code == "corrupt"
    assert "samples" in message
    assert "above 17407 DN" in message
    assert "the largest is 40000" in message
    assert mend


def test_a_store_made_before_goes_on_and_never_saturates(
    tmp_path: Path, ingest: Ingest, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups used to be planned for a sixteenth above white, whatever the format's end."""
    store, sources = tmp_path / "data.zarr", tmp_path / "nod"
    sources.mkdir()
    ordinary = picture(least=200, most=3800)
    hot = ordinary.copy()
    hot[10, 11] = 4300
    write_dng(sources / "a.dng", ordinary, dng=dng(3840, 120))
    with monkeypatch.context() as before:
        for module in ("pipeline.raw.facts", "pipeline.develop.colour", "pipeline.raw.damage"):
            before.setattr(f"{module}.largest_code", lambda sensor: usual_largest(sensor.white))
        assert ingest(sources, store).exit_code == 0
    run_verify(LocalFiles(store), recorder, VerifyOptions(strict=True))
    assert recorder.findings == []
    other = ordinary.copy()
    other[10, 12] = 1000  # an equal file would be known as a copy of the first
    write_dng(sources / "b.dng", other, dng=dng(3840, 120))
    write_dng(sources / "c.dng", hot, dng=dng(3840, 120))
    assert ingest(sources, store).exit_code == 3
    assert set(recorder.errors) == {"c.dng"}
    assert "wider value range" in recorder.errors["c.dng"][1]
    assert_stored(store, "b", other)
    assert ingest(sources, tmp_path / "anew.zarr").exit_code == 0
    assert_stored(tmp_path / "anew.zarr", "c", hot)


def test_a_pedestal_under_a_black_of_0_is_never_stored_in_silence(
    tmp_path: Path, ingest: Ingest, recorder: Recorder
) -> None:
    for number, pedestal in enumerate((1000, 1000)):
        mosaic = picture(least=pedestal, most=3000, seed=number)
        write_dng(tmp_path / f"{number}.dng", mosaic, dng=dng(16383, 0))
    summary = ingest(*sorted(tmp_path.glob("*.dng")), tmp_path / "data.zarr")
    assert (summary.exit_code, summary.samples) == (0, 2)
    codes = sorted(one.code for one in recorder.findings)
    assert codes == ["doubtful-black", "no-dark-sample", "no-dark-sample"]
    store = open_store(tmp_path / "data.zarr")
    for name in store.ids():
        (finding,) = store.sidecar(name).findings
        assert finding.code == "no-dark-sample"
        assert "1000 DN" in finding.message


def test_a_dark_picture_clears_the_bright_ones_of_its_camera(
    tmp_path: Path, ingest: Ingest, recorder: Recorder
) -> None:
    write_dng(tmp_path / "bright.dng", picture(least=5000, most=16000), dng=dng(16383, 0))
    write_dng(tmp_path / "night.dng", picture(least=0, most=6000), dng=dng(16383, 0))
    assert ingest(*sorted(tmp_path.glob("*.dng")), tmp_path / "data.zarr").exit_code == 0
    assert [one.code for one in recorder.findings] == ["no-dark-sample"]
    assert recorder.findings[0].where == "bright.dng"


def test_covered_pixels_refuse_a_black_that_is_not_theirs_and_confirm_one_that_is(
    tmp_path: Path, ingest: Ingest, recorder: Recorder
) -> None:
    random = np.random.default_rng(0)
    for name, level in (("pedestal", 1000), ("plain", 0)):
        mosaic = picture(least=5000, most=16000)
        covered = np.clip(np.rint(level + random.normal(0, 6, SHAPE)), 0, None)
        mosaic[:, :16], mosaic[:8] = covered[:, :16], covered[:8]
        file = replace(dng(16383, 0), active_area=(8, 16, *SHAPE))
        write_dng(tmp_path / f"{name}.dng", mosaic, dng=file)
    summary = ingest(*sorted(tmp_path.glob("*.dng")), tmp_path / "data.zarr")
    assert (summary.exit_code, summary.samples) == (3, 1)
    assert "covered pixels read 1000 DN" in recorder.errors["pedestal.dng"][1]
    assert recorder.findings == []


def test_new_boxes_do_not_cost_what_is_known_of_the_pixels(
    tmp_path: Path, ingest: Ingest, recorder: Recorder
) -> None:
    write_dng(tmp_path / "a.dng", picture(least=1000, most=3000), dng=dng(16383, 0))
    for category in (1, 3):
        box = {"id": 1, "image_id": 1, "category_id": category, "bbox": [4, 4, 20, 20]}
        document = {
            "images": [{"id": 1, "file_name": "a.dng", "width": SHAPE[1], "height": SHAPE[0]}],
            "annotations": [box | {"area": 400, "iscrowd": 0}],
            "categories": [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}],
        }
        (tmp_path / "train.json").write_text(json.dumps(document))
        summary = ingest(tmp_path / "a.dng", tmp_path / "train.json", tmp_path / "data.zarr")
        sidecar = open_store(tmp_path / "data.zarr").sidecar("a")
        assert [one.code for one in sidecar.findings] == ["no-dark-sample"]
    assert summary.reannotated == 1


def test_a_camera_file_with_its_black_known_says_nothing(
    tmp_path: Path, ingest: Ingest, recorder: Recorder
) -> None:
    bright = picture(least=5000, most=15000)
    (tmp_path / "a.NEF").write_bytes(nef_bytes(bright, camera=NIKON_D750))
    assert ingest(tmp_path / "a.NEF", tmp_path / "data.zarr").exit_code == 0
    assert recorder.findings == []
    assert open_store(tmp_path / "data.zarr").sidecar("a").findings == ()
