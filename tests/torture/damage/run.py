"""Damage to a store: every kind that disks, copies, people and bugs do, to every kind of file.

Each fault is done to a store of five small samples, `prep verify` has to name exactly what was
damaged and the mend, and the mend has to bring every byte back. The trainer's reading meets the
same damage (`loader`), and what no disk does but a stranger might (`forged`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.store.keys import MANIFEST_NAME, METADATA_NAME, SIDECARS
from schemas.recipe import Recipe
from tests.kit.known_store import Damage, Faults, Folder, KnownStore, Link, Rng, flip
from tests.kit.stored import sealed
from tests.torture.campaign import FaultRow, Scale
from tests.torture.damage import forged, loader
from tests.torture.damage.judging import expect, mended, part

#: What blosc writes before the data, and the checksum behind them, bytes.
_HEADER, _TRAILER = 16, 4
_SECTOR, _BLOCK = 512, 4096


def run(scale: Scale, folder: Path) -> Iterator[FaultRow]:
    """All rows; at share 1 about six minutes of one idle core."""
    known = KnownStore.make(folder / "bench")
    yield from _flips(known, scale)
    yield from _one_file(known, scale)
    yield _replaced(known, scale)
    yield _misplaced(known, scale)
    yield _of_another_store(known, scale, folder / "other")
    yield _samples_removed(known)
    yield _manifest_edited(known, scale)
    yield _strays(known)
    yield _several(known, scale)
    yield from _mends(known, scale)
    yield from loader.run(known, scale, {"flipped": _flipped, **DAMAGES})
    yield from forged.run(known, scale, folder)


# Single bits -------------------------------------------------------------------------------------


def _flips(known: KnownStore, scale: Scale) -> Iterator[FaultRow]:
    """Every byte of one file of each kind and random ones of the others, one bit at a time."""
    chunks, sidecars = known.chunk_keys, known.sidecar_keys
    kinds: list[tuple[str, Sequence[str], Sequence[str], int]] = [
        ("a chunk", chunks, (chunks[0],), 600),
        ("a sidecar", sidecars, (sidecars[1],), 600),
        ("array or group metadata", known.metadata_keys, known.metadata_keys[:2], 300),
        ("the root metadata", (METADATA_NAME,), (METADATA_NAME,), 100),
        ("the manifest", (MANIFEST_NAME,), (MANIFEST_NAME,), 300),
    ]
    for kind, keys, thorough, number in kinds:
        row = FaultRow(f"one bit flipped in {kind}")
        rng = scale.random(row.fault)
        places = [_random_place(known, keys, rng) for _ in range(number)]
        for key in thorough:
            places += [(key, at, int(rng.integers(8))) for at in range(len(known.whole[key]))]
        if kind == "a chunk":
            # Blosc's header and the checksum: few bytes that random places seldom meet.
            ends = (*range(_HEADER), *range(-_TRAILER, 0))
            places += [(key, at, bit) for key in keys for at in ends for bit in range(8)]
        for key, at, bit in part(places, scale, rng):
            faults = {key: flip(known.whole[key], at, bit)}
            expect(known, row, f"bit {bit} of byte {at} of {key}", {known.owner(key)}, faults)
        yield row


def _random_place(known: KnownStore, keys: Sequence[str], rng: Rng) -> tuple[str, int, int]:
    key = str(rng.choice(keys))
    return key, int(rng.integers(len(known.whole[key]))), int(rng.integers(8))


# Other damage to one file ------------------------------------------------------------------------


def _cut(data: bytes, rng: Rng) -> bytes:
    lengths = (0, 1, len(data) // 2, len(data) - 1, int(rng.integers(len(data))))
    return data[: lengths[rng.integers(len(lengths))]]


def _longer(data: bytes, rng: Rng) -> bytes:
    more = (b"\0", b"\n", b" ", b"{}", data, rng.bytes(700), bytes(_BLOCK))
    return data + more[rng.integers(len(more))]


def _zero_tail(data: bytes, rng: Rng) -> bytes:
    """The end of the file never reached the disk: zeros from a sector on, or from anywhere."""
    starts = [len(data) - 1, len(data) // 2, int(rng.integers(len(data)))]
    starts += range(_SECTOR, len(data), _SECTOR)
    start = starts[rng.integers(len(starts))]
    return data[:start] + bytes(len(data) - start)


def _zeros(data: bytes, _: Rng) -> bytes:
    return bytes(len(data))


def _garbage(data: bytes, rng: Rng) -> bytes:
    """One sector of something else."""
    start = int(rng.integers(-(-len(data) // _SECTOR))) * _SECTOR
    end = min(start + _SECTOR, len(data))
    return data[:start] + rng.bytes(end - start) + data[end:]


def _shifted(data: bytes, rng: Rng) -> bytes:
    """A byte too many somewhere: everything behind it sits one place too far."""
    at = int(rng.integers(len(data)))
    return data[:at] + rng.bytes(1) + data[at:-1]


def _deleted(_data: bytes, _rng: Rng) -> None:
    return None


def _flipped(data: bytes, rng: Rng) -> bytes:
    return flip(data, int(rng.integers(len(data))), int(rng.integers(8)))


#: By the words of the table.
DAMAGES: dict[str, Damage] = {
    "cut short": _cut,
    "made longer": _longer,
    "ending in zeros": _zero_tail,
    "all zeros": _zeros,
    "with a sector of garbage": _garbage,
    "shifted by a byte": _shifted,
    "deleted": _deleted,
}


def _one_file(known: KnownStore, scale: Scale) -> Iterator[FaultRow]:
    for words, damage in DAMAGES.items():
        row = FaultRow(f"any file {words}")
        rng = scale.random(row.fault)
        rounds = 1 if damage in (_zeros, _deleted) else 10
        faults = [(key, damage(known.whole[key], rng)) for key in known.keys * rounds]
        for number, (key, damaged) in enumerate(part(faults, scale, rng, least=12)):
            if damaged != known.whole[key]:
                what = f"{key} {words} (number {number}, seed {scale.seed})"
                expect(known, row, what, {known.owner(key)}, {key: damaged})
        yield row


def _replaced(known: KnownStore, scale: Scale) -> FaultRow:
    """Something that is no file where a file should be."""
    row = FaultRow("any file replaced by a folder, a link astray, a device")
    stranger = known.root.parent / "stranger"
    stranger.write_bytes(b"something else")
    kinds: dict[str, Folder | Link] = {
        "an empty folder": Folder(),
        "a folder with files": Folder(("a.txt", "c.0.0.0.0")),
        "a link to nothing": Link("nowhere"),
        "a link to a folder": Link("."),
        "a link to a device without end": Link("/dev/zero"),
        "a link to another file": Link(str(stranger)),
    }
    if Path("/proc/self/mem").exists():
        # Reading it fails with "Input/output error", as a broken sector does.
        kinds["a file with a broken sector"] = Link("/proc/self/mem")
    faults = [(key, words) for key in known.keys for words in (*kinds, "a link to itself")]
    for key, words in part(faults, scale, scale.random(row.fault)):
        content = kinds.get(words, Link(Path(key).name))
        expect(known, row, f"{key} is {words}", {known.owner(key)}, {key: content})
    return row


# Whole files in the wrong place ------------------------------------------------------------------


def _misplaced(known: KnownStore, scale: Scale) -> FaultRow:
    """Every chunk with the content of every other, every sidecar too, and metadata likewise."""
    row = FaultRow("whole files in each other's place, or under another name")
    rng = scale.random(row.fault)
    pairs = [
        (key, other)
        for keys in (known.chunk_keys, known.sidecar_keys, [METADATA_NAME, *known.metadata_keys])
        for key in keys
        for other in keys
        if known.whole[key] != known.whole[other]
    ]
    for key, other in part(pairs, scale, rng):
        faults = {key: known.whole[other]}
        if rng.integers(2):
            faults[other] = known.whole[key]
        what = f"content of {other} in {key}{', and the other way round' * (len(faults) - 1)}"
        expect(known, row, what, {known.owner(one) for one in faults}, faults)
    for key in part(known.chunk_keys, scale, rng, least=2):
        twin = forged.same_size_twin(known.whole[key], known.levels[key].shape)
        what = f"{key}: a valid chunk of the same size, with other pixels"
        expect(known, row, what, {known.owner(key)}, {key: twin})
    for what, owners, faults in part(list(_renamed(known)), scale, rng, least=4):
        expect(known, row, what, owners, faults)
    return row


def _renamed(known: KnownStore) -> Iterator[tuple[str, set[str], Faults]]:
    for key in known.sidecar_keys:
        group, _, name = key.split("/")
        other_group = next(k for k in known.sidecar_keys if not k.startswith(group)).split("/")[0]
        content = known.whole[key]
        copy = f"{group}/{SIDECARS}/COPY.json"
        yield f"{key} copied to COPY.json", {f"{group}/COPY"}, {copy: content}
        for new in (copy, f"{group}/{SIDECARS}/{name.lower()}", f"{other_group}/{SIDECARS}/{name}"):
            named = new.replace(f"/{SIDECARS}/", "/").removesuffix(".json")
            yield f"{key} moved to {new}", {named, known.owner(key)}, {key: None, new: content}


def _of_another_store(known: KnownStore, scale: Scale, folder: Path) -> FaultRow:
    """Every file as another store has it: the same cameras and names, another recipe and raws."""
    row = FaultRow("files of another store")
    recipe = Recipe(fit=(20, 16), codec="zstd")
    other = KnownStore.make(folder, recipe, seed=6)
    for key in part(known.keys, scale, scale.random(row.fault), least=8):
        if known.whole[key] != other.whole[key]:
            faults = {key: other.whole[key]}
            expect(known, row, key, {known.owner(key)}, faults)
            mended(known, row, f"ingest after {key}", faults)
    return row


# Samples and lines that are gone, twice there, or strange ----------------------------------------


def _samples_removed(known: KnownStore) -> FaultRow:
    """A sample with all its files, or a whole group: only the manifest still knows them."""
    row = FaultRow("a whole sample removed, or all samples of a camera")
    samples = sorted(set(known.owners.values()))
    for prefix in (*samples, *sorted({owner.split("/")[0] for owner in samples})):
        gone = {key: None for key, owner in known.owners.items() if owner.startswith(prefix)}
        expect(known, row, prefix, {known.owner(key) for key in gone}, gone)
    for group in sorted({owner.split("/")[0] for owner in samples}):
        gone = {key: None for key in known.keys if key.startswith(f"{group}/")}
        expect(known, row, f"folder {group}", {known.owner(key) for key in gone}, gone)
    return row


def _manifest_edited(known: KnownStore, scale: Scale) -> FaultRow:
    """Lines removed, doubled or in another order, with the old digest and with one that fits."""
    row = FaultRow("manifest lines removed, doubled, reordered, changed")
    rng = scale.random(row.fault)
    edits = [*_without_digest(known, rng), *_with_digest(known)]
    for what, owner, data in part(edits, scale, rng):
        if data != known.whole[MANIFEST_NAME]:
            expect(known, row, what, {owner}, {MANIFEST_NAME: data})
    return row


def _without_digest(known: KnownStore, rng: Rng) -> Iterator[tuple[str, str, bytes]]:
    lines = known.whole[MANIFEST_NAME].splitlines(keepends=True)
    for index in range(len(lines)):
        orders = {
            f"line {index} removed": lines[:index] + lines[index + 1 :],
            f"line {index} doubled": lines[: index + 1] + lines[index:],
            f"line {index} first": [lines[index], *lines[:index], *lines[index + 1 :]],
            f"shuffled {index}": [lines[i] for i in rng.permutation(len(lines))],
        }
        for what, edited in orders.items():
            yield what, MANIFEST_NAME, b"".join(edited)


def _with_digest(known: KnownStore) -> Iterator[tuple[str, str, bytes]]:
    entries = known.entries()
    for index, entry in enumerate(entries):
        before, after = entries[:index], entries[index + 1 :]
        data = known.manifest([*before, entry, entry, *after])
        yield f"line {index} doubled under a digest that fits", MANIFEST_NAME, data
        if entry.status == "failed":
            continue
        for change in ({"row": 77}, {"split": "test"}, {"sidecar_digest": "sha256:0"}):
            data = known.manifest([*before, replace(entry, **change), *after])
            what = f"line {index} with {change} under a digest that fits"
            yield what, f"{entry.group}/{entry.id}", data


def _strays(known: KnownStore) -> FaultRow:
    """Files that belong to nobody: reported, and removed only if an ingest could have left them."""
    row = FaultRow("files that do not belong there")
    group = known.sidecar_keys[0].split("/")[0]
    left = (
        f"{group}/packed/c.9.0.0.0",
        f"{group}/resized/c.12.0.0.0",
        f"{group}/packed/.c.9.0.0.0.tmp-7",
        f"{group}/sidecars/.DSC_0550.json.tmp-7",
        ".zarr.json.tmp-99",
    )
    mine = (
        "notes.txt",
        f"{group}/packed/c.0.0.0.0.bak",
        f"{group}/packed/c.0.0.0.1",
        f"{group}/packed/c.copy",
        f"{group}/sidecars/c.9.0.0.0",
        "c.9.0.0.0",
        f"{group}/sidecars/old.json.txt",
        "other/notes.txt",
        "other/zarr.json",
        "other/packed/c.0.0.0.0",
        "notes/a.tmp-1.txt",
        ".work/thesis.tmp-final.txt",
        f"{group}/masks/c.9.0.0.0",
        f"{group}/.notes.txt.tmp-7",
        f"{group}/sidecars/my notes.json",
    )
    for key in (*left, *mine):
        known.apply({key: b"anything"})
        verdict = known.verify()
        told = {one.where for one in verdict.findings if one.code == "stray-file"}
        known.ingest()
        kept = (known.root / key).exists()
        known.restore()
        if verdict.exit_code == 0 and told == {key} and kept == (key in mine):
            row.record(caught=True, what=key)
        else:
            row.miss(f"{key}: kept {kept}, {verdict}")
    return row


# Several at once, and mending --------------------------------------------------------------------


def _random_faults(known: KnownStore, rng: Rng, count: int) -> tuple[str, dict[str, bytes | None]]:
    """Damage of random kinds to `count` different files, in words and as they are then."""
    kinds: dict[str, Damage] = {"flipped": _flipped, "misplaced": _other(known), **DAMAGES}
    told, faults = list[str](), dict[str, bytes | None]()
    for key in rng.choice(known.keys, count, replace=False).tolist():
        words = str(rng.choice(list(kinds)))
        damaged = kinds[words](known.whole[key], rng)
        if damaged == known.whole[key]:
            words, damaged = "first bit flipped", flip(known.whole[key], 0, 0)
        told.append(f"{key} {words}")
        faults[key] = damaged
    return ", ".join(told), faults


def _other(known: KnownStore) -> Damage:
    """The content of any other file."""
    return lambda _, rng: known.whole[str(rng.choice(known.keys))]


def _several(known: KnownStore, scale: Scale) -> FaultRow:
    """Two to five files at once: every one of them is named, and nothing that is whole."""
    row = FaultRow("two to five files damaged at once")
    rng = scale.random(row.fault)
    for number in range(scale.count(500, least=12)):
        told, faults = _random_faults(known, rng, int(rng.integers(2, 6)))
        known.apply(faults)
        verdict = known.verify()
        known.restore()
        what = f"number {number}, seed {scale.seed}: {told}"
        if verdict.exit_code == 4 and _all_named(known, faults, verdict.named):
            row.record(caught=True, what=what)
        else:
            row.miss(f"{what}: got {verdict}")
    return row


def _all_named(known: KnownStore, faults: Faults, named: set[str]) -> bool:
    owners = {known.owner(key) for key in faults}
    if {METADATA_NAME, MANIFEST_NAME} <= faults.keys():
        return bool(named)  # recipe and list are gone: all that can be said is that
    if MANIFEST_NAME in faults:
        # Nothing that is left knows of a sample whose sidecar is gone.
        gone = {known.owner(key) for key in known.sidecar_keys if faults.get(key, b"") is None}
        return named <= owners and owners - named <= gone
    return named == owners


def _mends(known: KnownStore, scale: Scale) -> Iterator[FaultRow]:
    """The same damage, four files at a time, and one ingest: every byte is as it was."""
    kinds: dict[str, Damage] = {
        "with a flipped bit": _flipped,
        "with the content of another": _other(known),
        **DAMAGES,
    }
    for words, damage in kinds.items():
        row = FaultRow(f"mended by prep ingest: files {words}")
        rng = scale.random(row.fault)
        for number in range(scale.count(60 if damage is _flipped else 15, least=2)):
            keys = rng.choice(known.keys, 4, replace=False).tolist()
            faults = {key: damage(known.whole[key], rng) for key in keys}
            faults = {key: data for key, data in faults.items() if data != known.whole[key]}
            what = f"number {number}, seed {scale.seed}: {', '.join(keys)}"
            mended(known, row, what, faults, count=len(faults))
        yield row
    row = FaultRow("mended by prep ingest: anything, two to five files at once")
    rng = scale.random(row.fault)
    for number in range(scale.count(80, least=4)):
        told, faults = _random_faults(known, rng, int(rng.integers(2, 6)))
        what = f"number {number}, seed {scale.seed}: {told}"
        mended(known, row, what, faults, count=len(faults))
    yield row
    row = FaultRow("mended by prep ingest: lists, rows, names, folders, links")
    for what, structural in _structural(known).items():
        mended(known, row, what, structural)
    yield row


def _structural(known: KnownStore) -> dict[str, Faults]:
    """Damage to what files are there and what they claim, in words and as it is done."""
    first, second, third, *_ = known.sidecar_keys
    group = first.split("/")[0]
    metadata = [METADATA_NAME, *known.metadata_keys]
    chunk = known.chunk_keys[3]

    def gone(*keys: str) -> Faults:
        return dict.fromkeys(keys)

    def row_of(key: str, row: int) -> Faults:
        return {key: sealed(known.document(key) | {"row": row})}

    def under(name: str) -> dict[str, bytes]:
        """All files of the first group, in a group of that name."""
        inside = [key for key in known.keys if key.startswith(f"{group}/")]
        return {name + key.removeprefix(group): known.whole[key] for key in inside}

    found: dict[str, Faults] = {
        "the second sidecar claims the first row": row_of(second, 0),
        "the first sidecar claims the second row": row_of(first, 1),
        "two sidecars exchange rows": {**row_of(first, 1), **row_of(second, 0)},
        "the third sidecar claims the second row": row_of(third, 1),
        "a sidecar claims a row nobody has": row_of(second, 40),
        "no metadata and no manifest": gone(*metadata, MANIFEST_NAME),
        "nothing but chunks and the root metadata": gone(
            *(set(known.keys) - set(known.chunk_keys) - {METADATA_NAME})
        ),
        "nothing but sidecars": gone(*(set(known.keys) - set(known.sidecar_keys))),
        "all sidecars gone": gone(*known.sidecar_keys),
        "all sidecars and the manifest gone": gone(*known.sidecar_keys, MANIFEST_NAME),
        "an empty manifest": {MANIFEST_NAME: known.manifest([])},
        "a copy of a group": under("copy_1x1"),
        "a group under another name": {
            **dict.fromkeys(key for key in known.keys if key.startswith(f"{group}/")),
            **under("other_1x1"),
        },
        "empty folders in place of files": dict.fromkeys(
            (first, chunk, METADATA_NAME, MANIFEST_NAME), Folder()
        ),
        "links to nothing in place of files": dict.fromkeys(
            (first, chunk, METADATA_NAME, MANIFEST_NAME), Link("nowhere")
        ),
        "files with a broken sector": dict.fromkeys(
            (first, chunk, METADATA_NAME, MANIFEST_NAME), Link("/proc/self/mem")
        ),
    }
    for owner in sorted(set(known.owners.values())):
        found[f"{owner} gone"] = gone(*(key for key in known.owners if known.owner(key) == owner))
    return found
