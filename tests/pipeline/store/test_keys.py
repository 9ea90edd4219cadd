from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.store.keys import MAX_ID_LENGTH, group_name, sample_id
from schemas.sidecar import Camera

SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
# Unlike Hypothesis' default text, with lone surrogates: undecodable bytes of file names.
any_text = st.text(st.characters(codec=None, exclude_categories=()), max_size=60)


@pytest.mark.parametrize(
    ("make", "model", "size", "expected"),
    [
        ("SONY", "DSC-RX100M7", (5472, 3648), "sony-dsc-rx100m7_5472x3648"),
        ("NIKON CORPORATION", "NIKON D750", (3936, 2624), "nikon-d750_3936x2624"),
        ("NIKON CORPORATION", "NIKON D1", (2012, 1324), "nikon-d1_2012x1324"),
        ("Canon", "Canon EOS 5D Mark IV", (6720, 4480), "canon-eos-5d-mark-iv_6720x4480"),
        ("", "", (10, 20), "unknown_10x20"),
        ("", "X/../../etc", (10, 20), "x-etc_10x20"),
        ("写真", "機", (10, 20), "unknown_10x20"),
    ],
)
def test_groups_are_called_after_camera_and_frame(
    make: str, model: str, size: tuple[int, int], expected: str
) -> None:
    assert group_name(Camera(make=make, model=model), size) == expected


@given(make=any_text, model=any_text)
@settings(max_examples=150, deadline=None)
def test_a_group_name_is_a_safe_folder_name_for_any_camera(make: str, model: str) -> None:
    name = group_name(Camera.model_construct(make=make, model=model), (5472, 3648))
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]*_5472x3648", name)
    assert len(name) <= 120


@pytest.mark.parametrize("stem", ["DSC01088", "_DSC0674", "DSC_4219", "a.b-c", "x" * MAX_ID_LENGTH])
def test_a_plain_stem_is_the_id(stem: str) -> None:
    assert sample_id(stem, f"raws/{stem}.ARW", set()) == stem


HOSTILE = [
    *("..", ".", "", ".hidden", "-x", "--", "a/b", "a\\b", "a\0b", "a b", "a\nb", "é", "\udce9"),
    *("\ud800", "x" * 10_000, "-" * 10_000, "é" * 10_000, "C:", "a:b", "DSC01088\n"),
    *("con", "NUL", "aux.1", "COM1", "lpt9.x.y"),
]


@pytest.mark.parametrize("stem", HOSTILE, ids=[ascii(stem[:12]) for stem in HOSTILE])
def test_a_hostile_stem_becomes_a_safe_id(stem: str) -> None:
    name = sample_id(stem, f"folder/{stem}.nef", set())
    assert SAFE.fullmatch(name)
    assert name != stem
    assert len(name) <= MAX_ID_LENGTH
    assert not re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?", name)


@given(stem=any_text, source=any_text)
@example(stem="..", source="")
@example(stem="-", source="\ud800")
@settings(max_examples=300, deadline=None)
def test_every_id_is_safe_and_stable(stem: str, source: str) -> None:
    name = sample_id(stem, source, set())
    assert SAFE.fullmatch(name)
    assert len(name) <= MAX_ID_LENGTH
    assert name == sample_id(stem, source, set())


@given(
    stems=st.lists(
        st.one_of(any_text, st.sampled_from(["DSC1", "dsc1", "Dsc1", "é", "è", "..", "DSC1-x"])),
        max_size=30,
    )
)
@settings(max_examples=100, deadline=None)
def test_ids_of_different_sources_differ_even_where_case_does_not_count(stems: list[str]) -> None:
    taken: set[str] = set()
    for number, stem in enumerate(stems):
        name = sample_id(stem, f"{number}/{stem}.nef", taken)
        assert name.casefold() not in taken
        taken.add(name.casefold())


def test_the_same_stem_in_another_folder_gets_an_id_of_its_own() -> None:
    name = sample_id("DSC01088", "b/DSC01088.ARW", {"dsc01088"})
    assert re.fullmatch(r"DSC01088-[0-9a-f]{8}", name)
    assert name != sample_id("DSC01088", "c/DSC01088.ARW", {"dsc01088"})


def test_a_file_that_is_called_like_a_derived_id_costs_nobody_an_id() -> None:
    derived = sample_id("DSC1", "b/DSC1.ARW", {"dsc1"})
    another = sample_id("DSC1", "b/DSC1.ARW", {"dsc1", derived.casefold()})
    assert another not in ("DSC1", derived)
    assert SAFE.fullmatch(another)


@pytest.mark.parametrize("stem", ["zarr", "ZARR", "x.tmp-1", "a.json.tmp-22"])
def test_a_name_that_means_something_else_in_a_store_is_no_id(stem: str) -> None:
    name = sample_id(stem, f"{stem}.ARW", set())
    assert SAFE.fullmatch(name)
    assert name.casefold() != "zarr"
    assert ".tmp-" not in name


def test_files_called_by_every_form_of_an_id_still_leave_one() -> None:
    taken = {"a"}
    for _ in range(10):
        taken.add(sample_id("a", "b/a.ARW", taken).casefold())
    assert len(taken) == 11
