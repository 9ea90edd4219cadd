"""What augmentation makes of pictures, for the eye: a row a sample, a column a kind, with boxes.

    python -m scripts.augmentation_sheet --store data.zarr --out augmentation.png

Every column is rendered with the brightness of the untouched picture, so that exposure is seen.
Crossed regions are neither objects nor background.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image, ImageDraw

from genisp_model.data import Batch, StoreDataset, StreamLoader
from genisp_model.data.scale_jitter import UNSCALED, ScaleJitter
from genisp_model.data.sensor_augment import UNCHANGED, SensorAugment
from genisp_model.renderings import render_classical

PANEL = (165, 110)
GAP, HEAD = 3, 16
#: Of the PNG: as few as keep it small, noise and all.
COLOURS = 112
KINDS: tuple[tuple[str, SensorAugment, ScaleJitter], ...] = (
    ("untouched", UNCHANGED, UNSCALED),
    ("--exposure-stops 2", SensorAugment(exposure_stops=2), UNSCALED),
    ("--noise 0.01", SensorAugment(noise=0.01), UNSCALED),
    ("--matrix-jitter 1", SensorAugment(matrix_jitter=1), UNSCALED),
    ("--scale-jitter 0.5,3", UNCHANGED, ScaleJitter(0.5, 3)),
)


@click.command()
@click.option("--store", default="data.zarr", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default="augmentation.png")
@click.option("--samples", type=int, default=3, show_default=True, help="Rows: the first samples.")
@click.option("--seed", type=int, default=0, show_default=True)
def main(store: str, out: Path, samples: int, seed: int) -> None:
    """Draw the sheet."""
    dataset = StoreDataset(store)
    columns = [
        StreamLoader(
            dataset, batch_size=1, shuffle=False, seed=seed, sensor=sensor, scale_jitter=scale
        )
        for _, sensor, scale in KINDS
    ]
    rows = list(zip(range(samples), zip(*columns, strict=True), strict=False))
    width, height = PANEL[0] + GAP, PANEL[1] + GAP
    sheet = Image.new("RGB", (width * len(KINDS) - GAP, HEAD + height * len(rows) - GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for column, (name, _, _) in enumerate(KINDS):
        draw.text((column * width + 3, 3), name, fill="black")
    for row, batches in rows:
        for column, batch in enumerate(batches):
            place = column * width, HEAD + row * height
            sheet.paste(panel(batch, batches[0].exposure), place)
    sheet.quantize(COLOURS, dither=Image.Dither.NONE).save(out, optimize=True)
    click.echo(f"{out}: {out.stat().st_size / 1000:.0f} kB")


def panel(batch: Batch, scale: torch.Tensor) -> Image.Image:
    """One picture with its boxes."""
    values = (render_classical(batch.images, scale)[0] * 255).round().to(torch.uint8)
    picture = Image.fromarray(np.ascontiguousarray(values.permute(1, 2, 0).numpy()))
    factors = np.array([PANEL[0] / picture.width, PANEL[1] / picture.height] * 2)
    picture = picture.resize(PANEL, Image.Resampling.BOX)
    draw = ImageDraw.Draw(picture)
    for x1, y1, x2, y2 in (batch.targets[0]["ignore"].numpy() * factors).tolist():
        draw.rectangle((x1, y1, x2, y2), outline="gray")
        draw.line((x1, y1, x2, y2), fill="gray")
        draw.line((x1, y2, x2, y1), fill="gray")
    for box in (batch.targets[0]["boxes"].numpy() * factors).tolist():
        draw.rectangle(box, outline="yellow")
    return picture


if __name__ == "__main__":
    main()
