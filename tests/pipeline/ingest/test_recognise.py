"""Whose sample a file is: cards that number alike, copies that were moved, renamed, re-dated."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import NoStoreError
from pipeline.ingest.recognise import match, places_of
from pipeline.ingest.store_state import SampleState, StoreState
from pipeline.sources.source import Source
from pipeline.store import open_store
from pipeline.store.keys import PLACES_NAME
from pipeline.store.local.files import LocalFiles
from pipeline.store.places import Places, read_places
from pipeline.verify import VerifyOptions, run_verify
from schemas.recipe import Recipe
from tests.conftest import Ingest
from tests.kit.recorder import Recorder
from tests.kit.small_raws import LONG_AGO, SMALL_FRAME, write_small_raw
from tests.kit.trees import chunks, stamps, tree
from tests.pipeline.ingest.test_placement import entry, raw

RECIPE = Recipe(fit=(20, 16))


def write_card(folder: Path, seed: int, *names: str) -> Path:
    """A folder of raws and their boxes, in which every number depends on `seed`."""
    rng = np.random.default_rng(seed)
    images, boxes = list[dict[str, Any]](), list[dict[str, Any]]()
    for number, name in enumerate(names):
        write_small_raw(folder / name, rng)
        size = {"width": SMALL_FRAME[0], "height": SMALL_FRAME[1]}
        images.append({"id": number, "file_name": name, **size})
        box = [float(seed), 2.5, 17.0, 9.0]
        boxes.append({"id": number, "image_id": number, "category_id": 1, "bbox": box})
    write_boxes(folder, images, boxes)
    return folder


def write_boxes(folder: Path, images: list[dict[str, Any]], boxes: list[dict[str, Any]]) -> None:
    categories = [{"id": 1, "name": "person"}]
    document = {"images": images, "annotations": boxes, "categories": categories}
    (folder / "boxes_train.json").write_text(json.dumps(document))


def contents(store: Path) -> dict[str, tuple[str, tuple[float, ...], str | None]]:
    """By source name: whose pixels, whose boxes, which split."""
    found = {}
    opened = open_store(store)
    for name in opened:
        sidecar = opened.sidecar(name)
        boxes = sidecar.annotation.boxes if sidecar.annotation else ()
        first = tuple(box.bbox[0] for box in boxes)
        found[sidecar.source.name] = (sidecar.source.sha256, first, sidecar.split)
    return found


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def verified(store: Path, *sources: Path) -> tuple[int, set[str]]:
    recorder = Recorder()
    options = VerifyOptions(strict=True, sources=tuple(map(str, sources)))
    return run_verify(LocalFiles(store), recorder, options).exit_code, recorder.codes


@pytest.fixture
def card(tmp_path: Path) -> Path:
    return write_card(tmp_path / "card1", 1, "DSC_0001.NEF", "DSC_0002.NEF")


@pytest.fixture
def store(card: Path, tmp_path: Path, ingest: Ingest) -> Path:
    """A store made of `card`."""
    path = tmp_path / "s.zarr"
    assert ingest(card, path, recipe=RECIPE).ingested == 2
    return path


@pytest.mark.parametrize("same_time", [True, False])
def test_two_cards_with_one_file_name_are_kept_apart(
    card: Path, store: Path, tmp_path: Path, ingest: Ingest, recorder: Recorder, same_time: bool
) -> None:
    """Neither's picture is replaced, and neither's boxes go to the other's pixels."""
    other = write_card(tmp_path / "card2", 2, "DSC_0001.NEF")
    if not same_time:
        os.utime(other / "DSC_0001.NEF", (LONG_AGO + 9, LONG_AGO + 9))
    assert (other / "DSC_0001.NEF").stat().st_size == (card / "DSC_0001.NEF").stat().st_size
    before = tree(store)
    summary = ingest(other, store, recipe=RECIPE)
    assert (summary.ingested, summary.redone, summary.exit_code) == (1, 0, 0)
    assert "name-taken" in recorder.codes
    for name, data in before.items():
        if "/c." in name or "/sidecars/" in name:
            assert (store / name).read_bytes() == data
    expected = {
        name: (digest(card / name), (1.0,), "train") for name in ("DSC_0001.NEF", "DSC_0002.NEF")
    }
    expected["card2/DSC_0001.NEF"] = (digest(other / "DSC_0001.NEF"), (2.0,), "train")
    assert contents(store) == expected
    assert verified(store)[0] == 0
    for again in (card, other):
        recorder.findings.clear()
        assert ingest(again, store, recipe=RECIPE).ingested == 0
        assert not recorder.findings
    assert contents(store) == expected


def test_a_third_card_and_a_store_that_forgot_its_places_are_no_exception(
    card: Path, store: Path, tmp_path: Path, ingest: Ingest
) -> None:
    others = [write_card(tmp_path / f"{i}/card2", i, "DSC_0001.NEF") for i in (2, 3)]
    for other in others:
        (store / PLACES_NAME).write_bytes(b"damaged")
        assert ingest(other, store, recipe=RECIPE).ingested == 1
    found = contents(store)
    assert found["card2/DSC_0001.NEF"][1] == (2.0,)
    assert found["~2/card2/DSC_0001.NEF"][1] == (3.0,)
    assert found["DSC_0001.NEF"][1] == (1.0,)
    (store / PLACES_NAME).unlink()
    for again in (card, *others):
        assert ingest(again, store, recipe=RECIPE).ingested == 0
    assert contents(store) == found


def copied(card: Path, folder: Path) -> Path:
    """A copy without times, as ``cp -r`` and ``git checkout`` make it."""
    shutil.copytree(card, folder, copy_function=shutil.copyfile)
    return folder


def moved(card: Path, folder: Path) -> Path:
    return Path(shutil.move(card, folder))


def renamed(card: Path, folder: Path) -> Path:
    for path in card.glob("*.NEF"):
        path.rename(path.with_name(f"night_{path.name}"))
    return card


def re_dated(card: Path, folder: Path) -> Path:
    for path in card.glob("*.NEF"):
        os.utime(path, (LONG_AGO + 9, LONG_AGO + 9))
    return card


def in_a_folder_further_up(card: Path, folder: Path) -> Path:
    folder.mkdir()
    shutil.move(card, folder)
    return folder


@pytest.mark.parametrize("how", [copied, moved, renamed, re_dated, in_a_folder_further_up])
def test_the_same_content_is_not_decoded_again(
    card: Path, store: Path, tmp_path: Path, ingest: Ingest, recorder: Recorder, how: Any
) -> None:
    before, pixels = contents(store), stamps(store)
    there = how(card, tmp_path / "elsewhere")
    recorder.findings.clear()
    summary = ingest(there, store, recipe=RECIPE)
    assert (summary.up_to_date, summary.ingested, summary.redone) == (2, 0, 0)
    assert contents(store) == before
    kept = {name: stamp for name, stamp in stamps(store).items() if "/c." in name}
    assert kept == {name: stamp for name, stamp in pixels.items() if "/c." in name}
    assert not recorder.findings
    assert verified(store, there)[0] == 0


def test_what_is_where_it_was_is_known_without_being_read(
    card: Path, store: Path, tmp_path: Path, ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what was read once to be recognised, and a folder named through a link."""
    there = copied(card, tmp_path / "elsewhere")
    ingest(there, store, recipe=RECIPE)
    (tmp_path / "link").symlink_to(there)
    read = list[str]()
    read_bytes = Source.read_bytes

    def watched(source: Source) -> bytes:
        read.append(source.suffix)
        return read_bytes(source)

    monkeypatch.setattr(Source, "read_bytes", watched)
    for again in (there, tmp_path / "link"):
        assert ingest(again, store, recipe=RECIPE).up_to_date == 2
    assert ".nef" not in read
    ingest(card, store, recipe=RECIPE)
    assert read.count(".nef") == 2


def test_a_raw_replaced_in_its_place_is_made_again_in_its_place(
    card: Path, store: Path, ingest: Ingest, recorder: Recorder
) -> None:
    """As after a better copy from the card, or another conversion: the shot is the same."""
    path = card / "DSC_0001.NEF"
    write_small_raw(path, np.random.default_rng(9))
    os.utime(path, (LONG_AGO + 9, LONG_AGO + 9))
    assert ingest(card, store, recipe=RECIPE).redone == 1
    assert contents(store)["DSC_0001.NEF"] == (digest(path), (1.0,), "train")
    assert len(contents(store)) == 2
    assert "raw-replaced" not in recorder.codes


def test_another_shot_in_the_place_of_a_raw_is_said(
    card: Path, store: Path, ingest: Ingest, recorder: Recorder
) -> None:
    """As where two cards are mounted one after the other in one place."""
    path = card / "DSC_0001.NEF"
    dated = path.read_bytes().replace(b"2020:01:01 21:00:00", b"2020:01:01 21:00:01")
    assert dated != path.read_bytes()
    path.write_bytes(dated)
    assert ingest(card, store, recipe=RECIPE).redone == 1
    assert [one.where for one in recorder.findings if one.code == "raw-replaced"] == [path.name]


def test_raws_that_exchange_their_names_keep_their_pixels_and_exchange_their_boxes(
    card: Path, store: Path, ingest: Ingest
) -> None:
    first, second = (card / "DSC_0001.NEF", card / "DSC_0002.NEF")
    first.rename(card / "x")
    second.rename(first)
    (card / "x").rename(second)
    for number, path in enumerate((first, second)):
        os.utime(path, (LONG_AGO + number + 1, LONG_AGO + number + 1))
    summary = ingest(card, store, recipe=RECIPE)
    assert (summary.ingested, summary.redone) == (0, 0)
    assert verified(store, card)[0] == 0
    opened = open_store(store)
    for sidecar in map(opened.sidecar, opened):
        name = sidecar.annotation.file_name if sidecar.annotation else ""
        assert sidecar.source.sha256 == digest(card / name)


def test_a_copy_beside_its_original_is_not_stored_a_second_time(
    card: Path, store: Path, ingest: Ingest
) -> None:
    copied(card, card / "backup")
    (card / "backup" / "boxes_train.json").unlink()
    before = tree(store)
    summary = ingest(card, store, recipe=RECIPE)
    assert (summary.up_to_date, summary.ingested) == (4, 0)
    assert tree(store) == before


def test_a_damaged_sample_is_never_made_again_from_another_picture(
    card: Path, store: Path, tmp_path: Path, ingest: Ingest
) -> None:
    other = write_card(tmp_path / "card2", 2, "DSC_0001.NEF")
    (victim,) = [name for name in chunks(store) if "packed/c.0." in name]
    (store / victim).write_bytes(b"damaged")
    assert ingest(other, store, recipe=RECIPE).exit_code == 4
    before = contents(store)
    assert ingest(card, store, recipe=RECIPE).redone == 1
    assert contents(store) == before
    assert verified(store)[0] == 0


def test_the_raw_of_a_lost_sidecar_is_known_by_name_where_nothing_else_is_left(
    card: Path, store: Path, ingest: Ingest
) -> None:
    before = tree(store)
    (store / PLACES_NAME).unlink()
    next(store.glob("*/sidecars/DSC_0001.json")).unlink()
    assert ingest(card, store, recipe=RECIPE).redone == 1
    assert tree(store) == before


def test_a_picture_of_a_failed_ones_name_is_tried(
    card: Path, store: Path, tmp_path: Path, ingest: Ingest
) -> None:
    """Also with the same size and time."""
    bad = tmp_path / "bad"
    bad.mkdir()
    good = write_card(tmp_path / "good", 3, "DSC_0009.NEF") / "DSC_0009.NEF"
    (bad / good.name).write_bytes(bytes(good.stat().st_size))
    os.utime(bad / good.name, (LONG_AGO, LONG_AGO))
    assert ingest(bad, store, recipe=RECIPE).failed == 1
    assert ingest(bad, store, recipe=RECIPE).failed_before == 1
    assert ingest(good.parent, store, recipe=RECIPE).ingested == 1


# Boxes that nobody annotates any more ------------------------------------------------------------


def test_a_record_that_is_gone_takes_its_boxes_along_and_says_so(
    card: Path, store: Path, ingest: Ingest, recorder: Recorder
) -> None:
    path = card / "boxes_train.json"
    whole, pixels = path.read_bytes(), chunks(store)
    document = json.loads(whole)
    write_boxes(card, document["images"][1:], document["annotations"][1:])
    assert verified(store, card) == (4, {"boxes-differ"})
    summary = ingest(card, store, recipe=RECIPE)
    assert (summary.reannotated, summary.redone, summary.exit_code) == (1, 0, 0)
    assert [one.where for one in recorder.findings] == ["DSC_0001.NEF"]
    assert recorder.codes == {"annotation-gone"}
    assert contents(store)["DSC_0001.NEF"][1:] == ((), None)
    assert contents(store)["DSC_0002.NEF"][1:] == ((1.0,), "train")
    assert verified(store, card)[0] == 0
    path.write_bytes(whole)
    assert ingest(card, store, recipe=RECIPE).reannotated == 1
    assert contents(store)["DSC_0001.NEF"][1:] == ((1.0,), "train")
    assert chunks(store) == pixels


def test_boxes_whose_file_is_gone_stay_and_are_said_to(
    card: Path, store: Path, ingest: Ingest, recorder: Recorder
) -> None:
    (card / "boxes_train.json").unlink()
    before = tree(store)
    recorder.findings.clear()
    assert ingest(card, store, recipe=RECIPE).exit_code == 0
    assert tree(store) == before
    (finding,) = recorder.findings
    assert (finding.code, finding.where) == ("annotation-not-given", "boxes_train.json")
    assert verified(store, card) == (4, {"annotation-not-given"})


def test_a_damaged_sample_keeps_boxes_whose_file_is_not_given(
    card: Path, store: Path, ingest: Ingest
) -> None:
    (card / "boxes_train.json").unlink()
    before = tree(store)
    (victim,) = [name for name in chunks(store) if "packed/c.0." in name]
    (store / victim).unlink()
    assert ingest(card, store, recipe=RECIPE).redone == 1
    assert tree(store) == before


# What lies in a store's folder and is not ours ----------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "thesis.txt",
        ".work/thesis.tmp-final.txt",
        ".DS_Store",
        "Thumbs.db",
        "lost+found/x",
        "zarr.json",
    ],
)
def test_a_folder_with_anything_in_it_is_no_place_for_a_new_store(
    card: Path, tmp_path: Path, ingest: Ingest, name: str
) -> None:
    place = tmp_path / "place"
    (place / name).parent.mkdir(parents=True)
    (place / name).write_bytes(b"mine")
    with pytest.raises(NoStoreError, match="not empty") as caught:
        ingest(card, place, recipe=RECIPE)
    assert name.split("/")[0] in caught.value.message
    assert tree(place) == {name: b"mine"}


def test_an_empty_folder_and_what_a_killed_first_ingest_left_are(
    card: Path, tmp_path: Path, ingest: Ingest
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    for name in (".lock", ".lock-commits", ".lock-owner.json", "..lock-owner.json.tmp-7"):
        (place / name).write_bytes(b"")
    assert ingest(card, place, recipe=RECIPE).ingested == 2
    assert not (place / "..lock-owner.json.tmp-7").exists()


def test_what_people_keep_in_a_store_stays_and_is_no_interrupted_ingests(
    card: Path, store: Path, ingest: Ingest
) -> None:
    group = open_store(store).cameras[0]
    mine = (
        "notes/a.tmp-1.txt",
        ".work/thesis.tmp-final.txt",
        f"{group}/sidecars/notes.json",
        f"{group}/sidecars/my notes.json",
        f"{group}/sidecars/todo.json",
        f"{group}/sidecars/.notes.json.tmp-1~",
        f"{group}/masks/c.9.0.0.0",
        f"{group}/packed/.DS_Store",
        "other/packed/c.0.0.0.0",
        "other/sidecars/DSC_1.json",
        "My_1x1/packed/c.0.0.0.0",
    )
    for name in mine:
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_bytes(b"buy film" if "todo" in name else b'{"mine": 1}')
    recorder = Recorder()
    run_verify(LocalFiles(store), recorder, VerifyOptions())
    advised = {one.where: one.mend for one in recorder.findings}
    assert len(advised) == len(mine)
    assert all("move it elsewhere" in mend for mend in advised.values())
    assert ingest(card, store, recipe=RECIPE).up_to_date == 2
    assert {name for name in mine if (store / name).exists()} == set(mine)


# The decisions alone ------------------------------------------------------------------------------


def stored(name: str, row: int, content: str) -> SampleState:
    return SampleState(entry(name, row), digest=content)


def test_the_surest_match_is_made_first_whatever_the_order() -> None:
    """A copy that is listed first does not take the sample of a file that has not moved."""
    state = StoreState()
    for one in (stored("b.NEF", 0, "B"), stored("c.NEF", 1, "C")):
        state.add(one)
    sources = [raw("a.NEF"), raw("b.NEF"), raw("x/c.NEF"), raw("y/d.NEF")]
    said = {"a.NEF": "B", "b.NEF": "B", "x/c.NEF": "C", "y/d.NEF": "C"}
    found = match(sources, places_of(sources), said, state)
    assert [(one.how, one.sample and one.sample.entry.id) for one in found] == [
        ("copy", "b"),
        ("same-content", "b"),
        ("same-content", "c"),
        ("copy", "c"),
    ]


def test_members_of_one_name_have_places_of_their_own_and_signatures_of_urls_do_not() -> None:
    url = "https://host/raws/a.NEF"
    sources = [Source("1", f"{url}?signature=1", 1, None), Source("2", "/a/a.NEF", 1, 1)]
    again = [Source("3", f"{url}?signature=2", 1, None), Source("4", "/a/b/../a.NEF", 1, 1)]
    assert list(places_of(sources).values()) == list(places_of(again).values())
    twice = places_of([Source("5", "/a/a.NEF", 1, 1), Source("6", "/a/a.NEF", 1, 1)])
    assert len(set(twice.values())) == 2


@pytest.mark.parametrize("damage", [b"", b"{}", b"[]", b"null", b"\xff", b'{"samples": 1}'])
def test_a_damaged_note_of_places_is_none(store: Path, damage: bytes) -> None:
    files = LocalFiles(store)
    whole = (store / PLACES_NAME).read_bytes()
    assert len(read_places(files).samples) == 2
    for data in (damage, whole[:-9], whole.replace(b"DSC_0001", b"DSC_0002")):
        (store / PLACES_NAME).write_bytes(data)
        assert read_places(files) == Places()
