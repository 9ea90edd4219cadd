"""Whether a store still holds what a run was started with.

A sample's sidecar holds its boxes and the checksum of its pixels, and the manifest holds the digest
of each sidecar: comparing those reads nothing more. A sidecar also says where the raw lay and when
it was changed. So where digests differ, what is trained on is compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from genisp_model.checkpoint import SampleDigests
from genisp_model.data.dataset import StoreDataset
from genisp_model.data.sample_index import SampleRecord
from pipeline.errors import DamagedStoreError
from pipeline.store.reader import Store

#: Samples named in a message.
_NAMED = 5
#: Of a SHA-256, that are kept.
_DIGITS = 16
#: Fields of a record that leave its boxes and pixels as they are: where a sample stands in its
#: group, and what its pixels and statistics were made with.
_NO_CONTENT = ("row", "sensor")


@dataclass(frozen=True)
class StoreChanges:
    """Samples that are not what they were.

    Attributes
    ----------
    changed, gone, new
        Their ids: with other boxes or pixels (or not known to be the same), not there any more,
        not there before.
    """

    changed: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    new: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.changed or self.gone or self.new)

    def __str__(self) -> str:
        kinds = {"changed": self.changed, "gone": self.gone, "new": self.new}
        return "; ".join(f"{what}: {_listed(ids)}" for what, ids in kinds.items() if ids)


def digests_of(store: Store, datasets: Sequence[StoreDataset]) -> SampleDigests:
    """Every sample of some datasets as the store has it; reads nothing."""
    found: SampleDigests = {}
    for dataset in datasets:
        for position, sample_id in enumerate(dataset.ids):
            record = dataset.known_record(position)
            if record is not None or sample_id not in found:
                content = "" if record is None else _content(record)
                found[sample_id] = store.entry(sample_id).sidecar_digest[-_DIGITS:], content
    return found


def store_changes(
    before: SampleDigests, store: Store, datasets: Sequence[StoreDataset]
) -> StoreChanges:
    """Compare; reads the sidecars of samples whose digest has changed."""
    now = digests_of(store, datasets)
    places = _places(datasets)
    changed = [
        sample_id
        for sample_id in now.keys() & before.keys()
        if now[sample_id][0] != before[sample_id][0]
        and not _same_content(before[sample_id][1], *places[sample_id])
    ]
    return StoreChanges(
        changed=tuple(sorted(changed)),
        gone=tuple(sorted(before.keys() - now.keys())),
        new=tuple(sorted(now.keys() - before.keys())),
    )


def _places(datasets: Sequence[StoreDataset]) -> Mapping[str, tuple[StoreDataset, int]]:
    return {
        sample_id: (dataset, position)
        for dataset in datasets
        for position, sample_id in enumerate(dataset.ids)
    }


def _same_content(before: str, dataset: StoreDataset, position: int) -> bool:
    """False as well where it is not known, or cannot be read now."""
    try:
        return _content(dataset.record(position)) == before
    except DamagedStoreError:
        return False


def _content(record: SampleRecord) -> str:
    """A digest of what a sample's record says of its boxes and pixels."""
    values = [getattr(record, one.name) for one in fields(record) if one.name not in _NO_CONTENT]
    return hashlib.sha256(repr(values).encode()).hexdigest()[-_DIGITS:]


def _listed(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    noun = "sample" if len(ids) == 1 else "samples"
    return f"{len(ids)} {noun} ({', '.join(ids[:_NAMED])}{more})"
