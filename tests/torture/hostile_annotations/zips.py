"""Zip archives whose members escape, explode, or are not what and where they should be."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from warnings import catch_warnings, simplefilter

import numpy as np

from tests.torture.hostile_annotations.bench import Judge, Result, Trial, Variant, write_old

Rng = np.random.Generator

_TOGETHER = 24
_STORED, _DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
_END = b"PK\x05\x06"
_CENTRAL = b"PK\x01\x02"

#: Folders and names as members are given them; each is only ever a label.
_NAMES = (
    *("../up.ARW", "../../../../../../etc/up.ARW", "a/../../up.ARW", "/abs.ARW", "//srv/s/u.ARW"),
    *("C:\\win.ARW", "C:/win.ARW", "..\\..\\win.ARW", "\\\\srv\\share\\u.ARW", "\\\\?\\C:\\x.ARW"),
    *(
        "a\0b.ARW",
        "nul\0.txt.ARW",
        "\x1b[2J.ARW",
        "\x1b]0;x\x07.ARW",
        "line\nend.ARW",
        "\u202ex.ARW",
    ),
    *("nul.ARW", "con/aux.ARW", "zarr.json.ARW", "a.zip!/b.ARW", "!/x.ARW", "s3://b/x.ARW"),
    *("x" * 251 + ".ARW", "x" * 10_000 + ".ARW", "d/" * 5000 + "deep.ARW", "x" * 65_000 + ".ARW"),
    *("é.ARW", "e\u0301.ARW", "-rf.ARW", "$(id).ARW", "%s%n.ARW", "[red]x.ARW", " .ARW", "~/x.ARW"),
    *("./x.ARW", "a//b.ARW", "data.zarrs/x.ARW", "x..ARW", "\xff.ARW", "夜.ARW"),
)


def member_names(raw: Path, rng: Rng, count: int) -> list[Trial]:
    """Members of hostile names: each becomes a sample inside the store, or is named."""
    chosen = [_NAMES[n] for n in rng.permutation(len(_NAMES))]
    while len(chosen) < count:
        some = rng.integers(0, len(_NAMES) - 3, 2)
        chosen.append("".join(_NAMES[n][-120:].removesuffix(".ARW") for n in some) + ".ARW")

    def builder(names: Sequence[str]) -> Callable[[Path], Iterator[Variant]]:
        def build(folder: Path) -> Iterator[Variant]:
            for number, name in enumerate(names):
                archive = f"n{number:02d}.zip"
                data = _zip([(name, raw.read_bytes(), _STORED), ("plain.ARW", raw.read_bytes(), 0)])
                write_old(folder / archive, data)
                yield Variant(f"a member called {name[:60]!a}", (archive,), _gives(archive, 2))

        return build

    return [
        Trial(f"members {start}", builder(chosen[:count][start : start + _TOGETHER]))
        for start in range(0, len(chosen[:count]), _TOGETHER)
    ]


def broken_archives(raw: Path) -> list[Trial]:
    """Archives that lie about what they hold, are cut, or hold what cannot be unpacked."""

    def build(folder: Path) -> Iterator[Variant]:
        for number, (what, data, samples) in enumerate(_archives(raw.read_bytes())):
            archive = f"b{number:02d}.zip"
            write_old(folder / archive, data)
            yield Variant(what, (archive,), None if samples is None else _gives(archive, samples))

    return [Trial("archives", build, room=200 << 20)]


def bombs(raw: Path, share: float) -> Iterator[Trial]:
    """Members and tables of contents that would fill memory or disk; one a trial."""
    size = max(64 << 20, round((4 << 30) * share) - (16 << 20))
    count = max(1000, round(100_000 * share))
    for what, make in (
        (f"{size >> 20} MiB in a raw, declared", partial(_bomb, size=size, declared=size)),
        ("256 MiB in a raw, declared", partial(_bomb, size=1 << 28, declared=1 << 28)),
        (f"{size >> 20} MiB in a raw, declared as 20,000 bytes", partial(_bomb, size=size)),
        (f"{size >> 20} MiB in a COCO file", partial(_bomb, size=size, name="bomb_train.json")),
        (f"{size >> 20} MiB in a member of unknown size", partial(_bomb, size=size, loose=True)),
        (f"{count:,} members that are one", partial(_overlapping, count=count)),
        (f"{count:,} members without a byte", partial(_many, count=count)),
    ):
        yield _alone(what, make, raw)


def _alone(what: str, make: Callable[[bytes], bytes], raw: Path) -> Trial:
    def build(folder: Path) -> Sequence[Variant]:
        write_old(folder / "bomb.zip", make(raw.read_bytes()))
        return [Variant(what, ("bomb.zip",), _gives("bomb.zip", 1))]

    return Trial(what, build, room=256 << 20, seconds=120, thorough=False)


def _gives(archive: str, at_most: int) -> Judge:
    """A judge: no more samples than the archive holds raws, all of one camera's good pixels."""

    def judge(result: Result) -> str:
        own = [s for name, s in result.sidecars.items() if f"{archive}!/" in name]
        wrong = {one["source"]["sha256"] for one in own} - {_good_digest(result)}
        if wrong or len(own) > at_most:
            return f"{archive} gives {len(own)} samples, {len(wrong)} of other bytes"
        complete = len(own) == at_most or result.told(archive)
        return "" if complete else f"{archive} gives {len(own)} samples without a word"

    return judge


def _good_digest(result: Result) -> str:
    return str(result.sidecars["Sony/DSC00001.ARW"]["source"]["sha256"])


# --- making archives -----------------------------------------------------------------------------


def _zip(members: Sequence[tuple[str, bytes, int]], comment: bytes = b"") -> bytes:
    """An archive of (name, content, method); names as they are, NUL and all."""
    buffer = io.BytesIO()
    with catch_warnings(), zipfile.ZipFile(buffer, "w") as archive:
        simplefilter("ignore")  # that a name is there twice
        archive.comment = comment
        for name, data, method in members:
            info = zipfile.ZipInfo("x", (2020, 1, 1, 0, 0, 0))
            info.filename = name.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")
            info.compress_type = method
            archive.writestr(info, data)
    return buffer.getvalue()


def _patched(data: bytes, marker: bytes, offset: int, new: bytes, *, last: bool = False) -> bytes:
    """`data` with bytes behind a signature replaced."""
    at = (data.rfind(marker) if last else data.find(marker)) + offset
    return data[:at] + new + data[at + len(new) :]


def _archives(raw: bytes) -> Iterator[tuple[str, bytes, int | None]]:
    """(what it is, the archive, raws in it; None: it must be named)."""
    two = [("A.ARW", raw, _STORED), ("B.ARW", raw, _DEFLATED)]
    good = _zip(two)
    yield "a member twice", _zip([two[0], two[0]]), 2
    yield "case twins", _zip([("a.ARW", raw, 0), ("A.arw", raw, 0), ("A.ARW", raw, 0)]), 3
    yield "bytes in front", b"MZ" + b"\x90" * 3000 + good, 2
    yield "bytes behind", good + b"x" * 3000, 2
    yield "a comment of 64 kB", _zip(two, b"c" * 65_535), 2
    yield "a comment like an end", _zip(two, _END + b"\0" * 18), 2
    yield "two archives in one file", good + good, 2
    yield "an archive in an archive", _zip([*two, ("in.zip", good, 0)]), 2
    for share in (0.1, 0.3, 0.5, 0.9, 0.999):
        yield f"cut at {share:.1%}", good[: int(len(good) * share)], 2
    yield "its first half zeros", bytes(len(good) // 2) + good[len(good) // 2 :], None
    for what, offset, new in (
        ("flags: encrypted", 8, b"\1\0"),
        ("method deflate64", 10, b"\x09\0"),
        ("method bzip2", 10, b"\x0c\0"),
        ("method lzma", 10, b"\x0e\0"),
        ("method 77", 10, b"\x4d\0"),
        ("another CRC", 16, b"\1\2\3\4"),
        ("a packed size of 4 GB", 20, b"\xfe\xff\xff\xff"),
        ("a packed size of 3", 20, b"\3\0\0\0"),
        ("a size of 4 GB", 24, b"\xfe\xff\xff\xff"),
        ("a size of 3", 24, b"\3\0\0\0"),
        ("sizes in a zip64 field that is not there", 20, b"\xff" * 8),
        ("a name of 60 kB", 28, b"\x60\xea"),
        ("an extra field of 60 kB", 30, b"\x60\xea"),
        ("a comment of 60 kB", 32, b"\x60\xea"),
        ("a place behind the end", 42, b"\xff\xff\xff\x7f"),
        ("a place inside another member", 42, b"\x20\0\0\0"),
        ("no signature", 0, b"XXXX"),
        ("another name", 46, b"C.ARW"),
    ):
        yield f"table of contents: {what}", _patched(good, _CENTRAL, offset, new), 2
    yield "table of contents: an impossible time", _patched(good, _CENTRAL, 12, b"\xff" * 4), 2
    yield "local header: another name", _patched(good, b"PK\3\4", 30, b"C.ARW"), 2
    yield "local header: no signature", _patched(good, b"PK\3\4", 0, b"XXXX"), 2
    yield "local header: a name of 60 kB", _patched(good, b"PK\3\4", 26, b"\x60\xea"), 2
    for what, offset, new in (
        ("65,535 members", 10, b"\xff\xff"),
        ("a table of 4 GB", 12, b"\xff\xff\xff\xff"),
        ("a table at 4 GB", 16, b"\xfe\xff\xff\xff"),
        ("a table at 0", 16, b"\0\0\0\0"),
        ("disk 7", 4, b"\7\0"),
    ):
        yield f"end of archive: {what}", _patched(good, _END, offset, new, last=True), 2
    yield "a zip64 end that lies", _zip64_lie(good), 2
    yield "a flipped byte in a stored member", _patched(good, raw[:64], 4000, b"\xaa\x55"), None
    yield "a flipped byte in a deflated member", _flipped(good), None
    yield "only annotations", _zip([("x.json", b'{"images": [], "annotations": []}', 0)]), 0
    yield "without a member", _zip([]), 0
    yield "a symbolic link", _link("../../outside/keep.txt"), None
    yield "a link to a raw", _link("A.ARW"), None
    yield "a folder called x.ARW", _zip([("x.ARW/", b"", 0)]), 0
    yield "hidden members", _zip([(".x.ARW", raw, 0), ("__MACOSX/x.ARW", raw, 0)]), 0


def _zip64_lie(good: bytes) -> bytes:
    end = good.rfind(_END)
    record = b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 2**40, 2**40, 2**62, 2**61)
    locator = b"PK\6\7" + struct.pack("<IQI", 0, end, 1)
    return good[:end] + record + locator + good[end:]


def _flipped(good: bytes) -> bytes:
    at = good.rfind(b"PK\3\4") + 200
    return good[:at] + bytes([good[at] ^ 0xFF]) + good[at + 1 :]


def _link(target: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo("link.ARW", (2020, 1, 1, 0, 0, 0))
        info.create_system, info.external_attr = 3, 0o120777 << 16
        archive.writestr(info, target)
    return buffer.getvalue()


def _bomb(
    raw: bytes, *, size: int, declared: int = 20_000, name: str = "bomb.ARW", loose: bool = False
) -> bytes:
    """An archive of one member that unpacks to `size` bytes of zeros."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = bytes(1 << 24)
    packed = b"".join(packer.compress(block) for _ in range(size >> 24)) + packer.flush()
    flags, sizes = (8, (0, 0, 0)) if loose else (0, (0, len(packed), declared))
    fields = (20, flags, _DEFLATED, 0, 0x5021, *sizes, len(name), 0)  # on the 1st of January 2020
    local = b"PK\3\4" + struct.pack("<HHHHHIIIHH", *fields) + name.encode() + packed
    if loose:  # no table of contents, no descriptor: the end is found by unpacking
        return local + b"PK\1\2"
    central = struct.pack("<HHHHHHIIIHHHHHII", 20, *fields, 0, 0, 0, 0, 0)
    table = _CENTRAL + central + name.encode()
    return local + table + _END + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(table), len(local), 0)


def _overlapping(raw: bytes, *, count: int) -> bytes:
    """A table of contents that names one member's bytes again and again."""
    one = _zip([("A.ARW", raw, _STORED)])
    start, end = one.find(_CENTRAL), one.rfind(_END)
    entry = one[start:end]
    table = b"".join(entry.replace(b"A.ARW", b"%05d" % n) for n in range(count))
    number = min(count, 65_535)
    counts = struct.pack("<HHHHIIH", 0, 0, number, number, len(table), start, 0)
    return one[:start] + table + _END + counts


def _many(raw: bytes, *, count: int) -> bytes:
    return _zip([("empty.ARW", b"", _STORED), *((f"{n}.txt", b"", _STORED) for n in range(count))])
