"""What commands print: results to stdout, as text or JSON; everything else to stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from io import StringIO, TextIOWrapper
from typing import TYPE_CHECKING, Any, TextIO, cast

import click

from pipeline.console.steady_output import SteadyStream

if TYPE_CHECKING:
    from pipeline.console.progress import Reporter


def reporter(as_json: bool, *, quiet: bool = False) -> Reporter:
    """JSON lines to stdout; or, to stderr, a live line on a terminal and plain lines elsewhere."""
    from pipeline.console.progress import JsonReporter, PlainReporter

    if as_json:
        return JsonReporter(click.echo)
    if not sys.stderr.isatty():
        return PlainReporter(lambda text: click.echo(text, err=True), quiet=quiet)
    from rich.console import Console

    from pipeline.console.terminal import TerminalReporter

    return TerminalReporter(Console(stderr=True), quiet=quiet)


def show(result: Any, kind: str, as_json: bool) -> None:
    """Print a command's result to stdout."""
    from pipeline.console import results

    say(results.as_json(result) if as_json else results.TEXTS[kind](result))


def say(text: str) -> None:
    """Print to stdout what may hold names."""
    from pipeline.safe_text import visible_lines

    click.echo(visible_lines(text))


def warn(text: str) -> None:
    """Print to stderr what may hold names."""
    from pipeline.safe_text import visible_lines

    click.echo(visible_lines(text), err=True)


def hold_standard_streams() -> None:
    """Take descriptors 0 to 2 where they are closed: what a decoder prints would go to a file."""
    with suppress(OSError):  # no handle left: then none of the three is free
        while (taken := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(taken)


@contextmanager
def steady_output() -> Iterator[SteadyStream]:
    """Let no failing output stop a command; yields stdout."""
    if isinstance(sys.stdout, TextIOWrapper):  # like stderr: no name can stop a command
        sys.stdout.reconfigure(errors="backslashreplace")
    # Python has None for a stream that was closed at the start.
    output, errors = (SteadyStream(one or StringIO()) for one in (sys.stdout, sys.stderr))
    with redirect_stdout(cast(TextIO, output)), redirect_stderr(cast(TextIO, errors)):
        yield output
