"""What a worker does with one source: probe it, read its levels, or make a committed sample of it.

Its functions return what happened instead of raising: one bad source costs itself only.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from pipeline.develop.colour import own_range
from pipeline.develop.steps import Level, develop
from pipeline.errors import (
    CorruptRawError,
    StoreError,
    UnsupportedRawError,
)
from pipeline.ingest.failure import failure_from
from pipeline.ingest.tasks import ProbeOutcome, ProbeTask, SampleOutcome, SampleTask
from pipeline.raw.black import check_black, is_far_from_black, no_dark_sample
from pipeline.raw.cross_check import decode_checked
from pipeline.raw.damage import check_mosaic
from pipeline.raw.decoders.table import reference
from pipeline.raw.facts import DecodedRaw, Levels, check_levels, usual_largest
from pipeline.raw.reader import PROBE_BYTES, check_container, decode, decoder_version, probe
from pipeline.sources.source import Start
from pipeline.store.chunk.encode import encode_chunk
from pipeline.store.chunk.format import chunk_crc
from pipeline.store.keys import chunk_key, sidecar_key
from schemas.finding import Finding
from schemas.finding_codes import FindingCode
from schemas.recipe import LevelName
from schemas.sidecar import DecoderRecord, LevelRecord, Sensor, Sidecar, SourceRecord

#: A few samples above white are hot pixels; more say something about the white level.
ABOVE_WHITE_SHARE = 1 / 1000


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
    except Exception as error:  # one source must not cost the run; see failure_from
        return ProbeOutcome(failure=failure_from(error))
    return ProbeOutcome(facts=facts, start=Start.of(data))


def reference_levels(task: ProbeTask) -> Levels | None:
    """The levels that the reference decoder reads; None where it cannot decode the file."""
    try:
        data = task.source.read_bytes()
        check_container(data, path=task.source.name)
        return decode(data, reference().name, path=task.source.name).levels
    except Exception:  # whatever it is, `develop_source` meets it again and reports it
        return None


def develop_source(task: SampleTask) -> SampleOutcome:
    """Decode, develop, write the chunks, and last the sidecar: the commit."""
    raw, recipe = task.sample.raw, task.destination.recipe
    disagreement = ""
    try:
        data = raw.source.read_bytes()
        if raw.start is not None:
            raw.source.require_start(raw.start, data)
        sha256 = hashlib.sha256(data).hexdigest()
        check_container(data, path=raw.source.name)
        decoded, disagreement = decode_checked(
            data, task.decision.decoder, compare=task.decision.compare, path=raw.source.name
        )
        del data
        sensor, darkest, findings = _checked_sensor(decoded, task)
        levels = develop(decoded.mosaic, raw.frame, sensor, recipe, task.fixed_point)
        record = DecoderRecord(
            name=decoded.decoder,
            version=decoder_version(decoded.decoder),
        )
        del decoded
        sidecar = _commit(task, sensor, levels, record, sha256, findings)
    except StoreError as error:
        return SampleOutcome(store_error=error, disagreement=disagreement)
    except Exception as error:  # one source must not cost the run; see failure_from
        return SampleOutcome(failure=failure_from(error), disagreement=disagreement)
    return SampleOutcome(sidecar=sidecar, disagreement=disagreement, darkest=darkest)


def _checked_sensor(
    decoded: DecodedRaw, task: SampleTask
) -> tuple[Sensor, int, tuple[Finding, ...]]:
    """The levels, how dark the picture is in DN, and what its samples say about both."""
    path, raw, levels = task.source.name, task.sample.raw, decoded.levels
    if decoded.decoder != reference().name:
        levels = replace(levels, origin=raw.matrix_origin)
    check_levels(levels, path=path)
    sensor = levels.sensor(raw.frame)
    brightest = check_mosaic(decoded, raw.frame, sensor, path=path)
    darkest = check_black(decoded.mosaic, raw.frame, sensor, path=path)
    largest = max(brightest.largest, usual_largest(sensor.white))
    own = own_range(levels, task.destination.recipe.colour, largest=largest, path=path)
    if not task.fixed_point.covers(own):
        message = "its levels need a wider value range than its group's other files have"
        mend = "ingest these files into a store of their own"
        raise UnsupportedRawError(message, path=path, mend=mend)
    findings = []
    if brightest.share_above > ABOVE_WHITE_SHARE:
        findings.append(
            FindingCode.ABOVE_WHITE.finding(
                path,
                f"{brightest.share_above:.1%} of its samples are above white ({sensor.white:g} DN) "
                f"by a sixteenth or more, up to {brightest.largest}",
            )
        )
    if is_far_from_black(darkest, sensor):
        findings.append(no_dark_sample(darkest, sensor, where=path))
    return sensor, darkest, tuple(findings)


def _commit(
    task: SampleTask,
    sensor: Sensor,
    levels: dict[LevelName, Level],
    decoder: DecoderRecord,
    sha256: str,
    findings: tuple[Finding, ...],
) -> Sidecar:
    destination, place = task.destination, task.sample
    raw, recipe = place.raw, destination.recipe
    chunks = {name: encode_chunk(level.stored, recipe.codec) for name, level in levels.items()}
    sidecar = Sidecar(
        id=place.id,
        group=raw.group,
        row=place.row,
        split=raw.split,
        camera=raw.camera,
        frame=raw.frame,
        sensor=sensor,
        capture=raw.capture,
        recipe_fingerprint=recipe.fingerprint,
        levels={name: _record(level, chunks[name], task) for name, level in levels.items()},
        annotation=raw.annotation,
        source=SourceRecord(
            name=raw.source.name,
            size=raw.source.size,
            mtime_ns=raw.source.mtime_ns,
            sha256=sha256,
        ),
        decoder=decoder,
        findings=raw.findings + findings,
    ).sealed()
    files, key = destination.files, sidecar_key(raw.group, place.id)
    with files.commit(destination.lease):
        # While chunks are replaced the sample does not exist: no sidecar, no commit.
        files.delete(key)
        for name, chunk in chunks.items():
            files.put(chunk_key(raw.group, name, place.row), chunk)
        files.put(key, sidecar.to_json())
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
