"""The COCO files of a sample set, as NOD writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

_HELD_OUT = 0.15


@dataclass(frozen=True)
class Shot:
    """One written raw and its boxes, (n, 4) xywh integers in the crop frame."""

    stem: str
    path: Path
    frame: tuple[int, int]  # width, height
    boxes: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]


def split_shots(shots: Sequence[Shot], rng: np.random.Generator) -> dict[str, list[Shot]]:
    """About 70/15/15 train, val, test, at random; from three shots on, at least one in each."""
    shuffled = [shots[i] for i in rng.permutation(len(shots))]
    held_out = max(round(_HELD_OUT * len(shots)), 1 if len(shots) >= 3 else 0)
    return {
        "train": shuffled[2 * held_out :],
        "val": shuffled[:held_out],
        "test": shuffled[held_out : 2 * held_out],
    }


def coco_document(members: Sequence[Shot], *, description: str) -> dict[str, object]:
    """A COCO file the way NOD writes it: ids are file stems, annotation ids restart at 0."""
    boxes = [
        (shot, box, label)
        for shot in sorted(members, key=lambda shot: shot.stem)
        for box, label in zip(shot.boxes.tolist(), shot.labels.tolist(), strict=True)
    ]
    return {
        "info": {
            "description": description,
            "url": "",
            "version": "1.0",
            "year": 2020,
            "contributor": "prep sample",
            "date_created": "2020",
        },
        "licenses": [{"id": 1, "name": "MIT", "url": "https://opensource.org/license/mit"}],
        "images": [
            {
                "id": shot.stem,
                "width": shot.frame[0],
                "height": shot.frame[1],
                "file_name": shot.path.name,
                "license": 1,
            }
            for shot in members
        ],
        "categories": [
            {"supercategory": "person", "id": 1, "name": "person"},
            {"supercategory": "vehicle", "id": 2, "name": "bicycle"},
            {"supercategory": "vehicle", "id": 3, "name": "car"},
        ],
        "annotations": [
            {
                "image_id": shot.stem,
                "bbox": box,
                "category_id": label,
                "id": number,
                "iscrowd": 0,
                "area": box[2] * box[3],
            }
            for number, (shot, box, label) in enumerate(boxes)
        ],
    }
