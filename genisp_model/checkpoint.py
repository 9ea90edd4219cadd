"""Checkpoints: one dictionary with everything a run needs to go on as if it had never stopped.

Loaded with ``weights_only=True`` only: a checkpoint from a stranger cannot run code. The file is
what ``torch.save`` writes, so torch reads it too. Behind that stands a comment of the zip archive:
SHA-256 of every byte before it, checked before anything is read.
"""

from __future__ import annotations

import hashlib
import io
import logging
import pickle
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genisp_model.files import whole_file
from genisp_model.isp import ISP
from genisp_model.recipes import RECIPES
from pipeline.errors import TrainingError, UsageError
from schemas.training import TrainConfig

_log = logging.getLogger(__name__)

CHECKPOINT_VERSION = 2
#: Written by earlier versions: no digest, and nothing of the samples or the detector.
_WITHOUT_DIGEST = 1

_COMMENT = b"genisp checkpoint sha256:"
_COMMENT_BYTES = len(_COMMENT) + 64
#: The last record of a zip archive ends with the length of its comment, in 2 bytes.
_NO_COMMENT = struct.pack("<H", 0)

#: Sample -> (digest of its sidecar, digest of what is trained on, "" if that was not read yet).
SampleDigests = dict[str, tuple[str, str]]


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after some number of optimiser steps.

    Attributes
    ----------
    config
        What the run was told.
    step, epoch
        Optimiser steps done; the epoch they led into, counted from 0 as `StreamLoader.epoch`.
    isp, optimiser
        State dictionaries.
    loader
        `StreamLoader.state_dict()`.
    rng, device_rng
        torch's generator on the CPU; that of the CUDA device, if the run is on one.
    best
        Best validation score so far, as the config says which; infinity, or minus infinity for AP,
        before the first.
    samples
        `genisp_model.training.same_store.digests_of` the samples; empty where it is not known.
    detector
        `Guide.state_hash`; "" where it is not known.
    precision
        `Precision.state_dict()`; None where the loss is not scaled.
    since_best
        Validations since the best one.
    average
        State dictionary of the averaged network; None in a run without one.
    """

    config: TrainConfig
    step: int
    epoch: int
    isp: dict[str, Tensor]
    optimiser: dict[str, Any]
    loader: dict[str, Any]
    rng: Tensor
    best: float
    device_rng: Tensor | None = None
    samples: SampleDigests | None = None
    detector: str = ""
    precision: dict[str, Any] | None = None
    since_best: int = 0
    average: dict[str, Tensor] | None = None

    def save(self, path: Path) -> None:
        """Write durably: the old checkpoint stays until the new one is whole.

        Raises
        ------
        TrainingError
            If the file system refuses.
        """
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        fields |= {"version": CHECKPOINT_VERSION, "config": self.config.model_dump_json()}
        written = io.BytesIO()
        torch.save(fields, written)
        with whole_file(path, mend=continue_with(path.with_name("last.pt"))) as temporary:
            temporary.write_bytes(_sealed(written.getvalue()))


def continue_with(last: Path) -> str:
    """The mend of a run that could not write; there is something to go on from or not."""
    again = "free space or fix permissions, then run the same command"
    return (
        f"{again} with --resume: it goes on after the last checkpoint" if last.exists() else again
    )


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; one of an earlier version, which has no digest, with a warning.

    Raises
    ------
    UsageError
        If a folder is named, or something else that is no file.
    TrainingError
        If it is missing, damaged, holds code, or was written by a later version.
    """
    mend = "name a run folder's checkpoints/last.pt or best.pt"
    data = _read(path, mend)
    content, digest = _unsealed(data)
    if digest is not None and digest != hashlib.sha256(content).hexdigest():
        message = "the checkpoint is damaged: its bytes do not fit their SHA-256"
        raise TrainingError(message, path=str(path), mend="take the other of best.pt and last.pt")
    try:
        fields = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        version = fields.pop("version")
        if version not in (_WITHOUT_DIGEST, CHECKPOINT_VERSION):
            raise TrainingError("another checkpoint version", path=str(path), mend=mend)
        if digest is None and version != _WITHOUT_DIGEST:
            message = "the checkpoint is damaged: its SHA-256 is missing"
            raise TrainingError(message, path=str(path), mend=mend)
        config = TrainConfig.model_validate_json(fields.pop("config"))
        checkpoint = Checkpoint(config=config, **fields)
    except TrainingError:
        raise
    except pickle.UnpicklingError as error:
        raise TrainingError("not a checkpoint of tensors", path=str(path), mend=mend) from error
    except Exception as error:  # foreign bytes raise whatever the reader stumbled over
        message = f"not one of our checkpoints, or damaged ({type(error).__name__})"
        raise TrainingError(message, path=str(path), mend=mend) from error
    if digest is None:
        _log.warning("%s: of an earlier version: it has no digest, damage would not show", path)
    return checkpoint


def load_isp(path: Path) -> tuple[ISP, TrainConfig]:
    """The trained network of a checkpoint, in evaluation mode: the average, if it has one.

    Raises
    ------
    UsageError, TrainingError
        As `load_checkpoint`, or if its weights are another architecture's.
    """
    checkpoint = load_checkpoint(path)
    isp = RECIPES[checkpoint.config.recipe].make_isp()
    weights = checkpoint.isp if checkpoint.average is None else checkpoint.average
    try:
        isp.load_state_dict(weights)
    except (RuntimeError, AttributeError, TypeError) as error:
        mend = "use the version of this tool that wrote it"
        message = "its weights are another architecture's"
        raise TrainingError(message, path=str(path), mend=mend) from error
    return isp.eval(), checkpoint.config


def _read(path: Path, mend: str) -> bytes:
    if path.is_dir():
        inside = path / "checkpoints" / "best.pt"
        if inside.is_file():
            mend = f"name a file in it, such as {inside}"
        raise UsageError("a folder is no checkpoint", path=str(path), mend=mend)
    try:
        if path.exists() and not path.is_file():
            raise UsageError("a checkpoint is a file, this is none", path=str(path), mend=mend)
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise TrainingError("there is no checkpoint here", path=str(path), mend=mend) from error
    except OSError as error:
        message = f"cannot be read: {error.strerror or error}"
        raise TrainingError(
            message, path=str(path), mend="check its permissions and disk"
        ) from error


def _sealed(archive: bytes) -> bytes:
    """A zip archive without a comment -> the same with its digest as the comment."""
    if not archive.endswith(_NO_COMMENT):
        raise AssertionError("torch writes no comments")
    content = archive[: -len(_NO_COMMENT)] + struct.pack("<H", _COMMENT_BYTES)
    return content + _COMMENT + hashlib.sha256(content).hexdigest().encode()


def _unsealed(data: bytes) -> tuple[bytes, str | None]:
    """What the digest is about, and the digest; None if there is none."""
    content, comment = data[:-_COMMENT_BYTES], data[-_COMMENT_BYTES:]
    found = re.fullmatch(re.escape(_COMMENT) + rb"([0-9a-f]{64})", comment)
    return (content, found[1].decode()) if found else (data, None)
