"""The zarr metadata that makes a store a zarr store for everybody else.

This is the only module that imports zarr: opening and reading a store needs none of it.
"""

from __future__ import annotations

import json
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
    documents = {
        key: value.to_bytes() for key, value in written.items() if key.endswith(METADATA_NAME)
    }
    root_document = documents.pop(METADATA_NAME)
    return dict(sorted(documents.items())) | {
        METADATA_NAME: _consolidated(root_document, documents)
    }


def _consolidated(root: bytes, documents: dict[str, bytes]) -> bytes:
    """The root's document with all others in it.

    Not in the v3 specification yet; but zarr-python and xarray both read it. The bytes are those of
    ``zarr.consolidate_metadata``, which zarr 3.1 cannot do under ``python -O``: it reads documents
    back with an ``assert`` that has a side effect.
    """
    nodes = {}
    for key in sorted(documents, key=lambda key: (key.count("/"), key.casefold())):
        node = json.loads(documents[key])
        is_group = node["node_type"] == "group"
        nodes[key.removesuffix(f"/{METADATA_NAME}")] = _holding(node, {}) if is_group else node
    return json.dumps(_holding(json.loads(root), nodes), indent=2).encode()


def _holding(group: dict[str, Any], nodes: dict[str, Any]) -> dict[str, Any]:
    """A group's document with those of other nodes in it."""
    inline = {"kind": "inline", "must_understand": False, "metadata": nodes}
    kind = group.pop("node_type")
    return {**group, "consolidated_metadata": inline, "node_type": kind}


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
