"""Images a second of the streaming loader, beside what people stream images from otherwise.

    python -m benchmarks.peers [--images N] [--rounds R] [--only TEXT] [--json FILE]

`make bench-peers` makes an environment with all peers and runs this in it. A street by night is
photographed, ingested as a user would, and the ``resized`` level (800x1200) of those raws repeated
to N samples with boxes. Each peer gets the same codes, writes them as its documentation recommends
(`formats`) and reads them back: shuffled, batches of 2, torch tensors out.

Each peer has a process of its own, where it takes turns with two others, order reversed every
round: ``memmap``, a torch DataLoader without workers over one uncompressed array, and ``genisp``,
`StreamLoader` with two threads as training uses it: chunks checked (CRC-32C), decompressed, and
targets made. So every ratio is one of neighbours in time: the median over rounds. Two families:

- ``codes``: uint16 tensors, as stored. Ours is what the CPU does for a CUDA device.
- ``XYZ``: float32 tensors ready to train. Ours is what a CPU trains from; for the others, torch
  computes ``(codes - zero) * scale`` a batch at a time.

Before that, every epoch is compared with the images that were written. After it, bits are flipped
in a small set of the same format, one at a time: does a reader notice, or hand out wrong images?

Everything is in the page cache, nothing is done with a batch but dropping it. Wall time; worker
processes live as long as the peer lets them, and their start is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import distributions
from pathlib import Path
from shutil import copytree
from typing import Any, NamedTuple

import numpy as np
import torch
from crc32c import crc32c
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.kit.machine import PACKAGES, machine_facts, write_json
from benchmarks.kit.night_raws import night_store
from benchmarks.loader import CodesLoader, MemmapDataset, repeated, write_memmap
from benchmarks.peers.formats import (
    BATCH,
    LEVEL,
    Epoch,
    Images,
    Peer,
    disk_bytes,
    our_array,
    our_store,
    peers,
)
from genisp_model.data import StoreDataset
from genisp_model.data.loader import StreamLoader
from pipeline.store import Store, open_store
from pipeline.store.layouts import group_layout
from pipeline.store.zarr_metadata import zarr_documents
from schemas.layout import StoreLayout

RAWS = 4  # distinct
THREADS = 2
FLIPS = 8
FEW = 4  # images of the set whose bits are flipped
ALL, THIRD, FLIPPED = "all", "third", "flipped"  # sets of images
TIME_LIMIT = 300.0  # seconds for one peer
FAMILIES = ("codes", "XYZ")
OWN_ZARR = Path(sys.prefix) / "zarr2"  # where make bench-peers puts zarr 2 for zarrdataset
MEMMAP, OURS = "memmap", "genisp"


def ours(store: Path, family: str) -> Epoch:
    """Epochs of our loader, as training uses it."""
    kind = CodesLoader if family == "codes" else StreamLoader
    loader = kind(StoreDataset(store, level=LEVEL), batch_size=BATCH, threads=THREADS)
    return lambda: (batch.images for batch in loader)


def memmap(array: Path) -> Epoch:
    """The yardstick."""
    loader = DataLoader(MemmapDataset(array), BATCH, shuffle=True)
    return lambda: loader


def yardsticks() -> tuple[Peer, ...]:
    """The two that every peer is compared with, as peers.

    The memory map against itself shows what a ratio is worth; of both, flipped bits are measured.
    """
    return (
        Peer(MEMMAP, ("torch",), our_array, lambda path, _: memmap(path), (0,)),
        Peer(OURS, ("genisp",), our_store, lambda path, _: ours(path, "XYZ"), ()),
    )


class FixedPoint(NamedTuple):
    """``value = (code - zero) * scale``."""

    zero: float
    scale: float

    def values(self, stored: Tensor) -> Tensor:
        """XYZ of codes."""
        return stored.to(torch.float32).sub_(self.zero).mul_(self.scale)

    def epoch(self, read: Epoch) -> Epoch:
        """The same epochs in XYZ."""
        return lambda: map(self.values, read())


# Images


def prepare(folder: Path, count: int) -> None:
    """Stores and arrays beside them: `count` images, a third of them, and some to flip bits in."""
    store = night_store(folder, images=RAWS, levels=(LEVEL,))
    for name, images in ((ALL, count), (THIRD, max(FEW, count // 3)), (FLIPPED, FEW)):
        target = repeated(store, make(folder / name) / "data.zarr", LEVEL, images)
        _write_metadata(open_store(target))
        write_memmap(StoreDataset(target, level=LEVEL), folder / name / "codes.npy")


def make(folder: Path) -> Path:
    """A new folder."""
    folder.mkdir()
    return folder


def _write_metadata(store: Store) -> None:
    """zarr's own documents for all rows, for readers that go by them."""
    sidecars = [store.sidecar(sample_id) for sample_id in store]
    layout = StoreLayout(
        recipe=store.recipe,
        versions=store.versions,
        groups=(group_layout(sidecars[0], len(sidecars)),),
    )
    for key, document in zarr_documents(layout).items():
        store.files.put(key, document)


def images_of(folder: Path) -> Images:
    """What `prepare` wrote."""
    return Images(folder / "data.zarr", folder / "codes.npy")


def fixed_point(images: Images) -> FixedPoint:
    """Of the images, all alike."""
    index = StoreDataset(images.store, level=LEVEL).index
    return FixedPoint(float(index.zero_code[0]), float(index.scale_factor[0]))


# One peer, in a process of its own


def checksums(batches: Iterable[Tensor]) -> list[int]:
    """CRC-32C of every image of an epoch, sorted: the order is random."""
    found = []
    for batch in batches:
        if not isinstance(batch, Tensor) or batch.ndim != 4 or len(batch) > BATCH:
            raise ValueError(f"not a batch: {getattr(batch, 'shape', type(batch))}")
        found += [crc32c(image.contiguous().numpy()) for image in batch]
    return sorted(found)


def contenders(peer: Peer, images: Images, path: Path) -> dict[tuple[str, str], Epoch]:
    """Epochs by (reader, family); the peer's readers are called by their number of workers."""
    point = fixed_point(images)
    found = {(MEMMAP, "codes"): memmap(images.array)}
    found |= {(str(workers), "codes"): peer.read(path, workers) for workers in peer.workers}
    found |= {(name, "XYZ"): point.epoch(read) for (name, _), read in found.items()}
    return found | {(OURS, family): ours(images.store, family) for family in FAMILIES}


def require_equal(epochs: dict[tuple[str, str], Epoch], images: Images) -> None:
    """Compare an epoch of every contender with the images; end the process if one differs."""
    point, array = fixed_point(images), torch.from_numpy(np.array(images.codes()))
    truth = {"codes": checksums([a[None] for a in array])}
    truth["XYZ"] = checksums(point.values(a[None]) for a in array)
    for (name, family), epoch in epochs.items():
        if checksums(epoch()) != truth[family]:
            raise SystemExit(f"{name} {family}: not the images that were written")


Rates = dict[tuple[str, str], float]


def measure(epochs: dict[tuple[str, str], Epoch], rounds: int) -> list[Rates]:
    """Images a second, by round and contender. The comparison before it was the warm-up."""
    taken = []
    for number in range(rounds):
        rates: Rates = {}
        for name in list(epochs) if number % 2 else reversed(epochs):
            start, count = time.perf_counter(), 0
            for batch in epochs[name]():
                count += len(batch)
                del batch  # or it would live while the next one is made
            rates[name] = count / (time.perf_counter() - start)
        taken.append(rates)
    return taken


def row_of(rounds: list[Rates], name: str, family: str) -> dict[str, float]:
    """Median rate of one reader, and the medians of its ratios within a round."""
    ratios = {
        "images_per_s": [rates[name, family] for rates in rounds],
        "to_memmap": [rates[name, family] / rates[MEMMAP, family] for rates in rounds],
        "genisp_to_it": [rates[OURS, family] / rates[name, family] for rates in rounds],
    }
    return {title: round(statistics.median(values), 3) for title, values in ratios.items()}


def measured(peer: Peer, images: Images, folder: Path, rounds: int) -> dict[str, Any]:
    """Write, compare, time."""
    path = peer.write(images, folder)
    epochs = contenders(peer, images, path)
    require_equal(epochs, images)
    before = os.getloadavg()[0]
    taken = measure(epochs, rounds)
    names = dict.fromkeys(name for name, _ in epochs)
    return {
        "images": len(images.codes()),
        "load": [round(load, 2) for load in (before, os.getloadavg()[0])],
        "bytes": round(disk_bytes(path) / images.codes().nbytes, 3),
        "readers": {
            name: {family: row_of(taken, name, family) for family in FAMILIES} for name in names
        },
    }


def flipped(peer: Peer, images: Images, folder: Path) -> dict[str, int]:
    """Flip bits of what a peer reads, one at a time: "noticed" is an error, "silent" other images.

    A flip that changes nothing (padding, a file that is not read) does not count.
    """
    path = peer.write(images, folder)
    truth = checksums(peer.read(path, 0)())
    found, draw = {"noticed": 0, "silent": 0}, random.Random(1)
    for _ in range(3 * FLIPS):
        with _flipped_bit(_data_files(path), draw):
            try:
                seen = checksums(peer.read(path, 0)())
            except Exception:  # whatever a peer raises
                found["noticed"] += 1
            else:
                found["silent"] += seen != truth
        if sum(found.values()) == FLIPS:
            break
    return found


def _data_files(path: Path) -> list[Path]:
    """Files large enough to hold pixels."""
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    return [file for file in files if file.is_file() and file.stat().st_size > 1 << 20]


@contextmanager
def _flipped_bit(files: Sequence[Path], draw: random.Random) -> Iterator[None]:
    """One random bit of one of the files, the other way round while the context lasts."""
    file = draw.choices(files, [file.stat().st_size for file in files])[0]
    place, bit = draw.randrange(file.stat().st_size), 1 << draw.randrange(8)

    def flip() -> None:
        with file.open("r+b") as stream:
            stream.seek(place)
            (byte,) = stream.read(1)
            stream.seek(place)
            stream.write(bytes([byte ^ bit]))

    flip()
    try:
        yield
    finally:
        flip()


def child(options: argparse.Namespace) -> None:
    """Measure one peer and write the result; its own output goes where it likes."""
    (peer,) = [peer for peer in contestants() if peer.name == options.peer]
    images = images_of(options.prepared / (THIRD if peer.slow else ALL))
    with tempfile.TemporaryDirectory(dir=options.prepared) as name:
        result = measured(peer, images, Path(name), options.rounds)
    # Written before bits are flipped: that may end the process, or hang it.
    write_json(options.json, result)
    with tempfile.TemporaryDirectory(dir=options.prepared) as name:
        folder = Path(name)
        images = images_of(copytree(options.prepared / FLIPPED, folder / "images"))
        flips = flipped(peer, images, make(folder / "peer"))
    write_json(options.json, {**result, "flips": flips})


# All of them


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--images", type=int, default=96, help="samples (default 96)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default 5)")
    parser.add_argument("--only", default="", help="peers whose name contains this, or this|that")
    parser.add_argument("--json", type=Path, help="also write the results here")
    parser.add_argument("--torch-threads", type=int, help="OMP_NUM_THREADS of every process")
    parser.add_argument("--prepared", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        child(options)
        return
    facts = machine_facts((*PACKAGES, "torch"))
    print(f"{facts['cpu']}, {facts['cores']} cores, load {facts['load']}, Python {facts['python']}")
    with tempfile.TemporaryDirectory(prefix="benchmark-peers-") as name:
        prepare(Path(name), options.images)
        results = {}
        print(HEADER)
        for peer in contestants():
            if any(part in peer.name for part in options.only.split("|")):
                results[peer.name] = result = run_peer(peer, Path(name), options)
                print(*lines_of(peer, result), sep="\n", flush=True)
    print(*verdict(results), sep="\n")
    if options.json:
        settings = {"images": options.images, "rounds": options.rounds, "batch": BATCH}
        settings["torch_threads"] = options.torch_threads
        write_json(options.json, {"machine": facts, **settings, "peers": results})


def contestants() -> tuple[Peer, ...]:
    """Everything there is a row for."""
    return yardsticks() + peers()


def run_peer(peer: Peer, prepared: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one peer in a fresh process."""
    path = [str(OWN_ZARR)] if peer.own_zarr else sys.path
    found = {
        package: next((d.version for d in distributions(name=package, path=path)), None)
        for package in peer.packages
    }
    missing = [package for package, number in found.items() if number is None]
    if missing:
        return {"not installed": missing, "mend": peer.mend}
    return {"versions": found, **run_child(peer, prepared, options)}


def run_child(peer: Peer, prepared: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What `child` writes, or why it did not."""
    environment = {**os.environ, "TMPDIR": str(prepared)}  # LitData leaves folders in it
    if options.torch_threads:
        environment["OMP_NUM_THREADS"] = str(options.torch_threads)
    if peer.own_zarr:
        environment["PYTHONPATH"] = str(OWN_ZARR)
    result, log = prepared / "result.json", prepared / "log.txt"
    result.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.peers", "--peer", peer.name]
    command += ["--rounds", str(options.rounds), "--prepared", str(prepared), "--json", str(result)]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, env=environment, stdout=stream, stderr=stream, start_new_session=True
        )
        try:
            process.wait(TIME_LIMIT)
            reason = f"exit code {process.returncode}"
        except subprocess.TimeoutExpired:
            reason = f"hung ({TIME_LIMIT:.0f} s)"
        finally:
            if process.poll() is None:  # with its workers: out of time, or interrupted
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if not result.exists():
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        return {"failed": ": ".join([reason, *last])}
    return {"flips": {"failed": reason}, **json.loads(result.read_text())}


HEADER = (
    f"{'':42}{'codes (uint16)':^29}{'XYZ (float32)':^29}{'disk':>8}{'flipped bits':>14}\n"
    f"{'reader':34}{'workers':>8}"
    + 2 * f"{'img/s':>9}{'/ memmap':>10}{'genisp x':>10}"
    + f"{'/ raw':>8}{'noticed':>14}{'load':>7}"
)


def lines_of(peer: Peer, result: dict[str, Any]) -> Iterator[str]:
    """A peer's rows of the table."""
    if "not installed" in result:
        yield f"{peer.name:34}  not installed: {', '.join(result['not installed'])} ({peer.mend})"
    elif "failed" in result:
        yield f"{peer.name:34}  failed: {result['failed']}"
    else:
        flips = result["flips"]
        noticed = flips.get("failed") or f"{flips['noticed']} of {sum(flips.values())}"
        for workers, row in readers_of(peer, result):
            figures = "".join(
                f"{row[family]['images_per_s']:9.1f}{row[family]['to_memmap']:10.2f}"
                f"{row[family]['genisp_to_it']:10.2f}"
                for family in FAMILIES
            )
            share, load = f"{result['bytes']:8.1%}", f"{max(result['load']):7.1f}"
            yield f"{peer.name:34}{workers:>8}{figures}{share}{noticed:>14}{load}"


def readers_of(peer: Peer, result: dict[str, Any]) -> list[tuple[str, Any]]:
    """(workers, figures) of each of a peer's readers."""
    readers = result.get("readers", {})
    if peer.name == OURS:
        return [(f"T={THREADS}", readers[OURS])] if readers else []
    return [(workers, row) for workers, row in readers.items() if workers not in (MEMMAP, OURS)]


def verdict(results: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The peer that comes closest, by family."""
    for family in FAMILIES:
        ratios = [
            (row[family]["genisp_to_it"], f"{peer.name}, {workers} workers")
            for peer in peers()
            for workers, row in readers_of(peer, results.get(peer.name, {}))
        ]
        if ratios:
            ratio, name = min(ratios)
            yield f"{family}: closest is {name}; genisp reads {ratio:.2f} times its images/s"


if __name__ == "__main__":
    main()
