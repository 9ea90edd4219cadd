from __future__ import annotations

import copy
import sys
import warnings
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from cli import genisp
from genisp_model import export_onnx as export_module
from genisp_model.checkpoint import Checkpoint
from genisp_model.export_onnx import (
    DEFAULT_OPSET,
    TOLERANCE,
    Difference,
    compare_exported,
    export_isp,
    exportable,
)
from genisp_model.isp import GenISP, GenISPConfig
from genisp_model.training.run import train_config
from pipeline.errors import TrainingError
from schemas.training import TrainRecipeName

runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SMALL = ((1, 40, 56), (2, 67, 31))


def save(store: Path, path: Path, recipe: TrainRecipeName = "default") -> Path:
    torch.manual_seed(2)
    config = train_config({"store": str(store), "recipe": recipe})
    state = GenISP().state_dict()
    Checkpoint(config, 0, 0, state, {}, {}, torch.get_rng_state(), 1.0).save(path)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(genisp, ["export", *map(str, arguments)])


def random_isp(config: GenISPConfig) -> GenISP:
    torch.manual_seed(4)
    return GenISP(config).eval()


def test_the_file_gives_the_networks_pictures_at_any_size(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        export_module, "compare_exported", lambda i, p: compare_exported(i, p, SMALL)
    )
    checkpoint, output = save(tiny_store, tmp_path / "best.pt"), tmp_path / "out" / "isp.onnx"
    result = run("--checkpoint", checkpoint, "--output", output)
    assert result.exit_code == 0, result.output
    assert "largest difference" in result.output
    assert [path.name for path in output.parent.iterdir()] == ["isp.onnx"]
    session = runtime.InferenceSession(str(output), providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["recipe"] == "default"
    assert [(one.name, one.shape) for one in session.get_inputs()] == [
        ("xyz", ["batch", 3, "height", "width"]),
        ("scale", ["batch"]),
    ]
    torch.manual_seed(2)
    isp = GenISP().eval()
    for batch, height, width in SMALL:
        xyz, scale = torch.rand(batch, 3, height, width) - 0.01, torch.linspace(0.3, 0.9, batch)
        made = session.run(None, {"xyz": xyz.numpy(), "scale": scale.numpy()})[0]
        with torch.inference_mode():
            np.testing.assert_allclose(made, isp(xyz, scale).numpy(), atol=1e-4)


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> tuple[GenISP, Path]:
    """The paper's network, whose input is not scaled, and its file."""
    isp, path = random_isp(GenISPConfig.paper()), tmp_path_factory.mktemp("paper") / "isp.onnx"
    export_isp(isp, path, DEFAULT_OPSET, {})
    return isp, path


def test_the_papers_network_is_exact_where_onnxruntimes_own_norm_is_not(
    paper: tuple[GenISP, Path],
) -> None:
    assert compare_exported(*paper, [(1, 200, 300)]).exact < 1e-5


@pytest.mark.parametrize("config", [GenISPConfig(), GenISPConfig.paper()])
def test_what_is_exported_computes_the_same_with_less_rounding(config: GenISPConfig) -> None:
    isp = random_isp(config).double()
    torch.nn.init.uniform_(isp.shallow.conv1.bias, -2, 2)  # type: ignore[arg-type]
    before = copy.deepcopy(isp.state_dict())
    xyz, scale = torch.rand(2, 3, 33, 47, dtype=torch.double), torch.tensor([0.5, 0.8])
    with torch.inference_mode():
        torch.testing.assert_close(exportable(isp)(xyz, scale), isp(xyz, scale))
    assert all(torch.equal(value, before[name]) for name, value in isp.state_dict().items())


def test_a_network_that_differs_is_noticed(paper: tuple[GenISP, Path]) -> None:
    isp, path = paper
    for wrong in (1e-3, float("nan")):
        other = copy.deepcopy(isp)
        torch.nn.init.constant_(cast(torch.Tensor, other.shallow.conv3.bias), wrong)
        found = compare_exported(other, path, SMALL[:1])
        assert not found.exact <= TOLERANCE
        assert not found.torch <= TOLERANCE


def test_of_torchs_warnings_only_those_of_its_own_making_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch 2.11's exporter uses what it calls deprecated; here every warning is an error."""

    def exporter(*_: object, **__: object) -> None:
        warnings.warn(warning, FutureWarning, stacklevel=1)

    monkeypatch.setattr("torch.onnx.export", exporter)
    warning = "`isinstance(treespec, LeafSpec)` is deprecated, use `isinstance(treespec, TreeSpec)`"
    with pytest.raises(TrainingError, match="made nothing"):
        export_isp(GenISP(), tmp_path / "isp.onnx", DEFAULT_OPSET, {})
    warning = "this opset will be gone"
    with pytest.raises(FutureWarning, match="will be gone"):
        export_isp(GenISP(), tmp_path / "isp.onnx", DEFAULT_OPSET, {})


@pytest.mark.parametrize("wrong", [2e-4, float("nan")])
def test_a_file_that_differs_is_an_error_and_not_written(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    monkeypatch.setattr(export_module, "export_isp", lambda isp, path, *_: path.write_text("new"))
    monkeypatch.setattr(export_module, "compare_exported", lambda *_: Difference(wrong, wrong))
    checkpoint, output = save(tiny_store, tmp_path / "best.pt"), tmp_path / "out" / "isp.onnx"
    output.parent.mkdir()
    output.write_text("old")
    result = run("--checkpoint", checkpoint, "--output", output)
    assert result.exit_code == 1
    assert "differs by" in result.output
    assert [path.read_text() for path in output.parent.iterdir()] == ["old"]


def test_a_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.pt"
    torch.save({"weights": torch.zeros(3)}, foreign)
    result = run("--checkpoint", foreign, "--output", tmp_path / "a.onnx")
    assert result.exit_code == 1
    assert "not one of our checkpoints" in result.output
    assert not (tmp_path / "a.onnx").exists()


def test_missing_packages_are_named_with_the_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    result = run("--checkpoint", tmp_path / "a.pt", "--output", tmp_path / "a.onnx")
    assert result.exit_code == 2
    assert "needs onnxscript\n  mend: pip install 'genisp[export]'" in result.output
