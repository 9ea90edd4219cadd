from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.develop.frame import choose_frame
from pipeline.develop_file import develop_file
from pipeline.errors import CorruptRawError, SourceError, UnreadableSourceError
from pipeline.raw.facts import Geometry
from pipeline.sample_set import write_sample_set
from pipeline.store import open_store
from schemas.recipe import LevelName, Recipe
from schemas.sidecar import Frame


@pytest.mark.parametrize("level", ["packed", "resized"])
def test_a_file_gives_the_numbers_of_its_sample(
    nod: Path, store_path: Path, level: LevelName
) -> None:
    store = open_store(store_path)
    for sample_id in store.ids():
        sample = store.read(sample_id, level)
        record = sample.sidecar.levels[level]
        made = develop_file(str(nod / sample.sidecar.source.name), store.recipe, level)
        assert made.frame.orientation == sample.sidecar.frame.orientation
        np.testing.assert_allclose(made.xyz, sample.xyz, atol=1.01 * record.scale_factor)
        assert made.brightness == pytest.approx(
            record.statistics["Y"].p99, abs=1.01 * record.scale_factor
        )


def test_a_portrait_stands_upright(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sample_set(tmp_path, images=8, seed=1)
    made = {
        path.stem: develop_file(str(path), Recipe(), "packed") for path in tmp_path.rglob("*.ARW")
    }
    portraits = {stem for stem, one in made.items() if one.frame.orientation == 8}
    assert len(portraits) == 1

    def lying(geometry: Geometry, *, path: str) -> Frame:
        return choose_frame(replace(geometry, orientation_flag=1), path=path)

    monkeypatch.setattr("pipeline.develop_file.choose_frame", lying)
    stem = portraits.pop()
    other = develop_file(str(next(tmp_path.rglob(f"{stem}.ARW"))), Recipe(), "packed")
    assert other.xyz.shape[1] < other.xyz.shape[2]
    # EXIF 8: the camera's top is at the left, so a quarter turn counter-clockwise puts it upright.
    assert np.array_equal(np.rot90(other.xyz, axes=(1, 2)), made[stem].xyz)
    assert other.brightness == made[stem].brightness


def test_camera_colours_and_their_brightness(nod: Path) -> None:
    path = str(next(nod.rglob("*.NEF")))
    xyz = develop_file(path, Recipe(), "resized")
    camera = develop_file(path, Recipe(colour="camera"), "resized")
    assert not np.allclose(xyz.xyz, camera.xyz, atol=1e-3)
    green = np.sort(camera.xyz[1], axis=None)
    assert camera.brightness == pytest.approx(green[-(-99 * green.size // 100) - 1], abs=1e-6)


def test_what_is_no_whole_raw_is_refused(nod: Path, tmp_path: Path) -> None:
    raw = next(nod.rglob("*.ARW"))
    cut = tmp_path / "cut.ARW"
    cut.write_bytes(raw.read_bytes()[: raw.stat().st_size // 2])
    text = tmp_path / "text.ARW"
    text.write_text("no raw")
    (tmp_path / "empty.ARW").touch()
    with pytest.raises(CorruptRawError, match=r"cut\.ARW"):
        develop_file(str(cut), Recipe(), "packed")
    for name in ("text.ARW", "empty.ARW"):
        with pytest.raises(SourceError, match=name):
            develop_file(str(tmp_path / name), Recipe(), "packed")
    for path in (tmp_path / "missing.ARW", tmp_path):
        with pytest.raises(UnreadableSourceError, match=str(path)):
            develop_file(str(path), Recipe(), "packed")


def test_what_a_decoder_raises_becomes_a_failure_of_this_file(
    nod: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("deep inside")

    monkeypatch.setattr("pipeline.develop_file.decode", broken)
    with pytest.raises(SourceError, match=r"ZeroDivisionError.*deep inside") as caught:
        develop_file(str(next(nod.rglob("*.ARW"))), Recipe(), "packed")
    assert caught.value.exit_code == 3
