"""``prep info``: what a store holds."""

from __future__ import annotations

from commands.exits import command
from commands.options import json_option, store_argument
from commands.output import show
from schemas.exit_code import ExitCode


@command(example="prep info night.zarr --json")
@store_argument
@json_option
def info(store: str, json: bool) -> ExitCode:
    """Say what a store holds.

    STORE defaults to ./data.zarr.
    """
    from pipeline.store import open_store
    from pipeline.store.summary import store_info

    show(store_info(open_store(store)), "info", json)
    return ExitCode.DONE
