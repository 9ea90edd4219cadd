"""What a detector calls what it finds: labels and names of its classes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
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
_LABEL: Final = re.compile(r"\d{1,9}", re.ASCII)
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
    wanted = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if wanted[:1] == [_BACKGROUND]:
        wanted = wanted[1:]
    entries = []
    for position, line in enumerate(wanted, start=1):
        numbered = _NUMBERED.fullmatch(line)
        label, name = (int(numbered[1]), numbered[2].strip()) if numbered else (position, line)
        entries.append((f"line {line[:60]!r}", label, name))
    if not entries:
        raise UsageError("there is no class in it", path=str(path), mend=mend)
    return _distinct(entries, path=str(path), mend=mend)


def named_classes(names: Mapping[str, object]) -> dict[int, str]:
    """The classes of a table: label -> name, the labels as text.

    Returns
    -------
    Label -> name; empty if `names` is, which means the detector's own classes.

    Raises
    ------
    UsageError
        If a label is no whole number, a name is none, or one of them is there twice.
    """
    mend = 'write LABEL = "NAME", such as 3 = "car"'
    entries = []
    for label, name in names.items():
        place = f"--detector-classes: {label[:60]!r}"
        if not _LABEL.fullmatch(label) or not isinstance(name, str) or name != name.strip():
            raise UsageError(f"{place} is no label with a class's name", mend=mend)
        entries.append((place, int(label), name))
    return _distinct(entries, path="", mend=mend)


def _distinct(entries: Iterable[tuple[str, int, str]], *, path: str, mend: str) -> dict[int, str]:
    """Entries (place, label, name) -> label: name."""
    found: dict[int, str] = {}
    known: set[str] = set()
    for place, label, name in entries:
        if not name or len(name) > MAX_TEXT or len(found) == _MAX_CLASSES:
            raise UsageError(f"{place} names no class", path=path, mend=mend)
        if label in found or class_key(name) in known:
            raise UsageError(
                f"{place} gives a label or a name a second time",
                path=path,
                mend="give each label one name; prep ingest --category NAME=NAME makes two names "
                "one class",
            )
        found[label] = name
        known.add(class_key(name))
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
