from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from genisp_model.checkpoint import load_checkpoint
from genisp_model.detector.frozen import load_frozen_detector
from genisp_model.training.records.run_folder import RunFolder
from genisp_model.training.run import run_training, train_config
from genisp_model.training.steps import speedups as module
from genisp_model.training.steps.speedups import DeviceFacts, device_facts, known_to_pay, with_known
from genisp_model.training.trainer import Trainer
from pipeline.errors import UsageError
from schemas.choices import Speedup
from schemas.training import TrainConfig

CPU = torch.device("cpu")
H200 = DeviceFacts("cuda", "NVIDIA H200", (9, 0), engine=True, triton=True, amp="bf16")
MEASURED = ("fused-adam", "fused-detector")


@pytest.mark.parametrize(
    ("facts", "chosen", "said"),
    [
        (H200, MEASURED, "NVIDIA H200"),
        (replace(H200, amp=None), MEASURED, "NVIDIA H200"),
        (replace(H200, name="NVIDIA H100 80GB HBM3"), MEASURED, "NVIDIA H100"),
        (replace(H200, amp="fp16"), (), "bf16 or float32"),
        (replace(H200, engine=False), (), "frozen engine"),
        (replace(H200, triton=False), (), "frozen engine"),
        (replace(H200, name="Tesla T4", capability=(7, 5)), (), "measured on Tesla T4"),
        (replace(H200, name="NVIDIA B200", capability=(10, 0)), (), "make gpu-check"),
        (DeviceFacts("cpu", "cpu", engine=True, triton=True), (), "on a processor"),
        (DeviceFacts("mps", "mps", engine=True), (), "measured on mps"),
    ],
)
def test_only_what_was_measured_on_a_device_is_taken(
    facts: DeviceFacts, chosen: tuple[Speedup, ...], said: str
) -> None:
    found, why = known_to_pay(facts)
    assert found == chosen
    assert said in why


CONFIG = TrainConfig(store="s", store_fingerprint="f", epochs=1, batch_size=1, lr=1.0)


def test_the_users_own_stay_beside_those_that_are_known() -> None:
    said: list[str] = []
    own = CONFIG.model_copy(update={"speedups": ("channels-last-isp", "fused-adam")})
    config = with_known(own, H200, said.append)
    assert config.speedups == ("channels-last-isp", *MEASURED)
    assert with_known(config, DeviceFacts("cpu", "cpu"), said.append) == config
    assert "fused-adam, fused-detector" in said[0]
    assert "nothing" in said[1]
    assert len(said) == 2


def test_the_facts_of_a_run() -> None:
    known = load_frozen_detector("sample_retinanet", weights="none")
    other = load_frozen_detector("fcos_resnet50_fpn", weights="none")
    plain = CONFIG.model_copy(update={"plain_detector": True})
    amp = CONFIG.model_copy(update={"amp": "fp16"})
    facts = [
        device_facts(config, detector, CPU)
        for config, detector in ((CONFIG, known), (plain, known), (CONFIG, other), (amp, known))
    ]
    assert [one.engine for one in facts] == [True, False, False, True]
    assert [one.amp for one in facts] == [None, None, None, "fp16"]
    assert {(one.kind, one.name, one.capability) for one in facts} == {("cpu", "cpu", None)}


@pytest.fixture
def options(tiny_store: Path) -> dict[str, Any]:
    return {
        "store": str(tiny_store),
        "recipe": "default",
        "epochs": 1,
        "batch_size": 2,
        "val_split": "",
        "detector": "sample_retinanet",
        "detector_weights": "none",
    }


def test_auto_is_recorded_as_what_it_was(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another device the run keeps what it has, until auto is asked for there."""
    folder, said = tmp_path / "run", list[str]()
    train = partial(run_training, path=folder, say=said.append)

    def known(chosen: tuple[str, ...]) -> None:
        monkeypatch.setattr(module, "known_to_pay", lambda facts: (chosen, "so"))

    known(("fused-adam",))
    train(options | {"device": "cpu", "speedups": ("auto",), "limit_steps": 1}, resume=False)
    assert "--speedup auto: fused-adam (so)" in said
    assert json.loads((folder / "config.json").read_text())["speedups"] == ["fused-adam"]
    assert load_checkpoint(folder / "checkpoints" / "last.pt").config.speedups == ("fused-adam",)

    known(())
    said.clear()
    more = options | {"device": "cpu", "speedups": (), "limit_steps": 2}
    train(more, resume=True, given={"limit_steps"})
    assert not any("--speedup auto" in line for line in said)
    assert json.loads((folder / "config.json").read_text())["speedups"] == ["fused-adam"]
    train(more | {"device": "cpu", "speedups": ("auto",)}, resume=True, given={"speedups"})
    assert "--speedup auto: nothing (so)" in said
    assert any("--speedup: fused-adam against none" in line for line in said)
    assert json.loads((folder / "config.json").read_text())["speedups"] == []


@pytest.fixture
def made(options: dict[str, Any], tmp_path: Path) -> Callable[..., Trainer]:
    def trainer(**more: Any) -> Trainer:
        detector = load_frozen_detector("sample_retinanet", weights="none")
        config = train_config(options | {"speedups": ("compile-isp",)} | more)
        return Trainer(config, detector, RunFolder(tmp_path / "run"), CPU, lambda _: None)

    return trainer


def test_a_network_that_cannot_be_compiled_is_refused_before_the_first_step(
    made: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_compiler(_: Any) -> Callable[..., None]:
        def called(*_: Any) -> None:
            raise RuntimeError("No working C++ compiler found in cxx\nmore of it")

        return called

    monkeypatch.setattr(torch, "compile", without_compiler)
    with pytest.raises(UsageError, match="No working C\\+\\+ compiler found in cxx") as raised:
        made()
    assert "more of it" not in raised.value.message
    assert "leave compile-isp out" in raised.value.mend


def test_steps_are_compiled_and_pictures_are_not(
    made: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[bool] = []

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            calls.append(torch.is_grad_enabled())
            return function(*arguments)

        return called

    monkeypatch.setattr(torch, "compile", compiled)
    run = made(val_split="val", limit_steps=2)
    calls.clear()
    assert run.fit()
    assert calls == [True, True]
