"""An ISP that is not GenISP is trained, kept, scored and used.

docs/how-to/write-an-isp.md shows it."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from genisp_model.checkpoint import load_isp
from genisp_model.data.dataset import StoreDataset
from genisp_model.detector.frozen import load_frozen_detector
from genisp_model.enhance import render
from genisp_model.evaluation.comparison import TRAINED, UNTRAINED, compare
from genisp_model.isp import ISP, ISPOutput
from genisp_model.recipes import RECIPES
from genisp_model.training.records.run_folder import RunFolder
from genisp_model.training.run import train_config
from genisp_model.training.trainer import Trainer


class ThreeGains(ISP):
    """One gain for each plane, the same for every image."""

    def __init__(self) -> None:
        super().__init__()
        self.gains = nn.Parameter(torch.full((3,), 0.5))

    def forward_with_parameters(self, xyz: Tensor, scale: Tensor | None = None) -> ISPOutput:
        exposed = xyz if scale is None else xyz / scale[:, None, None, None]
        return ISPOutput(exposed * self.gains[:, None, None], gains=self.gains.expand(len(xyz), 3))


@pytest.fixture
def run(tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    monkeypatch.setitem(RECIPES, "default", replace(RECIPES["default"], make_isp=ThreeGains))
    options = {"store": str(tiny_store), "recipe": "default", "epochs": 1, "batch_size": 2}
    config = train_config(options | {"detector": "sample_retinanet", "val_split": ""})
    detector = load_frozen_detector("sample_retinanet", "sample")
    return Trainer(config, detector, RunFolder(tmp_path), torch.device("cpu"), lambda text: None)


def test_another_isp_is_trained_kept_and_used(run: Trainer, tiny_store: Path) -> None:
    assert run.fit()
    assert run.step == 2
    assert isinstance(run.isp, ThreeGains)
    assert (run.isp.gains != 0.5).all()
    with (run.folder.path / "steps.csv").open() as file:
        columns = csv.DictReader(file).fieldnames or []
    assert [name for name in columns if name.endswith("_min")] == ["gain_min"]  # no matrix

    isp, config = load_isp(run.folder.last)
    assert isinstance(isp, ThreeGains)
    assert torch.equal(isp.gains, run.isp.gains)
    assert config == run.config

    picture = render(isp, np.full((3, 8, 12), 0.2, np.float32), brightness=0.4)
    expected = np.broadcast_to(isp.gains.detach().numpy() / 2, (8, 12, 3))
    np.testing.assert_allclose(picture, expected, rtol=1e-6)

    dataset = StoreDataset(tiny_store, split="val")
    found = compare(dataset, run.guide, run.folder.last, torch.device("cpu"))
    scores = {score.rendering: score.loss for score, _ in found}
    assert {UNTRAINED, TRAINED} <= set(scores)
