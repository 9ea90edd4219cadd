"""``prep ingest``: raws into a store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import click

from commands.exits import command
from commands.options import json_option, store_option, workers_option
from commands.output import reporter, show
from pipeline.errors import UsageError
from schemas.choices import (
    DEFAULT_CODEC,
    DEFAULT_COLOUR,
    DEFAULT_DECODER,
    DEFAULT_FIT,
    DEFAULT_LEVELS,
    DEFAULT_TIME_LIMIT,
    Codec,
    Colour,
    DecoderChoice,
)

if TYPE_CHECKING:
    from schemas.recipe import Recipe


@command(example="prep ingest /raw_nod --store night.zarr")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@store_option
@workers_option
@click.option(
    "--annotations",
    multiple=True,
    metavar="FILE",
    show_envvar=True,
    help="An annotation file (COCO, Pascal VOC, YOLO), or a folder of some, outside the sources; "
    "those inside are found. Repeatable.",
)
@click.option(
    "--split",
    multiple=True,
    metavar="NAME=FILE",
    show_envvar=True,
    help="An annotation file and the split it defines; else its name says train, val or test. "
    "Repeatable.",
)
@click.option(
    "--category",
    "categories",
    multiple=True,
    metavar="NAME=NAME",
    show_envvar=True,
    help="Boxes annotated as one class count as another: pedestrian=person. Repeatable.",
)
@click.option(
    "--colour",
    type=click.Choice(get_args(Colour)),
    default=DEFAULT_COLOUR,
    show_envvar=True,
    help="XYZ without white balance; LibRaw's own balanced XYZ; or camera RGB without a matrix.",
)
@click.option(
    "--levels",
    default=",".join(DEFAULT_LEVELS),
    show_envvar=True,
    help="Arrays to store, by comma.",
)
@click.option(
    "--fit",
    default="x".join(map(str, DEFAULT_FIT)),
    show_envvar=True,
    metavar="LONGxSHORT",
    help="Bounds of the resized level in pixels; aspect kept, never enlarged.",
)
@click.option(
    "--codec",
    type=click.Choice(get_args(Codec)),
    default=DEFAULT_CODEC,
    show_envvar=True,
    help="lz4 reads fastest; zstd is a few per cent smaller.",
)
@click.option(
    "--decoder",
    type=click.Choice(get_args(DecoderChoice)),
    default=DEFAULT_DECODER,
    show_envvar=True,
    help="auto: our own or flashraw where they agree with LibRaw bit for bit, else LibRaw.",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(min=1),
    default=DEFAULT_TIME_LIMIT,
    show_envvar=True,
    help="Seconds a raw may take before its worker is ended (with --workers 1 or more).",
)
@click.option("--retry-failed", is_flag=True, show_envvar=True, help="Try failed sources again.")
@click.option(
    "--recheck/--no-recheck",
    default=True,
    show_envvar=True,
    help="Compute the checksums of samples already stored, and redo the damaged ones.",
)
@click.option(
    "--strict", is_flag=True, show_envvar=True, help="Any finding makes its source a failure."
)
@click.option(
    "--dry-run", is_flag=True, show_envvar=True, help="Say what would be done; write nothing."
)
@json_option
def ingest(**options: Any) -> int:
    """Turn raws into a store; run it again to continue or mend.

    SOURCE is a folder, a raw file, a .zip archive (read in place, even when its download was cut
    off) or an fsspec URL. COCO files in a source are found by themselves.
    """
    from pipeline.ingest import IngestOptions, plan_ingest, run_ingest

    recipe = _recipe(options)
    how = IngestOptions(
        workers=options["workers"],
        time_limit=options["time_limit"],
        decoder=options["decoder"],
        annotations=options["annotations"],
        splits=tuple(_named_split(text) for text in options["split"]),
        recheck=options["recheck"],
        retry_failed=options["retry_failed"],
        strict=options["strict"],
    )
    told = reporter(options["json"], quiet=True)
    sources, store = options["sources"], options["store"]
    if options["dry_run"]:
        plan = plan_ingest(sources, store, recipe, how, told)
        show(plan, "plan", options["json"])
        return plan.exit_code
    summary = run_ingest(sources, store, recipe, how, told)
    show(summary, "ingest", options["json"])
    return summary.exit_code


def _recipe(options: dict[str, Any]) -> Recipe:
    from pydantic import ValidationError

    from schemas.recipe import Recipe

    try:
        long_side, short_side = (int(part) for part in options["fit"].lower().split("x"))
    except ValueError:
        message = f"--fit {options['fit']!r} is not two whole numbers"
        raise UsageError(message, mend="write LONGxSHORT: --fit 1333x800") from None
    try:
        return Recipe(
            colour=options["colour"],
            levels=tuple(name.strip() for name in options["levels"].split(",")),
            fit=(long_side, short_side),
            codec=options["codec"],
            categories=tuple(_named_category(text) for text in options["categories"]),
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"{first['msg']} (got {first['input']!r})", mend="see --help") from None


def _named_category(text: str) -> tuple[str, str]:
    name, _, counts_as = text.partition("=")
    if not (name.strip() and counts_as.strip()):
        raise UsageError(
            f"--category {text!r} names no two classes",
            mend="write ANNOTATED=CLASS: --category pedestrian=person",
        )
    return name, counts_as


def _named_split(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise UsageError(
            f"--split {text!r} names no file", mend="write NAME=FILE: --split val=boxes.json"
        )
    return name, path
