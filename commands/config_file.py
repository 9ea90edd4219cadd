"""``--config FILE``: options of a command from a TOML file.

The file becomes click's ``default_map``, so click itself converts the values and lets the command
line and the environment variables go before them. Here is only what click cannot know: whether the
file is TOML, its keys are options, and its values have their options' TOML types.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from commands.options import NamedPath, TomlType
from pipeline.errors import GenispError, UsageError

Function = TypeVar("Function", bound=Callable[..., Any])

#: Where a context keeps the path of the file.
_PATH = f"{__name__}.path"
#: More than any list of options and class names needs.
_MOST_BYTES = 16 << 20
#: TOML's own range; Python would read more.
_WHOLE_NUMBERS = range(-(1 << 63), 1 << 63)

_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text in quotes",
    list: "a list",
    dict: "a table",
}


def config_option(function: Function) -> Function:
    """``--config FILE``, for a command whose options may stand in a file."""
    return click.option(
        "--config",
        type=NamedPath(path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=_use,
        show_envvar=True,
        metavar="FILE.toml",
        help="Options from a file: long names as keys. Options and variables go before it.",
    )(function)


@contextmanager
def naming_the_file(context: click.Context) -> Iterator[None]:
    """Let errors about options that stand in the file say so.

    What goes wrong with an option after click has read it is told as if it had been typed: its
    message has ``--lr``.
    """
    try:
        yield
    except GenispError as error:
        path = context.meta.get(_PATH)
        named = [
            option
            for key, option in _keys(context.command).items()
            if context.get_parameter_source(option.name or "") is ParameterSource.DEFAULT_MAP
            and _named(key).search(error.message)
        ]
        if path is None or not named:
            raise
        keys = [key for key, option in _keys(context.command).items() if option in named]
        message = error.message
        if error.path:
            message += f" ({', '.join(keys)}: from {path})"
        else:
            for key in keys:
                message = _named(key).sub(key, message)
        raise type(error)(message, path=error.path or str(path), mend=error.mend) from error


def _named(key: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-])--{re.escape(key)}(?![\w-])")


def _keys(command: click.Command) -> dict[str, click.Option]:
    """``"batch-size"`` -> its option, for all options that a file may set."""
    return {
        name.removeprefix("--"): option
        for option in command.params
        if isinstance(option, click.Option) and option.callback is not _use
        for name in option.opts
        if name.startswith("--")
    }


def _use(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    if path is None or context.resilient_parsing:
        return
    found: dict[str, Any] = {}
    for written, value in _read(path).items():
        key = written.replace("_", "-")
        option = _keys(context.command).get(key)
        if option is None:
            raise _unknown(written, value, path, _keys(context.command))
        if option.name in found:
            mend = f"leave one of them out: the option is {key}"
            raise UsageError(f"{written} stands here twice", path=str(path), mend=mend)
        problem = _problem(option, value)
        if problem is None:
            try:
                option.type_cast_value(context, value)
            except click.BadParameter as error:
                problem = error.message
        if problem is not None:
            message = f"{written} = {_shown(value)}: {problem}"
            mend = f"genisp {context.command.name} --help says what {key} may be"
            raise UsageError(message, path=str(path), mend=mend)
        found[str(option.name)] = value
    context.default_map = found
    context.meta[_PATH] = path


def _read(path: Path) -> dict[str, Any]:
    import tomllib

    mend = "write lines such as: batch-size = 4"
    try:
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "no regular file"
            message = f"a TOML file is wanted here, this is {kind}"
            raise UsageError(message, path=str(path), mend="name a file")
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise UsageError(f"more than {_MOST_BYTES >> 20} MiB", path=str(path), mend=mend)
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"this is no UTF-8 text (line {line})"
        raise UsageError(message, path=str(path), mend="save it as UTF-8") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, UsageError):
            raise
        reason = str(error) if isinstance(error, ValueError) else "nested too deeply"
        raise UsageError(f"this is no TOML: {reason}", path=str(path), mend=mend) from None
    except OSError as error:
        message = f"the options cannot be read: {error.strerror or error}"
        raise UsageError(message, path=str(path), mend="name a TOML file") from None


def _unknown(key: str, value: Any, path: Path, known: Mapping[str, Any]) -> UsageError:
    wanted = key.replace("_", "-").casefold()
    initials = "".join(word[:1] for word in wanted.split("-"))  # learning-rate: lr
    nearest = [initials] if initials in known else difflib.get_close_matches(wanted, known, n=1)
    mend = f"did you mean {nearest[0]}? " if nearest else ""
    if isinstance(value, dict) and not nearest:
        mend = "options stand in no table: leave its heading out. "
    if wanted == "config":
        mend = "a file of options names no other. "
    message = f"{key!r} is no option that a file can set"
    return UsageError(message, path=str(path), mend=f"{mend}genisp train --help lists the options")


def _problem(option: click.Option, value: Any) -> str | None:
    """What is wrong with a value's type; None if it is what the option takes."""
    if option.multiple or option.nargs != 1:
        if not isinstance(value, list):
            return f"this is {_kind(value)}, a list is wanted"
        problems = (_wrong_type(option.type, item) for item in value)
        return next((problem for problem in problems if problem), None)
    if option.is_flag:
        flag = isinstance(value, bool)
        return None if flag else f"this is {_kind(value)}, {_KINDS[bool]} is wanted"
    return _wrong_type(option.type, value)


def _wrong_type(kind: click.ParamType[Any], value: Any) -> str | None:
    if isinstance(kind, TomlType):
        types, wanted = kind.toml_types, kind.toml_words
    elif isinstance(kind, click.types.IntParamType):
        types, wanted = (int,), _KINDS[int]
    elif isinstance(kind, click.types.FloatParamType):
        types, wanted = (int, float), _KINDS[float]
    else:
        types, wanted = (str,), _KINDS[str]
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        return f"this is {_kind(value)}, {wanted} is wanted"
    return next((problem for one in _scalars(value) if (problem := _untypable(one))), None)


def _scalars(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        for one in value:
            yield from _scalars(one)
    else:
        yield value


def _untypable(value: Any) -> str | None:
    """What a file can hold and a command line cannot."""
    if isinstance(value, str) and "\0" in value:
        return "there is a character 0 in it"
    if isinstance(value, int) and value not in _WHOLE_NUMBERS:
        return "TOML has whole numbers of 64 bits only"
    return None


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "a date or a time")


def _shown(value: Any) -> str:
    if isinstance(value, int) and value not in _WHOLE_NUMBERS:
        return "..."  # Python writes no number of any length
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value) if type(value) in _KINDS else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
