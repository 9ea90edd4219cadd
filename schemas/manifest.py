"""The manifest: one line for every source ever seen. It can always be rebuilt from sidecars."""

from __future__ import annotations

from typing import Literal

from schemas.base import StrictModel
from schemas.recipe import Recipe
from schemas.sidecar import FORMAT, FORMAT_VERSION

EntryStatus = Literal["done", "failed"]

#: Why a source failed; stable words for scripts.
FailureCode = Literal[
    "", "unreadable", "unsupported", "corrupt", "frame", "annotation", "crash", "other"
]


class ManifestHeader(StrictModel):
    """First line: enough to recognise and repair the store when its metadata is damaged."""

    format: str = FORMAT
    format_version: int = FORMAT_VERSION
    recipe: Recipe
    versions: dict[str, str]


class ManifestEntry(StrictModel):
    """One source.

    ``done`` entries name the sample and repeat what listing a split needs; ``failed`` ones say
    why, with the mend, and keep the row that was reserved for them (if one was).
    """

    source: str
    size: int
    mtime_ns: int | None
    status: EntryStatus
    id: str | None = None
    group: str | None = None
    row: int | None = None
    split: str | None = None
    sidecar_digest: str | None = None
    code: FailureCode = ""
    reason: str = ""
    mend: str = ""


class ManifestFooter(StrictModel):
    """Last line: sha256 over all lines before it."""

    entries: int
    digest: str
