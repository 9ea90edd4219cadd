"""The zarr metadata that makes a store a zarr store for everybody else.

This is the only module that imports zarr: opening and reading a store needs none of it.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from pipeline.store.chunk.format import zarr_codecs
from pipeline.store.keys import METADATA_NAME
from schemas.layout import StoreLayout
from schemas.recipe import Recipe
from schemas.sidecar import FORMAT, FORMAT_VERSION

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer


def zarr_documents(layout: StoreLayout) -> dict[str, bytes]:
    """Every ``zarr.json`` of a store, the root last, its metadata consolidated.

    zarr-python writes them, into memory: so the documents are whatever zarr itself considers right,
    and reach the disk through our atomic puts. The same layout gives the same bytes.
    """
    import zarr

    written: dict[str, Buffer] = {}
    memory = zarr.storage.MemoryStore(written)
    root = zarr.create_group(memory, attributes=_root_attributes(layout))
    for group in layout.groups:
        attributes = {
            "camera": group.camera.model_dump(),
            "frame_size": list(group.frame_size),
        }
        node = root.create_group(group.name, attributes=attributes)
        for name, level in group.levels.items():
            node.create_array(
                name,
                shape=(group.rows, *level.shape),
                chunks=(1, *level.shape),
                dtype="uint16",
                fill_value=0,
                chunk_key_encoding={"name": "default", "separator": "."},
                dimension_names=("sample", "plane", f"y_{name}", f"x_{name}"),
                attributes={
                    "scale_factor": level.scale_factor,
                    "add_offset": level.add_offset,
                    "planes": list(layout.recipe.planes),
                },
                **_codec_arguments(layout.recipe),
            )
    with warnings.catch_warnings():
        # Not in the v3 specification yet, says zarr; but zarr-python and xarray both read it.
        warnings.simplefilter("ignore", category=UserWarning)
        zarr.consolidate_metadata(memory)
    documents = {
        key: value.to_bytes() for key, value in written.items() if key.endswith(METADATA_NAME)
    }
    return dict(sorted(documents.items(), key=lambda item: (item[0] == METADATA_NAME, item[0])))


def _root_attributes(layout: StoreLayout) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "recipe": layout.recipe.model_dump(mode="json"),
        "recipe_fingerprint": layout.recipe.fingerprint,
        "versions": layout.versions,
    }


def _codec_arguments(recipe: Recipe) -> dict[str, Any]:
    serializer, *compressors = zarr_codecs(recipe.codec)
    return {"serializer": serializer, "compressors": compressors}
