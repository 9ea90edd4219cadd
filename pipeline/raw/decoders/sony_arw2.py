"""Sony's ARW2, one byte a sample: what its blocks may hold, and their samples, four times faster.

A row is a sequence of blocks of 16 bytes: of every 32 samples the even ones, then the odd ones. As
a little-endian number a block is (LibRaw sony_arw2_load_raw):

    11 bits  the largest of its 16 codes
    11 bits  the smallest
     4 bits  the place of the largest
     4 bits  the place of the smallest
    14 x 7   the other codes, in order: how far above the smallest, in steps of 1, 2, 4, 8 or 16,
             the least with which the largest could be written

A tone curve, given by four corners in the file, turns codes into samples. Other decoders
take the bits one by one and find out the place of each code; here a table says where the fourteen
codes belong.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.errors import CorruptRawError
from pipeline.raw.facts import COPY_AGAIN, MAX_SAMPLES
from pipeline.raw.tiff import TiffFacts, TiffImage, is_arw2
from pipeline.runtime.compiled import compiled

U16 = npt.NDArray[np.uint16]
U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]

_BLOCK: Final = 16
#: Samples of two blocks: whole rows are made of these.
_COLUMNS: Final = 32
_CODES: Final = 1 << 11
_LAST_CORNER: Final = 4095

_compiled = compiled(nogil=True, error_model="numpy")


def impossible_blocks(data: bytes, facts: TiffFacts) -> int:
    """Blocks that no encoder writes; 0 for other formats.

    The places of the largest and of the smallest sample differ. In lost data, be it zeros or 0xff,
    they do not; in garbage not in one block of 16.
    """
    found = 0
    for image in facts.raw_images:
        if is_arw2(facts, image) and len(image.offsets) == len(image.byte_counts) == 1:
            blocks = image.byte_counts[0] // _BLOCK
            coded = np.frombuffer(data, np.uint8, blocks * _BLOCK, image.offsets[0])
            found += _equal_places(coded.reshape(blocks, _BLOCK))
    return found


def arw2_image(facts: TiffFacts) -> TiffImage | None:
    """The one image of a file that `decode_arw2` can decode; None if there is none.

    Whole pairs of blocks a row, in one piece, and a tone curve that rises: what cameras write.
    """
    if len(facts.raw_images) != 1 or not is_arw2(facts, facts.raw_images[0]):
        return None
    image = facts.raw_images[0]
    stretches = _stretches(image.tone_corners)
    plain = len(image.offsets) == 1 and image.width % _COLUMNS == 0 and len(stretches) == 6
    small = image.width * image.height <= MAX_SAMPLES
    return image if plain and small and list(stretches) == sorted(stretches) else None


def decode_arw2(data: bytes, image: TiffImage, *, path: str) -> U16:
    """Decode the mosaic.

    Parameters
    ----------
    data
        The file.
    image
        From `arw2_image`.

    Returns
    -------
    (height, width) uint16, all the sensor has, DN.

    Raises
    ------
    CorruptRawError
        If the file ends before the image does.
    """
    (offset,), samples = image.offsets, image.width * image.height
    if offset + samples > len(data):
        message = f"truncated: its image ends at byte {offset + samples}, the file at {len(data)}"
        raise CorruptRawError(message, path=path, mend=COPY_AGAIN)
    words = np.frombuffer(data, np.uint8, samples, offset).view("<u8")
    mosaic = np.empty((image.height, image.width), np.uint16)
    pairs = words.reshape(image.height, image.width // _BLOCK, 2)
    _decode(pairs, _tone_curve(image.tone_corners), _places(), mosaic)
    return mosaic


@cache
def _tone_curve(corners: tuple[int, ...]) -> U16:
    """(2048,) samples by code: steps of 1, 2, 4, 8, 16 up to each corner (LibRaw tag 0x7010)."""
    ends = _stretches(corners)
    steps = np.repeat(1 << np.arange(len(ends) - 1), np.diff(ends))
    curve = np.concatenate([[0], np.cumsum(steps)])
    return curve[: 2 * _CODES : 2].astype(np.uint16)


def _stretches(corners: tuple[int, ...]) -> tuple[int, ...]:
    """Where the stretches of a tone curve begin and end; LibRaw keeps 12 bits of a corner."""
    return (0, *(corner >> 2 & 0xFFF for corner in corners), _LAST_CORNER)


@cache
def _places() -> U8:
    """(256, 15) places of what follows a head, by the 8 bits that say where the extremes are.

    Fourteen places of the other codes. Then the largest's own; or, where both have the same place,
    the one that would stay empty.
    """
    places = np.empty((256, 15), np.uint8)
    for head in range(256):
        smallest, largest = divmod(head, 16)
        others = [place for place in range(16) if place not in (smallest, largest)]
        places[head] = (*others, largest)[:15]
    return places


@_compiled
def _decode(blocks: U64, curve: U16, places: U8, mosaic: U16) -> None:
    seven, eleven = np.uint64(0x7F), np.uint64(0x7FF)
    for y in range(mosaic.shape[0]):
        for number in range(blocks.shape[1]):
            line = mosaic[y, _COLUMNS * (number // 2) + number % 2 :]
            low, high = blocks[y, number]
            largest, smallest = low & eleven, low >> np.uint64(11) & eleven
            head = low >> np.uint64(22) & np.uint64(0xFF)
            place = places[head]
            span = np.int64(largest) - np.int64(smallest)
            shift = np.uint64((span >= 128) + (span >= 256) + (span >= 512) + (span >= 1024))
            rest = low >> np.uint64(30) | high << np.uint64(34)
            for k in range(9):
                code = ((rest & seven) << shift) + smallest
                line[2 * place[k]] = curve[min(code, eleven)]
                rest >>= np.uint64(7)
            rest = high >> np.uint64(29)
            for k in range(9, 14):
                code = ((rest & seven) << shift) + smallest
                line[2 * place[k]] = curve[min(code, eleven)]
                rest >>= np.uint64(7)
            line[2 * place[14]] = curve[largest]
            line[2 * (head >> np.uint64(4))] = curve[smallest]
            line[2 * (head & np.uint64(0xF))] = curve[largest]


@_compiled
def _equal_places(blocks: U8) -> int:
    """In how many blocks, (n, 16) uint8, the largest and the smallest have the same place."""
    found = 0
    for block in range(blocks.shape[0]):
        high, highest = blocks[block, 2], blocks[block, 3]
        found += (high >> 6 | (highest & 0x3) << 2) == (highest >> 2 & 0xF)
    return found
