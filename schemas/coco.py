"""COCO annotation files as they are found, and boxes as a sample's sidecar holds them.

Two families that never mix. ``Coco*`` models read whatever annotation tools write: identifiers of
either type, keys nobody asked for, missing ``area``/``iscrowd``/``segmentation``, numbers that are
not finite. A record that even they cannot read becomes a `RejectedRecord`, so that it costs only
itself. `Box` and `ImageAnnotation` are strict: they go into sidecars and are read back by others.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Protocol, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    RootModel,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    model_serializer,
)
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from schemas.base import StrictModel
from schemas.finding import Finding, Severity
from schemas.finding_codes import FindingCode

CLASS_NAMES: dict[int, str] = {1: "person", 2: "bicycle", 3: "car"}
"""NOD's classes: COCO category id -> COCO name; what ids mean in files that list no categories."""

OTHER_CATEGORY = 0
"""`Box.category_id` of a class that has no number: its file gives names only."""

FLAG_NAMES: tuple[str, ...] = (
    "isnoisy",
    "isoutoffocus",
    "ismotionblur",
    "isheavilyoccluded",
    "isextreme",
    "isbacklit",
    "istruncated",
    "isconfusing",
    "islabeled",
)
"""Per-box conditions that NOD's hand-labelled Sony test file carries."""

MAX_SIDE = 1_000_000
"""Longest image side in pixels that is believed; no camera comes near."""

MAX_TEXT = 255
"""Characters that are believed of an identifier or a category's name. A sidecar repeats them in
each box, so one name of a megabyte would become gigabytes."""

MAX_PATH = 4096
"""Characters that are believed of a ``file_name`` with its folders."""

RecordId = int | str
"""COCO says integer; NOD writes file stems. ``5`` and ``"5"`` are different identifiers."""


def class_key(name: str) -> str:
    """What a class is known by, whatever its number: its name without case and outer spaces."""
    return name.strip().casefold()


def number_of(name: str) -> int:
    """The id of a class in a format that has names only: NOD's, or `OTHER_CATEGORY`."""
    key = class_key(name)
    return next((n for n, known in CLASS_NAMES.items() if known == key), OTHER_CATEGORY)


def _identifier(value: object) -> object:
    """Refuse what pydantic would take: true for 1, and identifiers without end."""
    if isinstance(value, bool):
        raise PydanticCustomError("identifier", "true and false are no identifiers")
    too_long = len(value) > MAX_TEXT if isinstance(value, str) else False
    if too_long or (isinstance(value, int) and abs(value) >= 10**MAX_TEXT):
        raise PydanticCustomError("identifier", "longer than 255 characters")
    return value


def _numbers(value: object) -> object:
    """Refuse true and false, which pydantic takes for 1 and 0, as numbers of a list."""
    if isinstance(value, list) and any(isinstance(number, bool) for number in value):
        raise PydanticCustomError("number", "true and false are no numbers")
    return value


def _number(value: object) -> object:
    return _numbers([value]) and value


_InputId = Annotated[RecordId, BeforeValidator(_identifier)]
_Side = Annotated[int, BeforeValidator(_number), Field(gt=0, le=MAX_SIDE)]


class _InputModel(BaseModel):
    """What annotation files contain; unknown keys are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class CocoCategory(_InputModel):
    """One entry of ``categories``."""

    id: _InputId
    name: str = Field(max_length=MAX_TEXT)


class CocoImage(_InputModel):
    """One entry of ``images``; ``width`` and ``height`` in pixels of the annotated frame."""

    id: _InputId
    file_name: str = Field(min_length=1, max_length=MAX_PATH)
    width: _Side
    height: _Side


def _is_given(segmentation: object, others: ValidationInfo) -> bool:
    """A file of polygons is mostly polygons, and nothing here draws them: keep one bit.

    Of a box without area the shape is what counts: then the record is rejected, to be looked at
    as a whole.
    """
    _, _, width, height = others.data.get("bbox", (0, 0, 1, 1))
    if segmentation and not (0 < width < math.inf and 0 < height < math.inf):
        raise PydanticCustomError("no_box", "the bbox has no area, though there is a shape")
    return bool(segmentation)


def _is_set(value: object) -> bool:
    """COCO does not know this key: what cannot be read as set is not."""
    return isinstance(value, bool | int | float) and value == 1


class CocoAnnotation(_InputModel):
    """One entry of ``annotations``.

    ``bbox`` is COCO ``[x, y, width, height]`` in pixels, origin at the top-left corner of the
    annotated frame. Any four numbers are read, NaN and infinities too; whether they make a box is
    decided later, where the frame is known. ``segmentation`` tells only whether there is a mask:
    then ``area`` is the mask's, not the box's. ``ignore`` is no key of COCO's, but common:
    converted files mark so what other sets call difficult, or do not care about.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    #: The keys that are conditions of a box.
    flag_names: ClassVar[tuple[str, ...]] = FLAG_NAMES

    id: _InputId
    image_id: _InputId
    category_id: _InputId
    bbox: Annotated[tuple[float, float, float, float], BeforeValidator(_numbers)]
    iscrowd: bool = False
    ignore: Annotated[bool, BeforeValidator(_is_set)] = False
    area: float | None = None
    segmentation: Annotated[bool, BeforeValidator(_is_given)] = False

    @property
    def flags(self) -> dict[str, bool]:
        """The conditions of `flag_names` that the record gives as true/false or 1/0."""
        extra = self.model_extra
        if not extra:
            return {}
        return {name: bool(extra[name]) for name in self.flag_names if extra.get(name) in (0, 1)}

    @property
    def unreadable_flags(self) -> tuple[str, ...]:
        """Names of `flag_names` that are present but neither true nor false (nor null)."""
        extra = self.model_extra
        if not extra:
            return ()
        return tuple(name for name in self.flag_names if extra.get(name) not in (0, 1, None))


class RejectedRecord(RootModel[Any]):
    """A record that does not fit its model, as it stood in the file."""

    def reason(self, model: type[BaseModel]) -> str:
        """Say in one line why ``model`` refuses this record: each field, and what it holds."""
        try:
            model.model_validate(self.root)
        except ValidationError as error:
            return "; ".join(
                f"{'.'.join(map(str, problem['loc'])) or 'record'}: "
                f"{problem['msg']}, found {shortened(problem['input'])}"
                for problem in error.errors(include_url=False)[:3]
            )
        return "not readable"

    def get(self, key: str) -> Any:
        """Return the record's value under ``key``, or None where it has none."""
        return self.root.get(key) if isinstance(self.root, dict) else None


_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 60


def shortened(value: object, limit: int = 60) -> str:
    """A value as Python writes it, cut; never the whole of something large."""
    text = _short.repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


_Record = TypeVar("_Record", bound=BaseModel)
_OrRejected = Annotated[_Record | RejectedRecord, Field(union_mode="left_to_right")]

COCO_IMAGES = TypeAdapter(list[_OrRejected[CocoImage]])
COCO_ANNOTATIONS = TypeAdapter(list[_OrRejected[CocoAnnotation]])
COCO_CATEGORIES = TypeAdapter(list[_OrRejected[CocoCategory]])
"""The lists of a COCO file, or any run of records out of them."""


def _json_number(value: float) -> float | str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


Coordinate = Annotated[
    float,
    Field(allow_inf_nan=True),
    PlainSerializer(_json_number, return_type=float | str, when_used="json"),
]
"""A float of an annotation, finite or not.

JSON has no NaN, so the three values that are no numbers are written as the strings ``"NaN"``,
``"Infinity"`` and ``"-Infinity"``, and read back from them.
"""


class _Noticed(Protocol):
    """The part of a `Finding` by which a box is judged."""

    @property
    def code(self) -> str: ...
    @property
    def severity(self) -> Severity: ...


class _Judged(Protocol):
    """The part of a `Box` by which it is judged."""

    @property
    def iscrowd(self) -> bool: ...
    @property
    def ignore(self) -> bool: ...
    @property
    def findings(self) -> Sequence[_Noticed]: ...


#: Errors of a box that has its place and its size all the same. (Crowds are no errors any more,
#: but stand so in older stores.)
_STILL_A_REGION = frozenset({FindingCode.UNKNOWN_CATEGORY, FindingCode.CROWD})


def is_trainable(box: _Judged) -> bool:
    """See `Box.trainable`."""
    return not (box.iscrowd or box.ignore or _errors(box))


def is_ignored(box: _Judged) -> bool:
    """See `Box.ignored`."""
    return not is_trainable(box) and _errors(box) <= _STILL_A_REGION


def _errors(box: _Judged) -> set[str]:
    return {found.code for found in box.findings if found.severity is Severity.ERROR}


@dataclass(
    frozen=True,
    slots=True,
    kw_only=True,
    config=ConfigDict(extra="forbid", allow_inf_nan=False),
)
class Box:
    """One annotated box, exactly as given, with everything that was noticed about it.

    A dataclass with slots, because an ingest holds the boxes of all its raws: a model takes
    1.4 kB, this takes 0.4.

    Attributes
    ----------
    annotation_id
        Identifier in its own file; identifiers restart in every file, so it names nothing alone.
    category_id
        The category's identifier in the file, whatever other files call it; by `number_of` in
        formats that have names only.
    category
        The category's name in the file, or its identifier where the file names none. The name
        alone says which class a box is of: compare by `class_key`.
    bbox
        COCO ``(x, y, width, height)`` in pixels of the annotated frame (the camera JPEG's), origin
        at the frame's top-left corner, edges at real-valued positions: a box covers ``x`` to
        ``x + width``, so ``x + width == frame width`` is inside. Unclipped and unrounded; may hold
        NaN or infinities (see `Coordinate`), which then are findings.
    iscrowd
        True for a region of many objects; never trained on, see `ignored`.
    ignore
        True for an object that its annotators do not want to be judged by (VOC's ``difficult``);
        never trained on, see `ignored`.
    area
        Area in pixels as the file gives it, None where it gives none or no finite one.
    flags
        Conditions such as ``isextreme``, where the file has them.
    findings
        What the checks noticed.
    """

    annotation_id: RecordId
    category_id: RecordId
    category: str = ""
    bbox: tuple[Coordinate, Coordinate, Coordinate, Coordinate]
    iscrowd: bool = False
    area: float | None = None
    flags: dict[str, bool] = Field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    ignore: bool = False

    @model_serializer(mode="wrap")
    def _without_later(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As `GrownModel` does: boxes that are not ignored are written as before."""
        made: dict[str, Any] = handler(self)
        if not self.ignore:
            made.pop("ignore", None)
        return made

    @property
    def trainable(self) -> bool:
        """True for a target: one object, of a class that is known, with an area in its frame."""
        return is_trainable(self)

    @property
    def ignored(self) -> bool:
        """True for a region that is neither target nor background."""
        return is_ignored(self)

    @property
    def label(self) -> int:
        """`category_id` as an int64; `OTHER_CATEGORY` for text, and for numbers beyond it."""
        number = self.category_id
        fits = isinstance(number, int) and -(2**63) <= number < 2**63
        return number if fits and isinstance(number, int) else OTHER_CATEGORY


class ImageAnnotation(StrictModel):
    """What an annotation file says about one image.

    Attributes
    ----------
    file
        Name of the annotation file.
    image_id
        Identifier in that file, of the type it has there.
    file_name
        Name of the annotated image, without folders.
    width, height
        Size in pixels of the annotated frame.
    split
        ``"train"``, ``"val"``, ``"test"``, another name given by the user, or None.
    boxes
        All boxes in file order, also those that cannot be trained on.
    """

    file: str
    image_id: RecordId
    file_name: str = Field(min_length=1)
    width: int = Field(gt=0)
    height: int = Field(gt=0)
    split: str | None = None
    boxes: tuple[Box, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the annotated frame."""
        return self.width, self.height
