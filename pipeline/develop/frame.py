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
from schemas.sidecar import CropSource, Frame, Orientation, Rect

Size = tuple[int, int]

#: A centred crop is accepted up to this difference per axis ("a few tens of pixels": Sony's
#: RX100 VII has 24, Nikon's D750 in DX mode 32).
MAX_CENTRED_DIFFERENCE = 64


def choose_frame(
    geometry: Geometry, annotation_size: Size | None = None, *, path: str = ""
) -> Frame:
    """Choose crop and orientation; the rules are in docs/reference/colour-and-frame.md.

    Parameters
    ----------
    geometry
        What the raw says; an orientation flag other than 1, 3, 6, 8 counts as 1.
    annotation_size
        (width, height) the annotation states, or None for a raw without one.

    Raises
    ------
    FrameMismatchError
        If neither the camera's crop nor a centred crop has the annotation's size.
    UnsupportedRawError
        If the crop holds no whole 2x2 cell.
    """
    flag = _known_orientation(geometry.orientation_flag)
    crop, source = _default_crop(geometry)
    orientation: Orientation = flag
    if annotation_size is not None:
        fitting = _orientation_that_fits(_size(crop), flag, annotation_size)
        if fitting is None:
            crop, orientation = _centred(geometry, flag, annotation_size, path)
            source = "centred"
        else:
            orientation = fitting
    crop = _even(crop, path)
    return Frame(
        raw_size=geometry.raw_size,
        active_area=geometry.active_area,
        crop=crop,
        crop_source=source,
        orientation_flag=geometry.orientation_flag,
        orientation=orientation,
        size=turned(_size(crop), orientation),
    )


def turned(size: Size, orientation: Orientation) -> Size:
    """(width, height) after applying an EXIF orientation."""
    return (size[1], size[0]) if orientation in (6, 8) else size


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
        spare_x, spare_y = active_area.width - width, active_area.height - height
        if 0 <= spare_x <= MAX_CENTRED_DIFFERENCE and 0 <= spare_y <= MAX_CENTRED_DIFFERENCE:
            x, y = active_area.x + spare_x // 2, active_area.y + spare_y // 2
            return Rect(x=x - x % 2, y=y - y % 2, width=width, height=height), orientation
    crop = "none" if camera_crop is None else f"{camera_crop.width}x{camera_crop.height}"
    raise FrameMismatchError(
        f"annotated as {wanted[0]}x{wanted[1]}, but the camera's crop is {crop} and the active "
        f"area {active_area.width}x{active_area.height}",
        path=path,
        mend="check that the annotation belongs to this file; sizes are never guessed",
    )


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
