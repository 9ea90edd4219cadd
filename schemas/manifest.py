"""The manifest: one line for every source ever seen. It can always be rebuilt from sidecars."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from schemas.base import StrictModel
from schemas.recipe import Recipe
from schemas.sidecar import FORMAT, FORMAT_VERSION, Name, Row

#: Why a source failed; stable words for scripts.
FailureCode = Literal[
    "unreadable", "unsupported", "corrupt", "frame", "annotation", "crash", "other"
]


class ManifestHeader(StrictModel):
    """First line: enough to recognise and repair the store when its metadata is damaged."""

    format: str = FORMAT
    format_version: int = FORMAT_VERSION
    recipe: Recipe
    versions: dict[str, str]


# The two kinds of line are dataclasses with slots, because there is one for every sample whenever a
# store is open: a model takes 1.6 kB, these take 0.5. `status` has no default, so it is always
# written: what equals its default is left out of a line.
_LINE = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, slots=True, kw_only=True, config=_LINE)
class StoredSample:
    """A committed sample: its name, and what listing a split needs of its sidecar.

    Attributes
    ----------
    row
        None for a damaged sample whose row is another's, until it is made again.
    """

    source: str
    size: int
    mtime_ns: int | None
    status: Literal["done"]
    id: Name
    group: Name
    row: Row | None = None
    split: str | None = None
    sidecar_digest: str

    @property
    def key(self) -> tuple[str, str]:
        """(group, id), which names every sample."""
        return self.group, self.id

    @property
    def rows_needed(self) -> int:
        """How many rows its group must have for it."""
        return 1 if self.row is None else self.row + 1


@dataclass(frozen=True, slots=True, kw_only=True, config=_LINE)
class FailedSource:
    """A source that could not be ingested: why, and the mend.

    Attributes
    ----------
    group, row
        The place reserved for it, if it was given one.
    """

    source: str
    size: int
    mtime_ns: int | None
    status: Literal["failed"]
    group: Name | None = None
    row: Row | None = None
    code: FailureCode
    reason: str = ""
    mend: str = ""


ManifestEntry = StoredSample | FailedSource

#: Reads and writes the line of an entry.
ENTRY_LINE: TypeAdapter[ManifestEntry] = TypeAdapter(
    Annotated[ManifestEntry, Field(discriminator="status")]
)


class ManifestFooter(StrictModel):
    """Last line: sha256 over all lines before it."""

    entries: int
    digest: str
