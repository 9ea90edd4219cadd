"""From a store to a trained ISP.

from genisp_model import GenISP, StoreDataset, load_frozen_detector
image, target = StoreDataset("data.zarr", split="train")[0]
"""

from __future__ import annotations

from genisp_model.data import StoreDataset, collate
from genisp_model.data.loader import Batch, StreamLoader
from genisp_model.detector import FrozenDetector, load_frozen_detector
from genisp_model.isp import GenISP, GenISPConfig

__all__ = [
    "Batch",
    "FrozenDetector",
    "GenISP",
    "GenISPConfig",
    "StoreDataset",
    "StreamLoader",
    "collate",
    "load_frozen_detector",
]
