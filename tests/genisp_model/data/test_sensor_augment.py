"""Exposure and noise: what is drawn for a sample, and what it does to its pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genisp_model.data.augment import resize_images
from genisp_model.data.dataset import StoreDataset
from genisp_model.data.loader import Batch, StreamLoader
from genisp_model.data.sample_index import SensorFacts
from genisp_model.data.sensor_augment import (
    SensorAugment,
    SensorChange,
    measured_exposure,
    noise_levels,
)
from pipeline.errors import UsageError
from pipeline.ingest import IngestOptions, run_ingest
from schemas.recipe import Colour, Recipe
from tests.kit.recorder import Recorder

ALL = SensorAugment(exposure_stops=2, noise=0.003, matrix_jitter=0.5)
#: XYZ -> camera RGB, LibRaw's for a Nikon D750.
D750 = ((0.9020, -0.2890, -0.0715), (-0.4535, 1.2436, 0.2348), (-0.0934, 0.1919, 0.7086))
FORWARD = np.array(D750)


def facts(
    cells: tuple[int, int] = (60, 40), size: tuple[int, int] = (60, 40), floor: float = -0.05
) -> SensorFacts:
    return SensorFacts(D750, floor, cells, size)


def xyz_of(camera: npt.ArrayLike, height: int = 1, width: int = 1) -> torch.Tensor:
    """(3, height, width) of one camera RGB."""
    xyz = np.linalg.solve(FORWARD, np.array(camera, np.float64)).astype(np.float32)
    return torch.from_numpy(xyz)[:, None, None].repeat(1, height, width)


def camera_of(xyz: torch.Tensor) -> npt.NDArray[np.float64]:
    """(3, n)."""
    seen: npt.NDArray[np.float64] = FORWARD @ xyz.numpy().astype(np.float64).reshape(3, -1)
    return seen


@pytest.fixture(scope="session")
def dataset(_store: Path) -> StoreDataset:
    return StoreDataset(_store)


def by_id(batches: list[Batch]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    return {
        name: (batch.images[slot], batch.exposure[slot])
        for batch in batches
        for slot, name in enumerate(batch.ids)
    }


def assert_same(
    one: dict[str, tuple[torch.Tensor, torch.Tensor]],
    other: dict[str, tuple[torch.Tensor, torch.Tensor]],
) -> None:
    assert one.keys() == other.keys()
    for name, (image, exposure) in one.items():
        assert torch.equal(image, other[name][0])
        assert exposure == other[name][1]


def test_batches_threads_and_ranks_change_nothing(dataset: StoreDataset) -> None:
    def read(**options: Any) -> list[Batch]:
        return list(StreamLoader(dataset, sensor=ALL, flip=0.5, seed=4, **options))

    reference = by_id(read(batch_size=1))
    assert_same(reference, by_id(read(batch_size=3, threads=3)))
    parts = [batch for rank in (0, 1) for batch in read(batch_size=2, rank=rank, world=2)]
    assert_same(reference, by_id(parts))


def test_a_continued_pass_gives_the_rest_of_an_unbroken_one(dataset: StoreDataset) -> None:
    whole = StreamLoader(dataset, sensor=ALL, batch_size=1)
    batches = [*whole, *whole]
    first = StreamLoader(dataset, sensor=ALL, batch_size=1)
    list(first)
    next(iter(first))
    second = StreamLoader(dataset, sensor=ALL, batch_size=1)
    second.load_state_dict(first.state_dict())
    assert_same(by_id(batches[len(dataset) + 1 :]), by_id(list(second)))


def test_epochs_seeds_and_samples_differ(dataset: StoreDataset) -> None:
    drawn = [
        change
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
        for change in ALL.draw(range(100), np.full(100, 0.1), seed=seed, epoch=epoch)
    ]
    assert len({change.gain for change in drawn}) == 300
    assert len({change.noise_seed for change in drawn}) == 300
    loader = StreamLoader(dataset, sensor=ALL)
    one, other = by_id(list(loader)), by_id(list(loader))
    assert all(not torch.equal(one[name][0], other[name][0]) for name in one)


def test_without_strength_nothing_changes_to_the_bit(dataset: StoreDataset) -> None:
    assert not SensorAugment()
    for batch in StreamLoader(dataset, sensor=SensorAugment(0.0, 0.0), batch_size=2):
        for slot, name in enumerate(batch.ids):
            image, target = dataset[dataset.ids.index(name)]
            assert torch.equal(batch.images[slot], image)
            assert batch.exposure[slot] == target["exposure"]
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)) * 3 - 1
    before = image.clone()
    [change] = SensorAugment().draw([5], [0.1], seed=1, epoch=2)
    change.apply(image, facts())
    assert torch.equal(image, before)


def test_boxes_are_those_of_the_mirrored_picture(dataset: StoreDataset) -> None:
    plain = StreamLoader(dataset, flip=1.0, batch_size=2)
    changed = StreamLoader(dataset, flip=1.0, batch_size=2, sensor=SensorAugment(2.0))
    for one, other in zip(plain, changed, strict=True):
        for before, after in zip(one.targets, other.targets, strict=True):
            for name in ("boxes", "labels", "ignore", "area"):
                assert torch.equal(before[name], after[name])
        for slot, name in enumerate(one.ids):
            position = dataset.ids.index(name)
            exposures = [dataset.record(position).exposure]
            [change] = SensorAugment(2.0).draw([position], exposures, seed=0, epoch=0)
            if change.gain < 1:  # nothing is clipped: the mirrored picture, darker
                assert torch.equal(other.images[slot], one.images[slot] * change.gain)


@pytest.mark.parametrize("is_camera", [False, True])
def test_noise_has_the_mean_and_variance_of_the_formula(is_camera: bool) -> None:
    """Against numpy in float64, over 90,000 pixels: 1 % of a deviation, 3 % of a variance."""
    camera = np.array([0.02, 0.3, 0.1])
    if is_camera:
        image = torch.tensor(camera, dtype=torch.float32)[:, None, None].repeat(1, 300, 300)
    else:
        image = xyz_of(camera, 300, 300)
    change = SensorChange(gain=0.5, shot=0.01, read=2e-4, noise_seed=3)
    change.apply(image, facts((300, 300), (300, 300), floor=-1.0), is_camera=is_camera)
    seen = image.numpy().reshape(3, -1).astype(np.float64) if is_camera else camera_of(image)
    variance = (0.01 * 0.5 * camera + 2e-4) / np.array([1, 2, 1])  # green is the mean of two sites
    assert np.abs(seen.mean(1) - 0.5 * camera).max() < 0.01 * np.sqrt(variance.max())
    assert np.abs(seen.var(1) / variance - 1).max() < 0.03
    correlation = np.corrcoef(seen) - np.eye(3)
    assert np.abs(correlation).max() < 0.02  # channels of a sensor do not know each other
    for step in (1, 300):
        assert abs(np.corrcoef(seen[1][:-step], seen[1][step:])[0, 1]) < 0.02


@pytest.mark.parametrize("size", [(300, 200), (183, 122), (70, 180)])
def test_a_level_has_the_noise_of_the_cells_it_averages(size: tuple[int, int]) -> None:
    """Resized after the noise or before it: the same variance of pixels and of larger areas."""
    cells = 300, 200
    change = SensorChange(1.0, shot=0.01, read=2e-4, noise_seed=5)
    first, then = xyz_of([0.1, 0.3, 0.2], 200, 300), xyz_of([0.1, 0.3, 0.2], size[1], size[0])
    change.apply(first, facts(cells, cells, floor=-1.0))
    change.apply(then, facts(cells, size, floor=-1.0))
    wanted, seen = resize_images(first[None], size)[0], then
    for _ in range(2):
        assert seen.std(dim=(1, 2)).numpy() == pytest.approx(
            wanted.std(dim=(1, 2)).numpy(), rel=0.05
        )
        # Means of 4 x 4 pixels: what a detector sees of noise.
        wanted, seen = (torch.nn.functional.avg_pool2d(one[None], 4)[0] for one in (wanted, seen))


def test_below_black_there_is_read_noise_only() -> None:
    image = torch.full((3, 200, 200), -0.5)
    change = SensorChange(1.0, shot=0.5, read=1e-4, noise_seed=1)
    change.apply(image, facts(floor=-1.0), is_camera=True)
    assert image[0].var().item() == pytest.approx(1e-4, rel=0.05)
    assert image.mean().item() == pytest.approx(-0.5, abs=1e-3)


@settings(deadline=None)
@given(
    gain=st.floats(0.05, 16),
    camera=st.lists(st.floats(-0.125, 1.25, width=32), min_size=3, max_size=3),
)
def test_exposure_scales_and_keeps_to_the_sensors_limits(gain: float, camera: list[float]) -> None:
    values = np.array(camera)
    image = xyz_of(values)
    SensorChange(gain, 0.0, 0.0, 0).apply(image, facts(floor=-0.2))
    wanted = gain * values
    if gain > 1:  # what was above white before stays there
        wanted = np.maximum(np.minimum(wanted, np.maximum(values, 1)), -0.2)
    assert np.abs(camera_of(image)[:, 0] - wanted).max() < 2e-5 * max(1, gain)


@pytest.mark.parametrize("gain", [0.5, 1.0, 4.0])
def test_noise_is_clipped_as_the_sensor_clips_it(gain: float) -> None:
    camera = torch.rand((3, 50, 60), generator=torch.Generator().manual_seed(1)) * 1.4 - 0.05
    image = camera.clone()
    change = SensorChange(gain, shot=0.1, read=0.02, noise_seed=2)
    change.apply(image, facts(floor=-0.05), is_camera=True)
    assert image.min() == pytest.approx(-0.05)
    assert (image <= camera.clamp(min=1)).all()
    if gain == 4:  # far above white nothing is left of the noise
        bright = camera > 1.3 / gain * 2
        assert (image[bright] == camera[bright].clamp(min=1)).float().mean() > 0.9


def test_torchs_threads_change_nothing() -> None:
    change = SensorChange(1.7, shot=0.01, read=0.001, noise_seed=7)
    seen = []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        image = torch.rand((3, 301, 407), generator=torch.Generator().manual_seed(0))
        change.apply(image, facts((900, 602), (407, 301)))
        seen.append(image)
    torch.set_num_threads(before)
    assert all(torch.equal(seen[0], one) for one in seen[1:])


def test_a_picture_is_brightened_up_to_white_and_no_further() -> None:
    exposures = np.repeat([0.01, 0.4, 1.2, 0.0, -0.1], 200)
    changes = SensorAugment(3.0).draw(range(1000), exposures, seed=0, epoch=0)
    stops = np.log2([change.gain for change in changes]).reshape(5, 200)
    for row in stops:
        assert -3 <= row.min() < -2.8
    assert 2.8 < stops[0].max() <= 3
    assert stops[1].max() == pytest.approx(np.log2(1 / np.float64(0.4)))
    assert stops[2].max() == 0
    assert abs(stops[0].mean()) < 0.3
    assert all((change.shot, change.read) == (0, 0) for change in changes)


@settings(deadline=None)
@given(largest=st.floats(1e-6, 1), shot=st.floats(0, 1), read=st.floats(0.001, 0.999))
def test_noise_levels_lie_in_the_published_range(largest: float, shot: float, read: float) -> None:
    found, floor = noise_levels(largest, shot, read)
    assert largest / 120 * 0.999999 <= found <= largest * 1.000001
    assert abs(np.log(floor) - (2.18 * np.log(found) + 1.20)) <= 0.26 * 3.1
    assert noise_levels(0.0, shot, read) == (0.0, 0.0)


def test_a_stored_picture_has_the_exposure_its_sidecar_says(dataset: StoreDataset) -> None:
    for position in range(len(dataset)):
        image, target = dataset[position]
        step = float(dataset.index.scale_factor[position])
        assert abs(measured_exposure(image) - target["exposure"]) < step


def test_the_exposure_of_a_batch_is_that_of_its_pictures(dataset: StoreDataset) -> None:
    for batch in StreamLoader(dataset, sensor=ALL, fit=None, batch_size=2):
        for image, exposure, target in zip(
            batch.images, batch.exposure, batch.targets, strict=True
        ):
            values = np.sort(image[1].numpy().ravel())
            assert exposure == values[int(np.ceil(len(values) * 99 / 100)) - 1]
            assert target["exposure"] == exposure


@pytest.mark.parametrize(("colour", "is_taken"), [("camera", True), ("xyz-balanced", False)])
def test_other_colours(
    nod: Path, tmp_path: Path, recorder: Recorder, colour: Colour, is_taken: bool
) -> None:
    store = tmp_path / "other.zarr"
    run_ingest([str(nod)], str(store), Recipe(colour=colour), IngestOptions(), recorder)
    dataset = StoreDataset(store)
    if not is_taken:
        with pytest.raises(UsageError, match="clipped"):
            StreamLoader(dataset, sensor=ALL)
        assert len(list(StreamLoader(dataset, sensor=SensorAugment()))) > 0
        return
    with pytest.raises(UsageError, match="turn XYZ"):
        StreamLoader(dataset, sensor=ALL)
    changed = by_id(list(StreamLoader(dataset, sensor=SensorAugment(noise=0.01), batch_size=1)))
    for position, name in enumerate(dataset.ids):
        noise = (changed[name][0] - dataset[position][0]).numpy().reshape(3, -1)
        assert np.abs(np.corrcoef(noise) - np.eye(3)).max() < 0.02  # no matrix mixes them
