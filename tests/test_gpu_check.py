"""The GPU check, without a GPU: the same code at its small size, and what becomes of failures."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner

from pipeline.sample_set import write_sample_set
from scripts.gpu_check import command as gpu_check
from scripts.gpu_check import machine
from scripts.gpu_check.checking import (
    SMALL,
    Bench,
    NotCheckedError,
    Result,
    run_checks,
    with_tf32_products,
    without_tf32,
)
from scripts.gpu_check.machine import own_tests
from scripts.gpu_check.speed import variants
from scripts.gpu_check.stores import prepare_stores
from scripts.gpu_check.tables import markdown
from scripts.gpu_check.training import ARITHMETIC, FLOAT64, _judge


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(torch.device("cpu"), SMALL, lambda text: None, tmp_path, time.monotonic() + 60)


@pytest.mark.filterwarnings("ignore::UserWarning:torch")  # the profiler misses its GPU
def test_every_check_runs_on_a_cpu(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    out = tmp_path / "small.json"
    options = ["--out", str(out), "--device", "cpu", "--small"]
    done = CliRunner().invoke(gpu_check.main, options)
    assert done.exit_code == 0, done.output
    document = json.loads(out.read_text())
    checks = {check["name"]: check for check in document["checks"]}
    without_gpu = {"memory", "tests"}
    assert list(checks) == list(gpu_check.CHECKS)
    for name, check in checks.items():
        assert check["status"] == ("not checked" if name in without_gpu else "passed"), check
        assert check["summary"] in out.with_suffix(".log").read_text()
        assert f"| {name} | {check['status']} |" in out.with_suffix(".md").read_text()
        assert check["found"] or name in without_gpu
    assert checks["equality"]["found"]["images compared"] > 30
    assert {row["steps"] for name, row in checks["steps"]["found"].items() if "threads" in name}
    assert set(SMALL.variants) == set(checks["variants"]["found"])
    assert len(checks["variants"]["unchecked"]) > 5
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_failing_check_leaves_the_others(bench: Bench) -> None:
    def partly(bench: Bench, result: Result) -> None:
        with result.part("first"):
            raise ValueError("of no use\nat all")
        with result.part("second"):
            raise NotCheckedError("no such thing here")
        result.require(1 > 2, "one is not more than two")
        result.summary = "told"

    def broken(bench: Bench, result: Result) -> None:
        raise RuntimeError("gone")

    def unknown(bench: Bench, result: Result) -> None:
        bench.sample_store()

    def nothing(bench: Bench, result: Result) -> None:
        with result.part("only"):
            raise NotCheckedError("no such thing here")

    said: list[str] = []
    bench.say = said.append
    saved: list[list[str]] = []
    results = run_checks(
        {
            "partly": partly,
            "broken": broken,
            "unknown": unknown,
            "nothing": nothing,
            "left": broken,
        },
        bench,
        {"left": "not asked for"},
        lambda results: saved.append([result.summary for result in results]),
    )
    found = {result.name: result for result in results}
    statuses = {name: result.status for name, result in found.items()}
    assert statuses == {
        "partly": "failed",
        "broken": "failed",
        "unknown": "not checked",
        "nothing": "not checked",
        "left": "not checked",
    }
    assert found["partly"].wrong == ["first: ValueError: of no use", "one is not more than two"]
    assert found["partly"].unchecked == ["second: no such thing here"]
    assert found["broken"].wrong == ["RuntimeError: gone"]
    assert "RuntimeError: gone" in found["broken"].error
    assert "there is no store" in found["unknown"].summary
    assert saved[0] == ["not reached"] * 5
    assert ["told", *["not reached"] * 4] in saved
    assert len(saved) == 1 + 3 + 5  # before all, after each part, after each check
    assert said[0] == "  wrong: first: ValueError: of no use"


def test_nothing_is_begun_when_the_time_is_over(bench: Bench) -> None:
    bench.until = time.monotonic()
    (result,) = run_checks({"slow": lambda bench, result: None}, bench, {}, lambda results: None)
    assert (result.status, result.summary) == ("not checked", "the time given was over")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so_and_fails(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    done = CliRunner().invoke(gpu_check.main, ["--out", str(out)])
    assert done.exit_code == 1
    checks = json.loads(out.read_text())["checks"]
    assert checks[0]["wrong"] == ["RuntimeError: torch sees no CUDA device"]
    assert {check["summary"] for check in checks[1:]} == {"there is no CUDA device"}


def test_an_unknown_check_is_refused(tmp_path: Path) -> None:
    with pytest.raises(click.UsageError, match="no such check: speeed"):
        gpu_check.gpu_check(
            tmp_path / "a.json", "cpu", small=True, store=None, minutes=1.0, only="speeed"
        )


def test_the_own_tests_are_run_and_their_end_is_kept(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.device = torch.device("cuda")  # nothing is put there
    result = Result("tests")
    script = "print('SKIPPED [1] no CUDA'); print('1 failed'); raise SystemExit(1)"
    monkeypatch.setattr(machine, "PYTEST", ("-c", script))
    own_tests(bench, result)
    assert result.summary == "1 failed"
    assert result.wrong == ["pytest ended with 1"]
    assert result.unchecked == ["SKIPPED [1] no CUDA"]


def test_a_run_whose_tests_were_all_skipped_tells_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.device = torch.device("cuda")
    result = Result("tests")
    monkeypatch.setattr(machine, "PYTEST", ("-c", "print('1 skipped')"))
    own_tests(bench, result)
    assert result.wrong == ["no test ran: all were skipped"]


def test_raws_that_are_not_ingested_are_no_store_to_check(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(folder: Path, **options: Any) -> None:
        write_sample_set(folder, **options)
        first = min(path for path in folder.rglob("*") if path.suffix in {".ARW", ".NEF"})
        first.write_bytes(first.read_bytes()[:-5000])

    monkeypatch.setattr("pipeline.sample_set.write_sample_set", spoiled)
    with pytest.raises(RuntimeError, match="ingest ended with 3: 1 of 2 raws"):
        prepare_stores(bench, Result("stores"))


def test_rounding_is_held_to_limits_only_where_there_are_some() -> None:
    steps = [(1.0, torch.tensor([1.0, 0.0])), (1.0, torch.tensor([1.0, 0.025]))]
    told, required = Result("frozen"), Result("frozen")
    _judge(told, "random weights", steps, None)
    _judge(required, "trained weights", steps, ARITHMETIC[FLOAT64])
    assert told.wrong == []
    assert told.found["random weights"]["gradient"] == pytest.approx(0.025)
    assert required.wrong == ["trained weights: gradients differ by 0.025"]


def test_what_the_compiler_takes_minutes_for_is_timed_last(bench: Bench) -> None:
    names = list(variants(bench))
    compiled = [name for name in names if "compiled" in name]
    assert len(compiled) >= 2
    assert names[-len(compiled) :] == compiled
    assert list(gpu_check.CHECKS)[-1] == "variants"


def test_a_page_shows_rows_as_a_table_and_the_rest_as_a_list() -> None:
    result = Result("steps", "failed", 2.0, "slow | late")
    result.found = {
        "bf16": {"ms a step": 12.3456, "by step": [1.0, 2.0, 3.0, 4.0], "shape": (8, 3)},
        "float32": {"ms a step": 25, "peak": (1.5, 2.0)},
        "card": "H100",
        "top": [{"ms": 1.0, "name": "gemm"}],
    }
    result.wrong = ["too slow"]
    page = markdown([result, Result("memory")], "GPU check").splitlines()
    assert "| steps | failed | 2 | slow \\| late |" in page
    assert "| memory | not checked | 0 | not reached |" in page
    assert "|  | ms a step | shape | peak |" in page
    assert "| bf16 | 12.35 | 8 / 3 |  |" in page
    assert "| float32 | 25 |  | 1.5 / 2 |" in page
    assert "- card: H100" in page
    assert "| 1 | gemm |" in page
    assert "- **wrong**: too slow" in page


def test_switches_of_tf32_are_put_back_and_stay_readable() -> None:
    """Where torch's newer switches are set, its compiler cannot read the older ones any more."""
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = (cudnn.allow_tf32, products.allow_tf32)
    with without_tf32(), with_tf32_products():
        assert (cudnn.allow_tf32, products.allow_tf32) == (False, True)
        assert torch.get_float32_matmul_precision() == "high"
    assert (cudnn.allow_tf32, products.allow_tf32) == before
