"""A short form of the campaign, and that what it relies on can fail."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.kit.places import ROOT
from tests.torture.campaign import FaultRow, Scale
from tests.torture.hostile_raws import dying_decoder, fuzz_parsers
from tests.torture.hostile_raws import run as hostile_raws
from tests.torture.hostile_raws.mutations import MUTATORS
from tests.torture.hostile_raws.trial import Trial, children


def test_no_spoilt_raw_is_stored_unnoticed(tmp_path: Path) -> None:
    rows = {row.fault: row for row in hostile_raws.run(Scale(share=0.01), tmp_path / "work")}
    assert [miss for row in rows.values() for miss in row.misses] == []
    assert set(rows) >= {mutator.row for mutator in MUTATORS}
    for mutator in MUTATORS:
        # What made another valid raw, or changed pixels, is counted in rows of its own.
        assert rows[mutator.row].tried > 0 or mutator.judgement == "data"
    for lost in ("truncated", "the end of the image data is zeros (32 bytes or more)"):
        assert rows[lost].caught == rows[lost].tried >= 6
    assert rows["garbage behind the end"].harmless == hostile_raws.SMALL
    assert rows["up to 100,000 x 100,000 pixels claimed"].caught == hostile_raws.SMALL
    assert rows[hostile_raws.DEATHS].caught == 2
    accounts = rows["spoilt raws through prep ingest: each accounted for once"]
    assert accounts.tried >= len(MUTATORS) > accounts.harmless > 0
    assert rows["good raws among them: stored as without them"].tried == hostile_raws.SMALL
    assert sum(name.startswith(hostile_raws.MEMORY) for name in rows) == 1
    fuzzed = [row for name, row in rows.items() if " parser " in name]
    assert len(fuzzed) == len(fuzz_parsers.TARGETS)
    assert min(row.tried for row in fuzzed) >= 200


def test_a_child_that_dies_or_hangs_costs_the_file_it_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "path"
    path.mkdir()
    shutil.copy(str(dying_decoder.__file__), path / "sitecustomize.py")
    monkeypatch.setenv("PYTHONPATH", str(path))
    seed = hostile_raws.good_raws(real=False)[4]
    ends = ("segfault:probe", "", "hang:decode", "")
    trials = [
        Trial("", seed.name, seed.suffix, seed.data + f"dies:{end}".encode() * bool(end), end, 0)
        for end in ends
    ]
    good = {seed.name: (seed.suffix, seed.data)}
    with children(tmp_path / "work", good, count=1) as pool:
        pool.time_limit = 3.0
        outcomes = [verdict.outcome for _, verdict in pool.run(trials)]
    assert outcomes == ["died", "same", "hung", "same"]


def test_memory_over_the_limit_is_a_miss() -> None:
    from tests.torture.hostile_raws.trial import Verdict

    memory = hostile_raws._Memory()
    memory.note(Verdict("refused", peak=300 << 20, growth=4 << 20), "one")
    assert memory.row().misses == []
    memory.note(Verdict("refused", peak=1300 << 20, growth=0), "two")
    memory.note(Verdict("refused", peak=300 << 20, growth=200 << 20), "three")
    row: FaultRow = memory.row()
    assert (row.tried, row.survived, len(row.misses)) == (3, 1, 2)


@pytest.mark.parametrize("guided", [True, False])
def test_a_parser_that_raises_what_is_not_ours_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guided: bool
) -> None:
    if guided:
        pytest.importorskip("atheris")
    # The child is another process, so the mistake is made in the file system: a parser's error
    # class is no error any more.
    broken = tmp_path / "path"
    broken.mkdir()
    lines = ["import sys, struct, importlib.util as u"]
    if not guided:
        lines.append("sys.modules['atheris'] = None")
        lines.append("find = u.find_spec")
        lines.append("u.find_spec = lambda name, *a: None if name == 'atheris' else find(name, *a)")
    lines += [
        "import pipeline.raw.tiff_reader as reader",
        "def require(self, what, start, length):",
        "    if start + length > self.size: raise struct.error('unpack requires more bytes')",
        "reader.TiffReader.require = require",
    ]
    (broken / "sitecustomize.py").write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("PYTHONPATH", f"{broken}:{ROOT}")
    if not guided:
        monkeypatch.setattr(fuzz_parsers, "find_spec", lambda _: None)
    done = fuzz_parsers.fuzz(fuzz_parsers.TARGETS["tiff"], tmp_path / "fuzz", seed=0, inputs=3000)
    assert done.guided is guided
    (finding,) = done.findings
    assert finding.startswith("crash: ")
    assert "unpack requires more bytes" in finding
