"""The street itself: sky, house fronts with windows, pavement, road; and street lamps.

The street is made of planes: the ray of every pixel meets the ground, a side wall, the far wall or
the sky. That gives the perspective, and no texture images are needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.sample_set.scene.canvas import Part, View
from pipeline.sample_set.scene.light import Floats, Lamp, Rgb, irradiance

_ROWS_AT_ONCE = 128  # keeps a band's temporaries in the cache
_FLOOR = 3.2  # storey height, metres
_BAY = 2.6  # distance between windows, metres
_BUILDING = 14.0  # frontage of a house, metres
_FAR = 400.0


@dataclass(frozen=True)
class Street:
    """What the empty street looks like.

    Parameters
    ----------
    seed
        Seed of all textures.
    half_road, half_street
        Distance of the kerb and of the house fronts from the middle, metres.
    end
        Distance of the house that closes the view, metres.
    crossing
        Distance of the zebra crossing, metres.
    lit_windows
        Share of windows with light behind them.
    window_colours
        Linear RGB of their light.
    sky
        Linear RGB radiance at the horizon and above.
    ambient
        Linear RGB irradiance from everywhere.
    lamps
        Light sources.
    """

    seed: int
    half_road: float
    half_street: float
    end: float
    crossing: float
    lit_windows: float
    window_colours: tuple[Rgb, Rgb]
    sky: tuple[Rgb, Rgb]
    ambient: Rgb
    lamps: tuple[Lamp, ...]


def render_street(street: Street, view: View) -> Floats:
    """The empty street.

    Returns
    -------
    Floats
        (3, H, W) float32, linear RGB radiance.
    """
    out = np.empty((3, view.height, view.width), np.float32)
    x = np.arange(view.width, dtype=np.float32) + np.float32(0.5)
    across = (x - np.float32(view.middle))[None, :] / np.float32(view.focal)
    for top in range(0, view.height, _ROWS_AT_ONCE):
        bottom = min(top + _ROWS_AT_ONCE, view.height)
        y = np.arange(top, bottom, dtype=np.float32) + np.float32(0.5)
        up = (np.float32(view.horizon) - y)[:, None] / np.float32(view.focal)
        out[:, top:bottom] = _render_band(street, view, across, up)
    return out


def _render_band(street: Street, view: View, across: Floats, up: Floats) -> Floats:
    """One band of rows: `across` (1, W) and `up` (rows, 1) are slopes of the rays."""
    shape = np.broadcast_shapes(across.shape, up.shape)
    out = np.empty((3, *shape), np.float32)
    horizon, zenith = (np.array(c, np.float32)[:, None, None] for c in street.sky)
    fade = np.clip(np.broadcast_to(up, shape) / 0.5, 0, 1) ** np.float32(0.6)
    out[:] = horizon + (zenith - horizon) * fade

    with np.errstate(divide="ignore"):
        ground = np.broadcast_to(np.where(up < 0, view.eye / -up, _FAR), shape)
        wall = np.broadcast_to(
            np.where(across != 0, street.half_street / np.abs(across), _FAR), shape
        )
    far = np.full(shape, street.end, np.float32)
    is_wall = _paint_wall(street, out, across, up, view.eye, wall=np.minimum(wall, ground), far=far)
    on_ground = (ground < wall) & (ground < street.end) & ~is_wall
    if on_ground.any():
        z = ground[on_ground].astype(np.float32)
        x = np.broadcast_to(across, shape)[on_ground] * z
        out[:, on_ground] = _shade_ground(street, x, z)
    return out


def _paint_wall(
    street: Street,
    out: Floats,
    across: Floats,
    up: Floats,
    eye: float,
    *,
    wall: Floats,
    far: Floats,
) -> npt.NDArray[np.bool_]:
    """Paint side walls, then the far wall where rays pass above or between them."""
    shape = out.shape[1:]
    sides = np.broadcast_to(np.sign(across), shape).astype(np.float32)
    painted = np.zeros(shape, bool)
    for is_far, z in ((True, far), (False, wall.astype(np.float32))):
        height = np.float32(eye) + up * z
        x = across * z
        along = x if is_far else z
        # Each side of the street, and its end, is a different row of houses.
        row = np.full(shape, 7.0, np.float32) if is_far else sides
        house = np.floor(along / np.float32(_BUILDING))
        roof = 8 + 9 * _random(street.seed, house, row, 1)
        hit = (height >= 0) & (height < roof) & (z <= street.end)
        if not is_far:
            hit &= np.abs(x) >= street.half_street * np.float32(0.999)
        if not hit.any():
            continue
        out[:, hit] = _shade_wall(
            street, (x[hit], height[hit], z[hit]), along[hit], row[hit], house[hit]
        )
        painted |= hit
    return painted


def _shade_wall(
    street: Street,
    position: tuple[Floats, Floats, Floats],
    along: Floats,
    row: Floats,
    house: Floats,
) -> Floats:
    x, y, z = position
    is_far = row > 2
    normal = (
        np.where(is_far, 0, -np.sign(x)).astype(np.float32),
        np.zeros_like(x),
        np.where(is_far, -1, 0).astype(np.float32),
    )
    light = irradiance(street.lamps, x, y, z, normal=normal)
    light += np.array(street.ambient, np.float32)[:, None]
    tone = 0.10 + 0.25 * _random(street.seed, house, row, 2)
    warmth = 0.1 * (_random(street.seed, house, row, 3) - 0.3)
    grain = 0.85 + 0.3 * smooth_noise(street.seed, along * 3, y * 3)
    courses = np.where((y % np.float32(_FLOOR)) < 0.15, np.float32(1.25), np.float32(1.0))
    albedo = np.stack([tone * (1 + warmth), tone, tone * (1 - warmth)]) * (grain * courses)
    out = albedo * light

    storey, bay = np.floor(y / _FLOOR), np.floor(along / _BAY)
    v, u = (y / np.float32(_FLOOR)) % 1, (along / np.float32(_BAY)) % 1
    pane = (u > 0.25) & (u < 0.75) & (v > 0.28) & (v < 0.82)
    lit = _random(street.seed, bay * 17 + storey, row, 4) < street.lit_windows
    shop = (storey == 0) & (_random(street.seed, house, row, 5) < 0.3) & (v > 0.12) & (v < 0.85)
    shop &= (u > 0.06) & (u < 0.94)
    frame = (np.abs(u - 0.5) < 0.02) | (np.abs(v - 0.6) < 0.02)
    out[:, pane] = 0.05 * light[:, pane]
    glow = (pane & lit & (storey > 0)) | shop
    level = 0.25 + 0.9 * _random(street.seed, bay * 31 + storey, row, 6) ** 2
    level = level * np.where(shop, 1.4, 1.0) * (0.6 + 0.6 * v) * np.where(frame, 0.15, 1.0)
    first, second = (np.array(c, np.float32)[:, None] for c in street.window_colours)
    mix = _random(street.seed, bay, row, 7)
    colour = first * mix + second * (1 - mix)
    if street.lit_windows > 0:
        out[:, glow] = (colour * level)[:, glow]
    painted: Floats = out.astype(np.float32)
    return painted


def _shade_ground(street: Street, x: Floats, z: Floats) -> Floats:
    zero = np.zeros_like(x)
    light = irradiance(street.lamps, x, zero, z, normal=(zero, zero + 1, zero))
    light += np.array(street.ambient, np.float32)[:, None]
    # Fine grain fades into grey where a pixel covers more than one grain.
    near = np.clip(12 / z, 0, 1)
    grain = (smooth_noise(street.seed + 1, x * 9, z * 9) - 0.5) * near
    patches = smooth_noise(street.seed + 2, x * 0.5, z * 0.25) - 0.5
    road = 0.11 + 0.06 * grain + 0.05 * patches
    slabs = ((x % np.float32(0.9)) < 0.04) | ((z % np.float32(0.9)) < 0.04)
    pavement = 0.24 + 0.08 * grain + 0.08 * patches - 0.08 * near * slabs
    side = np.abs(x)
    albedo = np.where(side < street.half_road, road, pavement)
    albedo = np.where(np.abs(side - street.half_road) < 0.12, 0.34, albedo)
    dashes = (side < 0.07) & ((z % 6) < 3)
    crossing = (
        (z > street.crossing)
        & (z < street.crossing + 3.5)
        & (((x + 50) % 1.1) < 0.55)
        & (side < street.half_road - 0.3)
    )
    albedo = np.where(dashes | crossing, 0.55 + 0.2 * grain, albedo).astype(np.float32)
    return albedo * light


def lamp_post(lamp: Lamp, *, arm: float, glow: float) -> list[Part]:
    """The post a street lamp hangs from.

    Parameters
    ----------
    lamp
        Its position is the bulb's.
    arm
        How far the bulb stands out from the post towards the road, metres, signed.
    glow
        Radiance of the bulb; 0: it is off.
    """
    x, y, z = lamp.position
    metal: Rgb = (0.10, 0.10, 0.10)
    parts = [
        Part(((x - arm, 0, z), (x - arm, y - 0.2, z)), 0.06, metal, roundness=0.4),
        Part(((x - arm, y - 0.2, z), (x, y + 0.1, z)), 0.04, metal),
        Part(((x - 0.28, y + 0.08, z), (x + 0.28, y + 0.08, z)), 0.09, metal),
    ]
    if glow > 0:
        red, green, blue = (glow * channel for channel in lamp.colour)
        ends = ((x - 0.22, y, z), (x + 0.22, y, z))
        parts.append(Part(ends, 0.07, (red, green, blue), glowing=True, layer=1))
    return parts


def _random(seed: int, a: Floats, b: Floats, salt: int) -> Floats:
    """A number in [0, 1) for each pair of whole numbers."""
    with np.errstate(over="ignore"):
        h = a.astype(np.int32).astype(np.uint32) * np.uint32(0x9E3779B1)
        h ^= b.astype(np.int32).astype(np.uint32) * np.uint32(0x85EBCA77)
        h ^= np.uint32((seed * 0xC2B2AE3D + salt * 0x27D4EB2F) & 0xFFFFFFFF)
        h ^= h >> np.uint32(15)
        h *= np.uint32(0x2C1B3C6D)
        h ^= h >> np.uint32(12)
        h *= np.uint32(0x297A2D39)
        h ^= h >> np.uint32(15)
    unit: Floats = (h >> np.uint32(8)).astype(np.float32) / np.float32(1 << 24)
    return unit


def smooth_noise(seed: int, x: Floats, y: Floats) -> Floats:
    """Random values on a unit grid, interpolated between: 0..1, float32, shape of x and y."""
    left, top = np.floor(x), np.floor(y)
    u, v = x - left, y - top
    upper = _random(seed, left, top, 0) * (1 - u) + _random(seed, left + 1, top, 0) * u
    lower = _random(seed, left, top + 1, 0) * (1 - u) + _random(seed, left + 1, top + 1, 0) * u
    mixed: Floats = (upper * (1 - v) + lower * v).astype(np.float32)
    return mixed
