"""Do held-out images show what was trained on? Cameras number their frames; neighbours are alike.

A split drawn at random from a burst puts frame 674 into training and 675 into testing. Counting
such pairs needs no pixels.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pipeline.verify.samples import Checked
from schemas.finding import Finding
from schemas.finding_codes import FindingCode

TRAIN = "train"
MAX_EXAMPLES = 5
_NUMBERED = re.compile(r"(.*?)([0-9]{1,18})", re.DOTALL)

SampleKey = str | tuple[str, str]
"""A file stem, or ``(camera, stem)`` where several cameras number alike."""


@dataclass(frozen=True)
class SplitLeakage:
    """One held-out split: ``leaking`` of its ``total`` samples have a neighbour in training."""

    leaking: int
    total: int


@dataclass(frozen=True)
class Leakage:
    """How far held-out splits are independent of training.

    Attributes
    ----------
    splits
        Held-out split -> counts, in alphabetical order.
    examples
        At most `MAX_EXAMPLES` pairs (held-out sample, its neighbour in training), the first ones
        in order of their keys.
    """

    splits: Mapping[str, SplitLeakage]
    examples: tuple[tuple[SampleKey, SampleKey], ...]

    @property
    def leaking(self) -> int:
        """Held-out samples with a neighbour in training, all splits together."""
        return sum(split.leaking for split in self.splits.values())

    @property
    def total(self) -> int:
        """Held-out samples, all splits together."""
        return sum(split.total for split in self.splits.values())


def neighbour_leakage(
    splits: Mapping[str, str | None] | Mapping[tuple[str, str], str | None],
) -> Leakage:
    """Count held-out samples whose frame number is one away from a training sample's.

    Parameters
    ----------
    splits
        Sample -> split. A sample is a stem such as ``"DSC_0674"``, or ``(camera, stem)``; only
        stems of the same camera with the same text before their last number are neighbours, so
        ``DSC_0674`` and ``DSC00675`` are none. Samples without a split are neither trained on nor
        held out; stems without a number have no neighbours.
    """
    trained: dict[tuple[str, str, int], SampleKey] = {}
    held_out: list[tuple[SampleKey, str]] = []
    for key, split in splits.items():
        frame = _frame(key)
        if split == TRAIN and frame:
            trained[frame] = key
        elif split not in (TRAIN, None):
            held_out.append((key, str(split)))
    counts: dict[str, list[bool]] = {}
    examples: list[tuple[SampleKey, SampleKey]] = []
    for key, split_name in sorted(held_out, key=lambda item: _sortable(item[0])):
        neighbour = _neighbour(_frame(key), trained)
        counts.setdefault(split_name, []).append(neighbour is not None)
        if neighbour is not None and len(examples) < MAX_EXAMPLES:
            examples.append((key, neighbour))
    return Leakage(
        splits={name: SplitLeakage(sum(hits), len(hits)) for name, hits in sorted(counts.items())},
        examples=tuple(examples),
    )


def _sortable(key: SampleKey) -> tuple[str, str]:
    return ("", key) if isinstance(key, str) else key


def _frame(key: SampleKey) -> tuple[str, str, int] | None:
    """Camera, text before the number, number; None for a stem that does not end in a number."""
    camera, stem = _sortable(key)
    match = _NUMBERED.fullmatch(stem)
    return (camera, match[1], int(match[2])) if match else None


def _neighbour(
    frame: tuple[str, str, int] | None, trained: Mapping[tuple[str, str, int], SampleKey]
) -> SampleKey | None:
    if frame is None:
        return None
    camera, prefix, number = frame
    return trained.get((camera, prefix, number - 1)) or trained.get((camera, prefix, number + 1))


def check_splits(checked: list[Checked]) -> Iterator[Finding]:
    """The same raw twice, and held-out samples with a neighbour frame in train."""
    by_content: dict[str, list[Checked]] = defaultdict(list)
    for one in checked:
        if one.entry is not None:
            by_content[one.sha256].append(one)
    for twins in by_content.values():
        if len(twins) > 1:
            splits = {twin.entry.split for twin in twins if twin.entry}
            yield FindingCode.SAME_RAW.finding(
                where=f"{twins[0].group}/{twins[0].id}",
                message=f"the same raw is stored as {', '.join(t.id for t in twins[:3])}"
                + (f" and {len(twins) - 3} more" if len(twins) > 3 else "")
                + (f", in splits {sorted(map(str, splits))}" if len(splits) > 1 else ""),
            )
    by_sample = {(one.group, one.id): one.entry.split for one in checked if one.entry is not None}
    leakage = neighbour_leakage(by_sample)
    if leakage.leaking:
        held_out, trained = leakage.examples[0]
        yield FindingCode.NEIGHBOUR_LEAKAGE.finding(
            where="splits",
            message=f"{leakage.leaking} of {leakage.total} held-out samples have a neighbour frame "
            f"(number ±1) in train, such as {held_out[1]} beside {trained[1]}",
        )
