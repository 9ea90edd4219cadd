"""Writes what the documents repeat from the code: help texts, exit codes, findings, JSON.

    python -m scripts.write_tables

Each stands in a page between ``<!-- generated: NAME -->`` and ``<!-- end of NAME -->``; what is
between them is replaced. A test fails while a page differs from what would be written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

import cli
from schemas import events
from schemas.exit_code import ExitCode
from schemas.finding_codes import FindingCode
from schemas.info import DoctorReport, StoreInfo

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")])
PROGRAMS: dict[str, click.Command] = {"prep": cli.prep, "genisp": cli.genisp, "train": cli.train}

#: As wide as the help ever gets (``max_content_width``), whatever terminal the tests run in.
HELP_WIDTH = 100
_JSON_RESULTS = (
    events.StatusEvent,
    events.SampleEvent,
    events.ErrorEvent,
    events.FindingEvent,
    events.PlanEvent,
    events.IngestSummary,
    events.VerifySummary,
    StoreInfo,
    DoctorReport,
)


def _contexts(
    command: click.Command, parent: click.Context | None, name: str
) -> Iterator[click.Context]:
    """A command's context and those of all below it."""
    settings: dict[str, Any] = {**command.context_settings, "terminal_width": HELP_WIDTH}
    context = click.Context(command, parent=parent, info_name=name, **settings)
    yield context
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            assert found is not None
            yield from _contexts(found, context, below)


def every_context() -> list[click.Context]:
    """The context of every program and command, as wide as the help ever gets."""
    roots = (name for name in PROGRAMS if name != "train")  # `train` is `genisp train`
    return [found for name in roots for found in _contexts(PROGRAMS[name], None, name)]


def _help_text() -> str:
    return "\n".join(
        f"### {context.command_path}\n\n```text\n{context.get_help()}\n```\n"
        for context in every_context()
    )


def _result_tables() -> str:
    return "\n".join(_result_table(model) for model in _JSON_RESULTS)


def _result_table(model: Any) -> str:
    rows = [
        f"| `{name}` | {_type_name(field.annotation)} |"
        for name, field in model.model_fields.items()
    ]
    about = " ".join((model.__doc__ or "").split())
    return "\n".join(
        [f"### {model.__name__}\n", about, "\n| field | type |", "|---|---|", *rows, ""]
    )


def _type_name(annotation: Any) -> str:
    name = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    text = str(annotation) if "[" in str(annotation) else name
    text = re.sub(r"\b(?:typing|schemas\.\w+)\.", "", text)
    literal = re.fullmatch(r"Literal\['(.*)'\]", text)
    return f'`"{literal[1]}"`' if literal else "`" + text.replace("|", "or") + "`"


def _exit_codes() -> str:
    rows = [f"| {code.value} | {code.meaning} |" for code in ExitCode]
    return "\n".join(["| code | meaning |", "|---|---|", *rows, ""])


def _findings() -> str:
    rows = [
        f"| `{code}` | {code.severity or 'depends'} | {code.meaning} | {_mend(code)} |"
        for code in FindingCode
    ]
    return "\n".join(["| code | severity | meaning | mend |", "|---|---|---|---|", *rows, ""])


def _mend(code: FindingCode) -> str:
    return "depends; said with it" if code.mend is None else code.mend or "nothing to do"


TABLES: dict[str, Callable[[], str]] = {
    "commands": _help_text,
    "results": _result_tables,
    "exit codes": _exit_codes,
    "findings": _findings,
}


def region(name: str) -> tuple[str, str]:
    """The comments before and behind a generated part."""
    return f"<!-- generated: {name} -->", f"<!-- end of {name} -->"


def rewritten(page: str) -> str:
    """The text of a page with its generated parts written anew.

    Raises
    ------
    ValueError
        If a part has no end.
    """
    for name, table in TABLES.items():
        start, end = region(name)
        if start in page:
            before, _, rest = page.partition(start)
            _, found, after = rest.partition(end)
            if not found:
                raise ValueError(f"{end} is missing")
            page = f"{before}{start}\n\n{table()}\n{end}{after}"
    return page


def main() -> None:
    """Rewrite every page that differs."""
    for page in PAGES:
        text = page.read_text()
        if text != rewritten(text):
            page.write_text(rewritten(text))
            click.echo(f"rewrote {page.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
