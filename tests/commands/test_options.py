"""What the options offer, and what they mean when they are not given, is what the code takes."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import click
import pytest
from pydantic import BaseModel

from cli import genisp, prep
from commands.ingest import _recipe
from genisp_model.enhance import EnhanceOptions
from pipeline.ingest import IngestOptions
from pipeline.verify import VerifyOptions
from schemas.recipe import Recipe
from schemas.training import TrainConfig

#: Options that differ from the model on purpose.
_OTHERWISE = {
    ("ingest", "workers"),  # one a core; Python callers work in their own process
    ("verify", "workers"),
    ("ingest", "levels"),  # written as text: see the last test
    ("ingest", "fit"),
    ("train", "store"),  # without a default in the model
    ("train", "epochs"),  # the recipe's
    ("train", "batch_size"),
    ("train", "lr"),
    ("train", "lr_steps"),
    ("train", "flip"),
    ("train", "scale_jitter"),  # written as text
    ("train", "seed"),
    ("train", "box_loss"),
    ("train", "init_from"),  # an empty path is no file
    ("train", "detector_classes"),  # a file for the command, names in the model
    ("enhance", "output_dir"),  # Python callers get the working directory
}


def _defaults(model: type[Any]) -> dict[str, Any]:
    if issubclass(model, BaseModel):
        return {name: field.get_default() for name, field in model.model_fields.items()}
    return {field.name: field.default for field in fields(model)}


@pytest.mark.parametrize(
    ("command", "arguments", "model"),
    [
        (prep.commands["ingest"], ["nod"], IngestOptions),
        (prep.commands["ingest"], ["nod"], Recipe),
        (prep.commands["verify"], [], VerifyOptions),
        (genisp.commands["train"], [], TrainConfig),
        (genisp.commands["enhance"], ["a.NEF", "--checkpoint", "best.pt"], EnhanceOptions),
    ],
    ids=["ingest", "ingest-recipe", "verify", "train", "enhance"],
)
def test_an_option_not_given_is_the_default_of_the_model(
    command: click.Command, arguments: list[str], model: type[Any]
) -> None:
    given = command.make_context(command.name, list(arguments)).params
    expected = {
        name: default
        for name, default in _defaults(model).items()
        if name in given and (command.name, name) not in _OTHERWISE
    }
    assert len(expected) >= 2
    assert {name: given[name] for name in expected} == expected


def test_levels_and_fit_are_written_as_they_are_read() -> None:
    assert _recipe(prep.commands["ingest"].make_context("ingest", ["nod"]).params) == Recipe()
