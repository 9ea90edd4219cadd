"""``genisp train``, also called ``train``: a run, streamed from a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click
from click.core import ParameterSource

from commands.config_file import config_option, naming_the_file
from commands.exits import command
from commands.options import (
    NamedPath,
    NumberList,
    TomlType,
    detector_options,
    level_option,
    store_option,
)
from commands.output import say
from pipeline.errors import UsageError
from schemas.choices import (
    AUTO,
    DEFAULT_BEST_BY,
    DEFAULT_SCHEDULE,
    DEFAULT_TRAIN_RECIPE,
    DEFAULT_TRAIN_SPLIT,
    DEFAULT_VAL_SPLIT,
    Amp,
    BestBy,
    Schedule,
    Speedup,
    TrainRecipeName,
)
from schemas.exit_code import ExitCode


class _AmpChoice(TomlType, click.Choice[str]):
    """What autocast computes in; also what a flag takes, since ``--amp`` was one: yes is bf16."""

    toml_types = (str, bool)
    toml_words = '"bf16", "fp16" or false'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not str(value).strip():  # click would take it for no
            return super().convert(value, param, ctx)
        try:
            return "bf16" if click.BOOL.convert(value, param, ctx) else False
        except click.BadParameter:
            return super().convert(value, param, ctx)


@command(example="train --store data.zarr --output-dir runs/night")
@config_option
@store_option
@click.option("--split", default=DEFAULT_TRAIN_SPLIT, show_envvar=True, help="Samples to train on.")
@click.option(
    "--val-split",
    default=DEFAULT_VAL_SPLIT,
    show_envvar=True,
    help="Samples to score on; '' for none.",
)
@click.option(
    "--val-every",
    type=click.IntRange(min=1),
    default=1,
    show_envvar=True,
    help="Epochs between validations; the last is always validated.",
)
@click.option(
    "--val-limit",
    type=click.IntRange(min=0),
    default=0,
    show_envvar=True,
    help="Score on so many samples, spread over the split; 0 for all.",
)
@click.option(
    "--best-by",
    type=click.Choice(get_args(BestBy)),
    default=DEFAULT_BEST_BY,
    show_envvar=True,
    help="Which validation score best.pt follows.",
)
@click.option(
    "--patience",
    type=click.IntRange(min=0),
    default=0,
    show_envvar=True,
    help="Stop after so many validations without a better score; 0 for never.",
)
@level_option("Which array is streamed.")
@click.option(
    "--recipe",
    type=click.Choice(get_args(TrainRecipeName)),
    default=DEFAULT_TRAIN_RECIPE,
    show_envvar=True,
    help="Network start, bounds and schedule; options override the schedule.",
)
@click.option(
    "--init-from",
    type=NamedPath(),
    show_envvar=True,
    help="Begin with the network of another run's checkpoint.",
)
@click.option(
    "--freeze",
    multiple=True,
    metavar="NAME",
    show_envvar=True,
    help="A part of the network that is not trained, such as ConvWB. Repeatable.",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    show_default="recipe's",
    show_envvar=True,
    help="Passes over the split.",
)
@click.option(
    "-b",
    "--batch-size",
    type=click.IntRange(min=1),
    show_default="recipe's",
    show_envvar=True,
    help="Images a batch.",
)
@click.option(
    "--accumulate",
    type=click.IntRange(min=1),
    default=1,
    show_envvar=True,
    help="Batches an optimiser step: 8 of size 1 fit where one of size 8 does not.",
)
@click.option(
    "--lr", type=float, show_default="recipe's", show_envvar=True, help="Adam's learning rate."
)
@click.option(
    "--lr-steps",
    type=NumberList(whole=True),
    show_default="recipe's",
    show_envvar=True,
    help="Epochs after which lr falls tenfold, counted from 1: 5,10; '' for none.",
)
@click.option(
    "--lr-schedule",
    type=click.Choice(get_args(Schedule)),
    default=DEFAULT_SCHEDULE,
    show_envvar=True,
    help="Falling at --lr-steps, along a cosine over the whole run, or not at all.",
)
@click.option(
    "--lr-final",
    type=float,
    default=0.01,
    show_envvar=True,
    help="Where the cosine ends: a share of --lr.",
)
@click.option(
    "--warmup-steps",
    type=click.IntRange(min=0),
    default=0,
    show_envvar=True,
    help="Optimiser steps over which the rate rises to --lr.",
)
@click.option(
    "--clip-grad",
    type=float,
    default=0.0,
    show_envvar=True,
    help="Largest norm of a step's gradient; 0 for no limit.",
)
@click.option(
    "--ema",
    type=float,
    default=0.0,
    show_envvar=True,
    help="Decay of a moving average of the weights, which is scored: 0.999; 0 for none.",
)
@click.option(
    "--amp",
    type=_AmpChoice(get_args(Amp)),
    is_flag=False,
    flag_value="bf16",
    show_envvar=True,
    help="Autocast: bfloat16 (also --amp alone), or float16 for cards without it.",
)
@detector_options
@click.option("--gray-world", type=float, default=0.0, show_envvar=True, help="Weight of eq. 4.")
@click.option(
    "--flip",
    type=float,
    show_default="recipe's",
    show_envvar=True,
    help="Chance of mirroring.",
)
@click.option(
    "--exposure-stops",
    type=float,
    default=0.0,
    show_envvar=True,
    help="Expose pictures darker or brighter by up to so many stops: 2.",
)
@click.option(
    "--noise",
    type=float,
    default=0.0,
    show_envvar=True,
    help="Add sensor noise of up to this variance at white: 0.001.",
)
@click.option(
    "--matrix-jitter",
    type=float,
    default=0.0,
    show_envvar=True,
    help="Turn colours as other cameras' matrices would; 1: as far as cameras differ.",
)
@click.option(
    "--scale-jitter",
    type=NumberList(whole=False),
    default="",
    show_envvar=True,
    help="Enlarge a random part, or reduce, with the boxes: scales from,to: 0.8,1.5.",
)
@click.option(
    "--seed",
    type=int,
    show_default="recipe's",
    show_envvar=True,
    help="Of start, order and mirroring.",
)
@click.option(
    "--deterministic",
    is_flag=True,
    show_envvar=True,
    help="Refuse operations that differ from run to run.",
)
@click.option("--resume", is_flag=True, show_envvar=True, help="Continue the run in --output-dir.")
@click.option(
    "--accept-changed-store",
    is_flag=True,
    show_envvar=True,
    help="With --resume: go on although samples have changed since the run was started.",
)
@click.option(
    "--output-dir",
    type=NamedPath(path_type=Path),
    default=Path("runs/train"),
    show_envvar=True,
    help="The run's folder.",
)
@click.option(
    "--limit-steps",
    type=click.IntRange(min=0),
    default=0,
    show_envvar=True,
    help="Stop after so many optimiser steps, score and save; 0 for no limit.",
)
@click.option(
    "--overfit-one-batch",
    is_flag=True,
    show_envvar=True,
    help="Train on the first batch again and again, and score on it: a quick test.",
)
@click.option(
    "--checkpoint-activations",
    is_flag=True,
    show_envvar=True,
    help="Compute GenISP's activations twice instead of keeping them: less memory, slower.",
)
@click.option(
    "--speedup",
    "--speedups",
    "speedups",
    type=click.Choice((*get_args(Speedup), AUTO)),
    multiple=True,
    show_envvar=True,
    help="Another way to the same numbers, up to rounding; auto: those known to pay on the "
    "device. Repeatable.",
)
@click.option(
    "--skip-damaged", is_flag=True, show_envvar=True, help="Count damaged samples, go on."
)
def train(**options: Any) -> ExitCode:
    """Train GenISP under a frozen detector, streaming a store."""
    from genisp_model.training.run import run_training

    context = click.get_current_context()
    ours = ParameterSource.DEFAULT
    given = {name for name in options if context.get_parameter_source(name) is not ours}
    typed = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
    # What stands in a file may be what the run was begun with.
    if options["resume"] and context.get_parameter_source("init_from") in typed:
        message = "--init-from begins a run, --resume goes on with one"
        raise UsageError(message, mend="leave one of them out")
    resume, accept = options.pop("resume"), options.pop("accept_changed_store")
    folder = options.pop("output_dir")
    with naming_the_file(context):
        return run_training(
            options, folder, resume=resume, given=given, accept_changes=accept, say=say
        )
