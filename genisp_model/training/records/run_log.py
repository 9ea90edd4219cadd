"""A table that a run writes line by line, as CSV: ``steps.csv`` and ``results.csv``.

What a crash or a full disk made of it never stops a run: lines that cannot be read are left out,
a file that is no such table is set aside, and both are said.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from genisp_model.files import whole_file, writing

_log = logging.getLogger(__name__)

Row = dict[str, str]


@dataclass(frozen=True)
class Table:
    """What a log holds.

    Attributes
    ----------
    names
        Of the columns; empty if the file is no such table.
    rows
        Whole lines, as text; every value is a number.
    unreadable
        How many other lines there are.
    """

    names: tuple[str, ...]
    rows: tuple[Row, ...]
    unreadable: int


class RunLog:
    """One table; each row has ``step``, a whole number.

    Parameters
    ----------
    path
        Made with the first row.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._names: tuple[str, ...] = ()

    def append(self, values: Mapping[str, float], *, mend: str) -> None:
        """Add a row. What is there and has other columns is set aside first.

        Raises
        ------
        TrainingError
            If the file system refuses; `mend` says what to do after that.
        """
        names = tuple(values)
        with writing(self.path, mend=mend):
            if names != self._names:
                self._open(names, mend)
            with self.path.open("a", newline="") as file:
                csv.writer(file).writerow(values.values())

    def forget_after(self, step: int, *, mend: str) -> None:
        """Drop the rows of later steps, and what is no row; set aside what is no table."""
        table = self._read_or_set_aside()
        if table is None:
            return
        if table.unreadable:
            _log.warning("%s: left out %d lines that cannot be read", self.path, table.unreadable)
        kept = [row for row in table.rows if int(row["step"]) <= step]
        self._write(table.names, kept, mend)

    def numbers(self) -> list[dict[str, float]]:
        """Every row that can be read."""
        if not self.path.is_file():
            return []
        rows = read_table(self.path.read_bytes()).rows
        return [{name: float(value) for name, value in row.items()} for row in rows]

    def _open(self, names: tuple[str, ...], mend: str) -> None:
        """Make the file end with a whole row of these columns, or with their names."""
        table = self._read_or_set_aside(names)
        if table is None or table.unreadable:
            self._write(names, table.rows if table else (), mend)
        self._names = names

    def _read_or_set_aside(self, names: tuple[str, ...] | None = None) -> Table | None:
        """The table, if there is one with these columns; another file gets another name."""
        if not self.path.exists():
            return None
        table = read_table(self.path.read_bytes()) if self.path.is_file() else _NOTHING
        if table.names and names in (None, table.names):
            return table
        aside = free_name(self.path)
        self.path.rename(aside)
        what = "has other columns" if table.names else "is no log of a run"
        _log.warning("%s: %s: it is now %s, and a new one begins", self.path, what, aside.name)
        return None

    def _write(self, names: Sequence[str], rows: Sequence[Row], mend: str) -> None:
        with whole_file(self.path, mend=mend) as path, path.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)


_NOTHING = Table((), (), 0)


def read_table(data: bytes) -> Table:
    """Parse a log; a line without its end is cut off, so it is none."""
    lines = data.decode(errors="replace").split("\n")
    parsed = [_cells(line) for line in lines[:-1]] + [None] * bool(lines[-1])
    names = parsed[0] if parsed else None
    if not names or "step" not in names or len(set(names)) < len(names):
        return _NOTHING
    rows = [_row(names, cells) for cells in parsed[1:]]
    whole = tuple(row for row in rows if row is not None)
    return Table(tuple(names), whole, len(rows) - len(whole))


def free_name(path: Path) -> Path:
    """``steps.old-1.csv`` for ``steps.csv``, or the next number that is free."""
    number = 1
    while (aside := path.with_name(f"{path.stem}.old-{number}{path.suffix}")).exists():
        number += 1
    return aside


def _cells(line: str) -> list[str] | None:
    try:
        return next(csv.reader([line.removesuffix("\r")], strict=True), None)
    except csv.Error:
        return None


def _row(names: Sequence[str], cells: Sequence[str] | None) -> Row | None:
    if cells is None or len(cells) != len(names):
        return None
    row = dict(zip(names, cells, strict=True))
    try:
        int(row["step"])
        for cell in cells:
            float(cell)
    except ValueError:
        return None
    return row
