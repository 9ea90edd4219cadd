"""One image as one zarr chunk: bit planes, LZ4 or zstd, in Blosc's frame, with a checksum.

Open `format` first: it says what a chunk is, and checks and reads one by Blosc itself.

- `encode`: makes chunks.
- `fast_decode`: reads them several times faster, compiled.
- `bitplanes`, `lz4`, `addresses`: what those two are made of.

All compiled functions that call each other are in this folder: see `pipeline.runtime.compiled`.
"""
