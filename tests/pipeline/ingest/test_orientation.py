"""All eight EXIF orientations, from the file to stored pixels, boxes, and what is derived again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps

from pipeline.develop_file import develop_file
from pipeline.raw.decoders import libraw
from pipeline.raw.reader import probe
from pipeline.sample_set import NIKON_D750, SONY_RX100M7, arw_bytes, nef_bytes
from pipeline.store import Store, open_store
from pipeline.store.local.files import LocalFiles
from pipeline.verify.run import VerifyOptions, run_verify
from schemas.recipe import LevelName, Recipe
from tests.conftest import Ingest
from tests.kit.orientation import ORIENTATIONS
from tests.kit.recorder import Recorder

SENSOR = (96, 160)  # height, width
CROP = (12, 6, 120, 72)  # x, y, width, height
#: In the displayed frame: x, y, width, height. Nothing about it is central, and it fits both ways.
BOX = (10, 44, 22, 12)
RECIPE = Recipe(fit=(23, 17))
EXIF_ORIENTATION = 0x0112


def exif_transpose(stored: npt.NDArray[Any], orientation: int) -> npt.NDArray[np.int64]:
    """(3, h, w) codes as Pillow puts a picture with that tag upright."""
    planes = []
    for plane in stored:
        image = Image.fromarray(plane.astype(np.int32))
        image.getexif()[EXIF_ORIENTATION] = orientation
        planes.append(np.asarray(ImageOps.exif_transpose(image), np.int64))
    return np.stack(planes)


def frame_size(orientation: int, crop: tuple[int, int, int, int] = CROP) -> tuple[int, int]:
    return crop[2:] if orientation < 5 else (crop[3], crop[2])


def mosaic_with_box(orientation: int) -> npt.NDArray[np.uint16]:
    """A dim sensor, bright where `BOX` is once the picture hangs upright."""
    width, height = frame_size(orientation)
    shown = np.zeros((height, width), np.int32)
    shown[BOX[1] : BOX[1] + BOX[3], BOX[0] : BOX[0] + BOX[2]] = 9000
    # The orientation that undoes another: all are their own inverse but the quarter turns.
    undone = exif_transpose(shown[None], {6: 8, 8: 6}.get(orientation, orientation))[0]
    mosaic = 1000 + np.random.default_rng(0).integers(0, 300, SENSOR)
    x, y, width, height = CROP
    mosaic[y : y + height, x : x + width] += undone
    return mosaic.astype(np.uint16)


def write(folder: Path, orientation: int, mosaic: npt.NDArray[np.uint16], crop: Any = CROP) -> None:
    nikon = replace(NIKON_D750, orientation=orientation, crop=crop)
    (folder / f"n{orientation}.NEF").write_bytes(nef_bytes(mosaic, camera=nikon))
    sony = replace(SONY_RX100M7, orientation=orientation, crop=crop)
    (folder / f"s{orientation}.ARW").write_bytes(arw_bytes(mosaic, camera=sony))


def annotate(folder: Path, sizes: dict[str, tuple[int, int]]) -> None:
    images = [
        {"id": number, "file_name": name, "width": width, "height": height}
        for number, (name, (width, height)) in enumerate(sizes.items())
    ]
    boxes = [
        {"id": n, "image_id": n, "category_id": 1, "bbox": BOX, "area": 264, "iscrowd": 0}
        for n in range(len(images))
    ]
    classes = [{"id": 1, "name": "person"}]
    document = {"images": images, "annotations": boxes, "categories": classes}
    (folder / "train.json").write_text(json.dumps(document))


def flag_of(store: Store, name: str) -> tuple[int, int]:
    frame = store.sidecar(name).frame
    return frame.orientation_flag, frame.orientation


@pytest.mark.parametrize("decoder", ["auto", "libraw"])
@pytest.mark.parametrize("crop", [CROP, (7, 5, 61, 45)], ids=["even", "odd"])
def test_pixels_are_as_pillow_puts_them_upright(
    tmp_path: Path, ingest: Ingest, decoder: str, crop: tuple[int, int, int, int]
) -> None:
    nod = tmp_path / "nod"
    nod.mkdir()
    mosaic = np.random.default_rng(1).integers(600, 9000, SENSOR).astype(np.uint16)
    for orientation in ORIENTATIONS:
        write(nod, orientation, mosaic, crop)
    summary = ingest(nod, tmp_path / "data.zarr", recipe=RECIPE, decoder=decoder)
    assert (summary.exit_code, summary.samples) == (0, 16)
    store = open_store(tmp_path / "data.zarr")
    levels: tuple[LevelName, ...] = ("packed", "resized")
    for level in levels:
        for camera in "ns":
            plain = store.read(f"{camera}1", level).stored
            for orientation in ORIENTATIONS:
                sample = store.read(f"{camera}{orientation}", level)
                wanted = exif_transpose(plain, orientation)
                np.testing.assert_array_equal(sample.stored, wanted)
                assert flag_of(store, f"{camera}{orientation}") == (orientation, orientation)


def test_what_is_bright_is_where_its_box_is(
    tmp_path: Path, ingest: Ingest, recorder: Recorder
) -> None:
    nod = tmp_path / "nod"
    nod.mkdir()
    sizes = {}
    for orientation in ORIENTATIONS:
        write(nod, orientation, mosaic_with_box(orientation))
        for name in (f"n{orientation}.NEF", f"s{orientation}.ARW"):
            sizes[name] = frame_size(orientation)
    annotate(nod, sizes)
    assert ingest(nod, tmp_path / "data.zarr", recipe=RECIPE).exit_code == 0
    # Size tells a quarter turn; it does not tell these.
    untold = [f.where for f in recorder.findings if f.code == "ambiguous-orientation"]
    assert sorted(untold) == ["n2.NEF", "n3.NEF", "n4.NEF", "s2.ARW", "s3.ARW", "s4.ARW"]
    store = open_store(tmp_path / "data.zarr")
    levels: tuple[LevelName, ...] = ("packed", "resized")
    for name in store.ids():
        for level in levels:
            sample = store.read(name, level)
            bright = sample.xyz[1] > (sample.xyz[1].min() + sample.xyz[1].max()) / 2
            rows, columns = np.nonzero(bright)
            found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            np.testing.assert_allclose(
                found, sample.boxes[0], atol=0.01 if level == "packed" else 1
            )

    found_again = Recorder()
    options = VerifyOptions(sources=(str(nod),), strict=True)
    run_verify(LocalFiles(tmp_path / "data.zarr"), found_again, options)
    assert [f for f in found_again.findings if f.severity != "info"] == []
    for name in ("n2", "n5", "s4", "s7"):  # as genisp enhance sees the file
        sample = store.read(name, "packed")
        path = next(nod.glob(f"{name}.*"))
        made = develop_file(str(path), RECIPE, "packed")
        assert made.frame == sample.sidecar.frame
        step = sample.sidecar.levels["packed"].scale_factor
        np.testing.assert_allclose(made.xyz, sample.xyz, atol=1.01 * step)


def with_tag(file: bytes, old: bytes, new: bytes) -> bytes:
    assert file.count(old) == 1
    return file.replace(old, new)


@pytest.mark.parametrize("value", [0, 9, 10, 65535])
def test_an_orientation_that_exif_does_not_know_turns_nothing(
    tmp_path: Path, ingest: Ingest, value: int
) -> None:
    """LibRaw looks at the last three bits, and would turn 0 as 8."""
    nod = tmp_path / "nod"
    nod.mkdir()
    write(nod, value, mosaic_with_box(1))
    write(nod, 1, mosaic_with_box(1))
    assert ingest(nod, tmp_path / "data.zarr", recipe=RECIPE).exit_code == 0
    store = open_store(tmp_path / "data.zarr")
    for camera in "ns":
        assert flag_of(store, f"{camera}{value}") == (value, 1)
        plain, other = (store.read(f"{camera}{flag}", "packed") for flag in (1, value))
        np.testing.assert_array_equal(other.stored, plain.stored)


def test_a_file_without_an_orientation_is_upright() -> None:
    file = nef_bytes(mosaic_with_box(1), camera=replace(NIKON_D750, orientation=6))
    tag = bytes.fromhex("1201 0300 01000000 0600")
    without = with_tag(file, tag, bytes.fromhex("1301 0300 01000000 0600"))
    for data, flag in ((file, 6), (without, 1)):
        facts = probe(data, whole=True, path="a.NEF")
        assert facts is not None
        assert facts.geometry.orientation_flag == flag


def test_the_pictures_orientation_counts_not_one_that_is_said_elsewhere() -> None:
    """As after a program set a picture upright and left its preview's tag as it was."""
    file = nef_bytes(mosaic_with_box(1))
    tag = bytes.fromhex("1c01 0300 01000000 0100")  # PlanarConfiguration, of the raw image only
    other = with_tag(file, tag, bytes.fromhex("1201 0300 01000000 0600"))
    facts = probe(other, whole=True, path="a.NEF")
    assert facts is not None
    assert facts.geometry.orientation_flag == 1
    assert libraw.geometry(other, path="a.NEF").orientation_flag == 6
