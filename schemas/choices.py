"""What a user can choose: the words of each choice, and what is chosen unless an option says so.

The models (`schemas.recipe`, `schemas.training`) and the command line both take them from here.
Only typing is imported, so that ``--help`` needs no pydantic.
"""

from __future__ import annotations

from typing import Final, Literal

Colour = Literal["xyz", "xyz-balanced", "camera"]
LevelName = Literal["packed", "resized"]
Codec = Literal["lz4", "zstd"]
#: Who decoded a mosaic, as sidecars record it. ``"genisp"`` is the project's own code for ARW2 and
#: lossless NEF. `pipeline.raw.decoders.table` has an entry for each name.
DecoderName = Literal["libraw", "flashraw", "genisp"]
#: All fast decoders with cross-checks, or one decoder for every file.
DecoderChoice = Literal["auto", "libraw", "flashraw"]
TrainRecipeName = Literal["default", "paper", "report"]
BoxLoss = Literal["smooth_l1", "giou", "l1"]
BestBy = Literal["loss", "ap"]
Schedule = Literal["step", "cosine", "constant"]
Speedup = Literal[
    "fused-adam",
    "fused-detector",
    "cudnn-benchmark",
    "channels-last-isp",
    "channels-last-detector",
    "compile-isp",
    "cuda-graph",
]
#: On the command line beside them: those that are known to pay on the device.
AUTO: Final = "auto"
#: What autocast computes in: bfloat16, or float16 with a scaled loss.
Amp = Literal["bf16", "fp16"]
PictureFormat = Literal["png", "tiff"]

DEFAULT_STORE: Final = "data.zarr"

DEFAULT_COLOUR: Final[Colour] = "xyz"
DEFAULT_LEVELS: Final[tuple[LevelName, ...]] = ("packed", "resized")
#: (long side, short side) in pixels
DEFAULT_FIT: Final = (1333, 800)
DEFAULT_CODEC: Final[Codec] = "lz4"
DEFAULT_DECODER: Final[DecoderChoice] = "auto"
#: Seconds a raw may take.
DEFAULT_TIME_LIMIT: Final = 120.0

DEFAULT_TRAIN_SPLIT: Final = "train"
DEFAULT_VAL_SPLIT: Final = "val"
#: The level that is trained on and scored.
DEFAULT_LEVEL: Final[LevelName] = "resized"
DEFAULT_TRAIN_RECIPE: Final[TrainRecipeName] = "default"
DEFAULT_DETECTOR: Final = "retinanet_resnet50_fpn_v2"
DEFAULT_DETECTOR_WEIGHTS: Final = "COCO_V1"
DEFAULT_BOX_LOSS: Final[BoxLoss] = "smooth_l1"
DEFAULT_BEST_BY: Final[BestBy] = "loss"
DEFAULT_SCHEDULE: Final[Schedule] = "step"

DEFAULT_DEVICE: Final = "auto"
DEFAULT_PICTURE_FORMAT: Final[PictureFormat] = "png"
