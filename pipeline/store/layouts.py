"""The layout of every group, as samples and metadata say it; either may be damaged."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from pipeline.store.files import StoreFiles
from pipeline.store.keys import METADATA_NAME
from schemas.layout import GroupLayout, LevelLayout
from schemas.recipe import Recipe
from schemas.sidecar import Camera, Sidecar

Fact = TypeVar("Fact")

#: What reading a document can raise when it is missing, damaged, or about something else.
_UNUSABLE = (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError)


def group_layout(sidecar: Sidecar, rows: int) -> GroupLayout:
    """The layout of a sample's group, as its sidecar implies it."""
    levels = {
        name: LevelLayout(
            shape=record.shape,
            scale_factor=record.scale_factor,
            add_offset=record.add_offset,
        )
        for name, record in sidecar.levels.items()
    }
    return GroupLayout(
        name=sidecar.group,
        camera=sidecar.camera,
        frame_size=sidecar.frame.size,
        rows=rows,
        levels=levels,
    )


class RecordedMetadata:
    """What is left of a store's zarr metadata: each document, or its copy in the root's.

    Parameters
    ----------
    files, recipe
        The store.
    """

    def __init__(self, files: StoreFiles, recipe: Recipe) -> None:
        self._files = files
        self._recipe = recipe
        self._copies: dict[str, Any] = {}
        with suppress(*_UNUSABLE):
            self._copies = dict(self._read("")["consolidated_metadata"]["metadata"])

    @property
    def groups(self) -> set[str]:
        """Names of groups in the root metadata."""
        return {str(name) for name in self._copies if "/" not in name}

    def layout(self, name: str) -> GroupLayout | None:
        """A group's layout, with the fewest rows that any document of it says; None if unknown."""
        try:
            camera, frame_size = self._all(name, _group_facts)[0]
            said = {
                level: self._all(f"{name}/{level}", _array_facts) for level in self._recipe.levels
            }
            return GroupLayout(
                name=name,
                camera=camera,
                frame_size=frame_size,
                rows=self.rows(name),
                levels={level: facts[0][1] for level, facts in said.items()},
            )
        except _UNUSABLE:
            return None

    def rows(self, name: str) -> int:
        """The fewest rows that any document says a group has; 0 if none says any."""
        said = [
            rows
            for level in self._recipe.levels
            for rows, _ in self._all(f"{name}/{level}", _array_facts)
        ]
        return min(said, default=0)

    def _all(self, node: str, facts: Callable[[Any], Fact]) -> list[Fact]:
        """The facts in a node's own document and in its copy, as far as they can be used."""
        found = []
        for read in (self._read, self._copy):
            with suppress(*_UNUSABLE):
                found.append(facts(read(node)))
        return found

    def _read(self, node: str) -> Any:
        return json.loads(self._files.get(f"{node}/{METADATA_NAME}".lstrip("/")))

    def _copy(self, node: str) -> Any:
        return self._copies[node]


def _group_facts(document: Any) -> tuple[Camera, tuple[int, int]]:
    attributes = document["attributes"]
    width, height = attributes["frame_size"]
    return Camera.model_validate(attributes["camera"]), (width, height)


def _array_facts(document: Any) -> tuple[int, LevelLayout]:
    rows, *shape = document["shape"]
    attributes = document["attributes"]
    level = LevelLayout(
        shape=shape,
        scale_factor=attributes["scale_factor"],
        add_offset=attributes["add_offset"],
    )
    return int(rows), level


class KnownLayouts:
    """The layout of every group, from what is left of its samples, the manifest and its metadata.

    Parameters
    ----------
    files, recipe
        The store.
    said
        By group, what each of its samples says, without rows.
    rows
        By group, how many rows its samples need, lost ones included.

    Attributes
    ----------
    of_samples
        By group, what most of its samples say; the metadata decides a tie. Without rows.
    all
        In order of their names.
    unfinished
        Rows are reserved, or a group, that hold no sample.
    """

    def __init__(
        self,
        files: StoreFiles,
        recipe: Recipe,
        said: Mapping[str, Sequence[GroupLayout]],
        rows: Mapping[str, int],
    ) -> None:
        metadata = RecordedMetadata(files, recipe)
        found = {name: metadata.layout(name) for name in {*files.names(), *metadata.groups}}
        recorded = {name: layout for name, layout in found.items() if layout is not None}
        self.of_samples = {
            name: _prevailing(layouts, recorded.get(name)) for name, layouts in said.items()
        }
        known = {name: _with_rows(layout, rows[name]) for name, layout in self.of_samples.items()}
        # Rows and groups that are reserved but hold no sample yet are known from metadata alone.
        layouts = {
            name: _with_rows(layout, max(layout.rows, metadata.rows(name)))
            for name, layout in (recorded | known).items()
        }
        self.all = tuple(layouts[name] for name in sorted(layouts))
        self.unfinished = layouts != known


def _prevailing(said: Iterable[GroupLayout], recorded: GroupLayout | None) -> GroupLayout:
    """What most say; where as many say something else, what the metadata says, too."""
    distinct: list[GroupLayout] = []
    votes = Counter[int]()
    for one in said:
        known = (i for i, other in enumerate(distinct) if one is other or one == other)
        index = next(known, len(distinct))
        if index == len(distinct):
            distinct.append(one)
        votes[index] += 1
    alone = None if recorded is None else _with_rows(recorded, 0)
    best = max(votes, key=lambda index: (votes[index], distinct[index] == alone))
    return distinct[best]


def _with_rows(layout: GroupLayout, rows: int) -> GroupLayout:
    return layout.model_copy(update={"rows": rows})
