"""What changes in a stored sample but its pixels: its boxes, and the time of its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pipeline.annotations.columns import annotation_in
from pipeline.develop.frame import frame_findings
from pipeline.errors import DamagedStoreError
from pipeline.ingest.survey import Item
from pipeline.ingest.tasks import Placed
from pipeline.sources.source import Source
from pipeline.store.files import StoreFiles
from pipeline.store.keys import sidecar_key
from pipeline.store.samples import read_sidecar
from schemas.finding_codes import FindingCode
from schemas.manifest import StoredSample
from schemas.sidecar import Sidecar

#: Findings that new boxes do not change.
_OF_PIXELS = (FindingCode.ABOVE_WHITE, FindingCode.NO_DARK_SAMPLE)


def reannotated(files: StoreFiles, entry: StoredSample, item: Item) -> Sidecar:
    """New boxes for the same pixels, or none any more; the sidecar that was put."""
    old = read_sidecar(files, *entry.key)
    annotation = annotation_in(item.annotations[0], old.frame.size) if item.annotations else None
    findings = frame_findings(
        old.frame, annotated=annotation is not None, where=item.source.name
    ) + tuple(one for one in old.findings if one.code in _OF_PIXELS)
    update = {
        "annotation": annotation,
        "split": annotation.split if annotation else None,
        "findings": findings,
    }
    return _put(files, entry, item.source, update)


def re_dated(files: StoreFiles, entry: StoredSample, source: Source) -> Sidecar | None:
    """Record the time that the same file has now; None if that is recorded already."""
    if (entry.size, entry.mtime_ns) == (source.size, source.mtime_ns):
        return None
    return _put(files, entry, source, {})


def with_kept_boxes(files: StoreFiles, item: Item) -> Item:
    """A damaged sample that is made again keeps boxes whose annotation file was not given."""
    if item.old_boxes != "kept" or item.sample is None:
        return item
    annotation = read_sidecar(files, *item.sample.entry.key).annotation
    return replace(item, annotations=(annotation,)) if annotation else item


def shows_another(files: StoreFiles, one: Placed) -> bool:
    """Whether a raw is another shot than the one its sample was made from."""
    if one.raw.previous is None:
        return False
    try:
        old = read_sidecar(files, *one.raw.previous.key)
    except DamagedStoreError:
        return False
    new = one.raw.camera, one.raw.capture.captured_at
    return (old.camera, old.capture.captured_at) != new


def _put(
    files: StoreFiles, entry: StoredSample, source: Source, update: Mapping[str, Any]
) -> Sidecar:
    old = read_sidecar(files, *entry.key)
    seen = {"size": source.size, "mtime_ns": source.mtime_ns}
    record = old.source.model_copy(update=seen)
    new = old.model_copy(update={**update, "source": record}).sealed()
    files.put(sidecar_key(new.group, new.id), new.to_json())
    return new
