"""Synthetic camera raws with boxes: a small NOD-like set, and raws of any kind for tests.

Nothing here reads a raw, so that the writers are independent of the decoders they test.

Open `dataset` first: the whole set. `scene` draws a street with its boxes, `sensor` turns its light
into a mosaic, `formats` write that as a camera would, `annotation_file` writes the boxes.
"""

from __future__ import annotations

from pipeline.sample_set.dataset import write_sample_set
from pipeline.sample_set.formats.arw import ArwCompression, arw_bytes, encode_arw2, write_arw
from pipeline.sample_set.formats.camera_file import (
    CFA_PATTERNS,
    NIKON_D750,
    SONY_RX100M7,
    CameraFile,
    Cfa,
    Mosaic,
)
from pipeline.sample_set.formats.dng import X_TRANS, DngFile, dng_bytes, write_dng
from pipeline.sample_set.formats.nef import NefCompression, nef_bytes, write_nef
from pipeline.sample_set.scene.composition import Scene, compose_scene
from pipeline.sample_set.scene.render import RenderedScene, render_scene, without_thing
from schemas.sample_set import SampleSetSummary

__all__ = [
    "CFA_PATTERNS",
    "NIKON_D750",
    "SONY_RX100M7",
    "X_TRANS",
    "ArwCompression",
    "CameraFile",
    "Cfa",
    "DngFile",
    "Mosaic",
    "NefCompression",
    "RenderedScene",
    "SampleSetSummary",
    "Scene",
    "arw_bytes",
    "compose_scene",
    "dng_bytes",
    "encode_arw2",
    "nef_bytes",
    "render_scene",
    "without_thing",
    "write_arw",
    "write_dng",
    "write_nef",
    "write_sample_set",
]
