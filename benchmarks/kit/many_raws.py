"""Any number of tiny raws in two cameras' real formats, with boxes: for what grows with a count.

A dozen mosaics of 96x64 pixels are encoded once; every file is one of them with a capture time of
its own, so no two files are alike. Half of them are annotated, in a COCO file for each split.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from pipeline.sample_set import NIKON_D750, SONY_RX100M7, arw_bytes, nef_bytes
from pipeline.sample_set.annotation_file import Shot, coco_document

SHAPE = (64, 96)  # height, width of the mosaic
CROP = (8, 8, 80, 48)  # x, y, width, height of the camera's frame in it
SPLITS = ("train", "train", "train", "val", "test")

_CONTENTS = 12
_TIME = "2020:01:01 21:00:00"  # replaced in every file by a text as long


def write_many_raws(folder: Path, count: int, *, seed: int = 0) -> dict[str, str | None]:
    """Write `count` raws and three annotation files.

    Returns
    -------
    Split by file stem, None for a raw without annotation.
    """
    rng = np.random.default_rng(seed)
    contents = list(_contents(rng))
    folder.mkdir(parents=True)
    shots: dict[str, list[Shot]] = {split: [] for split in SPLITS}
    splits: dict[str, str | None] = {}
    for number in range(count):
        suffix, data = contents[number % len(contents)]
        stem = f"IMG{number:07}"
        path = folder / f"{stem}{suffix}"
        path.write_bytes(data.replace(_TIME.encode(), _time(number).encode()))
        splits[stem] = None
        if number % 4 < 2:  # of both cameras
            split = splits[stem] = SPLITS[number // 4 % len(SPLITS)]
            shots[split].append(_shot(stem, path, rng))
    for split, members in shots.items():
        document = coco_document(members, description="boxes anywhere")
        (folder / f"boxes_{split}.json").write_text(json.dumps(document))
    return splits


def _contents(rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    """(suffix, file) of each distinct mosaic: noise well above black, cameras in turn."""
    for number in range(_CONTENTS):
        sony = number % 2 == 0
        camera = SONY_RX100M7 if sony else NIKON_D750
        camera = replace(camera, crop=CROP, iso=100 << number % 5, captured_at=_TIME)
        black = camera.black[0]
        mosaic = rng.integers(black - 50, black + 2000, SHAPE).astype(np.uint16)
        yield (
            (".ARW", arw_bytes(mosaic, camera=camera))
            if sony
            else (".NEF", nef_bytes(mosaic, compression="lossless", camera=camera))
        )


def _shot(stem: str, path: Path, rng: np.random.Generator) -> Shot:
    """Two to five boxes of at least 4 pixels inside the frame."""
    width, height = CROP[2:]
    boxes = int(rng.integers(2, 6))
    corner = rng.integers(0, (width - 8, height - 8), (boxes, 2))
    size = rng.integers(4, (width, height), (boxes, 2))
    size = np.minimum(size, (width, height) - corner)
    labels = rng.integers(1, 4, boxes)
    return Shot(stem, path, (width, height), np.hstack([corner, size]), labels)


def _time(number: int) -> str:
    moment = datetime(1990, 1, 1) + timedelta(seconds=number)
    return moment.strftime("%Y:%m:%d %H:%M:%S")
