from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.develop.frame import choose_frame, frame_findings, turned
from pipeline.errors import FrameMismatchError, UnsupportedRawError
from pipeline.raw.cfa import PATTERNS, shifted
from pipeline.raw.facts import Geometry
from schemas.sidecar import Frame, Orientation, Rect

Size = tuple[int, int]
# Sony RX100 VII: JPEG crop (12, 12, 5472, 3648) on a sensor of 5504x3672, 5496 of it visible.
SONY_RAW, SONY_ACTIVE, SONY_CROP = (5504, 3672), (0, 0, 5496, 3672), (12, 12, 5472, 3648)
SONY_BOXES = (5472, 3648)
# Nikon D750 in DX mode, as users report it.
NIKON_RAW, NIKON_BOXES = (3968, 2640), (3936, 2624)


def rect(x: int, y: int, width: int, height: int) -> Rect:
    return Rect(x=x, y=y, width=width, height=height)


def frame_of(
    raw: Size,
    *,
    active: tuple[int, int, int, int] | None = None,
    crop: tuple[int, int, int, int] | None = None,
    flag: int = 1,
    wanted: Size | None = None,
) -> Frame:
    camera_crop = None if crop is None else rect(*crop)
    geometry = Geometry(raw, rect(*(active or (0, 0, *raw))), camera_crop, flag)
    return choose_frame(geometry, wanted, path="DSC01088.ARW")


def test_the_cameras_crop_is_the_frame_of_the_boxes() -> None:
    frame = frame_of(SONY_RAW, active=SONY_ACTIVE, crop=SONY_CROP, wanted=SONY_BOXES)
    assert frame.crop == rect(*SONY_CROP)
    assert (frame.crop_source, frame.orientation, frame.size) == ("camera", 1, SONY_BOXES)
    assert (frame.raw_size, frame.active_area) == (SONY_RAW, rect(*SONY_ACTIVE))
    assert frame_findings(frame, annotated=True, where="a.ARW") == ()


def test_sony_without_a_crop_tag_is_cropped_in_the_middle_of_what_is_visible() -> None:
    frame = frame_of(SONY_RAW, active=SONY_ACTIVE, wanted=SONY_BOXES)
    assert frame.crop == rect(*SONY_CROP)
    assert frame.crop_source == "centred"


def test_nikon_dx_without_a_crop_tag_is_cropped_in_the_middle() -> None:
    frame = frame_of(NIKON_RAW, wanted=NIKON_BOXES)
    assert frame.crop == rect(16, 8, *NIKON_BOXES)
    assert frame.crop_source == "centred"


def test_a_centred_crop_is_reported() -> None:
    frame = frame_of(NIKON_RAW, wanted=NIKON_BOXES)
    (finding,) = frame_findings(frame, annotated=True, where="a.NEF")
    assert (finding.code, finding.severity.value, finding.where) == (
        *("centred-crop", "info"),
        "a.NEF",
    )


def test_a_crop_tag_of_another_size_than_the_boxes_gives_way_to_the_centre() -> None:
    frame = frame_of((400, 300), crop=(8, 8, 380, 280), wanted=(384, 288))
    assert frame.crop == rect(8, 6, 384, 288)
    assert frame.crop_source == "centred"


@pytest.mark.parametrize("flag", [6, 8])
def test_a_turned_frame_is_turned_when_that_is_the_annotated_one(flag: int) -> None:
    frame = frame_of((400, 300), crop=(8, 6, 360, 240), flag=flag, wanted=(240, 360))
    assert (frame.orientation, frame.size) == (flag, (240, 360))
    assert frame.crop == rect(8, 6, 360, 240)  # crops are in sensor coordinates
    assert frame_findings(frame, annotated=True, where="") == ()


@pytest.mark.parametrize("flag", [6, 8])
def test_a_turned_frame_stays_as_it_is_when_the_boxes_were_drawn_unturned(flag: int) -> None:
    frame = frame_of((400, 300), crop=(8, 6, 360, 240), flag=flag, wanted=(360, 240))
    assert (frame.orientation, frame.orientation_flag, frame.size) == (1, flag, (360, 240))


@pytest.mark.parametrize("flag", [6, 8])
def test_a_centred_crop_is_turned_too(flag: int) -> None:
    frame = frame_of((4000, 3000), flag=flag, wanted=(2980, 3976))
    assert frame.crop == rect(12, 10, 3976, 2980)
    assert (frame.orientation, frame.size) == (flag, (2980, 3976))


@pytest.mark.parametrize("flag", [6, 8])
def test_a_centred_crop_stays_as_it_is_when_the_boxes_were_drawn_unturned(flag: int) -> None:
    frame = frame_of((4000, 3000), flag=flag, wanted=(3976, 2980))
    assert frame.crop == rect(12, 10, 3976, 2980)
    assert (frame.orientation, frame.size) == (1, (3976, 2980))


def test_the_centre_is_that_of_the_active_area_not_of_the_sensor() -> None:
    frame = frame_of((4040, 3020), active=(40, 20, 4000, 3000), wanted=(3976, 2984))
    assert frame.crop == rect(52, 28, 3976, 2984)


def test_an_odd_centre_is_rounded_to_the_cell_before() -> None:
    frame = frame_of((4000, 3000), wanted=(3990, 2986))  # the middle is at (5, 7)
    assert frame.crop == rect(4, 6, 3990, 2986)


def test_upside_down_cannot_be_told_by_size_so_it_is_applied_and_reported() -> None:
    frame = frame_of((400, 300), flag=3, wanted=(400, 300))
    assert frame.orientation == 3
    (finding,) = frame_findings(frame, annotated=True, where="a.NEF")
    assert (finding.code, finding.severity.value) == ("ambiguous-orientation", "warning")
    assert frame_findings(frame, annotated=False, where="a.NEF") == ()


def test_a_square_frame_is_as_ambiguous() -> None:
    frame = frame_of((300, 300), flag=6, wanted=(300, 300))
    assert frame.orientation == 6
    codes = [finding.code for finding in frame_findings(frame, annotated=True, where="")]
    assert codes == ["ambiguous-orientation"]


@pytest.mark.parametrize("flag", [1, 3, 6, 8])
def test_a_raw_without_boxes_gets_its_crop_and_its_orientation(flag: int) -> None:
    frame = frame_of((400, 300), crop=(8, 6, 360, 240), flag=flag)
    assert (frame.crop, frame.orientation) == (rect(8, 6, 360, 240), flag)
    assert frame.size == ((240, 360) if flag in (6, 8) else (360, 240))


@pytest.mark.parametrize("flag", [0, 2, 4, 5, 7, 9, -1])
def test_orientations_no_camera_writes_count_as_upright(flag: int) -> None:
    frame = frame_of((400, 300), flag=flag)
    assert (frame.orientation, frame.orientation_flag) == (1, flag)


def test_a_raw_without_a_crop_is_what_the_decoder_calls_visible() -> None:
    frame = frame_of((400, 300), active=(4, 2, 390, 290))
    assert (frame.crop, frame.crop_source) == (rect(4, 2, 390, 290), "active")


@pytest.mark.parametrize("crop", [(8, 6, 393, 240), (8, 61, 360, 240), (65535, 65535, 10, 10)])
def test_a_crop_beyond_the_sensor_is_not_believed(crop: tuple[int, int, int, int]) -> None:
    assert frame_of((400, 300), crop=crop).crop_source == "active"


@pytest.mark.parametrize(
    ("wanted", "flag"),
    [
        pytest.param((200, 160), 1, id="another shape"),
        pytest.param((160, 200), 6, id="another shape, turned"),
        pytest.param((402, 300), 1, id="larger"),
        pytest.param((780, 580), 1, id="twice as large"),
        pytest.param((300, 400), 1, id="turned without a flag"),
        pytest.param((335, 300), 1, id="65 less"),
    ],
)
def test_an_annotation_of_another_frame_is_refused_naming_both_sizes(
    wanted: Size, flag: int
) -> None:
    with pytest.raises(FrameMismatchError) as caught:
        frame_of((400, 300), crop=(0, 0, 390, 290), flag=flag, wanted=wanted)
    for size in (wanted, (390, 290), (400, 300)):
        assert f"{size[0]}x{size[1]}" in caught.value.message
    assert caught.value.path == "DSC01088.ARW"


@pytest.mark.parametrize(
    ("crop", "even"),
    [
        ((7, 5, 101, 67), (8, 6, 100, 66)),
        ((7, 4, 100, 67), (8, 4, 98, 66)),
        ((6, 5, 101, 68), (6, 6, 100, 66)),
        ((8, 6, 100, 66), (8, 6, 100, 66)),
    ],
)
def test_odd_crops_shrink_to_whole_cells(
    crop: tuple[int, int, int, int], even: tuple[int, int, int, int]
) -> None:
    assert frame_of((400, 300), crop=crop).crop == rect(*even)


@pytest.mark.parametrize("crop", [(8, 6, 1, 40), (8, 6, 40, 1), (7, 6, 2, 40)])
def test_a_crop_without_a_whole_cell_is_refused(crop: tuple[int, int, int, int]) -> None:
    with pytest.raises(UnsupportedRawError, match="nothing to keep") as caught:
        frame_of((400, 300), crop=crop)
    assert caught.value.path == "DSC01088.ARW"


NEF_FRAME = (6016, 4016)


@pytest.mark.parametrize(
    ("wanted", "scale", "code"),
    [
        ((3008, 2008), (2, 2), "scaled-boxes"),
        ((5836, 3896), (6016 / 5836, 4016 / 3896), "scaled-boxes"),  # 97 %, rounded
        ((1920, 1282), (6016 / 1920, 4016 / 1282), "scaled-boxes"),
        ((1198, 800), (6016 / 1198, 4016 / 800), "scaled-boxes"),
        ((1920, 1280), (6016 / 1920, 4016 / 1280), "size-guess"),  # nearly its shape: 3:2
        ((5956, 3976), (6016 / 5956, 4016 / 3976), "size-guess"),  # 99 %, or 60 and 40 px cut off
    ],
)
@pytest.mark.parametrize("flag", [1, 8])
def test_a_smaller_copy_of_the_frame_scales_its_boxes(
    wanted: Size, scale: tuple[float, float], code: str, flag: int
) -> None:
    if flag == 8:
        wanted, scale = wanted[::-1], scale[::-1]
    frame = frame_of(NEF_FRAME, crop=(0, 0, *NEF_FRAME), flag=flag, wanted=wanted)
    assert frame.crop == rect(0, 0, *NEF_FRAME)
    assert frame.box_scale == pytest.approx(scale)
    assert frame.size == (NEF_FRAME if flag == 1 else NEF_FRAME[::-1])
    (finding,) = frame_findings(frame, annotated=True, where="a.NEF")
    assert finding.code == code


def test_a_copy_of_97_per_cent_of_a_small_frame_is_no_crop_though_few_pixels_are_missing() -> None:
    frame = frame_of((192, 128), wanted=(186, 124))
    assert (frame.size, frame.crop_source) == ((192, 128), "active")
    assert frame.box_scale == pytest.approx((192 / 186, 128 / 124))
    (finding,) = frame_findings(frame, annotated=True, where="a.NEF")
    assert (finding.code, finding.severity.value) == ("size-guess", "warning")


def test_a_crop_of_the_sensors_own_shape_is_a_crop_but_said_to_be_a_guess() -> None:
    frame = frame_of((6048, 4032), wanted=(6000, 4000))  # both 3:2, and the file names no crop
    assert (frame.crop, frame.box_scale) == (rect(24, 16, 6000, 4000), (1, 1))
    codes = [finding.code for finding in frame_findings(frame, annotated=True, where="")]
    assert codes == ["centred-crop", "size-guess"]


def test_a_frame_that_is_not_scaled_says_nothing_of_a_scale() -> None:
    """Sidecars written before keep their bytes."""
    scaled = frame_of(NEF_FRAME, wanted=(3008, 2008))
    assert "box_scale" not in frame_of(NEF_FRAME, wanted=NEF_FRAME).model_dump(mode="json")
    assert Frame.model_validate_json(scaled.model_dump_json()) == scaled


@st.composite
def geometries(draw: st.DrawFn) -> tuple[Size, tuple[int, int, int, int], tuple[int, ...] | None]:
    raw = draw(st.tuples(st.integers(40, 400), st.integers(40, 400)))

    def inside(smallest: int) -> tuple[int, int, int, int]:
        x, y = draw(st.integers(0, raw[0] - smallest)), draw(st.integers(0, raw[1] - smallest))
        width = draw(st.integers(smallest, raw[0] - x))
        return x, y, width, draw(st.integers(smallest, raw[1] - y))

    return raw, inside(4), inside(4) if draw(st.booleans()) else None


def fits_on_the_sensor(frame: Frame) -> bool:
    crop, (width, height) = frame.crop, frame.raw_size
    return crop.x + crop.width <= width and crop.y + crop.height <= height


@given(geometry=geometries(), flag=st.integers(-1, 9), data=st.data())
@settings(max_examples=400, deadline=None)
def test_a_chosen_frame_lies_on_the_sensor_and_holds_whole_cells(
    geometry: tuple[Size, tuple[int, int, int, int], tuple[int, int, int, int] | None],
    flag: int,
    data: st.DataObject,
) -> None:
    raw, active, crop = geometry
    less = st.integers(-2, 70)
    candidates = [active[2:], active[2:][::-1], raw, *([] if crop is None else [crop[2:]])]
    base = data.draw(st.sampled_from(candidates))
    wanted = data.draw(
        st.none()
        | st.builds(lambda dx, dy: (max(2, base[0] - dx), max(2, base[1] - dy)), less, less)
    )
    try:
        frame = frame_of(raw, active=active, crop=crop, flag=flag, wanted=wanted)
    except FrameMismatchError:
        assume(False)
        raise
    assert fits_on_the_sensor(frame)
    assert [value % 2 for value in (frame.crop.x, frame.crop.y)] == [0, 0]
    assert [value % 2 for value in (frame.crop.width, frame.crop.height)] == [0, 0]
    assert frame.size == turned((frame.crop.width, frame.crop.height), frame.orientation)
    if wanted is not None and frame.box_scale != (1, 1):
        kept = [scale * side for scale, side in zip(frame.box_scale, wanted, strict=True)]
        assert all(0 <= whole - side < 3 for whole, side in zip(kept, frame.size, strict=True))
    elif wanted is not None:  # up to the odd row or column that is no whole cell
        assert all(0 <= w - s <= 2 for w, s in zip(wanted, frame.size, strict=True))
        if all(side % 2 == 0 for side in wanted) and frame.crop_source == "centred":
            assert frame.size == wanted
    for pattern in PATTERNS:
        assert shifted(pattern, x=frame.crop.x, y=frame.crop.y) == pattern


@pytest.mark.parametrize(
    ("orientation", "expected"), [(1, (6, 4)), (3, (6, 4)), (6, (4, 6)), (8, (4, 6))]
)
def test_a_quarter_turn_swaps_width_and_height(orientation: Orientation, expected: Size) -> None:
    assert turned((6, 4), orientation) == expected
