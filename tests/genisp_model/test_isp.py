from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genisp_model.detector.frozen import load_frozen_detector
from genisp_model.isp import (
    XYZ_TO_SRGB,
    ConvCC,
    ConvWB,
    GenISP,
    GenISPConfig,
    ImageToParameters,
    ShallowConvNet,
    gray_world_loss,
)
from genisp_model.renderings import percentile_of_y
from pipeline.errors import UsageError
from pipeline.sample_set import compose_scene, render_scene

CONFIGS = [GenISPConfig(), GenISPConfig(parametrisation="free"), GenISPConfig.paper()]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def night() -> Tensor:
    """(2, 3, 136, 204): two streets, dark, lamps saturated, with noise below 0."""
    rng = np.random.default_rng(5)
    scenes = [render_scene(compose_scene((7, i)), width=204, height=136).xyz for i in (0, 1)]
    dark = [np.minimum(xyz * (0.01 / xyz[1].mean()), 1) for xyz in scenes]
    noise = rng.normal(0, 4e-4, (2, *dark[0].shape))
    return torch.from_numpy((np.stack(dark) + noise).astype(np.float32))


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("config", CONFIGS)
def test_every_configuration_has_the_papers_parameters(config: GenISPConfig) -> None:
    isp = GenISP(config)
    assert _count(isp.white_balance) == 52_579
    assert _count(isp.colour_correction) == 53_353
    assert _count(isp.shallow) == 9_923
    assert _count(isp) == 115_855
    assert sum(value.numel() for value in isp.state_dict().values()) == 115_855


@pytest.mark.parametrize("config", CONFIGS)
def test_a_batch_equals_its_images_one_by_one(config: GenISPConfig, night: Tensor) -> None:
    isp = GenISP(config)
    batch = torch.cat([night, night[:1].flip(3)])
    scale = percentile_of_y(batch)
    with torch.no_grad():
        together = isp.forward_with_parameters(batch, scale)
        for i in range(3):
            alone = isp.forward_with_parameters(batch[i : i + 1], scale[i : i + 1])
            torch.testing.assert_close(together.image[i], alone.image[0], atol=2e-4, rtol=2e-4)
            torch.testing.assert_close(together.gains[i], alone.gains[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(together.matrix[i], alone.matrix[0], atol=1e-5, rtol=1e-5)
    assert together.gains.shape == (3, 3)
    assert together.matrix.shape == (3, 3, 3)


@pytest.mark.parametrize("size", [(2, 3), (33, 47), (300, 41)])
def test_the_picture_has_the_size_of_the_input(size: tuple[int, int]) -> None:
    isp = GenISP()
    image = isp(torch.rand(2, 3, *size), torch.ones(2))
    assert image.shape == (2, 3, *size)


def test_gains_and_matrix_mean_what_they_say() -> None:
    """Gains are a diagonal; a pixel is a column that the matrix is applied to from the left."""
    config = GenISPConfig(parametrisation="free")
    white_balance, colour_correction = ConvWB(config), ConvCC(config)
    image = torch.rand(2, 3, 9, 7)
    with torch.no_grad():
        balanced, gains = white_balance(image)
        corrected, matrix = colour_correction(balanced)
    diagonal = torch.einsum("bij,bjhw->bihw", torch.diag_embed(gains), image)
    torch.testing.assert_close(balanced, diagonal)
    torch.testing.assert_close(corrected, torch.einsum("bij,bjhw->bihw", matrix, balanced))
    by_hand = torch.stack([sum(matrix[1, i, j] * balanced[1, j, 4, 2] for j in range(3))
                           for i in range(3)])  # fmt: skip
    torch.testing.assert_close(corrected[1, :, 4, 2], by_hand)
    with torch.no_grad():  # regressed from the balanced image, not from the input
        torch.testing.assert_close(
            matrix, colour_correction.to_parameters(balanced).reshape(2, 3, 3)
        )


def test_the_branch_sees_a_bilinear_copy_of_256() -> None:
    branch = ImageToParameters(3)
    image = torch.rand(1, 3, 40, 60)
    copy = torch.nn.functional.interpolate(image, (256, 256), mode="bilinear", align_corners=False)
    torch.testing.assert_close(branch(image), branch(copy))


def test_gradients_reach_all_parameters_through_a_detector(night: Tensor) -> None:
    isp = GenISP()
    detector = load_frozen_detector("sample_retinanet", "none")
    target = {"boxes": torch.tensor([[40.0, 50.0, 90.0, 120.0]]), "labels": torch.tensor([1])}
    image = isp(night, percentile_of_y(night))
    losses = detector.losses(image, [target, target])
    torch.autograd.backward(torch.stack(list(losses.values())).sum())
    for name, parameter in isp.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        if name in ("shallow.conv1.bias", "shallow.conv2.bias"):
            # The InstanceNorm behind them subtracts what they add: zero but for rounding.
            assert parameter.grad.abs().max() < 1e-4, name
        else:
            assert (parameter.grad != 0).all(), name


_NUMBERS = st.floats(-(2.0**100), 2.0**100, width=32)


@settings(max_examples=30, deadline=None)
@given(st.lists(_NUMBERS, min_size=12, max_size=12), st.sampled_from([1e-8, 1.0, 1e6]))
def test_bounded_parameters_never_run_away_or_change_sign(raw: list[float], size: float) -> None:
    config = GenISPConfig()
    white_balance, colour_correction = ConvWB(config), ConvCC(config)
    with torch.no_grad():
        white_balance.to_parameters.linear.bias.copy_(torch.tensor(raw[:3]))
        colour_correction.to_parameters.linear.bias.copy_(torch.tensor(raw[3:]))
        balanced, gains = white_balance(torch.randn(1, 3, 8, 8) * size)
        _, matrix = colour_correction(balanced)
    limit = config.gain_limit * (1 + 1e-5)
    assert ((gains >= 1 / limit) & (gains <= limit)).all()
    assert ((matrix - torch.tensor(XYZ_TO_SRGB)).abs() <= config.matrix_limit + 1e-5).all()
    assert (matrix[0].diagonal() > 0).all()
    assert torch.linalg.det(matrix.double()) > 0


def test_no_matrix_within_the_default_limit_is_singular() -> None:
    """The determinant is linear in each entry: its least value is at one of 512 corners."""
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 9).reshape(-1, 3, 3)
    base = torch.tensor(XYZ_TO_SRGB)
    assert torch.linalg.det(base + GenISPConfig().matrix_limit * signs).min() > 0.4
    assert torch.linalg.det(base + 0.32 * signs).min() > 0


def test_free_parameters_are_the_regressed_numbers() -> None:
    balance = ConvWB(GenISPConfig(parametrisation="free"))
    with torch.no_grad():
        balance.to_parameters.linear.weight.zero_()
        balance.to_parameters.linear.bias.copy_(torch.tensor([-17.7, 900.0, 0.0]))
        _, gains = balance(torch.rand(1, 3, 8, 8))
    assert gains[0].tolist() == pytest.approx([-17.7, 900.0, 0.0])


@pytest.mark.parametrize("parametrisation", ["bounded", "free"])
def test_the_default_start_is_a_sane_picture(parametrisation: str, night: Tensor) -> None:
    config = GenISPConfig(parametrisation="bounded" if parametrisation == "bounded" else "free")
    with torch.no_grad():
        output = GenISP(config).forward_with_parameters(night, percentile_of_y(night))
    image = output.image
    assert 0.35 < image.mean() < 0.5
    assert 0.15 < image.std() < 0.3
    assert ((image < 0) | (image > 1)).float().mean() < 0.05
    torch.testing.assert_close(output.gains, torch.ones(2, 3), atol=0.05, rtol=0)
    base = torch.tensor(XYZ_TO_SRGB).expand(2, 3, 3)
    torch.testing.assert_close(output.matrix, base, atol=0.05, rtol=0)


def test_the_default_start_keeps_the_order_of_light(night: Tensor) -> None:
    """Brighter in, brighter out: the tone curve is monotonous in each colour, up to the spares."""
    isp = GenISP()
    ramp = torch.linspace(-0.01, 1.0, 400).repeat(3, 20, 1)[None] ** 3  # dark on the average
    with torch.no_grad():
        rows = isp(ramp, torch.ones(1))[0, :, 10, 5:-5]
    assert (rows[:, 50:] - rows[:, :-50] > 0).all()


def test_the_random_start_is_no_picture(night: Tensor) -> None:
    for config in (GenISPConfig(start="torch"), GenISPConfig.paper()):
        with torch.no_grad():
            image = GenISP(config)(night, percentile_of_y(night))
        assert abs(image.mean()) < 0.2
        assert (image < 0).float().mean() > 0.25


def test_a_lamp_does_not_own_the_picture(night: Tensor) -> None:
    """Highlights beyond the limit make no difference; without a limit they flatten the street."""
    lamps = night.clone()
    lamps[:, :, :4, :4] = 1.0
    brighter = night.clone()
    brighter[:, :, :4, :4] = 50.0
    scale = percentile_of_y(night)
    with torch.no_grad():
        isp = GenISP()
        torch.testing.assert_close(isp(lamps, scale), isp(brighter, scale))
        open_ended = GenISP(GenISPConfig(highlight_limit=math.inf))
        street = open_ended(brighter, scale)[:, :, 10:]
    assert street.std() < 0.5 * isp(brighter, scale)[:, :, 10:].std()


def test_scale_is_needed_or_ignored_as_configured(night: Tensor) -> None:
    with pytest.raises(UsageError, match="divides its input"):
        GenISP()(night)
    paper = GenISP(GenISPConfig.paper())
    with torch.no_grad():
        torch.testing.assert_close(paper(night), paper(night, torch.tensor([5.0, 7.0])))


def test_exposure_of_a_frame_does_not_show(night: Tensor) -> None:
    """The scale takes out what a darker exposure of the same scene changes."""
    isp = GenISP()
    scale = percentile_of_y(night)
    with torch.no_grad():
        torch.testing.assert_close(isp(night * 0.125, scale * 0.125), isp(night, scale))


def test_an_all_black_frame_gives_finite_numbers() -> None:
    isp = GenISP()
    image = isp(torch.zeros(1, 3, 16, 16), torch.zeros(1))
    assert torch.isfinite(image).all()


def test_norms_have_the_configured_eps() -> None:
    net = ShallowConvNet(GenISPConfig(norm_eps=1e-10))
    assert net.norm1.eps == net.norm2.eps == 1e-10
    assert not net.norm1.affine


def test_pools_are_configurable() -> None:
    isp = GenISP(GenISPConfig(pools=(4, 3, 2)))
    assert _count(isp) == 115_855
    assert isp(torch.rand(1, 3, 20, 20), torch.ones(1)).shape == (1, 3, 20, 20)


def test_gray_world_loss_by_hand() -> None:
    image = torch.zeros(2, 3, 2, 2, requires_grad=True)
    colours = torch.tensor([[0.1, 0.4, 0.2], [0.5, 0.5, 0.5]])
    filled = image + colours[:, :, None, None]
    loss = gray_world_loss(filled)
    assert loss.item() == pytest.approx((0.3 + 0.1 + 0.2 + 0.0) / 2)
    torch.autograd.backward(loss)
    assert image.grad is not None
    # d/d(pixel): sign sum over 2 images, 4 pixels. Green, the highest, is pushed down twice.
    assert image.grad[0, :, 0, 0].tolist() == pytest.approx([-2 / 8, 2 / 8, 0.0])


def test_the_matrix_is_given_an_exact_gradient() -> None:
    """A sum over all pixels: as one float32 sum, 512x768 of them are off by 1e-6 and more."""
    torch.manual_seed(0)
    colour_correction = GenISP().colour_correction
    image, upstream = torch.rand(1, 3, 512, 768), torch.rand(1, 3, 512, 768)
    corrected, matrix = colour_correction(image)
    (ours,) = torch.autograd.grad(corrected, matrix, upstream)
    exact = torch.einsum("bihw,bjhw->bij", upstream.double(), image.double())
    torch.testing.assert_close(ours.double(), exact, rtol=2e-7, atol=0)
