"""What people stream images from instead: one writer and one reader each, for `benchmarks.peers`.

Every writer gets the same images, uint16 (3, h, w), and writes them as the peer's documentation
recommends. Every reader yields an epoch of shuffled batches: torch tensors (2, 3, h, w) of the same
uint16 codes. Peers are imported where they are used: none is needed but the one that is measured.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, default_collate

from schemas.recipe import LevelName

BATCH = 2
LEVEL: LevelName = "resized"
SHARD_BYTES = 64 << 20  # litdata's and MDS's default; some eleven images
AHEAD = 2  # batches; what our own loader reads ahead

Epoch = Callable[[], Iterable[Tensor]]


@dataclass(frozen=True)
class Images:
    """The images as they are given to every peer.

    Attributes
    ----------
    store
        Our store: every sample one image of one group.
    array
        Path of the same codes as one ``.npy`` file, uint16 (n, 3, h, w).
    """

    store: Path
    array: Path

    def codes(self) -> npt.NDArray[np.uint16]:
        """The array, mapped."""
        codes: npt.NDArray[np.uint16] = np.load(self.array, mmap_mode="r")
        return codes


@dataclass(frozen=True)
class Peer:
    """One way to store and read the images.

    Attributes
    ----------
    name
        Row title.
    packages
        Distributions it needs, the one that reads first.
    write
        (images, folder) -> what `read` opens; a peer that reads our store returns that.
    read
        (path, worker processes) -> epochs.
    workers
        Numbers of worker processes it is measured with: 0, and more where that is the way to use
        it. Only what is safe: tensorstore and zarrs hang or abort under fork, and have threads.
    slow
        Some 10 to 50 images a second: a third of the images are enough.
    own_zarr
        It needs zarr 2, which has a folder of its own.
    mend
        Why it may be missing.
    """

    name: str
    packages: tuple[str, ...]
    write: Callable[[Images, Path], Path]
    read: Callable[[Path, int], Epoch]
    workers: tuple[int, ...] = (0, 2)
    slow: bool = False
    own_zarr: bool = False
    mend: str = "make bench-peers installs it"


def peers() -> tuple[Peer, ...]:
    """All of them."""
    return (
        Peer("memmap, uncopied", ("numpy",), our_array, read_mapped, (0,)),
        Peer("npy files", ("numpy",), write_npy, read_npy, (0,)),
        Peer("PNG16 + OpenCV", ("opencv-python-headless",), write_png, read_png, slow=True),
        Peer("LitData", ("litdata",), write_litdata, read_litdata),
        Peer(
            "LitData zstd",
            ("litdata", "zstd"),
            partial(write_litdata, zstd=True),
            read_litdata,
            slow=True,
        ),
        Peer("MDS", ("mosaicml-streaming",), write_mds, read_mds),
        Peer("MDS zstd", ("mosaicml-streaming", "zstd"), partial(write_mds, zstd=True), read_mds),
        Peer("WebDataset", ("webdataset",), write_webdataset, read_webdataset),
        Peer("zarr-python, our store", ("zarr",), our_store, read_zarr),
        Peer("zarrs, our store", ("zarrs", "zarr"), our_store, read_zarrs, (0,)),
        Peer("tensorstore, our store", ("tensorstore",), our_store, read_tensorstore, (0,)),
        Peer(
            f"tensorstore, {AHEAD} batches ahead",
            ("tensorstore",),
            our_store,
            read_tensorstore_ahead,
            (0,),
        ),
        Peer(
            "zarrdataset, zarr 2 copy",
            ("zarrdataset", "zarr"),
            write_zarr2,
            read_zarrdataset,
            own_zarr=True,
        ),
        Peer("FFCV", ("ffcv",), our_store, unwritten, mend="pip cannot build it without OpenCV"),
    )


def our_store(images: Images, folder: Path) -> Path:
    """Nothing to write: zarr v3 readers read what `prep ingest` wrote."""
    return images.store


def unwritten(path: Path, workers: int) -> Epoch:
    """For a peer nobody could try here."""
    raise NotImplementedError("nothing here reads this format")


def array_path(store: Path) -> str:
    """``GROUP/LEVEL`` of a store with one group."""
    (found,) = store.glob(f"*/{LEVEL}/zarr.json")
    return str(found.parent.relative_to(store))


def spawned(workers: int) -> dict[str, Any]:
    """DataLoader arguments for workers that may not be forked; they live for all epochs."""
    if workers == 0:
        return {}
    return {
        "num_workers": workers,
        "multiprocessing_context": "spawn",
        "persistent_workers": True,
    }


class Rows(Dataset[Tensor]):
    """A map-style dataset that reads whole batches: ``dataset[[3, 7]]`` is (2, 3, h, w)."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __len__(self) -> int:
        raise NotImplementedError

    def loader(self, workers: int) -> DataLoader[Tensor]:
        """Shuffled batches, as torch documents it for datasets that read batches."""
        sampler = BatchSampler(RandomSampler(range(len(self))), BATCH, drop_last=False)
        return DataLoader(self, batch_size=None, sampler=sampler, **spawned(workers))


# One file for all, or one file an image.


class Mapped(Dataset[Tensor]):
    """Images as they lie in a memory map; private, so that torch takes them for writable."""

    def __init__(self, array: Path) -> None:
        self.images = np.load(array, mmap_mode="c")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> Tensor:
        return torch.from_numpy(self.images[row])


def our_array(images: Images, folder: Path) -> Path:
    """Nothing to write: the array is there."""
    return images.array


def read_mapped(array: Path, workers: int) -> Epoch:
    """The yardstick without its copy: torch's collate reads the map itself."""
    loader = DataLoader(Mapped(array), BATCH, shuffle=True, **spawned(workers))
    return lambda: loader


class Files(Dataset[Tensor]):
    """One file an image, read by a function."""

    def __init__(self, folder: Path, pattern: str, read: Callable[[str], Tensor]) -> None:
        self.files = [str(path) for path in sorted(folder.glob(pattern))]
        self.read = read

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> Tensor:
        return self.read(self.files[row])


def write_npy(images: Images, folder: Path) -> Path:
    """One .npy file an image."""
    for row, image in enumerate(images.codes()):
        np.save(folder / f"{row:05}.npy", image)
    return folder


def _npy(file: str) -> Tensor:
    return torch.from_numpy(np.load(file))


def read_npy(folder: Path, workers: int) -> Epoch:
    """np.load in an ordinary DataLoader."""
    loader = DataLoader(Files(folder, "*.npy", _npy), BATCH, shuffle=True, **spawned(workers))
    return lambda: loader


def write_png(images: Images, folder: Path) -> Path:
    """One 16-bit PNG an image, OpenCV's own settings; X, Y, Z where it expects B, G, R."""
    import cv2

    for row, image in enumerate(images.codes()):
        cv2.imwrite(str(folder / f"{row:05}.png"), np.ascontiguousarray(image.transpose(1, 2, 0)))
    return folder


def _png(file: str) -> Tensor:
    import cv2

    pixels = cv2.imread(file, cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError(f"OpenCV cannot read {file}")
    return torch.from_numpy(pixels).permute(2, 0, 1)


def read_png(folder: Path, workers: int) -> Epoch:
    """cv2.imread in an ordinary DataLoader; its collate makes planes of the pixels."""
    loader = DataLoader(Files(folder, "*.png", _png), BATCH, shuffle=True, **spawned(workers))
    return lambda: loader


# Chunked formats of their own.


def write_litdata(images: Images, folder: Path, *, zstd: bool = False) -> Path:
    """`litdata.optimize` from torch tensors, which it reads back without a copy."""
    import litdata

    litdata.optimize(
        fn=partial(_tensor_of, images.array),
        inputs=list(range(len(images.codes()))),
        output_dir=str(folder / "data"),
        chunk_bytes=SHARD_BYTES,
        compression="zstd" if zstd else None,
        num_workers=1,
        verbose=False,
    )
    return folder / "data"


def _tensor_of(array: Path, row: int) -> Tensor:
    return torch.from_numpy(np.array(np.load(array, mmap_mode="r")[row]))


def read_litdata(folder: Path, workers: int) -> Epoch:
    """Its own dataset and loader."""
    import litdata

    dataset = litdata.StreamingDataset(str(folder), shuffle=True)
    loader = litdata.StreamingDataLoader(
        dataset, batch_size=BATCH, num_workers=workers, persistent_workers=workers > 0
    )
    return lambda: loader


def write_mds(images: Images, folder: Path, *, zstd: bool = False) -> Path:
    """MDS shards with one column of known shape."""
    from streaming import MDSWriter

    codes = images.codes()
    shape = ",".join(map(str, codes.shape[1:]))
    with MDSWriter(
        out=str(folder / "data"),
        columns={"image": f"ndarray:uint16:{shape}"},
        compression="zstd" if zstd else None,
        hashes=["xxh3_64"],
        size_limit=SHARD_BYTES,
    ) as writer:
        for image in codes:
            writer.write({"image": np.array(image)})
    return folder / "data"


def read_mds(folder: Path, workers: int) -> Epoch:
    """Its own dataset in torch's loader."""
    from streaming import StreamingDataset

    dataset = StreamingDataset(local=str(folder), shuffle=True, batch_size=BATCH)
    loader = DataLoader(dataset, BATCH, num_workers=workers, persistent_workers=workers > 0)
    return lambda: (batch["image"] for batch in loader)


def write_webdataset(images: Images, folder: Path) -> Path:
    """Tar shards of .npy members."""
    import webdataset

    with webdataset.ShardWriter(str(folder / "%05d.tar"), maxsize=SHARD_BYTES, verbose=0) as writer:
        for row, image in enumerate(images.codes()):
            writer.write({"__key__": f"{row:05}", "npy": np.array(image)})
    return folder


def read_webdataset(folder: Path, workers: int) -> Epoch:
    """Shards in random order, a shuffle buffer of a shard and a half, batches made in the pipe."""
    import webdataset

    shards = [str(path) for path in sorted(folder.glob("*.tar"))]
    dataset = (
        webdataset.WebDataset(shards, shardshuffle=len(shards), empty_check=False)
        .shuffle(16)
        .decode()
        .to_tuple("npy")
        .batched(BATCH, collation_fn=_stacked)
    )
    loader = webdataset.WebLoader(
        dataset, batch_size=None, num_workers=workers, persistent_workers=workers > 0
    )
    return lambda: loader


def _stacked(samples: list[tuple[npt.NDArray[np.uint16]]]) -> Tensor:
    batch: Tensor = default_collate([image for (image,) in samples])
    return batch


# Other readers of our store.


class ZarrImages(Dataset[Tensor]):
    """zarr-python, an image at a time.

    Not ``array.oindex[rows]`` for a batch: zarr-python is five times slower at that.
    """

    def __init__(self, path: Path) -> None:
        import zarr

        self.array: Any = zarr.open_group(path, mode="r")[array_path(path)]

    def __len__(self) -> int:
        return int(self.array.shape[0])

    def __getitem__(self, row: int) -> Tensor:
        return torch.from_numpy(self.array[row])


def read_zarr(store: Path, workers: int) -> Epoch:
    """zarr-python in an ordinary DataLoader."""
    loader = DataLoader(ZarrImages(store), BATCH, shuffle=True, **spawned(workers))
    return lambda: loader


class ZarrsRows(Rows):
    """zarrs, which replaces zarr-python's codecs, a batch at a time: its threads share a call."""

    def __init__(self, path: Path) -> None:
        import zarr
        import zarrs

        del zarrs  # the import registers it
        zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
        super().__init__(path)
        self.array: Any = zarr.open_group(path, mode="r")[array_path(path)]

    def __len__(self) -> int:
        return int(self.array.shape[0])

    def __getitem__(self, rows: list[int]) -> Tensor:
        return torch.from_numpy(self.array.oindex[rows])


def read_zarrs(store: Path, workers: int) -> Epoch:
    """zarrs in torch's loader."""
    loader = ZarrsRows(store).loader(workers)
    return lambda: loader


class TensorstoreRows(Rows):
    """tensorstore, a batch at a time: it reads the chunks of one call in its threads."""

    def __init__(self, path: Path) -> None:
        import tensorstore

        super().__init__(path)
        place = {"driver": "file", "path": str(path / array_path(path))}
        self.array: Any = tensorstore.open({"driver": "zarr3", "kvstore": place}).result()

    def __len__(self) -> int:
        return int(self.array.shape[0])

    def __getitem__(self, rows: list[int]) -> Tensor:
        return torch.from_numpy(self.start(rows).result())

    def start(self, rows: list[int]) -> Any:
        """A future of the batch's array."""
        return self.array[np.array(rows)].read()


def read_tensorstore(store: Path, workers: int) -> Epoch:
    """In torch's loader, which waits for every batch."""
    loader = TensorstoreRows(store).loader(workers)
    return lambda: loader


def read_tensorstore_ahead(store: Path, workers: int) -> Epoch:
    """Its futures used: the next batches are read while one is in use."""
    dataset = TensorstoreRows(store)

    def epoch() -> Iterator[Tensor]:
        ahead: deque[Any] = deque()
        for rows in BatchSampler(RandomSampler(range(len(dataset))), BATCH, drop_last=False):
            ahead.append(dataset.start(rows))
            if len(ahead) > AHEAD:
                yield torch.from_numpy(ahead.popleft().result())
        while ahead:
            yield torch.from_numpy(ahead.popleft().result())

    return epoch


def write_zarr2(images: Images, folder: Path) -> Path:
    """One zarr 2 array an image, compressed as in our store; zarrdataset cannot import zarr 3."""
    import numcodecs
    import zarr

    save: Any = zarr.save_array  # zarr 2's; types are those of zarr 3
    compressor = numcodecs.Blosc("lz4", 5, numcodecs.Blosc.BITSHUFFLE)
    for row, image in enumerate(images.codes()):
        path = str(folder / f"{row:05}.zarr")
        save(path, np.array(image), chunks=image.shape, compressor=compressor)
    return folder


def read_zarrdataset(folder: Path, workers: int) -> Epoch:
    """Whole images, as its documentation passes them to torch's loader.

    It keeps every image it has read in memory: a new dataset for every epoch, or later epochs would
    read nothing.
    """
    import zarrdataset

    files = [str(path) for path in sorted(folder.glob("*.zarr"))]

    def epoch() -> Iterable[Tensor]:
        images = zarrdataset.ImagesDatasetSpecs(filenames=files, source_axes="CYX")
        dataset = zarrdataset.ZarrDataset([images], shuffle=True)
        return DataLoader(
            dataset,
            BATCH,
            num_workers=workers,
            worker_init_fn=zarrdataset.zarrdataset_worker_init_fn,
        )

    return epoch


def disk_bytes(path: Path, level: str = LEVEL) -> int:
    """Bytes of a peer's files; of a store, of the arrays of one level."""
    if path.is_file():
        return path.stat().st_size
    stores = list(path.glob(f"*/{level}"))
    return sum(f.stat().st_size for top in stores or [path] for f in top.rglob("*") if f.is_file())
