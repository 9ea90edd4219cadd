from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from cli import genisp
from genisp_model.data.dataset import StoreDataset
from genisp_model.data.loader import StreamLoader
from genisp_model.detector.frozen import FrozenDetector
from genisp_model.evaluation.comparison import CAMERA, CLASSICAL, compare, conditions, renderings
from genisp_model.evaluation.scores import Evaluation, paired_gain, restricted
from genisp_model.renderings import render_classical
from pipeline.console.results import scores_text
from pipeline.store import open_store
from schemas.info import RenderingScore
from schemas.sidecar import Sidecar

CPU = torch.device("cpu")
FIXED = ["naive XYZ", "gray-world + gamma", CLASSICAL]

Image = npt.NDArray[np.float32]


class Brightness(FrozenDetector):
    """Its loss is how bright a picture is; it finds the truth, more surely the brighter it is."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self._truth: Mapping[str, Any] = {}

    def losses(
        self, images: Tensor | Sequence[Tensor], targets: Sequence[Mapping[str, Any]]
    ) -> dict[str, Tensor]:
        (self._truth,) = targets
        return {"brightness": images[0].mean()}

    def predict(self, images: Tensor | Sequence[Tensor]) -> list[dict[str, Tensor]]:
        count = len(self._truth["labels"])
        return [
            {
                "boxes": self._truth["boxes"],
                "labels": self._truth["labels"],
                "scores": torch.full((count,), float(images[0].mean().clamp(0.01, 1))),
            }
        ]


@pytest.fixture
def dataset(tiny_store: Path) -> StoreDataset:
    return StoreDataset(tiny_store)


def sidecars_of(store: Path) -> dict[str, Sidecar]:
    opened = open_store(store)
    return {name: opened.sidecar(name) for name in opened.ids()}


def with_facts(sidecar: Sidecar, iso: int | None, *flags: dict[str, bool]) -> Sidecar:
    """The sidecar with these flags on its first boxes, none on the others, and an ISO."""
    assert sidecar.annotation is not None
    boxes = tuple(
        replace(box, flags=flags[number] if number < len(flags) else {})
        for number, box in enumerate(sidecar.annotation.boxes)
    )
    return sidecar.model_copy(
        update={
            "capture": sidecar.capture.model_copy(update={"iso": iso}),
            "annotation": sidecar.annotation.model_copy(update={"boxes": boxes}),
        }
    )


def test_rows_come_plainest_first_with_gains_paired_against_classical(
    dataset: StoreDataset,
) -> None:
    asked: list[str] = []

    def pictures(name: str) -> Image:
        asked.append(name)
        position = dataset.ids.index(name)
        image, _ = dataset[position]
        exposure = torch.tensor(dataset.exposure[[position]])
        return (render_classical(image[None], exposure)[0] * 0.5).numpy()

    rows = list(compare(dataset, Brightness(), None, CPU, pictures=pictures))
    assert [score.rendering for score, _ in rows] == [*FIXED, CAMERA]
    assert sorted(asked) == sorted(dataset.ids)
    results = {score.rendering: result for score, result in rows}
    for score, result in rows:
        gains = [results[CLASSICAL].losses[name] - result.losses[name] for name in dataset.ids]
        assert score.condition == ""
        assert score.images == len(dataset)
        assert score.gain == pytest.approx(np.mean(gains), abs=1e-7)
        error = np.std(gains, ddof=1) / np.sqrt(len(gains))
        assert score.gain_error == pytest.approx(error, abs=1e-7)
    by_name = {score.rendering: score for score, _ in rows}
    assert by_name[CLASSICAL].gain == 0
    # Half as bright: the gain is half of what the classical rendering loses.
    assert by_name[CAMERA].gain == pytest.approx(by_name[CLASSICAL].loss / 2, rel=1e-5)
    assert by_name["naive XYZ"].gain > 0


def test_pictures_are_made_a_batch_at_a_time(dataset: StoreDataset) -> None:
    made: list[str] = []

    def pictures(name: str) -> Image:
        made.append(name)
        return np.zeros(dataset.index.shape(dataset.ids.index(name)), np.float32)

    render = renderings(None, CPU, pictures)[CAMERA]
    seen: list[str] = []
    for batch in StreamLoader(dataset, batch_size=2, shuffle=False):
        assert render(batch).shape == batch.images.shape
        seen += batch.ids
        assert made == seen


def test_without_pictures_there_is_no_camera_row() -> None:
    assert list(renderings(None, CPU)) == FIXED


def test_conditions_partition_the_images_that_state_them(tiny_store: Path) -> None:
    whole = {
        name: sidecar
        for name, sidecar in sidecars_of(tiny_store).items()
        if sidecar.annotation and len(sidecar.annotation.boxes) > 1
    }
    one, two, three, four, five = list(whole)[:5]
    yes, no = {"isextreme": True, "islabeled": True}, {"isextreme": False, "islabeled": True}
    found = conditions(
        {
            one: with_facts(whole[one], 400, yes),
            two: with_facts(whole[two], 401, no, no),
            three: with_facts(whole[three], 1600, {}, {"isnoisy": True}),
            four: with_facts(whole[four], 1601, no, yes),
            five: with_facts(whole[five], None).model_copy(update={"annotation": None}),
        }
    )
    # What is said of one image only, or the same of every image, divides nothing.
    assert found == {
        "isextreme": (one, four),
        "not isextreme": (two,),
        "ISO <=400": (one,),
        "ISO 401-1600": (two, three),
        "ISO >1600": (four,),
    }


def test_what_divides_nothing_is_no_condition(tiny_store: Path) -> None:
    same = {name: with_facts(one, 100) for name, one in sidecars_of(tiny_store).items()}
    assert conditions(same) == {}


def test_scores_of_a_condition_are_those_of_its_images_alone(tiny_store: Path) -> None:
    dataset = StoreDataset(tiny_store)
    rows = list(compare(dataset, Brightness(), None, CPU, by_condition=True))
    parts = conditions(sidecars_of(tiny_store))
    assert parts
    expected = [(name, "") for name in FIXED]
    expected += [(name, condition) for condition in parts for name in FIXED]
    assert [(score.rendering, score.condition) for score, _ in rows] == expected
    whole = {score.rendering: result for score, result in rows if not score.condition}
    for score, result in rows[len(FIXED) :]:
        ids = parts[score.condition]
        assert tuple(result.losses) == ids
        assert score.images == len(ids)
        assert score.loss == pytest.approx(np.mean([whole[score.rendering].losses[n] for n in ids]))
        reference = restricted(whole[CLASSICAL], ids)
        assert score.gain == pytest.approx(paired_gain(reference, result).mean)


def test_conditions_are_a_second_table(tiny_store: Path) -> None:
    rows = compare(StoreDataset(tiny_store), Brightness(), None, CPU, by_condition=True)
    scores = [score for score, _ in rows]
    overall, *paragraphs = scores_text(scores).split("\n\n")
    assert overall == scores_text([score for score in scores if not score.condition])
    assert [text.partition(":")[0] for text in paragraphs] == list(
        conditions(sidecars_of(tiny_store))
    )
    for text in paragraphs:
        assert [line[:20].strip() for line in text.splitlines()[1:]] == FIXED


def test_restricting_to_every_image_changes_nothing(dataset: StoreDataset) -> None:
    rows = list(compare(dataset, Brightness(), None, CPU))
    whole: Evaluation = rows[-1][1]
    again = restricted(whole, tuple(whole.losses))
    assert (again.ap, again.ap50_by_class, again.losses) == (
        *(whole.ap, whole.ap50_by_class),
        whole.losses,
    )
    assert whole.ap == pytest.approx(1)
    assert set(whole.ap50_by_class) == {"person", "bicycle", "car"}


def scored(store: Path, *more: object) -> list[RenderingScore]:
    arguments = ["evaluate", "--store", store, "--split", "val", "--json", "--device", "cpu"]
    arguments += ["--detector", "sample_retinanet", "--detector-weights", "none", *more]
    result = CliRunner().invoke(genisp, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return [RenderingScore.model_validate_json(line) for line in result.stdout.splitlines()]


def test_the_command_scores_the_cameras_picture_only_when_given_sources(tiny_store: Path) -> None:
    plain = scored(tiny_store)
    assert [score.rendering for score in plain] == FIXED
    rows = scored(tiny_store, "--sources", tiny_store.parent / "nod")
    assert [score.rendering for score in rows] == [*FIXED, CAMERA]
    assert {"ap_by_class", "ap50_by_class", "condition"} <= set(
        json.loads(rows[0].model_dump_json())
    )


def test_the_command_names_a_sample_without_raw(tiny_store: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    arguments = ["evaluate", "--store", str(tiny_store), "--sources", str(tmp_path / "empty")]
    result = CliRunner().invoke(genisp, arguments)
    assert result.exit_code == 2
    assert "have no raw in --sources" in result.output
