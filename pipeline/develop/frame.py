"""Which part of the sensor a sample shows: the frame the boxes were drawn in.

Boxes live in the frame of the camera's own JPEG, not in the raw frame. So the camera's crop is
used, turned by the orientation flag if, and only if, the turned frame is the annotated one.
"""

from __future__ import annotations

from typing import get_args

from pipeline.errors import FrameMismatchError, UnsupportedRawError
from pipeline.raw.facts import Geometry
from schemas.finding import Finding
from schemas.finding_codes import FindingCode
from schemas.sidecar import QUARTER_TURNED, CropSource, Frame, Orientation, Rect

Size = tuple[int, int]

_UNSCALED = (1.0, 1.0)

#: A centred crop is accepted up to this difference per axis, in pixels and as a share of the active
#: area ("a few tens of pixels and a few per cent": Sony's RX100 VII has 24 or 0.7 %, Nikon's D750
#: in DX mode 32 or 0.8 %, old cameras 0.9 %).
MAX_CENTRED_DIFFERENCE = 64
MAX_CENTRED_SHARE = 0.04

#: A size of the frame's own shape is that of a crop rather than of a smaller copy up to this
#: share: cameras cut off less than 1 %, and nobody makes copies that are so little smaller.
MAX_CROP_OF_SAME_SHAPE = 0.015

#: Sides of smaller copies are rounded, in either direction.
ROUNDING = 1.0

#: A copy whose shape differs by more than this is another picture.
MAX_SHAPE_DIFFERENCE = 0.01

#: Copies down to this scale are believed. A picture larger than the frame is no copy: it is of
#: another camera, or what another program made of the sensor's margins.
SMALLEST_COPY = 1 / 64


def choose_frame(
    geometry: Geometry, annotation_size: Size | None = None, *, path: str = ""
) -> Frame:
    """Choose crop and orientation; the rules are in docs/reference/colour-and-frame.md.

    Parameters
    ----------
    geometry
        What the raw says; an orientation flag outside 1..8 counts as 1.
    annotation_size
        (width, height) the annotation states, or None for a raw without one.

    Raises
    ------
    FrameMismatchError
        If the annotation's size is neither that of the camera's crop, nor of a centred crop, nor
        of a copy of the frame at another scale.
    UnsupportedRawError
        If the crop holds no whole 2x2 cell.
    """
    flag = _known_orientation(geometry.orientation_flag)
    crop, source = _default_crop(geometry)
    orientation: Orientation = flag
    box_scale = _UNSCALED
    if annotation_size is not None:
        fitting = _orientation_that_fits(_size(crop), flag, annotation_size)
        if fitting is not None:
            orientation = fitting
        elif copy := _copy_of(geometry, crop, flag, annotation_size):
            orientation, box_scale = copy
        else:
            crop, orientation = _centred(geometry, flag, annotation_size, path)
            source = "centred"
    crop = _even(crop, path)
    return Frame(
        raw_size=geometry.raw_size,
        active_area=geometry.active_area,
        crop=crop,
        crop_source=source,
        orientation_flag=geometry.orientation_flag,
        orientation=orientation,
        size=turned(_size(crop), orientation),
        box_scale=box_scale,
    )


def turned(size: Size, orientation: Orientation) -> Size:
    """(width, height) after applying an EXIF orientation."""
    return (size[1], size[0]) if orientation in QUARTER_TURNED else size


def is_plain(frame: Frame) -> bool:
    """Whether `choose_frame` would choose the same frame without an annotation."""
    upright = frame.orientation == _known_orientation(frame.orientation_flag)
    return frame.crop_source != "centred" and upright


def frame_findings(frame: Frame, *, annotated: bool, where: str) -> tuple[Finding, ...]:
    """What a user should know about the choice: guesses by size, and ambiguous orientation."""
    findings = []
    if frame.crop_source == "centred":
        findings.append(
            FindingCode.CENTRED_CROP.finding(
                where=where,
                message="the file's own crop does not have the annotation's size; "
                "a centred crop does and was used",
            )
        )
    if frame.box_scale != _UNSCALED:
        across, down = frame.box_scale
        code = FindingCode.SIZE_GUESS if _is_guess(frame) else FindingCode.SCALED_BOXES
        why = " (a guess: it may be a crop, or of another shape)" if _is_guess(frame) else ""
        findings.append(
            code.finding(
                where=where,
                message=f"the annotated picture is a copy at {100 / across:.4g} % of the frame's "
                f"width and {100 / down:.4g} % of its height{why}; boxes are scaled",
            )
        )
    elif frame.crop_source == "centred" and _is_guess(frame):
        findings.append(
            FindingCode.SIZE_GUESS.finding(
                where=where,
                message="the annotated picture has the frame's shape: it was taken for a crop, "
                "and may be a slightly smaller copy",
            )
        )
    same_either_way = turned(_size(frame.crop), frame.orientation) == _size(frame.crop)
    if annotated and frame.orientation != 1 and same_either_way:
        findings.append(
            FindingCode.AMBIGUOUS_ORIENTATION.finding(
                where=where,
                message=f"orientation {frame.orientation} was applied, but the frame has the "
                "annotation's size either way",
            )
        )
    return tuple(findings)


def _known_orientation(flag: int) -> Orientation:
    for orientation in get_args(Orientation):
        if flag == orientation:
            return orientation  # type: ignore[no-any-return]
    return 1


def _default_crop(geometry: Geometry) -> tuple[Rect, CropSource]:
    crop, (raw_width, raw_height) = geometry.camera_crop, geometry.raw_size
    if crop is not None and crop.x + crop.width <= raw_width and crop.y + crop.height <= raw_height:
        return crop, "camera"
    return geometry.active_area, "active"


def _orientation_that_fits(size: Size, flag: Orientation, wanted: Size) -> Orientation | None:
    if turned(size, flag) == wanted:
        return flag
    return 1 if size == wanted else None


def _centred(
    geometry: Geometry, flag: Orientation, wanted: Size, path: str
) -> tuple[Rect, Orientation]:
    """A crop of the wanted size in the middle of the active area, upright or turned."""
    active_area, camera_crop = geometry.active_area, geometry.camera_crop
    for orientation in dict.fromkeys((flag, get_args(Orientation)[0])):
        width, height = turned(wanted, orientation)
        if _may_be_crop((width, height), active_area):
            x = active_area.x + (active_area.width - width) // 2
            y = active_area.y + (active_area.height - height) // 2
            return Rect(x=x - x % 2, y=y - y % 2, width=width, height=height), orientation
    crop = "none" if camera_crop is None else f"{camera_crop.width}x{camera_crop.height}"
    raise FrameMismatchError(
        f"annotated as {wanted[0]}x{wanted[1]}, but the camera's crop is {crop} and the active "
        f"area {active_area.width}x{active_area.height}: neither their size nor their shape",
        path=path,
        mend="check that the annotation belongs to this file; it may be of the camera's own JPEG, "
        "or of a smaller copy of the same shape",
    )


def _may_be_crop(size: Size, active_area: Rect) -> bool:
    """Whether a size is a few tens of pixels and a few per cent below that of the active area."""
    pairs = zip(size, _size(active_area), strict=True)
    return all(
        0 <= side - kept <= min(MAX_CENTRED_DIFFERENCE, MAX_CENTRED_SHARE * side)
        for kept, side in pairs
    )


def _copy_of(
    geometry: Geometry, crop: Rect, flag: Orientation, wanted: Size
) -> tuple[Orientation, tuple[float, float]] | None:
    """Orientation, and frame pixels per annotated pixel, of a copy at another scale; None where
    the size is no copy's, or rather that of a crop."""
    for orientation in dict.fromkeys((flag, get_args(Orientation)[0])):
        size, upright = _size(crop), turned(wanted, orientation)
        if not _is_copy(upright, size, exactly=False):
            continue
        if _may_be_crop(upright, geometry.active_area):
            no_copy = not _is_copy(upright, size, exactly=True)
            is_tiny = size[0] - upright[0] <= MAX_CROP_OF_SAME_SHAPE * size[0]
            if no_copy or (geometry.camera_crop is None and is_tiny):
                return None
        width, height = turned(size, orientation)
        return orientation, (width / wanted[0], height / wanted[1])
    return None


def _is_copy(copy: Size, size: Size, *, exactly: bool) -> bool:
    """Whether one size is the other at another scale: but for rounding, or nearly."""
    across, down = copy[0] / size[0], copy[1] / size[1]
    if not SMALLEST_COPY <= across <= 1 or down > 1:
        return False
    # One scale must explain both sides, each rounded up or down.
    rounding = ROUNDING / size[0] + ROUNDING / size[1]
    allowed = rounding if exactly else max(rounding, MAX_SHAPE_DIFFERENCE * across)
    return abs(across - down) <= allowed


def _is_guess(frame: Frame) -> bool:
    """Whether the annotated size of a scaled or cropped frame has another explanation, too."""
    active_area, (across, down) = frame.active_area, frame.box_scale
    if frame.crop_source == "centred":
        return _is_copy(_size(frame.crop), _size(active_area), exactly=True)
    annotated = round(frame.size[0] / across), round(frame.size[1] / down)
    upright = turned(annotated, frame.orientation)
    is_exact = _is_copy(upright, _size(frame.crop), exactly=True)
    return not is_exact or _may_be_crop(upright, active_area)


def _size(rect: Rect) -> Size:
    return rect.width, rect.height


def _even(crop: Rect, path: str) -> Rect:
    """Even origin (keeps the CFA phase) and even size (whole 2x2 cells)."""
    x, y = crop.x + crop.x % 2, crop.y + crop.y % 2
    width, height = crop.width - crop.x % 2, crop.height - crop.y % 2
    if min(width, height) < 2:
        raise UnsupportedRawError(
            f"its crop is {crop.width}x{crop.height}: nothing to keep",
            path=path,
            mend="leave this file out",
        )
    return Rect(x=x, y=y, width=width - width % 2, height=height - height % 2)
