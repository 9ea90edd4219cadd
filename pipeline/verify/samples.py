"""One sample alone: its sidecar, its chunks, and its parts against each other."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from pipeline.errors import DamagedStoreError
from pipeline.store.chunk.format import decode_chunk
from pipeline.store.files import StoreFiles
from pipeline.store.keys import chunk_key, sidecar_key
from pipeline.store.layouts import group_layout
from pipeline.store.manifest import entry_for
from pipeline.store.samples import looks_like_sidecar, read_chunk, read_sidecar, sample_damage
from pipeline.verify.records import check_record, damaged
from schemas.finding import Finding
from schemas.finding_codes import FindingCode
from schemas.layout import GroupLayout
from schemas.manifest import StoredSample
from schemas.recipe import Recipe


@dataclass(frozen=True)
class Checked:
    """One sample after its own checks; `entry` is None when its sidecar is unreadable."""

    group: str
    id: str
    entry: StoredSample | None
    layout: GroupLayout | None
    sha256: str
    nbytes: int
    findings: tuple[Finding, ...]


def check_sample(
    files: StoreFiles, recipe: Recipe, group: str, sample_id: str, *, quick: bool
) -> Checked:
    """Everything that can be said of one sample alone."""
    name = f"{group}/{sample_id}"
    try:
        sidecar = read_sidecar(files, group, sample_id, every_byte=True)
    except DamagedStoreError as error:
        mend = _mend(files, error, sidecar_key(group, sample_id))
        found = damaged(FindingCode.DAMAGED_SIDECAR, name, error.message, mend)
        return Checked(group, sample_id, None, None, "", 0, (found,))
    findings = list(check_record(sidecar, recipe, name))
    nbytes = 0
    if quick:
        wrong = sample_damage(files, sidecar, recheck=False)
        if wrong:
            findings.append(damaged(FindingCode.DAMAGED_CHUNK, name, wrong))
    else:
        for level, record in sidecar.levels.items():
            path = files.location(chunk_key(group, level, sidecar.row))
            try:
                chunk = read_chunk(files, sidecar, level)
                nbytes += len(chunk)
                decode_chunk(chunk, record.shape, record.crc32c, path=path)
            except DamagedStoreError as error:
                findings.append(
                    damaged(
                        FindingCode.DAMAGED_CHUNK, name, f"{level}: {error.message}", error.mend
                    )
                )
    return Checked(
        group,
        sample_id,
        entry_for(sidecar),
        group_layout(sidecar, 0),
        sidecar.source.sha256,
        nbytes,
        tuple(findings),
    )


def _mend(files: StoreFiles, error: DamagedStoreError, key: str) -> str:
    """What mends a sidecar; an ingest leaves alone what does not look like one of ours."""
    with suppress(DamagedStoreError):
        data = files.get_or_none(key)
        if data is not None and not looks_like_sidecar(data):
            return f"{error.mend}; if the file stays, it is none of the store's: move it elsewhere"
    return error.mend
