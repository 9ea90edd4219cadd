"""Options and arguments that several commands share, each declared once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from pipeline.runtime.processors import usable_processors
from schemas.choices import (
    DEFAULT_DETECTOR,
    DEFAULT_DETECTOR_WEIGHTS,
    DEFAULT_DEVICE,
    DEFAULT_LEVEL,
    DEFAULT_STORE,
    BoxLoss,
    LevelName,
)

Function = TypeVar("Function", bound=Callable[..., Any])


class NamedPath(click.Path):
    """A path that has a name: an empty one would mean the working directory."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if str(value) == "":
            self.fail("the path is empty.", param, ctx)
        return super().convert(value, param, ctx)


class TomlType:
    """Mixed into a type whose values in a config file need not be text.

    Attributes
    ----------
    toml_types, toml_words
        What `convert` takes of TOML's types, and how that is called.
    """

    toml_types: tuple[type, ...]
    toml_words: str


class ClassesFile(TomlType, click.Path):
    """A file of class names; in a config file also the names themselves, label by label."""

    toml_types = (str, dict)
    toml_words = 'a file\'s name or a table such as { 1 = "person", 3 = "car" }'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if isinstance(value, dict) else super().convert(value, param, ctx)


class NumberList(TomlType, click.types.StringParamType):
    """Numbers by comma; in a config file also a list of them."""

    toml_types = (str, list)

    def __init__(self, *, whole: bool) -> None:
        self._kinds = (int,) if whole else (int, float)
        self.toml_words = "a list of whole numbers" if whole else "a list of numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, list):
            if any(type(one) not in self._kinds for one in value):
                self.fail(f"{self.toml_words} is wanted", param, ctx)
            return ",".join(map(repr, value))
        return super().convert(value, param, ctx)


def _version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from importlib.metadata import PackageNotFoundError, version

        try:
            click.echo(f"genisp {version('genisp')}")
        except PackageNotFoundError:
            click.echo("genisp, not installed: run from its source tree")
        context.exit(0)


version_option = click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Version."
)

#: The store as the command's only argument.
store_argument = click.argument("store", type=click.Path(), default=DEFAULT_STORE)

store_option = click.option(
    "--store",
    type=NamedPath(),
    default=DEFAULT_STORE,
    show_envvar=True,
    help="The store's folder.",
)

json_option = click.option(
    "--json",
    is_flag=True,
    show_envvar=True,
    help="Print JSON, one object a line, instead of text.",
)

workers_option = click.option(
    "--workers",
    type=click.IntRange(min=0),
    default=usable_processors,
    show_default="one a core",
    show_envvar=True,
    help="Worker processes; 0 works in this process, with plain tracebacks.",
)

#: Without it there is no network.
checkpoint_option = click.option(
    "--checkpoint",
    type=NamedPath(path_type=Path),
    required=True,
    show_envvar=True,
    help="The network: a run's checkpoints/best.pt or last.pt.",
)

device_option = click.option(
    "--device",
    default=DEFAULT_DEVICE,
    show_envvar=True,
    help="auto: CUDA when there is one, else CPU.",
)

_detector_option = click.option(
    "--detector",
    default=DEFAULT_DETECTOR,
    show_envvar=True,
    help="A torchvision detector, or sample_retinanet (the stand-in).",
)

_detector_weights_option = click.option(
    "--detector-weights",
    default=DEFAULT_DETECTOR_WEIGHTS,
    show_envvar=True,
    metavar="NAME|PATH|none",
    help="Weights torchvision publishes, a file, or random numbers.",
)

_detector_classes_option = click.option(
    "--detector-classes",
    type=ClassesFile(dir_okay=False),
    metavar="FILE",
    show_envvar=True,
    help="Names of the detector's classes, one a line (numbered from 1) or LABEL: NAME; "
    "without it COCO's, or the stand-in's own.",
)

_box_loss_option = click.option(
    "--box-loss",
    type=click.Choice(get_args(BoxLoss)),
    show_default="the recipe's, else smooth_l1; some detectors have one only",
    show_envvar=True,
    help="Box term of the guidance loss.",
)

_plain_detector_option = click.option(
    "--plain-detector",
    is_flag=True,
    show_envvar=True,
    help="torchvision's own code for the detector, not the frozen engine: same numbers "
    "up to rounding, more memory and time.",
)


def detector_options(function: Function) -> Function:
    """``--device``, and which frozen detector looks."""
    for option in (
        _plain_detector_option,
        _box_loss_option,
        _detector_classes_option,
        _detector_weights_option,
        _detector_option,
        device_option,
    ):
        function = option(function)
    return function


#: Levels to choose one of: the one that is trained on unless asked otherwise comes first.
LEVEL = click.Choice(sorted(get_args(LevelName), key=lambda name: name != DEFAULT_LEVEL))


def level_option(help_text: str) -> Callable[[Function], Function]:
    """``--level NAME``, for commands that take one level of every sample."""
    return click.option(
        "--level", type=LEVEL, default=DEFAULT_LEVEL, show_envvar=True, help=help_text
    )
