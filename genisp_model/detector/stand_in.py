"""A RetinaNet small enough to be trained on a laptop and committed: the stand-in detector.

It knows the three classes of the sample set and nothing of real photographs. Same parts and losses
as torchvision's RetinaNet, at about a fortieth of the parameters.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

SAMPLE_CLASSES = 4  # 0 background, then COCO's own 1 person, 2 bicycle, 3 car

_WIDTHS = (16, 32, 64, 96, 128)  # channels at strides 2, 4, 8, 16, 32
_PYRAMID = 64  # channels of each pyramid level
_GROUP = 8  # channels a GroupNorm group


def sample_detector(*, min_size: int | None = None, max_size: int | None = None) -> RetinaNet:
    """A RetinaNet with random weights and GroupNorm throughout.

    GroupNorm and not BatchNorm: it trains from scratch with batches of two to four, sees each image
    by itself, and has no running statistics that could drift. FrozenBatchNorm2d would need someone
    else's statistics.

    Parameters
    ----------
    min_size, max_size
        Short and long side an image is resized to, as torchvision does. Without them an image keeps
        its size; about 400 to 800 pixels suit the anchors (16 to 200 pixels).
    """
    pyramid = _TinyPyramid()
    # Square roots of box areas in 612x408 night scenes: 12 to 150 pixels, median 60.
    sizes = tuple((s, round(s * 2 ** (1 / 3)), round(s * 2 ** (2 / 3))) for s in (16, 32, 64, 128))
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
    head = RetinaNetHead(
        _PYRAMID,
        anchors.num_anchors_per_location()[0],
        SAMPLE_CLASSES,
        norm_layer=partial(nn.GroupNorm, _PYRAMID // _GROUP),
    )
    head.regression_head._loss_type = "smooth_l1"
    model = RetinaNet(
        pyramid,
        SAMPLE_CLASSES,
        anchor_generator=anchors,
        head=head,
        min_size=min_size or 800,
        max_size=max_size or 1333,
        detections_per_img=100,
    )
    if min_size is None and max_size is None:
        transform = model.transform
        model.transform = _KeepSize(800, 1333, transform.image_mean, transform.image_std)
    return model


class _TinyPyramid(nn.Module):
    """A residual network with a feature pyramid on its strides 8, 16 and 32, and one level more."""

    out_channels = _PYRAMID

    def __init__(self) -> None:
        super().__init__()
        stem, *widths = _WIDTHS
        self.stem = nn.Sequential(
            nn.Conv2d(3, stem, 3, stride=2, padding=1, bias=False),
            nn.GroupNorm(stem // _GROUP, stem),
            nn.ReLU(inplace=True),
        )
        self.stages = nn.ModuleList(
            _Residual(before, after) for before, after in zip(_WIDTHS, widths, strict=False)
        )
        self.pyramid = FeaturePyramidNetwork(
            list(_WIDTHS[2:]), _PYRAMID, extra_blocks=LastLevelMaxPool()
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W), normalised, sides multiples of 32 -> levels at strides 8, 16, 32, 64."""
        hidden = self.stem(images)  # (B, 16, H/2, W/2)
        features: OrderedDict[str, Tensor] = OrderedDict()
        for number, stage in enumerate(self.stages):
            hidden = stage(hidden)  # (B, 32, H/4, W/4), then 64, 96, 128 at half the size each
            if number > 0:
                features[str(number)] = hidden
        levels: dict[str, Tensor] = self.pyramid(features)  # (B, 64, ...) each
        return levels


class _Residual(nn.Module):
    """Two 3x3 convolutions beside a 1x1 shortcut; halves the image."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
            nn.GroupNorm(after // _GROUP, after),
            nn.ReLU(inplace=True),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            nn.GroupNorm(after // _GROUP, after),
        )
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2, ceil_mode=True),
            nn.Conv2d(before, after, 1, bias=False),
            nn.GroupNorm(after // _GROUP, after),
        )
        self.activation = nn.ReLU(inplace=True)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, after, H/2, W/2)."""
        output: Tensor = self.activation(self.body(hidden) + self.shortcut(hidden))
        return output


class _KeepSize(GeneralizedRCNNTransform):  # type: ignore[misc] # torchvision publishes no types
    """Normalises and pads, but does not resize: the picture is seen pixel for pixel."""

    def resize(
        self, image: Tensor, target: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """As it came."""
        return image, target
