"""What the options offer, and what they mean when they are not given, is what the code takes."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import click
import pytest
from pydantic import BaseModel

from cli import genisp, prep
from genisp_model.enhance import EnhanceOptions
from pipeline.ingest import IngestOptions
from pipeline.verify import VerifyOptions
from schemas.recipe import Recipe
from schemas.training import TrainConfig

#: Options that differ from the model on purpose, and why.
_OTHERWISE = {
    ("train", "flip"),  # a config made in Python does not augment unless it says so
    ("train", "lr_steps"),  # no default of its own: the recipe's
    ("enhance", "output_dir"),  # Python callers get the working directory
    ("ingest", "levels"),  # written as text; compared below
    ("ingest", "fit"),
}


def _defaults(model: type[Any]) -> dict[str, Any]:
    if issubclass(model, BaseModel):
        return {name: field.get_default() for name, field in model.model_fields.items()}
    return {field.name: field.default for field in fields(model)}


@pytest.mark.parametrize(
    ("command", "model"),
    [
        (prep.commands["ingest"], IngestOptions),
        (prep.commands["ingest"], Recipe),
        (prep.commands["verify"], VerifyOptions),
        (genisp.commands["train"], TrainConfig),
        (genisp.commands["enhance"], EnhanceOptions),
    ],
    ids=lambda one: one.name if isinstance(one, click.Command) else one.__name__,
)
def test_an_option_not_given_is_the_default_of_the_model(
    command: click.Command, model: type[Any]
) -> None:
    expected = _defaults(model)
    context = click.Context(command)
    compared = 0
    for option in command.params:
        name = option.name or ""
        if name not in expected or option.required or (command.name, name) in _OTHERWISE:
            continue
        if name in {"workers", "store", "epochs", "batch_size", "lr"}:
            continue  # no default to compare: of the machine, the folder or the recipe
        given = option.type_cast_value(context, option.get_default(context))
        assert given == expected[name], name
        compared += 1
    assert compared >= 2


def test_levels_and_fit_are_written_as_they_are_read() -> None:
    from commands.ingest import _recipe

    context = click.Context(prep.commands["ingest"])
    options = {
        option.name: option.get_default(context) for option in prep.commands["ingest"].params
    }
    assert _recipe(options) == Recipe()  # type: ignore[arg-type]
