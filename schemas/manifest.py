"""The manifest: one line for every source ever seen. It can always be rebuilt from sidecars."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from schemas.base import StrictModel
from schemas.recipe import Recipe
from schemas.sidecar import FORMAT, FORMAT_VERSION, Name, Row

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


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class ManifestEntry:
    """One source.

    ``done`` entries name the sample and repeat what listing a split needs; ``failed`` ones say
    why, with the mend, and keep the row that was reserved for them (if one was).

    A dataclass with slots, because there is one for every sample whenever a store is open: a model
    takes 1.6 kB, this takes 0.5.
    """

    source: str
    size: int
    mtime_ns: int | None
    status: EntryStatus
    id: Name | None = None
    group: Name | None = None
    row: Row | None = None
    split: str | None = None
    sidecar_digest: str | None = None
    code: FailureCode = ""
    reason: str = ""
    mend: str = ""


#: Reads and writes the line of an entry.
ENTRY_LINE = TypeAdapter(ManifestEntry)


class ManifestFooter(StrictModel):
    """Last line: sha256 over all lines before it."""

    entries: int
    digest: str
