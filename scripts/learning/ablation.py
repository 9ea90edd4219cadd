"""What makes GenISP learn: the default, and the default with one thing changed.

    python -m scripts.learning.ablation --store A.zarr --unseen B.zarr --epochs 1

Both stores as `scripts.learning.proof` makes them. Prints one line a variant.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import torch

from genisp_model.data import StoreDataset
from genisp_model.data.loader import StreamLoader
from genisp_model.detector import load_frozen_detector
from genisp_model.evaluation.scores import evaluate
from genisp_model.isp import GenISP, GenISPConfig
from genisp_model.training import RunFolder, Trainer
from genisp_model.training.run import train_config
from scripts.learning.proof import DETECTOR, WEIGHTS, train_options

DEFAULT = GenISPConfig()
#: Name -> network and learning rate; each differs from the first in one thing.
VARIANTS: dict[str, tuple[GenISPConfig, float]] = {
    "default": (DEFAULT, 1e-3),
    "start: torch's random weights": (replace(DEFAULT, start="torch"), 1e-3),
    "gains and matrix: free": (replace(DEFAULT, parametrisation="free"), 1e-3),
    "input: not scaled": (replace(DEFAULT, input_scaling="none"), 1e-3),
    "highlights: not limited": (replace(DEFAULT, highlight_limit=math.inf), 1e-3),
    "lr: 1e-2": (DEFAULT, 1e-2),
}


def run_variant(
    store: Path, unseen: Path, isp: GenISPConfig, lr: float, epochs: int
) -> tuple[float, float, float, float]:
    """Loss and AP on unseen scenes, before and after training."""
    detector = load_frozen_detector(DETECTOR, weights=WEIGHTS)
    options = train_options(store, seed=0, epochs=epochs, batch_size=4, lr=lr)
    options |= {"val_split": "", "lr_steps": ""}
    options.pop("device")
    with TemporaryDirectory() as folder:
        trainer = Trainer(
            train_config(options),
            detector,
            RunFolder(Path(folder)),
            torch.device("cpu"),
            lambda text: None,
        )
        torch.manual_seed(0)
        trainer.isp = GenISP(isp)
        trainer.optimiser = torch.optim.Adam(trainer.isp.parameters(), lr=lr)
        scenes = StreamLoader(StoreDataset(unseen, level="resized"), batch_size=1, shuffle=False)
        before = evaluate(trainer.render, detector, scenes)
        trainer.fit()
        scenes.set_epoch(0)
        after = evaluate(trainer.render, detector, scenes)
        trainer.folder.close()
    return before.loss, after.loss, before.ap, after.ap


@click.command()
@click.option("--store", type=click.Path(path_type=Path), required=True, help="To train on.")
@click.option("--unseen", type=click.Path(path_type=Path), required=True, help="To score on.")
@click.option("--epochs", default=1)
def main(store: Path, unseen: Path, epochs: int) -> None:
    """Train every variant and print what it gave."""
    click.echo(f"{'variant':32} {'loss before':>11} {'after':>7} {'AP before':>10} {'after':>7}")
    for name, (isp, lr) in VARIANTS.items():
        loss_before, loss_after, ap_before, ap_after = run_variant(store, unseen, isp, lr, epochs)
        click.echo(
            f"{name:32} {loss_before:11.3f} {loss_after:7.3f} {ap_before:10.3f} {ap_after:7.3f}"
        )


if __name__ == "__main__":
    main()
