"""A composed street, drawn: by night or by day, at any size, with or without an object."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.sample_set.scene.canvas import Canvas, Part
from pipeline.sample_set.scene.composition import Scene, Thing
from pipeline.sample_set.scene.light import RGB_TO_XYZ, Floats, Rgb, irradiance, scaled
from pipeline.sample_set.scene.street import Street, lamp_post, render_street

Illumination = Literal["night", "day"]

_LAMP_GLOW = 60.0


@dataclass(frozen=True)
class RenderedScene:
    """A drawn scene.

    Parameters
    ----------
    xyz
        (3, H, W) float32, CIE XYZ radiance in the scene's own unit (white paper under a lamp is
        about 1), not clipped: lamps reach 60.
    boxes
        (n, 4) int64, COCO xywh in pixels of the frame (origin top-left, half-open), tight around
        what can be seen of each object.
    labels
        (n,) int64, COCO category ids 1, 2, 3.
    owner
        (H, W) int16, row in `boxes` of the object a pixel shows; -1 none.
    """

    xyz: Floats
    boxes: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    owner: npt.NDArray[np.int16]


def render_scene(
    scene: Scene, *, width: int, height: int, illumination: Illumination = "night"
) -> RenderedScene:
    """Draw a scene.

    Parameters
    ----------
    scene
        From `compose_scene`.
    width, height
        Frame in pixels; width / height should be the scene's aspect.
    illumination
        ``"night"``, or ``"day"`` for the same scene well lit.
    """
    view = scene.camera.view(width, height)
    night = illumination == "night"
    street = scene.street if night else _by_day(scene.street)
    canvas = Canvas(view, render_street(street, view))
    drawables: list[tuple[float, int]] = [
        *((thing.spot[1], number) for number, thing in enumerate(scene.things)),
        *((lamp.position[2], -1 - number) for number, (lamp, _) in enumerate(scene.posts)),
    ]
    for _, number in sorted(drawables, reverse=True):
        if number >= 0:
            _paint_thing(canvas, street, scene.things[number], number)
        else:
            lamp, arm = scene.posts[-1 - number]
            post = lamp_post(lamp, arm=arm, glow=_LAMP_GLOW if night else 0.0)
            canvas.paint(post, _light_at(street, lamp.position[0], 3.0, lamp.position[2]), -1)
    if night:
        _add_glare(canvas, scene)
    return _finish(canvas, scene)


def without_thing(scene: Scene, number: int) -> Scene:
    """The same scene, one object missing (its light, if it has any, stays)."""
    things = tuple(t for i, t in enumerate(scene.things) if i != number)
    return replace(scene, things=things)


def _finish(canvas: Canvas, scene: Scene) -> RenderedScene:
    boxes: list[list[int]] = []
    labels: list[int] = []
    owner = np.full_like(canvas.owner, -1)
    for number, thing in enumerate(scene.things):
        mine = canvas.owner == number
        rows, columns = np.flatnonzero(mine.any(axis=1)), np.flatnonzero(mine.any(axis=0))
        if len(rows) < 2 or len(columns) < 2:
            continue  # hidden behind others
        owner[mine] = len(boxes)
        left, top = int(columns[0]), int(rows[0])
        boxes.append([left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top])
        labels.append(thing.label)
    xyz = np.tensordot(RGB_TO_XYZ, canvas.rgb, axes=1).astype(np.float32)
    return RenderedScene(
        xyz, np.array(boxes, np.int64).reshape(-1, 4), np.array(labels, np.int64), owner
    )


def _paint_thing(canvas: Canvas, street: Street, thing: Thing, number: int) -> None:
    x, z = thing.spot
    if thing.shadow:
        canvas.darken((x, 0.0, z), thing.shadow, 0.65)
    canvas.paint(thing.parts, _light_at(street, x, 1.0, z), number)


def _light_at(street: Street, x: float, y: float, z: float) -> Floats:
    """(3,) irradiance on the camera-facing side of something, plus a little from behind."""
    point = tuple(np.array(value, np.float32) for value in (x, y, z))
    zero, one = np.float32(0), np.float32(1)
    facing = irradiance(
        street.lamps, *point, normal=(np.array(zero), np.array(zero), np.array(-one))
    )
    above = irradiance(street.lamps, *point, normal=(np.array(zero), np.array(one), np.array(zero)))
    return facing * 0.7 + above * 0.5 + np.array(street.ambient, np.float32)


def _add_glare(canvas: Canvas, scene: Scene) -> None:
    for lamp, _ in scene.posts:
        if canvas.owner_at(lamp.position) == -1:
            red, green, blue = (_LAMP_GLOW * channel for channel in lamp.colour)
            canvas.glare(lamp.position, 0.2, (red, green, blue))
    for number, thing in enumerate(scene.things):
        for part in thing.parts:
            middle = np.mean(np.array(part.points), axis=0)
            centre = (float(middle[0]), float(middle[1]), float(middle[2]))
            # A light turned away was not painted: then its pixel is not this colour.
            if part.glowing and canvas.owner_at(centre) == number and _shows(canvas, part, centre):
                canvas.glare(centre, 0.10, part.colour)


def _shows(canvas: Canvas, part: Part, centre: tuple[float, float, float]) -> bool:
    (x, y), *_ = canvas.view.project(np.array([centre], np.float64))
    return float(canvas.rgb[0, int(y), int(x)]) > 0.5 * part.colour[0]


def _by_day(street: Street) -> Street:
    """The same street under an overcast sky."""
    day: Rgb = (0.95, 1.0, 1.08)
    sky = (day, scaled(day, 0.8))
    return replace(street, lit_windows=0.0, sky=sky, ambient=day, lamps=())
