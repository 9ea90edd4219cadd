"""A pinhole camera and anti-aliased shapes drawn through it.

Shapes are signed distances in pixels, so the same scene can be drawn at any resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.sample_set.scene.light import Floats, Rgb

Point = tuple[float, float, float]  # X right, Y up from the ground, Z away from the camera; metres

BACKGROUND = -1
_NEAREST = 0.3  # metres; nothing is drawn closer


@dataclass(frozen=True)
class View:
    """A camera looking down the street, level.

    Parameters
    ----------
    width, height
        Frame in pixels.
    focal
        Focal length in pixels.
    horizon
        Row of the horizon, pixels from the top.
    eye
        Height of the camera above the ground, metres.
    middle
        Column the street runs towards, pixels from the left.
    """

    width: int
    height: int
    focal: float
    horizon: float
    eye: float
    middle: float

    def project(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """(n, 3) metres -> (n, 2) pixel coordinates x, y; pixel centres are at .5."""
        z = np.maximum(points[:, 2], _NEAREST)
        x = self.middle + self.focal * points[:, 0] / z
        y = self.horizon - self.focal * (points[:, 1] - self.eye) / z
        return np.stack([x, y], axis=1)


@dataclass(frozen=True)
class Part:
    """A rounded polygon in space: one point makes a ball, two make a limb, more make a panel.

    Parameters
    ----------
    points
        Corners, metres.
    radius
        Rounding around them, metres.
    colour
        Linear RGB: reflectance, or radiance when `glowing`.
    roundness
        0 flat, 1 shaded like a cylinder.
    glowing
        Emits instead of reflecting.
    one_sided
        Drawn only if its corners run counter-clockwise on screen, that is, if it faces the camera.
    ring
        Draw the outline only: half its thickness in metres; None: filled.
    layer
        Parts of a higher layer cover lower ones of the same object, whatever their depth.
    """

    points: tuple[Point, ...]
    radius: float
    colour: Rgb
    roundness: float = 0.0
    glowing: bool = False
    one_sided: bool = False
    ring: float | None = None
    layer: int = 0

    @property
    def depth(self) -> float:
        """Mean distance, metres."""
        return sum(p[2] for p in self.points) / len(self.points)


@dataclass
class Canvas:
    """The picture while it is painted, back to front.

    Parameters
    ----------
    view
        The camera.
    rgb
        (3, H, W) float32, linear radiance.
    owner
        (H, W) int16, which object a pixel belongs to; -1 none.
    """

    view: View
    rgb: Floats
    owner: npt.NDArray[np.int16] = field(init=False)

    def __post_init__(self) -> None:
        self.owner = np.full((self.view.height, self.view.width), BACKGROUND, np.int16)

    def paint(self, parts: Sequence[Part], light: Floats, owner: int) -> None:
        """Paint an object's parts.

        Parameters
        ----------
        parts
            In any order; far ones first within a layer.
        light
            (3,) irradiance on the object.
        owner
            Number its pixels get in `owner`.
        """
        for part in sorted(parts, key=lambda p: (p.layer, -p.depth)):
            self._paint_part(part, light, owner)

    def _paint_part(self, part: Part, light: Floats, owner: int) -> None:
        if min(p[2] for p in part.points) < _NEAREST:
            return
        corners = self.view.project(np.array(part.points, np.float64))
        if part.one_sided and _signed_area(corners) >= 0:
            return
        pixels_per_metre = self.view.focal / part.depth
        # Nothing is drawn thinner than a pixel, or distant bicycles would disappear.
        radius = part.radius * pixels_per_metre
        if part.ring is None and len(corners) < 3:
            radius = max(radius, 0.7)
        ring = None if part.ring is None else max(part.ring * pixels_per_metre, 0.7)
        window = self._window(corners, radius + (ring or 0.0))
        if window is None:
            return
        rows, columns, x, y = window
        distance = polygon_distance(x, y, corners) - np.float32(radius)
        if ring is not None:
            distance = np.abs(distance) - np.float32(ring)
        alpha = np.clip(np.float32(0.5) - distance, 0, 1)
        shade = np.float32(1.0)
        if part.roundness:
            inside = np.clip(-distance / np.float32(max(radius, 1.0)), 0, 1)
            shade = 1 - part.roundness * (1 - np.sqrt(inside))
        base = np.array(part.colour, np.float32)
        colour = base if part.glowing else base * light
        target = self.rgb[:, rows, columns]
        target += alpha * (colour[:, None, None] * shade - target)
        self.owner[rows, columns][alpha > 0.5] = owner

    def darken(self, centre: Point, radius: float, amount: float) -> None:
        """A soft shadow on the ground: `radius` in metres, `amount` 0..1 at its centre."""
        (x0, y0), *_ = self.view.project(np.array([centre], np.float64))
        across = radius * self.view.focal / max(centre[2], _NEAREST)
        along = max(across * self.view.eye / max(centre[2], _NEAREST), 1.0)
        window = self._window(np.array([[x0, y0]]), across)
        if window is None:
            return
        rows, columns, x, y = window
        square = ((x - np.float32(x0)) / across) ** 2 + ((y - np.float32(y0)) / along) ** 2
        self.rgb[:, rows, columns] *= 1 - np.float32(amount) * np.clip(1 - square, 0, 1)

    def glare(self, centre: Point, radius: float, radiance: Rgb) -> None:
        """Light scattered in the lens around a bright source.

        Parameters
        ----------
        centre
            The source, metres. The caller leaves out sources that are hidden.
        radius
            Of the source, metres.
        radiance
            Linear RGB of the source.
        """
        (x0, y0), *_ = self.view.project(np.array([centre], np.float64))
        size = max(radius * self.view.focal / max(centre[2], _NEAREST), 1.0)
        reach = 0.25 * max(self.view.width, self.view.height)
        window = self._window(np.array([[x0, y0]]), reach)
        if window is None:
            return
        rows, columns, x, y = window
        square = (x - np.float32(x0)) ** 2 + (y - np.float32(y0)) ** 2
        edge = np.clip(1 - square / np.float32(reach**2), 0, 1) ** 2
        # About 3 % of the light leaves the image of the source, falling with distance squared.
        halo = np.float32(0.03 * size**2) * edge / (square + np.float32((1.5 * size) ** 2))
        self.rgb[:, rows, columns] += halo * np.array(radiance, np.float32)[:, None, None]

    def owner_at(self, point: Point) -> int | None:
        """Whose pixel a point falls on; None outside the frame."""
        (x, y), *_ = self.view.project(np.array([point], np.float64))
        if not (0 <= x < self.view.width and 0 <= y < self.view.height):
            return None
        return int(self.owner[int(y), int(x)])

    def _window(
        self, corners: npt.NDArray[np.float64], margin: float
    ) -> tuple[slice, slice, Floats, Floats] | None:
        low = np.floor(corners.min(axis=0) - margin - 1).clip(0)
        high = np.ceil(corners.max(axis=0) + margin + 1)
        left, top = int(low[0]), int(low[1])
        right, bottom = min(int(high[0]), self.view.width), min(int(high[1]), self.view.height)
        if left >= right or top >= bottom:
            return None
        x = (np.arange(left, right, dtype=np.float32) + np.float32(0.5))[None, :]
        y = (np.arange(top, bottom, dtype=np.float32) + np.float32(0.5))[:, None]
        return slice(top, bottom), slice(left, right), x, y


def _signed_area(corners: npt.NDArray[np.float64]) -> float:
    """Negative when the corners run counter-clockwise on screen (y runs down)."""
    x, y = corners.T
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2


def polygon_distance(x: Floats, y: Floats, corners: npt.NDArray[np.float64]) -> Floats:
    """Signed distance to a polygon, negative inside.

    Parameters
    ----------
    x, y
        Pixel coordinates, broadcastable float32.
    corners
        (n, 2) pixel coordinates; one or two corners have no inside.
    """
    square = np.full(np.broadcast_shapes(x.shape, y.shape), np.inf, np.float32)
    inside = np.zeros(square.shape, bool)
    ends = corners.astype(np.float32)
    for (ax, ay), (bx, by) in zip(ends, np.roll(ends, -1, axis=0), strict=True):
        ex, ey = bx - ax, by - ay
        length = max(float(ex * ex + ey * ey), 1e-12)
        px, py = x - ax, y - ay
        along = np.clip((px * ex + py * ey) / np.float32(length), 0, 1)
        square = np.minimum(square, (px - along * ex) ** 2 + (py - along * ey) ** 2)
        if len(ends) > 2 and ey != 0:
            crosses = (y >= min(ay, by)) & (y < max(ay, by))
            inside ^= crosses & (px < py * (ex / ey))
    distance = np.sqrt(square)
    return np.where(inside, -distance, distance)
