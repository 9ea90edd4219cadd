"""Levels and matrices of files beside the checkout, which are not part of this project."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.raw.dng_colour import daylight_matrix
from pipeline.raw.facts import MatrixOrigin
from pipeline.raw.reader import decode, probe
from pipeline.raw.tiff import read_tiff
from pipeline.store import open_store
from tests.conftest import Ingest
from tests.kit.recorder import Recorder

pytestmark = pytest.mark.shared_data

A7_OF_2013 = (0.5271, -0.0712, -0.0347)
EOS_R = (0.8293, -0.1789, -0.1094)
IN_THE_FILE = (0.8, -0.25, -0.06)
RX1R = (0.6344, -0.1612, -0.0462)


def beside(shared: Path, *names: str) -> Path:
    path = shared.joinpath(*names)
    if not path.exists():
        pytest.skip(f"{path} is absent")
    return path


@pytest.mark.parametrize("decoder", ["auto", "libraw"])
@pytest.mark.parametrize(
    ("case", "first_row", "origin", "codes"),
    [
        (
            "01-two-matrix-tables",
            A7_OF_2013,
            ("relative", "ILCE-7"),
            ["decoders-disagree", "relatives-matrix"],
        ),
        ("01-two-matrix-tables-dng", EOS_R, ("table", ""), ["decoders-disagree"]),
        ("02-dng-with-its-own-matrix", IN_THE_FILE, ("file", ""), []),
        ("03-matrix-of-a-relative", RX1R, ("relative", "DSC-RX1R"), ["relatives-matrix"]),
    ],
)
def test_each_case_is_stored_and_says_whose_matrix_it_has(
    shared: Path,
    tmp_path: Path,
    ingest: Ingest,
    recorder: Recorder,
    decoder: str,
    case: str,
    first_row: tuple[float, ...],
    origin: tuple[str, str],
    codes: list[str],
) -> None:
    assert ingest(beside(shared, "cases", case), tmp_path / "s.zarr", decoder=decoder).failed == 0
    store = open_store(tmp_path / "s.zarr")
    for sensor in (store.sidecar(name).sensor for name in store):
        assert sensor.xyz_to_camera[0] == first_row
        assert (sensor.matrix_source, sensor.matrix_model) == origin
    if decoder == "libraw":
        codes = [code for code in codes if code != "decoders-disagree"]
    assert [finding.code for finding in recorder.findings] == codes


def test_a_gopro_brings_a_matrix_for_d50_which_is_its_nearest_to_d65(shared: Path) -> None:
    facts = read_tiff(beside(shared, "real-raws", "GoPro_HERO6.GPR").read_bytes())
    assert facts is not None
    assert facts.colour is not None
    assert [one.illuminant for one in facts.colour.calibrations] == [3, 23]  # tungsten, D50
    assert daylight_matrix(facts.colour)[0] == (1.0344, -0.421, -0.062)


@pytest.mark.parametrize("name", ["NIKON_D5000_over_white.dng", "ILCE-7RM3_DSC2164.ARW"])
def test_regular_cameras_have_libraws_matrix_as_their_own_whoever_reads_it(
    shared: Path, name: str
) -> None:
    data = beside(shared, "real-raws", name).read_bytes()
    facts, levels = probe(data, whole=True, path=name), decode(data, "libraw", path=name).levels
    assert facts is not None
    assert facts.levels.xyz_to_camera == levels.xyz_to_camera
    assert levels.origin == MatrixOrigin()
