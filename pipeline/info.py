"""What a store holds, in numbers; read from the manifest and a few sidecars, never from pixels."""

from __future__ import annotations

from collections import Counter

from pipeline.store import Store
from schemas.info import GroupInfo, StoreInfo


def store_info(store: Store) -> StoreInfo:
    """Summarise a store; reads every sidecar once, no chunk."""
    groups: dict[str, GroupInfo] = {}
    splits: dict[str, Counter[str]] = {}
    classes: Counter[str] = Counter()
    isos: list[int] = []
    boxes = untrainable = nbytes = 0
    for sample_id in store:
        sidecar = store.sidecar(sample_id)
        levels = {name: record.shape for name, record in sidecar.levels.items()}
        nbytes += sum(record.nbytes for record in sidecar.levels.values())
        known = groups.get(sidecar.group)
        groups[sidecar.group] = GroupInfo(
            name=sidecar.group,
            camera=f"{sidecar.camera.make} {sidecar.camera.model}",
            frame_size=sidecar.frame.size,
            samples=1 + (known.samples if known else 0),
            levels=levels,
        )
        split = splits.setdefault(sidecar.split or "", Counter())
        split["samples"] += 1
        if sidecar.capture.iso is not None:
            isos.append(sidecar.capture.iso)
        for box in sidecar.annotation.boxes if sidecar.annotation else ():
            boxes += 1
            untrainable += not box.trainable
            split["boxes"] += 1
            classes[box.category or str(box.category_id)] += 1
    return StoreInfo(
        path=str(store.path),
        recipe=store.recipe,
        versions=store.versions,
        samples=len(store),
        failed=len(store.failed),
        groups=tuple(groups.values()),
        splits={name: dict(counter) for name, counter in sorted(splits.items())},
        boxes=boxes,
        boxes_untrainable=untrainable,
        classes=dict(classes.most_common()),
        iso_range=(min(isos), max(isos)) if isos else None,
        chunk_bytes=nbytes,
        warnings=store.warnings,
    )
