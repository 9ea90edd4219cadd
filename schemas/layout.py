"""The layout: what the zarr metadata of a store says. Derived from sidecars, not vice versa."""

from __future__ import annotations

from schemas.base import StrictModel
from schemas.recipe import LevelName, Recipe
from schemas.sidecar import Camera


class LevelLayout(StrictModel):
    """One array: (3, height, width) of each image, and the fixed point they share."""

    shape: tuple[int, int, int]
    scale_factor: float
    add_offset: float


class GroupLayout(StrictModel):
    """One group: the samples of one camera in one frame. ``rows`` counts reserved rows."""

    name: str
    camera: Camera
    frame_size: tuple[int, int]
    rows: int
    levels: dict[LevelName, LevelLayout]


class StoreLayout(StrictModel):
    """The whole store. ``versions`` names the packages that created it."""

    recipe: Recipe
    versions: dict[str, str]
    groups: tuple[GroupLayout, ...] = ()
