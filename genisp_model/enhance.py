"""What the command ``enhance`` does: pictures that a trained network makes, as files to look at."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, get_args

import numpy as np
import numpy.typing as npt
import torch

from genisp_model.checkpoint import load_isp
from genisp_model.device import Say, choose_device, memory_errors
from genisp_model.files import check_replaceable, output_folder, whole_file
from genisp_model.isp import ISP
from pipeline.errors import GenispError, StoreError, TrainingError, UsageError
from pipeline.store.header import read_root
from pipeline.store.open_files import open_files
from pipeline.store.reader import open_store
from schemas.choices import DEFAULT_DEVICE, DEFAULT_PICTURE_FORMAT, PictureFormat
from schemas.exit_code import ExitCode
from schemas.recipe import Codec, Colour, LevelName, Recipe
from schemas.training import TrainConfig

Picture = npt.NDArray[np.float32]

_FULL = "--level resized, --device cpu, or close other programs"

_SUFFIXES: dict[PictureFormat, str] = {"png": ".png", "tiff": ".tif"}
#: Every order and choice of levels a store may hold.
_LEVEL_SETS: tuple[tuple[LevelName, ...], ...] = tuple(
    levels
    for count in range(1, 1 + len(get_args(LevelName)))
    for levels in itertools.permutations(get_args(LevelName), count)
)


class Negative(Protocol):
    """What a picture is made from."""

    @property
    def xyz(self) -> npt.NDArray[np.float32]:
        """(3, h, w) float32, as stored: 0 black, 1 near white level, noise below 0."""

    @property
    def brightness(self) -> float:
        """The 99th percentile of Y of the whole frame."""


#: Develops a raw file: path, recipe, level. Given from outside: here nothing decodes raws.
Develop = Callable[[str, Recipe, LevelName], Negative]


@dataclass(frozen=True)
class EnhanceOptions:
    """Where pictures come from and go to.

    Parameters
    ----------
    store
        The inputs are ids of its samples; None: they are raw files.
    level
        None: the one the network was trained on.
    output_dir
        Made if missing; one file an input, named after it.
    format
        ``"png"`` has 8 bits a colour, ``"tiff"`` 16.
    overwrite
        Replace pictures that are there.
    """

    store: str | None = None
    level: LevelName | None = None
    output_dir: Path = Path()
    format: PictureFormat = DEFAULT_PICTURE_FORMAT
    device: str = DEFAULT_DEVICE
    overwrite: bool = False


@dataclass(frozen=True)
class _Stored:
    xyz: npt.NDArray[np.float32]
    brightness: float


def run_enhance(
    inputs: Sequence[str],
    checkpoint: Path,
    how: EnhanceOptions,
    develop: Develop,
    *,
    say: Say,
    warn: Say,
) -> ExitCode:
    """Make one picture an input; `ExitCode.SOURCES_FAILED` if some inputs could not be read.

    Raises
    ------
    UsageError
        If pictures are there already, two inputs have one name, or the store's colour is not the
        network's. Nothing is written then.
    TrainingError
        If the checkpoint is not one of ours, or its network makes no numbers.
    NoStoreError
        If there is no store.
    """
    paths = picture_paths(inputs, how)
    isp, config = load_isp(checkpoint)
    device = choose_device(how.device, lambda _: None)
    with memory_errors(device, "for the network", mend=_FULL):
        isp = isp.to(device)
    read = _reader(config, how, develop, warn)
    output_folder(how.output_dir, mend="fix permissions, or name another --output-dir")
    failed = 0
    for name, path in zip(inputs, paths, strict=True):
        try:
            negative = read(name)
        except GenispError as error:
            failed += 1
            warn(f"failed: {error}" + (f"\n  mend: {error.mend}" if error.mend else ""))
            continue
        with memory_errors(device, "for its picture", mend=_FULL, path=name):
            picture = render(isp, negative.xyz, negative.brightness)
        write_picture(picture, path, how.format)
        say(f"{path} ({picture.shape[1]}x{picture.shape[0]})")
    if failed:
        warn(f"{failed} of {len(inputs)} inputs failed")
    return ExitCode.SOURCES_FAILED if failed else ExitCode.DONE


def picture_paths(inputs: Sequence[str], how: EnhanceOptions) -> list[Path]:
    """One path an input, all different, none taken.

    Raises
    ------
    UsageError
        If two inputs would have one path, or a picture is there already.
    """
    # An id may be "group/stem"; a raw file is named by its stem.
    names = [name.replace("/", "_") if how.store else Path(name).stem for name in inputs]
    paths = [how.output_dir / f"{name}{_SUFFIXES[how.format]}" for name in names]
    first: dict[Path, str] = {}
    for path, name in zip(paths, inputs, strict=True):
        if path in first:
            message = f"{first[path]} and {name} would both be written here"
            mend = "enhance them one by one, into different --output-dir"
            raise UsageError(message, path=str(path), mend=mend)
        first[path] = name
        if path.exists() and not how.overwrite:
            mend = "add --overwrite to replace it, or name another --output-dir"
            raise UsageError("there is a file already", path=str(path), mend=mend)
        check_replaceable(path)
    return paths


def training_recipe(config: TrainConfig) -> Recipe | None:
    """The recipe of the store a network was trained on; None if it is not to be found out.

    The checkpoint holds the fingerprint only. The store may still be there; else the recipe is
    looked for among those with the default fit.
    """
    with suppress(StoreError, UsageError, OSError):
        recipe, _ = read_root(open_files(config.store))
        if recipe.fingerprint == config.store_fingerprint:
            return recipe
    for colour, levels, codec in itertools.product(get_args(Colour), _LEVEL_SETS, get_args(Codec)):
        recipe = Recipe(colour=colour, levels=levels, codec=codec)
        if recipe.fingerprint == config.store_fingerprint:
            return recipe
    return None


def render(isp: ISP, xyz: npt.NDArray[np.float32], brightness: float) -> Picture:
    """The picture of one frame.

    Parameters
    ----------
    isp
        In evaluation mode, on its device.
    xyz
        (3, h, w) float32.
    brightness
        The 99th percentile of Y of the whole frame.

    Returns
    -------
    (h, w, 3) float32 RGB, clamped to 0..1.

    Raises
    ------
    TrainingError
        If the network makes values that are no numbers.
    """
    device = next(isp.parameters()).device
    batch = torch.from_numpy(xyz).to(device)[None]  # (1, 3, h, w)
    scale = torch.tensor([brightness], device=device)  # (1,)
    with torch.inference_mode():
        image = isp(batch, scale)[0].clamp(0, 1)  # (3, h, w)
    if not bool(image.isfinite().all()):
        mend = "its training diverged: take an earlier checkpoint"
        raise TrainingError("the network's picture holds values that are no numbers", mend=mend)
    return np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())


def write_picture(picture: Picture, path: Path, format: PictureFormat) -> None:
    """Write (h, w, 3) values in 0..1; `path` is the old file or the whole new one, never half.

    Raises
    ------
    TrainingError
        If the file system refuses.
    """
    mend = (
        "free space or fix permissions, then run the command for the inputs that are left, or for "
        "all of them with --overwrite"
    )
    with whole_file(path, mend=mend) as temporary:
        if format == "png":
            from PIL import Image

            Image.fromarray(np.rint(picture * 255).astype(np.uint8)).save(temporary, "PNG")
        else:
            import tifffile

            codes = np.rint(picture * 65535).astype(np.uint16)
            tifffile.imwrite(temporary, codes, photometric="rgb", compression="zlib")


def _reader(
    config: TrainConfig, how: EnhanceOptions, develop: Develop, warn: Say
) -> Callable[[str], Negative]:
    level, recipe = how.level or config.level, training_recipe(config)
    if how.store is None:
        if recipe is None:
            recipe = Recipe()
            warn(f"the network's own recipe is not known any more; used: {recipe.describe()}")
        known = recipe
        return lambda path: develop(path, known, level)
    store = open_store(how.store)
    if recipe is not None and recipe.colour != store.recipe.colour:
        message = f"it holds {store.recipe.colour}, the network was trained on {recipe.colour}"
        raise UsageError(message, path=how.store, mend="name a store of the same --colour")
    plane = store.recipe.brightness_plane

    def read(sample_id: str) -> Negative:
        sample = store.read(sample_id, level)
        return _Stored(sample.xyz, sample.sidecar.levels[level].statistics[plane].p99)

    return read
