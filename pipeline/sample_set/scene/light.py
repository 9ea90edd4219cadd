"""Lamps, their colour, and the light they throw.

All light here is linear RGB with sRGB/BT.709 primaries; the scene is turned to CIE XYZ at its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Rgb = tuple[float, float, float]

# IEC 61966-2-1: linear sRGB -> XYZ (D65).
RGB_TO_XYZ: Floats = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ],
    np.float32,
)


def temperature_rgb(kelvin: float) -> Rgb:
    """Colour of a black body, luminance 1.

    Parameters
    ----------
    kelvin
        1667 to 25000; cubic fit of the Planckian locus by Kim et al. (US patent 7024034).
    """
    t = 1000.0 / kelvin
    if kelvin < 4000:
        x = -0.2661239 * t**3 - 0.2343589 * t**2 + 0.8776956 * t + 0.179910
    else:
        x = -3.0258469 * t**3 + 2.1070379 * t**2 + 0.2226347 * t + 0.240390
    if kelvin < 2222:
        y = -1.1063814 * x**3 - 1.34811020 * x**2 + 2.18555832 * x - 0.20219683
    elif kelvin < 4000:
        y = -0.9549476 * x**3 - 1.37418593 * x**2 + 2.09137015 * x - 0.16748867
    else:
        y = 3.0817580 * x**3 - 5.87338670 * x**2 + 3.75112997 * x - 0.37001483
    xyz = np.array([x / y, 1.0, (1 - x - y) / y])
    red, green, blue = np.linalg.solve(RGB_TO_XYZ.astype(np.float64), xyz)
    # Below about 1900 K blue leaves the gamut; a trace of it keeps surfaces from going black.
    return float(red), float(green), max(float(blue), 0.02)


def scaled(colour: Rgb, factor: float) -> Rgb:
    """The same colour, brighter or darker."""
    red, green, blue = colour
    return red * factor, green * factor, blue * factor


@dataclass(frozen=True)
class Lamp:
    """A point source that lights the street.

    Parameters
    ----------
    position
        X right, Y up from the ground, Z away from the camera; metres.
    intensity
        Irradiance at one metre, any unit shared by the whole scene.
    colour
        Linear RGB, luminance about 1.
    """

    position: tuple[float, float, float]
    intensity: float
    colour: Rgb


def irradiance(
    lamps: Sequence[Lamp], x: Floats, y: Floats, z: Floats, *, normal: tuple[Floats, Floats, Floats]
) -> Floats:
    """Light falling on surface points.

    Parameters
    ----------
    lamps
        Sources; no shadows are cast.
    x, y, z
        (...,) float32, positions in metres.
    normal
        Unit normal's three components, each broadcastable to x.

    Returns
    -------
    Floats
        (3, ...) float32, linear RGB irradiance.
    """
    out = np.zeros((3, *np.broadcast_shapes(x.shape, y.shape, z.shape)), np.float32)
    for lamp in lamps:
        dx, dy, dz = (np.float32(p) - q for p, q in zip(lamp.position, (x, y, z), strict=True))
        square = dx * dx + dy * dy + dz * dz + np.float32(0.3)  # a lamp has a size: no pole
        cosine = (dx * normal[0] + dy * normal[1] + dz * normal[2]) / np.sqrt(square)
        # Rough surfaces and skylight between houses soften the cut-off at 90 degrees.
        flux = np.float32(lamp.intensity) * np.maximum(cosine * 0.85 + 0.15, 0) / square
        for channel, part in enumerate(lamp.colour):
            out[channel] += flux * np.float32(part)
    return out
