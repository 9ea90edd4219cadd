"""What a detector calls what it finds: labels and names of its classes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from torch import Tensor
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from pipeline.errors import UsageError
from schemas.coco import MAX_TEXT, class_key

#: What torchvision's detectors trained on COCO know: COCO's ids and names. (Ids that COCO does not
#: use are "N/A" in the list.)
COCO_CLASSES: Final[Mapping[int, str]] = {
    number: name
    for number, name in enumerate(FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"])
    if name not in ("__background__", "N/A")
}

#: Logits for each anchor of these.
COCO_COUNT: Final = 91

_BACKGROUND: Final = "__background__"
_NUMBERED: Final = re.compile(r"(\d{1,9})\s*:\s*(.*)")
_MAX_CLASSES: Final = 100_000

#: The layer whose outputs are a detector's classes, by the end of its name in a state dict.
_CLASS_LAYERS: Final = (
    "head.classification_head.cls_logits.weight",  # RetinaNet, FCOS
    "roi_heads.box_predictor.cls_score.weight",  # Faster R-CNN
    "head.classification_head.module_list.0.weight",  # SSD
    "head.classification_head.module_list.0.1.weight",  # SSDlite
)


def read_classes(path: str | Path) -> dict[int, str]:
    """Read a file of class names.

    A line is a name, or a label and a name: ``3: car``. Names alone are numbered from 1, as
    torchvision's detectors keep 0 for the background; a first line ``__background__`` is that 0.
    Empty lines and lines that begin with ``#`` are passed over.

    Returns
    -------
    Label -> name.

    Raises
    ------
    UsageError
        If the file cannot be read, holds no name, or gives a label or a name twice.
    """
    mend = "write one name a line, or LABEL: NAME"
    try:
        lines = Path(path).read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise UsageError(
            f"the classes cannot be read: {reason}", path=str(path), mend=mend
        ) from None
    found: dict[int, str] = {}
    known: set[str] = set()
    wanted = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if wanted[:1] == [_BACKGROUND]:
        wanted = wanted[1:]
    for position, line in enumerate(wanted, start=1):
        numbered = _NUMBERED.fullmatch(line)
        label, name = (int(numbered[1]), numbered[2].strip()) if numbered else (position, line)
        if not name or len(name) > MAX_TEXT or len(found) == _MAX_CLASSES:
            raise UsageError(f"line {line[:60]!r} names no class", path=str(path), mend=mend)
        if label in found or class_key(name) in known:
            raise UsageError(
                f"line {line[:60]!r} gives a label or a name a second time",
                path=str(path),
                mend="give each label one name; prep ingest --category NAME=NAME makes two names "
                "one class",
            )
        found[label] = name
        known.add(class_key(name))
    if not found:
        raise UsageError("there is no class in it", path=str(path), mend=mend)
    return found


def class_count(state: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> int | None:
    """How many logits an anchor has in weights; None where that cannot be told.

    Parameters
    ----------
    state
        The weights.
    like
        Those of the same detector with `COCO_COUNT` classes.
    """
    for layer in _CLASS_LAYERS:
        if layer in state and layer in like and state[layer].dim():
            anchors = like[layer].shape[0] // COCO_COUNT
            count, rest = divmod(state[layer].shape[0], anchors)
            return count if not rest and count else None
    return None
