"""What the checks found, as Markdown: to be looked at, and to be pasted into the documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scripts.gpu_check.checking import Result

#: Significant digits of a number in a table; the JSON file has all of them.
DIGITS = 4


def markdown(results: Sequence[Result], title: str) -> str:
    """A page: one line a check, then a table for each check that found numbers."""
    summary = [[r.name, r.status, f"{r.seconds:.0f}", r.summary] for r in results]
    page = [f"# {title}", "", *table(["check", "status", "s", "in short"], summary)]
    for result in results:
        lines = _section(result)
        if lines:
            page += ["", f"## {result.name}", "", *lines]
    return "\n".join(page) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Lines of a Markdown table."""
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    lines = [list(head), ["---"] * len(head), *cells]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _section(result: Result) -> list[str]:
    """Entries that are rows of numbers as one table, the others as a list, then what is amiss."""
    rows = {name: row for name, row in result.found.items() if _is_row(row)}
    columns = list(dict.fromkeys(key for row in rows.values() for key in row if _shown(row[key])))
    lines: list[str] = []
    if rows:
        body = [[name, *(_text(row.get(c, "")) for c in columns)] for name, row in rows.items()]
        lines += [*table(["", *columns], body), ""]
    lines += [
        f"- {name}: {_text(value)}"
        for name, value in result.found.items()
        if name not in rows and _shown(value)
    ]
    for name, entries in result.found.items():
        if isinstance(entries, list) and entries and all(map(_is_row, entries)):
            columns = list(entries[0])
            body = [[_text(entry[column]) for column in columns] for entry in entries]
            lines += ["", f"{name}:", "", *table(columns, body)]
    lines += [f"- **wrong**: {text}" for text in result.wrong]
    return lines + [f"- not checked: {text}" for text in result.unchecked]


def _is_row(value: object) -> bool:
    return isinstance(value, Mapping) and any(isinstance(v, int | float) for v in value.values())


def _shown(value: object) -> bool:
    """Numbers, words and short lists of numbers; long lists stand in the JSON file."""
    if isinstance(value, list | tuple):
        return 0 < len(value) <= 3 and all(isinstance(one, int | float) for one in value)
    return isinstance(value, str | int | float)


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " / ".join(map(_text, value))
    if isinstance(value, float):
        return f"{value:.{DIGITS}g}"
    return str(value)
