"""The stores that the checks read: a freshly drawn sample set, and many frames of one shape."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

from pipeline.store.keys import chunk_key, sidecar_key
from pipeline.store.local.files import LocalFiles
from pipeline.store.reader import open_store
from schemas.recipe import LevelName, Recipe
from schemas.sidecar import Sidecar
from scripts.gpu_check.checking import Bench, NotCheckedError, Result

LEVELS: tuple[LevelName, ...] = ("resized", "packed")


def prepare_stores(bench: Bench, result: Result) -> None:
    """Make the stores the other checks read."""
    store = bench.given or _drawn(bench)
    opened = open_store(store)
    bench.samples = store
    sidecars = [opened.sidecar(sample_id) for sample_id in opened]
    for level in LEVELS:
        with result.part(f"{level} frames"):
            count = bench.sizes.frames[level]
            shape = _repeat(store, sidecars, bench.folder / f"{level}.zarr", level, count)
            bench.frames[level] = bench.folder / f"{level}.zarr"
            result.found[level] = {"shape": shape, "samples": count}
    origin = "given" if bench.given else "drawn and ingested here"
    result.found |= {"origin": origin, "samples": len(opened)}
    result.summary = f"{len(opened)} samples, {origin}; " + ", ".join(
        f"{level} {found['samples']} x {found['shape']}"
        for level, found in result.found.items()
        if level in LEVELS
    )


def _drawn(bench: Bench) -> Path:
    from pipeline.console.progress import PlainReporter
    from pipeline.ingest import IngestOptions, run_ingest
    from pipeline.sample_set import write_sample_set

    raws, store = bench.folder / "raws", bench.folder / "samples.zarr"
    write_sample_set(raws, images=bench.sizes.raws, seed=1, full_size=bench.sizes.full_size)
    recipe = Recipe(levels=("packed", "resized"), fit=bench.sizes.fit)
    reporter = PlainReporter(bench.say, quiet=True)
    done = run_ingest([str(raws)], str(store), recipe, IngestOptions(), reporter)
    if done.exit_code or done.samples != bench.sizes.raws:
        raise RuntimeError(
            f"ingest ended with {done.exit_code}: {done.samples} of {bench.sizes.raws} raws"
        )
    return store


def _repeat(
    store: Path, sidecars: list[Sidecar], target: Path, level: LevelName, count: int
) -> tuple[int, int, int]:
    """A store of `count` samples of one level and shape in split ``"train"``; returns the shape.

    The samples of the commonest shape, in turn, under new ids. Their chunks are linked, so every
    one is read from the page cache: what a disk adds is not in these timings.
    """
    held = [sidecar for sidecar in sidecars if level in sidecar.levels and sidecar.annotation]
    if not held:
        raise NotCheckedError("the store holds none with boxes")
    ((shape, _),) = Counter(sidecar.levels[level].shape for sidecar in held).most_common(1)
    models = [sidecar for sidecar in held if sidecar.levels[level].shape == shape]
    source, files = LocalFiles(store), LocalFiles(target)
    files.put("zarr.json", source.get("zarr.json"))
    for row in range(count):
        model = models[row % len(models)]
        chunk = files.path(chunk_key(model.group, level, row))
        chunk.parent.mkdir(parents=True, exist_ok=True)
        _link(source.path(chunk_key(model.group, level, model.row)), chunk)
        update = {"id": f"IMG{row:05}", "row": row, "split": "train"}
        sidecar = model.model_copy(update=update | {"levels": {level: model.levels[level]}})
        files.put(sidecar_key(model.group, sidecar.id), sidecar.sealed().to_json())
    return shape


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)
