"""The frozen detector that guides the network: what it sees wrong in a picture, and what it finds.

    from genisp_model.detector import load_frozen_detector

Open `guide` first: what a guide is, whatever it is made of.

- `frozen`: a torchvision detector that cannot change.
- `engine`: the same losses, gradients and detections of a RetinaNet in less memory and time, made
  of a `frozen_network` (its layers: `convolution`, `group_norm`, `layers`) and `losses`, on a GPU
  also of the Triton `kernels`.
- `weights`: found, checked by SHA-256, and read without running a pickle.
- `stand_in`: a small RetinaNet that knows the sample set; its weights are in `assets`.
"""

from __future__ import annotations

from genisp_model.detector.engine import guide_by
from genisp_model.detector.frozen import FrozenDetector, detector_names, load_frozen_detector
from genisp_model.detector.guide import BatchGuide, Guide

__all__ = [
    "BatchGuide",
    "FrozenDetector",
    "Guide",
    "detector_names",
    "guide_by",
    "load_frozen_detector",
]
