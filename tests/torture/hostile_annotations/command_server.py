"""Commands in processes of their own that start in milliseconds and are measured when they end.

``python -m tests.torture.hostile_annotations.command_server FOLDER`` has everything imported and
compiled; it forks a child for each command it is asked for, and the kernel tells it what the child
took. `CommandServer` is the other end.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import numpy as np

import cli
from tests.kit.places import ROOT
from tests.kit.small_raws import write_small_raw

#: Address space of a command, bytes: what it asks for by mistake must not cost the machine.
ADDRESS_SPACE = 8 << 30


@dataclass(frozen=True)
class Command:
    """A command of `prep`.

    Attributes
    ----------
    arguments
        As typed after ``prep``; `os.fsdecode` for bytes that are not UTF-8.
    folder
        Where it is typed; a path from there, or absolute.
    seconds
        After these it is killed.
    terminal
        Whether its output goes to a terminal.
    """

    arguments: tuple[str, ...]
    folder: str
    seconds: int = 60
    terminal: bool = False


@dataclass(frozen=True)
class Ended:
    """What became of a command.

    Attributes
    ----------
    code
        Its exit code; negative for a signal.
    output, errors
        What it wrote to stdout and stderr; all of it in `output` on a terminal.
    peak
        The most memory it held, bytes, what is shared with the server included.
    seconds
        By the clock on the wall.
    """

    code: int
    output: bytes
    errors: bytes
    peak: int
    seconds: float


class CommandServer:
    """Runs commands one at a time; several servers run several at once.

    Parameters
    ----------
    folder
        Exists, and is the server's own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> CommandServer:
        # One thread a library: OpenMP's threads do not survive a fork.
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
        environment = os.environ | dict.fromkeys(names, "1")
        environment |= {"TERM": "xterm-256color", "COLUMNS": "120", "PYTHONWARNINGS": "error"}
        self._server = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.torture.hostile_annotations.command_server",
                str(self._folder),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=ROOT,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.communicate()  # closes its input: it ends
        self._server = None

    def run(self, command: Command) -> Ended:
        """Run one command to its end."""
        if not command.terminal:
            return self._run(command, "")
        master, slave = os.openpty()
        shown: list[bytes] = []
        reader = threading.Thread(target=_drain, args=(master, shown.append))
        reader.start()
        try:
            ended = self._run(command, os.ttyname(slave))
        finally:
            os.close(slave)  # the reader comes to an end
            reader.join()
            os.close(master)
        return Ended(ended.code, b"".join(shown), b"", ended.peak, ended.seconds)

    def _run(self, command: Command, terminal: str) -> Ended:
        assert self._server is not None
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        request = json.dumps(asdict(command) | {"terminal": terminal}).encode("ascii")
        self._server.stdin.write(request + b"\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        if not answer:
            raise RuntimeError("the server of commands has ended")
        facts = json.loads(answer)
        output, errors = (
            b"" if terminal else (self._folder / name).read_bytes() for name in ("out", "err")
        )
        return Ended(output=output, errors=errors, **facts)


def _drain(master: int, keep: Callable[[bytes], object]) -> None:
    while True:
        try:
            data = os.read(master, 1 << 16)
        except OSError:  # Linux' way to say that nobody holds the other side any more
            return
        if not data:
            return
        keep(data)


# --- in the server -------------------------------------------------------------------------------


def _serve(folder: Path) -> None:
    with os.fdopen(os.dup(1), "w") as answers:
        _redirect(folder / "server.log")
        _warm_up(folder / "warm")
        for line in sys.stdin:
            answers.write(json.dumps(_forked(json.loads(line), folder)) + "\n")
            answers.flush()


def _warm_up(folder: Path) -> None:
    """Import, compile and load whatever a command needs: each child has it at once."""
    os.fsync = _written  # nobody pulls the plug here: that is the crash campaign's
    for module in ("pipeline.console.terminal", "rich.progress", "pipeline.console.results"):
        import_module(module)
    write_small_raw(folder / "nod" / "a.ARW", np.random.default_rng(0))
    write_small_raw(folder / "nod" / "b.NEF", np.random.default_rng(0))
    store = str(folder / "data.zarr")
    for arguments in (["ingest", str(folder / "nod"), "--workers=0", "--store", store],) * 2:
        if code := _command(arguments):
            raise RuntimeError(f"prep {arguments} ends with {code}")
    if code := _command(["verify", store, "--workers=0"]):
        raise RuntimeError(f"prep verify ends with {code}")


def _written(fd: Any) -> None:
    """Stands for `os.fsync`."""


def _command(arguments: Sequence[str]) -> int:
    """Run ``prep`` in this process; its exit code."""
    try:
        cli.prep.main(args=list(arguments), prog_name="prep")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


def _forked(request: dict[str, Any], folder: Path) -> dict[str, object]:
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _child(request, folder)
    _, status, took = os.wait4(pid, 0)
    return {
        "code": os.waitstatus_to_exitcode(status),
        "peak": took.ru_maxrss * 1024,
        "seconds": time.monotonic() - started,
    }


def _child(request: dict[str, Any], folder: Path) -> NoReturn:
    """Run the command and end; never return, or there would be two servers."""
    code = 1
    try:
        if request["terminal"]:
            _redirect(Path(request["terminal"]))
        else:
            _redirect(folder / "out", folder / "err")
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.alarm(request["seconds"])
        os.chdir(request["folder"])
        code = _command(request["arguments"])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _redirect(output: Path, errors: Path | None = None) -> None:
    """Write to these from here on, from C too."""
    for number, path in ((1, output), (2, errors or output)):
        flags = os.O_RDWR if output.is_char_device() else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        descriptor = os.open(path, flags | os.O_NOCTTY)
        os.dup2(descriptor, number)
        os.close(descriptor)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
