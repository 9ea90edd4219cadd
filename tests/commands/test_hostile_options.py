"""Every option of the trainer's commands, given values that nobody should give: no traceback.

A value is refused as wrong usage (2), as a store that is not there (10), or by the tree of errors
(1, 3), always in words; or it is taken, and then it is harmless.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner, Result

from cli import genisp
from genisp_model import export_onnx
from genisp_model.checkpoint import Checkpoint
from genisp_model.recipes import RECIPES
from genisp_model.training import trainer as trainer_module
from pipeline.ingest import IngestOptions, run_ingest
from pipeline.sample_set import write_sample_set
from schemas.exit_code import ExitCode
from schemas.recipe import Recipe
from schemas.training import TrainConfig
from tests.kit.recorder import Recorder

QUICK = ("--detector", "sample_retinanet", "--detector-weights", "sample")

#: Values of every kind; those of an option's own kind are below.
VALUES = (
    "",
    " ",
    "nan",
    "inf",
    "-inf",
    "-1",
    "1e999",
    "9" * 30,
    "folder",
    "file",
    "missing",
    "é\n",
)

#: What an option takes of `VALUES`, because it is what it says: a number in range, a new folder.
TAKEN: dict[tuple[str, str], set[str]] = {
    ("train", "--seed"): {"-1"},
    ("train", "--lr-steps"): {"", " ", "9" * 30},
    ("train", "--scale-jitter"): {"", " "},
    ("train", "--val-split"): {""},
    ("train", "--output-dir"): {*VALUES} - {"", "file"},
    ("enhance", "--output-dir"): {*VALUES} - {"", "file"},
    ("train", "--lr"): {"9" * 30},
    ("train", "--gray-world"): {"9" * 30},
    ("train", "--clip-grad"): {"9" * 30},
    ("export", "--output"): {*VALUES} - {"", "folder"},
}


@pytest.fixture(scope="module")
def _place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small store, a checkpoint, a file and a folder."""
    folder = tmp_path_factory.mktemp("hostile")
    write_sample_set(folder / "nod", images=4, seed=11)
    recipe = Recipe(levels=("resized",), fit=(96, 64))
    run_ingest(
        [str(folder / "nod")], str(folder / "data.zarr"), recipe, IngestOptions(), Recorder()
    )
    (folder / "file").write_text("no checkpoint, no weights, no store")
    (folder / "folder").mkdir()
    config = TrainConfig(store="data.zarr", store_fingerprint="0", epochs=1, batch_size=1, lr=0.1)
    isp = RECIPES["default"].make_isp().state_dict()
    rng = torch.get_rng_state()
    Checkpoint(config, 1, 1, isp, {}, {}, rng, best=0.5).save(folder / "best.pt")
    return folder


@pytest.fixture
def place(_place: Path, tmp_path: Path) -> Path:
    """This test's own copy: what one test writes is no folder in another's way."""
    return Path(shutil.copytree(_place, tmp_path / "here", ignore=shutil.ignore_patterns("nod")))


@pytest.fixture(autouse=True)
def _there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    # What is taken need not be trained: the options have been looked at by then.
    monkeypatch.setattr(trainer_module.Trainer, "fit", lambda run: True)
    monkeypatch.setattr(export_onnx, "export_isp", lambda isp, path, opset, facts: None)
    same = export_onnx.Difference(0.0, 0.0)
    monkeypatch.setattr(export_onnx, "compare_exported", lambda isp, path: same)


def arguments(command: str) -> list[str]:
    """A call that works."""
    return {
        "train": [*QUICK, "--output-dir", "runs", "--val-split", "train"],
        "evaluate": [*QUICK, "--checkpoint", "best.pt", "--split", "train"],
        "enhance": ["DSC", "--store", "data.zarr", "--checkpoint", "best.pt"],
        "export": ["--checkpoint", "best.pt", "--output", "isp.onnx"],
    }[command]


def cases() -> Iterator[tuple[str, str]]:
    for name, command in genisp.commands.items():
        for option in command.params:
            if isinstance(option, click.Option) and not option.is_flag:
                yield name, option.opts[-1]


def call(*words: str) -> Result:
    return CliRunner().invoke(genisp, list(words))


@pytest.mark.parametrize(("command", "option"), list(cases()))
def test_no_value_of_an_option_ends_in_a_traceback(command: str, option: str) -> None:
    taken = TAKEN.get((command, option), set())
    for value in VALUES:
        result = call(command, *arguments(command), option, value)
        told = f"{command} {option} {value!r}: {result.output}"
        assert result.exception is None or isinstance(result.exception, SystemExit), told
        if value in taken:
            assert result.exit_code in (ExitCode.DONE, ExitCode.SOURCES_FAILED), told
            continue
        assert result.exit_code != ExitCode.DONE, told
        assert result.exit_code in (1, 2, 3, 10), told
        assert "rror" in result.stderr or "failed" in result.stderr, told


#: The same in a file, and what only a file can hold.
IN_A_FILE = (
    *(json.dumps(value, ensure_ascii=False) for value in ("", " ", "folder", "missing", "é\n")),
    *("nan", "-inf", "-1", "1e308", f"{(1 << 63) - 1}", '"\\u0000"', "[]", "{}", "true"),
)


@pytest.mark.parametrize("option", [option for name, option in cases() if name == "train"])
def test_no_value_of_an_option_in_a_file_ends_in_a_traceback(option: str) -> None:
    words = arguments("train")
    if option in words:  # what is typed would go before the file
        at = words.index(option)
        words = words[:at] + words[at + 2 :]
    for value in IN_A_FILE:
        Path("c.toml").write_text(f"{option[2:]} = {value}\n", encoding="utf-8")
        result = call("train", *words, "--config", "c.toml")
        told = f"{option} = {value}: {result.output}"
        assert result.exception is None or isinstance(result.exception, SystemExit), told
        assert result.exit_code in (0, 1, 2, 3, 10), told
        assert result.exit_code == ExitCode.DONE or "rror: " in result.stderr, told


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--lr", "nan"), "--lr nan: input should be a finite number"),
        (("--lr", "0"), "--lr 0.0: input should be greater than 0"),
        (("--flip", "1.5"), "--flip 1.5: input should be less than or equal to 1"),
        (("--gray-world", "-1"), "--gray-world -1.0"),
        (("--lr-final", "nan"), "--lr-final nan"),
        (("--lr-final", "1.5"), "--lr-final 1.5: input should be less than or equal to 1"),
        (("--clip-grad", "-1"), "--clip-grad -1.0"),
        (("--clip-grad", "inf"), "--clip-grad inf: input should be a finite number"),
        (("--warmup-steps", "9" * 30), "--warmup-steps"),
        (("--warmup-steps", "999999"), "the whole run has"),
        (("--val-every", "0"), "--val-every"),
        (("--lr-schedule", "cosine", "--lr-steps", "5"), "leave one of them out"),
        (("--seed", "9" * 30), "--seed"),
        (("--accumulate", "9" * 30), "--accumulate"),
        (("--lr-steps", "10,5"), "do not rise"),
        (("--lr-steps", "5,5"), "do not rise"),
        (("--lr-steps", "0"), "do not rise"),
        (("--lr-steps", "5,,10"), "not whole numbers"),
        (("--device", "meta"), "'meta' cannot be used here"),
        (("--device", "mps:9"), "'mps:9' cannot be used here"),
        (("--device", "cuda:99"), "CUDA device"),
        (("--output-dir", "file"), "there is a file"),
        (("--output-dir", "file/run"), "there is a file"),
        (("--output-dir", ""), "the path is empty"),
        (("--output-dir", "folder", "--resume"), "there is no run to continue here"),
        (("--output-dir", "missing/run", "--resume"), "there is no run to continue here"),
        (("--detector", "keypointrcnn_resnet50_fpn"), "finds persons only"),
        (("--overfit-one-batch", "--flip", "0.5"), "leave one of them out"),
        (("--overfit-one-batch", "--noise", "0.1"), "leave out --noise"),
        (("--noise", "-1"), "--noise -1.0"),
        (("--matrix-jitter", "inf"), "--matrix-jitter inf"),
        (("--overfit-one-batch", "--scale-jitter", "1,2"), "leave out --scale-jitter"),
        (("--scale-jitter", "2,1"), "--scale-jitter '2,1'"),
        (("--scale-jitter", "1"), "--scale-jitter '1'"),
        (("--scale-jitter", "nan,2"), "--scale-jitter 'nan,2'"),
        (("--exposure-stops", "nan"), "--exposure-stops nan"),
    ],
)
def test_wrong_options_of_train_are_wrong_usage(words: tuple[str, ...], said: str) -> None:
    result = call("train", *arguments("train"), *words)
    assert result.exit_code == ExitCode.WRONG_USAGE, result.output
    assert said in result.stderr
    assert not Path("missing/run").exists()


@pytest.mark.parametrize("command", ["evaluate", "enhance", "export"])
def test_what_is_no_checkpoint_is_named(command: str) -> None:
    for name, code in {"folder": 2, ".": 2, "file": 1, "missing.pt": 1, os.devnull: 2}.items():
        result = call(command, *arguments(command), "--checkpoint", name)
        assert result.exit_code == code, result.output
        assert "error: " in result.stderr


def test_a_device_file_is_never_replaced(place: Path) -> None:
    """As root, a rename over it would succeed."""
    os.mkfifo(place / "pipe")
    for words in (
        ("export", "--checkpoint", "best.pt", "--output", "pipe"),
        ("export", "--checkpoint", "best.pt", "--output", "folder"),
    ):
        assert call(*words).exit_code == ExitCode.WRONG_USAGE
    assert (place / "pipe").is_fifo()
