from __future__ import annotations

import re
from dataclasses import replace

import pytest

from pipeline.raw.decoders import libraw
from pipeline.raw.dng_colour import Calibration, DngColour
from pipeline.raw.facts import Levels, MatrixOrigin, matrix3
from pipeline.raw.matrix import relative_of, settled, with_own_matrix
from pipeline.raw.reader import decode
from pipeline.sample_set import NIKON_D750, SONY_RX100M7, arw_bytes
from pipeline.sample_set.formats.dng import DngFile, dng_bytes
from schemas.sidecar import Camera, Matrix3
from tests.kit.raw_files import FORMATS, file_of, levels_with, noise

NONE = matrix3([0.0] * 9)
OWN = (0.9, -0.3, -0.1, -0.5, 1.2, 0.2, -0.1, 0.2, 0.7)

SONY, NIKON, CANON = "SONY", "NIKON CORPORATION", "Canon"


def relative(make: str, model: str) -> str | None:
    """Whose matrix LibRaw gives for a camera by its name; it must give one."""
    matrix = libraw.table_matrix(make, model)
    assert matrix != NONE, f"LibRaw has no matrix for {model}"
    return relative_of(Camera(make=make, model=model), matrix)


@pytest.mark.parametrize("name", FORMATS)
def test_the_name_alone_leads_to_the_matrix_of_the_file(name: str) -> None:
    camera = FORMATS[name].camera
    found = decode(file_of(name), "libraw", path="a.raw").levels
    assert libraw.table_matrix(camera.make, camera.model) == found.xyz_to_camera
    assert found.origin == MatrixOrigin()


@pytest.mark.parametrize(
    ("make", "models"),
    [
        (
            SONY,
            "DSC-RX100,DSC-RX100M2,DSC-RX100M5,DSC-RX100M5A,DSC-RX100M7,DSC-RX10M3,DSC-RX0M2,"
            "DSC-RX1R,DSC-RX1RM2,DSC-HX99,ILCE-1,ILCE-7,ILCE-7M2,ILCE-7M4,ILCE-7RM3,ILCE-7RM3A,"
            "ILCE-7SM2,ILCE-7CM2,ILCE-9M2,ILCE-9M3,ILCE-5100,ILCE-6000,ILCE-6700,ILCE-QX1,"
            "ILCE-3500,ILCA-77M2,NEX-5N,NEX-C3,NEX-VG20E,SLT-A57,SLT-A55V,SLT-A99V,DSLR-A390,"
            "DSLR-A900,ZV-1,ZV-1M2,ZV-E10,ZV-E10M2,ILME-FX3,ILME-FX30,ILX-LR1",
        ),
        (
            NIKON,
            "NIKON D1,NIKON D2HS,NIKON D3S,NIKON D4S,NIKON D5,NIKON D50,NIKON D500,NIKON D5000,"
            "NIKON D70s,NIKON D750,NIKON D800E,NIKON D810A,NIKON D850,NIKON Df,NIKON Z 6,"
            "NIKON Z 6_2,NIKON Z6_3,NIKON Z 7_2,NIKON Z 8,NIKON Z fc,NIKON 1 J1,NIKON 1 V3",
        ),
        (
            CANON,
            "Canon EOS R,Canon EOS R6 Mark II,Canon EOS R5 C,Canon EOS 5DS R,Canon EOS 80D,"
            "Canon EOS 400D DIGITAL,Canon EOS M50",
        ),
        ("OLYMPUS CORPORATION", "E-M10MarkII,E-M1,TG-6"),
        ("Panasonic", "DC-S5M2,DC-GH5M2,DMC-GM1S"),
        ("FUJIFILM", "X-T10,X-T30 II,X-T5,GFX 50R"),
        ("RICOH IMAGING COMPANY, LTD.", "PENTAX K-1 Mark II,PENTAX K-3 II,RICOH GR IIIx"),
    ],
)
def test_regular_models_have_their_own_matrix_as_files_spell_them(make: str, models: str) -> None:
    """Also where one line of LibRaw's table is meant for several of them."""
    others = {name: relative(make, name) for name in models.split(",")}
    assert set(others.values()) == {None}, others


def test_no_camera_that_libraw_lists_has_a_relatives_matrix() -> None:
    listed = libraw.supported_models()
    assert len(listed) > 1000
    for line in listed:
        make, _, model = line.partition(" ")
        model = re.split(r" /|,| ?\(", model)[0]
        matrix = libraw.table_matrix(make, model)
        assert matrix == NONE or relative_of(Camera(make=make, model=model), matrix) is None, line


@pytest.mark.parametrize(
    ("make", "model", "other"),
    [
        (SONY, "DSC-RX1RM3", "DSC-RX1R"),
        (SONY, "ILCE-7M5", "ILCE-7"),
        (SONY, "ILCE-1M2", "ILCE-1"),
        (SONY, "ILCE-7SM4", "ILCE-7S"),
        (SONY, "DSC-RX100M8", "DSC-RX100M..."),
        (SONY, "ILCE-6800", "ILCE-..."),
        (NIKON, "NIKON D7501", "NIKON D750"),
        (NIKON, "NIKON Z 8_2", "NIKON Z 8"),
        (CANON, "Canon EOS R6m3", "Canon EOS R6"),
        ("FUJIFILM", "X-T30 III", "X-T30 II"),
    ],
)
def test_a_model_that_libraw_does_not_know_has_a_relatives_and_it_is_named(
    make: str, model: str, other: str
) -> None:
    assert relative(make, model) == other


def test_a_camera_that_its_name_does_not_lead_to_was_known_by_something_else() -> None:
    """Canon's raws have a number of the model in them, the same under all its names."""
    matrix = libraw.table_matrix(CANON, "Canon EOS 600D")
    assert libraw.table_matrix(CANON, "Canon EOS REBEL T3i") not in (matrix, NONE)
    assert relative_of(Camera(make=CANON, model="Canon EOS REBEL T3i"), matrix) is None


def test_without_libraws_list_only_the_name_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.raw.matrix._listed", frozenset)
    matrix = libraw.table_matrix(SONY, "ILCE-7M5")
    assert relative_of.__wrapped__(Camera(make=SONY, model="ILCE-7M5"), matrix) == "ILCE-7..."


@pytest.mark.parametrize(("make", "model"), [("", ""), ("S", "A"), (SONY, "ILCE-7" + 200 * "x")])
def test_names_that_no_camera_has_are_looked_up_too(make: str, model: str) -> None:
    matrix = libraw.table_matrix(make, model)
    assert (matrix == NONE) == (make != SONY)
    assert relative_of(Camera(make=make, model=model), matrix) == (
        "ILCE-7" if make == SONY else None
    )


def dng_colour(values: tuple[float, ...] = OWN, illuminant: int = 21) -> DngColour:
    return DngColour((Calibration(illuminant, values, ()),), ())


def table_levels(matrix: Matrix3) -> Levels:
    return replace(levels_with(), xyz_to_camera=matrix)


KNOWN, NEWER = Camera(make=SONY, model="ILCE-7RM3"), Camera(make=SONY, model="DSC-RX1RM3")
NOBODY = Camera(make="SIGMA", model="SIGMA fp")


def test_the_table_counts_for_a_model_of_its_own_whatever_the_file_says() -> None:
    levels = table_levels(libraw.table_matrix(KNOWN.make, KNOWN.model))
    assert settled(levels, KNOWN, dng_colour()) == levels
    assert settled(levels, KNOWN, None) == levels


@pytest.mark.parametrize("camera", [NEWER, NOBODY], ids=["newer than LibRaw", "unknown"])
def test_else_the_files_own_matrix_counts(camera: Camera) -> None:
    levels = table_levels(libraw.table_matrix(camera.make, camera.model))
    made = settled(levels, camera, dng_colour())
    assert (made.xyz_to_camera, made.origin) == (matrix3(OWN), MatrixOrigin("file"))
    assert not made.matrix_problem


def test_else_a_relatives_which_is_said() -> None:
    levels = table_levels(libraw.table_matrix(NEWER.make, NEWER.model))
    for colour in (None, dng_colour(illuminant=17)):
        made = settled(levels, NEWER, colour)
        assert made.xyz_to_camera == levels.xyz_to_camera
        assert made.origin == MatrixOrigin("relative", "DSC-RX1R")


def test_else_there_is_none_and_the_reason_is_known() -> None:
    levels = table_levels(NONE)
    for colour, reason in ((None, "no DNG"), (dng_colour(illuminant=17), "none for daylight")):
        made = settled(levels, NOBODY, colour)
        assert made.xyz_to_camera == NONE
        assert "SIGMA fp" in made.matrix_problem
        assert reason in made.matrix_problem


def test_fast_decoders_take_a_dngs_matrix_from_the_same_place() -> None:
    assert with_own_matrix(levels_with(), None) == levels_with()
    made = with_own_matrix(levels_with(), dng_colour())
    assert (made.xyz_to_camera, made.origin) == (matrix3(OWN), MatrixOrigin("file"))
    none = with_own_matrix(levels_with(), dng_colour(illuminant=17))
    assert none.xyz_to_camera == NONE
    assert "none for daylight" in none.matrix_problem


@pytest.mark.parametrize("model", ["SIGMA fp", "DSC-RX1RM3"])
def test_all_decoders_find_one_matrix_in_a_dng_that_libraw_has_none_for(model: str) -> None:
    file = dng_bytes(noise(), dng=DngFile(model=model, make="SONY", color_matrix=OWN))
    slow, fast = (decode(file, name, path="a.dng").levels for name in ("libraw", "flashraw"))
    assert slow == fast
    assert slow.xyz_to_camera == matrix3(OWN)


def test_a_raw_of_a_camera_newer_than_libraw_says_whose_matrix_it_has() -> None:
    file = arw_bytes(noise(), camera=replace(SONY_RX100M7, model="DSC-RX1RM3"))
    assert decode(file, "libraw", path="a.ARW").levels.origin.model == "DSC-RX1R"
    assert NIKON_D750.model == "NIKON D750"
