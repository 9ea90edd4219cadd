"""Renderings without a network, to stand beside GenISP's: what a fixed formula makes of the XYZ.

Each takes (B, 3, H, W) float CIE XYZ as stored (0 black, 1 near white level, noise below 0) and
gives (B, 3, H, W) RGB in 0..1. The classical one is the yardstick; dark XYZ alone is a straw man.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from genisp_model.isp import XYZ_TO_SRGB

RenderingName = Literal["xyz", "gray-world", "classical"]

GAMMA = 1 / 2.2
GRAY_WORLD_MEAN = 0.2  # linear; 0.48 after the gamma

_PERCENTILE = 99
_SMALLEST = 1e-6  # below any sensor's noise: an all-black frame must not divide by zero


def render_xyz(xyz: Tensor, scale: Tensor | None = None) -> Tensor:
    """The XYZ as if it were a picture: dark, linear, wrong colours. `scale` is not used."""
    return xyz.clamp(0, 1)


def render_gray_world(xyz: Tensor, scale: Tensor | None = None) -> Tensor:
    """Linear sRGB, each channel's mean brought to 0.2, gamma 1/2.2. `scale` is not used."""
    rgb = xyz_to_srgb(xyz)  # (B, 3, H, W)
    means = rgb.mean(dim=(2, 3), keepdim=True).clamp_min(_SMALLEST)  # (B, 3, 1, 1)
    return _gamma(rgb * (GRAY_WORLD_MEAN / means))


def render_classical(xyz: Tensor, scale: Tensor | None = None) -> Tensor:
    """Linear sRGB, exposed so that the 99th percentile of Y is 1, gamma 1/2.2; no white balance.

    Parameters
    ----------
    xyz
        (B, 3, H, W).
    scale
        (B,) the percentile, if it is known (sidecar) or of a larger frame; else taken from `xyz`.
    """
    scale = percentile_of_y(xyz) if scale is None else scale.to(xyz)  # (B,)
    return _gamma(xyz_to_srgb(xyz) / scale.clamp_min(_SMALLEST)[:, None, None, None])


def xyz_to_srgb(xyz: Tensor) -> Tensor:
    """(B, 3, H, W) XYZ -> linear sRGB, same shape, not clipped."""
    return torch.einsum("ij,bjhw->bihw", xyz.new_tensor(XYZ_TO_SRGB), xyz)


def percentile_of_y(xyz: Tensor) -> Tensor:
    """The 99th percentile of Y by nearest rank, as in the sidecar: (B, 3, H, W) -> (B,)."""
    y = xyz[:, 1].flatten(1)  # (B, H * W)
    rank = -(-_PERCENTILE * y.shape[1] // 100)
    # Not torch.quantile, which some versions limit to 2^24 values.
    return y.kthvalue(rank, dim=1).values


def _gamma(linear: Tensor) -> Tensor:
    return linear.clamp(0, 1).pow(GAMMA)
