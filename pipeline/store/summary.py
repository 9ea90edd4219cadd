"""What a store holds, in numbers; read from the manifest and the sidecars, never from pixels."""

from __future__ import annotations

from collections import Counter

from pydantic import ValidationError

from pipeline.store.keys import sidecar_key
from pipeline.store.reader import Store
from schemas.info import GroupInfo, SidecarExtract, StoreInfo


def store_info(store: Store) -> StoreInfo:
    """Summarise a store; reads every sidecar once, no chunk.

    Of a sidecar only what is summed up is read, and believed: checking it all takes five times as
    long, and `prep verify` does it.

    Raises
    ------
    DamagedStoreError
        If a sidecar is missing or cannot be read.
    """
    members: dict[str, list[str]] = {}
    splits: dict[str, Counter[str]] = {}
    classes: Counter[str] = Counter()
    isos: list[int] = []
    boxes = untrainable = ignored = nbytes = 0
    for sample_id in store:
        entry = store.entry(sample_id)
        members.setdefault(entry.group, []).append(sample_id)
        sidecar = _extract(store, sample_id)
        nbytes += sum(record.nbytes for record in sidecar.levels.values())
        split = splits.setdefault(entry.split or "", Counter())
        split["samples"] += 1
        if sidecar.capture.iso is not None:
            isos.append(sidecar.capture.iso)
        for box in sidecar.annotation.boxes if sidecar.annotation else ():
            boxes += 1
            untrainable += not box.trainable
            split["boxes"] += 1
            ignored += box.ignored
            classes[store.recipe.class_of(box.category or str(box.category_id))] += 1
    return StoreInfo(
        path=store.location,
        recipe=store.recipe,
        versions=store.versions,
        samples=len(store),
        failed=len(store.failed),
        groups=tuple(_group(store, name, ids) for name, ids in members.items()),
        splits={name: dict(counter) for name, counter in sorted(splits.items())},
        boxes=boxes,
        boxes_untrainable=untrainable,
        boxes_ignored=ignored,
        classes=dict(classes.most_common()),
        iso_range=(min(isos), max(isos)) if isos else None,
        chunk_bytes=nbytes,
        warnings=store.warnings,
    )


def _extract(store: Store, sample_id: str) -> SidecarExtract:
    data = store.files.get_or_none(sidecar_key(*store.entry(sample_id).key))
    try:
        return SidecarExtract.model_validate_json(data or b"")
    except ValidationError:
        store.sidecar(sample_id)  # says what is wrong with it
        raise


def _group(store: Store, name: str, ids: list[str]) -> GroupInfo:
    """A group as its first sample describes it."""
    sidecar = store.sidecar(ids[0])
    return GroupInfo(
        name=name,
        camera=f"{sidecar.camera.make} {sidecar.camera.model}",
        frame_size=sidecar.frame.size,
        samples=len(ids),
        levels={level: record.shape for level, record in sidecar.levels.items()},
    )
