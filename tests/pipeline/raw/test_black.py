"""A black level against the samples it is said to be that of."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.develop.frame import choose_frame
from pipeline.errors import UnsupportedRawError
from pipeline.raw.black import (
    SHARED_BY,
    BlackWatch,
    check_black,
    is_far_from_black,
    no_dark_sample,
)
from pipeline.raw.facts import Geometry
from schemas.finding import Finding
from schemas.sidecar import Camera, Frame, Rect, Sensor
from tests.kit.raw_files import levels_with

Mosaic = npt.NDArray[np.uint16]

#: Width and height of the sensor, and its columns and rows of covered pixels: left and on top.
SENSOR, COVERED = (256, 192), (40, 16)
WHOLE = (0, 0, *SENSOR)
MARGINS = (*COVERED, SENSOR[0] - COVERED[0], SENSOR[1] - COVERED[1])


def frame_with(active: tuple[int, int, int, int]) -> Frame:
    x, y, width, height = active
    return choose_frame(Geometry(SENSOR, Rect(x=x, y=y, width=width, height=height), None, 1))


def sensor_with(black: float, white: float = 16383) -> Sensor:
    return levels_with(black=(black,) * 4, white=white).sensor(frame_with(WHOLE))


def light(
    *, pedestal: int, least: float = 0, most: float = 3000, noise: float = 8, seed: int = 0
) -> Mosaic:
    """From the darkest place, `least` DN of light, to the brightest; then noise, pedestal, 0."""
    random = np.random.default_rng(seed)
    shape = SENSOR[::-1]
    scene = least + (most - least) * random.random(shape) ** 3
    seen = scene + random.normal(0, 1, shape) * np.sqrt(noise**2 + scene / 3)
    return np.clip(np.rint(pedestal + seen), 0, 16383).astype(np.uint16)


def covered(mosaic: Mosaic, level: float, noise: float = 8) -> Mosaic:
    """The same with covered pixels around the picture, of that level."""
    random = np.random.default_rng(1)
    made = mosaic.copy()
    values = np.clip(np.rint(level + random.normal(0, noise, mosaic.shape)), 0, 16383)
    made[: COVERED[1]] = values[: COVERED[1]]
    made[:, : COVERED[0]] = values[:, : COVERED[0]]
    return made


def darkest(mosaic: Mosaic, black: float, active: tuple[int, int, int, int] = WHOLE) -> int:
    return check_black(mosaic, frame_with(active), sensor_with(black), path="a.NEF")


def is_reported(mosaic: Mosaic, black: float, active: tuple[int, int, int, int] = WHOLE) -> bool:
    return is_far_from_black(darkest(mosaic, black, active), sensor_with(black))


@pytest.mark.parametrize("pedestal", [0, 64, 512, 1008, 2048])
def test_the_darkest_thousandth_is_what_numpy_says(pedestal: int) -> None:
    mosaic = light(pedestal=pedestal)
    wanted = np.percentile(mosaic, 0.1, method="inverted_cdf")
    assert darkest(mosaic, pedestal) == wanted


@pytest.mark.parametrize("pedestal", [512, 1008, 2048])
@pytest.mark.parametrize("noise", [4, 40])
def test_a_pedestal_under_a_black_of_0_is_reported(pedestal: int, noise: float) -> None:
    assert is_reported(light(pedestal=pedestal, noise=noise), 0)


def test_a_night_picture_whose_black_is_0_is_not_reported() -> None:
    assert not is_reported(light(pedestal=0), 0)


@pytest.mark.parametrize("share", [0.002, 0.02])
def test_one_dark_corner_is_enough(share: float) -> None:
    mosaic = light(pedestal=0, least=5000, most=16000)
    dark = round(share * mosaic.size)
    mosaic.reshape(-1)[:dark] = np.random.default_rng(0).integers(0, 60, dark)
    assert not is_reported(mosaic, 0)


def test_a_bright_picture_is_believed_and_reported_only_where_black_is_0() -> None:
    bright = light(pedestal=0, least=4000, most=16000)
    assert is_reported(bright, 0)
    assert not is_reported(bright, 600)


def test_a_few_dead_pixels_hide_no_pedestal() -> None:
    mosaic = light(pedestal=1008)
    mosaic.reshape(-1)[:: mosaic.size // 20] = 0
    assert is_reported(mosaic, 0)


@pytest.mark.parametrize("pedestal", [64, 512, 1008, 2048])
def test_covered_pixels_contradict_a_black_of_0(pedestal: int) -> None:
    for picture in (light(pedestal=pedestal), light(pedestal=pedestal, least=3000, most=12000)):
        with pytest.raises(UnsupportedRawError, match="covered pixels read") as caught:
            darkest(covered(picture, pedestal), 0, MARGINS)
        assert (caught.value.path, bool(caught.value.mend)) == ("a.NEF", True)


@pytest.mark.parametrize("level", [600, 1008])
def test_a_black_that_somebody_measured_is_not_contradicted(level: int) -> None:
    """By dark current of a long exposure, or by columns of which nobody knows what they are."""
    for picture in (light(pedestal=level), light(pedestal=level, least=3000, most=12000)):
        assert darkest(covered(picture, level), 512, MARGINS) >= 512


@pytest.mark.parametrize("level", [0, 600])
def test_covered_pixels_confirm_black_under_a_bright_picture(level: int) -> None:
    mosaic = covered(light(pedestal=level, least=5000, most=16000), level)
    assert darkest(mosaic, level, MARGINS) == level
    assert not is_reported(mosaic, level, MARGINS)


@pytest.mark.parametrize("filler", [0, 1000])
def test_filler_beside_the_picture_says_nothing(filler: int) -> None:
    bright = covered(light(pedestal=0, least=5000, most=16000), filler, noise=0)
    assert is_reported(bright, 0, MARGINS)
    bright[:, : COVERED[0] : 10] = 77  # and some remains of something in it
    assert is_reported(bright, 0, MARGINS)


def test_lit_pixels_beside_the_picture_say_nothing() -> None:
    """LibRaw leaves a few columns of light out of some cameras' pictures."""
    slope = np.linspace(900, 9000, SENSOR[0])[None] * np.ones((SENSOR[1], 1))
    noise = np.random.default_rng(0).normal(0, 20, slope.shape)
    for scene in (
        light(pedestal=0),
        light(pedestal=0, least=800, most=1000),
        (slope + noise).astype(np.uint16),  # darkest on the side where the strip is
    ):
        assert darkest(scene, 0, MARGINS) >= 0  # and is not refused


@pytest.mark.parametrize("black", [600, 2048])
def test_half_a_picture_far_below_black_is_refused(black: int) -> None:
    mosaic = light(pedestal=black - 400, most=100)
    with pytest.raises(UnsupportedRawError, match=f"black level is said to be {black}"):
        darkest(mosaic, black)


@pytest.mark.parametrize("noise", [3, 50, 250])
def test_noise_around_black_is_believed(noise: float) -> None:
    mosaic = light(pedestal=600, most=0, noise=noise)
    assert not is_reported(mosaic, 600)


def test_what_is_reported_of_a_picture_has_its_numbers() -> None:
    finding = no_dark_sample(987, sensor_with(0), where="a.NEF")
    assert (finding.code, finding.severity, finding.where) == ("no-dark-sample", "info", "a.NEF")
    assert "987 DN (6.0% of white)" in finding.message


def watched(levels: list[int], black: float = 0, white: float = 16383) -> list[Finding]:
    watch = BlackWatch()
    camera = Camera(make="NIKON", model="Z 6")
    for number, level in enumerate(levels):
        watch.note(f"{number:02}.NEF", camera, sensor_with(black, white), level)
    return list(watch.findings())


@pytest.mark.parametrize("levels", [[987], [987, 5000], [300] * 3])
def test_a_camera_without_a_dark_picture_is_reported_once(levels: list[int]) -> None:
    (finding,) = watched(levels)
    assert (finding.code, finding.severity, finding.where) == (
        "doubtful-black",
        "warning",
        "00.NEF",
    )
    assert f"{len(levels)} picture" in finding.message
    assert f"at {min(levels)} DN" in finding.message


@pytest.mark.parametrize("levels", [[20], [5000, 4000, 12], [987] * 20 + [3], []])
def test_one_dark_picture_clears_its_camera(levels: list[int]) -> None:
    assert watched(levels) == []


@pytest.mark.parametrize(("black", "floor"), [(0, 64), (0, 240), (128, 512), (512, 1000)])
def test_a_floor_that_many_pictures_share_is_no_chance(black: float, floor: int) -> None:
    levels = [floor + 2 * (number % 3) for number in range(SHARED_BY)]
    assert len(watched(levels, black)) == 1
    assert watched(levels[1:], black) == []
    assert watched([*levels, 2 * floor], black) == []


def test_pictures_as_dark_as_their_black_are_fine_however_many() -> None:
    assert watched([595, 601, 610, 630] * 10, 600) == []


def test_each_camera_is_judged_by_itself() -> None:
    watch = BlackWatch()
    for model, level in (("Z 6", 987), ("D1", 20), ("Z 6", 1200)):
        watch.note(f"{level}.NEF", Camera(make="NIKON", model=model), sensor_with(0), level)
    (finding,) = watch.findings()
    assert "2 pictures of Z 6" in finding.message


def test_a_picture_that_is_decoded_again_counts_once() -> None:
    watch = BlackWatch()
    for _ in range(SHARED_BY):
        watch.note("a.NEF", Camera(make="NIKON", model="Z 6"), sensor_with(0), 64)
    assert list(watch.findings()) == []
