"""What lost image data look like where formats carry no checksum: in the code, and in the mosaic.

Everything here is either impossible for a whole file, so that it may be refused, or merely unusual,
so that the other decoder is asked. Containers are `tiff`'s.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import CorruptRawError
from pipeline.raw.decoders.nikon_lossless import fills_its_strip
from pipeline.raw.decoders.table import entry_of
from pipeline.raw.facts import COPY_AGAIN, DecodedRaw, largest_code, usual_largest
from pipeline.raw.rows import inspect_rows
from pipeline.raw.tiff import NIKON_COMPRESSED, UNCOMPRESSED, TiffFacts, read_tiff
from schemas.sidecar import Frame, Sensor

#: Sensors saturate below the format's white: Sony's RX100 VII at 15360 of 16383, Nikon's D750 at
#: about 15520. A constant row above this share of white is an overexposed one.
SATURATION_SHARE = 0.9

#: Samples at the very end that are lost for sure: eight zeros where black is far above 0, or eight
#: samples that fall by one and the same amount.
_SURELY_LOST: Final = 8

#: Where black is 0 a dark corner is clipped to zeros, so more of them, and a sharp edge, are asked.
_CLIPPED_RUN: Final = 16

#: Zero bits read as Nikon's code say "127 less than the last of this colour" (31 less for 12 bits).
_FALL: Final = 16


class Brightest(NamedTuple):
    """The largest sample of a frame in DN, and the share of samples above `usual_largest`."""

    largest: int
    share_above: float


def check_mosaic(decoded: DecodedRaw, frame: Frame, sensor: Sensor, *, path: str) -> Brightest:
    """Refuse pixels no sensor gives: what a decoder leaves when it ran out of data.

    Raises
    ------
    CorruptRawError
        If the mosaic has another size than announced, rows repeat or are blank, its end is what
        decoders make of no data, no sample is above black, or samples exceed the largest code of
        the format.
    """
    height, width = decoded.mosaic.shape
    if (width, height) != frame.raw_size:
        message = f"decoded to {width}x{height}, but the file announces {frame.raw_size}"
        raise CorruptRawError(message, path=path, mend=COPY_AGAIN)
    crop = frame.crop
    # A constant row is believed where it is saturated, or where black is 0 and it is clipped to it.
    darkest = SATURATION_SHARE * sensor.white if min(sensor.black) > 0 else 0
    part = decoded.mosaic[crop.y : crop.y + crop.height, crop.x : crop.x + crop.width]
    largest, above, repeated, blank = inspect_rows(
        decoded.mosaic,
        (crop.y, crop.x),
        (crop.height, crop.width),
        int(darkest),
        usual_largest(sensor.white),
    )
    if largest <= max(sensor.black):
        message = f"no sample is above the black level (largest {largest} DN): no image data"
    elif repeated or blank:
        message = (
            f"{repeated + blank} of {crop.height} rows are blank or repeat the row above: "
            "the data ends early or was lost"
        )
    elif lost := lost_samples(part, min(sensor.black)):
        message = f"the last {lost} samples or more are no image: the data ends early or was lost"
    elif largest > largest_code(sensor):
        most = largest_code(sensor)
        count = int(np.count_nonzero(part > most))
        message = (
            f"{count} of {part.size} samples ({count / part.size:.2g}) are above {most} DN, which "
            f"no data with white at {sensor.white:g} reach; the largest is {largest}: damaged"
        )
    else:
        return Brightest(largest, above / part.size)
    raise CorruptRawError(message, path=path, mend=COPY_AGAIN)


def may_hide_damage(data: bytes, decoded: DecodedRaw, *, path: str) -> bool:
    """Whether the reference has to be asked about what another decoder made of a file.

    That is so for decoders that may pass over damage, where there are signs of it: `is_doubtful`.
    """
    if entry_of(decoded.decoder).finds_all_damage:
        return False
    facts = read_tiff(data, path=path)
    return facts is not None and is_doubtful(decoded, facts)


def lost_samples(part: npt.NDArray[np.uint16], black: float) -> int:
    """How many samples at the end of a mosaic's crop are what a decoder makes of no data.

    Samples are stored row by row, so data that end early always cost the last ones.

    Parameters
    ----------
    part
        (height, width) uint16: the crop.
    black
        Lowest black level, DN.
    """
    zeros = _zeros_at_end(part)
    if zeros >= _SURELY_LOST and black > 0:
        return zeros
    if zeros >= _CLIPPED_RUN and _ends_sharply(part, zeros):
        return zeros
    line = part[-1].astype(np.int32)
    falls = (line[:-2] - line[2:])[-_SURELY_LOST:]
    fall = falls.max(initial=0)
    # flashraw clamps what falls below 0.
    lost = (falls == fall) | ((line[2:][-_SURELY_LOST:] == 0) & (black > 0))
    all_lost = fall >= _FALL and len(falls) == _SURELY_LOST and bool(lost.all())
    return _SURELY_LOST if all_lost else 0


def _zeros_at_end(part: npt.NDArray[np.uint16]) -> int:
    height, width = map(int, part.shape)
    rows = 0
    while rows < height and not part[height - 1 - rows].any():
        rows += 1
    if rows == height:
        return rows * width
    partly = part[height - 1 - rows][::-1]
    return rows * width + int(np.argmax(partly != 0))


def _ends_sharply(part: npt.NDArray[np.uint16], zeros: int) -> bool:
    """Whether zeros to the end begin where the rows above, of the same colours, have light.

    Darkness that a camera clips to 0 has no such edge: its noise leaves samples above 0 on one
    side, and zeros on the other.
    """
    height, width = part.shape
    row, column = divmod(height * width - zeros, width)
    if width - column < _CLIPPED_RUN:
        row, column = row + 1, 0
    if not 2 <= row < height:
        return False
    above = part[row - 2][column:]
    return 2 * int(np.count_nonzero(above)) > int(above.size)


def is_doubtful(decoded: DecodedRaw, facts: TiffFacts) -> bool:
    """Whether flashraw may have gone over damage that LibRaw refuses.

    In Nikon's code it clamps samples that leave the range, and fills up a last row whose data end
    early. Either shows: as zeros where black is above 0, or in that the samples need more bits, or
    far fewer, than the file holds. Both are possible in whole files (a very high ISO; a camera that
    pads). Plain samples of more bits than the file says are for LibRaw to judge, too.
    """
    for image in facts.raw_images:
        if image.compression == UNCOMPRESSED and image.bits_per_sample < 16:
            return int(decoded.mosaic.max()) >> image.bits_per_sample > 0
        if image.compression == NIKON_COMPRESSED:
            clamped = min(decoded.levels.black) > 0 and int(decoded.mosaic.min()) == 0
            return clamped or not fills_its_strip(decoded.mosaic, facts, image)
    return False
