"""The table of annotation readers: one line each. Everything that reads annotations looks here."""

from __future__ import annotations

from pipeline.annotations.coco_file import CocoReader
from pipeline.annotations.labels.text_files import TEXT_SUFFIXES
from pipeline.annotations.labels.voc_file import VocReader
from pipeline.annotations.reader import AnnotationReader

#: In the order in which they are asked. COCO stands last, because it also takes files that are not
#: whole JSON.
READERS: tuple[AnnotationReader, ...] = (VocReader(), CocoReader())


def reader_of(data: bytes, name: str, *, is_named: bool) -> AnnotationReader | None:
    """The reader of a file; None where it is not an annotation file.

    Parameters
    ----------
    data, name
        The file.
    is_named
        Whether the user says that it holds annotations: one that nobody recognises is then read as
        its suffix says, or as COCO, and refused with what is wrong with it.
    """
    for reader in READERS:
        if reader.recognises(data, name):
            return reader
    if not is_named:
        return None
    meant = (reader for reader in READERS if name.lower().endswith(reader.suffixes))
    return next(meant, READERS[-1])


def annotation_suffixes() -> frozenset[str]:
    """What the names of files end in that annotate images, or say something about such files."""
    return TEXT_SUFFIXES.union(*(reader.suffixes for reader in READERS))
