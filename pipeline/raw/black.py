"""Whether the black level that a file states can be that of its samples.

A black level that nobody knows is stated as 0 while samples begin at 500, 1000 or 2000: stored like
that, the pedestal would be light. Three things tell, each a little:

- *Covered pixels* around the picture, where a file has them, measure black. They decide.
- *Half of the picture below black* is impossible: noise is as often above as below.
- *The darkest samples*, where they are far above black. A bright picture has such, too, so one
  picture proves nothing; all pictures of a camera do, the more of them there are (`BlackWatch`).

What none of these tells: a pedestal less than 1/64 of the range above a stated 0, in fewer than
`SHARED_BY` pictures without covered pixels; a level stated too low but not 0, or too high by less
than noise shows, in a file by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import UnsupportedRawError
from pipeline.raw.facts import LEAVE_OUT
from pipeline.raw.rows import count_samples
from schemas.finding import Finding
from schemas.finding_codes import FindingCode
from schemas.sidecar import Camera, Frame, Sensor

#: Darkest samples this share of the range above a black of 0 are far from it: 256 of 16383 DN. Most
#: cameras' pedestals are from 1/41 (400 DN) to 1/8 (2048 DN); two real pictures whose black is 0
#: have their darkest thousandth below 1/300 and 1/150.
FAR: Final = 1 / 64
#: A difference that is more than that of two exposures' black levels: 32 of 16383 DN.
NEAR: Final = 1 / 512
#: So far below black half of a picture cannot be: 64 of 16383 DN.
BELOW: Final = 1 / 256
#: So many pictures of one camera do not begin at the same brightness by chance.
SHARED_BY: Final = 8

#: Rows of a picture that are looked at, in pairs, and samples of covered pixels: enough for a
#: thousandth of them to be many.
_ROW_PAIRS: Final = 128
_COVERED: Final = 100_000
#: Fewer covered pixels than that prove nothing.
_FEWEST_COVERED: Final = 256


class Darkness(NamedTuple):
    """DN of a picture's dark samples: one in a thousand is below `darkest`, half below `middle`."""

    darkest: int
    middle: int


class Covered(NamedTuple):
    """What a strip of pixels beside the picture holds, DN: its median, and its middle half."""

    middle: float
    spread: float


def check_black(mosaic: npt.NDArray[np.uint16], frame: Frame, sensor: Sensor, *, path: str) -> int:
    """How dark a picture is; refuses one whose black level cannot be what it is said to be.

    Parameters
    ----------
    mosaic
        (raw height, raw width) uint16, the full sensor in DN.

    Returns
    -------
    DN that one sample in a thousand is below; the black level where covered pixels confirm that.

    Raises
    ------
    UnsupportedRawError
        If covered pixels contradict the black level, or half of the picture lies far below it.
    """
    seen = _darkness(mosaic, frame)
    black, span = max(sensor.black), sensor.white - min(sensor.black)
    if seen.middle < min(sensor.black) - BELOW * span:
        message = (
            f"half of its samples are below {seen.middle} DN, but its black level is said to be "
            f"{min(sensor.black):g}: that level is not this picture's"
        )
        raise UnsupportedRawError(message, path=path, mend=LEAVE_OUT)
    # A level that is not 0 was measured or looked up: a long exposure's dark current is no news.
    tolerance = NEAR if black == 0 else FAR
    confirmed = False
    for strip in _covered(mosaic, frame):
        if abs(strip.middle - black) <= max(2 * strip.spread, NEAR * span):
            confirmed = True
        elif _is_dark(strip, seen) and strip.middle - black > max(
            4 * strip.spread, tolerance * span
        ):
            message = (
                f"its covered pixels read {strip.middle:g} DN, but its black level is said to be "
                f"{black:g}: black is not known, and would be stored as light"
            )
            raise UnsupportedRawError(message, path=path, mend=LEAVE_OUT)
    return min(seen.darkest, int(black)) if confirmed else seen.darkest


def is_far_from_black(darkest: int, sensor: Sensor) -> bool:
    """Whether a picture has nothing dark although its black level is stated as 0."""
    return max(sensor.black) == 0 and darkest > FAR * sensor.white


def no_dark_sample(darkest: int, sensor: Sensor, *, where: str) -> Finding:
    """The finding about one picture that `is_far_from_black`: true of bright ones, too."""
    return FindingCode.NO_DARK_SAMPLE.finding(
        where,
        f"its darkest samples are at {darkest} DN ({darkest / sensor.white:.1%} of white), its "
        "black level is said to be 0",
    )


@dataclass
class _Seen:
    """The pictures of one camera: their sources, and the range of their darkest samples in DN."""

    lowest: int
    highest: int
    names: set[str] = field(default_factory=set)


@dataclass
class BlackWatch:
    """Judges the black level of each camera by all its pictures in one ingest."""

    _seen: dict[tuple[Camera, tuple[float, ...], float], _Seen] = field(default_factory=dict)

    def note(self, name: str, camera: Camera, sensor: Sensor, darkest: int) -> None:
        """Take note of a picture: its source, and what `check_black` returned."""
        key = camera, sensor.black, sensor.white
        one = self._seen.setdefault(key, _Seen(darkest, darkest))
        one.names.add(name)  # a picture that is decoded again is one picture
        one.lowest, one.highest = min(one.lowest, darkest), max(one.highest, darkest)

    def findings(self) -> Iterator[Finding]:
        """One for each camera of whose pictures none is as dark as its black level."""
        for (camera, levels, white), seen in self._seen.items():
            black, span = max(levels), white - min(levels)
            above = seen.lowest - black
            far = black == 0 and above > FAR * span
            shared = (
                len(seen.names) >= SHARED_BY
                and above > NEAR * span
                and 4 * (seen.highest - seen.lowest) <= above
            )
            if far or shared:
                number = len(seen.names)
                yield FindingCode.DOUBTFUL_BLACK.finding(
                    where=min(seen.names),
                    message=f"{number} picture{'s' * (number > 1)} of {camera.model}: black is "
                    f"said to be {black:g} DN, but the darkest samples are at {seen.lowest} DN "
                    f"({above / span:.1%} of the range above black): either nothing in them is "
                    "dark, or black is not known and was stored as light",
                )


def _darkness(mosaic: npt.NDArray[np.uint16], frame: Frame) -> Darkness:
    crop = frame.crop
    every = max(1, crop.height // (2 * _ROW_PAIRS))
    counts = count_samples(mosaic, (crop.y, crop.x), (crop.height, crop.width), every)
    below = np.cumsum(counts, dtype=np.int64)
    total = int(below[-1])
    darkest, middle = np.searchsorted(below, [-(-total // 1000), -(-total // 2)])
    return Darkness(int(darkest), int(middle))


def _covered(mosaic: npt.NDArray[np.uint16], frame: Frame) -> Iterator[Covered]:
    """The strips outside the active area, but for those that hold one filler value."""
    area = frame.active_area
    right, bottom = area.x + area.width, area.y + area.height
    rows = slice(area.y, bottom)
    for strip in (
        mosaic[rows, : area.x],
        mosaic[rows, right:],
        mosaic[: area.y],
        mosaic[bottom:],
    ):
        if strip.size < _FEWEST_COVERED:
            continue
        samples = strip.reshape(-1)[:: max(1, strip.size // _COVERED)]
        low, first, middle, third, high = np.percentile(samples, [1, 25, 50, 75, 99])
        if low < high:
            yield Covered(float(middle), float(third - first))


def _is_dark(strip: Covered, seen: Darkness) -> bool:
    """Whether a strip got no light: as dark as the darkest of the picture, which has some."""
    return (
        strip.middle <= seen.darkest + 3 * strip.spread
        and seen.middle >= strip.middle + 4 * strip.spread
    )
