"""GenISP, the neural image signal processor, read as the paper's figure.

    xyz -> expose -> ConvWB -> ConvCC -> ShallowConvNet -> picture for the detector
                       |          |
                       +- image-to-parameters on a 256x256 copy: 3 gains, then a 3x3 matrix

Morawski et al., "GenISP: Neural ISP for Low-Light Machine Cognition", CVPRW 2022, figure 3.
115,855 parameters whatever the configuration: 52,579 + 53,353 + 9,923. Of these, the 80 biases of
the two convolutions in front of an InstanceNorm cannot matter: the norm subtracts them again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from pipeline.errors import UsageError

Start = Literal["default", "torch"]
Parametrisation = Literal["bounded", "free"]
InputScaling = Literal["percentile", "none"]

#: Linear sRGB from CIE XYZ (D65), IEC 61966-2-1.
XYZ_TO_SRGB = (
    (3.2404542, -1.5371385, -0.4985314),
    (-0.9692660, 1.8760108, 0.0415560),
    (0.0556434, -0.2040259, 1.0572252),
)

BRANCH_SIZE = 256  # side of the copy that gains and matrix are regressed from (paper)
LEAKY_SLOPE = 0.01  # torch's; the paper names none

_SMALLEST_SCALE = 1e-6  # below any sensor's noise: an all-black frame must not divide by zero


@dataclass(frozen=True)
class GenISPConfig:
    """How the same 115,855 parameters begin and what they mean.

    Parameters
    ----------
    start
        ``"default"``: weights under which the untrained network is a tone-mapped picture, see
        `set_default_start`; ``"torch"``: the layers' own random initialisation.
    parametrisation
        ``"bounded"``: gain = exp(limited log-gain), matrix = (XYZ -> sRGB) + limited delta, so that
        neither can run away or change sign; ``"free"``: the regressed numbers as they are.
    input_scaling
        ``"percentile"``: the input is divided by a number per image that the caller gives (the 99th
        percentile of Y from the sidecar) and limited to `highlight_limit`; ``"none"``: as it is.
    highlight_limit
        Largest scaled value. A lamp at 40 times the percentile would own the variance that the
        InstanceNorms divide by, and the street would be left in a few hundredths of the range.
    gain_limit
        Bounded gains lie in 1 / `gain_limit` .. `gain_limit`.
    matrix_limit
        Bounded matrix entries lie within this of XYZ -> sRGB. Up to 0.32 no such matrix is singular
        or mirrors colours (its determinant, 4.83 at the start, stays above 0).
    pools
        Kernels of the three MaxPools of a branch; the paper's figure does not give them.
    norm_eps
        Of the InstanceNorms. Unscaled night data has variances near torch's own 1e-5.
    """

    start: Start = "default"
    parametrisation: Parametrisation = "bounded"
    input_scaling: InputScaling = "percentile"
    highlight_limit: float = 2.0
    gain_limit: float = 4.0
    matrix_limit: float = 0.3
    pools: tuple[int, int, int] = (2, 2, 2)
    norm_eps: float = 1e-5

    @classmethod
    def paper(cls) -> GenISPConfig:
        """The literal network: random start, free numbers, input as it is."""
        return cls(start="torch", parametrisation="free", input_scaling="none")


@dataclass(frozen=True)
class ISPOutput:
    """What an ISP made of a batch, and the numbers it made it with, where there are such.

    Attributes
    ----------
    image
        (B, 3, H, W) float, RGB meant for 0..1, not clamped.
    gains
        (B, n): factors of the planes.
    matrix
        (B, 3, 3): of the colours.
    """

    image: Tensor
    gains: Tensor | None = None
    matrix: Tensor | None = None


class ISP(nn.Module):
    """A network that makes pictures of stored images: what is trained, scored and used.

    The trainer, the evaluation and ``enhance`` know no more of it than this. A class and not a
    protocol, because everything torch does with a module is asked of it too.
    docs/how-to/write-an-isp.md explains how to write one.
    """

    def forward(self, xyz: Tensor, scale: Tensor | None = None) -> Tensor:
        """The picture alone; see `forward_with_parameters`."""
        return self.forward_with_parameters(xyz, scale).image

    def forward_with_parameters(self, xyz: Tensor, scale: Tensor | None = None) -> ISPOutput:
        """The picture, and what made it.

        Parameters
        ----------
        xyz
            (B, 3, H, W) float32, the three planes as stored: 0 black, 1 near white level, noise
            below 0. Any batch, any size; images of a batch must not see each other.
        scale
            (B,) float32: the 99th percentile of Y (G in a store of camera colours) of the *whole*
            frame, also for a crop. Always given by the trainer and the evaluation.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class GenISPOutput(ISPOutput):
    """What one forward pass made.

    Parameters
    ----------
    image
        (B, 3, H, W) RGB for the detector, meant for 0..1 but not clamped.
    gains
        (B, 3) of ConvWB, for the planes X, Y, Z.
    matrix
        (B, 3, 3) of ConvCC; a pixel is a column: ``rgb = matrix @ balanced``.
    """

    image: Tensor
    gains: Tensor
    matrix: Tensor


class LeakyReLU(nn.Module):
    """torch's, which keeps its output for the backward pass: the next layer keeps that anyway.

    torch's own keeps its input, and in place it would have to be undone, because an InstanceNorm's
    output is a view.
    """

    def forward(self, hidden: Tensor) -> Tensor:
        """Any shape."""
        if torch.compiler.is_compiling() or not hidden.requires_grad:
            return functional.leaky_relu(hidden, LEAKY_SLOPE)
        output: Tensor = _LeakyReLU.apply(hidden)
        return output


class _LeakyReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor) -> Tensor:
        output = functional.leaky_relu(hidden, LEAKY_SLOPE)
        ctx.save_for_backward(output)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (output,) = ctx.saved_tensors
        result: Tensor = torch.ops.aten.leaky_relu_backward(gradient, output, LEAKY_SLOPE, True)
        return result


class ImageToParameters(nn.Module):
    """An image in, a few numbers out: three convolutions, a global average, one linear layer.

    Parameters
    ----------
    n_outputs
        How many numbers.
    pools
        Kernel and stride of the MaxPool after each convolution.
    """

    def __init__(self, n_outputs: int, *, pools: tuple[int, int, int] = (2, 2, 2)) -> None:
        super().__init__()
        first, second, third = pools
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 16, 7, padding=3), LeakyReLU(), nn.MaxPool2d(first)),
            *(nn.Conv2d(16, 32, 5, padding=2), LeakyReLU(), nn.MaxPool2d(second)),
            *(nn.Conv2d(32, 128, 3, padding=1), LeakyReLU(), nn.MaxPool2d(third)),
        )
        self.linear = nn.Linear(128, n_outputs)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) of any size -> (B, n_outputs)."""
        copy = functional.interpolate(
            image, size=(BRANCH_SIZE, BRANCH_SIZE), mode="bilinear", align_corners=False
        )  # (B, 3, 256, 256)
        features: Tensor = self.features(copy)  # (B, 128, 32, 32) with pools of 2
        outputs: Tensor = self.linear(features.mean(dim=(2, 3)))  # (B, 128) -> (B, n_outputs)
        return outputs


class ConvWB(nn.Module):
    """White balance: one gain a plane, a diagonal matrix in the paper."""

    def __init__(self, config: GenISPConfig) -> None:
        super().__init__()
        self.bounded = config.parametrisation == "bounded"
        self.log_limit = math.log(config.gain_limit)
        self.to_parameters = ImageToParameters(3, pools=config.pools)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> the balanced image, same shape, and the gains (B, 3)."""
        gains: Tensor = self.to_parameters(image)  # (B, 3)
        if self.bounded:
            gains = _limited(gains, self.log_limit).exp()
        return image * gains[:, :, None, None], gains  # (B, 3, H, W), (B, 3)


class ConvCC(nn.Module):
    """Colour correction: a full 3x3 matrix for each image."""

    base: Tensor

    def __init__(self, config: GenISPConfig) -> None:
        super().__init__()
        self.bounded = config.parametrisation == "bounded"
        self.limit = config.matrix_limit
        self.to_parameters = ImageToParameters(9, pools=config.pools)
        self.register_buffer("base", torch.tensor(XYZ_TO_SRGB), persistent=False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W), balanced -> the corrected image, same shape, and the matrix (B, 3, 3)."""
        matrix: Tensor = self.to_parameters(image).reshape(-1, 3, 3)  # (B, 3, 3)
        if self.bounded:
            matrix = self.base + _limited(matrix, self.limit)
        # Pixels are columns. A product for each row of the image: the matrix's gradient is a sum
        # over all pixels, which a GPU does not share out within one product (a tenth of a step),
        # and which is off by 4e-6 on a CPU instead of 4e-8.
        rows = image.transpose(1, 2)  # (B, H, 3, W)
        corrected = matrix.to(image.dtype)[:, None] @ rows  # (B, H, 3, W)
        return corrected.transpose(1, 2), matrix  # (B, 3, H, W), (B, 3, 3)


class ShallowConvNet(nn.Module):
    """The picture itself: non-linear, 5x5 pixels of context; the output is not clamped."""

    def __init__(self, config: GenISPConfig) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.norm1 = nn.InstanceNorm2d(16, eps=config.norm_eps)
        self.conv2 = nn.Conv2d(16, 64, 3, padding=1)
        self.norm2 = nn.InstanceNorm2d(64, eps=config.norm_eps)
        self.conv3 = nn.Conv2d(64, 3, 1)
        self.activation = LeakyReLU()

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3, H, W)."""
        hidden = self.activation(self.norm1(self.conv1(image)))  # (B, 16, H, W)
        hidden = self.activation(self.norm2(self.conv2(hidden)))  # (B, 64, H, W)
        output: Tensor = self.conv3(hidden)  # (B, 3, H, W)
        return output


class GenISP(ISP):
    """CIE XYZ of a night raw in, a picture a frozen detector understands out.

    Parameters
    ----------
    config
        Start and meaning of the parameters; `GenISPConfig()` when None. Random weights come from
        torch's global generator: seed it for the same network.
    """

    def __init__(self, config: GenISPConfig | None = None) -> None:
        super().__init__()
        self.config = config or GenISPConfig()
        self.white_balance = ConvWB(self.config)
        self.colour_correction = ConvCC(self.config)
        self.shallow = ShallowConvNet(self.config)
        if self.config.start == "default":
            set_default_start(self)

    def forward_with_parameters(self, xyz: Tensor, scale: Tensor | None = None) -> GenISPOutput:
        """The picture, and the gains and matrices that made it.

        Parameters
        ----------
        xyz
            (B, 3, H, W) float32, CIE XYZ as stored: 0 black, 1 near white level, noise below 0.
            Any batch, any size; images of a batch do not see each other.
        scale
            (B,) float32, what each image is divided by: the 99th percentile of Y of the *whole*
            frame, also for a crop. Needed with input scaling ``"percentile"``, ignored with
            ``"none"``, so that one training loop serves both.

        Returns
        -------
        GenISPOutput
            The image is not clamped: outside 0..1 a clamp has no gradient, and the detector needs
            none. Clamp when making a picture to look at.
        """
        exposed = self._expose(xyz, scale)  # (B, 3, H, W)
        balanced, gains = self.white_balance(exposed)  # (B, 3, H, W), (B, 3)
        corrected, matrix = self.colour_correction(balanced)  # (B, 3, H, W), (B, 3, 3)
        return GenISPOutput(self.shallow(corrected), gains, matrix)  # (B, 3, H, W)

    def _expose(self, xyz: Tensor, scale: Tensor | None) -> Tensor:
        if self.config.input_scaling == "none":
            return xyz
        if scale is None:
            raise UsageError(
                "this GenISP divides its input by a number per image, and none was given",
                mend="pass the 99th percentile of Y (the sidecar has it), or input_scaling='none'",
            )
        exposed = xyz / scale.to(xyz).clamp_min(_SMALLEST_SCALE)[:, None, None, None]
        return exposed.clamp_max(self.config.highlight_limit)


def gray_world_loss(image: Tensor) -> Tensor:
    """Equation 4: the sum of absolute differences of the three channel means.

    Parameters
    ----------
    image
        (B, 3, H, W), GenISP's output.

    Returns
    -------
    Tensor
        Scalar, mean over the batch; 0 for gray averages. Differentiable.
    """
    red, green, blue = image.mean(dim=(2, 3)).unbind(dim=1)  # (B,) each
    return ((red - green).abs() + (red - blue).abs() + (green - blue).abs()).mean()


# The starting tone curve, chosen on rendered night scenes against the classical rendering of the
# same scenes without noise (XYZ -> sRGB, 99th percentile, gamma).
_HIGHLIGHT_SLOPE = 0.3  # above the mean of a channel, relative to 1 below it
_MIDDLE = 0.42
_ABOVE, _BELOW = 0.30, 0.22  # slopes on either side of the middle
_SHOULDER = 0.08  # taken off the slope where light is brightest
_SPARE = 0.05  # size of the unused channels' share of the picture: not 0, else they would not learn


@torch.no_grad()
def set_default_start(isp: GenISP) -> None:
    """Weights under which the untrained network is a tone-mapped picture.

    *Gains and matrix.* The last layer of each branch starts at a tenth of its random weights, with
    the bias that gives gains of 1 and XYZ -> sRGB.

    *Colours through the InstanceNorms.* An InstanceNorm takes away mean and contrast, and a
    LeakyReLU one side of what is left. So each colour c travels twice, as +c and -c:

    1. conv1 copies c and -c (centre tap); after norm and activation, `light` holds what is above
       the image's mean and `dark` what is below. They are two straight pieces of a curve.
    2. conv2 mixes ``curve = 0.3 light - dark``, steep in the shadows and flat in the lights like a
       gamma, and sends +curve, -curve and `light` through the second norm.
    3. conv3 puts the picture around 0.42 with slopes 0.30 above and 0.22 below the middle, less a
       shoulder of 0.08 for the brightest.

    The other channels keep their random filters. They do not feed the curve, and count for little
    in conv3, so that the start is a clean picture, and gradients reach every one of them.
    """
    for branch in (isp.white_balance, isp.colour_correction):
        branch.to_parameters.linear.weight.mul_(0.1)
        branch.to_parameters.linear.bias.zero_()
    if isp.config.parametrisation == "free":
        isp.white_balance.to_parameters.linear.bias.fill_(1.0)
        isp.colour_correction.to_parameters.linear.bias.copy_(isp.colour_correction.base.flatten())
    net = isp.shallow
    net.conv3.weight.mul_(_SPARE)
    nn.init.constant_(cast(Tensor, net.conv3.bias), _MIDDLE)
    for colour in range(3):
        light, dark = colour, 3 + colour
        _wire(net.conv1, light, {colour: 1.0})
        _wire(net.conv1, dark, {colour: -1.0})
        above, below, shoulder = colour, 3 + colour, 6 + colour
        _wire(net.conv2, above, {light: _HIGHLIGHT_SLOPE, dark: -1.0})
        _wire(net.conv2, below, {light: -_HIGHLIGHT_SLOPE, dark: 1.0})
        _wire(net.conv2, shoulder, {light: 1.0})
        net.conv3.weight[:, [above, below, shoulder]] = 0.0
        net.conv3.weight[colour, above] = _ABOVE
        net.conv3.weight[colour, below] = -_BELOW
        net.conv3.weight[colour, shoulder] = -_SHOULDER


def _wire(layer: nn.Conv2d, output: int, taps: dict[int, float]) -> None:
    """Make one output channel a weighted sum of input channels, pixel by pixel."""
    layer.weight[output] = 0.0
    for channel, weight in taps.items():
        layer.weight[output, channel, 1, 1] = weight


def _limited(value: Tensor, limit: float) -> Tensor:
    """The value itself near 0, never beyond +-limit."""
    return limit * torch.tanh(value / limit)
