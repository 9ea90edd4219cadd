"""numba's compiler with a cache on disk that may fail without consequences.

numba by itself raises an error if it finds no folder to write to, if the disk of that folder is
full, or if a file of the cache was cut off. Here the function is then compiled again, in this
process.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from numba import njit
from numba.core.caching import FunctionCache

Function = TypeVar("Function", bound=Callable[..., Any])


_Base: Any = FunctionCache  # numba publishes no types


@lru_cache
def _stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """A value that changes whenever a file with compiled code in a folder changes, or this file.

    So compiled functions that call each other have to be in one folder.
    """
    sources = [path for path in sorted(folder.glob("*.py")) if b"compiled" in path.read_bytes()]
    sources.append(Path(__file__))
    return tuple((path.name, (s := path.stat()).st_mtime_ns, s.st_size) for path in sources)


class _CasualCache(_Base):  # type: ignore[misc]
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        # numba looks only at the function's own file, but what it calls may be in another one.
        self._cache_file._source_stamp = _stamp(Path(function.__code__.co_filename).parent)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # whatever unpickling a damaged file raises
            with suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(OSError):
            super().save_overload(sig, data)


def compiled(**options: Any) -> Callable[[Function], Function]:
    """``numba.njit(**options)``, cached on disk where that is possible."""

    def decorate(function: Function) -> Function:
        dispatcher = njit(**options)(function)
        with suppress(RuntimeError):  # no folder that can be written to
            dispatcher._cache = _CasualCache(function)
        made: Function = dispatcher
        return made

    return decorate
