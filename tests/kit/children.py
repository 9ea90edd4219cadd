"""Commands in processes of their own, with whatever the machine denies them.

`command` forks and runs a command as its own process would: with limits, without privileges, with
system calls that fail. `real` starts an interpreter, as a user does.
"""

from __future__ import annotations

import ctypes
import os
import re
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO, TextIOWrapper
from pathlib import Path
from typing import NoReturn

import cli
from tests.kit.places import ROOT

#: Seconds; nothing here takes that long: what does has hung.
PATIENCE = 90.0

#: Exit code of what hung.
HUNG = -1000

_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code (below 0: the signal, or `HUNG`), and what it said."""

    code: int
    out: str
    err: str

    def unclear(self) -> str:
        """What a user could not understand about an error, "" if all is clear."""
        if self.code == HUNG:
            return "it hung"
        if "Traceback" in self.err or "Traceback" in self.out:
            return f"a traceback: ...{self.err[-400:]}"
        if not re.search(r"^error: .+\n  mend: .+", self.err, re.MULTILINE):
            return f"no error with a mend (exit code {self.code}): {self.err[-400:]!r}"
        return ""

    def __str__(self) -> str:
        return f"exit code {self.code}, {self.out[-200:]!r}, {self.err[-400:]!r}"


def nothing() -> None:
    """No preparation."""


def command(
    *arguments: object, prepare: Callable[[], None] = nothing, seconds: float = PATIENCE
) -> Ended:
    """Run ``prep`` in a forked process, after `prepare` in there."""
    return begun(*arguments, prepare=prepare).ended(seconds)


@dataclass
class Begun:
    """A forked command that runs."""

    pid: int
    out: int
    err: int

    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def send(self, number: int) -> None:
        """Send a signal, if it has not ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def ended(self, seconds: float = PATIENCE) -> Ended:
        """Wait for its end; kill it if that does not come."""
        until = time.monotonic() + seconds
        code = 0
        while self.is_running():
            if time.monotonic() > until:
                code = HUNG
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.002)
        _, status = os.waitpid(self.pid, 0)
        code = code or os.waitstatus_to_exitcode(status)
        return Ended(code, _taken(self.out), _taken(self.err))


def begun(*arguments: object, prepare: Callable[[], None] = nothing) -> Begun:
    """Start ``prep`` in a forked process; what it prints is kept in memory."""
    out, err = os.memfd_create("out"), os.memfd_create("err")
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _become([str(one) for one in arguments], out, err, prepare)
    return Begun(pid, out, err)


def _become(arguments: list[str], out: int, err: int, prepare: Callable[[], None]) -> NoReturn:
    code = 120
    try:
        os.setsid()
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout = TextIOWrapper(FileIO(1, "w"), "utf-8", write_through=True)
        sys.stderr = TextIOWrapper(FileIO(2, "w"), "utf-8", "backslashreplace", write_through=True)
        prepare()
        try:
            cli.prep(arguments, prog_name="prep")
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # as the interpreter itself would end
        code = 1
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _taken(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    data = os.pread(descriptor, size, 0)
    os.close(descriptor)
    return data.decode("utf-8", "replace")


def environment(**more: str) -> dict[str, str]:
    """For an interpreter that imports this project."""
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | more


def real(*arguments: object, before: Sequence[str] = (), seconds: float = PATIENCE) -> Ended:
    """Run ``python -m cli`` as a user does; `before` stands in front of it (``prlimit ...``)."""
    with subprocess.Popen(
        [*before, sys.executable, "-m", "cli", *map(str, arguments)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        return ended(process, seconds)


def ended(process: subprocess.Popen[bytes], seconds: float = PATIENCE) -> Ended:
    """Wait for a process that leads a session; kill the session if it does not end."""
    try:
        out, err = process.communicate(timeout=seconds)
        code = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        code = HUNG
    return Ended(code, (out or b"").decode("utf-8", "replace"), (err or b"").decode())


def private_mounts() -> None:
    """Let this process mount what no other sees, and what vanishes with it.

    Raises
    ------
    OSError
        Where the system does not allow that to this user.
    """
    user, group = os.getuid(), os.getgid()
    _checked(_libc.unshare(_CLONE_NEWNS | (_CLONE_NEWUSER if user else 0)))
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _run("mount", "--make-rprivate", "/")


def mount_memory(folder: Path, options: str) -> None:
    """Mount a file system in memory; `options` are its size and its number of inodes."""
    folder.mkdir(parents=True, exist_ok=True)
    _run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder))


def remount(folder: Path, options: str) -> None:
    """Change what `mount_memory` mounted."""
    _run("mount", "-o", f"remount,{options}", str(folder))


def drop_privileges() -> None:
    """Let permissions count for root, too: this process keeps its user and loses all else."""
    if os.geteuid() == 0:
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        nothing_allowed = (ctypes.c_uint32 * 6)()
        _checked(_libc.capset(header, nothing_allowed))


def limit(kind: int, most: int) -> Callable[[], None]:
    """A preparation: limit a resource of ``resource.RLIMIT_*``."""

    def prepare() -> None:
        resource.setrlimit(kind, (most, most))

    return prepare


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip()}")


def _checked(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
