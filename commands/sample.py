"""``prep sample``: raws to try everything with."""

from __future__ import annotations

from pathlib import Path

import click

from commands.exits import command
from commands.options import json_option
from commands.output import say
from schemas.exit_code import ExitCode


@command(example="prep sample nod --images 12 && prep ingest nod")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--images", type=click.IntRange(min=1), default=12, show_envvar=True, help="Raws to write."
)
@click.option("--seed", type=int, default=0, show_envvar=True, help="Same seed, same bytes.")
@click.option(
    "--full-size",
    is_flag=True,
    show_envvar=True,
    help="The cameras' real sizes (20 and 10 megapixels).",
)
@json_option
def sample(directory: Path, images: int, seed: int, full_size: bool, json: bool) -> ExitCode:
    """Draw a small NOD-like set of real-format raws.

    Scenes are synthetic; formats, levels, matrices and annotation files are the cameras' and NOD's.
    """
    from pipeline.console import results
    from pipeline.sample_set import write_sample_set

    summary = write_sample_set(directory, images=images, seed=seed, full_size=full_size)
    say(results.as_json(summary) if json else results.sample_text(summary, directory))
    return ExitCode.DONE
