from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands.invoke import run, train

QUICK = ("--detector", "sample_retinanet", "--detector-weights", "none", "--val-split", "")


def test_train_runs_stops_and_resumes(nod: Path, tmp_path: Path) -> None:
    store, folder = tmp_path / "s.zarr", tmp_path / "run"
    assert run("ingest", nod, "--store", store, "--fit", "96x64", "--workers", 0).exit_code == 0
    options = ("--store", store, "--output-dir", folder, "--epochs", 2, "-b", 2, *QUICK)
    first = train(*options, "--limit-steps", 1)
    assert first.exit_code == 0, first.output
    assert "step 1  loss" in first.stdout
    again = train(*options)
    assert again.exit_code == 2
    assert "--resume" in again.stderr
    rest = train(*options, "--resume")
    assert rest.exit_code == 0, rest.output
    assert "continuing after step 1" in rest.stdout
    other = train(*options, "--resume", "--lr", 0.1)
    assert other.exit_code == 1
    assert "lr: 0.001 against 0.1" in other.stderr


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
