"""The pass from mosaic to stored levels against plain evaluations of the same contract."""

from __future__ import annotations

import io
import warnings
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rawpy
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.develop.colour import camera_to_xyz, fixed_point
from pipeline.develop.frame import choose_frame
from pipeline.develop.steps import Level, develop, level_size
from pipeline.raw.cfa import PATTERNS, shifted
from pipeline.raw.facts import Geometry, largest_code
from pipeline.raw.reader import decode, probe
from pipeline.sample_set import NIKON_D750, SONY_RX100M7, CameraFile, arw_bytes, nef_bytes
from schemas.fixed_point import FixedPoint
from schemas.recipe import Colour, LevelName, Recipe
from schemas.sidecar import CfaPattern, Frame, Matrix3, Orientation, Rect, Sensor
from tests.kit.orientation import ORIENTATIONS
from tests.kit.orientation import shown as upright
from tests.kit.places import NIKON_D1
from tests.kit.stored import histogram

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.uint16]

needs_the_real_raw = pytest.mark.skipif(
    not NIKON_D1.is_file(), reason=f"the real raw is not beside the checkout ({NIKON_D1})"
)

D750: Matrix3 = ((0.9020, -0.2890, -0.0715), (-0.4535, 1.2436, 0.2348), (-0.0934, 0.1919, 0.7086))
RX100M7: Matrix3 = (
    (1.0315, -0.4390, -0.0937),
    (-0.4859, 1.2734, 0.2365),
    (-0.0734, 0.1537, 0.5997),
)
UNEVEN = {D750: (600.0, 604.0, 612.0, 608.0), RX100M7: (800.0, 797.0, 803.0, 801.0)}

#: Beyond the half code of rounding: what single precision may add over the whole range.
PACKED_SLACK = 0.02
#: The average of many pixels adds the rounding of its weights.
RESIZED_SLACK = 0.05
#: LibRaw truncates after every step; measured against the float formula, in 1/65535.
LIBRAW_TRUNCATION = 2.65


def camera_frame(
    raw_size: tuple[int, int],
    *,
    crop: tuple[int, int, int, int] | None = None,
    orientation: Orientation = 1,
) -> Frame:
    whole = Rect(x=0, y=0, width=raw_size[0], height=raw_size[1])
    x, y, width, height = crop or (0, 0, *raw_size)
    camera_crop = Rect(x=x, y=y, width=width, height=height)
    return choose_frame(Geometry(raw_size, whole, camera_crop, orientation))


def sensor_of(matrix: Matrix3, cfa: CfaPattern, frame: Frame, *, white: float = 16383) -> Sensor:
    """`cfa` as seen from the full sensor's corner."""
    at_crop = shifted(cfa, x=frame.crop.x, y=frame.crop.y)
    return Sensor(cfa=at_crop, black=UNEVEN[matrix], white=white, xyz_to_camera=matrix)


def noise(
    shape: tuple[int, int], *, seed: int = 0, low: int = 0, high: int = 17408
) -> npt.NDArray[np.uint16]:
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.uint16)


def camera_rgb(mosaic: Codes, frame: Frame, sensor: Sensor, cfa: CfaPattern) -> Floats:
    """Contract 3 in double precision: cam = (p - b) / (w - min b), G the mean of two, no clip.

    `cfa` is the pattern of the *full* sensor: every site's colour is looked up where it lies.
    """
    red_row = cfa.index("R") // 2
    planes = {}
    for row in (0, 1):
        for column in (0, 1):
            letter = cfa[2 * row + column]
            name = letter if letter != "G" else ("G1" if row == red_row else "G2")
            index = ("R", "G1", "B", "G2").index(name)
            top = frame.crop.y + (row - frame.crop.y) % 2
            left = frame.crop.x + (column - frame.crop.x) % 2
            sites = mosaic[
                top : frame.crop.y + frame.crop.height : 2,
                left : frame.crop.x + frame.crop.width : 2,
            ].astype(np.float64)
            planes[name] = (sites - sensor.black[index]) / (sensor.white - min(sensor.black))
    return np.stack([planes["R"], (planes["G1"] + planes["G2"]) / 2, planes["B"]])


def plain_xyz(mosaic: Codes, frame: Frame, sensor: Sensor, cfa: CfaPattern) -> Floats:
    rgb = camera_rgb(mosaic, frame, sensor, cfa)
    inverse = np.linalg.inv(np.array(sensor.xyz_to_camera))
    return np.asarray(np.einsum("ij,jyx->iyx", inverse, rgb), np.float64)


def area_average(planes: Floats, size: tuple[int, int]) -> Floats:
    """Exact: each axis repeated n_out times, then averaged in groups of n_in."""
    width, height = size
    tall = planes.repeat(height, axis=1)
    tall = tall.reshape(3, height, planes.shape[1], planes.shape[2]).mean(axis=2)
    wide = tall.repeat(width, axis=2).reshape(3, height, width, planes.shape[2])
    return np.asarray(wide.mean(axis=3), np.float64)


def in_codes(values: Floats, point: FixedPoint) -> Floats:
    return (values - point.add_offset) / point.scale_factor


def decoded(level: Level, point: FixedPoint) -> Floats:
    return level.stored.astype(np.float64) * point.scale_factor + point.add_offset


def worst(level: Level, expected: Floats, point: FixedPoint) -> float:
    assert level.stored.shape == expected.shape
    return float(np.abs(level.stored - in_codes(expected, point)).max())


@pytest.mark.parametrize("matrix", [D750, RX100M7], ids=["D750", "RX100M7"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("cfa", PATTERNS)
@pytest.mark.parametrize("crop", [(0, 0, 76, 56), (6, 4, 62, 44), (7, 5, 61, 43), (7, 4, 62, 43)])
def test_both_levels_are_the_contract_to_within_half_a_code(
    matrix: Matrix3,
    orientation: Orientation,
    cfa: CfaPattern,
    crop: tuple[int, int, int, int],
) -> None:
    mosaic = noise((56, 76), seed=7)
    frame = camera_frame((76, 56), crop=crop, orientation=orientation)
    sensor = sensor_of(matrix, cfa, frame)
    recipe, point = Recipe(fit=(23, 17)), fixed_point(sensor, "xyz")
    levels = develop(mosaic, frame, sensor, recipe, point)

    expected = plain_xyz(mosaic, frame, sensor, cfa)
    assert worst(levels["packed"], upright(expected, orientation), point) <= 0.5 + PACKED_SLACK
    size = level_size((frame.crop.width, frame.crop.height), "resized", recipe)
    small = upright(area_average(expected, size), orientation)
    assert worst(levels["resized"], small, point) <= 0.5 + RESIZED_SLACK
    for name, level in levels.items():
        assert level.stored.flags.c_contiguous
        assert level_size(frame.size, name, recipe) == level.stored.shape[:0:-1]
        assert level.scale_x == level.stored.shape[2] / frame.size[0]
        assert level.scale_y == level.stored.shape[1] / frame.size[1]


@given(
    half=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    margin=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    fit=st.tuples(st.integers(16, 30), st.integers(0, 20)),
    cfa=st.sampled_from(PATTERNS),
    orientation=st.sampled_from(ORIENTATIONS),
    matrix=st.sampled_from([D750, RX100M7]),
    black=st.tuples(*[st.integers(0, 900)] * 4),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=80, deadline=None)
def test_any_small_mosaic_is_developed_as_the_contract_says(
    half: tuple[int, int],
    margin: tuple[int, int],
    fit: tuple[int, int],
    cfa: CfaPattern,
    orientation: Orientation,
    matrix: Matrix3,
    black: tuple[int, int, int, int],
    seed: int,
) -> None:
    width, height = 2 * half[0] + margin[0] + 2, 2 * half[1] + margin[1] + 2
    crop = (*margin, 2 * half[0] + 1, 2 * half[1] + 1)
    mosaic = noise((height, width), seed=seed)
    frame = camera_frame((width, height), crop=crop, orientation=orientation)
    levels_in_dn = (float(black[0]), float(black[1]), float(black[2]), float(black[3]))
    sensor = sensor_of(matrix, cfa, frame).model_copy(update={"black": levels_in_dn})
    recipe = Recipe(fit=(fit[0] + fit[1], fit[0]))
    point = fixed_point(sensor, "xyz")
    levels = develop(mosaic, frame, sensor, recipe, point)
    expected = plain_xyz(mosaic, frame, sensor, cfa)
    assert worst(levels["packed"], upright(expected, orientation), point) <= 0.5 + PACKED_SLACK
    size = level_size((frame.crop.width, frame.crop.height), "resized", recipe)
    small = upright(area_average(expected, size), orientation)
    assert worst(levels["resized"], small, point) <= 0.5 + RESIZED_SLACK


def test_a_hand_made_mosaic_gives_hand_computed_xyz() -> None:
    # Black 100, white 1100, identity matrix: R = .5, G = (.2 + .4) / 2, B = -.1 (below black).
    cell = [[600, 300], [500, 0]]
    mosaic = np.tile(np.array(cell, np.uint16), (2, 2))
    frame = camera_frame((4, 4))
    identity: Matrix3 = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    sensor = Sensor(cfa="RGGB", black=(100.0,) * 4, white=1100, xyz_to_camera=identity)
    point = fixed_point(sensor, "xyz")
    values = decoded(develop(mosaic, frame, sensor, Recipe(), point)["packed"], point)
    assert values.shape == (3, 2, 2)
    np.testing.assert_allclose(values[:, 0, 0], [0.5, 0.3, -0.1], atol=point.scale_factor / 2)
    assert np.ptp(values, axis=(1, 2)).max() == 0


def test_samples_at_black_are_exactly_zero_and_noise_below_it_keeps_its_sign() -> None:
    frame = camera_frame((64, 48))
    sensor = sensor_of(D750, "RGGB", frame).model_copy(update={"black": (600.0,) * 4})
    point = fixed_point(sensor, "xyz")
    black = np.full((48, 64), 600, np.uint16)
    at_black = develop(black, frame, sensor, Recipe(), point)
    assert not decoded(at_black["packed"], point).any()
    assert at_black["packed"].statistics["Y"].share_below_zero == 0

    below = develop(black - 10, frame, sensor, Recipe(), point)["packed"]
    expected = -10 / (16383 - 600) * np.linalg.inv(np.array(D750)).sum(axis=1)
    values = decoded(below, point)
    np.testing.assert_allclose(values[:, 0, 0], expected, atol=point.scale_factor)
    assert (values < 0).all()
    assert below.statistics["Y"].share_below_zero == 1


def test_the_mean_of_a_dark_frame_is_not_biased_upwards() -> None:
    # Clipping at black would lift this mean by about 0.4 standard deviations of the noise.
    rng = np.random.default_rng(3)
    mosaic = np.rint(rng.normal(600, 20, (400, 600))).clip(0, 16383).astype(np.uint16)
    frame = camera_frame((600, 400))
    sensor = sensor_of(D750, "RGGB", frame).model_copy(update={"black": (600.0,) * 4})
    levels = develop(mosaic, frame, sensor, Recipe(), fixed_point(sensor, "xyz"))
    for level in levels.values():
        assert abs(level.statistics["Y"].mean * (16383 - 600)) < 0.5
        assert 0.45 < level.statistics["Y"].share_below_zero < 0.55


def test_the_largest_samples_do_not_saturate_and_do_not_wrap() -> None:
    frame = camera_frame((64, 48))
    for matrix in (D750, RX100M7):
        sensor = sensor_of(matrix, "RGGB", frame)
        point = fixed_point(sensor, "xyz")
        rng = np.random.default_rng(1)
        extremes = rng.choice([0, largest_code(sensor)], (48, 64)).astype(np.uint16)
        levels = develop(extremes, frame, sensor, Recipe(), point)
        expected = plain_xyz(extremes, frame, sensor, "RGGB")
        assert worst(levels["packed"], expected, point) <= 0.5 + PACKED_SLACK


def test_the_camera_recipe_is_camera_rgb_without_a_matrix() -> None:
    mosaic = noise((44, 60), seed=2)
    frame = camera_frame((60, 44))
    zeros: Matrix3 = ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    sensor = sensor_of(D750, "GBRG", frame)
    unknown = sensor.model_copy(update={"xyz_to_camera": zeros})
    recipe = Recipe(colour="camera")
    point = fixed_point(unknown, "camera")
    levels = develop(mosaic, frame, unknown, recipe, point)
    expected = camera_rgb(mosaic, frame, sensor, "GBRG")
    assert worst(levels["packed"], expected, point) <= 0.5 + PACKED_SLACK
    assert tuple(levels["packed"].statistics) == recipe.planes == ("R", "G", "B")


def test_a_small_image_is_not_enlarged_both_levels_are_the_same() -> None:
    mosaic = noise((44, 60))
    frame = camera_frame((60, 44), orientation=6)
    sensor = sensor_of(RX100M7, "RGGB", frame)
    levels = develop(mosaic, frame, sensor, Recipe(), fixed_point(sensor, "xyz"))
    np.testing.assert_array_equal(levels["packed"].stored, levels["resized"].stored)
    assert levels["packed"].statistics == levels["resized"].statistics
    assert (levels["resized"].scale_x, levels["resized"].scale_y) == (0.5, 0.5)


def test_an_image_of_one_colour_stays_that_colour_when_resized() -> None:
    mosaic = np.tile(np.array([[5000, 7001], [7003, 3000]], np.uint16), (90, 131))
    frame = camera_frame((262, 180))
    sensor = sensor_of(D750, "RGGB", frame)
    recipe, point = Recipe(fit=(40, 30)), fixed_point(sensor, "xyz")
    levels = develop(mosaic, frame, sensor, recipe, point)
    expected = plain_xyz(mosaic, frame, sensor, "RGGB")[:, :1, :1]
    error = np.abs(levels["resized"].stored - in_codes(expected, point)).max()
    assert error <= 0.5 + RESIZED_SLACK


@pytest.mark.parametrize("wanted", [("packed",), ("resized",), ("resized", "packed")])
def test_only_the_levels_asked_for_are_made_and_they_are_the_same(
    wanted: tuple[LevelName, ...],
) -> None:
    mosaic = noise((56, 76))
    frame = camera_frame((76, 56), orientation=8)
    sensor = sensor_of(D750, "RGGB", frame)
    point = fixed_point(sensor, "xyz")
    both = develop(mosaic, frame, sensor, Recipe(fit=(23, 17)), point)
    some = develop(mosaic, frame, sensor, Recipe(fit=(23, 17), levels=wanted), point)
    assert tuple(some) == wanted
    for name, level in some.items():
        np.testing.assert_array_equal(level.stored, both[name].stored)
        assert level.statistics == both[name].statistics


def test_developing_twice_gives_the_same_bytes_and_a_sliced_mosaic_too() -> None:
    mosaic = noise((56, 76))
    frame = camera_frame((76, 56))
    sensor = sensor_of(D750, "RGGB", frame)
    point = fixed_point(sensor, "xyz")
    strided = np.zeros((112, 152), np.uint16)
    strided[::2, ::2] = mosaic
    runs = [
        develop(pixels, frame, sensor, Recipe(), point)["packed"].stored.tobytes()
        for pixels in (mosaic, mosaic, strided[::2, ::2])
    ]
    assert len(set(runs)) == 1


@pytest.mark.parametrize(
    ("frame_size", "expected"),
    [((5472, 3648), (1200, 800)), ((3648, 5472), (800, 1200)), ((3936, 2624), (1200, 800))],
)
def test_level_sizes_of_the_known_cameras(
    frame_size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert level_size(frame_size, "resized", Recipe()) == expected
    assert level_size(frame_size, "packed", Recipe()) == (frame_size[0] // 2, frame_size[1] // 2)


@pytest.mark.parametrize("colour", ["xyz", "xyz-balanced", "camera"])
def test_statistics_are_numpys_on_the_decoded_level(colour: Colour) -> None:
    mosaic = noise((76, 110), seed=9, low=400, high=2500)
    frame = camera_frame((110, 76), orientation=3)
    sensor = sensor_of(RX100M7, "GRBG", frame)
    recipe, point = Recipe(colour=colour, fit=(33, 21)), fixed_point(sensor, colour)
    for level in develop(mosaic, frame, sensor, recipe, point).values():
        np.testing.assert_array_equal(histogram(level.stored).sum(axis=1), level.stored[0].size)
        planes = zip(level.statistics.values(), decoded(level, point), strict=True)
        for statistics, values in planes:
            assert statistics.mean == pytest.approx(values.mean(), rel=1e-9, abs=1e-12)
            # Zero's own code is exact, so half a step below it is as good as below it.
            below = np.count_nonzero(values < -point.scale_factor / 2)
            assert statistics.share_below_zero == below / values.size
            for name, percent in {"p1": 1, "p50": 50, "p99": 99}.items():
                expected = np.percentile(values, percent, method="inverted_cdf")
                assert getattr(statistics, name) == pytest.approx(expected, rel=1e-12, abs=1e-15)


# --- against LibRaw's own conversion -------------------------------------------------------------


def libraw_output(file: bytes, space: Any) -> Floats:
    """LibRaw's 16-bit linear output at half size, (3, h, w), as shares of full scale."""
    with rawpy.imread(io.BytesIO(file)) as raw:
        image = raw.postprocess(
            output_color=space,
            gamma=(1, 1),
            no_auto_bright=True,
            half_size=True,
            output_bps=16,
            user_flip=0,
            adjust_maximum_thr=0,
            highlight_mode=rawpy.HighlightMode.Clip,
        )
    return np.moveaxis(image.astype(np.float64) / 65535, -1, 0)


def balanced(file: bytes) -> tuple[Floats, FixedPoint]:
    """Our LibRaw recipe of the whole visible area."""
    facts = probe(file, whole=True, path="")
    assert facts is not None
    area = facts.geometry.active_area
    frame = camera_frame(facts.geometry.raw_size, crop=(area.x, area.y, area.width, area.height))
    mosaic = decode(file, "libraw", path="")
    sensor = mosaic.levels.sensor(frame)
    point = fixed_point(sensor, "xyz-balanced")
    recipe = Recipe(colour="xyz-balanced", levels=("packed",))
    return decoded(develop(mosaic.mosaic, frame, sensor, recipe, point)["packed"], point), point


def camera_file(camera: CameraFile, mosaic: Codes) -> bytes:
    if camera.make == "SONY":
        return arw_bytes(mosaic, compression="uncompressed", camera=camera)
    return nef_bytes(mosaic, compression="uncompressed", camera=camera)


CAMERAS = {
    "D750": NIKON_D750,
    "RX100M7": SONY_RX100M7,
    "D750 uneven black": replace(NIKON_D750, black=(600, 604, 608, 612)),
    "D750 BGGR": replace(NIKON_D750, cfa="BGGR"),
    "RX100M7 GRBG": replace(SONY_RX100M7, cfa="GRBG"),
}


def assert_balanced_is_libraws_xyz(file: bytes) -> tuple[int, ...]:
    """Compare the balanced recipe's XYZ with LibRaw's own; its shape."""
    ours, point = balanced(file)
    theirs = libraw_output(file, rawpy.ColorSpace.XYZ)
    assert ours.shape == theirs.shape
    error = np.abs(ours - theirs).max() * 65535
    assert error <= LIBRAW_TRUNCATION + point.scale_factor / 2 * 65535 + 0.05
    return ours.shape


@pytest.mark.parametrize("exposure", [0.03, 0.3, 1.0])
@pytest.mark.parametrize("camera", CAMERAS.values(), ids=CAMERAS)
def test_the_balanced_recipe_is_libraws_own_xyz(camera: CameraFile, exposure: float) -> None:
    black = min(camera.black)
    top = round(black + exposure * (16383 - black))
    mosaic = noise((96, 128), seed=4, low=black - 60, high=top + 1)
    file = camera_file(camera, mosaic)
    assert_balanced_is_libraws_xyz(file)


@pytest.mark.shared_data
@needs_the_real_raw
def test_the_balanced_recipe_is_libraws_own_xyz_on_a_real_raw() -> None:
    assert assert_balanced_is_libraws_xyz(NIKON_D1.read_bytes()) == (3, 662, 1006)


@pytest.mark.shared_data
@needs_the_real_raw
def test_a_real_raw_develops_to_the_contract() -> None:
    file = NIKON_D1.read_bytes()
    raw = decode(file, "flashraw", path=NIKON_D1.name)
    height, width = raw.mosaic.shape
    frame = camera_frame((width, height))
    sensor = raw.levels.sensor(frame)
    recipe, point = Recipe(fit=(300, 200)), fixed_point(sensor, "xyz")
    levels = develop(raw.mosaic, frame, sensor, recipe, point)
    expected = plain_xyz(raw.mosaic, frame, sensor, "BGGR")
    assert worst(levels["packed"], expected, point) <= 0.5 + PACKED_SLACK
    size = level_size(frame.size, "resized", recipe)
    assert worst(levels["resized"], block_average(expected, size), point) <= 0.5 + RESIZED_SLACK


def block_average(planes: Floats, size: tuple[int, int]) -> Floats:
    """Exact area average by differences of the running integral: little memory."""
    for axis, n_out in ((2, size[0]), (1, size[1])):
        n_in = planes.shape[axis]
        integral = np.concatenate(
            [np.zeros_like(planes.take([0], axis)), planes.cumsum(axis)], axis=axis
        )
        edges = np.arange(n_out + 1) * n_in / n_out
        whole = np.minimum(edges.astype(int), n_in - 1)
        shape = [1, 1, 1]
        shape[axis] = n_out + 1
        part = (edges - whole).reshape(shape)
        at_edges = integral.take(whole, axis) * (1 - part) + integral.take(whole + 1, axis) * part
        planes = np.diff(at_edges, axis=axis) * n_out / n_in
    return planes


# --- against colour-science ----------------------------------------------------------------------


@cache
def colour_science() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks for scipy and matplotlib, not used here
        import colour
    return colour


def patches(count: int = 24) -> Floats:
    """(n, 3) linear sRGB inside the gamut, black and white among them."""
    rgb = np.random.default_rng(24).uniform(0.02, 0.6, (count, 3))
    rgb[:2] = [[0.001] * 3, [0.6] * 3]
    return rgb


def photographed(xyz: Floats, matrix: Matrix3, camera: CameraFile) -> Codes:
    """A mosaic of 2x2-cell patches, 16 cells each, in rows: what the sensor records of `xyz`."""
    black = min(camera.black)
    rgb = xyz @ np.array(matrix).T
    samples = np.rint(black + rgb * (16383 - black)).astype(np.uint16)
    cells = samples[:, [[0, 1], [1, 2]]]  # (n, 2, 2) RGGB
    rows = [np.tile(cell, (11, 16)) for cell in cells]
    return np.concatenate([np.concatenate(rows[i::4], axis=1) for i in range(4)], axis=0)


def patch_values(planes: Floats, count: int) -> Floats:
    across = count // 4
    return np.stack([planes[:, 11 * (i % 4) + 5, 16 * (i // 4) + 8] for i in range(4 * across)])


CAMERA_MATRICES = [(NIKON_D750, D750), (SONY_RX100M7, RX100M7)]


@pytest.mark.parametrize(("camera", "matrix"), CAMERA_MATRICES, ids=["D750", "RX100M7"])
def test_photographed_patches_come_back_as_the_xyz_colour_science_gives_them(
    camera: CameraFile, matrix: Matrix3
) -> None:
    colour = colour_science()
    truth = np.asarray(colour.RGB_to_XYZ(patches(), "sRGB", apply_cctf_decoding=False))
    file = camera_file(camera, photographed(truth, matrix, camera))
    raw = decode(file, "flashraw", path="")
    frame = camera_frame((raw.mosaic.shape[1], raw.mosaic.shape[0]))
    sensor = raw.levels.sensor(frame)
    point = fixed_point(sensor, "xyz")
    level = develop(raw.mosaic, frame, sensor, Recipe(levels=("packed",)), point)["packed"]
    found = patch_values(decoded(level, point), len(truth))
    # Half a DN of the synthetic sensor through the inverse matrix, and half a code of the store.
    gain = np.abs(camera_to_xyz(matrix)).sum(axis=1).max()
    step = gain * 0.5 / (16383 - min(camera.black)) + point.scale_factor / 2
    assert np.abs(found - truth).max() <= step * 1.01
    bright = truth[:, 1] > 0.05
    found_xy, true_xy = colour.XYZ_to_xy(found[bright]), colour.XYZ_to_xy(truth[bright])
    assert np.abs(found_xy - true_xy).max() < 2e-3


@pytest.mark.parametrize(("camera", "matrix"), CAMERA_MATRICES, ids=["D750", "RX100M7"])
def test_xyz_rendered_by_colour_science_is_libraws_linear_srgb(
    camera: CameraFile, matrix: Matrix3
) -> None:
    colour = colour_science()
    truth = np.asarray(colour.RGB_to_XYZ(patches(), "sRGB", apply_cctf_decoding=False))
    file = camera_file(camera, photographed(truth, matrix, camera))
    xyz, _ = balanced(file)
    rendered = colour.XYZ_to_RGB(np.moveaxis(xyz, 0, -1), "sRGB", apply_cctf_encoding=False)
    theirs = np.moveaxis(libraw_output(file, rawpy.ColorSpace.sRGB), 0, -1)
    # 12/65535 is what LibRaw's own rounding of the sRGB matrix costs; ours adds half a code,
    # through a matrix whose rows sum to at most 5.3.
    assert np.abs(rendered.clip(0, 1) - theirs).max() * 65535 <= 12 + 5.3 * 0.5
    assert np.abs(rendered - theirs).mean() * 65535 <= 6


@pytest.mark.parametrize(("camera", "matrix"), CAMERA_MATRICES, ids=["D750", "RX100M7"])
def test_the_matrix_the_wrong_way_round_would_not_pass(camera: CameraFile, matrix: Matrix3) -> None:
    colour = colour_science()
    truth = np.asarray(colour.RGB_to_XYZ(patches(), "sRGB", apply_cctf_decoding=False))
    file = camera_file(camera, photographed(truth, matrix, camera))
    raw = decode(file, "libraw", path="")
    frame = camera_frame((raw.mosaic.shape[1], raw.mosaic.shape[0]))
    inverse = np.linalg.inv(np.array(matrix))
    rows = [(float(row[0]), float(row[1]), float(row[2])) for row in inverse]
    reversed_matrix: Matrix3 = (rows[0], rows[1], rows[2])  # so that its "inverse" is C itself
    sensor = raw.levels.sensor(frame).model_copy(update={"xyz_to_camera": reversed_matrix})
    point = fixed_point(sensor, "xyz")
    level = develop(raw.mosaic, frame, sensor, Recipe(levels=("packed",)), point)["packed"]
    found = patch_values(decoded(level, point), len(truth))
    assert np.abs(found - truth).max() > 0.05
