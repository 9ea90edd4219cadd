"""From scene radiance to a noisy mosaic, as a camera's sensor would record it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.sample_set.formats.camera_file import Cfa, Mosaic
from pipeline.sample_set.scene.light import RGB_TO_XYZ, Floats, Rgb

Matrix = tuple[Rgb, Rgb, Rgb]

# XYZ(D65) -> camera, LibRaw's table (Adobe's ColorMatrix for D65).
SONY_RX100M7_MATRIX: Matrix = (
    (1.0315, -0.4390, -0.0937),
    (-0.4859, 1.2734, 0.2365),
    (-0.0734, 0.1537, 0.5997),
)
NIKON_D750_MATRIX: Matrix = (
    (0.9020, -0.2890, -0.0715),
    (-0.4535, 1.2436, 0.2348),
    (-0.0934, 0.1919, 0.7086),
)

_READ_NOISE_ELECTRONS = 2.5
_READ_NOISE_LEVELS = 1.5  # of a 14-bit file: converter and quantisation
_LEVELS_OF_14_BITS = 16384


@dataclass(frozen=True)
class Sensor:
    """A sensor and how one file stores its samples.

    Parameters
    ----------
    matrix
        XYZ(D65) -> camera RGB.
    cfa
        Filter cell at the top-left of the full area.
    shape
        (height, width) of the full area, pixels.
    crop
        x, y, width, height of the camera's frame in the full area, pixels.
    black, white
        Levels of the file.
    unity_iso
        ISO at which one electron is one 14-bit level.
    """

    matrix: Matrix
    cfa: Cfa
    shape: tuple[int, int]
    crop: tuple[int, int, int, int]
    black: int
    white: int
    unity_iso: float

    def gain(self, iso: int) -> float:
        """Levels of this file per electron."""
        return iso / self.unity_iso * (self.white + 1) / _LEVELS_OF_14_BITS


def expose(
    xyz: Floats, sensor: Sensor, *, mean_signal: float, iso: int, rng: np.random.Generator
) -> Mosaic:
    """Photograph a scene.

    Parameters
    ----------
    xyz
        (3, h, w) float32 scene radiance, any unit; the sensor's crop frame, or that at half
        resolution: then each 2x2 cell of the filter sees one value.
    sensor
        Levels, geometry, colour.
    mean_signal
        Mean over the crop, above black, as a share of white - black; exposure is set to meet it.
    iso
        Decides how many levels one electron makes, and so the noise.
    rng
        Draws the noise.

    Returns
    -------
    Mosaic
        (H, W) uint16 in 0..white, full sensor area. The margins hold light and noise too.
    """
    signal = _sample_filter(xyz, sensor)
    signal *= np.float32(_exposure(_in_crop(signal, sensor), mean_signal))
    np.minimum(signal, 1, out=signal)
    signal *= np.float32(sensor.white - sensor.black)
    gain = sensor.gain(iso)
    levels = rng.poisson(signal / np.float32(gain)).astype(np.float32)
    levels *= np.float32(gain)
    bit_scale = (sensor.white + 1) / _LEVELS_OF_14_BITS
    read_noise = np.hypot(_READ_NOISE_ELECTRONS * gain, _READ_NOISE_LEVELS * bit_scale)
    levels += rng.standard_normal(levels.shape, np.float32) * np.float32(read_noise)
    levels += np.float32(sensor.black)
    return np.rint(levels).clip(0, sensor.white).astype(np.uint16)


def white_balance(matrix: Matrix, light: Rgb) -> tuple[float, float, float]:
    """Gains of R, G, B that make a light neutral, green = 1; as a camera would note them.

    Parameters
    ----------
    matrix
        XYZ -> camera RGB.
    light
        Linear RGB of the light.
    """
    # Cameras do not balance the light of lamps completely: 20 % of daylight is mixed in.
    mixed = 0.8 * np.array(light) + 0.2
    red, green, blue = np.array(matrix) @ (RGB_TO_XYZ.astype(np.float64) @ mixed)
    return (
        round(float(np.clip(green / max(red, 0.05), 0.5, 6)), 3),
        1.0,
        round(float(np.clip(green / max(blue, 0.05), 0.5, 6)), 3),
    )


def _sample_filter(xyz: Floats, sensor: Sensor) -> Floats:
    """(H, W) light behind each filter, no negative values, margins filled from the edges."""
    height, width = sensor.shape
    x, y, crop_width, crop_height = sensor.crop
    step = 2 if xyz.shape[1] * 2 == crop_height else 1
    if (xyz.shape[1] * step, xyz.shape[2] * step) != (crop_height, crop_width):
        raise ValueError(f"scene {xyz.shape[1:]} fits no crop of {crop_height}x{crop_width}")
    rows = np.clip(np.arange(height) - y, 0, crop_height - 1) // step
    columns = np.clip(np.arange(width) - x, 0, crop_width - 1) // step
    out = np.empty((height, width), np.float32)
    for position, letter in enumerate(sensor.cfa):
        first, second = divmod(position, 2)
        weights = np.array(sensor.matrix["RGB".index(letter)], np.float32)
        plane = np.tensordot(weights, xyz, axes=1)
        out[first::2, second::2] = plane[np.ix_(rows[first::2], columns[second::2])]
    # A saturated colour can be negative in camera RGB, but a sensor cannot receive negative light.
    return np.maximum(out, 0, out=out)


def _in_crop(mosaic: Floats, sensor: Sensor) -> npt.NDArray[np.float32]:
    x, y, width, height = sensor.crop
    return mosaic[y : y + height, x : x + width]


def _exposure(signal: Floats, mean_signal: float) -> float:
    """Factor for which the mean of the signal, clipped at 1, is as asked."""
    step = max(1, signal.shape[0] // 700) | 1  # odd, so that all colours of the CFA are sampled
    sample = signal[::step, ::step]
    low, high = 1e-9, 1e9
    for _ in range(48):
        middle = float(np.sqrt(low * high))
        if float(np.minimum(sample * np.float32(middle), 1).mean(dtype=np.float64)) < mean_signal:
            low = middle
        else:
            high = middle
    return float(np.sqrt(low * high))
