"""A store on disk: what is in it, how it is read, how it is written.

    from pipeline.store import open_store
    store = open_store("data.zarr")
    sample = store.read("DSC01088", level="packed")

Open `reader` first. Reading needs neither zarr nor numba. What lies where is said in
docs/reference/store-format.md.

- `files`: a store's files by their keys, wherever they are: a protocol, with a page of its own in
  docs/how-to/store-backends.md. `local` has the one for a folder. `open_files` tells by a path or
  URL which one it is.
- `keys`: where in a store what is, and what groups and samples are called.
- `header`: how the store was made. `manifest`: the list of all sources ever seen, as text.
- `samples`: sidecars and chunks, checked as they are read.
- `layouts`: what groups look like. `zarr_metadata`: the same as zarr says it to everybody else.
- `writer`: metadata and manifest during an ingest. `places`: where it found the sources.
  `cleanup`: what is no sample goes.
- `summary`: what `prep info` says.
- `chunk`: one image as bytes.
"""

from __future__ import annotations

from pipeline.store.reader import Store, open_store
from pipeline.store.samples import Sample

__all__ = ["Sample", "Store", "open_store"]
