"""What ``prep info`` and ``prep doctor`` say, as data."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.base import StrictModel
from schemas.coco import RecordId, is_ignored, is_trainable
from schemas.events import Event
from schemas.finding import Severity
from schemas.recipe import LevelName, Recipe


class _Extract(BaseModel):
    """Some fields of a longer record; the others are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class _FindingExtract(_Extract):
    code: str
    severity: Severity


class BoxExtract(_Extract):
    """See `schemas.coco.Box`."""

    category_id: RecordId
    category: str
    iscrowd: bool
    ignore: bool = False
    findings: tuple[_FindingExtract, ...]

    @property
    def trainable(self) -> bool:
        """As `schemas.coco.Box.trainable`."""
        return is_trainable(self)

    @property
    def ignored(self) -> bool:
        """As `schemas.coco.Box.ignored`."""
        return is_ignored(self)


class _AnnotationExtract(_Extract):
    boxes: tuple[BoxExtract, ...]


class _CaptureExtract(_Extract):
    iso: int | None


class _LevelExtract(_Extract):
    nbytes: int


class SidecarExtract(_Extract):
    """What ``prep info`` reads of a sidecar."""

    capture: _CaptureExtract
    levels: dict[LevelName, _LevelExtract]
    annotation: _AnnotationExtract | None


class GroupInfo(StrictModel):
    """One camera in one frame; shapes are (3, height, width)."""

    name: str
    camera: str
    frame_size: tuple[int, int]
    samples: int
    levels: dict[LevelName, tuple[int, int, int]]


class StoreInfo(Event):
    """A store in numbers. ``splits`` counts samples and boxes; ``""`` is no split.

    ``classes`` counts boxes by the name of the class they count as, ``boxes_ignored`` those of
    the untrainable ones that are regions to ignore.
    """

    event: Literal["info"] = "info"
    path: str
    recipe: Recipe
    versions: dict[str, str]
    samples: int
    failed: int
    groups: tuple[GroupInfo, ...]
    splits: dict[str, dict[str, int]]
    boxes: int
    boxes_untrainable: int
    boxes_ignored: int = 0
    classes: dict[str, int]
    iso_range: tuple[int, int] | None
    chunk_bytes: int
    warnings: tuple[str, ...]


class DoctorReport(Event):
    """This installation: versions, decoders, machine. ``problems`` come with what to do."""

    event: Literal["doctor"] = "doctor"
    versions: dict[str, str]
    libraw: str
    cpu_count: int
    memory_bytes: int
    disk_free_bytes: int
    gpu: str
    problems: tuple[str, ...]


class RenderingScore(Event):
    """How well a frozen detector sees through one rendering.

    ``gain`` is how much lower the guidance loss is than the classical rendering's, paired over
    images, and ``gain_error`` its standard error. AP is -1 where a class has no box, or no object
    has a size (small, medium, large, in pixels of the annotated frame). ``condition``
    names the images meant; empty for all. ``lines`` are COCO's usual twelve.
    """

    event: Literal["score"] = "score"
    rendering: str
    condition: str = ""
    ap: float
    ap50: float
    ap75: float
    ap_by_class: dict[str, float]
    ap50_by_class: dict[str, float]
    ap_by_size: dict[str, float] = Field(default_factory=dict)
    loss: float
    gain: float
    gain_error: float
    lines: str = ""
    images: int
