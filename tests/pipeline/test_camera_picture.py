from __future__ import annotations

import itertools
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.camera_picture import camera_pictures, cell_weights, to_level
from pipeline.develop.frame import choose_frame
from pipeline.develop.resample import area_weights
from pipeline.errors import CorruptRawError, UnsupportedRawError, UsageError
from pipeline.raw.decoders.libraw import default_picture, geometry
from pipeline.sample_set import DngFile, dng_bytes
from pipeline.store import open_store
from schemas.recipe import LevelName
from schemas.sidecar import Frame, Orientation, Rect
from tests.kit.orientation import ORIENTATIONS

Floats = npt.NDArray[np.float64]

SENSOR = (212, 160)  # width, height, full sensor
#: A rectangle in the upright frame, in frame pixels: x1, y1, x2, y2. Nothing about it is central.
BOX = (20, 36, 62, 58)
Box = tuple[int, int, int, int]


def sensor_site(frame: Frame, x: float, y: float) -> tuple[float, float]:
    """Where a point of the upright frame lies on the sensor, written from EXIF's definitions."""
    width, height = frame.crop.width, frame.crop.height
    stored = {
        1: (x, y),  # row 0 is the top, column 0 the left
        2: (width - x, y),  # row 0 is the top, column 0 the right
        3: (width - x, height - y),  # row 0 is the bottom, column 0 the right
        4: (x, height - y),  # row 0 is the bottom, column 0 the left
        5: (y, x),  # row 0 is the left side, column 0 the top
        6: (y, height - x),  # row 0 is the right side, column 0 the top
        7: (width - y, height - x),  # row 0 is the right side, column 0 the bottom
        8: (width - y, x),  # row 0 is the left side, column 0 the bottom
    }[frame.orientation]
    return frame.crop.x + stored[0], frame.crop.y + stored[1]


def scene_with_box(frame: Frame, box: Box) -> npt.NDArray[np.uint16]:
    """A grey mosaic, bright where the box is in the upright frame."""
    corners = [sensor_site(frame, *box[:2]), sensor_site(frame, *box[2:])]
    (left, right), (top, bottom) = (sorted(map(int, axis)) for axis in zip(*corners, strict=True))
    mosaic = np.full(SENSOR[::-1], 3000, np.uint16)
    mosaic[top:bottom, left:right] = 15000
    return mosaic


def coverage(edges: tuple[float, float], size: int) -> Floats:
    """Share of each of `size` pixels that lies between two edges, counted in fine steps."""
    fine = (np.arange(size * 1000) + 0.5) / 1000
    inside: Floats = ((fine > edges[0]) & (fine < edges[1])).reshape(size, 1000).mean(axis=1)
    return inside


def assert_box_is_bright(level: npt.NDArray[np.float32], frame: Frame, box: Box) -> None:
    """What is bright in a level is the box scaled to it, to the fraction of each pixel."""
    _, height, width = level.shape
    scale_x, scale_y = width / frame.size[0], height / frame.size[1]
    across = coverage((box[0] * scale_x, box[2] * scale_x), width)
    down = coverage((box[1] * scale_y, box[3] * scale_y), height)
    for plane in level:
        dark, bright = np.median(plane), plane.max()
        assert bright - dark > 0.3
        found = (plane - dark) / (bright - dark)
        np.testing.assert_allclose(found, np.outer(down, across), atol=2e-3)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("origin", [(0, 0), (6, 10)])
@pytest.mark.parametrize("shrink", [1.0, 2.37])
def test_a_bright_rectangle_lands_where_its_box_is(
    orientation: int, origin: tuple[int, int], shrink: float
) -> None:
    """From the file through LibRaw."""
    x, y = origin
    dng = DngFile(
        active_area=(y, x, SENSOR[1] - 6, SENSOR[0] - 4),
        default_crop=(8, 14, 160, 100),
        orientation=orientation,
    )
    facts = geometry(dng_bytes(np.full(SENSOR[::-1], 3000, np.uint16), dng=dng), path="a.dng")
    assert (facts.active_area.x, facts.active_area.y) == origin
    frame = choose_frame(replace(facts, camera_crop=Rect(x=x + 8, y=y + 14, width=160, height=100)))
    assert frame.orientation == orientation
    data = dng_bytes(scene_with_box(frame, BOX), dng=dng)
    size = (round(frame.size[0] / 2 / shrink), round(frame.size[1] / 2 / shrink))
    level = to_level(default_picture(data, path="a.dng"), frame, size)
    assert level.shape == (3, size[1], size[0])
    assert level.dtype == np.float32
    assert level.flags.c_contiguous
    assert 0 <= level.min() <= level.max() <= 1
    assert_box_is_bright(level, frame, BOX)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("shrink", [1.0, 2.37])
def test_an_active_area_that_begins_on_an_odd_site_shifts_nothing(
    orientation: Orientation, shrink: float
) -> None:
    """LibRaw evens the margins of a DNG, so its cells are averaged here by hand."""
    crop = Rect(x=16, y=26, width=160, height=100)
    frame = Frame(
        raw_size=SENSOR,
        active_area=Rect(x=7, y=11, width=200, height=140),
        crop=crop,
        crop_source="camera",
        orientation_flag=orientation,
        orientation=orientation,
        size=(160, 100) if orientation < 5 else (100, 160),
    )
    # Edges of cells: so every cell is either dark or bright.
    box = (BOX[0] + 1, BOX[1] + 1, BOX[2] + 1, BOX[3] + 1)
    active = scene_with_box(frame, box)[11 : 11 + 140, 7 : 7 + 200]
    cells = active.reshape(70, 2, 100, 2).mean(axis=(1, 3)) / 60
    picture = np.repeat(cells[:, :, None], 3, axis=2).astype(np.uint8)
    size = (round(frame.size[0] / 2 / shrink), round(frame.size[1] / 2 / shrink))
    assert_box_is_bright(to_level(picture, frame, size), frame, box)


@pytest.mark.parametrize(("n_in", "n_out"), [(7, 7), (7, 3), (408, 133), (1, 1)])
def test_whole_cells_are_weighed_as_the_level_weighs_them(n_in: int, n_out: int) -> None:
    ours, theirs = cell_weights(0, 2 * n_in, n_out), area_weights(n_in, n_out)
    np.testing.assert_array_equal(ours.first, theirs.first)
    np.testing.assert_array_equal(ours.weights, theirs.weights)
    np.testing.assert_allclose(cell_weights(3, 2 * n_in, n_out).weights.sum(axis=1), 1, atol=1e-6)


def flat_frame(*, x: int = 0, width: int = 16) -> Frame:
    area = Rect(x=2, y=2, width=16, height=12)
    return Frame(
        raw_size=(24, 20),
        active_area=area,
        crop=Rect(x=x, y=2, width=width, height=12),
        crop_source="camera",
        orientation_flag=1,
        orientation=1,
        size=(width, 12),
    )


def test_a_frame_that_libraw_does_not_render_is_refused() -> None:
    picture = np.zeros((6, 8, 3), np.uint8)
    assert to_level(picture, flat_frame(x=2), (8, 6)).shape == (3, 6, 8)
    for frame in (flat_frame(x=0), flat_frame(x=4)):
        with pytest.raises(UnsupportedRawError, match=r"a\.dng: .*beyond the active area"):
            to_level(picture, frame, (8, 6), path="a.dng")
    with pytest.raises(UnsupportedRawError, match="9x6, expected 8x6"):
        to_level(np.zeros((6, 9, 3), np.uint8), flat_frame(x=2), (8, 6), path="a.dng")


@pytest.mark.parametrize("level", ["resized", "packed"])
def test_pictures_of_camera_files_show_what_their_level_shows(
    nod: Path, store_path: Path, level: LevelName
) -> None:
    """Both cameras: the picture fits the stored Y best where it is, not a pixel beside."""
    store = open_store(store_path)
    pictures = camera_pictures(str(store_path), None, level, [str(nod)])
    for name in store.ids():
        sample = store.read(name, level)
        picture = pictures(name)
        assert picture.shape == sample.xyz.shape
        y = np.cbrt(np.clip(sample.xyz[1], 0, None))[2:-2, 2:-2]
        fits = {}
        for down, right in itertools.product((-1, 0, 1), repeat=2):
            moved = np.roll(picture[1], (down, right), axis=(0, 1))[2:-2, 2:-2]
            fits[down, right] = np.corrcoef(y.ravel(), moved.ravel())[0, 1]
        assert max(fits, key=lambda shift: fits[shift]) == (0, 0)
        assert fits[0, 0] > 0.6


def test_raws_are_found_again_in_another_folder(
    nod: Path, store_path: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for raw in sorted(nod.rglob("*.*[WF]")):
        shutil.copy2(raw, moved / raw.name)
    pictures = camera_pictures(str(store_path), None, "resized", [str(moved)])
    assert {source.location for source in pictures.sources.values()} == {
        str(path) for path in moved.iterdir()
    }


def test_samples_without_a_raw_are_named_before_anything_is_decoded(
    nod: Path, store_path: Path
) -> None:
    (nod / "Sony" / "DSC01088.ARW").unlink()
    with pytest.raises(UsageError, match=r"1 of 6 samples .* DSC01088"):
        camera_pictures(str(store_path), None, "resized", [str(nod)])


def test_another_raw_of_the_same_name_is_refused(nod: Path, store_path: Path) -> None:
    victim = nod / "Sony" / "DSC01088.ARW"
    data = bytearray(victim.read_bytes())
    data[-100] ^= 1
    victim.write_bytes(data)
    pictures = camera_pictures(str(store_path), None, "resized", [str(nod)])
    with pytest.raises(UsageError, match=re.escape(f"{victim}: it is not the raw")):
        pictures("DSC01088")


def test_a_raw_that_libraw_cannot_decode_is_named(nod: Path) -> None:
    data = next((nod / "Nikon").glob("*.NEF")).read_bytes()
    with pytest.raises(CorruptRawError, match=r"night\.NEF: "):
        default_picture(data[: len(data) // 2], path="night.NEF")
