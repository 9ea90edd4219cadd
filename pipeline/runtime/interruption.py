"""Handles Ctrl-C: the first lets running samples finish, the second ends the run at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Final

STOP_SIGNALS: Final = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""SIGINT is Ctrl-C, SIGTERM what batch systems send before SIGKILL, SIGHUP a closing terminal."""


def never() -> bool:
    """Always False: for runs that cannot be interrupted."""
    return False


@dataclass
class Interruption:
    """Whether the user, a batch system or a closing terminal has asked a run to stop."""

    wanted: bool = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Listen for `STOP_SIGNALS` while inside (only possible in the main thread).

        A signal that is already ignored stays ignored, because ``nohup`` does that. The second
        signal of a kind has its usual effect.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        before = {n: one for n, one in handlers.items() if one not in (signal.SIG_IGN, None)}

        def stop(number: int, _: FrameType | None) -> None:
            self.wanted = True
            signal.signal(number, before[signal.Signals(number)])

        for number in before:
            signal.signal(number, stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
