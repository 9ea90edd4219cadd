from __future__ import annotations

import csv
import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cli import genisp
from genisp_model.checkpoint import load_checkpoint
from genisp_model.training.run import continued_config, train_config
from schemas.exit_code import ExitCode
from schemas.training import FREE_ON_RESUME, TrainConfig, option_of
from tests.commands.invoke import run, train

QUICK = ("--detector", "sample_retinanet", "--detector-weights", "none", "--val-split", "")


def test_train_runs_stops_and_resumes(nod: Path, tmp_path: Path) -> None:
    store, folder = tmp_path / "s.zarr", tmp_path / "run"
    assert run("ingest", nod, "--store", store, "--fit", "96x64", "--workers", 0).exit_code == 0
    options = ("--store", store, "--output-dir", folder, "--epochs", 2, "-b", 2, *QUICK)
    first = train(*options, "--limit-steps", 1)
    assert first.exit_code == 0, first.output
    assert "step 1/1  loss" in first.stdout
    again = train(*options)
    assert again.exit_code == 2
    assert "--resume" in again.stderr
    rest = train(*options, "--resume")
    assert rest.exit_code == 0, rest.output
    assert "continuing after step 1" in rest.stdout
    other = train(*options, "--resume", "--lr", 0.1)
    assert other.exit_code == 1
    assert "--lr: 0.001 against 0.1" in other.stderr


#: None of these is the default.
OF_A_RUN = ("--epochs", 2, "-b", 1, "--lr", 0.01, "--seed", 5, "--flip", 0.25, "--lr-steps", "1")


@pytest.fixture
def small_store(nod: Path, tmp_path: Path) -> Path:
    store = tmp_path / "s.zarr"
    assert run("ingest", nod, "--store", store, "--fit", "96x64", "--workers", 0).exit_code == 0
    return store


def numbers(folder: Path) -> list[tuple[str, str]]:
    with (folder / "steps.csv").open() as file:
        return [(row["step"], row["loss"]) for row in csv.DictReader(file)]


def test_resume_needs_no_other_option(small_store: Path, tmp_path: Path) -> None:
    options = ("--store", small_store, *OF_A_RUN, *QUICK)
    whole = train(*options, "--output-dir", tmp_path / "whole")
    assert whole.exit_code == 0, whole.output
    folder = tmp_path / "parts"
    assert train(*options, "--output-dir", folder, "--limit-steps", 2).exit_code == 0
    told = json.loads((folder / "config.json").read_text())
    # It has not got there yet, so the limit stays; then it is lifted.
    further = train("--resume", "--output-dir", folder, "--limit-steps", 3)
    assert further.exit_code == 0, further.output
    assert "--limit-steps: 2 against 3" in further.stdout
    rest = train("--resume", "--output-dir", folder)
    assert rest.exit_code == 0, rest.output
    assert len(numbers(folder)) > 3
    assert numbers(folder) == numbers(tmp_path / "whole")
    assert json.loads((folder / "config.json").read_text()) == told | {"limit_steps": 0}
    environment = json.loads((folder / "environment.json").read_text())
    assert [one["after_step"] for one in environment["resumed"]] == [2, 3]


def test_the_file_of_a_run_starts_the_same_run_again(small_store: Path, tmp_path: Path) -> None:
    """Every option is in it: also those of the recipe, whatever the recipes say by then."""
    first, again = tmp_path / "first", tmp_path / "again"
    done = train("--store", small_store, "--output-dir", first, *OF_A_RUN, *QUICK)
    assert done.exit_code == 0, done.output
    repeated = train("--config", first / "config.toml", "--output-dir", again)
    assert repeated.exit_code == 0, repeated.output
    assert numbers(again) == numbers(first)
    assert len(numbers(again)) > 1
    assert (again / "config.json").read_bytes() == (first / "config.json").read_bytes()
    weights = [load_checkpoint(folder / "checkpoints" / "last.pt").isp for folder in (first, again)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    # Beside --resume it says nothing new.
    there = train("--resume", "--config", again / "config.toml")
    assert there.exit_code == 0, there.output
    assert "changed from here on" not in there.stdout


def test_a_file_beside_resume_counts_as_typed(small_store: Path, tmp_path: Path) -> None:
    folder, own = tmp_path / "run", tmp_path / "own.toml"
    own.write_text(f'store = "{small_store}"\nepochs = 2\nbatch-size = 1\nlr = 0.01\n')
    begun = ("--config", own, "--output-dir", folder, *QUICK, "--limit-steps", 1)
    first = train(*begun)
    assert first.exit_code == 0, first.output
    resume = ("--resume", "--output-dir", folder, "--config", own)
    own.write_text("lr = 0.1\n")
    other = train(*resume)
    assert other.exit_code == 1, other.output
    assert f"--lr: 0.01 against 0.1 (lr: from {own})" in other.stderr
    own.write_text("lr = 0.01\nepochs = 1\nlimit-steps = 2\n")
    same = train(*resume)
    assert same.exit_code == 0, same.output
    assert "--epochs: 2 against 1" in same.stdout
    told = tomllib.loads((folder / "config.toml").read_text())
    assert (told["epochs"], told["lr"], told["limit-steps"]) == (1, 0.01, 2)
    assert [step for step, _ in numbers(folder)] == ["1", "2"]


def test_a_limit_that_was_not_reached_holds_for_the_resumed_run_too(
    small_store: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    options = ("--store", small_store, "--output-dir", folder, *OF_A_RUN, *QUICK)
    assert train(*options, "--limit-steps", 1).exit_code == 0
    saved = load_checkpoint(folder / "checkpoints" / "last.pt")
    assert continued_config(saved, {}).limit_steps == 0
    longer = replace(saved, config=saved.config.model_copy(update={"limit_steps": 9}))
    assert continued_config(longer, {}).limit_steps == 9


def test_what_may_change_is_said_and_what_may_not_is_refused(
    small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    first = train(
        "--store", small_store, "--output-dir", folder, *OF_A_RUN, *QUICK, "--limit-steps", 1
    )
    assert first.exit_code == 0, first.output
    resume = ("--resume", "--output-dir", folder)
    refused = {
        ("--lr", 0.1): "--lr: 0.01 against 0.1",
        ("--seed", 0): "--seed: 5 against 0",
        ("-b", 2): "--batch-size: 1 against 2",
        ("--lr-steps", ""): "--lr-steps: 1 against none",
        ("--amp",): "--amp: none against bf16",
        ("--recipe", "paper"): "--recipe: default against paper",
        ("--val-split", "val"): "--val-split: '' against val",
    }
    for words, said in refused.items():
        result = train(*resume, *words)
        assert result.exit_code == 1, result.output
        assert said in result.stderr
        assert "leave these options out" in result.stderr
    monkeypatch.setenv("GENISP_TRAIN_SEED", "7")
    assert "--seed: 5 against 7" in train(*resume).stderr
    monkeypatch.setenv("GENISP_TRAIN_SEED", "5")

    moved = tmp_path / "moved.zarr"
    small_store.rename(moved)
    lost = train(*resume)
    assert lost.exit_code == 10
    assert "where the store of this run is now: --store" in lost.stderr
    remedies = ("--checkpoint-activations", "--plain-detector", "--epochs", 1, "--store", moved)
    done = train(*resume, *remedies)
    assert done.exit_code == 0, done.output
    for said in (
        f"--store: {small_store} against {moved}",
        "--epochs: 2 against 1",
        "--plain-detector: False against True",
        "--checkpoint-activations: False against True",
    ):
        assert said in done.stdout
    # A flag is taken back by its variable.
    monkeypatch.setenv("GENISP_TRAIN_PLAIN_DETECTOR", "0")
    back = train(*resume)
    assert "--plain-detector: True against False" in back.stdout, back.output


def test_every_field_that_is_not_said_to_be_free_is_refused_by_its_option() -> None:
    options = {option for one in genisp.commands["train"].params for option in one.opts}
    config = TrainConfig(store="s", store_fingerprint="f", epochs=1, batch_size=1, lr=1.0)
    assert set(TrainConfig.model_fields) >= FREE_ON_RESUME
    for name in TrainConfig.model_fields:
        assert option_of(name) in options or name in ("store_fingerprint", "lr_gamma")
        other = config.model_copy(update={name: "another"})
        found = config.differences(other), config.free_differences(other)
        assert [len(one) for one in found] == ([0, 1] if name in FREE_ON_RESUME else [1, 0])


@pytest.mark.parametrize(
    ("words", "variable", "meant"),
    [
        ((), "", None),
        (("--amp",), "", "bf16"),
        (("--amp", "fp16"), "", "fp16"),
        (("--amp=bf16",), "fp16", "bf16"),
        (("--amp", "off"), "bf16", None),
        ((), "fp16", "fp16"),
        ((), "1", "bf16"),
        ((), "true", "bf16"),
        ((), "0", None),
    ],
)
def test_amp_is_a_choice_and_still_a_flag(
    words: tuple[str, ...],
    variable: str,
    meant: str | None,
    store_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[TrainConfig] = []

    def started(options: dict[str, Any], *_: object, **__: object) -> ExitCode:
        told.append(train_config({n: v for n, v in options.items() if n != "device"}))
        return ExitCode.DONE

    monkeypatch.setattr("genisp_model.training.run.run_training", started)
    monkeypatch.setenv("GENISP_TRAIN_AMP", variable)
    result = train("--store", store_path, *words)
    assert result.exit_code == 0, result.output
    assert told[0].amp == meant


def test_amp_names_its_choices() -> None:
    result = train("--amp", "fp8")
    assert result.exit_code == 2
    assert "bf16" in result.stderr
    assert "fp16" in result.stderr


def test_train_names_what_is_missing(store_path: Path, tmp_path: Path) -> None:
    missing = train("--store", tmp_path / "nowhere.zarr")
    assert missing.exit_code == 10
    split = train("--store", store_path, "--split", "holdout", "--output-dir", tmp_path, *QUICK)
    assert split.exit_code == 2
    assert "splits here" in split.stderr


def test_train_without_weights_says_which_file_and_where(
    store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import urllib.request

    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(urllib.request, "urlopen", offline)
    result = train("--store", store_path, "--output-dir", tmp_path / "run")
    assert result.exit_code != 0
    assert "retinanet_resnet50_fpn_v2_coco" in result.stderr
    assert "--detector-weights" in result.stderr


def test_classes_that_the_detector_does_not_know_are_said_and_can_be_named(
    nod: Path, tmp_path: Path
) -> None:
    for path in nod.rglob("*.json"):
        text = path.read_text()
        assert '"person"' in text
        path.write_text(text.replace('"name": "person"', '"name": "Pedestrian"'))
    store, names = tmp_path / "s.zarr", tmp_path / "names.txt"
    ingested = run("ingest", nod, "--store", store, "--fit", "96x64", "--workers", 0)
    assert ingested.exit_code == 0
    assert "pedestrian" in run("info", store).stdout.lower()
    options = ("--store", store, "--limit-steps", 1, *QUICK)
    unnamed = train(*options, "--output-dir", tmp_path / "a")
    assert unnamed.exit_code == 0, unnamed.output
    assert "Pedestrian" in unnamed.output
    assert "regions to ignore" in unnamed.output

    names.write_text("pedestrian\nbicycle\ncar\n")
    named = train(*options, "--output-dir", tmp_path / "b", "--detector-classes", names)
    assert named.exit_code == 0, named.output
    assert "regions to ignore" not in named.output
    names.write_text("tram\n")
    none = train(*options, "--output-dir", tmp_path / "c", "--detector-classes", names)
    assert none.exit_code == 2
    assert "classes that the detector knows" in none.stderr
