"""Which levels an ingest plans by, with decoders that are only said to read something."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from pipeline.ingest.class_levels import TRIES, SettledLevels, settle_levels
from pipeline.ingest.survey import Item
from pipeline.ingest.tasks import ProbeOutcome
from pipeline.raw.facts import Geometry, Levels, MatrixOrigin, RawFacts
from pipeline.sources.source import Source
from schemas.choices import DecoderChoice
from schemas.sidecar import Camera, Capture, Rect

FAST = Levels("RGGB", (512.0,) * 4, 16383.0, ((1.0, 0, 0), (0, 1, 0), (0, 0, 1)), None)
OTHER_MATRIX = ((0.5, 0, 0), (0, 1, 0), (0, 0, 1))
ALIKE = "ILCE-7M5, uncompressed, 14 bit"


def facts(levels: Levels = FAST, level_class: str = ALIKE, model: str = "ILCE-7M5") -> RawFacts:
    area = Rect(x=0, y=0, width=64, height=48)
    camera = Camera(make="SONY", model=model)
    # As in the reader: the class for trust tells more apart than the one for levels.
    trust = f"{level_class}, black {levels.black}" if level_class else ""
    return RawFacts(
        camera, Geometry((64, 48), area, None, 1), levels, Capture(), trust, level_class
    )


@dataclass
class Folder:
    """Files as the fast decoders read them, and as LibRaw does."""

    fast: dict[str, RawFacts]
    slow: dict[str, Levels | None]
    asked: list[str] = field(default_factory=list)

    def read(self, sources: Sequence[Source]) -> Iterator[tuple[Source, Levels | None]]:
        for source in reversed(sources):  # in any order
            self.asked.append(source.name)
            yield source, self.slow[source.name]

    def settle(self, choice: DecoderChoice = "auto") -> SettledLevels:
        probed = [
            (Item(Source(name, f"/{name}", 1, 1), "new"), ProbeOutcome(known))
            for name, known in self.fast.items()
        ]
        return settle_levels(probed, choice, self.read)


def folder(*slow: Levels | None, fast: Sequence[Levels] = ()) -> Folder:
    names = [f"{number:03}.ARW" for number in range(len(slow))]
    read = fast or [FAST] * len(slow)
    known = {name: facts(levels) for name, levels in zip(names, read, strict=True)}
    return Folder(known, dict(zip(names, slow, strict=True)))


def stored(result: SettledLevels) -> list[Levels]:
    return [outcome.facts.levels for _, outcome in result.probed if outcome.facts is not None]


def codes(result: SettledLevels) -> list[str]:
    return [finding.code for finding in result.findings]


@pytest.mark.parametrize("choice", ["auto", "libraw", "flashraw"])
def test_where_all_read_the_same_one_file_of_a_class_is_decoded_and_nothing_changes(
    choice: DecoderChoice,
) -> None:
    files = folder(*[FAST] * 100)
    result = files.settle(choice)
    assert files.asked == ["000.ARW"]
    assert stored(result) == [FAST] * 100
    assert (result.findings, result.distrusted) == ([], set())


def test_another_matrix_is_libraws_in_all_files_of_the_class_with_one_finding() -> None:
    """Files whose black depends on ISO are in many classes for trust, and in one here."""
    fast = [replace(FAST, black=(512.0 + iso,) * 4) for iso in range(50)]
    slow = [replace(levels, xyz_to_camera=OTHER_MATRIX) for levels in fast]
    files = folder(*slow, fast=fast)
    result = files.settle()
    assert files.asked == ["000.ARW"]
    assert stored(result) == slow
    assert codes(result) == ["decoders-disagree"]
    assert "xyz_to_camera" in result.findings[0].message
    assert result.distrusted == {known.decoder_class for known in files.fast.values()}


@pytest.mark.parametrize("what", ["black", "white", "cfa"])
def test_other_levels_are_read_from_each_file_of_a_class_in_which_they_differ(what: str) -> None:
    values: dict[str, list[Any]] = {
        "black": [(500.0 + n,) * 4 for n in range(5)],
        "white": [15000.0 + n for n in range(5)],
        "cfa": ["BGGR"] * 5,
    }
    slow = [replace(FAST, **{what: value}) for value in values[what]]
    files = folder(*slow)
    result = files.settle()
    assert stored(result) == slow
    assert codes(result) == ["decoders-disagree"]
    assert what in result.findings[0].message


def test_of_such_a_class_a_file_that_cannot_be_decoded_gets_the_matrix_only() -> None:
    changed = replace(FAST, black=(1.0,) * 4, xyz_to_camera=OTHER_MATRIX)
    result = folder(changed, None).settle()
    assert stored(result) == [changed, replace(FAST, xyz_to_camera=OTHER_MATRIX)]


def test_a_white_balance_that_differs_hands_over_the_class_and_moves_no_range() -> None:
    balanced = replace(FAST, as_shot_balance=(2.0, 1.0, 1.5))
    result = folder(balanced, balanced).settle()
    assert codes(result) == ["decoders-disagree"]
    assert len(result.distrusted) == 1


def test_by_libraw_alone_its_levels_plan_and_nobody_disagrees() -> None:
    slow = replace(FAST, xyz_to_camera=OTHER_MATRIX)
    result = folder(slow, slow).settle("libraw")
    assert stored(result) == [slow, slow]
    assert (result.findings, result.distrusted) == ([], set())


def test_by_a_fast_decoder_alone_its_own_levels_plan() -> None:
    slow = replace(FAST, black=(1.0,) * 4, xyz_to_camera=OTHER_MATRIX)
    assert stored(folder(slow, slow).settle("flashraw")) == [FAST, FAST]


def test_a_file_that_libraw_cannot_decode_is_no_example() -> None:
    slow = replace(FAST, xyz_to_camera=OTHER_MATRIX)
    files = folder(None, None, slow)
    assert stored(files.settle()) == [slow] * 3
    assert files.asked == ["000.ARW", "001.ARW", "002.ARW"]
    hopeless = folder(*[None] * 9)
    assert stored(hopeless.settle()) == [FAST] * 9
    assert len(hopeless.asked) == TRIES


def test_each_class_has_its_own_example_and_files_without_facts_or_class_are_left_alone() -> None:
    slow = replace(FAST, xyz_to_camera=OTHER_MATRIX)
    known = {
        "a.ARW": facts(),
        "b.ARW": facts(level_class="ILCE-7M5, arw2"),
        "c.CR2": facts(level_class=""),
    }
    files = Folder(known, {"a.ARW": slow, "b.ARW": FAST})
    result = files.settle()
    assert sorted(files.asked) == ["a.ARW", "b.ARW"]
    assert stored(result) == [slow, FAST, FAST]
    failed = Item(Source("d.ARW", "/d.ARW", 1, 1), "new"), ProbeOutcome()
    assert settle_levels([failed], "auto", files.read).probed == [failed]


def test_matrices_that_files_bring_themselves_stay_theirs() -> None:
    """Two phones of one model may be calibrated one by one."""
    own = [replace(FAST, xyz_to_camera=((n, 0, 0), (0, 1, 0), (0, 0, 1))) for n in (0.7, 0.8)]
    slow = replace(own[0], origin=MatrixOrigin("file"))
    result = folder(slow, None, fast=own).settle()
    assert stored(result) == [replace(levels, origin=MatrixOrigin("file")) for levels in own]
    assert result.findings == []


def test_a_table_overrules_the_matrix_of_each_file_not_only_of_the_example() -> None:
    """The first DNG happens to have the table's matrix, the second another converter's."""
    from_file = replace(FAST, origin=MatrixOrigin("file"))
    fast = [from_file, replace(from_file, xyz_to_camera=OTHER_MATRIX)]
    result = folder(FAST, FAST, fast=fast).settle()
    assert stored(result) == [FAST, FAST]
    assert codes(result) == ["decoders-disagree"]
    assert "not the DNG's own" in result.findings[0].message


@pytest.mark.parametrize("choice", ["auto", "libraw", "flashraw"])
def test_a_relatives_matrix_is_one_finding_a_camera_whichever_decoder_is_chosen(
    choice: DecoderChoice,
) -> None:
    slow = replace(FAST, origin=MatrixOrigin("relative", "ILCE-7"))
    result = folder(slow, slow).settle(choice)
    assert stored(result) == [slow, slow]
    assert codes(result) == ["relatives-matrix"]
    assert "ILCE-7M5" in result.findings[0].message
    assert "that of ILCE-7," in result.findings[0].message
