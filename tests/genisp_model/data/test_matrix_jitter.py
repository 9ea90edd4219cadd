"""Matrix jitter: white stays, 0 is nothing, and 1 is how far cameras' matrices differ."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genisp_model.data.matrix_jitter import COVARIANCE, OFF_DIAGONAL, WHITE, drawn_turns, turns
from genisp_model.data.sample_index import SensorFacts
from genisp_model.data.sensor_augment import SensorAugment, SensorChange
from pipeline.develop.colour import D65_WHITE
from pipeline.raw.decoders.libraw import supported_models, table_matrix

FloatArray = npt.NDArray[np.float64]
D750 = ((0.9020, -0.2890, -0.0715), (-0.4535, 1.2436, 0.2348), (-0.0934, 0.1919, 0.7086))
FACTS = SensorFacts(D750, -0.05, (60, 40), (60, 40))


def logarithms(matrices: FloatArray) -> FloatArray:
    """(n, 3, 3) -> (n, 6), in units of white; by eigenvectors. NaN where there is none."""
    values, vectors = np.linalg.eig(matrices * WHITE / WHITE[:, None])
    values = values.astype(complex)
    values[((abs(values.imag) < 1e-12) & (values.real <= 0)).any(axis=1)] = np.nan
    found = vectors * np.log(values)[:, None, :] @ np.linalg.inv(vectors)
    return np.stack([found[:, i, j].real for i, j in OFF_DIAGONAL], axis=1)


def drawn(strength: float, count: int = 4_000, **what: int) -> FloatArray:
    found = drawn_turns(range(count), strength, **({"seed": 0, "epoch": 0} | what))
    assert found is not None
    return found


def test_white_is_that_of_the_store() -> None:
    assert pytest.approx(D65_WHITE, abs=1e-6) == WHITE


@settings(deadline=None)
@given(strength=st.floats(0.01, 2), seed=st.integers(0, 2**64), epoch=st.integers(0, 1000))
def test_white_stays_and_nothing_is_lost(strength: float, seed: int, epoch: int) -> None:
    found = drawn(strength, 50, seed=seed, epoch=epoch)
    assert np.abs(found @ WHITE - WHITE).max() < 1e-12 * np.abs(found).max()
    assert (np.linalg.det(found) > 0).all()


def test_0_changes_nothing_and_little_changes_little() -> None:
    assert drawn_turns(range(5), 0.0, seed=0, epoch=0) is None
    assert not SensorAugment(matrix_jitter=0.0)
    assert np.abs(drawn(1e-6) - np.eye(3)).max() < 1e-5


def test_the_spread_at_1_is_the_stated_one_and_grows_with_the_strength() -> None:
    for strength in (0.5, 1.0):
        seen = logarithms(drawn(strength))
        assert np.abs(seen.mean(axis=0)).max() < 0.02
        covariance = seen.T @ seen / len(seen) / strength**2
        scale = np.sqrt(np.diag(COVARIANCE))
        assert np.abs(covariance - COVARIANCE).max() < 0.06 * scale.max() ** 2
        assert np.sqrt(np.diag(covariance)) == pytest.approx(scale, rel=0.06)


def test_the_stated_spread_is_that_of_librarys_cameras() -> None:
    """Measured again on the table of the LibRaw that is installed."""
    found = {table_matrix(*name.split(" ", 1)) for name in supported_models() if " " in name}
    matrices = np.array(sorted(found))
    matrices = matrices[np.abs(np.linalg.det(matrices)) > 1e-9]
    if len(matrices) < 400:
        pytest.skip("this LibRaw does not say which cameras it knows")
    neutral = matrices / (matrices @ WHITE)[:, :, None]
    one, other = np.random.default_rng(0).integers(0, len(neutral), (2, 20_000))
    apart = one != other
    pairs = np.linalg.solve(neutral[one[apart]], neutral[other[apart]])
    seen = logarithms(pairs)
    seen = seen[np.isfinite(seen).all(axis=1)]
    length = np.linalg.norm(seen, axis=1)
    seen = seen[length <= np.quantile(length, 0.9)]
    covariance = seen.T @ seen / len(seen)
    deviation = np.sqrt(np.diag(covariance))
    assert deviation == pytest.approx(np.sqrt(np.diag(COVARIANCE)), rel=0.1)
    scale = np.outer(deviation, deviation)
    assert np.abs((covariance - COVARIANCE) / scale).max() < 0.2
    # Lengths, which the covariance alone does not fix.
    ours = np.linalg.norm(logarithms(drawn(1.0)), axis=1)
    theirs = np.linalg.norm(seen, axis=1)
    middle = [0.25, 0.5, 0.75]
    assert np.quantile(ours, middle) == pytest.approx(np.quantile(theirs, middle), rel=0.1)


def test_turns_are_the_exponential_of_their_logarithm() -> None:
    numbers = np.random.default_rng(1).normal(size=(50, 6)) * 0.2
    found = turns(numbers)
    assert logarithms(found) == pytest.approx(numbers, abs=1e-9)
    backward = turns(-numbers)
    assert backward @ found == pytest.approx(np.broadcast_to(np.eye(3), (50, 3, 3)))


def test_samples_epochs_and_seeds_differ_and_repeat() -> None:
    sets = [drawn(1.0, 40, seed=seed, epoch=epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert len(np.unique(np.concatenate(sets), axis=0)) == 120
    alone = drawn_turns([7], 1.0, seed=1, epoch=0)
    assert alone is not None
    assert np.array_equal(alone[0], sets[2][7])


@pytest.mark.parametrize("gain", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("shot", [0.0, 0.01])
def test_a_picture_is_turned_after_exposure_and_noise(gain: float, shot: float) -> None:
    turn = drawn(1.0, 1)[0]
    image = torch.rand((3, 40, 60), generator=torch.Generator().manual_seed(0))
    plain, turned = image.clone(), image.clone()
    SensorChange(gain, shot, shot / 10, 3).apply(plain, FACTS)
    SensorChange(gain, shot, shot / 10, 3, turn).apply(turned, FACTS)
    wanted = np.einsum("ij,jhw->ihw", turn, plain.numpy().astype(np.float64))
    assert turned.numpy() == pytest.approx(wanted, abs=1e-5)
