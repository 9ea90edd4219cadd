from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from genisp_model.isp import XYZ_TO_SRGB
from genisp_model.renderings import (
    percentile_of_y,
    render_classical,
    render_gray_world,
    render_xyz,
)


@pytest.fixture
def xyz() -> torch.Tensor:
    """(2, 3, 11, 17), dark, with noise below 0 and a highlight."""
    image = torch.rand(2, 3, 11, 17, generator=torch.Generator().manual_seed(3)) * 0.02 - 0.002
    image[:, :, 0, :2] = 1.3
    return image


@pytest.mark.parametrize("render", [render_xyz, render_gray_world, render_classical])
def test_renderings_keep_shape_and_stay_in_range(
    render: Callable[[torch.Tensor], torch.Tensor], xyz: torch.Tensor
) -> None:
    for image in (xyz, torch.zeros(1, 3, 4, 4), -torch.ones(1, 3, 4, 4)):
        rendered = render(image)
        assert rendered.shape == image.shape
        assert ((rendered >= 0) & (rendered <= 1)).all()


def test_naive_xyz_only_clips(xyz: torch.Tensor) -> None:
    np.testing.assert_array_equal(render_xyz(xyz).numpy(), np.clip(xyz.numpy(), 0, 1))


def test_classical_is_matrix_exposure_gamma(xyz: torch.Tensor) -> None:
    for image, rendered in zip(xyz.double().numpy(), render_classical(xyz).numpy(), strict=True):
        ordered = np.sort(image[1].ravel())
        exposure = ordered[math.ceil(0.99 * ordered.size) - 1]
        rgb = np.tensordot(np.array(XYZ_TO_SRGB), image, axes=1) / exposure
        np.testing.assert_allclose(rendered, np.clip(rgb, 0, 1) ** (1 / 2.2), atol=1e-5)


def test_classical_takes_a_known_percentile(xyz: torch.Tensor) -> None:
    scale = percentile_of_y(xyz)
    torch.testing.assert_close(render_classical(xyz, scale), render_classical(xyz))
    assert render_classical(xyz, scale * 4).mean() < render_classical(xyz).mean()


def test_gray_world_balances_the_means(xyz: torch.Tensor) -> None:
    image = xyz[:1].clamp(0.001, 0.02)
    rendered = render_gray_world(image).double().numpy()[0]
    rgb = np.tensordot(np.array(XYZ_TO_SRGB), image.double().numpy()[0], axes=1)
    rgb *= 0.2 / rgb.mean(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(rendered, np.clip(rgb, 0, 1) ** (1 / 2.2), atol=1e-5)


def test_white_of_d65_renders_neutral() -> None:
    white = torch.tensor([0.95047, 1.0, 1.08883])[None, :, None, None].expand(1, 3, 4, 4)
    rendered = render_classical(white)
    torch.testing.assert_close(rendered, torch.ones_like(rendered), atol=1e-3, rtol=0)


def test_percentile_is_the_nearest_rank() -> None:
    """The sidecar's definition: the smallest value with at least 99 % at or below it."""
    image = torch.zeros(1, 3, 10, 10)
    image[0, 1] = torch.arange(1.0, 101.0).reshape(10, 10)
    assert percentile_of_y(image).tolist() == [99.0]
    assert percentile_of_y(image[:, :, :1]).tolist() == [10.0]
