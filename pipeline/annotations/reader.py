"""What an annotation reader is, and what it gives. `table` lists them all."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from pipeline.annotations.columns import AnnotatedImages, base_name
from pipeline.errors import AnnotationError
from schemas.finding import Finding

MAX_FILE_BYTES: Final = 1 << 28
"""Bytes of an annotation file. RAW-NOD's largest has 3 MB; all of COCO 2017's boxes fit."""

_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True)
class LoadedFile:
    """One annotation file, read.

    Attributes
    ----------
    name
        What the file was called when it was loaded.
    split
        Split of all its images, or None.
    images
        The usable image records in file order, each with its boxes in file order.
    findings
        About the file and its records. Those about boxes are on the boxes.
    refused
        Image file name -> why its record cannot be used: such an image is not one without boxes.
    """

    name: str
    split: str | None
    images: AnnotatedImages
    findings: tuple[Finding, ...]
    refused: Mapping[str, Finding]


def split_from_name(name: str) -> str | None:
    """Find ``train``, ``val`` or ``test`` as a word of a file name; None for none or for two.

    Words end at anything but letters and where capitals begin: ``instances_train2017.json``,
    ``NodValidation.json``; ``trainval`` is a word of its own and no split.
    """
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", base_name(name).rpartition(".")[0])
    splits = {_SPLIT_WORDS[word.lower()] for word in words if word.lower() in _SPLIT_WORDS}
    return splits.pop() if len(splits) == 1 else None


def refuse_oversized(nbytes: int, name: str) -> None:
    """Refuse a file by its size, before it is read.

    Raises
    ------
    AnnotationError
        Where it has more than `MAX_FILE_BYTES`.
    """
    if nbytes > MAX_FILE_BYTES:
        raise AnnotationError(
            f"it has {nbytes:,} bytes; annotation files of more than {MAX_FILE_BYTES:,} are not "
            "read",
            path=name,
            mend="Split it into several files, by images; or, if it holds no annotations, move it "
            "out of the sources.",
        )


class AnnotationReader(Protocol):
    """Reads annotation files of one format."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """What its files end in, in small letters; they are looked for where raws are."""
        ...

    def recognises(self, data: bytes, name: str) -> bool:
        """Whether a file, whole or damaged, is of this format. Must not raise."""
        ...

    def read(self, data: bytes, *, name: str, split: str | None) -> LoadedFile:
        """Read one file.

        Parameters
        ----------
        data
            The file's bytes, at most `MAX_FILE_BYTES`.
        name
            What to call it: goes into sidecars and messages, so relative to the source.
        split
            Split of all its images; None to find it in the name (`split_from_name`).

        Raises
        ------
        AnnotationError
            When the whole cannot be used. What is wrong with a record becomes a finding.
        """
        ...
