"""``train --config``: the same options as on the command line, below it and the variables."""

from __future__ import annotations

import contextlib
import math
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import click
import pytest
from click.core import ParameterSource
from click.testing import CliRunner
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from cli import genisp
from genisp_model.data.scale_jitter import LEAST, MOST
from genisp_model.training import run as run_module
from genisp_model.training.records.config_toml import config_toml
from genisp_model.training.run import train_config
from pipeline.errors import UsageError
from schemas.training import TrainConfig

TRAIN = genisp.commands["train"]
#: Key -> option, of all that a file may set.
OPTIONS = {
    name.removeprefix("--"): option
    for option in TRAIN.params
    if isinstance(option, click.Option) and option.name != "config"
    for name in option.opts
    if name.startswith("--")
}
#: What belongs to a command, not to a run.
OF_THE_COMMAND = {"resume", "accept_changed_store"}


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def parsed(*words: str) -> click.Context:
    """The command with its options, not run."""
    above = click.Context(genisp, info_name="genisp", auto_envvar_prefix="GENISP")
    return TRAIN.make_context("train", list(words), above)


def parsed_without_file(*words: str) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("GENISP_TRAIN_")]:
            patch.delenv(name)
        return parsed(*words).params


def written(text: str) -> str:
    Path("c.toml").write_text(text, encoding="utf-8")
    return "c.toml"


def refused(text: str, *words: str) -> str:
    """What is said of a file that is wrong usage."""
    result = CliRunner().invoke(genisp, ["train", "--config", written(text), *words])
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2, result.output
    assert "error: c.toml: " in result.stderr
    assert "\n  mend: " in result.stderr
    return result.stderr


def example(key: str) -> tuple[str, list[str]]:
    """A value that is no default: in TOML, and as it is typed."""
    option = OPTIONS[key]
    if option.is_flag:
        return "true", [f"--{key}"]
    if key == "lr-steps":
        return "[3, 4]", ["--lr-steps", "3,4"]
    if key == "scale-jitter":
        return "[0.5, 2]", ["--scale-jitter", "0.5,2"]
    text = "a"
    if isinstance(option.type, click.Choice):
        text = next(str(one) for one in option.type.choices if one != option.default)
    elif isinstance(option.type, click.types.IntParamType):
        return "7", [f"--{key}", "7"]
    elif isinstance(option.type, click.types.FloatParamType):
        return "0.25", [f"--{key}", "0.25"]
    return f'["{text}"]' if option.multiple else f'"{text}"', [f"--{key}", text]


@pytest.mark.parametrize("key", OPTIONS)
def test_a_key_is_its_option_below_variable_and_command_line(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = str(OPTIONS[key].name)
    value, words = example(key)
    typed, untouched = parsed(*words).params, parsed().params
    assert typed != untouched
    for spelling in (key, key.replace("-", "_")):
        context = parsed("--config", written(f"{spelling} = {value}"))
        assert context.params == typed
        assert context.get_parameter_source(name) is ParameterSource.DEFAULT_MAP
    # The file may be named by a variable, too.
    monkeypatch.setenv("GENISP_TRAIN_CONFIG", "c.toml")
    assert parsed().params == typed

    # What the file says must be something else to show what goes before it.
    if OPTIONS[key].is_flag:
        monkeypatch.setenv(f"GENISP_TRAIN_{name.upper()}", "0")
        assert parsed().params == untouched
        written(f"{key} = false")
        assert parsed(*words).params == typed
        return
    default = untouched[name]
    instead = "9" if isinstance(default, int | None) else "0.5"
    kind = OPTIONS[key].type
    if isinstance(kind, click.Choice):
        instead = str(kind.choices[0])
    assert parsed(f"--{key}", instead).params == parsed_without_file(f"--{key}", instead)
    monkeypatch.setenv(f"GENISP_TRAIN_{name.upper()}", instead)
    assert parsed().params == parsed_without_file(f"--{key}", instead)
    assert parsed(*words).params == typed


@pytest.mark.parametrize("key", OPTIONS)
def test_a_value_of_another_type_is_refused_by_file_and_key(key: str) -> None:
    option = OPTIONS[key]
    number = isinstance(option.type, click.types.FloatParamType)
    whole = isinstance(option.type, click.types.IntParamType)
    wrong = {
        "true": not option.is_flag and key != "amp",
        "3": not (whole or number),
        "2.5": not number,
        '"3"': option.is_flag or whole or number or option.multiple,
        "[[1]]": True,
        "1979-05-27": True,
        "{ a = 1 }": key != "detector-classes",  # that one is read when the run begins
        '"a\\u0000b"': True,
        f"{1 << 63}": True,
    }
    for value in (value for value, is_wrong in wrong.items() if is_wrong):
        assert f"c.toml: {key} = " in refused(f"{key} = {value}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epoch = 3", ("'epoch' is no option", "did you mean epochs?")),
        ("Batch-Sise = 3", ("'Batch-Sise' is no option", "did you mean batch-size?")),
        ("learning_rate = 3", ("did you mean lr?",)),
        ("deterministc = true", ("did you mean deterministic?",)),
        ('zzzz = "x"', ("'zzzz' is no option", "train --help")),
        ('config = "other.toml"', ("names no other",)),
        ("[train]\nepochs = 3", ("leave its heading out",)),
        ("batch-size = 1\nbatch_size = 2", ("batch_size stands here twice",)),
        ("epochs = 0", ("epochs = 0: 0 is not in the range",)),
        ('level = "big"', ("level = 'big'", "'resized'")),
        ('speedup = ["x"]', ("speedup = ['x']", "fused-adam")),
        ('output-dir = ""', ("output-dir = '': the path is empty",)),
        ("lr-steps = [5, 1.5]", ("lr-steps = [5, 1.5]: a list of whole numbers",)),
        ("lr-steps = 5", ("lr-steps = 5: ", "a list of whole numbers")),
        # What is only seen when the run is about to begin.
        ("lr = nan", ("c.toml: lr nan: input should be a finite number",)),
        ("lr = 0", ("c.toml: lr 0.0: input should be greater than 0",)),
        ("lr-steps = [10, 5]", ("c.toml: lr-steps '10,5' do not rise",)),
        ('device = "meta"', ("c.toml: device 'meta' cannot be used here",)),
        ('detector-classes.x = "car"', ("c.toml: detector-classes: 'x' is no label",)),
        ("detector-classes.1 = 5", ("c.toml: detector-classes: '1' is no label",)),
        ('detector-classes = { 1 = "car", 2 = "Car" }', ("'2' gives a label or a name",)),
        ("overfit-one-batch = true\nflip = 0.5", ("overfit-one-batch shows", "flip mirrors")),
        ('lr-schedule = "cosine"\nlr-steps = [5]', ("lr-schedule is cosine",)),
        # No TOML.
        ("a", ("this is no TOML", "'='")),
        ("lr = 1\nlr = 2\nseed = 1", ("this is no TOML", "line 2")),
        ("lr = 1\n\nepochs == 3", ("this is no TOML", "line 3")),
        ("x = " + "[" * 5000, ("this is no TOML: nested too deeply",)),
        ("lr = " + "9" * 5000, ("this is no TOML",)),
        ("lr = 0x" + "f" * 5000, ("lr = ...: ", "64 bits")),
    ],
)
def test_a_file_that_is_wrong_is_told_by_name_key_and_mend(
    text: str, said: tuple[str, ...]
) -> None:
    with _any_store():
        told = refused(text)
    assert all(one in told for one in said), told


def test_what_is_typed_is_told_from_what_stands_in_the_file() -> None:
    told = refused("lr-steps = [5]", "--lr-schedule", "cosine")
    assert "c.toml: lr-steps are of the schedule step, --lr-schedule is cosine" in told


def test_what_is_no_text_file_is_refused() -> None:
    Path("latin").write_bytes('split = "é"\n'.encode("latin-1"))
    Path("folder").mkdir()
    os.mkfifo("pipe")
    said = {
        "latin": "no UTF-8 text (line 1)",
        "folder": "this is a folder",
        "pipe": "no regular file",
        os.devnull: "no regular file",
        "missing.toml": "No such file",
        "latin/x": "Not a directory",
    }
    for name, words in said.items():
        result = CliRunner().invoke(genisp, ["train", "--config", name])
        assert result.exit_code == 2, result.output
        assert f"error: {name}: " in result.stderr
        assert words in result.stderr
        assert "mend: " in result.stderr


def test_a_file_with_a_byte_order_mark_and_windows_lines_is_read() -> None:
    Path("c.toml").write_bytes(b"\xef\xbb\xbfepochs = 3\r\nlr = 1\r\n")
    params = parsed("--config", "c.toml").params
    assert (params["epochs"], params["lr"]) == (3, 1.0)


def test_no_file_is_read_for_a_completion() -> None:
    above = click.Context(genisp, info_name="genisp", resilient_parsing=True)
    TRAIN.make_context("train", ["--config", "missing"], above, resilient_parsing=True)


CONFIG = TrainConfig(store="s.zarr", store_fingerprint="f", epochs=1, batch_size=1, lr=0.1)


def test_the_file_of_a_run_has_every_option() -> None:
    config = CONFIG.model_copy(update={"detector_classes": {1: "a b"}, "init_from": "a.pt"})
    found = tomllib.loads(config_toml(config, device="cpu", output_dir=Path("o")))
    told = {OPTIONS[key].name for key in found}
    assert told == {option.name for option in OPTIONS.values()} - OF_THE_COMMAND
    assert found["detector-classes"] == {"1": "a b"}
    assert found["output-dir"] == "o"
    assert "init-from" not in tomllib.loads(config_toml(CONFIG, device="cpu", output_dir=Path("o")))


def test_a_folder_whose_name_is_no_text_is_left_out() -> None:
    text = config_toml(CONFIG, device="cpu", output_dir=Path(os.fsdecode(b"\xff")))
    assert "output-dir" not in tomllib.loads(text)


_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
_NAME = _TEXT.map(str.strip).filter(bool)
_OWN: dict[str, st.SearchStrategy[Any]] = {
    "store": _NAME,
    "store_fingerprint": st.just("f"),
    "lr_gamma": st.just(0.1),
    "split": _TEXT,
    "val_split": _TEXT,
    "lr_steps": st.just(()) | st.sets(st.integers(1, 9)).map(lambda one: tuple(sorted(one))),
    "scale_jitter": st.just(()) | st.tuples(st.floats(LEAST, 1), st.floats(1, MOST)),
    "flip": st.just(0.0) | st.floats(0, 1),
    "init_from": st.just("") | _NAME,
    "freeze": st.sets(st.sampled_from(["ConvWB", "colour_correction", "shallow.conv3"])).map(tuple),
    "detector": st.sampled_from(["retinanet_resnet50_fpn_v2", "sample_retinanet"]),
    "detector_weights": _TEXT,
    "detector_classes": st.dictionaries(st.integers(0, 10**9 - 1), _NAME, max_size=4).filter(
        lambda names: len({name.casefold() for name in names.values()}) == len(names)
    ),
}


def _drawn(name: str) -> st.SearchStrategy[Any]:
    field = TrainConfig.model_fields[name]
    kind: Any = field.annotation
    if field.metadata:
        kind = Annotated.__class_getitem__((kind, *field.metadata))  # type: ignore[attr-defined]
    return st.from_type(kind).filter(lambda one: not isinstance(one, float) or math.isfinite(one))


_FIELDS = {name: _OWN[name] if name in _OWN else _drawn(name) for name in TrainConfig.model_fields}


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)
@given(st.fixed_dictionaries(_FIELDS))
def test_written_and_read_again_is_the_same(fields: dict[str, Any]) -> None:
    with _any_store(), _typed(fields) as config:
        text = config_toml(config, device="cpu", output_dir=Path("o"))
        options = parsed("--config", written(text)).params
        for name in OF_THE_COMMAND:
            options.pop(name)
        assert (options.pop("device"), options.pop("output_dir")) == ("cpu", Path("o"))
        assert train_config(options) == config


@contextlib.contextmanager
def _any_store() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        store = SimpleNamespace(recipe=SimpleNamespace(fingerprint="f"))
        patch.setattr(run_module, "open_store", lambda path: store)
        yield


@contextlib.contextmanager
def _typed(fields: dict[str, Any]) -> Iterator[TrainConfig]:
    """The config that these fields mean as options; what contradicts itself is no run's."""
    numbers = {name: ",".join(map(repr, fields[name])) for name in ("lr_steps", "scale_jitter")}
    options = {**fields, **numbers}
    options["detector_classes"] = {
        str(label): name for label, name in fields["detector_classes"].items()
    }
    for name in ("store_fingerprint", "lr_gamma"):
        del options[name]
    try:
        config = train_config(options)
    except UsageError:
        reject()
    yield config
