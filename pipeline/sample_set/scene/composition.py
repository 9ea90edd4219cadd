"""What stands where on a night street: decided by seed, before anything is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipeline.sample_set.scene import car, objects
from pipeline.sample_set.scene.canvas import Part, View
from pipeline.sample_set.scene.light import Lamp, scaled, temperature_rgb
from pipeline.sample_set.scene.street import Street

PERSON, BICYCLE, CAR = 1, 2, 3  # COCO category ids, as NOD uses them

_KIND_HEIGHT = {PERSON: 1.7, BICYCLE: 1.7, CAR: 1.5}  # a bicycle stands with its rider; metres
_KIND_WIDTH = {PERSON: 0.7, BICYCLE: 1.4, CAR: 2.6}


@dataclass(frozen=True)
class Thing:
    """One object of a scene.

    Parameters
    ----------
    label
        COCO category id.
    parts
        What it is made of, street coordinates.
    spot
        X and Z of its place on the ground, metres.
    shadow
        Radius of its contact shadow, metres; 0: none (a rider has no ground contact).
    """

    label: int
    parts: tuple[Part, ...]
    spot: tuple[float, float]
    shadow: float


@dataclass(frozen=True)
class Camera:
    """A level camera, in shares of the frame.

    Parameters
    ----------
    focal
        Share of the longer side.
    horizon
        Share of the height.
    eye
        Height above the ground, metres.
    middle
        Column the street runs towards, share of the width.
    """

    focal: float
    horizon: float
    eye: float
    middle: float

    def view(self, width: int, height: int) -> View:
        """The same camera with a frame in pixels."""
        focal = self.focal * max(width, height)
        return View(width, height, focal, self.horizon * height, self.eye, self.middle * width)


@dataclass(frozen=True)
class Scene:
    """A composed street.

    Parameters
    ----------
    seed
        What it was composed from.
    aspect
        Width / height it was composed for.
    camera
        Where it is seen from.
    street
        Everything that does not move.
    posts
        Street lamps whose post may be seen, and the length of their arm.
    things
        Objects, in order of annotation.
    temperature
        Colour temperature of the street lamps, kelvin.
    """

    seed: tuple[int, ...]
    aspect: float
    camera: Camera
    street: Street
    posts: tuple[tuple[Lamp, float], ...]
    things: tuple[Thing, ...]
    temperature: float


def compose_scene(seed: Sequence[int], *, aspect: float = 1.5) -> Scene:
    """Decide what stands where.

    Parameters
    ----------
    seed
        Whole numbers; the same seed and aspect give the same scene.
    aspect
        Width / height of the frame; below 1 for an upright frame.
    """
    rng = np.random.default_rng(list(seed))
    focal, horizon = float(rng.uniform(0.85, 1.2)), float(rng.uniform(0.40, 0.50))
    eye, middle = float(rng.uniform(1.35, 1.65)), float(rng.uniform(0.3, 0.7))
    temperature = float(np.exp(rng.uniform(math.log(2000), math.log(5000))))
    street, posts = _compose_street(rng, temperature)
    camera = Camera(focal, horizon, eye, middle)
    # Width 3000 is any number: the composition only uses ratios.
    view = camera.view(3000, round(3000 / aspect))
    things = _compose_things(rng, view, street)
    lamps = street.lamps + tuple(_headlamps(things))
    street = replace(street, lamps=lamps)
    return Scene(tuple(seed), aspect, camera, street, posts, tuple(things), temperature)


def _compose_street(
    rng: np.random.Generator, temperature: float
) -> tuple[Street, tuple[tuple[Lamp, float], ...]]:
    half_road = float(rng.uniform(3.2, 5.0))
    half_street = half_road + float(rng.uniform(2.2, 4.0))
    colour = temperature_rgb(temperature)
    spacing, first = float(rng.uniform(14, 24)), float(rng.uniform(3, 12))
    posts = []
    for number in range(5):
        side = -1.0 if number % 2 else 1.0
        jitter = float(rng.uniform(0.9, 1.1))
        tint = temperature_rgb(float(np.clip(temperature * jitter, 1800, 6000)))
        lamp = Lamp(
            (side * (half_road - 0.6), float(rng.uniform(5.5, 7.0)), first + number * spacing),
            float(rng.uniform(25, 45)),
            tint,
        )
        posts.append((lamp, -side * 1.3))
    behind = Lamp((float(rng.uniform(-3, 3)), 6.5, -3.0), float(rng.uniform(8, 30)), colour)
    lamps = (*(lamp for lamp, _ in posts), behind)
    ambient = float(rng.uniform(0.03, 0.08))
    haze = float(rng.uniform(0.01, 0.05))
    street = Street(
        seed=int(rng.integers(1 << 30)),
        half_road=half_road,
        half_street=half_street,
        end=float(rng.uniform(70, 120)),
        crossing=float(rng.uniform(6, 40)),
        lit_windows=float(rng.uniform(0.1, 0.45)),
        window_colours=(temperature_rgb(2700), temperature_rgb(4000)),
        sky=(scaled(colour, haze), scaled(temperature_rgb(9000), haze * 0.25)),
        ambient=scaled(colour, ambient),
        lamps=lamps,
    )
    return street, tuple(posts)


def _compose_things(rng: np.random.Generator, view: View, street: Street) -> list[Thing]:
    """1 to 8 objects, none of them mostly hidden by nearer ones."""
    wanted = int(rng.integers(1, 9))
    things: list[Thing] = []
    taken: list[_Taken] = []
    for _ in range(wanted * 12):
        if len(things) >= wanted:
            break
        # NOD: 69 % persons, 20 % bicycles, 11 % cars; riders are persons too.
        kind = int(rng.choice([PERSON, BICYCLE, CAR], p=[0.53, 0.32, 0.15]))
        spot = _choose_spot(rng, view, street, kind)
        if spot is None:
            continue
        claim = _Taken(kind, spot[1], _rough_box(view, kind, spot))
        if not all(_fits(claim, other) for other in taken):
            continue
        taken.append(claim)
        things += _build(rng, street, kind, spot)
    return things[:8] if things else _build(rng, street, PERSON, (0.5, 6.0))


def _choose_spot(
    rng: np.random.Generator, view: View, street: Street, kind: int
) -> tuple[float, float] | None:
    """X and Z, drawn so that sizes on screen are spread evenly on a log scale."""
    largest = {PERSON: 0.6, BICYCLE: 0.55, CAR: 0.38}[kind]
    share = math.exp(rng.uniform(math.log(0.035), math.log(largest)))
    z = view.focal * _KIND_HEIGHT[kind] / (share * view.height)
    if kind == CAR:
        lanes = (0.4, 0.75) if rng.random() < 0.6 else (0.25, 0.5)
        x = float(rng.choice([-1, 1])) * street.half_road * float(rng.uniform(*lanes))
    else:
        x = (float(rng.uniform(0.03, 0.97)) * view.width - view.middle) * z / view.focal
    on_screen = view.middle + view.focal * x / z
    inside = 0.02 * view.width < on_screen < 0.98 * view.width
    if not inside or abs(x) > street.half_street - 0.5 or z > street.end - 3:
        return None
    return x, z


def _rough_box(view: View, kind: int, spot: tuple[float, float]) -> npt.NDArray[np.float64]:
    x, z = spot
    half = _KIND_WIDTH[kind] / 2
    corners = view.project(np.array([[x - half, _KIND_HEIGHT[kind], z], [x + half, 0, z]]))
    return corners.clip(0, [view.width, view.height]).ravel()


@dataclass(frozen=True)
class _Taken:
    """What an object covers on screen, roughly: x1, y1, x2, y2 in pixels of the view."""

    kind: int
    depth: float
    box: npt.NDArray[np.float64]


def _fits(one: _Taken, other: _Taken) -> bool:
    """Whether neither object hides more than 45 % of the other or stands inside it."""
    overlap = np.minimum(one.box[2:], other.box[2:]) - np.maximum(one.box[:2], other.box[:2])
    shared = float(np.prod(overlap.clip(0)))
    if shared == 0:
        return True
    farther = max(one, other, key=lambda taken: taken.depth).box
    gap = 3.0 if CAR in (one.kind, other.kind) else 0.8  # metres
    hidden = shared / float(np.prod(farther[2:] - farther[:2]))
    return hidden <= 0.45 and abs(one.depth - other.depth) >= gap


def _build(
    rng: np.random.Generator, street: Street, kind: int, spot: tuple[float, float]
) -> list[Thing]:
    x, z = spot
    if kind == PERSON:
        heading = float(rng.uniform(-math.pi, math.pi))
        height = float(rng.uniform(1.15, 1.3) if rng.random() < 0.08 else rng.uniform(1.55, 1.92))
        parts = objects.person(rng, objects.placement(x, z, heading), height=height)
        return [Thing(PERSON, tuple(parts), spot, 0.4)]
    if kind == BICYCLE:
        place = objects.placement(x, z, _heading(rng, crossing=0.6))
        ridden = rng.random() < 0.65
        parts = objects.bicycle(rng, place, lights=bool(ridden and rng.random() < 0.6))
        things = [Thing(BICYCLE, tuple(parts), spot, 0.6)]
        if ridden:
            # Slightly nearer than the bicycle, so that it is painted after it.
            body = objects.rider(rng, place)
            things.append(Thing(PERSON, tuple(body), (x, z - 0.01), 0.0))
        return things
    place = objects.placement(x, z, _heading(rng, crossing=0.2))
    parts = car.car(rng, place, lights=bool(rng.random() < 0.5))
    return [Thing(CAR, tuple(parts), spot, 1.6)]


def _heading(rng: np.random.Generator, *, crossing: float) -> float:
    """Along the street, towards or away; or across it with probability `crossing`."""
    along = float(rng.choice([-0.5, 0.5])) * math.pi
    base = float(rng.choice([0.0, math.pi])) if rng.random() < crossing else along
    return base + float(rng.normal(0, 0.25))


def _headlamps(things: Sequence[Thing]) -> list[Lamp]:
    """Light that cars with their lights on throw ahead of them: one lamp for each pair."""
    lamps = []
    for thing in things:
        beams = [p for p in thing.parts if p.glowing and p.colour == car.HEADLIGHT]
        if thing.label == CAR and beams:
            corners = np.array([point for part in beams for point in part.points])
            x, y, z = corners.mean(axis=0)
            away = np.array([x - thing.spot[0], z - thing.spot[1]])
            ahead = away / max(float(np.hypot(*away)), 1e-6) * 2.0
            colour = temperature_rgb(4500)
            lamps.append(Lamp((float(x + ahead[0]), float(y), float(z + ahead[1])), 2.5, colour))
    return lamps
