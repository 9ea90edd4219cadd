"""From a store to batches of tensors.

    from genisp_model.data import StoreDataset, StreamLoader

- `dataset`: samples of a store one by one, for notebooks and torch's own `DataLoader`.
- `sample_index`: what is known of the samples without their pixels.
- `loader`: batches for training, decoded by threads of this process. Open it first.
- `order`: which samples make which batch.
- `augment`: changes of an image that carry its boxes along.
- `scale_jitter`: another scale and another part of an image, with its boxes.
- `sensor_augment`: other exposures, noise and colours, as another sensor would have given them.
- `matrix_jitter`: how far cameras' colour matrices differ, and matrices drawn like that.
- `buffers`: memory for images, used again.
"""

from __future__ import annotations

from genisp_model.data.dataset import StoreDataset, Target, collate
from genisp_model.data.loader import Batch, StreamLoader

__all__ = ["Batch", "StoreDataset", "StreamLoader", "Target", "collate"]
