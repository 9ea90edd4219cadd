"""The process that reads crafted files: ``python -m tests.torture.damage.child FOLDER SHARE SEED``.

Its memory is limited, chunks lie against a page that may not be touched, and every file it opens is
looked at. It writes its rows to ``FOLDER/rows.jsonl``, and what it is doing to ``FOLDER/doing``.
"""

from __future__ import annotations

import json
import os
import re
import resource
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from crc32c import crc32c

from genisp_model.data import StoreDataset
from pipeline.errors import DamagedStoreError, GenispError
from pipeline.store import open_store
from pipeline.store.chunk.encode import encode_chunk
from pipeline.store.chunk.fast_decode import decode_codes, work_size
from pipeline.store.chunk.format import chunk_crc, decode_chunk
from schemas.recipe import Codec, LevelName
from tests.kit.fenced_memory import Fenced
from tests.kit.known_store import Faults, KnownStore, Rng, Verdict
from tests.kit.stored import sealed
from tests.torture.campaign import FaultRow, Scale
from tests.torture.damage.forged import believable_edits, crafted_lists, crafted_sidecars
from tests.torture.damage.judging import part

#: Address space beyond what is used when the campaign begins, bytes; absurd records ask for more.
_ROOM = 1 << 30
#: More resident memory than at the beginning, bytes, whatever the records say.
_GROWTH = 256 << 20
_HEADER = struct.Struct("<4B3I")
_LEVELS: tuple[LevelName, ...] = ("packed", "resized")
#: What a mend asks to be deleted.
_DELETE = re.compile(r"delete (\S+), then run prep ingest")


def main(folder: Path, scale: Scale) -> None:
    """All rows, each written when it is finished."""
    known = KnownStore.make(folder / "bench")
    watch = _Watch(known)
    watch.warm_up()
    before = _resident()
    limit = _address_space() + _ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with (folder / "rows.jsonl").open("w") as out:
        for row in (
            _chunks(scale, folder),
            _chunks_in_stores(known, scale, watch),
            _sidecars(known, scale, watch),
            _lists(known, scale, watch),
            _told_mends(known, scale),
        ):
            if _resident() - before > _GROWTH:
                row.miss(f"memory grew by {(_resident() - before) >> 20} MiB")
            out.write(json.dumps(asdict(row)) + "\n")
            out.flush()


def _resident() -> int:
    """The most memory this process ever held, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


# Chunks ------------------------------------------------------------------------------------------


def _image(shape: tuple[int, int, int], spread: int, rng: Rng) -> npt.NDArray[np.uint16]:
    return (9000 + rng.integers(0, spread, shape)).astype(np.uint16)


def resealed(body: bytes) -> bytes:
    """A chunk of these compressed bytes, with the checksum that fits."""
    return body + struct.pack("<I", crc32c(body))


def crafted_chunks(chunk: bytes, rng: Rng, count: int) -> Iterator[tuple[str, bytes]]:
    """Chunks with another header or body, all with a checksum that fits."""
    body = chunk[:-4]
    fields = list(_HEADER.unpack_from(body))
    nbytes, blocksize, cbytes = fields[4:]
    limits = (0, 1, 2, 15, 16, 17, 2**31 - 1, 2**31, 2**32 - 1)
    values: dict[int, set[int]] = {
        0: set(range(256)),
        1: {0, 2, 3, 255},
        2: set(range(256)),
        3: set(range(256)),
        4: {*limits, nbytes - 2, nbytes - 1, nbytes + 1, nbytes + 2, 2 * nbytes},
        5: {*limits, 3, blocksize - 1, blocksize + 1, blocksize // 2, nbytes, nbytes + 1, 7, 4094},
        6: {*limits, cbytes - 1, cbytes + 1, cbytes + 4, cbytes + 5000, cbytes - 100, nbytes},
    }
    crafted = [
        (f"field {field} of the header = {value}", [*fields[:field], value, *fields[field + 1 :]])
        for field, options in values.items()
        for value in sorted(options - {fields[field]})
        if value >= 0
    ]
    for index in rng.choice(len(crafted), min(count // 2, len(crafted)), replace=False).tolist():
        words, header = crafted[index]
        yield words, resealed(_HEADER.pack(*header) + body[_HEADER.size :])
    for number in range(count - count // 2):
        yield f"body {number}", resealed(_crafted_body(body, rng))


def _crafted_body(body: bytes, rng: Rng) -> bytes:
    """Other bytes behind the header; half of the time the header follows the new length."""
    head, data = bytearray(body[: _HEADER.size]), bytearray(body[_HEADER.size :])
    kind = int(rng.integers(6))
    if kind == 0:  # where blocks begin, and how long the streams in them are
        at = 4 * int(rng.integers(min(8, len(data) // 4)))
        word = rng.choice([0, 1, 15, 16, 2**31 - 1, 2**31, 2**32 - 1, len(body), len(body) - 3])
        data[at : at + 4] = struct.pack("<I", int(word))
    elif kind == 1:
        for _ in range(int(rng.integers(1, 9))):
            data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        start = int(rng.integers(len(data)))
        length = min(int(rng.integers(1, 64)), len(data) - start)
        data[start : start + length] = rng.bytes(length)
    elif kind == 3:
        data = data[: int(rng.integers(len(data)))]
    elif kind == 4:
        data += rng.bytes(int(rng.integers(1, 400)))
    else:
        data[:] = rng.choice([0, 255]).astype(np.uint8).tobytes() * len(data)
    if rng.integers(2):
        head[12:16] = struct.pack("<I", len(head) + len(data))
    return bytes(head + data)


def _chunks(scale: Scale, folder: Path) -> FaultRow:
    """Both decoders on fenced memory: an error of ours, or the same array from both."""
    row = FaultRow("crafted chunks with a checksum that fits")
    rng = scale.random(row.fault)
    codecs: tuple[Codec, ...] = ("lz4", "zstd")
    for codec in codecs:
        for shape, spread in (((3, 16, 24), 300), ((3, 16, 24), 56000), ((3, 300, 400), 40)):
            chunk = bytes(encode_chunk(_image(shape, spread, rng), codec))
            source, target = Fenced(2 * len(chunk)), Fenced(2 * int(np.prod(shape)))
            room = Fenced(work_size(target.nbytes))
            out = target.array(2 * int(np.prod(shape))).view(np.uint16).reshape(shape)
            work = room.array(work_size(out.nbytes))
            for words, crafted in crafted_chunks(chunk, rng, scale.count(400, least=8)):
                what = f"{codec} {shape} spread {spread}, {words}, seed {scale.seed}"
                (folder / "doing").write_text(what)
                crc = chunk_crc(crafted)

                def plain(view: memoryview) -> npt.NDArray[np.uint16]:
                    return decode_chunk(view, shape, crc, path="p", out=out)  # noqa: B023

                def fast(view: memoryview) -> npt.NDArray[np.uint16]:
                    decode_codes(view, shape, crc, path="p", work=work, out=out)  # noqa: B023
                    return out  # noqa: B023

                results = [_decoded(one, source.holding(crafted)) for one in (plain, fast)]
                _judge_chunk(row, what, *results)
    return row


def _decoded(
    decode: Callable[[memoryview], npt.NDArray[np.uint16]], view: memoryview
) -> bytes | Exception:
    try:
        return decode(view).tobytes()
    except Exception as error:  # judged by the caller
        return error


def _judge_chunk(
    row: FaultRow, what: str, plain: bytes | Exception, fast: bytes | Exception
) -> None:
    ours = [isinstance(one, DamagedStoreError) and bool(one.mend) for one in (plain, fast)]
    if all(ours):
        row.record(caught=True, what=what)
    elif isinstance(plain, bytes) and plain == fast:
        # Other pixels than before, but those that these bytes say.
        row.record(harmless=True, what=what)
    else:
        told = [
            f"{len(one)} bytes" if isinstance(one, bytes) else repr(one) for one in (plain, fast)
        ]
        row.miss(f"{what}: {' and '.join(told)}")


# Stores ------------------------------------------------------------------------------------------


class _Watch:
    """Reads a store in every way, and notes files opened beside it."""

    def __init__(self, known: KnownStore) -> None:
        self.known = known
        self.outside: list[str] = []
        self._base = str(known.root.parent.resolve())
        self._inside = (str(known.root.resolve()), str(known.sources.resolve()))
        # What a name that leads out of the store would find.
        stranger = known.root.parent / "stranger" / "sidecars"
        stranger.mkdir(parents=True)
        (stranger / "x.json").write_bytes(b"secret")
        (known.root.parent / "sidecars").mkdir()
        (known.root.parent / "sidecars" / "x.json").write_bytes(b"secret")
        sys.addaudithook(self._opened)

    def _opened(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("open", "os.remove", "os.rename") and isinstance(
            arguments[0], str | os.PathLike
        ):
            path = os.path.abspath(os.fspath(arguments[0]))
            if path.startswith(self._base) and not path.startswith(self._inside):
                self.outside.append(f"{event} {path}")

    def warm_up(self) -> None:
        """Import and compile everything before memory is limited."""
        for level in _LEVELS:
            _ = [
                open_store(self.known.root).read(one, level) for one in open_store(self.known.root)
            ]
            _ = list(StoreDataset(self.known.root, level=level))

    def read_all(self, faults: Faults) -> tuple[Verdict, list[str]]:
        """Do damage, verify, read everything; the verdict, and what is no clean outcome."""
        self.outside.clear()
        self.known.apply(faults)
        verdict = self.known.verify()
        problems = [verdict.crash] if verdict.crash else []
        for level in _LEVELS:
            for name, read in (("store", self._store), ("dataset", self._dataset)):
                try:
                    read(level)
                except GenispError as error:
                    if not error.mend:
                        problems.append(f"{name}: no mend in {error}")
                except Exception as error:  # what a campaign looks for
                    problems.append(f"{name}: {type(error).__name__}: {str(error)[:200]}")
        self.known.restore()
        return verdict, problems + self.outside

    def _store(self, level: LevelName) -> None:
        store = open_store(self.known.root)
        first: GenispError | None = None
        for sample_id in store:
            try:
                sample = store.read(sample_id, level)
                _ = sample.xyz, sample.boxes, sample.labels
            except GenispError as error:
                first = first or error
        if first is not None:
            raise first

    def _dataset(self, level: LevelName) -> None:
        dataset = StoreDataset(self.known.root, level=level)
        first: GenispError | None = None
        for position in range(len(dataset)):
            try:
                _ = dataset[position]
            except GenispError as error:
                first = first or error
        if first is not None:
            raise first


def _judge(row: FaultRow, what: str, verdict: Verdict, problems: list[str], owner: str) -> None:
    if verdict.names({owner}) and not problems:
        row.record(caught=True, what=what)
    else:
        row.miss(f"{what}: {'; '.join(problems)} {str(verdict)[:600]}")


def _chunks_in_stores(known: KnownStore, scale: Scale, watch: _Watch) -> FaultRow:
    """Crafted chunks with a sidecar that records them: refused by every reader, named by verify."""
    row = FaultRow("crafted chunks, their size and checksum in the sidecar")
    rng = scale.random(row.fault)
    for number in range(scale.count(150, least=6)):
        what, faults = _crafted_in_store(known, rng, number)
        verdict, problems = watch.read_all(faults)
        owner = known.owner(next(iter(faults)))
        _judge(row, f"{what} (seed {scale.seed})", verdict, problems, owner)
    return row


def _crafted_in_store(known: KnownStore, rng: Rng, number: int) -> tuple[str, Faults]:
    """A crafted chunk and the sidecar that records it."""
    key = str(rng.choice(known.chunk_keys))
    owner, level = known.owner(key), key.split("/")[1]
    recorded = next(one for one in known.sidecar_keys if known.owner(one) == owner)
    words, chunk = list(crafted_chunks(known.whole[key], rng, 2))[number % 2]
    document = known.document(recorded)
    document["levels"][level] |= {"nbytes": len(chunk), "crc32c": chunk_crc(chunk)}
    return f"{key} {words} (number {number})", {key: chunk, recorded: sealed(document)}


def _sidecars(known: KnownStore, scale: Scale, watch: _Watch) -> FaultRow:
    row = FaultRow("crafted sidecars with a digest that fits")
    rng = scale.random(row.fault)
    for key in (known.sidecar_keys[0], known.sidecar_keys[-1]):
        whole = known.document(key)
        crafted = list(crafted_sidecars(whole, 1 - min(whole["row"], 1)))
        for words, data in part(crafted, scale, rng, least=14):
            if data != known.whole[key]:
                verdict, problems = watch.read_all({key: data})
                _judge(row, f"{key}: {words}", verdict, problems, known.owner(key))
    return row


def _lists(known: KnownStore, scale: Scale, watch: _Watch) -> FaultRow:
    row = FaultRow("crafted manifests and metadata")
    crafted = list(crafted_lists(known))
    for words, key, data in part(crafted, scale, scale.random(row.fault), least=6):
        verdict, problems = watch.read_all({key: data})
        known.apply({key: data})
        known.ingest()
        problems += [known.differences()] if known.differences() else []
        known.restore()
        _judge(row, f"{key}: {words}", verdict, problems, key)
    return row


def _told_mends(known: KnownStore, scale: Scale) -> FaultRow:
    """Crafted files again, and exactly what `prep verify` says is to be done about them."""
    row = FaultRow("crafted or edited files, mended as prep verify says")
    rng = scale.random(row.fault)
    faults: list[tuple[str, Faults]] = []
    for key in (known.sidecar_keys[0], known.sidecar_keys[-1]):
        whole = known.document(key)
        crafted = dict(crafted_sidecars(whole, 1 - min(whole["row"], 1)))
        crafted |= {words: sealed(document) for words, document in believable_edits(whole).items()}
        faults += [(f"{key}: {words}", {key: data}) for words, data in crafted.items()]
    faults += [_crafted_in_store(known, rng, number) for number in range(60)]
    chosen = [faults[index] for index in rng.choice(len(faults), 200, replace=False).tolist()]
    for what, files in part(chosen, scale, rng, least=8):
        known.apply(files)
        before = known.verify()
        for told in (_DELETE.search(finding.mend) for finding in before.errors):
            if told is not None:
                (known.root / told[1]).unlink(missing_ok=True)
        known.ingest()
        left, after = known.differences(), known.verify(strict=True)
        if before.exit_code == 4 and not left and after.exit_code == 0:
            row.record(caught=True, what=what)
            known.restore()
        elif files.items() <= known.whole.items():
            known.restore()  # it was nothing: the number that is there anyway
        else:
            row.miss(f"{what}: {left} before {str(before)[:400]} after {str(after)[:400]}")
            known.reset()
    return row


if __name__ == "__main__":
    main(Path(sys.argv[1]), Scale(float(sys.argv[2]), int(sys.argv[3])))
