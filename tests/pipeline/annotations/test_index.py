from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from pycocotools.coco import COCO

from pipeline.annotations.coco_file import load_coco, looks_like_coco
from pipeline.annotations.file_findings import MAX_NAMED
from pipeline.annotations.index import MAX_NAMESAKES, AnnotationIndex, build_index
from pipeline.annotations.reader import LoadedFile
from pipeline.errors import AnnotationError
from pipeline.verify.split_leakage import neighbour_leakage
from schemas.coco import FLAG_NAMES
from schemas.finding import Severity
from tests.kit.places import SHARED

CATEGORIES = [{"id": i, "name": n} for i, n in enumerate(("person", "bicycle", "car"), start=1)]
BOX = (1.0, 2.0, 30.0, 4.0)


def coco(
    name: str,
    file_names: Sequence[str],
    *,
    bboxes: Sequence[Sequence[float]] = (BOX,),
    size: tuple[int, int] = (100, 60),
    split: str | None = None,
    **extra: object,
) -> LoadedFile:
    """A file whose every image has the same boxes; annotation ids restart at 0."""
    images = [
        {"id": number, "file_name": file_name, "width": size[0], "height": size[1]}
        for number, file_name in enumerate(file_names)
    ]
    annotations = [
        {"id": position, "image_id": number, "category_id": 1, "bbox": list(bbox), **extra}
        for position, (number, bbox) in enumerate(
            (number, bbox) for number in range(len(images)) for bbox in bboxes
        )
    ]
    document = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    return load_coco(json.dumps(document).encode(), name=name, split=split)


def codes(index: AnnotationIndex) -> list[str]:
    return [finding.code for finding in index.findings]


def test_a_raw_is_found_by_name_whatever_its_folder_or_case() -> None:
    index = build_index([coco("train.json", ["../x/DSC_0001.NEF", "DSC_0002.NEF"])])
    for name in ("DSC_0001.NEF", "dsc_0001.nef", "/raws/a/DSC_0001.NEF", "C:\\raws\\DSC_0001.NEF"):
        (record,) = index.lookup(name)
        assert record.file_name == "DSC_0001.NEF"
    assert index.lookup("DSC_0003.NEF") == ()
    assert index.lookup("") == ()


def test_a_raw_is_found_by_stem_when_the_annotation_names_the_jpeg() -> None:
    index = build_index([coco("train.json", ["DSC_0001.JPG", "plain"])])
    assert len(index.lookup("DSC_0001.NEF")) == 1
    assert len(index.lookup("plain.ARW")) == 1


def test_two_cameras_with_one_name_are_told_apart_by_size() -> None:
    nikon = coco("nikon_train.json", ["A.NEF"], size=(3936, 2624))
    other = coco("other_train.json", ["A.NEF"], size=(6016, 4016), bboxes=[(5, 5, 5, 5)])
    index = build_index([nikon, other])
    assert {(r.width, r.height) for r in index.lookup("a.nef")} == {(3936, 2624), (6016, 4016)}
    assert index.findings == ()
    assert len(index) == 2


def test_two_raw_formats_with_one_stem_are_two_images() -> None:
    index = build_index(
        [coco("nikon_train.json", ["A.NEF"]), coco("sony_val.json", ["A.ARW"], bboxes=[])]
    )
    assert [r.file for r in index.lookup("A.NEF")] == ["nikon_train.json"]
    assert [r.file for r in index.lookup("A.ARW")] == ["sony_val.json"]
    with pytest.raises(AnnotationError, match=r"A.ARW in sony_val.json, A.NEF in nikon_train.json"):
        index.lookup("A.DNG")


def test_a_name_with_a_space_behind_it_is_the_same_name() -> None:
    index = build_index(
        [coco("a_train.json", ["A.ARW"]), coco("b_train.json", ["A.ARW "], bboxes=[(5, 5, 9, 9)])]
    )
    with pytest.raises(AnnotationError, match="disagree on its boxes"):
        index.lookup("A.ARW")


def test_one_name_for_very_many_images_is_refused_at_once() -> None:
    files = [
        coco(f"{n}.json", ["A.ARW"], size=(100 + n, 60), bboxes=[(n, 0, 5, 5)]) for n in range(60)
    ]
    index = build_index(files)
    with pytest.raises(AnnotationError, match=f"more than {MAX_NAMESAKES} different images"):
        index.lookup("A.ARW")
    assert codes(index).count("contradiction") == 1


def test_of_very_many_contradictions_the_first_are_named() -> None:
    names = [f"{n}.ARW" for n in range(MAX_NAMED + 5)]
    index = build_index([coco("a.json", names), coco("b.json", names, bboxes=[])])
    contradictions = [f for f in index.findings if f.code == "contradiction"]
    assert len(contradictions) == MAX_NAMED + 1
    assert contradictions[-1].message == "and 5 more images on which files disagree"


def test_twins_merge_with_one_finding_for_the_pair() -> None:
    names = [f"A{number}" for number in range(5)]
    raw = coco("raw_train.json", [f"{name}.NEF" for name in names])
    rawpy = coco("rawpy_train.json", [f"{name}.JPG" for name in names])
    index = build_index([rawpy, raw])
    assert len(index) == 5
    (finding,) = index.findings
    assert (finding.code, finding.severity) == ("merged-twin", Severity.INFO)
    assert finding.where == "rawpy_train.json"
    assert "5 images are the same in raw_train.json" in finding.message
    assert index.lookup("A0.NEF") == index.lookup("A0.JPG")
    assert index.lookup("A0.NEF")[0].file == "raw_train.json"


def test_of_twins_the_one_that_knows_more_counts() -> None:
    combined = coco("combined.json", ["A.NEF"])
    split = coco("rawpy_test.json", ["A.JPG"])
    flagged = coco("raw_labeled_test.json", ["A.NEF"], isextreme=True)
    for files in permutations([combined, split, flagged]):
        (record,) = build_index(files).lookup("A.NEF")
        assert record.file == "raw_labeled_test.json"
        assert record.split == "test"
        assert record.boxes[0].flags == {"isextreme": True}


def test_boxes_in_another_order_and_boxes_of_nan_are_still_the_same() -> None:
    boxes = [BOX, (5.0, float("nan"), 5.0, 5.0)]
    index = build_index(
        [
            coco("a_val.json", ["A.NEF"], bboxes=boxes),
            coco("b_val.json", ["A.NEF"], bboxes=boxes[::-1]),
        ]
    )
    assert codes(index) == ["merged-twin"]


@pytest.mark.parametrize(
    ("changes", "aspect"),
    [
        ({"bboxes": [(1, 2, 3, 4)]}, "boxes"),
        ({"bboxes": []}, "boxes"),
        ({"split": "val"}, "split"),
        ({"size": (200, 60)}, "size"),
        ({"split": "val", "bboxes": []}, "boxes and split"),
    ],
)
@pytest.mark.parametrize("twin_name", ["A.NEF", "a.jpg"])
def test_a_contradiction_names_both_files_and_is_never_resolved(
    changes: dict[str, Any], aspect: str, twin_name: str
) -> None:
    files = [
        coco("one_train.json", ["A.NEF", "B.NEF"]),
        coco("two_train.json", [twin_name], **changes),
    ]
    index = build_index(files)
    assert codes(index) == ["contradiction"]
    for name in ("A.NEF", "A.JPG"):
        with pytest.raises(AnnotationError) as caught:
            index.lookup(name)
        for part in ("one_train.json", "two_train.json", f"disagree on its {aspect}"):
            assert part in caught.value.message
        assert caught.value.mend
    assert len(index.lookup("B.NEF")) == 1


def test_a_jpeg_twin_joins_the_raw_it_agrees_with() -> None:
    files = [
        coco("a_train.json", ["A.ARW"], bboxes=[(5, 5, 5, 5)]),
        coco("b_train.json", ["A.NEF"]),
        coco("c_train.json", ["A.JPG"]),
    ]
    index = build_index(files)
    assert codes(index) == ["merged-twin"]
    assert [r.file for r in index.lookup("A.JPG")] == ["b_train.json"]


def test_an_image_listed_twice_in_one_file_is_one() -> None:
    index = build_index([coco("train.json", ["a/A.NEF", "b/A.NEF"])], {"A.NEF": "/raws/A.NEF"})
    assert codes(index) == ["listed-twice"]
    assert len(index) == 1


def test_the_order_of_files_does_not_matter() -> None:
    files = [
        coco("c_train.json", ["A.NEF", "B.NEF"]),
        coco("a_train.json", ["B.JPG", "C.NEF"]),
        coco("b_val.json", ["C.NEF", "D.NEF"]),
    ]
    results = {
        repr((index.images, index.findings)) for index in map(build_index, permutations(files))
    }
    assert len(results) == 1


def test_an_unusable_record_is_not_an_image_without_objects() -> None:
    document = {"images": [{"id": 1, "file_name": "A.NEF", "width": 0, "height": 4}]}
    broken = load_coco(json.dumps({**document, "annotations": []}).encode(), name="one_train.json")
    for name in ("A.NEF", "A.ARW"):
        with pytest.raises(AnnotationError, match="width"):
            build_index([broken]).lookup(name)
    mended = build_index([broken, coco("two_train.json", ["A.NEF"])])
    assert [record.file for record in mended.lookup("A.NEF")] == ["two_train.json"]


def test_annotations_whose_raws_never_came_are_listed() -> None:
    index = build_index([coco("train.json", ["A.JPG", "B.NEF", "C.NEF"])])
    assert [r.file_name for r in index.unmatched(["x/a.nef", "C.NEF", "other.txt"])] == ["B.NEF"]
    assert len(index.unmatched([])) == 3


def placed(*names: str, folder: str = "/card") -> dict[str, str]:
    return {name: f"{folder}/{name}" for name in names}


def test_a_counter_that_rolled_over_gives_each_raw_the_boxes_of_its_folder() -> None:
    raws = placed("101ND750/D.NEF", "102ND750/D.NEF")
    first = coco("train.json", ["101ND750/D.NEF"])
    second = coco("more_train.json", ["images/102ND750/D.JPG"], bboxes=[(5, 5, 9, 9)])
    index = build_index([first, second], raws)
    assert index.findings == ()
    assert [box.bbox for box in index.lookup("101ND750/D.NEF")[0].boxes] == [BOX]
    assert [box.bbox for box in index.lookup("102ND750/D.NEF")[0].boxes] == [(5, 5, 9, 9)]
    assert (index.unmatched(raws), index.shared(raws)) == ((), ())


def test_one_annotation_file_a_folder_is_that_of_its_raws() -> None:
    raws = placed("s1/D.NEF", "s2/D.NEF", "s3/D.NEF")
    files = [
        replace(coco(f"{s}/labels.json", ["D.NEF"], bboxes=[(n, 2, 30, 4)]), place=f"/card/{s}/l")
        for n, s in enumerate(("s1", "s2"))
    ]
    index = build_index(files, raws)
    assert index.lookup("s1/D.NEF")[0].boxes[0].bbox[0] == 0
    assert index.lookup("s2/D.NEF")[0].boxes[0].bbox[0] == 1
    assert index.lookup("s3/D.NEF") == ()


def test_a_bare_name_of_raws_in_two_folders_is_refused_for_both_by_their_names() -> None:
    raws = placed("a/D.NEF", "b/D.NEF", "E.NEF")
    index = build_index([coco("train.json", ["D.NEF", "E.NEF"])], raws)
    for name, other in (("a/D.NEF", "b/D.NEF"), ("b/D.NEF", "a/D.NEF")):
        with pytest.raises(AnnotationError, match="cannot be told") as caught:
            index.lookup(name)
        assert other in caught.value.message
        assert "folder" in caught.value.mend
    assert len(index.lookup("E.NEF")) == 1
    assert index.unmatched(raws) == ()


def test_a_raw_and_its_conversion_side_by_side_share_a_record_of_their_picture() -> None:
    index = build_index([coco("train.json", ["A.JPG"])], placed("A.NEF", "A.DNG"))
    assert index.lookup("A.NEF") == index.lookup("A.DNG") != ()
    assert index.shared(["A.NEF", "A.DNG"]) == (("A.NEF", "A.DNG"),)


def test_a_record_goes_to_the_raw_of_its_name_alone() -> None:
    raws = placed("A.NEF", "A.ARW", "scene.NEF", "scene.001.NEF")
    index = build_index([coco("train.json", ["A.NEF", "scene.001"])], raws)
    assert {name for name in raws if index.lookup(name)} == {"A.NEF", "scene.001.NEF"}


def test_a_refused_record_costs_the_raw_of_its_folder_only() -> None:
    document = {
        "images": [
            {"id": 1, "file_name": "101/D.NEF", "width": 100, "height": 60},
            {"id": 2, "file_name": "102/D.NEF", "width": 0, "height": 60},
        ],
        "annotations": [],
    }
    file = load_coco(json.dumps(document).encode(), name="train.json")
    index = build_index([file], placed("101/D.NEF", "102/D.NEF"))
    assert len(index.lookup("101/D.NEF")) == 1
    with pytest.raises(AnnotationError, match="width"):
        index.lookup("102/D.NEF")


def test_a_contradiction_within_one_file_names_it_once() -> None:
    document = {
        "images": [{"id": n, "file_name": "D.NEF", "width": 9, "height": 9} for n in (1, 2)],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}],
    }
    file = load_coco(json.dumps(document).encode(), name="train.json")
    with pytest.raises(AnnotationError) as caught:
        build_index([file]).lookup("D.NEF")
    assert caught.value.message.count("train.json") == 1
    assert caught.value.mend.count("train.json") == 1


def test_folders_of_raws_name_the_split_where_the_file_does_not() -> None:
    raws = placed("train/A.NEF", "valid/B.NEF", "C.NEF")
    index = build_index([coco("all.json", ["A.NEF", "B.NEF", "C.NEF"])], raws)
    splits = [index.lookup(name)[0].split for name in raws]
    assert splits == ["train", "val", None]
    (line,) = [finding for finding in index.findings if finding.code == "folder-split"]
    assert "1 train, 1 val" in line.message
    named = build_index([coco("all_test.json", ["A.NEF"])], raws)
    assert named.lookup("train/A.NEF")[0].split == "test"


def test_many_folders_of_one_name_are_joined_in_time_that_grows_with_their_number() -> None:
    names = [f"scene{number:04d}/0001.NEF" for number in range(2000)]
    start = time.process_time()
    index = build_index([coco("train.json", names, bboxes=[])], placed(*names))
    assert time.process_time() - start < 5
    assert len(index) == 2000
    assert index.findings == ()


def test_an_empty_index_answers() -> None:
    index = build_index([])
    assert (len(index), index.images, index.lookup("A")) == (0, (), ())


# --- The real files ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nod_folder() -> Path:
    folder = SHARED / "nod-annotations"
    if len(list(folder.glob("*.json"))) != 6:
        pytest.skip(f"the six RAW-NOD annotation files are not in {folder}")
    return folder


@pytest.fixture(scope="module")
def nod(nod_folder: Path) -> dict[str, LoadedFile]:
    return {
        path.name: load_coco(path.read_bytes(), name=path.name)
        for path in sorted(nod_folder.glob("*.json"))
    }


def box_finding_counts(file: LoadedFile) -> Counter[str]:
    return Counter(f.code for image in file.images for box in image.boxes for f in box.findings)


@pytest.mark.shared_data
def test_nothing_of_raw_nod_is_lost(nod: dict[str, LoadedFile]) -> None:
    index = build_index(list(nod.values()))
    assert index.findings == ()
    assert len(index) == 7219
    assert sum(len(image.boxes) for image in index.images) == 46751
    images = Counter(image.split for image in index.images)
    boxes = Counter(image.split for image in index.images for _ in image.boxes)
    assert {split: (count, boxes[split]) for split, count in images.items()} == {
        "train": (3206 + 2571, 22474 + 14982),
        "val": (400 + 321, 2720 + 1896),
        "test": (400 + 321, 2852 + 1827),
    }
    of_test = [box for image in index.images if image.split == "test" for box in image.boxes]
    assert Counter(box.category for box in of_test) == {"person": 3199, "bicycle": 964, "car": 516}
    untrainable = [
        image.split for image in index.images for box in image.boxes if not box.trainable
    ]
    assert untrainable == ["test"]
    for image in index.images:
        assert index.lookup(image.file_name) == (image,)
    assert index.unmatched(image.file_name for image in index.images) == ()


@pytest.mark.shared_data
def test_the_known_anomalies_of_raw_nod_are_found_and_no_others(
    nod: dict[str, LoadedFile],
) -> None:
    assert {name: dict(box_finding_counts(file)) for name, file in nod.items()} == {
        "raw_new_Nikon750_train.json": {"near-duplicate": 20, "extreme-aspect": 9, "tiny": 1},
        "raw_new_Nikon750_val.json": {"near-duplicate": 1},
        "raw_new_Nikon750_test.json": {
            "near-duplicate": 1,
            "extreme-aspect": 2,
            "zero-area": 1,
            "huge": 1,
        },
        "raw_new_Sony_RX100m7_train.json": {"near-duplicate": 5, "extreme-aspect": 3},
        "raw_new_Sony_RX100m7_val.json": {"near-duplicate": 2},
        "raw_str_labeled_new_Sony_RX100m7_test.json": {"near-duplicate": 1},
    }
    (image,) = build_index(list(nod.values())).lookup("DSC_0674.NEF")
    (flat,) = [box for box in image.boxes if not box.trainable]
    assert (flat.annotation_id, flat.bbox) == (53, (1764, 872, 2, 0))


@pytest.mark.shared_data
def test_the_sony_test_file_keeps_its_flags(nod: dict[str, LoadedFile]) -> None:
    flags: Counter[str] = Counter()
    for image in nod["raw_str_labeled_new_Sony_RX100m7_test.json"].images:
        for box in image.boxes:
            assert tuple(box.flags) == FLAG_NAMES
            flags.update(name for name, value in box.flags.items() if value)
    expected = (63, 251, 62, 188, 815, 153, 48, 14, 1827)
    assert flags == dict(zip(FLAG_NAMES, expected, strict=True))


@pytest.mark.shared_data
def test_boxes_of_raw_nod_are_those_pycocotools_reads(
    nod: dict[str, LoadedFile], nod_folder: Path
) -> None:
    for name, file in nod.items():
        oracle = COCO()
        oracle.dataset = json.loads((nod_folder / name).read_bytes())
        oracle.createIndex()
        assert len(file.images) == len(oracle.imgs)
        for image in file.images:
            record = oracle.imgs[image.image_id]
            assert (image.width, image.height) == (record["width"], record["height"])
            # Not getAnnIds: it takes a string identifier for a list of characters.
            expected = oracle.imgToAnns[image.image_id]
            assert [
                (box.annotation_id, box.category_id, list(box.bbox)) for box in image.boxes
            ] == [(a["id"], a["category_id"], a["bbox"]) for a in expected]


@pytest.mark.shared_data
def test_held_out_raw_nod_frames_have_training_neighbours(nod: dict[str, LoadedFile]) -> None:
    images = build_index(list(nod.values())).images
    splits = {(f"{i.width}x{i.height}", Path(i.file_name).stem): i.split for i in images}
    by_camera = {
        camera: neighbour_leakage({key: s for key, s in splits.items() if key[0] == camera})
        for camera in ("3936x2624", "5472x3648")
    }
    assert [(c.leaking, c.total) for c in by_camera.values()] == [(723, 800), (590, 642)]
    together = neighbour_leakage(splits)
    assert (together.leaking, together.total) == (1313, 1442)


@pytest.mark.shared_data
def test_a_jpeg_twin_of_a_real_file_merges_whole(
    nod: dict[str, LoadedFile], nod_folder: Path
) -> None:
    name = "raw_new_Sony_RX100m7_val.json"
    data = (nod_folder / name).read_bytes().replace(b".ARW", b".JPG")
    twin = load_coco(data, name=name.replace("raw_", "rawpy_", 1))
    index = build_index([nod[name], twin])
    assert (len(index), codes(index)) == (321, ["merged-twin"])
    assert index.images == tuple(nod[name].images)


@pytest.mark.shared_data
def test_the_six_files_load_in_seconds(nod_folder: Path) -> None:
    start = time.process_time()
    for path in nod_folder.glob("*.json"):
        data = path.read_bytes()
        assert looks_like_coco(data)
        load_coco(data, name=path.name)
    # About 1 s alone; the bound leaves room for a busy machine and still catches a slip to n².
    assert time.process_time() - start < 6


def numbered(file: str, name: str, category: int | str, called: str) -> LoadedFile:
    image = {"id": 1, "file_name": f"{name}.NEF", "width": 100, "height": 60}
    box = {"id": 1, "image_id": 1, "category_id": category, "bbox": [1, 2, 30, 4]}
    categories = [{"id": category, "name": called}]
    document = {"images": [image], "annotations": [box], "categories": categories}
    return load_coco(json.dumps(document).encode(), name=f"{file}_train.json")


def test_files_that_number_a_class_differently_are_reported_and_agree_by_name() -> None:
    drawn = [("A", 3, "car"), ("B", 7, "Car "), ("C", 3, "person")]
    index = build_index([numbered(name, name, number, called) for name, number, called in drawn])
    assert [finding.code for finding in index.findings] == ["category-numbers"] * 2
    other_number, other_name = (finding.message for finding in index.findings)
    assert "'car' is 7 here and 3 in A_train.json" in other_number
    assert "3 is 'person' here and 'car' in A_train.json" in other_name
    assert index.categories == {"car", "person"}
    ids = [image.boxes[0].category_id for image in index.images]
    assert ids == [3, 7, 3]  # as annotated


def test_twins_that_number_a_class_differently_are_one_image() -> None:
    index = build_index([numbered("x", "A", 3, "car"), numbered("y", "A", "c", "CAR")])
    assert len(index) == 1
    assert "contradiction" not in [finding.code for finding in index.findings]
