"""What a worker does with one source: probe it, or turn it into a committed sample.

A task carries names, plain values and the recipe, never pixels or open files; so it runs alike in
this process, in a local worker, and on a cluster. It returns what happened instead of raising: one
bad source costs itself only.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pipeline.develop.colour import fixed_point
from pipeline.develop.steps import Level, develop
from pipeline.errors import (
    CorruptRawError,
    StoreError,
    UnsupportedRawError,
)
from pipeline.ingest.failure import Failure, failure_from
from pipeline.raw.cross_check import decode_checked
from pipeline.raw.damage import check_mosaic
from pipeline.raw.facts import DecodedRaw, RawFacts, check_levels
from pipeline.raw.reader import PROBE_BYTES, check_container, decoder_version, probe
from pipeline.sources.source import Source, Start
from pipeline.store.chunk.encode import encode_chunk
from pipeline.store.chunk.format import chunk_crc
from pipeline.store.files import StoreFiles
from pipeline.store.keys import chunk_key, sidecar_key
from schemas.choices import DecoderName
from schemas.coco import ImageAnnotation
from schemas.finding import Finding
from schemas.finding_codes import FindingCode
from schemas.fixed_point import FixedPoint
from schemas.recipe import Colour, LevelName, Recipe
from schemas.sidecar import (
    Camera,
    Capture,
    DecoderRecord,
    Frame,
    LevelRecord,
    Sensor,
    Sidecar,
    SourceRecord,
)


@dataclass(frozen=True)
class ProbeTask:
    """Read one raw's facts."""

    source: Source
    colour: Colour


@dataclass(frozen=True)
class ProbeOutcome:
    """Facts, the fixed point they imply, and the bytes they were read from; or the failure."""

    facts: RawFacts | None = None
    fixed_point: FixedPoint | None = None
    failure: Failure | None = None
    start: Start | None = None


@dataclass(frozen=True)
class SampleTask:
    """Everything decided about one sample before its pixels are read.

    `lease` is what `StoreFiles.lock` gave the coordinator: only under it may the sample be written.
    `start` is what the facts were read from: the pixels must come from the same file.
    """

    source: Source
    store: str
    lease: str
    id: str
    group: str
    row: int
    split: str | None
    camera: Camera
    capture: Capture
    frame: Frame
    annotation: ImageAnnotation | None
    findings: tuple[Finding, ...]
    recipe: Recipe
    fixed_point: FixedPoint
    decoder: DecoderName
    cross_check: bool
    decoder_class: str
    start: Start | None = None


@dataclass(frozen=True)
class SampleOutcome:
    """What became of a sample.

    Attributes
    ----------
    sidecar
        Set if it was committed.
    failure
        Set if the source cannot be ingested.
    store_error
        Set if the store cannot be written: the whole run has to stop.
    disagreement
        What the fast decoder and LibRaw differed in, if they were compared and did.
    """

    sidecar: Sidecar | None = None
    failure: Failure | None = None
    store_error: StoreError | None = None
    disagreement: str = ""


def probe_source(task: ProbeTask) -> ProbeOutcome:
    """Read a raw's facts from its beginning, or from all of it when that is not enough."""
    source = task.source
    try:
        data = source.read_prefix(PROBE_BYTES)
        facts = probe(data, whole=len(data) >= source.size, path=source.name)
        if facts is None:
            data = source.read_bytes()
            facts = probe(data, whole=True, path=source.name)
        if facts is None:
            raise CorruptRawError("the file says nothing about itself", path=source.name)
        check_levels(facts.levels, path=source.name)
        sensor = _full_sensor(facts)
        point = fixed_point(sensor, task.colour, path=source.name)
    except Exception as error:  # one source must not cost the run; see failure_from
        return ProbeOutcome(failure=failure_from(error))
    return ProbeOutcome(facts=facts, fixed_point=point, start=Start.of(data))


def develop_source(task: SampleTask) -> SampleOutcome:
    """Decode, develop, write the chunks, and last the sidecar: the commit."""
    disagreement = ""
    try:
        data = task.source.read_bytes()
        if task.start is not None:
            task.source.require_start(task.start, data)
        sha256 = hashlib.sha256(data).hexdigest()
        check_container(data, path=task.source.name)
        decoded, disagreement = decode_checked(
            data, task.decoder, compare=task.cross_check, path=task.source.name
        )
        del data
        sensor = _checked_sensor(decoded, task)
        levels = develop(decoded.mosaic, task.frame, sensor, task.recipe, task.fixed_point)
        record = DecoderRecord(
            name=decoded.decoder,
            version=decoder_version(decoded.decoder),
        )
        del decoded
        sidecar = _commit(task, sensor, levels, record, sha256)
    except StoreError as error:
        return SampleOutcome(store_error=error, disagreement=disagreement)
    except Exception as error:  # one source must not cost the run; see failure_from
        return SampleOutcome(failure=failure_from(error), disagreement=disagreement)
    return SampleOutcome(sidecar=sidecar, disagreement=disagreement)


def _full_sensor(facts: RawFacts) -> Sensor:
    levels = facts.levels
    return Sensor(
        cfa=levels.cfa,
        black=levels.black,
        white=levels.white,
        xyz_to_camera=levels.xyz_to_camera,
        as_shot_balance=levels.as_shot_balance,
    )


def _checked_sensor(decoded: DecodedRaw, task: SampleTask) -> Sensor:
    path = task.source.name
    check_levels(decoded.levels, path=path)
    sensor = decoded.levels.sensor(task.frame)
    check_mosaic(decoded, task.frame, sensor, path=path)
    own = fixed_point(sensor, task.recipe.colour, path=path)
    if not task.fixed_point.covers(own):
        message = "its levels need a wider value range than its group's other files have"
        hint = "ingest these files into a store of their own"
        raise UnsupportedRawError(message, path=path, hint=hint)
    return sensor


def _commit(
    task: SampleTask,
    sensor: Sensor,
    levels: dict[LevelName, Level],
    decoder: DecoderRecord,
    sha256: str,
) -> Sidecar:
    files = StoreFiles(Path(task.store))
    codec = task.recipe.codec
    chunks = {name: encode_chunk(level.stored, codec) for name, level in levels.items()}
    source = task.source
    sidecar = Sidecar(
        id=task.id,
        group=task.group,
        row=task.row,
        split=task.split,
        camera=task.camera,
        frame=task.frame,
        sensor=sensor,
        capture=task.capture,
        recipe_fingerprint=task.recipe.fingerprint,
        levels={name: _record(level, chunks[name], task) for name, level in levels.items()},
        annotation=task.annotation,
        source=SourceRecord(
            name=source.name, size=source.size, mtime_ns=source.mtime_ns, sha256=sha256
        ),
        decoder=decoder,
        findings=task.findings,
    ).sealed()
    with files.commit(task.lease):
        # While chunks are replaced the sample does not exist: no sidecar, no commit.
        files.delete(sidecar_key(task.group, task.id))
        for name, chunk in chunks.items():
            files.put(chunk_key(task.group, name, task.row), chunk)
        files.put(sidecar_key(task.group, task.id), sidecar.to_json())
    return sidecar


def _record(level: Level, chunk: memoryview, task: SampleTask) -> LevelRecord:
    _, height, width = level.stored.shape
    return LevelRecord(
        shape=(3, height, width),
        scale_x=level.scale_x,
        scale_y=level.scale_y,
        scale_factor=task.fixed_point.scale_factor,
        add_offset=task.fixed_point.add_offset,
        nbytes=len(chunk),
        crc32c=chunk_crc(chunk),
        statistics=level.statistics,
    )


def untrusted_finding(task: SampleTask, disagreement: str) -> Finding:
    """The finding for a class of files that goes over to LibRaw."""
    return FindingCode.DECODERS_DISAGREE.finding(
        where=task.source.name,
        message=f"the fast decoder and LibRaw differ ({disagreement}); LibRaw decodes all files of "
        f"this class from here on ({task.decoder_class})",
    )
