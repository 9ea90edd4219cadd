"""Coverage-guided fuzzing of what we parse ourselves.

``python -m tests.torture.hostile_raws.fuzz_parsers [--seconds S]``.

A finding is an exception that is none of ours, an input that takes more than two seconds, or one
for which memory grows by more than 500 MB. Inputs are grown from small real ones by atheris
(libFuzzer), which keeps those that reach new code; without atheris they are only mutated.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

from tests.kit.places import ROOT
from tests.torture.campaign import FaultRow, Scale

SECONDS_AN_INPUT = 2
MEGABYTES_MORE = 500

Parse = Callable[[bytes], None]
Mutate = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Target:
    """One parser.

    Attributes
    ----------
    modules
        Ours that do the parsing: atheris watches which of their lines are reached.
    parse
        Gives a function that parses one input; imports the modules.
    seeds
        Small good inputs; runs elsewhere than `parse`, because it imports everything.
    mutate
        Changes an input in ways its format has a meaning for; None: bytes only.
    longest
        Bytes of the longest input tried.
    """

    name: str
    modules: tuple[str, ...]
    parse: Callable[[Path], Parse]
    seeds: Callable[[Path], Iterator[bytes]]
    mutate: Mutate | None = None
    longest: int = 8192


# --- targets -------------------------------------------------------------------------------------


def _parse_tiff(_: Path) -> Parse:
    from pipeline.errors import CorruptRawError
    from pipeline.raw.tiff import check_extents, read_tiff

    def parse(data: bytes) -> None:
        try:
            facts = read_tiff(data, path="a.nef")
            if facts is not None:
                check_extents(facts, len(data), path="a.nef")
        except CorruptRawError as error:
            _require_words(error)

    return parse


def _seeds_tiff(_: Path) -> Iterator[bytes]:
    from tests.torture.hostile_raws.run import good_raws

    for seed in good_raws(22, 32, real=False):
        yield seed.data


def _parse_coco(_: Path) -> Parse:
    from pipeline.annotations.coco_file import load_coco, looks_like_coco
    from pipeline.annotations.index import build_index
    from pipeline.errors import AnnotationError

    def parse(data: bytes) -> None:
        looks_like_coco(data)
        try:
            index = build_index([load_coco(data, name="train.json")])
            for image in index.images:
                index.lookup(image.file_name)
        except AnnotationError as error:
            _require_words(error)

    return parse


def _seeds_coco(folder: Path) -> Iterator[bytes]:
    image = {"id": "DSC_1", "file_name": "DSC_1.NEF", "width": 60, "height": 40}
    other = {"id": 7, "file_name": "a/DSC_2.JPG", "width": 60, "height": 40, "license": 1}
    box = {"id": 0, "image_id": "DSC_1", "category_id": 1, "bbox": [1, 2, 10, 20], "area": 200}
    twin = box | {"id": 1, "iscrowd": 0, "isnoisy": True, "segmentation": []}
    names = [{"id": 1, "name": "person"}, {"id": 2, "name": "bicycle"}, {"id": 3, "name": "car"}]
    coco = {"images": [image, other], "annotations": [box, twin], "categories": names}
    yield json.dumps(coco).encode()
    yield json.dumps(coco | {"annotations": [box | {"image_id": 7, "bbox": [0, 0, 0, 0]}]}).encode()


def _parse_voc(_: Path) -> Parse:
    from pipeline.annotations.labels.voc_file import load_voc, looks_like_voc

    def parse(data: bytes) -> None:
        looks_like_voc(data)
        _require_one_image(load_voc(data, name="Annotations/A.xml"))

    return parse


def _seeds_voc(_: Path) -> Iterator[bytes]:
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>4</ymax></bndbox>"
    flags = "<difficult>1</difficult><truncated>0</truncated><occluded>maybe</occluded>"
    part = f"<part><name>head</name>{box}</part>"
    objects = f"<object><name>car</name>{flags}{box}{part}</object><object><name>a</name></object>"
    size = "<size><width>60</width><height>40</height></size>"
    whole = f"<annotation><filename>A.jpg</filename>{size}{objects}</annotation>"
    yield whole.encode()
    yield f"<!DOCTYPE a [<!ENTITY e 'x'>]>{whole.replace('car', '&e;')}".encode()
    yield f"<?xml version='1.0' encoding='utf-16'?>{whole}".encode("utf-16")


def _parse_yolo(_: Path) -> Parse:
    from pipeline.annotations.labels.class_names import ClassNames
    from pipeline.annotations.labels.yolo_file import load_yolo, looks_like_yolo

    sets = ClassNames(), ClassNames("classes.txt", {0: "a", 2: "b"}, keypoint_numbers=6)

    def parse(data: bytes) -> None:
        looks_like_yolo(data)
        for classes in sets:
            _require_one_image(load_yolo(data, name="labels/A.txt", classes=classes, split=None))

    return parse


def _seeds_yolo(_: Path) -> Iterator[bytes]:
    yield b"0 0.5 0.5 0.2 0.3\n2\t.25 2.5e-1 0.5 1\r\n"
    yield b"\xef\xbb\xbf0 0.1 0.2 0.5 0.2 0.3 0.8\n"
    yield b"0 0.5 0.5 0.2 0.3 0.1 0.1 2 0.9 0.9 0\n1 0.5 0.5 0.2 0.3 0.97\n"


def _parse_names(_: Path) -> Parse:
    from pipeline.annotations.labels.class_names import load_class_names
    from pipeline.errors import AnnotationError

    def parse(data: bytes) -> None:
        for name in ("data.yaml", "classes.txt"):
            try:
                load_class_names(data, name=name)
            except AnnotationError as error:
                _require_words(error)

    return parse


def _seeds_names(_: Path) -> Iterator[bytes]:
    yield b"path: ../a\ntrain: [images/a, b]\nval: val.txt\nnames:\n  0: person\n  '1': a b\n"
    yield b"names: [person, &a car]\nnc: 2\nkpt_shape: [17, 3]\nx: {a: !!int '1', b: 0x1f}\n"
    yield b"person\ntraffic light\n"


def _require_one_image(file: Any) -> None:
    """It has its image, in whatever frame; or says why not, and how that is mended."""
    from pipeline.annotations.columns import annotation_in
    from pipeline.annotations.index import build_index
    from pipeline.errors import AnnotationError

    if (len(file.images) == 1) == bool(file.refused):
        raise AssertionError("neither read nor refused")
    try:
        build_index([file])
        for image in (file.images.as_annotated(number) for number in range(len(file.images))):
            annotation_in(image, (60, 40))
    except AnnotationError as error:
        _require_words(error)
    for finding in file.refused.values():
        if not (finding.message and finding.mend):
            raise AssertionError(f"no reason or no mend: {finding!r}")


def _parse_zip(_: Path) -> Parse:
    import io

    import pipeline.sources.zip_archive
    from pipeline.errors import SourceError
    from pipeline.sources.zip_archive import list_members, read_member, read_member_start

    path = "fuzzed.zip"

    def parse(data: bytes) -> None:
        # A real file takes five times as long; a URL would have its exceptions explained away.
        setattr(pipeline.sources.zip_archive, "open_location", lambda _: io.BytesIO(data))  # noqa: B010
        try:
            listing = list_members(path)
        except SourceError as error:
            _require_words(error)
            return
        for member in listing.members[:20]:
            for read in (read_member, read_member_start):
                try:
                    read(path, member, 1 << 24)
                except SourceError as error:
                    _require_words(error)

    return parse


def _seeds_zip(folder: Path) -> Iterator[bytes]:
    import io
    import zipfile

    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        for streamed in (False, True):
            file = io.BytesIO()
            target: Any = _Unseekable(file) if streamed else file
            with zipfile.ZipFile(target, "w", method) as archive:
                archive.writestr("nod/DSC_1.NEF", b"II*\0" + bytes(40))
                archive.writestr("nod/train.json", b"{}", zipfile.ZIP_DEFLATED)
                with archive.open("big.ARW", "w", force_zip64=True) as member:
                    member.write(b"raw" * 9)
            whole = file.getvalue()
            yield whole
            yield whole[: len(whole) * 2 // 3]


class _Unseekable:
    """A pipe: zipfile then writes sizes behind each member."""

    def __init__(self, file: Any) -> None:
        self.write, self.flush = file.write, file.flush


def _parse_manifest(_: Path) -> Parse:
    from pipeline.errors import DamagedStoreError
    from pipeline.store.manifest import parse_manifest, read_header, sealed_header

    def parse(data: bytes) -> None:
        read_header(data)
        sealed_header(data)
        try:
            parse_manifest(data, path="manifest.jsonl")
        except DamagedStoreError as error:
            _require_words(error)

    return parse


def _parse_sidecar(folder: Path) -> Parse:
    from pipeline.errors import DamagedStoreError
    from pipeline.store.keys import sidecar_key
    from pipeline.store.samples import read_sidecar
    from tests.kit.memory_files import MemoryFiles

    files = MemoryFiles()

    def parse(data: bytes) -> None:
        group, name = "sony-dsc-rx100m7_1224x816", "DSC01088"
        files.held = {sidecar_key(group, name): data}
        try:
            read_sidecar(files, group, name)
        except DamagedStoreError as error:
            _require_words(error)

    return parse


def _parse_root(folder: Path) -> Parse:
    from pipeline.errors import StoreError
    from pipeline.store.header import read_root
    from tests.kit.memory_files import MemoryFiles

    files = MemoryFiles()

    def parse(data: bytes) -> None:
        files.held = {"zarr.json": data}
        try:
            read_root(files)
        except StoreError as error:
            _require_words(error)

    return parse


def _seeds_of_store(*patterns: str) -> Callable[[Path], Iterator[bytes]]:
    def seeds(folder: Path) -> Iterator[bytes]:
        from pipeline.ingest import IngestOptions, run_ingest
        from pipeline.sample_set import write_sample_set
        from schemas.recipe import Recipe
        from tests.kit.recorder import Recorder

        store = folder / "data.zarr"
        if not store.exists():
            write_sample_set(folder / "nod", images=2)
            run_ingest([str(folder / "nod")], str(store), Recipe(), IngestOptions(), Recorder())
        for pattern in patterns:
            for path in sorted(store.glob(pattern)):
                yield path.read_bytes()

    return seeds


# --- mutations that keep JSON JSON ---------------------------------------------------------------

_NUMBERS = (0, 1, -1, 0.5, -0.0, 1e308, 2**53, -(2**63), 2**64, 10**400, math.inf, math.nan)
_TEXTS = ("", "\ud800", "\0", "../x", "a" * 300, "NaN", "1e5", "é", "2020-01-01")
_VALUES: tuple[Any, ...] = (
    *_NUMBERS,
    *_TEXTS,
    None,
    True,
    [],
    {},
    [[]] * 3,
    [1, 2, 3, 4],
    {"id": 1},
)


def _mutated(value: Any, chance: random.Random) -> Any:
    """A JSON value with one change somewhere in it."""
    is_inner = isinstance(value, dict | list) and value
    if not is_inner or chance.random() < 0.1:
        return chance.choice(_VALUES)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = chance.choice(keys)
    copied: Any = dict(value) if isinstance(value, dict) else list(value)
    what = chance.random()
    if what < 0.1:
        del copied[key]
    elif what < 0.2 and isinstance(copied, list):
        copied.insert(key, chance.choice([*copied, *_VALUES]))
    elif what < 0.2:
        copied[chance.choice(["id", "digest", "x", "", str(key) + "_"])] = copied[key]
    elif what < 0.3:
        copied[key] = copied[chance.choice(keys)]
    elif what < 0.35:
        nested: Any = copied[key]
        for _ in range(chance.choice([1, 5, 50, 2000])):
            nested = [nested]
        copied[key] = nested
    else:
        copied[key] = _mutated(copied[key], chance)
    return copied


def mutate_json(data: bytes, chance: random.Random) -> bytes:
    """Change a value; a digest is made to fit again, so that what lies behind it is reached."""
    try:
        value = json.loads(data)
        value = _mutated(value, chance)
        if isinstance(value, dict) and "digest" in value and chance.random() < 0.8:
            rest = {name: part for name, part in value.items() if name != "digest"}
            text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
            value["digest"] = "sha256:" + hashlib.sha256(text.encode()).hexdigest()
        return json.dumps(value).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        return mutate_bytes(data, chance)


def mutate_lines(data: bytes, chance: random.Random) -> bytes:
    """Change one line of JSON, and make the footer's count and digest fit again."""
    lines = data.splitlines(keepends=True) or [b"\n"]
    place = chance.randrange(len(lines))
    lines[place] = mutate_json(lines[place], chance) + b"\n"
    if chance.random() < 0.2:
        lines.insert(chance.randrange(len(lines)), chance.choice(lines))
    body = b"".join(lines[:-1])
    if place != len(lines) - 1 and chance.random() < 0.9:
        digest = "sha256:" + hashlib.sha256(body).hexdigest()
        footer = {"entries": len(lines) - 2, "digest": digest}
        lines[-1] = json.dumps(footer, separators=(",", ":")).encode() + b"\n"
    return b"".join(lines)


def mutate_bytes(data: bytes, chance: random.Random) -> bytes:
    """Bits, bytes, numbers, and stretches of an input changed: all there is without atheris."""
    out = bytearray(data or b"\0")
    for _ in range(chance.choice([1, 1, 2, 4, 16])):
        at, what = chance.randrange(len(out)), chance.randrange(6)
        if what == 0:
            out[at] ^= 1 << chance.randrange(8)
        elif what == 1:
            out[at] = chance.choice([0, 1, 127, 128, 255])
        elif what == 2:
            length = chance.choice([1, 2, 4, 8, 64])
            del out[at : at + length]
            out += b"" if out else b"\0"
        elif what == 3:
            out[at:at] = chance.randbytes(chance.choice([1, 2, 4, 12]))
        elif what == 4:
            begin = chance.randrange(len(out))
            out[at:at] = out[begin : begin + chance.choice([2, 4, 12, 64])]
        else:
            order = chance.choice(["little", "big"])
            number = chance.choice([0, 1, 8, 255, 4096, 65535, 2**31, 2**32 - 1, len(out)])
            out[at : at + 4] = number.to_bytes(4, order)  # type: ignore[arg-type]
    return bytes(out)


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("tiff", ("pipeline.raw.tiff", "pipeline.raw.tiff_reader"), _parse_tiff, _seeds_tiff),
        Target(
            "coco",
            (
                "pipeline.annotations.coco_file",
                "pipeline.annotations.boxes",
                "pipeline.annotations.index",
                "schemas.coco",
            ),
            _parse_coco,
            _seeds_coco,
            mutate_json,
        ),
        Target("voc", ("pipeline.annotations.labels.voc_file",), _parse_voc, _seeds_voc),
        Target("yolo", ("pipeline.annotations.labels.yolo_file",), _parse_yolo, _seeds_yolo),
        Target("names", ("pipeline.annotations.labels.class_names",), _parse_names, _seeds_names),
        Target(
            "zip",
            ("pipeline.sources.cut_zip", "pipeline.sources.zip_archive", "zipfile"),
            _parse_zip,
            _seeds_zip,
        ),
        Target(
            "manifest",
            ("pipeline.store.manifest", "schemas.manifest"),
            _parse_manifest,
            _seeds_of_store("manifest.jsonl"),
            mutate_lines,
        ),
        Target(
            "sidecar",
            ("pipeline.store.samples", "schemas.sidecar", "schemas.coco"),
            _parse_sidecar,
            _seeds_of_store("*/sidecars/DSC01088.json"),
            mutate_json,
            longest=32_768,
        ),
        Target(
            "root",
            ("pipeline.store.header", "schemas.recipe", "schemas.manifest"),
            _parse_root,
            _seeds_of_store("zarr.json"),
            mutate_json,
            longest=32_768,
        ),
    )
}


def _require_words(error: Exception) -> None:
    """An error of ours says what is wrong and how to mend it."""
    if not (getattr(error, "message", "") and getattr(error, "mend", "")):
        raise AssertionError(f"no reason or no mend: {error!r}") from error


# --- one target in a child -----------------------------------------------------------------------


@dataclass(frozen=True)
class Fuzzed:
    """What came of one target.

    Attributes
    ----------
    inputs
        How many were tried.
    findings
        What went wrong, in words, with the input's file.
    guided
        Whether atheris chose the inputs.
    """

    target: str
    inputs: int
    findings: tuple[str, ...]
    guided: bool


def fuzz(target: Target, folder: Path, *, seed: int, inputs: int = 0, seconds: int = 0) -> Fuzzed:
    """Fuzz one target in a child process.

    Parameters
    ----------
    folder
        Empty; the corpus and what was found stay in it.
    inputs, seconds
        Ends after so many inputs or seconds, whichever is given.
    """
    corpus, found = folder / "corpus", folder / "found"
    for made in (corpus, found, folder / "work"):
        made.mkdir(parents=True)
    for number, data in enumerate(target.seeds(folder / "work")):
        (corpus / f"seed-{number}").write_bytes(data)
    guided = find_spec("atheris") is not None
    command = [
        sys.executable,
        "-m",
        "tests.torture.hostile_raws.fuzz_parsers",
        "--child",
        target.name,
    ]
    command += ["--folder", str(folder.resolve()), "--seed", str(seed)]
    command += ["--inputs", str(inputs), "--seconds", str(seconds)]
    patience = 120 + 2 * seconds + inputs // 20
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=patience)
    except subprocess.TimeoutExpired:
        return Fuzzed(target.name, inputs, (f"the fuzzer hung ({folder})",), guided)
    told = done.stdout + done.stderr
    tried = re.findall(r"number_of_executed_units: (\d+)", told)
    findings = [f"{path.name.split('-')[0]}: {path}" for path in sorted(found.iterdir())]
    if done.returncode and not findings:
        findings = [f"the fuzzer ended with {done.returncode}: {told[-600:]}"]
    if findings:
        last = re.findall(r"^[\w.]*(?:[Ee]rror|Exception)\b.*", told, re.MULTILINE)
        findings[0] += f" ({'; '.join(last[-2:])})" if last else ""
    return Fuzzed(target.name, int(tried[-1]) if tried else 0, tuple(findings), guided)


def _child(options: argparse.Namespace) -> None:
    target = TARGETS[options.child]
    guide = _with_atheris if find_spec("atheris") is not None else _without
    guide(target, options)


def _with_atheris(target: Target, options: argparse.Namespace) -> None:
    import atheris

    with atheris.instrument_imports(include=list(target.modules)):
        parse = target.parse(options.folder / "work")

    def custom(data: bytes, longest: int, seed: int) -> bytes:
        chance = random.Random(seed)
        if target.mutate is None or chance.random() < 0.3:
            return bytes(atheris.Mutate(data, longest))
        return target.mutate(bytes(data), chance)[:longest]

    arguments = [
        sys.argv[0],
        f"-seed={options.seed + 1}",  # 0 would be a new one each time
        f"-timeout={SECONDS_AN_INPUT}",
        f"-rss_limit_mb={_resident() + MEGABYTES_MORE}",
        f"-max_len={target.longest}",
        f"-artifact_prefix={options.folder}/found/",
        "-print_final_stats=1",
        "-verbosity=0",
    ]
    if options.inputs:
        arguments.append(f"-runs={options.inputs}")
    if options.seconds:
        arguments.append(f"-max_total_time={options.seconds}")
    atheris.Setup([*arguments, f"{options.folder}/corpus"], parse, custom_mutator=custom)
    atheris.Fuzz()


def _without(target: Target, options: argparse.Namespace) -> None:
    parse = target.parse(options.folder / "work")
    corpus = [path.read_bytes() for path in sorted((options.folder / "corpus").iterdir())]
    chance = random.Random(options.seed)
    allowed = _resident() + MEGABYTES_MORE
    ends = time.monotonic() + (options.seconds or 1e9)
    tried = 0

    def ring(_: int, __: FrameType | None) -> None:
        raise TimeoutError(f"more than {SECONDS_AN_INPUT} s")

    signal.signal(signal.SIGALRM, ring)
    while time.monotonic() < ends and not (options.inputs and tried >= options.inputs):
        data = chance.choice(corpus)
        for _ in range(chance.choice([1, 1, 2, 3])):
            by_meaning = target.mutate is not None and chance.random() < 0.7
            change = target.mutate if by_meaning and target.mutate else mutate_bytes
            data = change(data, chance)[: target.longest]
        tried += 1
        signal.alarm(SECONDS_AN_INPUT)
        try:
            parse(data)
            if _resident() > allowed:
                raise MemoryError(f"more than {MEGABYTES_MORE} MB")
        except Exception:
            (options.folder / "found" / f"crash-{tried}").write_bytes(data)
            raise
        finally:
            signal.alarm(0)
    sys.stdout.write(f"stat::number_of_executed_units: {tried}\n")


def _resident() -> int:
    """Resident memory of this process at its peak, MB."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (1 << 20 if sys.platform == "darwin" else 1 << 10)


# --- campaigns and the command -------------------------------------------------------------------


def rows(scale: Scale, folder: Path, *, inputs: int) -> Iterator[FaultRow]:
    """One row a target: a fixed number of inputs."""
    for target in TARGETS.values():
        count = scale.count(inputs, least=200)
        done = fuzz(target, folder / target.name, seed=scale.seed, inputs=count)
        how = "fuzzed, coverage-guided" if done.guided else "fuzzed, no atheris: not guided"
        row = FaultRow(f"{target.name} parser {how}")
        row.tried, row.survived = done.inputs, done.inputs - len(done.findings)
        row.misses += [f"{row.fault}: {finding}" for finding in done.findings]
        yield row


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz; 0 if nothing was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=0, help="for each target")
    parser.add_argument("--inputs", type=int, default=0, help="for each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--targets", default=",".join(TARGETS), help="by comma")
    parser.add_argument("--folder", type=Path, help="keep corpora and findings here")
    parser.add_argument("--child", choices=list(TARGETS), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        _child(options)
        return 0
    if not (options.seconds or options.inputs):
        options.seconds = 60
    folder = options.folder or Path(tempfile.mkdtemp(prefix="fuzz-"))
    findings: list[str] = []
    for name in options.targets.split(","):
        limits = {"inputs": options.inputs, "seconds": options.seconds}
        done = fuzz(TARGETS[name], folder / name, seed=options.seed, **limits)
        findings += done.findings
        how = "" if done.guided else " (no atheris: not coverage-guided)"
        told = f"{name:<10}{done.inputs:>12,} inputs{len(done.findings):>6} findings{how}\n"
        sys.stdout.write(told)
        sys.stdout.flush()
    for finding in findings:
        sys.stdout.write(f"{finding}\n")
    if not findings and options.folder is None:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
