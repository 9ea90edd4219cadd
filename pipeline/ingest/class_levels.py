"""The levels by which an ingest plans: those that will be stored, learned from one file a class.

What the fast decoders read without pixels is a guess at LibRaw's levels: tables differ, of matrices
above all. LibRaw's own cost decoding. So of each class (camera, compression, bits) one file is
decoded by LibRaw before ranges are planned, and what differs in it is LibRaw's in all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from pipeline.ingest.once import Once
from pipeline.ingest.survey import Item
from pipeline.ingest.tasks import ProbeOutcome
from pipeline.raw.decoders.table import reference
from pipeline.raw.facts import Levels, RawFacts, level_differences
from pipeline.raw.matrix import no_own_matrix
from pipeline.sources.source import Source
from schemas.choices import DecoderChoice
from schemas.finding import Finding
from schemas.finding_codes import FindingCode

#: Files of a class that are tried until LibRaw can decode one.
TRIES = 3

#: Decodes sources by LibRaw, in workers, in any order; None for one that it cannot decode.
ReadLevels = Callable[[Sequence[Source]], Iterable[tuple[Source, Levels | None]]]

#: What is the same in all files of a camera; the other levels may depend on ISO, for example.
_OF_CAMERA = {"xyz_to_camera"}


@dataclass
class SettledLevels:
    """What `settle_levels` found out.

    Attributes
    ----------
    probed
        The same sources; outcomes with the levels that will be stored.
    distrusted
        Decoder classes that LibRaw must decode.
    findings
        One for each class that differs, and one for each camera with a relative's matrix.
    """

    probed: list[tuple[Item, ProbeOutcome]]
    distrusted: set[str] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)


def settle_levels(
    probed: Iterable[tuple[Item, ProbeOutcome]], choice: DecoderChoice, read: ReadLevels
) -> SettledLevels:
    """Put LibRaw's levels in the place of those that the fast decoders read.

    Parameters
    ----------
    choice
        ``"auto"``: classes that differ go to LibRaw, with a finding. ``"libraw"``: they are there
        already. A fast decoder: its levels stay, and only the origin of its matrix is learned.
    """
    once = Once()
    result = SettledLevels([(item, _shared(outcome, once)) for item, outcome in probed])
    classes: dict[str, dict[str, int]] = {}
    for number, (item, outcome) in enumerate(result.probed):
        if outcome.facts is not None and outcome.facts.level_class:
            classes.setdefault(outcome.facts.level_class, {})[item.source.name] = number
    # In the order of names, whichever was probed first: so the same file is asked each time.
    classes = {name: dict(sorted(numbers.items())) for name, numbers in classes.items()}
    examples = _examples(result, classes, read)
    for level_class, (name, levels) in examples.items():
        numbers = classes[level_class]
        if choice in ("auto", reference().name):
            _settle_class(result, numbers, numbers[name], levels, read)
        else:
            _settle_origins(result, numbers, levels)
    if choice != "auto":
        result.distrusted.clear()
        result.findings.clear()
    result.findings += _borrowed(result.probed)
    return result


def _shared(outcome: ProbeOutcome, once: Once) -> ProbeOutcome:
    """The same with one object for what equals: the facts of all sources are held at once here."""
    facts = outcome.facts
    if facts is None:
        return outcome
    levels = replace(
        facts.levels,
        black=once(facts.levels.black),
        xyz_to_camera=once(facts.levels.xyz_to_camera),
        as_shot_balance=once(facts.levels.as_shot_balance),
        origin=once(facts.levels.origin),
    )
    shared = replace(
        facts,
        camera=once(facts.camera),
        geometry=once(facts.geometry),
        levels=once(levels),
        decoder_class=once(facts.decoder_class),
        level_class=once(facts.level_class),
    )
    return replace(outcome, facts=shared)


def _examples(
    result: SettledLevels, classes: dict[str, dict[str, int]], read: ReadLevels
) -> dict[str, tuple[str, Levels]]:
    """Of each class a file that LibRaw can decode, and its levels."""
    found: dict[str, tuple[str, Levels]] = {}
    for attempt in range(TRIES):
        asked = {
            list(numbers)[attempt]: level_class
            for level_class, numbers in classes.items()
            if level_class not in found and attempt < len(numbers)
        }
        sources = [result.probed[classes[asked[name]][name]][0].source for name in asked]
        for source, levels in read(sources) if sources else ():
            if levels is not None:
                found[asked[source.name]] = source.name, levels
    return found


def _settle_class(
    result: SettledLevels, numbers: dict[str, int], first: int, example: Levels, read: ReadLevels
) -> None:
    """Give all files of a class LibRaw's levels, of which one file's are known."""
    fast = _facts(result, first).levels
    whole = level_differences(example, fast)
    known: dict[str, Levels] = {}
    if whole.keys() - _OF_CAMERA:
        # Nobody knows how the others' levels go with their files: each is asked.
        sources = [result.probed[number][0].source for number in numbers.values()]
        known = {source.name: levels for source, levels in read(sources) if levels is not None}
    told = whole
    for name, number in numbers.items():
        facts = _facts(result, number)
        levels = known.get(name) or _with_matrix_of(example, facts.levels)
        differing = level_differences(levels, facts.levels)
        if whole or differing:
            result.distrusted.add(facts.decoder_class)
        told = told or differing
        _put(result, number, levels)
    if told:
        of_table = example.origin.source == "table" and fast.origin.source == "file"
        result.findings.append(_disagreement(result.probed[first][0], told, of_table=of_table))


def _settle_origins(result: SettledLevels, numbers: dict[str, int], example: Levels) -> None:
    for number in numbers.values():
        levels = _facts(result, number).levels
        if levels.xyz_to_camera == example.xyz_to_camera:
            _put(result, number, replace(levels, origin=example.origin))


def _with_matrix_of(example: Levels, levels: Levels) -> Levels:
    """A file's levels with the matrix of its camera; a matrix of its own it has already."""
    own = example.origin.source == "file"
    return replace(
        levels,
        xyz_to_camera=levels.xyz_to_camera if own else example.xyz_to_camera,
        origin=example.origin,
        matrix_problem=levels.matrix_problem if own else example.matrix_problem,
    )


def _facts(result: SettledLevels, number: int) -> RawFacts:
    facts = result.probed[number][1].facts
    assert facts is not None  # only sources with facts are in a class
    return facts


def _put(result: SettledLevels, number: int, levels: Levels) -> None:
    item, outcome = result.probed[number]
    facts = replace(_facts(result, number), levels=levels)
    result.probed[number] = item, replace(outcome, facts=facts)


def _disagreement(item: Item, differing: dict[str, str], *, of_table: bool) -> Finding:
    kept = "; the matrix is that of its table, not the DNG's own"
    said = "; ".join(differing.values())
    return FindingCode.DECODERS_DISAGREE.finding(
        where=item.source.name,
        message=f"LibRaw reads other levels than the fast decoders: {said}. "
        "LibRaw decodes all files of this camera and compression"
        + (kept if of_table and "xyz_to_camera" in differing else ""),
    )


def _borrowed(probed: Iterable[tuple[Item, ProbeOutcome]]) -> Iterator[Finding]:
    """A finding for each camera whose matrix is a relative's."""
    files: dict[str, list[str]] = {}
    for item, outcome in probed:
        facts = outcome.facts
        if facts is not None and facts.levels.origin.source == "relative":
            message = no_own_matrix(facts.camera, facts.levels.origin)
            files.setdefault(message, []).append(item.source.name)
    for message, names in files.items():
        count = "1 file" if len(names) == 1 else f"{len(names)} files"
        yield FindingCode.RELATIVES_MATRIX.finding(min(names), f"{message} ({count})")
