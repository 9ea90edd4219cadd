"""The samples a run trains on, and those it is scored on."""

from __future__ import annotations

from collections.abc import Mapping

from genisp_model.data.dataset import StoreDataset, say_what_is_ignored
from genisp_model.device import Say
from pipeline.errors import UsageError
from pipeline.store.reader import Store
from schemas.training import TrainConfig


def open_samples(
    store: Store,
    config: TrainConfig,
    split: str,
    classes: Mapping[int, str],
    say: Say,
    *,
    limit: int = 0,
) -> StoreDataset:
    """A split as a guide that knows some `classes` sees it; what it does not know is said.

    Raises
    ------
    UsageError
        If there is no such split or level, or no box in it, or in the `limit` samples taken of it.
    """
    dataset = StoreDataset(store, split=split, level=config.level, classes=classes, limit=limit)
    say_what_is_ignored(dataset, say)
    if not dataset.has_boxes():
        what = f"split {split!r} has no boxes to train or score on"
        mend = "ingest the annotations of these raws, or name another split"
        if limit:
            what += f" among the {len(dataset)} samples that --val-limit takes"
            mend += ", or a larger --val-limit"
        raise UsageError(what, path=config.store, mend=mend)
    return dataset
