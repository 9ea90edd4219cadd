"""Where each source was when it was last ingested: so that it need not be read to be known again.

A note of the writer's to itself, not part of what a store holds: without it, or with a damaged one,
sources are known by their content, which takes reading them. Places are digests: nobody who is
given a store learns from it what folders are called on the machine that made it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import DamagedStoreError
from pipeline.store.files import StoreFiles
from pipeline.store.keys import PLACES_NAME

SampleKey = tuple[str, str]


@dataclass(frozen=True)
class Places:
    """The place of every source that is known.

    Attributes
    ----------
    samples
        By (group, id) of the sample made from it.
    failures
        Of those that could not be ingested, by source name.
    """

    samples: Mapping[SampleKey, str] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)


def read_places(files: StoreFiles) -> Places:
    """What the last ingest noted; nothing if that cannot be read."""
    try:
        document = json.loads(files.get_or_none(PLACES_NAME) or b"{}")
        held = {"samples": document["samples"], "failures": document["failures"]}
        if document["digest"] != _digest(held):
            return Places()
        samples = {}
        for name, place in held["samples"].items():
            group, _, sample_id = name.partition("/")
            samples[group, sample_id] = place
        return Places(samples, held["failures"])
    except (DamagedStoreError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return Places()


def write_places(files: StoreFiles, places: Places) -> None:
    """Replace the note."""
    held = {
        "samples": {f"{group}/{name}": place for (group, name), place in places.samples.items()},
        "failures": dict(places.failures),
    }
    text = json.dumps({**held, "digest": _digest(held)}, sort_keys=True, indent=0)
    files.put_if_changed(PLACES_NAME, text.encode() + b"\n")


def _digest(held: Any) -> str:
    text = json.dumps(held, sort_keys=True)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
