"""What ``--json`` prints: one of these a line. Sizes in bytes, durations in seconds."""

from __future__ import annotations

from typing import Literal

from schemas.base import StrictModel
from schemas.finding import Finding

EVENT_SCHEMA = 1


class Event(StrictModel):
    """Fields of every event."""

    schema_version: int = EVENT_SCHEMA


class StatusEvent(Event):
    """How far a long run is; ``seconds_left`` is None until something is known."""

    event: Literal["status"] = "status"
    stage: str
    done: int
    total: int
    failed: int
    bytes_done: int
    seconds: float
    seconds_left: float | None


class SampleEvent(Event):
    """One sample was committed."""

    event: Literal["sample"] = "sample"
    id: str
    group: str
    row: int
    split: str | None
    source: str
    decoder: str


class ErrorEvent(Event):
    """One source could not be ingested, or the command failed."""

    event: Literal["error"] = "error"
    code: str
    path: str
    message: str
    mend: str


class FindingEvent(Event):
    """Something worth knowing that stopped nothing."""

    event: Literal["finding"] = "finding"
    finding: Finding


class PlanEvent(Event):
    """What a dry run would do: sources by status, and the recipe."""

    event: Literal["plan"] = "plan"
    exit_code: int
    statuses: dict[str, int]
    recipe: str
    bytes_to_read: int
    bytes_free: int


class IngestSummary(Event):
    """Last line of an ingest."""

    event: Literal["summary"] = "summary"
    command: Literal["ingest"] = "ingest"
    store: str
    exit_code: int
    interrupted: bool
    ingested: int
    redone: int
    reannotated: int
    up_to_date: int
    failed: int
    failed_before: int
    damaged: int
    samples: int
    boxes_untrainable: int
    annotations_without_raw: int
    raws_without_annotation: int
    raws_passed_over: int
    findings: int
    bytes_read: int
    seconds: float


class VerifySummary(Event):
    """Last line of a verify."""

    event: Literal["summary"] = "summary"
    command: Literal["verify"] = "verify"
    store: str
    exit_code: int
    samples: int
    chunks: int
    derived: int
    bytes_checked: int
    errors: int
    warnings: int
    seconds: float
