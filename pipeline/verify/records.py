"""A sidecar against the recipe, and its parts against each other: what a digest says nothing of."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.develop.colour import fixed_point
from pipeline.develop.steps import level_size
from pipeline.errors import REDO
from pipeline.store.keys import sidecar_key
from schemas.finding import Finding
from schemas.finding_codes import FindingCode
from schemas.recipe import Recipe
from schemas.sidecar import Sidecar


def damaged(code: FindingCode, where: str, message: str, mend: str = REDO) -> Finding:
    """The finding for something that is not what it must be."""
    return code.finding(where, message, mend=mend)


def redo(group: str, sample_id: str) -> str:
    """The mend of what no ingest looks for: without its sidecar the sample is made again."""
    key = sidecar_key(group, sample_id)
    return f"delete {key}, then run prep ingest with the same sources and store"


def check_record(sidecar: Sidecar, recipe: Recipe, name: str) -> Iterator[Finding]:
    """A sidecar against the recipe, and its parts against each other."""

    def wrong(code: FindingCode, message: str) -> Finding:
        return damaged(code, name, message, redo(sidecar.group, sidecar.id))

    if sidecar.recipe_fingerprint != recipe.fingerprint:
        yield wrong(FindingCode.DAMAGED_RECIPE, "the sample was made with another recipe")
    if set(sidecar.levels) != set(recipe.levels):
        yield wrong(FindingCode.DAMAGED_LEVELS, f"levels are {sorted(sidecar.levels)}")
    try:
        own = fixed_point(sidecar.sensor, recipe.colour)
    except (ArithmeticError, ValueError) as error:
        yield wrong(FindingCode.DAMAGED_SENSOR, f"its levels and matrix cannot be used: {error}")
        return
    for level, record in sidecar.levels.items():
        width, height = level_size(sidecar.frame.size, level, recipe)
        if record.shape != (3, height, width):
            yield wrong(
                FindingCode.DAMAGED_SHAPE, f"{level} is {record.shape}, not (3, {height}, {width})"
            )
        if tuple(record.statistics) != recipe.planes:
            yield wrong(
                FindingCode.DAMAGED_STATISTICS, f"{level} has planes {tuple(record.statistics)}"
            )
        if not record.fixed_point.covers(own):
            yield wrong(
                FindingCode.DAMAGED_RANGE, f"{level} cannot hold all values its sensor can produce"
            )
    for code, message in _check_annotation(sidecar):
        yield wrong(code, message)


def _same_frame(annotated: tuple[int, int], sidecar: Sidecar) -> bool:
    """Whether an annotated size is the frame's, but for the odd row or column that is no cell."""
    pairs = zip(annotated, sidecar.frame.box_scale, sidecar.frame.size, strict=True)
    return all(round(side * scale) - kept in (0, 1) for side, scale, kept in pairs)


def _check_annotation(sidecar: Sidecar) -> Iterator[tuple[FindingCode, str]]:
    """Every box that will be trained on is of a named class and has an area inside the frame."""
    if sidecar.annotation is None:
        return
    if sidecar.annotation.split != sidecar.split:
        yield (
            FindingCode.DAMAGED_SPLIT,
            f"its split is {sidecar.split}, its annotation's {sidecar.annotation.split}",
        )
    width, height = sidecar.annotation.size
    if not _same_frame((width, height), sidecar):
        yield (
            FindingCode.DAMAGED_FRAME,
            f"annotated as {(width, height)}, stored frame {sidecar.frame.size}",
        )
    for box in sidecar.annotation.boxes:
        x, y, w, h = box.bbox
        place = f"box {box.annotation_id} {list(box.bbox)}"
        if not box.trainable:
            continue
        if not (w > 0 and h > 0 and x < width and y < height and x + w > 0 and y + h > 0):
            yield FindingCode.DAMAGED_BOX, f"{place} has no area inside the frame"
        if not box.category.strip():
            yield FindingCode.DAMAGED_BOX, f"{place} is no box to train on: its class has no name"
