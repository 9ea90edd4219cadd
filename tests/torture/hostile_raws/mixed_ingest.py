"""Spoilt and deadly raws among good ones, through the real command with two workers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.store.keys import MANIFEST_NAME, chunk_key
from pipeline.store.local.files import LocalFiles
from pipeline.store.manifest import parse_manifest
from pipeline.store.samples import read_level, read_sidecar
from schemas.sidecar import Sidecar
from tests.kit.places import ROOT
from tests.torture.campaign import FaultRow
from tests.torture.hostile_raws.mutations import Seed
from tests.torture.hostile_raws.trial import Trial

#: How native code dies, and in which phase; see `dying_decoder`.
DEATHS = (
    ("segfault", "decode"),
    ("hang", "decode"),
    ("segfault", "probe"),
    ("abort", "decode"),
    ("exit", "probe"),
    ("hang", "probe"),
)

PATIENCE = 600.0


@dataclass
class Ingested:
    """What one run of the command said and left.

    Attributes
    ----------
    told
        Sources, as often as the output mentions them.
    samples
        Source -> (group, id).
    errors
        Source -> (code, message, mend).
    listed
        Source -> status in the manifest; `twice` are the sources listed more than once.
    """

    store: Path
    code: int
    stderr: str
    told: Counter[str] = field(default_factory=Counter)
    samples: dict[str, tuple[str, str]] = field(default_factory=dict)
    errors: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    listed: dict[str, str] = field(default_factory=dict)
    twice: set[str] = field(default_factory=set)

    def sidecar(self, source: str) -> Sidecar:
        """A stored sample's record."""
        return read_sidecar(LocalFiles(self.store), *self.samples[source])

    def chunks(self, source: str) -> list[bytes]:
        """A stored sample's chunk files."""
        made = self.sidecar(source)
        files = LocalFiles(self.store)
        return [files.get(chunk_key(made.group, name, made.row)) for name in made.levels]


def ingest(sources: Path, store: Path, *options: str, path: Sequence[Path] = ()) -> Ingested:
    """Run ``prep ingest --json`` with two workers.

    Parameters
    ----------
    path
        Folders that Python finds modules in before all others.
    """
    command = [sys.executable, "-W", "error", "-m", "cli", "ingest", str(sources)]
    command += ["--store", str(store), "--workers", "2", "--json", *options]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT)))}
    done = subprocess.run(
        command, cwd=store.parent, env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    run = Ingested(store, done.returncode, done.stderr)
    for line in done.stdout.splitlines():
        event = json.loads(line)
        if event["event"] == "sample":
            run.told[event["source"]] += 1
            run.samples[event["source"]] = (event["group"], event["id"])
        elif event["event"] == "error":
            run.told[event["path"]] += 1
            run.errors[event["path"]] = (event["code"], event["message"], event["mend"])
    manifest = (store / MANIFEST_NAME).read_bytes()
    for entry in parse_manifest(manifest, path=MANIFEST_NAME).entries:
        if entry.source in run.listed:
            run.twice.add(entry.source)
        run.listed[entry.source] = entry.status
    return run


def mixed(trials: Sequence[Trial], seeds: Sequence[Seed], folder: Path) -> Iterator[FaultRow]:
    """Spoilt raws between good ones: every file is accounted for once, the good ones are whole."""
    clean, both = folder / "clean", folder / "both"
    for made in (clean, both):
        made.mkdir(parents=True)
    good = [f"{50 * number:03d}_good_{number}{seed.suffix}" for number, seed in enumerate(seeds)]
    for name, seed in zip(good, seeds, strict=True):
        (clean / name).write_bytes(seed.data)
        (both / name).write_bytes(seed.data)
    spoilt = {f"{number:03d}_spoilt{trial.suffix}": trial for number, trial in enumerate(trials)}
    for name, trial in spoilt.items():
        (both / name).write_bytes(trial.data)
    reference = ingest(clean, folder / "clean.zarr")
    run = ingest(both, folder / "both.zarr")
    yield _accounts(run, spoilt, good)
    yield _good_ones(run, reference, good)


def _accounts(run: Ingested, spoilt: dict[str, Trial], good: Sequence[str]) -> FaultRow:
    row = FaultRow("spoilt raws through prep ingest: each accounted for once")
    for name, trial in spoilt.items():
        what = f"{name}: {trial.what} in {trial.seed}: "
        _, message, mend = run.errors.get(name, ("", "", ""))
        status = run.listed.get(name)
        once = run.told[name] == 1 and name not in run.twice
        refused = status == "failed" and bool(message and mend)
        refused = refused and not message.startswith("unexpected ")
        if once and refused != (status == "done" and name in run.samples):
            row.record(caught=refused, harmless=not refused, what=what)
        else:
            row.miss(f"{what}{run.told[name]} times told, {status} in the manifest: {message}")
    strangers = (set(run.told) | set(run.listed)) - set(spoilt) - set(good)
    if run.code != 3 or run.stderr or strangers:
        row.misses.append(f"exit code {run.code}, {strangers}, on the terminal: {run.stderr[:400]}")
    return row


def _good_ones(run: Ingested, reference: Ingested, good: Sequence[str]) -> FaultRow:
    """Byte for byte, unless a spoilt file of their group has levels that widened its range."""
    row = FaultRow("good raws among them: stored as without them")
    for name in good:
        if name not in run.samples:
            row.miss(f"{name} was not stored: {run.errors.get(name)}")
        elif run.chunks(name) == reference.chunks(name):
            row.record(harmless=True, what=name)
        elif problem := _difference(run, reference, name):
            row.miss(f"{name}: {problem}")
        else:
            row.record(what=name)
    return row


def _difference(run: Ingested, reference: Ingested, name: str) -> str:
    ours, theirs = run.sidecar(name), reference.sidecar(name)
    for level, record in ours.levels.items():
        other = theirs.levels[level]
        if (record.scale_factor, record.add_offset) == (other.scale_factor, other.add_offset):
            return f"other bytes in {level} under the same fixed point"
        values = [
            read_level(LocalFiles(one.store), made, level).stored * made.levels[level].scale_factor
            + made.levels[level].add_offset
            for one, made in ((run, ours), (reference, theirs))
        ]
        step = record.scale_factor + other.scale_factor
        if np.abs(values[0] - values[1]).max() > step / 2 * 1.001:
            return f"other values in {level}"
    return ""


def deadly(seeds: Sequence[Seed], folder: Path, *, count: int, row: FaultRow) -> FaultRow:
    """Files on which the decoder dies or hangs (forced), between good ones; adds to `row`."""
    raws, path = folder / "deadly", folder / "path"
    raws.mkdir(parents=True)
    path.mkdir()
    shutil.copy(Path(__file__).with_name("dying_decoder.py"), path / "sitecustomize.py")
    good = {}
    for number, seed in enumerate(seeds):
        good[f"{number}_good{seed.suffix}"] = seed.data
    marked = {}
    for number, (kind, phase) in enumerate(DEATHS[:count]):
        seed = seeds[number % len(seeds)]
        mark = f"dies:{kind}:{phase}".encode()
        marked[f"{number}_{kind}_{phase}{seed.suffix}"] = seed.data + mark
    for name, data in (good | marked).items():
        (raws / name).write_bytes(data)
    run = ingest(raws, folder / "deadly.zarr", "--time-limit", "2", path=[path])
    for name in marked:
        code, message, mend = run.errors.get(name, ("", "", ""))
        alone = run.told[name] == 1 and run.listed.get(name) == "failed"
        if code == "crash" and message and mend and alone:
            row.record(caught=True, what=name)
        else:
            row.miss(f"{name}: {code} {message}, {run.listed.get(name)} in the manifest")
    lost = set(good) - set(run.samples)
    if run.code != 3 or run.stderr or lost:
        row.misses.append(f"exit code {run.code}, lost {lost}, on the terminal: {run.stderr[:400]}")
    return row
