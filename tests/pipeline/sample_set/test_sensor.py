"""The sensor: signal, colour, noise and geometry against plain arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.sample_set.scene.light import temperature_rgb
from pipeline.sample_set.sensor import (
    NIKON_D750_MATRIX,
    SONY_RX100M7_MATRIX,
    Sensor,
    expose,
    white_balance,
)

CROP = (12, 8, 240, 160)
D65 = np.array([0.95047, 1.0, 1.08883], np.float32)


def make_sensor(*, white: int = 16383, black: int = 600) -> Sensor:
    return Sensor(NIKON_D750_MATRIX, "RGGB", (180, 270), CROP, black, white, 500.0)


def flat_scene(step: int = 1) -> np.ndarray[tuple[int, int, int], np.dtype[np.float32]]:
    return np.broadcast_to(D65[:, None, None], (3, 160 // step, 240 // step)).copy()


@pytest.mark.parametrize("step", [1, 2])
def test_a_flat_scene_shows_the_cameras_colour(step: int) -> None:
    rng = np.random.default_rng(1)
    mosaic = expose(flat_scene(step), make_sensor(), mean_signal=0.3, iso=100, rng=rng)
    signal = mosaic.astype(np.float64) - 600
    expected = np.array(NIKON_D750_MATRIX) @ D65
    measured = np.array(
        [signal[0::2, 0::2].mean(), signal[0::2, 1::2].mean(), signal[1::2, 1::2].mean()]
    )
    np.testing.assert_allclose(measured / measured[1], expected / expected[1], rtol=5e-3)


@pytest.mark.parametrize("mean_signal", [0.003, 0.03])
@pytest.mark.parametrize("white", [16383, 4095])
def test_the_mean_signal_is_as_asked(mean_signal: float, white: int) -> None:
    black = 600 if white == 16383 else 150
    rng = np.random.default_rng(2)
    scene = flat_scene() * np.linspace(0.1, 30, 240, dtype=np.float32)
    sensor = make_sensor(white=white, black=black)
    mosaic = expose(scene, sensor, mean_signal=mean_signal, iso=400, rng=rng)
    x, y, w, h = CROP
    measured = (mosaic[y : y + h, x : x + w].astype(np.float64) - black).mean() / (white - black)
    assert measured == pytest.approx(mean_signal, rel=0.05)


def test_noise_is_photon_noise_plus_read_noise() -> None:
    sensor = make_sensor()
    rng = np.random.default_rng(3)
    mosaic = expose(flat_scene(), sensor, mean_signal=0.02, iso=2000, rng=rng)
    green = mosaic[0::2, 1::2].astype(np.float64) - 600
    gain = sensor.gain(2000)
    assert gain == pytest.approx(4.0)
    variance = gain * green.mean() + (2.5 * gain) ** 2 + 1.5**2
    assert green.var() == pytest.approx(variance, rel=0.05)


def test_noise_reaches_below_black_and_into_the_margins() -> None:
    rng = np.random.default_rng(4)
    mosaic = expose(flat_scene(), make_sensor(), mean_signal=0.0005, iso=3200, rng=rng)
    assert (mosaic < 600).mean() > 0.05
    assert mosaic[:8].std() > 1


def test_a_scene_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="fits no crop"):
        expose(
            np.ones((3, 100, 100), np.float32),
            make_sensor(),
            mean_signal=0.01,
            iso=100,
            rng=np.random.default_rng(0),
        )


def test_white_balance_turns_warm_light_down_in_red() -> None:
    warm = white_balance(SONY_RX100M7_MATRIX, temperature_rgb(2200))
    cold = white_balance(SONY_RX100M7_MATRIX, temperature_rgb(6500))
    assert warm[0] < cold[0]
    assert warm[2] > cold[2]
    # LibRaw's daylight multipliers of this camera, normalised to green.
    np.testing.assert_allclose(cold, [2.2759 / 0.9354, 1, 1.3570 / 0.9354], rtol=0.05)


def test_temperature_meets_illuminant_a() -> None:
    # Illuminant A: x .44757, y .40745, so XYZ (1.0985, 1, .3558), times the sRGB matrix by hand.
    np.testing.assert_allclose(temperature_rgb(2856), (1.845, 0.826, 0.233), atol=0.01)
