"""Names inside a store: group and sample ids, safe on every file system."""

from __future__ import annotations

import hashlib
import re

from schemas.sidecar import Camera

MAX_ID_LENGTH = 100
_PLAIN_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
#: Device names, which Windows gives to no file, whatever follows the first dot; and what in a
#: store's folder means something else: a file half written, zarr's own metadata.
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?|.*\.tmp-.*|zarr", re.IGNORECASE)
_DIGEST_LENGTHS = (8, 16, 64)


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
