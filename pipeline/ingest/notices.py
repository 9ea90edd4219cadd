"""What an ingest says of many sources at once: one finding a kind, with the first few names."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from difflib import SequenceMatcher

from pipeline.ingest.store_state import SampleState
from pipeline.ingest.survey import Item
from pipeline.ingest.tasks import SampleTask
from schemas.finding import Finding
from schemas.finding_codes import FindingCode

_SHOWN = 3
#: Names of each kind among which the most alike pair is looked for.
_COMPARED = 30


def survey_findings(items: Sequence[Item]) -> Iterator[Finding]:
    """Pictures kept apart from others of their name, and boxes nobody annotates any more."""
    apart = [item for item in items if item.apart and item.status == "new"]
    if apart:
        yield FindingCode.NAME_TAKEN.finding(
            where=apart[0].apart,
            message="kept apart from another picture of the same name in the store: "
            f"{_some([item.source.name for item in apart])} ({len(apart)} in all)",
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


def distrusted_finding(task: SampleTask, disagreement: str) -> Finding:
    """The finding for a class of files that goes over to LibRaw."""
    return FindingCode.DECODERS_DISAGREE.finding(
        where=task.source.name,
        message=f"the fast decoder and LibRaw differ ({disagreement}); LibRaw decodes all files of "
        f"this class from here on ({task.decision.decoder_class})",
    )


def unused_category_finding(name: str, counts_as: str, known: Collection[str]) -> Finding:
    """A class that ``--category`` maps and no annotation has."""
    shown = ", ".join(sorted(known)[:20]) + (", ..." if len(known) > 20 else "")
    return FindingCode.UNUSED_CATEGORY.finding(
        where=f"--category {name}={counts_as}",
        message=f"no box is called {name!r} in the annotations given (they have: "
        f"{shown or 'none'})",
    )


def shared_annotations_finding(groups: Sequence[Sequence[str]]) -> Finding:
    """Groups of raws that one annotated image means."""
    return FindingCode.SHARED_ANNOTATION.finding(
        where=groups[0][0],
        message=f"{len(groups)} annotated images are those of several raws, whose names differ in "
        f"their suffix only (such as {groups[0][0]} and {groups[0][1]}): all get the same boxes",
    )


def missing_raws_finding(file: str, names: Sequence[str]) -> Finding:
    """Annotated images of a file without a raw."""
    return FindingCode.ANNOTATION_WITHOUT_RAW.finding(
        where=file,
        message=f"{len(names)} annotated images have no raw here ({_some(names)})",
    )


def names_differ_finding(file: str, wanted: Sequence[str], raws: Sequence[str]) -> Finding:
    """For names that have nothing in common; the pair shown is the most alike of the first ones."""
    pairs = ((name, raw) for name in wanted[:_COMPARED] for raw in raws[:_COMPARED])
    annotated, raw = max(pairs, key=lambda pair: SequenceMatcher(None, *pair).ratio())
    return FindingCode.NAMES_DIFFER.finding(
        where=file,
        message=f"none of {len(wanted)} annotated images has a raw here, and none of {len(raws)} "
        f"raws is annotated: their names differ, such as {annotated} and {raw}",
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
