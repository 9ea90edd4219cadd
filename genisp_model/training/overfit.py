"""One batch again and again: the test everyone does by hand."""

from __future__ import annotations

from collections.abc import Iterator

from genisp_model.data.loader import Batch, StreamLoader
from pipeline.errors import TrainingError


def first_batch(loader: StreamLoader, store: str) -> Batch:
    """The first batch of the first epoch; the loader stays where it is.

    Raises
    ------
    TrainingError
        If all of it is damaged, and left out. It names `store`.
    """
    state = loader.state_dict()
    loader.set_epoch(0)
    first = next(iter(loader), None)  # the pass is over with its last reference
    loader.load_state_dict(state)
    if first is None:
        message = "every sample of the first batch is damaged"
        raise TrainingError(message, path=store, mend="prep verify says how")
    return first


def instead_of_epoch(loader: StreamLoader, batch: Batch) -> Iterator[Batch]:
    """One batch as often as the epoch has batches left; the loader moves on as if it read them."""
    state = loader.state_dict()
    for done in range(state["cursor"], len(loader)):
        loader.load_state_dict(state | {"cursor": done + 1})
        yield batch
    loader.set_epoch(loader.epoch + 1)
