"""The picture a raw converter shows of a sample when nobody touches a slider: LibRaw's defaults.

As-shot white balance, automatic brightening, sRGB, 8 bits: what a detector usually gets to see. The
picture is cut, turned and reduced exactly as the sample's level was, so the same boxes fit it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.console.progress import PlainReporter
from pipeline.develop.frame import turned
from pipeline.develop.resample import AxisWeights
from pipeline.develop.steps import upright
from pipeline.errors import UnsupportedRawError, UsageError
from pipeline.ingest.recognise import recognise, with_samples
from pipeline.ingest.store_state import read_state
from pipeline.raw.decoders.libraw import default_picture
from pipeline.raw.facts import LEAVE_OUT
from pipeline.raw.reader import check_container
from pipeline.sources.discover import discover
from pipeline.sources.source import Source
from pipeline.store.reader import Store, open_store
from schemas.recipe import LevelName
from schemas.sidecar import Frame

#: Sensor sites along one side of a picture's pixel: LibRaw makes one of each 2x2 cell.
CELL = 2

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class CameraPictures:
    """Makes the camera-default picture of a sample when asked for it; nothing is kept.

    Attributes
    ----------
    store
        Where the samples are.
    level
        Whose size and crop the pictures have.
    sources
        The raw of each sample, by the store's id.
    """

    store: Store
    level: LevelName
    sources: Mapping[str, Source]

    def __call__(self, sample_id: str) -> FloatArray:
        """(3, h, w) float32 sRGB in 0..1, of the level's shape.

        Raises
        ------
        SourceError
            If the raw cannot be read or decoded; names it.
        UsageError
            If it is not the raw the sample was made from.
        """
        sidecar, source = self.store.sidecar(sample_id), self.sources[sample_id]
        data = source.read_bytes()
        if hashlib.sha256(data).hexdigest() != sidecar.source.sha256:
            message = f"it is not the raw that sample {sample_id} was made from"
            mend = "name the folder that was ingested, or ingest it again"
            raise UsageError(message, path=source.label, mend=mend)
        check_container(data, path=source.label)
        picture = default_picture(data, path=source.label)
        _, height, width = sidecar.levels[self.level].shape
        return to_level(picture, sidecar.frame, (width, height), path=source.label)


def camera_pictures(
    path: str, split: str | None, level: LevelName, inputs: Sequence[str]
) -> CameraPictures:
    """Find the raw of every sample of a split, as an ingest would.

    Raises
    ------
    UsageError
        If a sample has no raw among `inputs`: scores are compared over the same images.
    NoStoreError
        If there is no store.
    """
    store = open_store(path)
    silent = PlainReporter(lambda _: None)
    state = read_state(store.files, silent, recheck=False)
    recognised = recognise(discover(inputs).raws, state, silent)
    raws = {sample.entry.key: one.given for one, sample in with_samples(recognised, state)}
    places = {name: store.entry(name).key for name in store.ids(split)}
    missing = [name for name, place in places.items() if place not in raws]
    if missing:
        raise UsageError(
            f"{len(missing)} of {len(places)} samples have no raw in --sources, {missing[0]} first",
            path=store.location,
            mend="name the folders they were ingested from",
        )
    return CameraPictures(store, level, {name: raws[place] for name, place in places.items()})


def to_level(
    picture: npt.NDArray[np.uint8], frame: Frame, size: tuple[int, int], *, path: str = ""
) -> FloatArray:
    """Cut a picture of the active area to the frame, reduce it to a level's size, turn it upright.

    Values are averaged by area as they are, gamma and all, as one reduces a JPEG.

    Parameters
    ----------
    picture
        (H, W, 3) uint8, one pixel for each 2x2 cell of the active area, not turned.
    frame
        What to keep and which way up.
    size
        (width, height) of the level, upright.
    path
        For messages.

    Returns
    -------
    (3, h, w) float32 in 0..1.

    Raises
    ------
    UnsupportedRawError
        If the picture does not show the active area, or the frame reaches beyond it.
    """
    area, crop = frame.active_area, frame.crop
    expected = (-(-area.height // CELL), -(-area.width // CELL), 3)
    if picture.shape != expected:
        shape = f"{picture.shape[1]}x{picture.shape[0]}, expected {expected[1]}x{expected[0]}"
        message = f"LibRaw renders it as {shape}: pixels not square, or a tilted sensor"
        raise UnsupportedRawError(message, path=path, mend=LEAVE_OUT)
    left, top = crop.x - area.x, crop.y - area.y
    if (
        min(left, top) < 0
        or left + crop.width > CELL * picture.shape[1]
        or top + crop.height > CELL * picture.shape[0]
    ):
        message = "its frame reaches beyond the active area, which is all that LibRaw renders"
        raise UnsupportedRawError(message, path=path, mend=LEAVE_OUT)
    width, height = turned(size, frame.orientation)
    # Rows first: they are contiguous, and fewer columns are left to weigh.
    reduced = _average(picture, cell_weights(top, crop.height, height), axis=0)
    reduced = _average(reduced, cell_weights(left, crop.width, width), axis=1)
    planes = reduced.transpose(2, 0, 1)  # (3, h, w), not turned
    return np.ascontiguousarray(upright(planes, frame.orientation) / np.float32(255))


def cell_weights(start: int, length: int, n_out: int) -> AxisWeights:
    """Area weights of 2-site cells for `n_out` equal parts of a stretch of sites.

    An odd `start` splits cells: an even crop in an active area that begins on an odd site.

    Parameters
    ----------
    start, length
        The stretch, in sites from the first cell's edge.
    n_out
        Parts; at most one a cell.
    """
    # Whole numbers, in units of 1/n_out of a site, keep the overlaps exact.
    begin = start * n_out + np.arange(n_out, dtype=np.int64) * length
    end, cell_size = begin + length, CELL * n_out
    first = begin // cell_size
    taps = int(((end - 1) // cell_size - first).max()) + 1
    cell = first[:, None] + np.arange(taps)
    overlap = np.minimum((cell + 1) * cell_size, end[:, None]) - np.maximum(
        cell * cell_size, begin[:, None]
    )
    return AxisWeights(first, (np.maximum(overlap, 0) / length).astype(np.float32))


def _average(values: npt.NDArray[np.number], weights: AxisWeights, axis: int) -> FloatArray:
    """Weigh along axis 0 or 1 of (H, W, 3); float32."""
    last = values.shape[axis] - 1
    shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
    out = np.zeros((), np.float32)
    for tap in range(weights.weights.shape[1]):
        # A tap beyond the edge has weight 0: which pixel it names does not matter.
        part = np.take(values, np.minimum(weights.first + tap, last), axis=axis)
        out = out + part * weights.weights[:, tap].reshape(shape)
    return out
