"""The documents are executed: commands, code, links and generated parts are what the tool does."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import cli
from commands import config_file
from scripts.write_tables import PAGES, PROGRAMS, TABLES, every_context, region, rewritten
from tests.kit.documents import FENCE, ROOT, Block, blocks, shell_commands

_LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
_ROOMS = "benchmarks|commands|docs|genisp_model|pipeline|schemas|scripts|tests"
_REPOSITORY_PATH = re.compile(rf"`((?:{_ROOMS})/[\w/.-]*)(?:::(\w+))?`")
_DOTTED_NAME = re.compile(rf"(?:`|python -m )((?:{_ROOMS})(?:\.\w+)+)")
#: Longest line of prose; tables and code may be wider.
_PROSE_WIDTH = 120
_MEASURED = re.compile(r"\d+:\d\d:\d\d|[\d.]+(?= images/s)|\d+(?= MB/s)")


@dataclass(frozen=True)
class Typed:
    """One command of the README's first block as it was run here."""

    words: list[str]
    shown: str
    printed: str
    exit_code: int


@dataclass(frozen=True)
class Followed:
    """The folder of somebody who typed the README's first block, and what they saw."""

    folder: Path
    typed: list[Typed]


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Followed:
    folder = tmp_path_factory.mktemp("reader")
    block = next(block for block in blocks("console") if block.page.name == "README.md")
    typed = []
    with contextlib.chdir(folder):
        for part in block.text.split("$ ")[1:]:
            command, _, shown = part.partition("\n")
            words = shlex.split(command, comments=True)
            environment = {"PREP_INGEST_WORKERS": "0", "PREP_VERIFY_WORKERS": "0"}
            result = CliRunner().invoke(cli.prep, words[1:], env=environment)
            typed.append(Typed(words, shown.strip(), _settled(result.output), result.exit_code))
    return Followed(folder, typed)


def _settled(output: str) -> str:
    """What a terminal shows of both streams in the end: no status lines."""
    return "\n".join(line for line in output.splitlines() if "  ETA " not in line)


def test_the_readme_shows_what_its_commands_print(followed: Followed) -> None:
    assert [typed.words[1] for typed in followed.typed] == ["sample", "ingest", "verify"]
    for typed in followed.typed:
        assert typed.exit_code == 0, typed
        assert _MEASURED.sub("#", typed.printed) == _MEASURED.sub("#", typed.shown)


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_blocks_run_and_print_what_they_say(block: Block, followed: Followed) -> None:
    printed = io.StringIO()
    code = compile("\n" * (block.line - 1) + block.text, str(block.page), "exec")
    with contextlib.chdir(followed.folder), contextlib.redirect_stdout(printed):
        exec(code, {"__name__": "__main__"})
    said = [
        line.partition("  # ")[2] for line in block.text.splitlines() if line.startswith("print(")
    ]
    assert printed.getvalue().splitlines() == said


@pytest.mark.parametrize("block", blocks("console", "sh"), ids=str)
def test_shown_commands_exist_with_their_options(
    block: Block, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Files of options are read where the commands are run: tests/test_documented_commands.py.
    monkeypatch.setattr(config_file, "_read", lambda path: {})
    for words in shell_commands(block):
        if words[0] in PROGRAMS:
            _parse(PROGRAMS[words[0]], words)
        elif words[0] == "make":
            targets = [word for word in words[1:] if "=" not in word]
            makefile = (ROOT / "Makefile").read_text()
            assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def _parse(command: click.Command, words: list[str], parent: click.Context | None = None) -> None:
    """Parse as the program would, down to the last command; run nothing."""
    name, *arguments = words
    if isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        below = command.commands.get(arguments[0])
        if below is None:
            raise click.UsageError(f"no such command: {arguments[0]}")
        settings: dict[str, Any] = dict(command.context_settings)
        _parse(below, arguments, click.Context(command, parent, name, **settings))
        return
    with contextlib.suppress(click.exceptions.Exit):  # --help, --version
        command.make_context(name, arguments, parent)


def test_shown_commands_that_do_not_exist_are_caught() -> None:
    with pytest.raises(click.UsageError):
        _parse(cli.prep, ["prep", "ingest", "nod", "--no-such-option"])
    with pytest.raises(click.UsageError):
        _parse(cli.prep, ["prep", "no-such-command"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_named_files_exist(page: Path) -> None:
    text = FENCE.sub("", page.read_text())
    for target in _LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in _anchors(linked), f"{page.name} links to {target}"
    for name, test in _REPOSITORY_PATH.findall(text):
        assert (ROOT / name).exists(), f"{page.name} names {name}"
        assert not test or f"def {test}(" in (ROOT / name).read_text(), f"{page.name} names {test}"
    for name in _DOTTED_NAME.findall(text):
        assert _is_in_the_code(name), f"{page.name} names {name}"


def _is_in_the_code(dotted: str) -> bool:
    """Whether it is a room, a module, or a word in the module or room that its beginning names."""
    place, rest = ROOT, dotted.split(".")
    while rest and place.is_dir():
        place /= rest[0]
        if not place.is_dir():
            place = place.with_suffix(".py")
        if not place.exists():
            place = place.parent / "__init__.py"
            break
        rest = rest[1:]
    return not rest or (
        place.is_file() and re.search(rf"\b{rest[0]}\b", place.read_text()) is not None
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_merge_was_left_half_done(page: Path) -> None:
    lines = page.read_text().splitlines()
    assert not [line for line in lines if re.match(r"(<{7}|={7}|>{7})( |$)", line)]


def test_pages_that_the_code_names_exist() -> None:
    for module in (path for room in _ROOMS.split("|") for path in (ROOT / room).rglob("*.py")):
        for name in re.findall(r"\bdocs/[\w/-]+\.md\b", module.read_text()):
            assert (ROOT / name).exists(), f"{module.relative_to(ROOT)} names {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_prose_has_lines_of_normal_length(page: Path) -> None:
    text = re.sub(r"<!-- generated.*?<!-- end", "", page.read_text(), flags=re.DOTALL)
    text = _LINK.sub("", FENCE.sub("", text))
    long = [line for line in text.splitlines() if len(line) > _PROSE_WIDTH and line[0] != "|"]
    assert not long, page.name


def test_the_architecture_names_every_room() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    told = (ROOT / "docs" / "architecture.md").read_text()
    rooms = [name for name in project["tool"]["setuptools"]["packages"] if "." in name]
    inner = re.compile(r"pipeline\.sample_set\.|genisp_model\.(\w+\.)?assets")
    for room in rooms:
        assert inner.match(room) or f"`{room.replace('.', '/')}/`" in told, room


def _anchors(page: Path) -> set[str]:
    """Anchors as GitHub makes them from headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("context", every_context(), ids=lambda context: context.command_path)
def test_every_command_and_option_has_help(context: click.Context) -> None:
    assert context.command.help
    for parameter in context.command.get_params(context):
        if not isinstance(parameter, click.Option):
            continue
        assert parameter.help, parameter.opts
        assert parameter.show_envvar or parameter.is_eager, f"{parameter.opts}: no variable shown"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_generated_parts_are_current(page: Path) -> None:
    text = page.read_text()
    assert text == rewritten(text), "python -m scripts.write_tables rewrites it"


@pytest.mark.parametrize("name", TABLES)
def test_every_table_stands_in_a_document(name: str) -> None:
    start, end = region(name)
    assert any(start in text and end in text for text in (page.read_text() for page in PAGES))
