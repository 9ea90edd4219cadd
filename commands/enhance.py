"""``genisp enhance``: pictures by a trained network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from commands.exits import command
from commands.options import LEVEL, NamedPath, checkpoint_option, device_option
from commands.output import say, warn
from schemas.choices import DEFAULT_PICTURE_FORMAT, PictureFormat
from schemas.exit_code import ExitCode

if TYPE_CHECKING:
    from pipeline.develop_file import Developed
    from schemas.recipe import LevelName, Recipe


@command(
    example="genisp enhance night/*.ARW --checkpoint runs/train/checkpoints/best.pt "
    "--output-dir pictures"
)
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@checkpoint_option
@click.option(
    "--store",
    type=NamedPath(),
    show_envvar=True,
    help="Take samples of this store; INPUT is then their ids.",
)
@click.option(
    "--level",
    type=LEVEL,
    show_default="as trained",
    show_envvar=True,
    help="Size of the pictures: the store's resized, or half the sensor's.",
)
@click.option(
    "--output-dir",
    type=NamedPath(path_type=Path),
    default=Path("enhanced"),
    show_envvar=True,
    help="Where the pictures go, one an input, named after it.",
)
@click.option(
    "--format",
    type=click.Choice(get_args(PictureFormat)),
    default=DEFAULT_PICTURE_FORMAT,
    show_envvar=True,
    help="PNG with 8 bits a colour, or TIFF with 16.",
)
@device_option
@click.option(
    "--overwrite", is_flag=True, show_envvar=True, help="Replace pictures that are there."
)
def enhance(inputs: tuple[str, ...], checkpoint: Path, **options: Any) -> ExitCode:
    """Turn raw files, or samples of a store, into pictures by a trained network.

    INPUT is a raw file; it is developed as ingest would.
    """
    from genisp_model.enhance import EnhanceOptions, run_enhance

    def develop(path: str, recipe: Recipe, level: LevelName) -> Developed:
        from pipeline.develop_file import develop_file  # decoders: not needed for a store

        return develop_file(path, recipe, level)

    return run_enhance(
        inputs,
        checkpoint,
        EnhanceOptions(**options),
        develop,
        say=say,
        warn=warn,
    )
