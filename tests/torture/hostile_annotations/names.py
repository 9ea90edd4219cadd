"""Names nobody should give: in annotation files, and on disk."""

from __future__ import annotations

import json
import os
import socket
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.safe_text import printable
from tests.kit.small_raws import LONG_AGO, SMALL_FRAME
from tests.torture.hostile_annotations.bench import (
    Result,
    Trial,
    Variant,
    coco,
    has_boxes,
    raw_like,
    write_coco,
    write_old,
)

Rng = np.random.Generator

#: Variants in one annotation file, or in one folder.
_TOGETHER = 24

# --- names in annotation files -------------------------------------------------------------------

_FOLDERS = (
    *("../", "../../../../../../../../", "..\\", "..\\..\\..\\", "a/../../", "./", "//", "/"),
    *("\\", "//server/share/", "\\\\server\\share\\", "\\\\?\\C:\\", "\\\\.\\", "C:\\", "C:/raws/"),
    *("/etc/", "/proc/self/", "~/", "~root/", "$HOME/", "%TEMP%\\", "file:///", "s3://bucket/"),
    *(
        "nod.zip!/",
        "..;/",
        ".../",
        "....//",
        "..%2f/",
        "\x00/",
        "\x1b[2J/",
        "\u202e/",
        " /",
        "-rf/",
    ),
    *("../outside/", "../stores/data.zarr/", "../stores/data.zarr/x_1x1/sidecars/", "CON/", "a:b/"),
)
_ODD = (
    *("CON.ARW", "nul.ARW", "Aux.x.ARW", "COM1.ARW", "lpt9.ARW", "zarr.ARW", "x.tmp-1.ARW"),
    *(
        "-rf.ARW",
        "--help.ARW",
        "@args.ARW",
        "*.ARW",
        "?.ARW",
        "[a-z].ARW",
        "{a,b}.ARW",
        "$(id).ARW",
    ),
    *("`id`.ARW", ";ls.ARW", "|x.ARW", "&.ARW", ">x.ARW", "a b.ARW", "'.ARW", '".ARW', "#.ARW"),
    *("%00.ARW", "%n%s%d.ARW", "{0.__class__}.ARW", "[red]x[/red].ARW", "[/].ARW", ":smile:.ARW"),
    *("a.ARW.ARW", "a.NEF.ARW", "a..ARW", "a...ARW", "~1.ARW", "a!b.ARW", "zip!.ARW", "C:a.ARW"),
    *(
        "é.ARW",
        "夜.ARW",
        "🌃.ARW",
        "\u202egnp.ARW",
        "a\u200eb.ARW",
        "\ufeffa.ARW",
        "ﬀ.ARW",
        "ß.ARW",
    ),
    *("İ.ARW", "e\u0301.ARW", "\u2028.ARW", "a\u00a0b.ARW", "x" * 251 + ".ARW", "\U000e0041.ARW"),
)
_NO_NAME = (
    *(
        "",
        ".",
        "..",
        "/",
        "\\",
        "a/",
        "a\\",
        "a/.",
        "a/..",
        "../..",
        " ",
        "   ",
        "C:\\",
        "//server/",
    ),
    *("x" * 252 + ".ARW", "é" * 130 + ".ARW", "x" * 10_000, "a/" * 5000 + "b.ARW", "é" * 10_000),
)
_OBEYED_BY_TERMINALS = (
    *("\x1b[2J", "\x1b[41m", "\x1b]0;owned\x07", "\x1b[6n", "\x9b2J", "\x9d0;x\x9c", "\r", "\n"),
    *("\nerror: forged: nothing\n  mend: none", "\x08\x08", "\x07", "\x7f", "\x00", "\t", "\x0b"),
    *("\x0c", "\x85", "\x90", "\x1bc", "\x1b(0"),
)
_BIDI = "\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u061c\u200f\u2029"


def names_with_folders(rng: Rng, count: int) -> list[Trial]:
    """``file_name`` with folders of every kind; the raw of that base name has the boxes."""
    return _named_records("folders", _mixed_folders(rng, count))


def odd_names(rng: Rng, count: int) -> list[Trial]:
    """``file_name`` that is legal and looks dangerous; the raw is there under that name."""
    chosen = [_ODD[n] for n in rng.permutation(len(_ODD))[:count]]
    letters = "aB09 .-_'\"$%&()[]{}~#é夜🌃\u202e\u0301"
    while len(chosen) < count:
        size = int(rng.integers(1, 30))
        stem = "".join(letters[n] for n in rng.integers(0, len(letters), size)).lstrip(".")
        chosen.append(f"n{stem}.ARW")
    chosen = list({_folded(name): name for name in chosen}.values())
    return _named_records("odd names", [(name, name) for name in chosen])


def names_for_terminals(rng: Rng, count: int) -> list[Trial]:
    """Names, ids and categories that a terminal would obey: shown escaped, or taken."""
    hostile = [*_OBEYED_BY_TERMINALS, *_BIDI]
    chosen = [hostile[n] for n in rng.permutation(len(hostile))]
    while len(chosen) < count:
        size = int(rng.integers(2, 6))
        chosen.append("".join(hostile[n] for n in rng.integers(0, len(hostile), size)))
    return [
        Trial(f"terminal {start}", _Terminal(chosen[start : start + _TOGETHER]))
        for start in range(0, len(chosen[:count]), _TOGETHER)
    ]


def names_of_nothing(rng: Rng, count: int) -> list[Trial]:
    """``file_name`` that names no file: each is reported by the image's id."""
    chosen: list[object] = [_NO_NAME[n] for n in rng.permutation(len(_NO_NAME))]
    chosen += [None, 7, True, ["a.ARW"], {"a": 1}, 1.5]
    while len(chosen) < count:
        control = chr(int(rng.choice([*range(32), 127, *range(128, 160)])))
        chosen.append(f"a{control}b.ARW")
    chosen = chosen[:count]

    def build(folder: Path) -> Sequence[Variant]:
        document = coco({})
        for number, name in enumerate(chosen):
            width, height = SMALL_FRAME
            record = {"id": f"no-{number}-", "file_name": name, "width": width, "height": height}
            document["images"].append(record)
        write_old(folder / "names_train.json", json.dumps(document).encode())
        return [
            Variant(f"file_name {str(name)[:60]!a} ({len(str(name))} characters)", (f"'no-{n}-'",))
            for n, name in enumerate(chosen)
        ]

    return [Trial("names of nothing", build)]


def _mixed_folders(rng: Rng, count: int) -> list[tuple[str, str]]:
    chosen = [_FOLDERS[n] for n in rng.permutation(len(_FOLDERS))]
    while len(chosen) < count:
        some = rng.integers(0, len(_FOLDERS), int(rng.integers(2, 6)))
        chosen.append("".join(_FOLDERS[n] for n in some))
    return [(f"{prefix}V{n:04d}.ARW", f"V{n:04d}.ARW") for n, prefix in enumerate(chosen[:count])]


def _named_records(what: str, pairs: Sequence[tuple[str, str]]) -> list[Trial]:
    """Trials of records (``file_name``, name of the raw they mean), each with a box of its own."""

    def builder(some: Sequence[tuple[str, str]]) -> Callable[[Path], Sequence[Variant]]:
        def build(folder: Path) -> Sequence[Variant]:
            expected = {name: [[1.0 + n / 8, 2.0, 9.0, 9.0]] for n, (name, _) in enumerate(some)}
            write_coco(folder / "names_train.json", expected)
            for _, raw in some:
                raw_like(folder / "Sony" / "DSC00001.ARW", folder / raw)
            return [
                Variant(f"file_name {name!a}", (), has_boxes(printable(raw), expected[name]))
                for name, raw in some
            ]

        return build

    return [
        Trial(f"{what} {start}", builder(pairs[start : start + _TOGETHER]))
        for start in range(0, len(pairs), _TOGETHER)
    ]


class _Terminal:
    """Records whose every text would be obeyed by a terminal, beside raws that fit or do not."""

    def __init__(self, payloads: Sequence[str]) -> None:
        self._payloads = payloads

    def __call__(self, folder: Path) -> Sequence[Variant]:
        document = coco({})
        variants = []
        for number, payload in enumerate(self._payloads):
            token = f"T{number:03d}"
            name = f"{token}{payload}.ARW"
            width, height = SMALL_FRAME
            image: dict[str, Any] = {"id": f"{token}{payload}", "file_name": name}
            document["images"].append(image | {"width": width, "height": height})
            # One box that is good but for its category, one that is none, one of no image.
            category = {"id": f"{token}{payload}", "name": f"{token}{payload}"}
            document["categories"].append(category)
            for box, image_id in (([1, 1, 9, 9], image["id"]), ("\x1b[2J", image["id"])):
                annotation = {"id": f"{token}{payload}", "image_id": image_id, "bbox": box}
                document["annotations"].append(annotation | {"category_id": category["id"]})
            orphan = {"id": 1, "image_id": f"none{payload}", "category_id": 1, "bbox": [1, 1, 9, 9]}
            document["annotations"].append(orphan)
            if "/" not in name and "\0" not in name:
                raw_like(folder / "Sony" / "DSC00001.ARW", folder / name)
            variants.append(Variant(f"texts with {payload!a}", (token,)))
        write_old(folder / "obeyed_train.json", json.dumps(document).encode())
        return variants


# --- names that differ little --------------------------------------------------------------------

_TWINS = (
    ("Ab.ARW", "aB.ARW"),
    ("IMG.ARW", "img.arw"),
    ("\u00e9.ARW", "e\u0301.ARW"),
    ("\u212b.ARW", "\u00c5.ARW"),
    ("stra\u00dfe.ARW", "strasse.ARW"),
    ("\ufb01.ARW", "fi.ARW"),
    ("a.ARW", "a.ARW "),
    ("x.ARW", "sub/x.ARW"),
    ("y.ARW", "sub\\y.ARW"),
    ("\u0130.ARW", "i\u0307.ARW"),
)


def twins(rng: Rng, count: int) -> list[Trial]:
    """Two names that a file system or a reader may take for one, with other or the same boxes."""
    trials = []
    for number in range(count):
        first, second = _TWINS[number % len(_TWINS)]
        same = bool(number // len(_TWINS) % 2)
        files = int(rng.integers(1, 3))
        trials.append(Trial(f"twins {first!a} {second!a}", _Twins(first, second, files, same=same)))
    return trials


class _Twins:
    def __init__(self, first: str, second: str, files: int, *, same: bool) -> None:
        self._names, self._files, self._same = (first, second), files, same

    def __call__(self, folder: Path) -> Sequence[Variant]:
        first, second = self._names
        one, other = [[1.0, 2.0, 9.0, 9.0]], [[5.0, 2.0, 8.0, 9.0]]
        boxes = {first: one, second: one if self._same else other}
        if self._files == 1:
            write_coco(folder / "twins_train.json", boxes)
        else:
            write_coco(folder / "twins_train.json", {first: one})
            write_coco(folder / "more_train.json", {second: boxes[second]})
        raws = []
        for name in self._names:
            path = folder / name.replace("\\", "/")
            raw_like(folder / "Sony" / "DSC00001.ARW", path)
            raws.append(printable(path.relative_to(folder).as_posix()))

        def judge(result: Result) -> str:
            # Whatever is stored has its own boxes, or is said to share them.
            for name, raw in zip(self._names, raws, strict=True):
                found = result.boxes(raw)
                if raw in result.sidecars and found not in (None, boxes[name]):
                    return f"{raw!a} has the boxes {found} without a word"
            ids = [sidecar["id"].casefold() for sidecar in result.sidecars.values()]
            return "" if len(set(ids)) == len(ids) else f"one id twice: {ids}"

        what = f"{first!a} beside {second!a}, {'the same' if self._same else 'other'} boxes"
        apart = len({Path(name.replace("\\", "/")).parent for name in self._names}) > 1
        sign = () if self._same or apart else ("disagree",)
        return [Variant(f"{what}, {self._files} annotation files", sign, judge)]


# --- names on disk -------------------------------------------------------------------------------


def names_on_disk(rng: Rng, count: int) -> list[Trial]:
    """Raws of every name a file system takes: each is ingested, under a safe id of its own."""
    fixed = [
        *(b"\xff.ARW", b"\xff\xfe.ARW", b"\xc3(.ARW", b"\xed\xa0\x80.ARW", b"a\nb.ARW", b"\r.ARW"),
        *(b"\x1b[2J.ARW", b"\x1b]0;x\x07.ARW", b"\xc2\x9b2J.ARW", b"\xe2\x80\xaegnp.ARW"),
        *(b"\\.ARW", b"a\\b.ARW", b"a\\..\\..\\up.ARW", b"\\xff.ARW", b"x" * 251 + b".ARW"),
        *(b"\xe5\xa4\x9c" * 83 + b".ARW", b" .ARW", b"a .ARW", b"a. .ARW", b"zarr.ARW"),
        *(b"x.tmp-7.ARW", b"zarr.json.ARW", b"nul.ARW", b"Con.x.ARW", b"case.ARW", b"CASE.ARW"),
        *(b"Case.ARW", b"e\xcc\x81.ARW", b"\xc3\xa9.ARW", b"!.ARW", b"a!.ARW", b"-rf.ARW"),
        *(b"\x7f.ARW", b"\x01\x02.ARW", b"\xe2\x80\xa8.ARW", b"\xef\xbb\xbf.ARW", b"%s%n.ARW"),
    ]
    chosen = [fixed[n] for n in rng.permutation(len(fixed))][:count]
    while len(chosen) < count:
        size = int(rng.integers(1, 40))
        letters = [b for b in range(1, 256) if b not in b"/."]
        chosen.append(bytes(rng.choice(letters, size).tolist()) + b".ARW")
    return [
        Trial(f"on disk {start}", _OnDisk(chosen[start : start + _TOGETHER]))
        for start in range(0, len(chosen), _TOGETHER)
    ]


class _OnDisk:
    def __init__(self, names: Sequence[bytes]) -> None:
        self._names = list(dict.fromkeys(names))

    def __call__(self, folder: Path) -> Sequence[Variant]:
        variants = []
        for name in self._names:
            text = os.fsdecode(name)
            raw_like(folder / "Sony" / "DSC00001.ARW", folder / text)
            variants.append(Variant(f"a raw called {name!r}", (), _ingested(printable(text))))
        return variants


def _ingested(label: str) -> Callable[[Result], str]:
    def judge(result: Result) -> str:
        # A name that only looks like another's escaped one is put into a folder of its own.
        found = [
            result.sidecars[name] for name in (label, f"~2/{label}") if name in result.sidecars
        ]
        ids = [sidecar["id"].casefold() for sidecar in result.sidecars.values()]
        if len(set(ids)) < len(ids):
            return f"one id twice: {ids}"
        return "" if found else f"{label!a} was not ingested"

    return judge


def things_on_disk() -> list[Trial]:
    """Pipes, sockets, devices, loops and folders where files are expected."""
    return [Trial("no files", _no_files), Trial("odd folders", _odd_folders)]


def _no_files(folder: Path) -> Iterator[Variant]:
    devices = (("null", "zero"), ("full", "random"), ("urandom", "tty"))
    for suffix, (idle, endless) in zip(("ARW", "json", "zip"), devices, strict=True):
        os.mkfifo(folder / f"pipe.{suffix}")
        yield Variant(f"a named pipe called pipe.{suffix}", (f"pipe.{suffix}", "found a pipe"))
        (folder / f"null.{suffix}").symlink_to(f"/dev/{idle}")
        yield Variant(f"null.{suffix}, a link to a device", (f"null.{suffix}", "device"))
        (folder / f"zero.{suffix}").symlink_to(f"/dev/{endless}")
        yield Variant(f"zero.{suffix}, a link to another device", (f"zero.{suffix}", "device"))
        (folder / f"loop.{suffix}").symlink_to(f"loop.{suffix}")
        yield Variant(f"loop.{suffix}, a link to itself", (f"loop.{suffix}", "leads nowhere"))
        (folder / f"gone.{suffix}").symlink_to(f"../nowhere/{suffix}")
        yield Variant(f"gone.{suffix}, a link to nothing", (f"gone.{suffix}", "leads nowhere"))
        (folder / f"\x1b[2J.{suffix}").symlink_to(f"\x1b[41m{suffix}")
        yield Variant(f"a link to nothing with escapes, .{suffix}", (f"\\x1b[2J.{suffix}",))
        (folder / f"folder.{suffix}").mkdir()
        yield Variant(f"folder.{suffix}, an empty folder", (), lambda _: "")
        write_old(folder / f"empty.{suffix}", b"")
        yield Variant(f"empty.{suffix}, without a byte", (f"empty.{suffix}",))
        write_old(folder / f".hidden.{suffix}", b"hidden")
        yield Variant(f".hidden.{suffix}", (), lambda _: "")
        write_old(folder / f"._apple.{suffix}", b"\0\5\x16\x07 resource fork")
        yield Variant(f"._apple.{suffix}, of macOS", (), lambda _: "")
        write_old(folder / f"text.{suffix}", b"hello")
        yield Variant(f"text.{suffix}, which is text", (f"text.{suffix}",))
        with (folder / f"huge.{suffix}").open("wb") as file:
            file.truncate(1 << 41)
        os.utime(folder / f"huge.{suffix}", (LONG_AGO, LONG_AGO))
        yield Variant(f"huge.{suffix}, two terabytes of nothing", (f"huge.{suffix}",))
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(folder, os.O_RDONLY)
        try:  # by a short name: a socket's path has room for 107 bytes
            listener.bind(f"/proc/self/fd/{here}/socket.ARW")
        finally:
            os.close(here)
    yield Variant("a socket called socket.ARW", ("socket.ARW", "socket"))
    write_old(folder / "box.ARW", json.dumps(coco({"a.ARW": [[1, 1, 2, 2]]})).encode())
    yield Variant("box.ARW, which is an annotation file", ("box.ARW",))


def _odd_folders(folder: Path) -> Iterator[Variant]:
    good = folder / "Sony" / "DSC00001.ARW"
    (folder / "up.ARW").symlink_to("..")
    yield Variant("up.ARW, a link to the folder above", (), lambda _: "")
    (folder / "self").symlink_to(".")
    yield Variant("a link to its own folder", (), lambda _: "")
    raw_like(good, folder / "dir.ARW" / "inside.ARW")
    yield Variant("a raw in a folder called dir.ARW", (), _ingested("dir.ARW/inside.ARW"))
    raw_like(good, folder / "x.zip!" / "like-a-member.ARW")
    yield Variant("a folder called x.zip!", (), _ingested("x.zip!/like-a-member.ARW"))
    raw_like(good, folder / "DATA.Zarr" / "in-a-store.ARW")
    yield Variant("a raw in a folder called DATA.Zarr", (), lambda _: "")
    raw_like(good, folder.parent / "outside" / "linked.ARW")
    (folder / "link.ARW").symlink_to("../outside/linked.ARW")
    yield Variant("a link to a raw outside", (), _ingested("link.ARW"))
    raw_like(good, folder / "\udcff" / "\x1b[2J" / "deep.ARW")
    yield Variant("folders with hostile names", (), _ingested("\\xff/\\x1b[2J/deep.ARW"))
    place = os.open(folder, os.O_RDONLY)
    for _ in range(24):  # longer than any path may be
        os.mkdir("d" * 240, dir_fd=place)
        inner = os.open("d" * 240, os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = inner
    os.link(good, "far.ARW", dst_dir_fd=place)
    os.close(place)
    yield Variant("folders in folders, longer than a path may be", ("File name too long",))


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
