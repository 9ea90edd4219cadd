"""Does GenISP learn through the frozen stand-in detector? Seeds 0, 1, 2, held-out scenes, paired.

    python -m scripts.learning.proof --out proof --images 160 --epochs 4

Draws a sample set, ingests it, trains one network a seed, and scores it on the held-out split (val
and test together would share neighbours with train, so a second set with another seed is drawn for
scoring). Prints one table a seed; writes everything to the folder.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import click
import torch

from genisp_model.data import StoreDataset
from genisp_model.detector import load_frozen_detector
from genisp_model.evaluation.comparison import TRAINED, UNTRAINED, compare
from genisp_model.evaluation.scores import Evaluation, paired_ap_gain, paired_gain
from genisp_model.training.run import run_training
from pipeline.console.progress import PlainReporter
from pipeline.console.results import scores_text
from pipeline.ingest import IngestOptions, run_ingest
from pipeline.sample_set import write_sample_set
from schemas.recipe import Recipe

DETECTOR, WEIGHTS = "sample_retinanet", "sample"


def make_store(folder: Path, *, images: int, seed: int, fit: tuple[int, int]) -> Path:
    """A store of a freshly drawn sample set; kept if it is there already."""
    store = folder / f"seed{seed}.zarr"
    if not store.exists():
        write_sample_set(folder / f"seed{seed}", images=images, seed=seed)
        recipe = Recipe(levels=("resized",), fit=fit)
        reporter = PlainReporter(click.echo, quiet=True)
        run_ingest([str(folder / f"seed{seed}")], str(store), recipe, IngestOptions(), reporter)
    return store


def train_options(
    store: Path, *, seed: int, epochs: int, batch_size: int, lr: float
) -> dict[str, object]:
    """What `train` would be told."""
    return {
        "store": str(store),
        "split": "train",
        "val_split": "val",
        "recipe": "default",
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "lr_steps": str(math.ceil(epochs * 2 / 3)),
        "device": "auto",
        "detector": DETECTOR,
        "detector_weights": WEIGHTS,
        "box_loss": "smooth_l1",
        "flip": 0.5,
        "seed": seed,
    }


def score(store: Path, checkpoint: Path) -> dict[str, Evaluation]:
    """Every rendering on every scene of a store nobody trained on; prints the table."""
    detector = load_frozen_detector(DETECTOR, weights=WEIGHTS)
    dataset = StoreDataset(store, level="resized")
    pairs = list(compare(dataset, detector, checkpoint, torch.device("cpu")))
    click.echo(scores_text([one for one, _ in pairs]))
    return {one.rendering: result for one, result in pairs}


@click.command()
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder for everything."
)
@click.option("--images", default=160, help="Raws to train on.")
@click.option("--held-out", default=60, help="Raws to score on, of another seed.")
@click.option("--epochs", default=4)
@click.option("--batch-size", default=4)
@click.option("--lr", default=1e-3)
@click.option("--fit", default=408, help="Long side of the training images.")
@click.option("--seeds", default="0,1,2")
def main(
    out: Path,
    images: int,
    held_out: int,
    epochs: int,
    batch_size: int,
    lr: float,
    fit: int,
    seeds: str,
) -> None:
    """Train and score one network a seed."""
    size = (fit, fit * 2 // 3)
    store = make_store(out, images=images, seed=100, fit=size)
    unseen = make_store(out, images=held_out, seed=200, fit=size)
    rows = []
    for seed in map(int, seeds.split(",")):
        folder = out / f"run{seed}"
        options = train_options(store, seed=seed, epochs=epochs, batch_size=batch_size, lr=lr)
        run_training(
            options, folder, resume=(folder / "checkpoints/last.pt").exists(), say=click.echo
        )
        scored = score(unseen, folder / "checkpoints" / "last.pt")
        gain = paired_gain(scored[UNTRAINED], scored[TRAINED])
        over = paired_gain(scored["classical"], scored[TRAINED])
        click.echo(
            f"seed {seed}: trained against untrained {gain.mean:+.4f} ± {gain.standard_error:.4f} "
            f"({gain.in_standard_errors:.1f} SE); against classical {over.mean:+.4f} ± "
            f"{over.standard_error:.4f} ({over.in_standard_errors:.1f} SE)"
        )
        for name in ("naive XYZ", "gray-world + gamma", "classical", UNTRAINED):
            ap = paired_ap_gain(scored[name], scored[TRAINED])
            click.echo(f"  AP of trained over {name}: {ap.mean:+.3f} ± {ap.standard_error:.3f}")
        rows.append({"seed": seed, **{name: (r.ap, r.ap50, r.loss) for name, r in scored.items()}})
    (out / "proof.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
