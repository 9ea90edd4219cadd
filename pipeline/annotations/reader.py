"""What an annotation reader is, and what it gives. `table` lists them all."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from pipeline.annotations.columns import AnnotatedImages, base_name
from pipeline.annotations.names import folders_of
from pipeline.errors import AnnotationError
from schemas.finding import Finding

MAX_FILE_BYTES: Final = 1 << 28
"""Bytes of an annotation file. RAW-NOD's largest has 3 MB; all of COCO 2017's boxes fit."""

SPLIT_WORDS: Final = {
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
        ``file_name`` of an image, folders included -> why its record cannot be used: such an image
        is not one without boxes.
    place
        Where the file is, folders included; its name where nobody says.
    """

    name: str
    split: str | None
    images: AnnotatedImages
    findings: tuple[Finding, ...]
    refused: Mapping[str, Finding]
    place: str = ""


def split_from_name(name: str) -> str | None:
    """Find ``train``, ``val`` or ``test`` as a word of a file name; None for none or for two.

    Words end at anything but letters and where capitals begin: ``instances_train2017.json``,
    ``NodValidation.json``; ``trainval`` is a word of its own and no split.
    """
    splits = _splits_in(base_name(name).rpartition(".")[0])
    return splits.pop() if len(splits) == 1 else None


def split_of_folders(path: str) -> str | None:
    """The split that the nearest folder of a path names as a whole: ``valid/DSC_0001.NEF``."""
    for folder in reversed(folders_of(path)):
        if folder.removesuffix("!").removesuffix(".zip") in SPLIT_WORDS:
            return SPLIT_WORDS[folder.removesuffix("!").removesuffix(".zip")]
    return None


def folder_split(name: str, place: str) -> str | None:
    """The split that its folder gives to an annotation file whose own name says none.

    Parameters
    ----------
    name
        Of the file, relative to its source.
    place
        Its whole path: of that, the source's own folder counts, too (``prep ingest nod/train``).
    """
    if _splits_in(base_name(name).rpartition(".")[0]):
        return None
    count = len(re.split(r"[\\/]", name))
    return split_of_folders("/".join(re.split(r"[\\/]", place)[-count - 1 :]))


def _splits_in(text: str) -> set[str]:
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", text)
    return {SPLIT_WORDS[word.lower()] for word in words if word.lower() in SPLIT_WORDS}


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
