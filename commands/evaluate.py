"""``genisp evaluate``: scores of every rendering of a split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from commands.exits import command
from commands.options import NamedPath, detector_options, json_option, level_option, store_option
from commands.output import say, warn
from schemas.choices import DEFAULT_VAL_SPLIT
from schemas.exit_code import ExitCode


@command(example="genisp evaluate --store data.zarr --checkpoint runs/train/checkpoints/best.pt")
@store_option
@click.option("--split", default=DEFAULT_VAL_SPLIT, show_envvar=True, help="Samples to score on.")
@level_option("Which array is read.")
@click.option(
    "--checkpoint",
    type=NamedPath(path_type=Path),
    show_envvar=True,
    help="A run's network; without one only the fixed renderings are scored.",
)
@click.option(
    "--sources",
    multiple=True,
    metavar="SOURCE",
    show_envvar=True,
    help="The raws the store was made from: scores LibRaw's default rendering of them too. "
    "Repeatable.",
)
@click.option(
    "--by-condition",
    is_flag=True,
    show_envvar=True,
    help="Score also the images with a box of each flag (isextreme, ...), those without, and "
    "by ISO.",
)
@detector_options
@json_option
def evaluate(
    checkpoint: Path | None, sources: tuple[str, ...], json: bool, **options: Any
) -> ExitCode:
    """Score every rendering of a split under a frozen detector: COCO AP and guidance loss."""
    from genisp_model.evaluation.run import run_evaluation
    from pipeline.console import results

    pictures = None
    if sources:
        from pipeline.camera_picture import camera_pictures

        pictures = camera_pictures(options["store"], options["split"], options["level"], sources)
    scores = run_evaluation(options, checkpoint, warn, pictures)
    lines = (
        map(results.as_json, scores)
        if json
        else [results.scores_text(scores), results.twelve_lines(scores)]
    )
    for line in lines:
        say(line)
    return ExitCode.DONE
