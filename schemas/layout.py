"""The layout: what the zarr metadata of a store says. Derived from sidecars, not vice versa."""

from __future__ import annotations

from pydantic import Field

from schemas.base import StrictModel
from schemas.fixed_point import FixedPoint
from schemas.recipe import LevelName, Recipe
from schemas.sidecar import MAX_ROWS, Camera, Name, Planes, Side


class LevelLayout(StrictModel):
    """One array: (3, height, width) of each image, and the fixed point they share."""

    shape: tuple[Planes, Side, Side]
    scale_factor: float = Field(gt=0)
    add_offset: float

    @property
    def fixed_point(self) -> FixedPoint:
        """How values are kept in it."""
        return FixedPoint(self.scale_factor, self.add_offset)


class GroupLayout(StrictModel):
    """One group: the samples of one camera in one frame. ``rows`` counts reserved rows."""

    name: Name
    camera: Camera
    frame_size: tuple[Side, Side]
    rows: int = Field(ge=0, le=MAX_ROWS)
    levels: dict[LevelName, LevelLayout]

    @property
    def fixed_point(self) -> FixedPoint:
        """How values are kept in it: all its levels have the same."""
        return next(iter(self.levels.values())).fixed_point


class StoreLayout(StrictModel):
    """The whole store. ``versions`` names the packages that created it."""

    recipe: Recipe
    versions: dict[str, str]
    groups: tuple[GroupLayout, ...] = ()
