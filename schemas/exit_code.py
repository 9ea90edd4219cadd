"""What a command's exit code says. Scripts rely on these numbers: they are added to, not changed.

The tables in every ``--help`` and in the documents are written from here
(``python -m scripts.write_tables``).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Self


class ExitCode(IntEnum):
    """How a command ended; ``meaning`` says it in one line."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> Self:
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    DONE = 0, "done, nothing wrong"
    FAILED = 1, "unexpected failure"
    WRONG_USAGE = 2, "wrong usage"
    SOURCES_FAILED = (
        3,
        "finished, but some sources could not be ingested (each listed with reason)",
    )
    DAMAGED = 4, "damage or invalid data found"
    NO_STORE = 10, "no store there, or not one of ours"
    LOCKED = 11, "store or run folder locked by another writer"
    INCOMPATIBLE = 12, "store format or recipe this version cannot continue"
    INTERRUPTED = 130, "interrupted; state is safe, the same command continues"
