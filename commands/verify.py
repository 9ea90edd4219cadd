"""``prep verify``: is every byte of a store what it was?"""

from __future__ import annotations

import click

from commands.exits import command
from commands.options import json_option, store_argument, workers_option
from commands.output import reporter, show


@command(example="prep verify night.zarr --sources /raw_nod")
@store_argument
@click.option("--quick", is_flag=True, show_envvar=True, help="Structure only; read no chunk.")
@click.option(
    "--sources",
    multiple=True,
    metavar="SOURCE",
    show_envvar=True,
    help="Also derive samples again from these raws, by LibRaw, and compare every number.",
)
@workers_option
@click.option("--strict", is_flag=True, show_envvar=True, help="Warnings count as damage.")
@json_option
def verify(
    store: str, quick: bool, sources: tuple[str, ...], workers: int, strict: bool, json: bool
) -> int:
    """Check every byte, box and number of a store.

    STORE defaults to ./data.zarr.
    """
    from pipeline.store.open_files import open_files
    from pipeline.verify import VerifyOptions, run_verify

    how = VerifyOptions(quick=quick, strict=strict, sources=sources, workers=workers)
    summary = run_verify(open_files(store), reporter(json), how)
    show(summary, "verify", json)
    return summary.exit_code
