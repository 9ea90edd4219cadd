"""The command line's entry points and groups. Each command is a module of commands/."""

from __future__ import annotations

import sys

import click

from commands.doctor import doctor
from commands.enhance import enhance
from commands.evaluate import evaluate
from commands.exits import CONTEXT, EXIT_CODES, ExitCodes
from commands.export import export
from commands.info import info
from commands.ingest import ingest
from commands.options import version_option
from commands.sample import sample
from commands.train import train
from commands.verify import verify

__all__ = ["genisp", "prep", "train"]


@click.group(
    cls=ExitCodes, context_settings={**CONTEXT, "auto_envvar_prefix": "PREP"}, epilog=EXIT_CODES
)
@version_option
def prep() -> None:
    """Camera raws and COCO boxes in, a verified CIE-XYZ store out.

    \b
    prep ingest /raw_nod     makes ./data.zarr
    prep verify              proves every byte, box and number of it
    """


@click.group(
    cls=ExitCodes, context_settings={**CONTEXT, "auto_envvar_prefix": "GENISP"}, epilog=EXIT_CODES
)
@version_option
def genisp() -> None:
    """Train GenISP from a store, score it, and use it."""


for command in (ingest, verify, info, sample, doctor):
    prep.add_command(command)
for command in (train, evaluate, enhance, export):
    genisp.add_command(command)


def prep_main() -> None:
    """Entry point of ``prep``."""
    prep(prog_name="prep")


def genisp_main() -> None:
    """Entry point of ``genisp``."""
    genisp(prog_name="genisp")


def train_main() -> None:
    """Entry point of ``train``: the same as ``genisp train``."""
    genisp(["train", *sys.argv[1:]], prog_name="genisp")


if __name__ == "__main__":
    prep_main()
