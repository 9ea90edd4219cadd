"""Whether the black level that a file states can be that of its samples.

A black level that nobody knows is stated as 0 while samples begin at 500, 1000 or 2000: stored like
that, the pedestal would be light. Three things tell, each a little:

- *Covered pixels* around the picture, where a file has them, measure black. They decide, where the
  file states 0; a level that is not 0 was measured or looked up by somebody.
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

#: Pairs of rows of a picture that are looked at: a thousandth of their samples are still many.
_ROW_PAIRS: Final = 128
#: Samples of a strip beside the picture that are looked at; fewer than the second prove nothing.
_ENOUGH: Final = 100_000
_FEWEST: Final = 256
#: Rows or columns of the picture that are compared with the strip beside them: two cells.
_BESIDE: Final = 4


class Darkness(NamedTuple):
    """DN of a picture's dark samples: one in a thousand is below `darkest`, half below `middle`."""

    darkest: int
    middle: int


class Strip(NamedTuple):
    """Pixels outside the active area, on one side of it: covered, lit, or nobody knows what.

    In DN: their median, how wide their middle half is, and the median of the picture beside them.
    """

    middle: float
    spread: float
    beside: float

    def is_covered(self, seen: Darkness) -> bool:
        """Whether it got no light: as dark as the picture's darkest, with a step to the picture.

        Lit pixels, of which LibRaw leaves some columns out of some cameras' pictures, have no step.
        """
        return (
            self.middle <= seen.darkest + 3 * self.spread
            and self.beside >= self.middle + 4 * self.spread
        )


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
    confirmed = False
    for strip in _strips(mosaic, frame):
        if abs(strip.middle - black) <= NEAR * span:
            confirmed = True
        elif (
            black == 0 and strip.middle > max(strip.spread, NEAR * span) and strip.is_covered(seen)
        ):
            message = (
                f"its covered pixels read {strip.middle:g} DN, but its black level is said to be "
                "0: black is not known, and would be stored as light"
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


def _strips(mosaic: npt.NDArray[np.uint16], frame: Frame) -> Iterator[Strip]:
    """Those on the four sides of the active area that have the noise of a sensor: no filler."""
    area = frame.active_area
    active = mosaic[area.y : area.y + area.height, area.x : area.x + area.width]
    rows = mosaic[area.y : area.y + area.height]
    for strip, beside in (
        (rows[:, : area.x], active[:, :_BESIDE]),
        (rows[:, area.x + area.width :], active[:, -_BESIDE:]),
        (mosaic[: area.y], active[:_BESIDE]),
        (mosaic[area.y + area.height :], active[-_BESIDE:]),
    ):
        if strip.size < _FEWEST:
            continue
        samples = strip.reshape(-1)[:: max(1, strip.size // _ENOUGH)]
        first, middle, third = np.percentile(samples, [25, 50, 75])
        if first < third:
            yield Strip(float(middle), float(third - first), float(np.median(beside)))
