"""What is known of one source at each step of its way through an ingest. Values only.

    Item         a source, and what is to be done about it               `survey`
    ProbeTask -> ProbeOutcome   what the beginning of the file says      `worker.probe_source`
                                with the levels that will be stored      `class_levels`
    FramedRaw    with its frame, its annotation and its group            `placement`
    Placed       with its id and its row                                 `placement`
    SampleTask -> SampleOutcome   in the store, or why it is not         `worker.develop_source`

Each holds the one before it, or what is still needed of it. Tasks carry names, plain values and the
recipe, never pixels or open files: so they run alike in this process, in a local worker, and on a
cluster.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import StoreError
from pipeline.ingest.failure import Failure
from pipeline.raw.cross_check import Decision
from pipeline.raw.facts import MatrixOrigin, RawFacts
from pipeline.sources.source import Source, Start
from pipeline.store.files import StoreFiles
from schemas.coco import ImageAnnotation
from schemas.finding import Finding
from schemas.fixed_point import FixedPoint
from schemas.manifest import StoredSample
from schemas.recipe import Recipe
from schemas.sidecar import Camera, Capture, Frame, Sidecar


@dataclass(frozen=True, slots=True)
class ProbeTask:
    """Read one raw's facts, or decode it for its levels alone."""

    source: Source


@dataclass(frozen=True, slots=True)
class ProbeOutcome:
    """Facts and the bytes they were read from; or the failure."""

    facts: RawFacts | None = None
    failure: Failure | None = None
    start: Start | None = None


@dataclass(frozen=True, slots=True)
class FramedRaw:
    """One raw with all that its sample will say but its place, its levels and its pixels.

    Little of its `RawFacts`, for all sources' are held at once.

    Attributes
    ----------
    previous
        The sample the store has of this source, if it has one.
    decoder_class
        See `RawFacts`.
    group
        Name of the group its camera and frame belong to.
    own_range
        The fixed point for its own levels and every code of its format; a new group's covers it,
        and may be wider.
    usual_range
        The fixed point for its own levels and samples little above white. A group that was there
        before has to cover this; whether it covers its pixels, too, is known when they are decoded.
    matrix_origin
        Of the matrix that will be stored.
    start
        What the facts were read from: the pixels must come from the same file.
    """

    source: Source
    previous: StoredSample | None
    camera: Camera
    capture: Capture
    decoder_class: str
    frame: Frame
    annotation: ImageAnnotation | None
    findings: tuple[Finding, ...]
    group: str
    own_range: FixedPoint
    usual_range: FixedPoint
    matrix_origin: MatrixOrigin
    start: Start | None

    @property
    def split(self) -> str | None:
        """The split its annotation is in."""
        return self.annotation.split if self.annotation else None


@dataclass(frozen=True, slots=True)
class Placed:
    """One raw with its place in the store."""

    raw: FramedRaw
    id: str
    row: int


@dataclass(frozen=True)
class Destination:
    """What all samples of one ingest have in common.

    Attributes
    ----------
    lease
        What `StoreFiles.lock` gave the coordinator: only under it may samples be written.
    """

    files: StoreFiles
    lease: str
    recipe: Recipe


@dataclass(frozen=True, slots=True)
class SampleTask:
    """Everything decided about one sample before its pixels are read.

    Attributes
    ----------
    fixed_point
        Its group's.
    decision
        Which decoder reads it, and whether LibRaw does, too.
    """

    sample: Placed
    destination: Destination
    fixed_point: FixedPoint
    decision: Decision

    @property
    def source(self) -> Source:
        """The raw."""
        return self.sample.raw.source


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
    darkest
        With `sidecar`: what `pipeline.raw.black.check_black` saw, in DN.
    """

    sidecar: Sidecar | None = None
    failure: Failure | None = None
    store_error: StoreError | None = None
    disagreement: str = ""
    darkest: int = 0
