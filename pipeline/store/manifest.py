"""The manifest as text: a header line, one line a source, a footer with the digest of it all."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import ValidationError

from pipeline.errors import DamagedStoreError
from schemas.manifest import (
    ENTRY_LINE,
    FailedSource,
    ManifestEntry,
    ManifestFooter,
    ManifestHeader,
    StoredSample,
)
from schemas.sidecar import Sidecar


@dataclass(frozen=True)
class Manifest:
    """Every source ever seen, in the order of (group, row), failures last."""

    header: ManifestHeader
    entries: tuple[ManifestEntry, ...]

    @property
    def samples(self) -> tuple[StoredSample, ...]:
        """The committed ones."""
        return tuple(entry for entry in self.entries if isinstance(entry, StoredSample))

    @property
    def failures(self) -> tuple[FailedSource, ...]:
        """The others."""
        return tuple(entry for entry in self.entries if isinstance(entry, FailedSource))


def entry_for(sidecar: Sidecar) -> StoredSample:
    """The manifest's line for a committed sample."""
    return StoredSample(
        source=sidecar.source.name,
        size=sidecar.source.size,
        mtime_ns=sidecar.source.mtime_ns,
        status="done",
        id=sidecar.id,
        group=sidecar.group,
        row=sidecar.row,
        split=sidecar.split,
        sidecar_digest=sidecar.digest,
    )


def dump_manifest(header: ManifestHeader, entries: Iterable[ManifestEntry]) -> bytes:
    """The file's bytes; entries are sorted, so that the same store gives the same manifest."""
    ordered = sorted(entries, key=_order)
    lines = [header.model_dump_json().encode()]
    lines += [ENTRY_LINE.dump_json(entry, exclude_defaults=True) for entry in ordered]
    body = b"\n".join(lines) + b"\n"
    footer = ManifestFooter(entries=len(ordered), digest=_digest(body))
    return body + footer.model_dump_json().encode() + b"\n"


def parse_manifest(data: bytes, *, path: str) -> Manifest:
    """Read a manifest back.

    Raises
    ------
    DamagedStoreError
        If a line does not parse, or the digest does not fit.
    """
    if not data.endswith(b"\n"):
        raise _damaged("it is cut off", path)
    body, footer_line = _split(data)
    lines = io.BytesIO(data)  # which does not copy them, as splitting would
    entries: list[ManifestEntry] = []
    try:
        footer = ManifestFooter.model_validate_json(footer_line)
        header = ManifestHeader.model_validate_json(lines.readline())
        while lines.tell() < len(body):
            entries.append(ENTRY_LINE.validate_json(lines.readline()))
    except ValueError as error:
        raise _damaged("a line does not parse", path) from error
    if footer.digest != _digest(body) or footer.entries != len(entries):
        raise _damaged("its digest does not fit its lines", path)
    return Manifest(header, tuple(entries))


def sealed_header(data: bytes) -> ManifestHeader | None:
    """The first line of a manifest, if the digest fits: then it is as it was written."""
    body, footer_line = _split(data)
    try:
        footer = ManifestFooter.model_validate_json(footer_line)
    except ValidationError:
        return None
    return read_header(data) if footer.digest == _digest(body) else None


def read_header(data: bytes) -> ManifestHeader | None:
    """The first line of a manifest that may otherwise be damaged."""
    try:
        return ManifestHeader.model_validate_json(io.BytesIO(data).readline())
    except ValidationError:
        return None


def _order(entry: ManifestEntry) -> tuple[bool, str, int, str]:
    """Samples first; each kind by its place, those without one by their source."""
    return entry.status != "done", entry.group or "", entry.row or 0, entry.source


def _split(data: bytes) -> tuple[memoryview, bytes]:
    """All lines but the last, as they are, and the last."""
    start = data.rfind(b"\n", 0, -1) + 1
    return memoryview(data)[:start], data[start:]


def _digest(body: bytes | memoryview) -> str:
    return "sha256:" + hashlib.sha256(body).hexdigest()


def _damaged(message: str, path: str) -> DamagedStoreError:
    mend = "prep ingest with the same sources and store rebuilds it from the sidecars"
    return DamagedStoreError(f"the manifest is damaged: {message}", path=path, mend=mend)
