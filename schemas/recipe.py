"""The recipe: every choice that changes a stored number, named and fingerprinted."""

from __future__ import annotations

import hashlib
import json
from typing import ClassVar, get_args

from pydantic import field_validator, model_validator

from schemas.base import GrownModel
from schemas.choices import (
    DEFAULT_CODEC,
    DEFAULT_COLOUR,
    DEFAULT_FIT,
    DEFAULT_LEVELS,
    Codec,
    Colour,
    LevelName,
)
from schemas.coco import class_key

__all__ = [
    "BRIGHTNESS_PLANE",
    "PLANES",
    "TRANSFORM_VERSION",
    "Codec",
    "Colour",
    "LevelName",
    "Recipe",
]

#: What the three planes of a colour are called, and which of them says how bright a picture is.
PLANES: dict[Colour, tuple[str, str, str]] = {
    "xyz": ("X", "Y", "Z"),
    "xyz-balanced": ("X", "Y", "Z"),
    "camera": ("R", "G", "B"),
}
BRIGHTNESS_PLANE: dict[Colour, str] = {"xyz": "Y", "xyz-balanced": "Y", "camera": "G"}

#: Raised whenever the same raw and options would give other stored numbers than before.
TRANSFORM_VERSION = 2


class Recipe(GrownModel):
    """What an ingest does to pixels and classes; one store holds samples of one recipe.

    Attributes
    ----------
    colour
        ``"xyz"``: XYZ = inv(C) @ camera RGB, no white balance, no clipping (the default);
        ``"xyz-balanced"``: LibRaw's own XYZ output, daylight-balanced and clipped;
        ``"camera"``: camera RGB without a matrix, for ablations.
    levels
        Which arrays are stored: ``"packed"`` (half the sensor's resolution) and ``"resized"``.
    fit
        Bounds of the resized level as (long side, short side) in pixels; never enlarged.
    codec
        Compressor inside blosc; both are lossless and give the same numbers.
    transform
        Version of the arithmetic, `TRANSFORM_VERSION`.
    categories
        (name as annotated, name of the class it counts as), by the first; see `class_of`.
    """

    LATER: ClassVar[tuple[str, ...]] = ("categories",)

    colour: Colour = DEFAULT_COLOUR
    levels: tuple[LevelName, ...] = DEFAULT_LEVELS
    fit: tuple[int, int] = DEFAULT_FIT
    codec: Codec = DEFAULT_CODEC
    transform: int = TRANSFORM_VERSION
    categories: tuple[tuple[str, str], ...] = ()

    @field_validator("categories")
    @classmethod
    def _one_class_each(cls, pairs: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        classes: dict[str, str] = {}
        for pair in pairs:
            name, counts_as = map(class_key, pair)
            if not name or not counts_as:
                raise ValueError("a category has no name")
            if classes.setdefault(name, counts_as) != counts_as:
                raise ValueError(f"category {name!r} counts as two classes")
        return tuple(sorted(classes.items()))

    @model_validator(mode="after")
    def _is_consistent(self) -> Recipe:
        if not self.levels or len(set(self.levels)) != len(self.levels):
            names = ", ".join(map(repr, get_args(LevelName)))
            raise ValueError(f"levels must name at least one of {names}, each once")
        long_side, short_side = self.fit
        if not 16 <= short_side <= long_side <= 65535:
            raise ValueError("fit must be LONGxSHORT with 16 <= SHORT <= LONG <= 65535")
        return self

    @property
    def planes(self) -> tuple[str, str, str]:
        """What the three planes of a level are called."""
        return PLANES[self.colour]

    @property
    def brightness_plane(self) -> str:
        """The plane whose 99th percentile says how bright a picture is."""
        return BRIGHTNESS_PLANE[self.colour]

    def class_of(self, category: str) -> str:
        """The class that boxes of a category, named as annotated, count as.

        One step: with ``a=b`` and ``b=c`` an ``a`` counts as ``b``.
        """
        key = class_key(category)
        return next((to for name, to in self.categories if name == key), category.strip())

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits that differ whenever a field does."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def describe(self) -> str:
        """One line for messages: the choices in words, then the fingerprint."""
        long_side, short_side = self.fit
        classes = "".join(f", category {name}={to}" for name, to in self.categories)
        return (
            f"colour {self.colour}, levels {'+'.join(self.levels)}, fit {long_side}x{short_side}, "
            f"codec {self.codec}{classes}, transform {self.transform} ({self.fingerprint})"
        )
