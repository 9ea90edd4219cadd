"""Detector weights: found, checked by SHA-256, and read without ever running a pickle."""

from __future__ import annotations

import hashlib
import http.client
import logging
import re
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from pipeline.errors import GenispError, UsageError

_log = logging.getLogger(__name__)

_FEWEST_DIGITS = 8  # of a SHA-256: what torchvision puts into a file name


def published_weights(weights: WeightsEnum) -> Path:
    """The file of torchvision's published weights: from torch's cache, else downloaded into it.

    torchvision's own loader would unpickle the file and trust a cached copy; here both the copy
    and the download must have the hash that is part of the file's name.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / file_name(weights)
    prefix = _hash_in_name(path.name)
    if path.is_file():
        check_sha256(path, prefix, mend="the copy in torch's cache is damaged: delete it")
        return path
    _log.info("downloading %s to %s", weights.url, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(weights.url, str(path), prefix, progress=False)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise GenispError(
            f"the detector's weights are not there and could not be downloaded ({error})",
            path=str(path),
            mend=f"fetch {weights.url} on a machine with internet access, then put {path.name} "
            f"into {path.parent}, or name it: --detector-weights PATH",
        ) from error
    return path


def file_name(weights: WeightsEnum) -> str:
    """File name of published weights, such as ``..._coco-5905b1c5.pth``."""
    return PurePosixPath(urlsplit(weights.url).path).name


def read_weights(path: Path, *, sha256: str | None = None) -> dict[str, Tensor]:
    """Read a state dict.

    Parameters
    ----------
    path
        ``.safetensors``, or what ``torch.save(model.state_dict())`` wrote. Anything in it that is
        not plain data is refused, not run.
    sha256
        Digest the file must have, or its first eight digits or more.

    Returns
    -------
    dict
        Parameter and buffer name -> tensor, on the CPU.
    """
    if not path.is_file():
        raise GenispError(
            "there is no such file of detector weights",
            path=str(path),
            mend="name a .safetensors or .pth file: --detector-weights PATH",
        )
    if sha256 is not None:
        check_sha256(path, sha256, mend="this is not the file that was meant, or it is damaged")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: object = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # foreign bytes raise whatever the reader stumbled over
        raise GenispError(
            f"not a readable file of weights ({type(error).__name__}: {_first_line(error)})",
            path=str(path),
            mend="it must be .safetensors, or a plain state dict that "
            "torch.load(..., weights_only=True) accepts; download it again if it was one",
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise GenispError(
            "the file holds no state dict (names and tensors)",
            path=str(path),
            mend="save it with torch.save(model.state_dict(), PATH)",
        )
    return state


def check_sha256(path: Path, expected: str, *, mend: str) -> None:
    """Refuse a file whose SHA-256 does not start with `expected` (8 to 64 hex digits)."""
    expected = expected.lower()
    if not re.fullmatch(rf"[0-9a-f]{{{_FEWEST_DIGITS},64}}", expected):
        raise UsageError(f"{expected!r} is no SHA-256", mend="8 to 64 hexadecimal digits")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(expected):
        raise GenispError(
            f"SHA-256 is {found}, expected {expected}{'...' * (len(expected) < 64)}",
            path=str(path),
            mend=mend,
        )


def install_weights(model: nn.Module, state: dict[str, Tensor], *, path: Path, name: str) -> None:
    """Load a state dict into the model; every parameter and statistic must be met exactly.

    Only BatchNorm's step counter may be missing or superfluous: FrozenBatchNorm2d, which some
    published weights were saved from, has none, and nothing here reads it.
    """
    try:
        report = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        wrong = [line.strip() for line in str(error).splitlines()[1:]]
        raise _mismatch(path, name, f"{len(wrong)} shapes differ, first: {wrong[0]}") from error
    missing = [key for key in report.missing_keys if not _is_step_counter(key)]
    superfluous = [key for key in report.unexpected_keys if not _is_step_counter(key)]
    if missing or superfluous:
        parts = [
            f"{len(keys)} {word}, first: {keys[0]}"
            for word, keys in (("missing", missing), ("unknown", superfluous))
            if keys
        ]
        raise _mismatch(path, name, "; ".join(parts))


def state_hash(module: nn.Module) -> str:
    """SHA-256, in hex, over name, type, shape and bytes of every parameter and buffer."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _mismatch(path: Path, name: str, what: str) -> GenispError:
    return GenispError(
        f"these are not the weights of a {name} ({what})",
        path=str(path),
        mend="name the detector they belong to, or the weights that belong to the detector",
    )


def _hash_in_name(name: str) -> str:
    match = re.search(r"-([0-9a-f]{8,})\.", name)
    if match is None:
        raise GenispError("the name of the published weights carries no hash", path=name)
    return match[1]


def _is_step_counter(key: str) -> bool:
    return key.rpartition(".")[2] == "num_batches_tracked"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")
