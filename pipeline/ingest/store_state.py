"""What a store holds when an ingest starts: every sample, checked, and every failure remembered."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipeline.console.progress import Reporter
from pipeline.develop.frame import is_plain
from pipeline.errors import DamagedStoreError
from pipeline.runtime.interruption import never
from pipeline.runtime.threads import in_order
from pipeline.store.files import StoreFiles
from pipeline.store.header import read_root
from pipeline.store.keys import MANIFEST_NAME
from pipeline.store.layouts import group_layout
from pipeline.store.manifest import entry_for, parse_manifest
from pipeline.store.places import Places, read_places
from pipeline.store.samples import committed, read_sidecar, sample_damage
from schemas.coco import ImageAnnotation
from schemas.layout import GroupLayout
from schemas.manifest import FailedSource, ManifestEntry, StoredSample
from schemas.sidecar import Sidecar

#: Chunks checked at once; checksums release the interpreter.
CHECK_THREADS = 4


@dataclass(frozen=True, slots=True)
class SampleState:
    """One committed sample, as far as planning needs it.

    Attributes
    ----------
    damage
        What is wrong with it, "" if it is whole.
    annotation
        `annotation_key` of what its sidecar says.
    annotation_file
        The file that said it, "" if there is none.
    plain_frame
        Whether its frame is the one it would have without an annotation.
    digest
        SHA-256 of the raw it was made from, "" if its sidecar is lost.
    frame_size
        (width, height) an annotation must have for the stored pixels to fit it; None if unknown.
    """

    entry: StoredSample
    annotation: str = ""
    annotation_file: str = ""
    plain_frame: bool = True
    digest: str = ""
    frame_size: tuple[int, int] | None = None
    damage: str = ""


@dataclass
class StoreState:
    """Everything an ingest must know of a store before it plans.

    Attributes
    ----------
    samples
        By (group, id).
    failures
        Remembered failed sources, by source name.
    groups
        Layout of every group with a readable sidecar; ``rows`` counts committed rows.
    places
        Where sources were seen last; to be set before samples are added.
    sizes
        Bytes of all raws that samples were made from.
    """

    samples: dict[tuple[str, str], SampleState] = field(default_factory=dict)
    failures: dict[str, FailedSource] = field(default_factory=dict)
    groups: dict[str, GroupLayout] = field(default_factory=dict)
    places: Places = field(default_factory=Places)
    sizes: set[int] = field(default_factory=set)
    _by_place: dict[str, SampleState] = field(default_factory=dict)
    _by_content: dict[str, list[SampleState]] = field(default_factory=dict)
    _by_name: dict[str, SampleState] = field(default_factory=dict)

    def add(self, sample: SampleState) -> None:
        """Remember a sample under its own name and its source's."""
        entry = sample.entry
        self.samples[entry.key] = sample
        self.sizes.add(entry.size)
        self._by_name[entry.source] = sample
        if sample.digest:
            self._by_content.setdefault(sample.digest, []).append(sample)
        if (place := self.places.samples.get(entry.key)) is not None:
            self._by_place[place] = sample

    @property
    def names(self) -> set[str]:
        """Names of the sources of all samples."""
        return set(self._by_name)

    def named(self, source_name: str) -> SampleState | None:
        """The sample of a source of that name."""
        return self._by_name.get(source_name)

    def at(self, place: str) -> SampleState | None:
        """The sample whose source was last seen at a place."""
        return self._by_place.get(place)

    def of_content(self, digest: str) -> Sequence[SampleState]:
        """The samples made from raws of that SHA-256."""
        return self._by_content.get(digest, ())

    def rows(self, group: str) -> set[int]:
        """Rows of a group that belong to a sample or are reserved for a failed source."""
        owners: list[ManifestEntry] = [sample.entry for sample in self.samples.values()]
        owners += self.failures.values()
        return {e.row for e in owners if e.group == group and e.row is not None}


def annotation_key(annotation: ImageAnnotation | None) -> str:
    """A short text that differs whenever what is annotated does.

    The annotation file's name is left out, and findings with it: they depend on the folder given.
    """
    if annotation is None:
        return ""
    boxes = {"__all__": {"findings": True}}
    text = annotation.model_dump_json(exclude={"file": True, "boxes": boxes})
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def read_state(
    files: StoreFiles,
    reporter: Reporter,
    *,
    recheck: bool,
    stopping: Callable[[], bool] = never,
) -> StoreState:
    """Read every sidecar and check every chunk it names.

    Parameters
    ----------
    recheck
        Compute all checksums; otherwise only presence and size are looked at.
    stopping
        Asked after each sample; if true, this ends with `KeyboardInterrupt`.
    """
    state = StoreState(places=read_places(files))
    stored, failures = _recorded(files)
    state.failures = {entry.source: entry for entry in failures}
    known = {entry.key: entry for entry in stored}
    present = list(committed(files))

    def look(key: tuple[str, str]) -> tuple[tuple[str, str], Sidecar | None, str]:
        try:
            sidecar = read_sidecar(files, *key, every_byte=recheck)
        except DamagedStoreError as error:
            return key, None, error.message
        return key, sidecar, sample_damage(files, sidecar, recheck=recheck)

    samples: dict[tuple[str, str], SampleState] = {}
    reporter.stage("check", len(present))
    for key, sidecar, damage in in_order(look, present, CHECK_THREADS):
        reporter.step(failed=bool(damage))
        if stopping():
            raise KeyboardInterrupt
        if sidecar is not None:
            _add_group(state, sidecar)
            samples[key] = _sample_state(sidecar, damage)
        elif key in known:
            samples[key] = SampleState(known[key], damage=damage)
    # One that moved to another group has left its old place, whatever the manifest still says.
    placed = {sample.entry.source for sample in samples.values()}
    for key, entry in known.items():
        if entry.source not in placed:
            samples.setdefault(key, SampleState(entry, damage="its sidecar is missing"))
    for sample in _in_own_rows(samples, known):
        state.add(sample)
    return state


def _in_own_rows(
    samples: Mapping[tuple[str, str], SampleState], known: Mapping[tuple[str, str], StoredSample]
) -> Iterator[SampleState]:
    """The samples, none in the row of another.

    A sidecar whose row is wrong finds the chunk of another sample there. Made again in that row, it
    would destroy that chunk. So a damaged sample has the row the manifest gives it, or the one it
    claims, whichever is nobody else's; if neither is, it has none and will be given one.
    """
    taken: set[tuple[str, int | None]] = set()

    def settled(key: tuple[str, str]) -> SampleState:
        sample, listed = samples[key], known.get(key)
        claimed, damage = sample.entry.row, sample.damage
        if not damage and (key[0], claimed) in taken:
            damage = f"its row {claimed} is another sample's"
        rows = [listed.row, claimed] if damage and listed else [claimed]
        row = next((row for row in rows if (key[0], row) not in taken), None)
        taken.add((key[0], row))
        return replace(sample, entry=replace(sample.entry, row=row), damage=damage)

    def standing(key: tuple[str, str]) -> tuple[bool, bool]:
        """Whole samples choose first, among them those that the manifest confirms."""
        listed, sample = known.get(key), samples[key]
        return bool(sample.damage), listed is None or listed.row != sample.entry.row

    done = {key: settled(key) for key in sorted(samples, key=standing)}
    return (done[key] for key in samples)


def _sample_state(sidecar: Sidecar, damage: str) -> SampleState:
    annotation = sidecar.annotation
    return SampleState(
        entry=entry_for(sidecar),
        annotation=annotation_key(annotation),
        annotation_file=sys.intern(annotation.file) if annotation else "",
        plain_frame=is_plain(sidecar.frame),
        digest=sidecar.source.sha256,
        frame_size=annotation.size if annotation else sidecar.frame.size,
        damage=damage,
    )


def _add_group(state: StoreState, sidecar: Sidecar) -> None:
    known = state.groups.get(sidecar.group)
    rows = max(sidecar.row + 1, known.rows if known else 0)
    base = known or group_layout(sidecar, rows)
    state.groups[sidecar.group] = base.model_copy(update={"rows": rows})


def _recorded(files: StoreFiles) -> tuple[tuple[StoredSample, ...], tuple[FailedSource, ...]]:
    """What the manifest lists, if it can be read and is this store's."""
    try:
        data = files.get_or_none(MANIFEST_NAME)
        if data is None:
            return (), ()
        manifest = parse_manifest(data, path=files.location(MANIFEST_NAME))
    except DamagedStoreError:
        return (), ()  # rebuilt from the sidecars; failures are tried again
    # One of another recipe is another store's.
    if manifest.header.recipe != read_root(files)[0]:
        return (), ()
    return manifest.samples, manifest.failures
