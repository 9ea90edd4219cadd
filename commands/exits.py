"""How a command ends: what it returns and every error become an exit code and a message."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from typing import Any

import click

from commands.output import hold_standard_streams, steady_output
from pipeline.errors import GenispError
from schemas.exit_code import ExitCode

#: The end of every help text.
EXIT_CODES = "\n\b\nExit codes:\n" + "".join(
    f"  {code.value:<3}  {code.meaning}\n" for code in ExitCode
)

CONTEXT = {
    "help_option_names": ["-h", "--help"],
    "show_default": True,
    "max_content_width": 100,
}


def command(*, example: str) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a function a command of its name, whose help ends with an example and the exit codes."""
    return click.command(cls=JsonErrors, epilog=f"Example: {example}\n{EXIT_CODES}")


class JsonErrors(click.Command):
    """A command that, asked for JSON, says what stopped it in JSON too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"context_settings": CONTEXT} | kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except GenispError as error:
            if not ctx.params.get("json"):
                raise
            from pipeline.safe_text import json_line
            from schemas.events import ErrorEvent

            event = ErrorEvent(
                code="stopped", path=error.path, message=error.message, mend=error.mend
            )
            click.echo(json_line(event))
            return error.exit_code


class ExitCodes(click.Group):
    """A group whose commands return exit codes, and whose errors become exit codes."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False
        hold_standard_streams()
        with steady_output() as output:
            code = self._exit_code(*args, **kwargs)
            output.flush()
            if output.lost is not None and not isinstance(output.lost, BrokenPipeError):
                click.echo(f"error: cannot write output: {output.lost.strerror}", err=True)
                code = code or ExitCode.FAILED
        sys.exit(int(code))

    def _exit_code(self, *args: Any, **kwargs: Any) -> int:
        try:
            code = super().main(*args, **kwargs)
        except click.ClickException as error:
            error.show()
            code = error.exit_code
        except (click.Abort, KeyboardInterrupt):
            click.echo(ExitCode.INTERRUPTED.meaning, err=True)
            code = ExitCode.INTERRUPTED
        except GenispError as error:
            click.echo(_error_text(error), err=True)
            code = error.exit_code
        except (MemoryError, OSError, RuntimeError, ImportError) as error:
            text = _exhausted_text(error, continues=self.name == "prep")
            if text is None:
                raise
            click.echo(text, err=True)
            code = ExitCode.FAILED
        return code if isinstance(code, int) else ExitCode.DONE


def _error_text(error: GenispError) -> str:
    from pipeline.safe_text import visible, visible_lines

    path = f"{visible(error.path)}: " if error.path else ""
    text = f"error: {path}{visible_lines(error.message)}"
    return f"{text}\n  mend: {visible_lines(error.mend)}" if error.mend else text


def _exhausted_text(
    error: MemoryError | OSError | RuntimeError | ImportError, *, continues: bool
) -> str | None:
    """What the machine ran out of, with the mend; None if this is a mistake of ours.

    `continues` says that the command goes on where it stopped, and has ``--workers``.
    """
    from pipeline.safe_text import visible

    again = "then run the same command" + (": it continues" if continues else "")
    fewer = " or give fewer --workers" if continues else ""
    if _is_out_of_memory(error):
        return f"error: not enough memory\n  mend: free memory{fewer}, {again}"
    if isinstance(error, ImportError):
        return None
    if isinstance(error, RuntimeError):
        # Python has no type of its own for this.
        if not str(error).startswith(("can't start new thread", "unable to start watchdog thread")):
            return None
        return (
            "error: the system starts no more threads\n"
            f"  mend: allow more (ulimit -u){fewer}, {again}"
        )
    assert isinstance(error, OSError)
    exhausted = error.errno in (errno.EMFILE, errno.ENFILE)
    mend = "allow more open files (ulimit -n)" if exhausted else "check the path and its disk"
    place = visible(str(error.filename or "system"))
    return f"error: {place}: {error.strerror or error}\n  mend: {mend}, {again}"


def _is_out_of_memory(error: Exception) -> bool:
    """Also where a library cannot be loaded for it, and where torch has no type for it."""
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, ImportError) and "failed to map segment" in str(error))
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )
