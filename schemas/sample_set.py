"""What ``prep sample`` says it wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SampleSetSummary:
    """What was written.

    Parameters
    ----------
    raws, annotations
        Paths of the files.
    boxes
        Number of boxes in all annotation files.
    size
        Bytes of all files together.
    cameras
        Camera models, as the files name them.
    """

    raws: tuple[Path, ...]
    annotations: tuple[Path, ...]
    boxes: int
    size: int
    cameras: tuple[str, ...]
