"""Ctrl-C with manners: the first lets running samples finish, the second ends at once."""

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
"""Ctrl-C; what batch systems send before SIGKILL; and what a closing terminal sends."""


def never() -> bool:
    """Nobody asks for the end: what is asked where nobody can."""
    return False


@dataclass
class Interruption:
    """Whether the user, a batch system or a closing terminal has asked a run to stop."""

    wanted: bool = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Listen for `STOP_SIGNALS` while inside (only possible in the main thread).

        One that is ignored already stays ignored: that is what ``nohup`` asks for. The second of a
        kind does what it would have done without us.
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
