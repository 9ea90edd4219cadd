"""People and bicycles as parts in space.

Each builder takes a place on the ground and a heading and returns parts; what they look like
(pose, clothing, paint) comes from the generator passed in. Local axes: forward, up, left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from pipeline.sample_set.scene.canvas import Part, Point
from pipeline.sample_set.scene.light import Rgb

Place = Callable[[float, float, float], Point]

_CLOTHES: tuple[Rgb, ...] = (
    (0.03, 0.03, 0.04),
    (0.06, 0.08, 0.16),
    (0.30, 0.30, 0.32),
    (0.62, 0.60, 0.55),
    (0.42, 0.06, 0.06),
    (0.10, 0.25, 0.12),
    (0.55, 0.42, 0.10),
    (0.16, 0.28, 0.50),
    (0.45, 0.30, 0.40),
)
_TROUSERS: tuple[Rgb, ...] = (
    (0.03, 0.03, 0.04),
    (0.05, 0.07, 0.14),
    (0.20, 0.18, 0.15),
    (0.12, 0.14, 0.20),
)
_SKIN: tuple[Rgb, ...] = ((0.50, 0.33, 0.25), (0.36, 0.22, 0.15), (0.14, 0.08, 0.05))
_HAIR: tuple[Rgb, ...] = ((0.02, 0.015, 0.01), (0.12, 0.07, 0.03), (0.35, 0.30, 0.25))
PAINT: tuple[Rgb, ...] = (
    (0.70, 0.70, 0.70),
    (0.35, 0.36, 0.38),
    (0.08, 0.08, 0.09),
    (0.45, 0.04, 0.04),
    (0.06, 0.12, 0.36),
    (0.55, 0.50, 0.40),
)
RUBBER: Rgb = (0.025, 0.025, 0.025)

TAILLIGHT: Rgb = (9.0, 0.5, 0.3)


def choose(rng: np.random.Generator, colours: Sequence[Rgb]) -> Rgb:
    """One of the colours, a little lighter or darker."""
    red, green, blue = colours[int(rng.integers(len(colours)))]
    factor = float(rng.uniform(0.75, 1.3))
    return red * factor, green * factor, blue * factor


def placement(x: float, z: float, heading: float) -> Place:
    """Local forward, up, left -> street coordinates.

    Parameters
    ----------
    x, z
        Spot on the ground, metres.
    heading
        Radians; 0 faces right on screen, pi/2 away from the camera, -pi/2 towards it.
    """
    cos, sin = math.cos(heading), math.sin(heading)

    def place(forward: float, up: float, left: float) -> Point:
        return x + forward * cos - left * sin, up, z + forward * sin + left * cos

    return place


def person(rng: np.random.Generator, place: Place, *, height: float) -> list[Part]:
    """Someone walking or standing.

    Parameters
    ----------
    rng
        Decides pose and clothing.
    place
        Where, and facing where.
    height
        Metres.
    """
    h = height
    stride = float(rng.uniform(-0.45, 0.45)) if rng.random() < 0.75 else 0.06
    top, trousers = choose(rng, _CLOTHES), choose(rng, _TROUSERS)
    skin, hair = choose(rng, _SKIN), choose(rng, _HAIR)
    parts = _torso(place, h, top, lean=0.02)
    for side in (-1.0, 1.0):
        parts += _leg(place, h, swing=side * stride, side=side, cloth=trousers)
        parts += _arm(rng, place, h, swing=-side * stride, side=side, cloth=top, skin=skin)
    parts += _head(place, (0.02 * h, 0.925 * h), h, skin=skin, hair=hair)
    if rng.random() < 0.25:  # a long coat or skirt
        hem = float(rng.uniform(0.30, 0.42)) * h
        corners = ((0.04, 0.56 * h, 0.07 * h), (0.10, hem, 0.10 * h))
        outline = [place(f, u, w) for f, u, w in corners]
        outline += [place(-f, u, -w) for f, u, w in reversed(corners)]
        parts.append(Part(tuple(outline), 0.045 * h, top, roundness=0.4, layer=1))
    if rng.random() < 0.3:  # a backpack
        bag = choose(rng, _CLOTHES)
        ends = (place(-0.11 * h, 0.64 * h, 0), place(-0.11 * h, 0.76 * h, 0))
        parts.append(Part(ends, 0.075 * h, bag, roundness=0.4))
    return parts


def _torso(place: Place, h: float, cloth: Rgb, *, lean: float) -> list[Part]:
    """Shoulders to hips; `lean` moves the shoulders forward, metres."""
    outline = (
        place(lean, 0.795 * h, 0.085 * h),
        place(lean, 0.795 * h, -0.085 * h),
        place(0.0, 0.52 * h, -0.055 * h),
        place(0.0, 0.52 * h, 0.055 * h),
    )
    neck = (place(lean, 0.80 * h, 0), place(lean, 0.86 * h, 0))
    return [
        Part(outline, 0.052 * h, cloth, roundness=0.35),
        Part(neck, 0.028 * h, cloth, roundness=0.4),
    ]


def _leg(place: Place, h: float, *, swing: float, side: float, cloth: Rgb) -> list[Part]:
    hip = (0.0, 0.50 * h, 0.052 * h * side)
    knee_f, knee_u = 0.23 * h * math.sin(swing), hip[1] - 0.23 * h * math.cos(swing)
    # The leg behind bends; the one in front is straight.
    shin = swing - (0.5 if swing < -0.1 else 0.05)
    foot_f, foot_u = knee_f + 0.235 * h * math.sin(shin), knee_u - 0.235 * h * math.cos(shin)
    knee = place(knee_f, knee_u, hip[2])
    foot = place(foot_f, max(foot_u, 0.03 * h), hip[2])
    toe = place(foot_f + 0.09 * h, max(foot_u - 0.01 * h, 0.022 * h), hip[2])
    return [
        Part((place(*hip), knee), 0.048 * h, cloth, roundness=0.45),
        Part((knee, foot), 0.034 * h, cloth, roundness=0.45),
        Part((foot, toe), 0.022 * h, RUBBER, roundness=0.3),
    ]


def _arm(
    rng: np.random.Generator,
    place: Place,
    h: float,
    *,
    swing: float,
    side: float,
    cloth: Rgb,
    skin: Rgb,
) -> list[Part]:
    bend = float(rng.uniform(0.1, 0.6))
    across = 0.125 * h * side
    elbow_f, elbow_u = 0.16 * h * math.sin(swing), 0.79 * h - 0.16 * h * math.cos(swing)
    hand_f = elbow_f + 0.15 * h * math.sin(swing + bend)
    hand_u = elbow_u - 0.15 * h * math.cos(swing + bend)
    elbow, hand = place(elbow_f, elbow_u, across * 1.12), place(hand_f, hand_u, across * 1.15)
    return [
        Part((place(0, 0.79 * h, across), elbow), 0.029 * h, cloth, roundness=0.45),
        Part((elbow, hand), 0.024 * h, cloth, roundness=0.45),
        Part((hand,), 0.026 * h, skin, roundness=0.4),
    ]


def _head(
    place: Place, centre: tuple[float, float], h: float, *, skin: Rgb, hair: Rgb
) -> list[Part]:
    forward, up = centre
    skull = (place(forward, up - 0.015 * h, 0), place(forward, up + 0.02 * h, 0))
    # Hair sits behind and above the face: from the back it hides it, by depth alone.
    cap = (
        place(forward - 0.018 * h, up + 0.002 * h, 0),
        place(forward - 0.006 * h, up + 0.036 * h, 0),
    )
    return [
        Part(skull, 0.045 * h, skin, roundness=0.4, layer=1),
        Part(cap, 0.045 * h, hair, roundness=0.3, layer=1),
    ]


def bicycle(rng: np.random.Generator, place: Place, *, lights: bool) -> list[Part]:
    """A city bicycle, 1.75 m long.

    Parameters
    ----------
    rng
        Decides the paint.
    place
        Point halfway between the wheels.
    lights
        Front and rear light are on.
    """
    paint = choose(rng, PAINT)
    metal: Rgb = (0.30, 0.30, 0.30)
    crank, saddle, bar = (-0.05, 0.30, 0.0), (-0.20, 0.93, 0.0), (0.40, 1.02, 0.0)
    head, rear, front = (0.36, 0.80, 0.0), (-0.53, 0.34, 0.0), (0.53, 0.34, 0.0)
    tubes = [
        *((crank, saddle), (crank, head), ((-0.17, 0.82, 0.0), head), (head, front)),
        *((crank, rear), ((-0.17, 0.80, 0.0), rear), (head, bar)),
    ]
    parts = [Part((place(*a), place(*b)), 0.020, paint, roundness=0.3) for a, b in tubes]
    for axle in (rear, front):
        spin = [i * math.tau / 24 for i in range(24)]
        rim = [place(axle[0] + 0.33 * math.cos(a), 0.34 + 0.33 * math.sin(a), 0.0) for a in spin]
        parts.append(Part(tuple(rim), 0.0, RUBBER, ring=0.022))
        spokes = [(place(*axle), rim[i]) for i in range(0, 24, 4)]
        parts += [Part(ends, 0.004, metal) for ends in spokes]
    parts += [
        Part((place(-0.30, 0.96, 0.0), place(-0.10, 0.96, 0.0)), 0.035, RUBBER),
        Part((place(0.38, 1.03, -0.28), place(0.38, 1.03, 0.28)), 0.018, RUBBER),
        Part((place(-0.05, 0.30, -0.12), place(-0.05, 0.30, 0.12)), 0.030, metal),
        Part(
            (place(-0.86, 0.42, 0.0), place(-0.78, 0.66, 0.0), place(-0.5, 0.70, 0.0)), 0.01, paint
        ),
    ]
    if lights:
        lamp = place(0.50, 0.85, 0.0)
        parts.append(Part((lamp,), 0.035, (14.0, 14.0, 13.0), glowing=True))
        parts.append(Part((place(-0.72, 0.75, 0.0),), 0.030, TAILLIGHT, glowing=True))
    return parts


def rider(rng: np.random.Generator, place: Place) -> list[Part]:
    """Someone on a bicycle that stands at the same place."""
    top, trousers = choose(rng, _CLOTHES), choose(rng, _TROUSERS)
    skin, hair = choose(rng, _SKIN), choose(rng, _HAIR)
    lean = float(rng.uniform(0.18, 0.38))
    turn = float(rng.uniform(0, math.tau))
    shoulder = (-0.20 + lean, 1.50 - lean * 0.25)
    outline = (
        place(*shoulder, 0.15),
        place(*shoulder, -0.15),
        place(-0.20, 1.00, -0.11),
        place(-0.20, 1.00, 0.11),
    )
    parts = [Part(outline, 0.095, top, roundness=0.35)]
    for side in (-1.0, 1.0):
        angle = turn + (math.pi if side > 0 else 0.0)
        foot = (-0.05 + 0.16 * math.cos(angle), 0.30 + 0.16 * math.sin(angle), 0.12 * side)
        knee = _joint((-0.20, 0.98), foot[:2], reach=0.46)
        parts += [
            Part(
                (place(-0.20, 0.98, 0.09 * side), place(*knee, 0.12 * side)), 0.075, trousers, 0.45
            ),
            Part((place(*knee, 0.12 * side), place(*foot)), 0.055, trousers, 0.45),
            Part((place(*foot), place(foot[0] + 0.13, foot[1] - 0.02, foot[2])), 0.04, RUBBER),
        ]
        elbow = ((shoulder[0] + 0.38) / 2 - 0.02, (shoulder[1] + 1.05) / 2 - 0.07, 0.24 * side)
        hand = place(0.36, 1.06, 0.26 * side)
        parts += [
            Part((place(*shoulder, 0.19 * side), place(*elbow)), 0.048, top, 0.45),
            Part((place(*elbow), hand), 0.040, top, 0.45),
            Part((hand,), 0.042, skin),
        ]
    parts += _head(place, (shoulder[0] + 0.06, shoulder[1] + 0.23), 1.72, skin=skin, hair=hair)
    return parts


def _joint(
    start: tuple[float, float], end: tuple[float, float], *, reach: float
) -> tuple[float, float]:
    """Where a limb of two equal bones bends, forward."""
    forward, up = end[0] - start[0], end[1] - start[1]
    length = math.hypot(forward, up)
    bend = math.sqrt(max(reach**2 - (length / 2) ** 2, 0.0)) / length
    return (start[0] + forward / 2 - up * bend, start[1] + up / 2 + forward * bend)
