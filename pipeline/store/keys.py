"""Where in a store what is, and what groups and samples are called: safe on every file system."""

from __future__ import annotations

import hashlib
import re
from typing import get_args

from schemas.recipe import LevelName
from schemas.sidecar import Camera

METADATA_NAME = "zarr.json"
MANIFEST_NAME = "manifest.jsonl"
PLACES_NAME = ".places.json"
SIDECARS = "sidecars"
_CHUNK_NAME = re.compile(r"c\.(0|[1-9][0-9]{0,15})\.0\.0\.0")

MAX_ID_LENGTH = 100
_PLAIN_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
#: Device names, which Windows gives to no file, whatever follows the first dot; and what in a
#: store's folder means something else: a file half written, zarr's own metadata.
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?|.*\.tmp-.*|zarr", re.IGNORECASE)
_DIGEST_LENGTHS = (8, 16, 64)

#: What `group_name` makes; other folders in a store are left alone.
GROUP_NAME = re.compile(r"[a-z0-9][a-z0-9-]*_[1-9][0-9]*x[1-9][0-9]*")

LEVELS: tuple[LevelName, ...] = get_args(LevelName)


def group_name(camera: Camera, frame_size: tuple[int, int]) -> str:
    """``"sony-dsc-rx100m7_5472x3648"``: brand, model and the frame's (width, height)."""
    brand = camera.make.split(" ")[0]
    model = camera.model
    if model.casefold().startswith(brand.casefold()):
        model = model[len(brand) :]
    words = re.findall(r"[a-z0-9]+", f"{brand} {model}".lower()) or ["unknown"]
    return f"{'-'.join(words)[:MAX_ID_LENGTH]}_{frame_size[0]}x{frame_size[1]}"


def sample_id(stem: str, source_name: str, taken: set[str]) -> str:
    """A sample's id: the raw's stem, made safe, and made unique within its group.

    Parameters
    ----------
    stem
        The raw's file name without suffix.
    source_name
        The source's whole label: what is appended in case of need depends on it alone.
    taken
        Case-folded ids already in the group, for file systems that ignore case.
    """
    plain = _PLAIN_ID.fullmatch(stem) is not None and len(stem) <= MAX_ID_LENGTH
    if plain and stem.casefold() not in taken and not _RESERVED.fullmatch(stem):
        return stem
    safe = re.sub(r"[^A-Za-z0-9_-]+", "_", stem).lstrip("-")
    hashed = source_name.encode(errors="surrogatepass")
    while True:
        digest = hashlib.sha256(hashed).hexdigest()
        # Longer only where the short one is taken: another file may be called just that.
        for length in _DIGEST_LENGTHS:
            name = f"{safe[: MAX_ID_LENGTH - length - 1] or 'sample'}-{digest[:length]}"
            if name.casefold() not in taken:
                return name
        hashed += b"\0"  # someone knows the digest, and calls files by all its forms


def chunk_key(group: str, level: LevelName, row: int) -> str:
    """Where a row's chunk is: zarr's default key encoding with "." as separator, flat folders."""
    return f"{group}/{level}/c.{row}.0.0.0"


def chunk_row(name: str) -> int | None:
    """The row whose chunk a file of this name is; None if it is no chunk's name."""
    found = _CHUNK_NAME.fullmatch(name)
    return int(found[1]) if found else None


def sidecar_key(group: str, sample_id: str) -> str:
    """Where a sample's sidecar is."""
    return f"{group}/{SIDECARS}/{sample_id}.json"


def is_chunk(key: str) -> bool:
    """Whether this is where some row's chunk would be."""
    folder, _, name = key.rpartition("/")
    group, _, level = folder.partition("/")
    return bool(GROUP_NAME.fullmatch(group)) and level in LEVELS and chunk_row(name) is not None


def is_key(key: str) -> bool:
    """Whether a store may have a file of ours here, by its full name and place."""
    group, _, rest = key.partition("/")
    if not rest:
        return key in (METADATA_NAME, MANIFEST_NAME, PLACES_NAME)
    if not GROUP_NAME.fullmatch(group):
        return False
    folder, _, name = rest.rpartition("/")
    if folder == SIDECARS:
        stem, dot, suffix = name.rpartition(".")
        plain = _PLAIN_ID.fullmatch(stem) is not None and not _RESERVED.fullmatch(stem)
        return dot + suffix == ".json" and plain
    return (name == METADATA_NAME and folder in ("", *LEVELS)) or is_chunk(key)
