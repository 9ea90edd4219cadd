"""Which sample each source is: by the place it was last seen at, else by its content.

A name proves nothing: cameras begin again at ``DSC_0001``, so two cards hold different pictures of
one name. And the same picture may have been copied, moved, renamed, or copied without its times. A
file where the last ingest found it, with its size and time, is taken for unchanged, as make and git
do; that is one stat a file. Any other one is read, if a sample has its size, and known by its
SHA-256.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePath
from typing import Literal

from pipeline.console.progress import Reporter
from pipeline.errors import SourceError
from pipeline.ingest.store_state import CHECK_THREADS, SampleState, StoreState
from pipeline.runtime.interruption import never
from pipeline.runtime.threads import in_order
from pipeline.sources.location import is_url
from pipeline.sources.source import Source

#: ``unchanged``: place, size and time are those recorded. ``same-content``: the SHA-256 is the
#: sample's. ``replaced``: another content, in the place the sample was made from. ``copy``: the
#: content of a sample whose own source is here, too. ``apart``: another picture under the name of a
#: sample. ``new``: none of these.
How = Literal["unchanged", "same-content", "replaced", "copy", "apart", "new"]


@dataclass(frozen=True, slots=True)
class Recognised:
    """One source, and what the store has of it.

    Attributes
    ----------
    source
        The source under the name that it has, or will have, in the store.
    given
        As it was found: annotations are looked up under its name.
    place
        Where it is, as `Places` notes it.
    sample
        What it is, or was, a sample of; None if nothing.
    """

    source: Source
    given: Source
    place: str
    sample: SampleState | None
    how: How


def recognise(
    sources: Sequence[Source],
    state: StoreState,
    reporter: Reporter,
    *,
    stopping: Callable[[], bool] = never,
) -> list[Recognised]:
    """Find each source's sample, reading those that need it; one result a source, in order.

    Parameters
    ----------
    stopping
        Asked after each file that was read; if true, this ends with `KeyboardInterrupt`.
    """
    where = places_of(sources)
    unknown = [
        source
        for source in sources
        if source.size in state.sizes and not _unchanged(source, state.at(where[source.name]))
    ]
    if unknown:
        reporter.stage("compare", len(unknown), sum(source.size for source in unknown))
    contents = dict[str, str]()
    for source, digest in in_order(_content, unknown, CHECK_THREADS):
        reporter.step(source.size)
        if stopping():
            raise KeyboardInterrupt
        contents[source.name] = digest
    return match(sources, where, contents, state)


def with_samples(
    recognised: Sequence[Recognised], state: StoreState
) -> list[tuple[Recognised, SampleState]]:
    """Each raw beside the sample that it is to be compared with; those without are left out.

    A raw of another content may be another picture, or a damaged copy of the one that a sample of
    its name was made from. If no other raw is that sample's, it is the one to compare it with.
    """
    found = [(one, one.sample) for one in recognised if one.sample and one.how != "copy"]
    matched = {sample.entry.key for _, sample in found}
    for one in recognised:
        sample = state.named(one.given.name) if one.how == "apart" else None
        if sample is not None and sample.entry.key not in matched:
            found.append((one, sample))
    return found


def places_of(sources: Sequence[Source]) -> dict[str, str]:
    """A digest of where each source is, by its name: 16 hex digits, different for each.

    Links to folders are followed, so that it does not matter by which way a file is named. What
    follows a ``?`` in a URL is left out: it may be a signature, different every time.
    """
    folders = dict[str, str]()
    seen = Counter[str]()
    found = {}
    for source in sources:
        if is_url(source.location):
            where = source.location.partition("?")[0]
        else:
            folder, name = os.path.split(source.location)
            if folder not in folders:
                folders[folder] = os.path.realpath(folder)
            where = os.path.join(folders[folder], name)
        if source.member is not None:
            where += f"\0{source.member.name}"
        seen[where] += 1  # an archive may hold several members of one name
        text = f"{where}\0{seen[where]}"
        found[source.name] = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
    return found


def match(
    sources: Sequence[Source],
    where: Mapping[str, str],
    contents: Mapping[str, str],
    state: StoreState,
) -> list[Recognised]:
    """Match sources with samples; no sample is matched twice, but by copies. Pure.

    Parameters
    ----------
    where
        Place of each source, by its name.
    contents
        SHA-256 of the sources that had to be read, by name; "" for one that could not be.
    """
    matching = _Matching(where, contents, state)
    ways: list[Callable[[Source], None]] = [
        matching.unchanged,
        *(partial(matching.same_content, distance) for distance in (0, 1, 2)),
        matching.replaced,
    ]
    for find in ways:
        for source in sources:
            if source.name not in matching.found:
                find(source)
    taken = {source.name for source in sources} | state.names
    for source in sources:
        if source.name not in matching.found:
            matching.rest(source, taken)
    return [matching.found[source.name] for source in sources]


class _Matching:
    """The matches found so far, the surest first: each way of finding them is for all sources."""

    def __init__(
        self, where: Mapping[str, str], contents: Mapping[str, str], state: StoreState
    ) -> None:
        self.found: dict[str, Recognised] = {}
        self._where = where
        self._contents = contents
        self._state = state
        self._claimed: set[tuple[str, str]] = set()

    def unchanged(self, source: Source) -> None:
        """By place, size and time."""
        sample = self._free(self._state.at(self._where[source.name]))
        if sample is not None and _unchanged(source, sample):
            self._claim(source, sample, "unchanged")

    def same_content(self, distance: int, source: Source) -> None:
        """By content, where the source resembles that of the sample so much."""
        for sample in self._same(source):
            if self._free(sample) and self._distance(source, sample) <= distance:
                self._claim(source, sample, "same-content")
                return

    def replaced(self, source: Source) -> None:
        """By place alone; or by name alone, where a sample's sidecar is lost."""
        sample = self._free(self._state.at(self._where[source.name]))
        if sample is None:
            sample = self._free(self._state.named(source.name))
            if sample is None or not self._may_have_been(sample, source):
                return
        self._claim(source, sample, "replaced")

    def rest(self, source: Source, taken: set[str]) -> None:
        """What no sample was made from; `taken` are names that it cannot have, but its own."""
        copied = self._same(source)
        is_taken = self._state.named(source.name) is not None
        how: How = "copy" if copied else "apart" if is_taken else "new"
        own = replace(source, name=_another_name(source, taken)) if is_taken else source
        taken.add(own.name)
        sample = copied[0] if copied else None
        self.found[source.name] = Recognised(own, source, self._where[source.name], sample, how)

    def _claim(self, source: Source, sample: SampleState, how: How) -> None:
        self._claimed.add(sample.entry.key)
        name = sample.entry.source
        own = source if source.name == name else replace(source, name=name)
        self.found[source.name] = Recognised(own, source, self._where[source.name], sample, how)

    def _free(self, sample: SampleState | None) -> SampleState | None:
        return None if sample is None or sample.entry.key in self._claimed else sample

    def _same(self, source: Source) -> Sequence[SampleState]:
        return self._state.of_content(self._contents.get(source.name, ""))

    def _distance(self, source: Source, sample: SampleState) -> int:
        entry = sample.entry
        here = self._state.places.samples.get(entry.key) == self._where[source.name]
        if here or entry.source == source.name:
            return 0
        return 1 if PurePath(entry.source).name == PurePath(source.name).name else 2

    def _may_have_been(self, lost: SampleState, source: Source) -> bool:
        """Whether a source is that of a sample of its name whose sidecar, and SHA-256, are lost."""
        noted = lost.entry.key in self._state.places.samples
        return not lost.digest and (not noted or _unchanged(source, lost))


def _content(source: Source) -> tuple[Source, str]:
    try:
        return source, hashlib.sha256(source.read_bytes()).hexdigest()
    except SourceError:
        return source, ""  # it is reported when it is to be developed


def _unchanged(source: Source, sample: SampleState | None) -> bool:
    """Whether size and time are those of the file a sample was made from."""
    if sample is None:
        return False
    return (sample.entry.size, sample.entry.mtime_ns) == (source.size, source.mtime_ns)


def _another_name(source: Source, taken: set[str]) -> str:
    """A free name for a picture whose own is another's: with the folder that was given."""
    root = source.label.removesuffix(f"/{source.name}")
    if root == source.label:
        root = os.path.dirname(root)
    plain = name = f"{PurePath(root).name or 'root'}/{source.name}"
    number = 1
    while name in taken:
        number += 1
        name = f"~{number}/{plain}"
    return name
