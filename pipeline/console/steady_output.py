"""Standard output and error whose failures do not stop a run."""

from __future__ import annotations

import os
from typing import Any, TextIO


class SteadyStream:
    """A text stream that raises nothing: what is written after the first failure is dropped.

    A reader that has ended (``| head``), a full disk under a log, or a closed terminal would
    otherwise end a run in the middle.

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
        """Write `text`, or drop it after a failure."""
        try:
            self._stream.write(text)
        except OSError as error:
            self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered, or drop it after a failure."""
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _give_up(self, error: OSError) -> None:
        """Redirect the stream to the null device: Python writes what is buffered at exit."""
        self.lost = self.lost or error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
