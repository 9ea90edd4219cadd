"""Camera raws in, a verified store out. The rooms, along the way of one raw:

- `sources`: finds raws and annotation files, and reads them.
- `annotations`: what COCO files say about a raw.
- `raw`: a file's bytes to its mosaic.
- `develop`: a mosaic to the numbers that are stored.
- `store`: those numbers on disk, and back.
- `ingest`: all of that in order, for every source, again and again. `verify` checks the result.

Beside the way: `console` (what is said), `runtime` (processes, threads, signals), `sample_set`
(synthetic raws), `doctor`, `develop_file`, `camera_picture`, `safe_text`, `errors`.
"""
