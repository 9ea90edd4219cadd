from __future__ import annotations

from collections.abc import Iterator

from commands.exits import EXIT_CODES
from pipeline import errors
from schemas.exit_code import ExitCode


def _below(kind: type[errors.GenispError]) -> Iterator[type[errors.GenispError]]:
    yield kind
    for one in kind.__subclasses__():
        yield from _below(one)


def test_every_error_ends_with_an_exit_code_that_is_listed() -> None:
    for kind in _below(errors.GenispError):
        assert isinstance(kind.exit_code, ExitCode), kind
        assert f"\n  {kind.exit_code.value:<5}{kind.exit_code.meaning}\n" in EXIT_CODES


def test_the_tree_of_errors_shows_their_exit_codes() -> None:
    told = errors.__doc__ or ""
    for kind in _below(errors.GenispError):
        own = "exit_code" in vars(kind)
        (line,) = [one for one in told.splitlines() if kind.__name__ in one.split()]
        assert not own or f"exit {kind.exit_code.value} " in f"{line} ", line
