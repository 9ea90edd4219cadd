"""Other exposures, more noise and other colours, as another sensor would have given them.

What is drawn for a sample is a pure function of (seed, epoch, position): batches, threads, ranks
and a run that is continued change nothing. The drawn numbers are the same on every device. The
noise of the single pixels comes from the device's own generator, seeded by the same three: on a
device it is always the same, on a CPU and a GPU (or two kinds of GPU) it differs.

Matrices are multiplied out in element-wise operations with numbers of the host: a matrix product's
last bit may depend on torch's threads, and nothing has to be sent to the device first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genisp_model.data.matrix_jitter import FloatArray, drawn_turns
from genisp_model.data.order import Purpose, random_bits, uniform
from genisp_model.data.sample_index import BRIGHTNESS_PLANE, SensorFacts

#: Shot noise is drawn between its bound and this share of it: 0.0001 of 0.012, see `noise_levels`.
_LEAST_SHOT = 1 / 120
#: log(read) = slope * log(shot) + offset, with this deviation.
_READ_SLOPE, _READ_OFFSET, _READ_DEVIATION = 2.18, 1.20, 0.26
#: Sites of R, G, B in a 2x2 cell.
_SITES = (1, 2, 1)

_NORMAL = NormalDist()


@dataclass(frozen=True)
class SensorAugment:
    """How far exposure and noise may be changed; 0 leaves each as it is.

    Attributes
    ----------
    exposure_stops
        The exposure changes by up to so many stops, darker or brighter.
    noise
        Largest shot noise that is added: the variance of one photosite at white, with white as 1.
    matrix_jitter
        How far XYZ is turned as if by another camera's matrix; 1: as far as cameras differ.
    """

    exposure_stops: float = 0.0
    noise: float = 0.0
    matrix_jitter: float = 0.0

    def __bool__(self) -> bool:
        """Whether it changes anything."""
        return self.exposure_stops > 0 or self.noise > 0 or self.matrix_jitter > 0

    def draw(
        self, positions: npt.ArrayLike, exposures: npt.ArrayLike, *, seed: int, epoch: int
    ) -> list[SensorChange]:
        """What happens to each sample of a batch.

        Parameters
        ----------
        positions
            (n,) integers, positions in the dataset.
        exposures
            (n,) 99th percentiles of Y, see `StoreDataset.exposure`. A picture is not brightened
            beyond the point where its percentile reaches white: nobody exposes like that.
        seed, epoch
            Any integers.
        """

        def drawn(purpose: Purpose) -> list[float]:
            numbers: list[float] = uniform(
                positions, seed=seed, epoch=epoch, purpose=purpose
            ).tolist()
            return numbers

        seeds = random_bits(positions, seed=seed, epoch=epoch, purpose=Purpose.PIXEL_NOISE).tolist()
        turns = drawn_turns(positions, self.matrix_jitter, seed=seed, epoch=epoch)
        return [
            SensorChange(
                self._gain(stops, exposure), *noise_levels(self.noise, shot, read), pixels, turn
            )
            for exposure, stops, shot, read, pixels, turn in zip(
                np.asarray(exposures, np.float64).tolist(),
                drawn(Purpose.EXPOSURE),
                drawn(Purpose.SHOT_NOISE),
                drawn(Purpose.READ_NOISE),
                seeds,
                [None] * len(seeds) if turns is None else turns,
                strict=True,
            )
        ]

    def _gain(self, drawn: float, exposure: float) -> float:
        gain = math.exp2(self.exposure_stops * (2 * drawn - 1))
        if gain > 1 and exposure > 0:
            return min(gain, max(1.0, 1 / exposure))
        return gain


UNCHANGED = SensorAugment()


@dataclass(frozen=True)
class SensorChange:
    """What happens to one sample.

    Attributes
    ----------
    gain
        The signal is multiplied by it; 1 for no change.
    shot, read
        Variance of a photosite that is added: ``shot * signal + read``, with white as 1.
    noise_seed
        Of the pixels' noise, 64 bits.
    turn
        (3, 3), what XYZ is multiplied by at last; None for no change.
    """

    gain: float
    shot: float
    read: float
    noise_seed: int
    turn: FloatArray | None = None

    def apply(self, image: Tensor, facts: SensorFacts, *, is_camera: bool = False) -> None:
        """Change an image where it is.

        Parameters
        ----------
        image
            (3, h, w) float32 as stored, unclipped: XYZ, or camera RGB.
        facts
            What it was made with.
        is_camera
            Whether it is camera RGB, which no `turn` is for.
        """
        if self.shot > 0 or self.read > 0 or self.gain > 1:
            if is_camera:
                self._expose(image, facts)
                return
            to_camera = np.array(facts.xyz_to_camera, np.float64)
            camera = mixed(to_camera, image)
            self._expose(camera, facts)
            back = np.linalg.inv(to_camera).astype(np.float64)
            image.copy_(mixed(back if self.turn is None else self.turn @ back, camera))
            return
        if self.gain < 1:  # nothing can be clipped
            image *= self.gain
        if self.turn is not None:
            image.copy_(mixed(self.turn, image))

    def _expose(self, camera: Tensor, facts: SensorFacts) -> None:
        """Change camera RGB (3, h, w) where it is: the light, the noise, then the sensor's limits.

        What was above white before (hot pixels, a table's white below the sensor's) may stay there.
        """
        generator = torch.Generator(camera.device).manual_seed(self.noise_seed)
        for channel, sites in zip(camera, _SITES, strict=True):
            limit = channel.clamp(min=1)
            channel *= self.gain
            if self.shot > 0 or self.read > 0:
                variance = channel.clamp(min=0).mul_(self.shot / sites).add_(self.read / sites)
                channel += _noise(channel, facts.taps, generator).mul_(variance.sqrt_())
            torch.minimum(channel, limit, out=channel)
            channel.clamp_(min=facts.floor)


def _noise(
    channel: Tensor, taps: Sequence[tuple[float, float]], generator: torch.Generator
) -> Tensor:
    """Noise of cells, each with a variance of 1, as a channel (h, w) of the level has it."""
    height, width = channel.shape
    size = height + 1, width + 1
    white = torch.randn(size, generator=generator, device=channel.device)
    (left, right), (upper, lower) = taps
    rows = (white[:-1] * upper).add_(white[1:], alpha=lower)
    return (rows[:, :-1] * left).add_(rows[:, 1:], alpha=right)


def noise_levels(largest_shot: float, shot: float, read: float) -> tuple[float, float]:
    """Shot and read variance of a photosite, from two numbers drawn evenly from 0..1.

    The relation of the two is that of Brooks et al., "Unprocessing Images for Learned Raw
    Denoising", CVPR 2019, measured on the cameras of the Darmstadt Noise Dataset: shot noise even
    in its logarithm from 0.0001 to 0.012 (here: from `largest_shot` / 120 to `largest_shot`), the
    logarithm of read noise normal around ``2.18 log(shot) + 1.20`` with deviation 0.26.
    """
    if largest_shot <= 0:
        return 0.0, 0.0
    log_shot = math.log(largest_shot) + (1 - shot) * math.log(_LEAST_SHOT)
    log_read = _READ_SLOPE * log_shot + _READ_OFFSET + _READ_DEVIATION * _NORMAL.inv_cdf(read)
    return math.exp(log_shot), math.exp(log_read)


def measured_exposure(image: Tensor) -> Tensor:
    """The 99th percentile of Y (G of camera RGB), as ingest takes it: (3, h, w) -> ().

    The smallest value that 99 % of all pixels do not exceed; nothing waits for the device. Not by
    `kthvalue`, which torch refuses on CUDA where only deterministic operations are allowed.
    """
    values = image[BRIGHTNESS_PLANE].flatten()
    rank = -(-99 * len(values) // 100)  # counted from 1, in integers as at ingest
    return torch.topk(values, len(values) - rank + 1, sorted=False).values.amin()


def mixed(matrix: FloatArray, image: Tensor) -> Tensor:
    """``matrix @ pixel`` for every pixel: (3, 3), (3, h, w) -> (3, h, w)."""
    result = torch.empty_like(image)
    for out, (first, *rest) in zip(result, matrix.tolist(), strict=True):
        torch.mul(image[0], first, out=out)
        for factor, plane in zip(rest, image[1:], strict=True):
            out.add_(plane, alpha=factor)
    return result
