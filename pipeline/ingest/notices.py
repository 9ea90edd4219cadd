"""What an ingest says of many sources at once: one finding a kind, with the first few names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.ingest.store_state import SampleState
from pipeline.ingest.survey import Item
from schemas.finding import Finding
from schemas.finding_codes import FindingCode

_SHOWN = 3


def survey_findings(items: Sequence[Item]) -> Iterator[Finding]:
    """Pictures kept apart from others of their name, and boxes nobody annotates any more."""
    apart = [item for item in items if item.apart and item.status == "new"]
    if apart:
        yield FindingCode.NAME_TAKEN.finding(
            where=apart[0].apart,
            message=f"{len(apart)} raws have the name of another picture in the store, and are "
            f"kept apart from it: {_some([item.source.name for item in apart])}",
        )
    kept = [item.sample for item in items if item.sample and item.old_boxes == "kept"]
    if kept:
        yield not_given_finding(kept)
    gone = [item for item in items if item.old_boxes == "gone"]
    if gone:
        yield FindingCode.ANNOTATION_GONE.finding(
            where=gone[0].source.name,
            message=f"{len(gone)} samples have no annotation any more, and lose their boxes and "
            f"split: {_some([item.source.name for item in gone])}",
        )


def not_given_finding(samples: Sequence[SampleState]) -> Finding:
    """Samples whose boxes are those of annotation files that are not given."""
    files = sorted({sample.annotation_file for sample in samples})
    names = [sample.entry.source for sample in samples]
    return FindingCode.ANNOTATION_NOT_GIVEN.finding(
        where=files[0],
        message=f"{len(names)} samples ({_some(names)}) have the boxes and split of annotation "
        f"files that are not given, or cannot be read: {_some(files)}",
    )


def replaced_finding(names: Sequence[str]) -> Finding:
    """Samples that show another picture now."""
    return FindingCode.RAW_REPLACED.finding(
        where=names[0],
        message=f"{len(names)} raws were replaced, in their places, by pictures that were taken at "
        f"another time or by another camera, and so are their samples: {_some(names)}",
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
