"""What only the coordinator writes: zarr metadata and the manifest."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pipeline.store.files import StoreFiles
from pipeline.store.keys import MANIFEST_NAME, SIDECARS
from pipeline.store.manifest import dump_manifest
from pipeline.store.zarr_metadata import zarr_documents
from schemas.layout import GroupLayout, StoreLayout
from schemas.manifest import ManifestEntry, ManifestHeader
from schemas.recipe import Recipe


@dataclass
class StoreWriter:
    """Writes the metadata and the manifest of one store; its user holds the lock.

    Attributes
    ----------
    groups
        Groups as last written.
    """

    files: StoreFiles
    recipe: Recipe
    versions: dict[str, str]
    groups: dict[str, GroupLayout] = field(default_factory=dict)
    _manifest_written: float = 0.0

    def write_metadata(self, groups: Mapping[str, GroupLayout]) -> None:
        """Make the zarr metadata say `groups`, the root last."""
        self.groups = dict(groups)
        ordered = tuple(groups[name] for name in sorted(groups))
        layout = StoreLayout(recipe=self.recipe, versions=self.versions, groups=ordered)
        for key, document in zarr_documents(layout).items():
            self.files.put_if_changed(key, document)
        # Made here, not by the first worker that needs it: another one might commit into it before
        # its name is durable.
        for name in groups:
            self.files.make_folder(f"{name}/{SIDECARS}")

    def write_manifest(self, entries: Iterable[ManifestEntry]) -> None:
        """Replace the manifest."""
        header = ManifestHeader(recipe=self.recipe, versions=self.versions)
        self.files.put_if_changed(MANIFEST_NAME, dump_manifest(header, entries))
        self._manifest_written = time.monotonic()

    @property
    def manifest_age(self) -> float:
        """Seconds since the manifest was written."""
        return time.monotonic() - self._manifest_written

    def trim(self, rows: Mapping[str, int]) -> None:
        """Leave each group as many rows as are in use; groups without any are not told of."""
        kept = {
            name: group.model_copy(update={"rows": rows[name]})
            for name, group in self.groups.items()
            if name in rows
        }
        self.write_metadata(kept)
