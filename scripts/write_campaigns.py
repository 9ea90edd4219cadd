"""Writes the tables of docs/reference/fault-campaigns.md from what `make torture` found.

    python -m scripts.write_campaigns torture.json [MORE.json ...]

Each campaign's table stands between ``<!-- campaign: NAME -->`` and ``<!-- end of NAME -->``; those
of campaigns that are in none of the files stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "fault-campaigns.md"
_COUNTS = ("tried", "caught", "harmless", "survived", "missed")


def table(campaign: Mapping[str, Any]) -> str:
    """One campaign of a ``torture.json`` as a table in Markdown, with its sums."""
    rows = [row | {"missed": len(row["misses"])} for row in campaign["rows"]]
    sums = [f"**{sum(row[name] for row in rows):,}**" for name in _COUNTS]
    lines = [["fault", *_COUNTS], ["---"] * (1 + len(_COUNTS))]
    lines += [[row["fault"], *(f"{row[name]:,}" for name in _COUNTS)] for row in rows]
    lines.append(["**all**", *sums])
    return "\n".join("|" + "|".join(_cell(cell) for cell in line) + "|" for line in lines)


def _cell(text: str) -> str:
    return text if text == "---" else " " + text.replace("|", r"\|") + " "


def rewritten(page: str, campaigns: Iterable[Mapping[str, Any]]) -> str:
    """The page with the tables of these campaigns.

    Raises
    ------
    ValueError
        If the page has no place for one of them.
    """
    for campaign in campaigns:
        start, end = f"<!-- campaign: {campaign['name']} -->", f"<!-- end of {campaign['name']} -->"
        before, found, rest = page.partition(start)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"{PAGE.name} has no {start} ... {end}")
        page = f"{before}{start}\n\n{table(campaign)}\n\n{end}{after}"
    return page


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
def main(files: tuple[Path, ...]) -> None:
    """Rewrite the page."""
    campaigns = [campaign for file in files for campaign in json.loads(file.read_text())]
    PAGE.write_text(rewritten(PAGE.read_text(), campaigns))
    made = sum(row["tried"] for campaign in campaigns for row in campaign["rows"])
    click.echo(f"{len(campaigns)} campaigns, {made:,} faults, in {PAGE.name}")


if __name__ == "__main__":
    main()
