"""Every byte that a user or another program sees of the tool: it changes on purpose only.

What is drawn, stored and printed is written into one folder, file by file, and the digest of each
is compared with tests/golden.json. Weights of trained networks are left out: they differ from one
kind of processor to another. The rest does not.

``python -m tests.test_golden`` writes tests/golden.json anew, after a change that is meant to be
seen. To look at the bytes behind a digest: ``python -m tests.test_golden FOLDER`` keeps them there.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import itertools
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click
import pytest
import rawpy
from click.testing import CliRunner

import cli
from pipeline.raw.reader import decoder_version
from schemas.recipe import Codec, Colour, LevelName
from tests.kit.trees import tree

GOLDEN = Path(__file__).with_name("golden.json")

#: Files that a library writes for us, and which: compared only under the version that wrote them.
WRITTEN_BY = {
    r".*/zarr\.json": "zarr",
    r"stores/.*-zstd-.*/c\.\d.*": "numcodecs",
    r"help/.*": "click",
}

DECODERS = ("auto", "libraw", "flashraw")
LEVELS = (*get_args(LevelName), ",".join(get_args(LevelName)))

#: What a run measures, and what the disk has left.
_MEASURED = re.compile(r'"(seconds|seconds_left|bytes_free)": ?[\d.e+-]+')

_VERSIONED = ("genisp", "zarr", "numcodecs", "rawpy", "flashraw", "numpy")


def write_everything(folder: Path) -> None:
    """Draw, ingest, verify, describe and ask for help in `folder`, in this process."""
    with contextlib.chdir(folder), _no_versions():
        _write_helps()
        _say("sample", "sample", "drawn", "--images", 8, "--seed", 3)
        _say("sample-pair", "sample", "pair", "--images", 2, "--seed", 5)
        for raw in Path().rglob("*.*"):
            os.utime(raw, (1_700_000_000, 1_700_000_000))  # a store records when a raw was changed
        _say("plan", "ingest", "drawn", "--store", "drawn.zarr", "--dry-run")
        _say("ingest", "ingest", "drawn", "--store", "drawn.zarr", "--workers", 0)
        _say("ingest-again", "ingest", "drawn", "--store", "drawn.zarr", "--workers", 0)
        _say("verify", "verify", "drawn.zarr", "--workers", 0, "--sources", "drawn")
        _say("verify-quick", "verify", "drawn.zarr", "--workers", 0, "--quick")
        _say("info", "info", "drawn.zarr")
        _write_stores()
        _meet_damage()


@contextlib.contextmanager
def _no_versions() -> Iterator[None]:
    """Let every package that a store names be of version 0: another one is not another store."""
    found = importlib.metadata.distribution

    class Nameless:
        version = "0"

    def distribution(name: str) -> Any:
        return Nameless() if name in _VERSIONED else found(name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.metadata, "distribution", distribution)
        patch.setattr(rawpy, "libraw_version", (0, 0, 0))
        decoder_version.cache_clear()
        try:
            yield
        finally:
            decoder_version.cache_clear()


def _write_helps() -> None:
    for name, command in (("prep", cli.prep), ("genisp", cli.genisp), ("train", cli.train)):
        below = sorted(command.commands) if isinstance(command, click.Group) else []
        for words in ([], *([word] for word in below)):
            shown = CliRunner().invoke(
                command, [*words, "--help"], prog_name=name, terminal_width=100
            )
            _write(f"help/{'-'.join([name, *words])}.txt", shown.output)


def _say(name: str, *arguments: object) -> None:
    """Run ``prep ... --json`` and write what it prints and returns, without what it measures."""
    result = CliRunner().invoke(cli.prep, [*map(str, arguments), "--json"])
    lines = result.stdout.splitlines(keepends=True)
    # A slow run says how far it is.
    text = "".join(line for line in lines if '"event":"status"' not in line)
    text = _MEASURED.sub(r'"\1": #', text)
    _write(f"json/{name}.jsonl", f"{text}exit code {result.exit_code}\n{result.stderr}")


def _write(path: str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


def _write_stores() -> None:
    """One store for each combination of choices, of one raw of each camera."""
    for colour, codec, decoder, levels in itertools.product(
        get_args(Colour), get_args(Codec), DECODERS, LEVELS
    ):
        store = f"stores/{colour}-{codec}-{decoder}-{levels.replace(',', '+')}"
        choices = {"colour": colour, "codec": codec, "decoder": decoder, "levels": levels}
        options = [f"--{name}={choice}" for name, choice in choices.items()]
        arguments = ["ingest", "pair", "--store", store, "--workers", "0", *options]
        result = CliRunner().invoke(cli.prep, arguments)
        assert result.exit_code == 0, result.output


def _meet_damage() -> None:
    """A chunk with one wrong bit, and a raw that is cut off; last, since they change what is there.

    Neither the store nor the raw is compared: only what is said about them.
    """
    chunk = min(Path("drawn.zarr").glob("*/packed/c.0.*"))
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:99] + bytes([whole[99] ^ 16]) + whole[100:])
    _say("verify-damaged", "verify", "drawn.zarr", "--workers", 0)
    chunk.write_bytes(whole)
    raw = min(Path("pair").rglob("*.NEF"))
    whole = raw.read_bytes()
    raw.write_bytes(whole[:5000])
    os.utime(raw, (1_700_000_000, 1_700_000_000))
    _say("ingest-failed", "ingest", "pair", "--store", "failed.zarr", "--workers", 0)
    raw.write_bytes(whole)


def _digests(folder: Path) -> dict[str, str]:
    """Of every file: the first 16 hex digits of its SHA-256."""
    return {name: hashlib.sha256(data).hexdigest()[:16] for name, data in tree(folder).items()}


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in sorted({*WRITTEN_BY.values()})}


def _comparable(digests: dict[str, str], changed: set[str]) -> dict[str, str]:
    """Digests of files that were not written by a library whose version changed."""
    written_by_others = [pattern for pattern, name in WRITTEN_BY.items() if name in changed]
    return {
        name: digest
        for name, digest in digests.items()
        if not any(re.fullmatch(pattern, name) for pattern in written_by_others)
    }


def _differences(golden: dict[str, str], found: dict[str, str]) -> Iterator[str]:
    for name in sorted(golden.keys() | found.keys()):
        if golden.get(name) != found.get(name):
            yield f"{name}: {golden.get(name, 'not there')} -> {found.get(name, 'not there')}"


def test_every_byte_is_as_it_was(tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text())
    versions = _versions()
    write_everything(tmp_path)
    changed = {name for name in versions if versions[name] != golden["made with"][name]}
    differences = list(
        _differences(
            _comparable(golden["digests"], changed), _comparable(_digests(tmp_path), changed)
        )
    )
    advice = "files differ; if that is meant: python -m tests.test_golden writes them down anew"
    assert not differences, "\n".join([f"{len(differences)} {advice}", *differences[:20]])


def main(folder: Path) -> None:
    """Write tests/golden.json from what is written in an empty folder."""
    versions = _versions()
    write_everything(folder)
    golden = {"made with": versions, "digests": _digests(folder)}
    GOLDEN.write_text(json.dumps(golden, indent=0) + "\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).mkdir()
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as made:
            main(Path(made))
