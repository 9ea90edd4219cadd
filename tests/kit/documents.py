"""The documents as their readers see them: fenced blocks, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scripts.write_tables import PAGES

ROOT = Path(__file__).resolve().parents[2]

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: A command in the midst of a sentence: a program with at least one word behind its command.
_INLINE = re.compile(r"`((?:prep \w+|genisp \w+|train|make|python -m) [^`]+)`")


@dataclass(frozen=True)
class Block:
    """One fenced block: its page, first line's number, language and text."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    """All blocks in one of these languages, on all pages."""
    found = [block for page in PAGES for _, block in _placed(page)]
    return [block for block in found if block.language in languages]


def _placed(page: Path) -> Iterator[tuple[int, Block]]:
    """Every block of a page, and at which character it begins."""
    text = page.read_text()
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 2
        yield match.start(), Block(page, line, match[1], match[2])


def shell_commands(block: Block) -> Iterator[list[str]]:
    """Each command's words; in a console block, those behind a ``$``."""
    for line in block.text.replace("\\\n", " ").splitlines():
        if block.language == "console" and not line.startswith("$ "):
            continue
        for command in line.removeprefix("$ ").split("&&"):
            words = shlex.split(command, comments=True)
            if words:
                yield words


def commands_of(page: Path) -> list[str]:
    """Every command that a page shows, in order, without comments: in blocks and in sentences."""
    found = [
        (at, shlex.join(words))
        for at, block in _placed(page)
        if block.language in ("console", "sh")
        for words in shell_commands(block)
    ]
    prose = FENCE.sub(lambda match: " " * len(match[0]), page.read_text())
    found += [(one.start(), " ".join(one[1].split())) for one in _INLINE.finditer(prose)]
    return [command for _, command in sorted(found, key=lambda one: one[0])]


def named_files(page: Path) -> dict[str, str]:
    """Name -> text of the files that a page shows: blocks whose first line is ``# NAME``."""
    named = [(re.match(r"# ([\w./-]+)\n", block.text), block) for _, block in _placed(page)]
    return {name[1]: block.text for name, block in named if name}
