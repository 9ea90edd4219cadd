from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import DamagedStoreError
from pipeline.store.keys import sidecar_key
from pipeline.store.reader import open_store
from pipeline.store.summary import store_info
from schemas.finding import Finding, Severity


def test_the_numbers_are_those_of_the_sidecars(store_path: Path) -> None:
    """The summary reads a part of each sidecar; whoever reads all of it counts the same."""
    store = open_store(store_path)
    first = store.sidecar(store.ids()[0])
    assert first.annotation is not None
    box = first.annotation.boxes[0]
    wrong = Finding(code="x", severity=Severity.ERROR, where="", message="", mend="")
    boxes = (replace(box, findings=(wrong,)), *first.annotation.boxes[1:])
    annotation = first.annotation.model_copy(update={"boxes": boxes})
    changed = first.model_copy(update={"annotation": annotation}).sealed()
    (store_path / sidecar_key(first.group, first.id)).write_bytes(changed.to_json())

    info = store_info(store)
    sidecars = [store.sidecar(sample_id) for sample_id in store]
    annotated = [box for s in sidecars if s.annotation for box in s.annotation.boxes]
    assert info.samples == len(sidecars) == 6
    assert info.boxes == len(annotated)
    assert info.boxes_untrainable == sum(not box.trainable for box in annotated) == 1
    assert info.classes == Counter(box.category for box in annotated)
    assert info.chunk_bytes == sum(r.nbytes for s in sidecars for r in s.levels.values())
    isos = [s.capture.iso for s in sidecars if s.capture.iso is not None]
    assert info.iso_range == (min(isos), max(isos))
    assert {name: counts["samples"] for name, counts in info.splits.items()} == Counter(
        s.split for s in sidecars
    )
    assert sum(counts["boxes"] for counts in info.splits.values()) == info.boxes
    assert {group.name: group.samples for group in info.groups} == Counter(
        s.group for s in sidecars
    )
    for group in info.groups:
        model = next(s for s in sidecars if s.group == group.name)
        assert group.frame_size == model.frame.size
        assert group.levels == {name: record.shape for name, record in model.levels.items()}
        assert group.camera == f"{model.camera.make} {model.camera.model}"


@pytest.mark.parametrize("left", [None, b"", b"{}", b'{"capture": {"iso": 1}'])
def test_a_sidecar_that_cannot_be_read_is_named(store_path: Path, left: bytes | None) -> None:
    store = open_store(store_path)
    entry = store.entry(store.ids()[3])
    path = store_path / sidecar_key(*entry.key)
    path.unlink() if left is None else path.write_bytes(left)
    with pytest.raises(DamagedStoreError) as caught:
        store_info(store)
    assert caught.value.path == str(path)
    assert caught.value.mend
