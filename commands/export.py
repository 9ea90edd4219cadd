"""``genisp export``: a trained network as ONNX."""

from __future__ import annotations

from pathlib import Path

import click

from commands.exits import command
from commands.options import NamedPath, checkpoint_option
from commands.output import say
from schemas.exit_code import ExitCode


@command(example="genisp export --checkpoint runs/train/checkpoints/best.pt --output isp.onnx")
@checkpoint_option
@click.option(
    "--output",
    type=NamedPath(path_type=Path, dir_okay=False),
    required=True,
    show_envvar=True,
    help="The ONNX file; one that is there is replaced once the new one has passed.",
)
@click.option(
    "--opset",
    type=click.IntRange(18, 23),
    default=18,
    show_envvar=True,
    help="ONNX operator set.",
)
def export(checkpoint: Path, output: Path, opset: int) -> ExitCode:
    """Write a trained network as ONNX, and prove that onnxruntime gives its pictures.

    Inputs: xyz (B,3,H,W) and scale (B,), the 99th percentile of Y of each whole frame. Output:
    image (B,3,H,W), to be clamped to 0..1. B, H and W are free.
    """
    from genisp_model.export_onnx import run_export

    return run_export(checkpoint, output, opset, say)
