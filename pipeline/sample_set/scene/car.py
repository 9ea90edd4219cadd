"""Cars as flat panels in space."""

from __future__ import annotations

import math

import numpy as np

from pipeline.sample_set.scene.canvas import Part, Point
from pipeline.sample_set.scene.light import Rgb
from pipeline.sample_set.scene.objects import PAINT, RUBBER, TAILLIGHT, Place, choose

_GLASS: Rgb = (0.05, 0.06, 0.07)

HEADLIGHT: Rgb = (46.0, 44.0, 38.0)


def car(rng: np.random.Generator, place: Place, *, lights: bool) -> list[Part]:
    """A saloon, estate or van of flat panels.

    Parameters
    ----------
    rng
        Decides shape and paint.
    place
        Middle of the car on the ground.
    lights
        Head and tail lights are on.
    """
    paint = choose(rng, PAINT)
    length, width = float(rng.uniform(3.9, 4.7)), float(rng.uniform(1.68, 1.82))
    waist, roof = float(rng.uniform(0.84, 0.95)), float(rng.uniform(1.40, 1.62))
    front, back = length / 2, -length / 2
    tail = back + float(rng.choice([0.15, 0.75]))  # estate or saloon
    body = _Frustum((back, front, width), (back + 0.05, front - 0.12, width - 0.06), (0.26, waist))
    cabin = _Frustum(
        (tail, front - 1.15, width - 0.08), (tail + 0.35, front - 1.95, width - 0.36), (waist, roof)
    )
    parts = body.faces(place, paint, layer=0) + cabin.faces(place, paint, layer=1)
    parts += cabin.faces(place, _GLASS, layer=2, inset=0.09)
    parts += _wheels(place, length, width)
    parts += _lights_and_plates(place, length, width, lights=lights)
    return parts


class _Frustum:
    """A box that narrows upwards.

    Parameters
    ----------
    bottom, top
        (back, front, width), metres from the middle.
    heights
        (low, high), metres.
    """

    def __init__(
        self,
        bottom: tuple[float, float, float],
        top: tuple[float, float, float],
        heights: tuple[float, float],
    ) -> None:
        self._corners = {
            (end, side, level): (
                (bottom, top)[level][end],
                heights[level],
                (bottom, top)[level][2] / 2 * (1, -1)[side],
            )
            for end in (0, 1)
            for side in (0, 1)
            for level in (0, 1)
        }

    def faces(self, place: Place, colour: Rgb, *, layer: int, inset: float = 0.0) -> list[Part]:
        """Front, back, left, right and (unless inset) top, each visible from outside only."""
        # (end, side, level), counter-clockwise on screen seen from outside; share of the light.
        quads = {
            "front": (((1, 0, 0), (1, 0, 1), (1, 1, 1), (1, 1, 0)), 0.9),
            "back": (((0, 1, 0), (0, 1, 1), (0, 0, 1), (0, 0, 0)), 0.9),
            "left": (((0, 0, 0), (0, 0, 1), (1, 0, 1), (1, 0, 0)), 0.75),
            "right": (((1, 1, 0), (1, 1, 1), (0, 1, 1), (0, 1, 0)), 0.75),
            "top": (((0, 0, 1), (0, 1, 1), (1, 1, 1), (1, 0, 1)), 1.5),
        }
        parts = []
        for name, (keys, factor) in quads.items():
            if inset and name == "top":
                continue
            corners = np.array([self._corners[key] for key in keys])
            if inset:
                middle = corners.mean(axis=0)
                corners += (middle - corners) * np.minimum(
                    inset / np.maximum(np.abs(corners - middle), 1e-6), 0.5
                )
            shade = tuple(channel * factor for channel in colour)
            parts.append(
                Part(
                    tuple(place(*map(float, c)) for c in corners),
                    0.0 if inset else 0.03,
                    (shade[0], shade[1], shade[2]),
                    one_sided=True,
                    layer=layer,
                )
            )
        return parts


def _wheels(place: Place, length: float, width: float) -> list[Part]:
    parts = []
    for end in (-1, 1):
        axle = end * (length / 2 - 0.80)
        for side in (-1, 1):
            turn = [-side * i * math.tau / 20 for i in range(20)]

            def disc(
                radius: float, axle: float = axle, side: int = side, turn: list[float] = turn
            ) -> tuple[Point, ...]:
                return tuple(
                    place(
                        axle + radius * math.cos(a), 0.32 + radius * math.sin(a), side * width / 2
                    )
                    for a in turn
                )

            inner = place(axle, 0.32, side * (width / 2 - 0.1))
            parts += [
                Part((inner,), 0.30, RUBBER, layer=-1),
                Part(disc(0.33), 0.02, RUBBER, one_sided=True, layer=3),
                Part(disc(0.19), 0.0, (0.25, 0.25, 0.26), one_sided=True, layer=4),
            ]
    return parts


def _lights_and_plates(place: Place, length: float, width: float, *, lights: bool) -> list[Part]:
    head: Rgb = HEADLIGHT if lights else (0.35, 0.35, 0.36)
    rear: Rgb = TAILLIGHT if lights else (0.25, 0.02, 0.02)
    parts = []
    for end, colour in ((1, head), (-1, rear)):
        at = end * (length / 2 + 0.01)
        for side in (-1, 1):
            inner, outer = side * (width / 2 - 0.42), side * (width / 2 - 0.12)
            parts.append(_panel(place, at, (inner, outer), (0.62, 0.74), colour, lights))
        parts.append(_panel(place, at, (-0.26, 0.26), (0.42, 0.53), (0.6, 0.6, 0.55), False))
        parts.append(_panel(place, at, (-0.6, 0.6), (0.29, 0.36), RUBBER, False))
    return parts


def _panel(
    place: Place,
    at: float,
    across: tuple[float, float],
    heights: tuple[float, float],
    colour: Rgb,
    glowing: bool,
) -> Part:
    """A rectangle on the front (at > 0) or the back, visible from outside only."""
    left, right = (max(across), min(across)) if at > 0 else (min(across), max(across))
    low, high = heights
    corners = ((low, left), (high, left), (high, right), (low, right))
    return Part(
        tuple(place(at, up, w) for up, w in corners),
        0.02,
        colour,
        glowing=glowing,
        one_sided=True,
        layer=5,
    )
