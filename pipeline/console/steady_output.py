"""Output that goes quiet when nobody can hear it: a run is worth more than what it says."""

from __future__ import annotations

import os
from typing import Any, TextIO


class SteadyStream:
    """A text stream whose failures stop nothing: what is written after the first one is dropped.

    A reader that has gone (``| head``), a full disk under a log and a closed terminal all fail
    somewhere in the middle of a run.

    Parameters
    ----------
    stream
        Where the text goes.

    Attributes
    ----------
    lost
        The first failure, None if there was none.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        """Write, or drop it."""
        try:
            self._stream.write(text)
        except OSError as error:
            self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Have everything written."""
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _give_up(self, error: OSError) -> None:
        """Point the stream to nowhere: what it still holds has to go somewhere at the end."""
        self.lost = self.lost or error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
