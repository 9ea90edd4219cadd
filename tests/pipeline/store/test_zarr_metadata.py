from __future__ import annotations

import json
import warnings

import pytest
import zarr
from zarr.core.buffer import default_buffer_prototype

from pipeline.store.zarr_metadata import zarr_documents
from schemas.layout import GroupLayout, LevelLayout, StoreLayout
from schemas.recipe import LevelName, Recipe
from schemas.sidecar import Camera


def group(name: str, sizes: dict[LevelName, tuple[int, int]]) -> GroupLayout:
    return GroupLayout(
        name=name,
        camera=Camera(make="Größe", model='D "1" 写'),
        frame_size=(192, 128),
        rows=5,
        levels={
            level: LevelLayout(shape=(3, *size), scale_factor=3.6e-05, add_offset=-0.3)
            for level, size in sizes.items()
        },
    )


GROUPS = {
    "none": (),
    "one": (group("b-2_192x128", {"packed": (64, 96), "resized": (32, 48)}),),
    "several": (
        group("zz", {"resized": (2, 3)}),
        group("b-2_192x128", {"packed": (64, 96), "resized": (32, 48)}),
        group("Ba", {"packed": (2, 3)}),
    ),
}


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
def test_the_root_is_what_zarr_itself_consolidates(groups: tuple[GroupLayout, ...]) -> None:
    layout = StoreLayout(recipe=Recipe(), versions={"genisp": "1"}, groups=groups)
    documents = zarr_documents(layout)
    assert list(documents)[-1] == "zarr.json"
    root = json.loads(documents["zarr.json"])
    del root["consolidated_metadata"]
    prototype = default_buffer_prototype()
    bare = documents | {"zarr.json": json.dumps(root).encode()}
    held = {key: prototype.buffer.from_bytes(text) for key, text in bare.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        zarr.consolidate_metadata(zarr.storage.MemoryStore(held))
    assert {key: value.to_bytes() for key, value in held.items()} == documents
