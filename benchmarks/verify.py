"""What `prep verify` costs beside what it cannot do without: reading, CRC-32C, decompression.

    python -m benchmarks.verify [--rounds R] [--images N] [--json FILE]

Both read the same full-size store from the page cache, in one process: `run_verify` with all its
checks (sidecars, metadata, manifest, every chunk), and a bare loop over the chunk files that reads,
computes the CRC-32C and lets numcodecs decompress. Wall and CPU time; `run_verify` checks in
threads, so its wall time may be below the loop's.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs.blosc
import numpy as np
from crc32c import crc32c

from benchmarks.kit.machine import machine_facts, write_json
from benchmarks.kit.night_raws import ARW2, write_night_raws
from pipeline.console.progress import PlainReporter
from pipeline.ingest import IngestOptions, run_ingest
from pipeline.store.local.files import LocalFiles
from pipeline.verify import VerifyOptions, run_verify
from schemas.recipe import Recipe


def _discard(line: str) -> None:
    """Whatever is reported."""


def bare_loop(store: Path) -> None:
    """Read, check and decompress every chunk, into memory used again."""
    room = np.empty(64 << 20, np.uint8)
    for path in sorted(store.glob("*/*/c.*")):
        data = path.read_bytes()
        body = memoryview(data)[:-4]
        assert crc32c(body) == int.from_bytes(data[-4:], "little")
        nbytes = int.from_bytes(data[4:8], "little")
        numcodecs.blosc.decompress(body, room[:nbytes])


def verify(store: Path) -> None:
    """All of `prep verify`."""
    summary = run_verify(LocalFiles(store), PlainReporter(_discard), VerifyOptions())
    assert summary.exit_code == 0


def in_turn(contenders: dict[str, Callable[[], None]], rounds: int) -> dict[str, Any]:
    """Median wall and CPU milliseconds of each, and of the ratios within a round."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for number in range(-1, rounds):
        for name in contenders if number % 2 else reversed(contenders):
            wall, cpu = time.perf_counter(), time.process_time()
            contenders[name]()
            if number >= 0:
                taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    result: dict[str, Any] = {}
    for name, rows in taken.items():
        result[name] = {
            figure: round(1e3 * statistics.median(row[i] for row in rows), 1)
            for i, figure in enumerate(("wall_ms", "cpu_ms"))
        }
    pairs = list(zip(taken["prep verify"], taken["bare loop"], strict=True))
    for i, figure in enumerate(("wall", "cpu")):
        ratio = statistics.median(mine[i] / bare[i] for mine, bare in pairs)
        result[f"{figure}_ratio"] = round(ratio, 2)
    return result


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.verify", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    facts = machine_facts()
    print(f"{facts['cpu']}, {facts['cores']} cores, load {facts['load']}, Python {facts['python']}")
    with tempfile.TemporaryDirectory(prefix="benchmark-verify-") as folder:
        raws, store = Path(folder) / "raws", Path(folder) / "data.zarr"
        raws.mkdir()
        write_night_raws(raws, [ARW2], images=options.images)
        run_ingest([str(raws)], str(store), Recipe(), IngestOptions(), PlainReporter(_discard))
        contenders = {
            "prep verify": lambda: verify(store),
            "bare loop": lambda: bare_loop(store),
        }
        result = in_turn(contenders, options.rounds)
    for name in contenders:
        print(
            f"{name:12}{result[name]['wall_ms']:9.1f} ms wall{result[name]['cpu_ms']:9.1f} ms CPU"
        )
    print(f"verify over the loop: {result['wall_ratio']:.2f} wall, {result['cpu_ratio']:.2f} CPU")
    if options.json:
        write_json(options.json, {"machine": facts, **result})


if __name__ == "__main__":
    main()
