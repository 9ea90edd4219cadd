"""The manifest as text: a header line, one line a source, a footer with the digest of it all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import ValidationError

from pipeline.errors import DamagedStoreError
from schemas.manifest import ManifestEntry, ManifestFooter, ManifestHeader
from schemas.sidecar import Sidecar

MANIFEST_NAME = "manifest.jsonl"


@dataclass(frozen=True)
class Manifest:
    """Every source ever seen, in the order of (group, row), failures last."""

    header: ManifestHeader
    entries: tuple[ManifestEntry, ...]


def entry_for(sidecar: Sidecar) -> ManifestEntry:
    """The manifest's line for a committed sample."""
    return ManifestEntry(
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
    ordered = sorted(
        entries, key=lambda e: (e.status != "done", e.group or "", e.row or 0, e.source)
    )
    lines = [header.model_dump_json()]
    lines += [entry.model_dump_json(exclude_defaults=True) for entry in ordered]
    body = "\n".join(lines) + "\n"
    footer = ManifestFooter(entries=len(ordered), digest=_digest(body.encode()))
    return (body + footer.model_dump_json() + "\n").encode()


def parse_manifest(data: bytes, *, path: str) -> Manifest:
    """Read a manifest back.

    Raises
    ------
    DamagedStoreError
        If a line does not parse, or the digest does not fit.
    """
    if not data.endswith(b"\n"):
        raise _damaged("it is cut off", path)
    try:
        body, footer_line = data[:-1].rsplit(b"\n", 1)
        footer = ManifestFooter.model_validate_json(footer_line)
        lines = body.split(b"\n")
        header = ManifestHeader.model_validate_json(lines[0])
        entries = tuple(ManifestEntry.model_validate_json(line) for line in lines[1:])
    except (ValueError, ValidationError) as error:
        raise _damaged("a line does not parse", path) from error
    if footer.digest != _digest(body + b"\n") or footer.entries != len(entries):
        raise _damaged("its digest does not fit its lines", path)
    return Manifest(header, entries)


def read_header(data: bytes) -> ManifestHeader | None:
    """The first line of a manifest that may otherwise be damaged."""
    try:
        return ManifestHeader.model_validate_json(data.split(b"\n", 1)[0])
    except ValidationError:
        return None


def _digest(body: bytes) -> str:
    return "sha256:" + hashlib.sha256(body).hexdigest()


def _damaged(message: str, path: str) -> DamagedStoreError:
    hint = "prep ingest (with the same sources) rebuilds the manifest from the sidecars"
    return DamagedStoreError(f"the manifest is damaged: {message}", path=path, hint=hint)
