from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
import torch
from click.testing import CliRunner, Result
from PIL import Image

from cli import genisp
from genisp_model.checkpoint import Checkpoint, load_checkpoint, load_isp
from genisp_model.enhance import render, training_recipe, write_picture
from genisp_model.isp import GenISP
from genisp_model.training.run import train_config
from pipeline.errors import TrainingError
from pipeline.store import Store, open_store
from schemas.recipe import Recipe


@pytest.fixture
def checkpoint(tiny_store: Path, tmp_path: Path) -> Path:
    """An untrained network, as a run on `tiny_store` would save it."""
    torch.manual_seed(1)
    config = train_config({"store": str(tiny_store), "recipe": "default"})
    path = tmp_path / "run" / "best.pt"
    rng = torch.get_rng_state()
    Checkpoint(config, 0, 0, GenISP().state_dict(), {}, {}, rng, 1.0).save(path)
    return path


@pytest.fixture
def store(tiny_store: Path) -> Store:
    return open_store(tiny_store)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(genisp, ["enhance", *map(str, arguments)])


def raw_of(store: Store, sample_id: str) -> Path:
    return store.path.parent / "nod" / store.sidecar(sample_id).source.name


def expected(checkpoint: Path, store: Store, sample_id: str) -> npt.NDArray[np.float32]:
    """(h, w, 3) what the network makes of a sample, clamped."""
    isp, _ = load_isp(checkpoint)
    sample = store.read(sample_id, "resized")
    scale = torch.tensor([sample.sidecar.levels["resized"].statistics["Y"].p99])
    with torch.inference_mode():
        image: torch.Tensor = isp(torch.from_numpy(sample.xyz)[None], scale)
    clamped: npt.NDArray[np.float32] = image[0].clamp(0, 1).permute(1, 2, 0).numpy()
    return clamped


def read(path: Path) -> npt.NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image)


def test_a_sample_is_the_networks_output_clamped_and_rounded(
    checkpoint: Path, store: Store, tmp_path: Path
) -> None:
    ids = store.ids()[:2]
    options = ("--store", store.path, "--checkpoint", checkpoint, "--output-dir", tmp_path / "out")
    result = run(*ids, *options)
    assert result.exit_code == 0, result.output
    assert run(ids[0], *options, "--format", "tiff").exit_code == 0
    for sample_id in ids:
        picture = expected(checkpoint, store, sample_id)
        made = read(tmp_path / "out" / f"{sample_id}.png")
        assert np.array_equal(made, np.rint(picture * 255).astype(np.uint8))
        assert f"{sample_id}.png ({picture.shape[1]}x{picture.shape[0]})" in result.output
    deep = tifffile.imread(tmp_path / "out" / f"{ids[0]}.tif")
    assert np.array_equal(deep, np.rint(expected(checkpoint, store, ids[0]) * 65535))
    assert deep.dtype == np.uint16
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        [f"{ids[0]}.png", f"{ids[0]}.tif", f"{ids[1]}.png"]
    )


def test_a_raw_file_gives_the_picture_of_its_sample(
    checkpoint: Path, store: Store, tmp_path: Path
) -> None:
    ids = [sample_id for sample_id in store.ids() if not lies(store, sample_id)]
    chosen = {store.sidecar(sample_id).group: sample_id for sample_id in ids}  # one a camera
    raws = {sample_id: raw_of(store, sample_id) for sample_id in chosen.values()}
    result = run(*raws.values(), "--checkpoint", checkpoint, "--output-dir", tmp_path)
    assert result.exit_code == 0, result.output
    for sample_id, raw in raws.items():
        made = read(tmp_path / f"{raw.stem}.png").astype(int)
        wanted = np.rint(expected(checkpoint, store, sample_id) * 255).astype(int)
        assert made.shape == wanted.shape
        assert np.abs(made - wanted).max() <= 1  # another fixed point may round a step away


def test_a_portrait_that_was_annotated_lying_stands_upright(
    checkpoint: Path, store: Store, tmp_path: Path
) -> None:
    sample_id = next(sample_id for sample_id in store.ids() if lies(store, sample_id))
    result = run(raw_of(store, sample_id), "--checkpoint", checkpoint, "--output-dir", tmp_path)
    assert result.exit_code == 0, result.output
    height, width, _ = read(tmp_path / f"{sample_id}.png").shape
    assert (width, height) == expected(checkpoint, store, sample_id).shape[:2]


def lies(store: Store, sample_id: str) -> bool:
    """Whether the annotation's frame overruled the file's orientation flag."""
    frame = store.sidecar(sample_id).frame
    return frame.orientation != frame.orientation_flag


def test_nothing_is_overwritten_unasked(checkpoint: Path, store: Store, tmp_path: Path) -> None:
    first, second = store.ids()[:2]
    there = tmp_path / f"{second}.png"
    there.write_text("mine")
    options = ("--store", store.path, "--checkpoint", checkpoint, "--output-dir", tmp_path)
    result = run(first, second, *options)
    assert result.exit_code == 2
    assert there.name in result.output
    assert "--overwrite" in result.output
    assert there.read_text() == "mine"
    assert not (tmp_path / f"{first}.png").exists()
    assert run(first, second, *options, "--overwrite").exit_code == 0
    assert read(there).shape[2] == 3


def test_two_inputs_of_one_name_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    result = run("a/X.ARW", "b/X.NEF", "--checkpoint", checkpoint, "--output-dir", tmp_path)
    assert result.exit_code == 2
    assert "a/X.ARW and b/X.NEF" in result.output


def test_bad_inputs_are_listed_and_the_others_go_on(
    checkpoint: Path, store: Store, tmp_path: Path
) -> None:
    sample_id = store.ids()[0]
    bad = tmp_path / "bad.ARW"
    bad.write_bytes(b"II*\0 no raw")
    options = ("--checkpoint", checkpoint, "--output-dir", tmp_path / "out")
    result = run(bad, tmp_path / "gone.NEF", raw_of(store, sample_id), *options)
    assert result.exit_code == 3
    assert f"failed: {bad}: " in result.stderr
    assert "gone.NEF: it is not there" in result.stderr
    assert "2 of 3 inputs failed" in result.stderr
    assert len(list((tmp_path / "out").iterdir())) == 1
    result = run("no-such-id", sample_id, *options, "--store", store.path, "--overwrite")
    assert result.exit_code == 3
    assert "no-such-id" in result.stderr


def test_a_foreign_checkpoint_or_store_is_refused(
    checkpoint: Path, store: Store, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign.pt"
    torch.save({"weights": torch.zeros(3)}, foreign)
    for path in (foreign, tmp_path / "missing.pt"):
        result = run("DSC.ARW", "--checkpoint", path, "--output-dir", tmp_path)
        assert result.exit_code == 1
        assert path.name in result.output
    result = run("x", "--checkpoint", checkpoint, "--store", tmp_path, "--output-dir", tmp_path)
    assert result.exit_code == 10


def test_the_recipe_is_found_with_the_store_and_without(checkpoint: Path, store: Store) -> None:
    config = load_checkpoint(checkpoint).config
    assert training_recipe(config) == store.recipe
    moved = config.model_copy(update={"store": "/no/such/store"})
    assert training_recipe(moved) is None  # --fit 96x64 cannot be guessed
    usual = Recipe(colour="camera", levels=("resized",), codec="zstd")
    moved = moved.model_copy(update={"store_fingerprint": usual.fingerprint})
    assert training_recipe(moved) == usual


def test_another_colour_than_the_networks_is_refused(
    checkpoint: Path, store: Store, tmp_path: Path
) -> None:
    whole = load_checkpoint(checkpoint)
    changes = {"store": "/moved", "store_fingerprint": Recipe(colour="camera").fingerprint}
    fields = {name: getattr(whole, name) for name in whole.__dataclass_fields__}
    path = tmp_path / "camera.pt"
    Checkpoint(**fields | {"config": whole.config.model_copy(update=changes)}).save(path)
    options = ("--store", store.path, "--output-dir", tmp_path, "--checkpoint", path)
    result = run(store.ids()[0], *options)
    assert result.exit_code == 2
    assert "holds xyz, the network was trained on camera" in result.output


def test_a_diverged_network_makes_no_picture() -> None:
    isp = GenISP().eval()
    torch.nn.init.constant_(isp.shallow.conv3.weight, float("nan"))
    with pytest.raises(TrainingError, match="no numbers"):
        render(isp, np.zeros((3, 16, 24), np.float32), 0.1)


def test_too_little_memory_names_the_input_and_what_helps(
    checkpoint: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("genisp_model.enhance.render", full)
    name = store.ids()[0]
    options = ("--store", store.path, "--checkpoint", checkpoint, "--output-dir", tmp_path)
    result = run(*options, "--device", "cpu", name)
    assert result.exit_code == 1
    assert f"error: {name}: not enough memory on cpu for its picture" in result.stderr
    assert "--level resized" in result.stderr


def test_a_picture_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tif"
    path.write_text("old")

    def full(file: Path, *_: object, **__: object) -> None:
        file.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tifffile, "imwrite", full)
    with pytest.raises(TrainingError, match="No space") as raised:
        write_picture(np.zeros((2, 2, 3), np.float32), path, "tiff")
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("a.tif", "old")]
    assert "--overwrite" in raised.value.mend
