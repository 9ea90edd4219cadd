"""A store in a folder of a local disk.

- `files`: what `pipeline.store.files.StoreFiles` promises, for a folder.
- `disk`: makes every change whole or not at all.
- `lock`: lets one ingest write at a time.
"""
