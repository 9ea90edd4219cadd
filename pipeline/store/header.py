"""How a store was made: its recipe and versions, which two files say, and what if they do not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress

from pipeline.errors import DamagedStoreError, IncompatibleStoreError, NoStoreError
from pipeline.safe_text import printable
from pipeline.store.files import StoreFiles, foreign
from pipeline.store.keys import MANIFEST_NAME, METADATA_NAME, PLACES_NAME
from pipeline.store.local.lock import LOCK_FILES
from pipeline.store.manifest import read_header, sealed_header
from pipeline.store.samples import committed, read_sidecar
from schemas.manifest import ManifestHeader
from schemas.recipe import Recipe
from schemas.sidecar import FORMAT, FORMAT_VERSION


def read_root(files: StoreFiles) -> tuple[Recipe, dict[str, str]]:
    """Recipe and versions, from the root metadata or the manifest.

    The two say the same. If they do not, one is damaged: the root metadata, unless the manifest's
    digest does not fit, or the samples were made with the root's recipe and not the manifest's.

    Raises
    ------
    NoStoreError
        If there is nothing, or something else.
    IncompatibleStoreError
        If the format version is not 2.
    DamagedStoreError
        If there are samples, but neither file says how they were made.
    """
    manifest = _bytes(files, MANIFEST_NAME)
    version, root = _root_header(_bytes(files, METADATA_NAME))
    sealed = sealed_header(manifest)
    headers = [one for one in (sealed, root, read_header(manifest)) if one and one.format == FORMAT]
    usable = [one for one in headers if one.format_version == FORMAT_VERSION]
    foreign = {version, *(str(one.format_version) for one in headers)} - {"", str(FORMAT_VERSION)}
    # A store of another version has no samples that can be read; damage to one digit leaves them.
    if foreign and sealed not in usable and not any(_fingerprints(files)):
        raise _other_version(files, foreign)
    if not usable:
        raise _no_header(files)
    if len({one.recipe for one in usable}) > 1:
        used = next(_fingerprints(files), "")
        usable.sort(key=lambda one: one.recipe.fingerprint != used)
    return usable[0].recipe, usable[0].versions


def store_recipe(files: StoreFiles, wanted: Recipe) -> dict[str, str]:
    """Check that a path can take samples of a recipe; the versions of the store there, or {}.

    Raises
    ------
    IncompatibleStoreError
        If the store there was made with another recipe.
    NoStoreError
        If it holds anything that is not ours, and is no store.
    StoreError
        If it cannot be reached, as a link that leads nowhere.
    DamagedStoreError
        If it does not say how its samples were made, and they were not all made like this.
    """
    files.require_usable()
    held = [name for name in files.names() if name not in {*LOCK_FILES, PLACES_NAME}]
    if not held:
        return {}
    try:
        recipe, versions = read_root(files)
    except NoStoreError:
        raise _occupied(files, held) from None
    except DamagedStoreError:
        # Both files that describe the store are gone, but every sample knows its recipe.
        if not made_with(files, wanted):
            raise
        return {}
    if recipe != wanted:
        raise IncompatibleStoreError(
            "the store was made with another recipe"
            f"\n  store: {recipe.describe()}\n  asked: {wanted.describe()}",
            path=files.location(),
            mend="use the store's own options, or another --store for the new recipe",
        )
    return versions


def _bytes(files: StoreFiles, key: str) -> bytes:
    """What a file holds; nothing if it cannot be read."""
    try:
        return files.get_or_none(key) or b""
    except DamagedStoreError:
        return b""


def _root_header(data: bytes) -> tuple[str, ManifestHeader | None]:
    """Format version and, if they can be used, the facts in the root metadata."""
    version = ""
    try:
        attributes = json.loads(data)["attributes"]
        if attributes["format"] == FORMAT:
            version = str(attributes["format_version"])
        fields = {name: attributes[name] for name in ManifestHeader.model_fields}
        header = ManifestHeader.model_validate(fields)
        if header.recipe.fingerprint == attributes["recipe_fingerprint"]:
            return version, header
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return version, None


def _fingerprints(files: StoreFiles) -> Iterator[str]:
    """Of the recipes that readable samples were made with."""
    for group, sample_id in committed(files):
        with suppress(DamagedStoreError):
            yield read_sidecar(files, group, sample_id).recipe_fingerprint


def made_with(files: StoreFiles, recipe: Recipe) -> bool:
    """Whether every sample that can be read was made with `recipe`, and there is one."""
    return set(_fingerprints(files)) == {recipe.fingerprint}


def _no_header(files: StoreFiles) -> NoStoreError | DamagedStoreError:
    if next(committed(files), None) is None:
        return no_store(files)
    return DamagedStoreError(
        f"neither {METADATA_NAME} nor {MANIFEST_NAME} can be read: both are missing or damaged",
        path=files.location(),
        mend="prep ingest with the same sources, options and store writes both again",
    )


def _occupied(files: StoreFiles, held: Sequence[str]) -> NoStoreError:
    shown = ", ".join(map(printable, held[:3])) + (", ..." if len(held) > 3 else "")
    return NoStoreError(
        f"no store is made here: the folder is not empty (it holds {shown}), and it is none of our "
        "stores (no readable zarr.json or manifest.jsonl of ours)",
        path=files.location(),
        mend="name a folder that does not exist yet, such as one inside this one",
    )


def _other_version(files: StoreFiles, versions: set[str]) -> IncompatibleStoreError:
    return IncompatibleStoreError(
        f"store format version {', '.join(sorted(versions))}; this version reads {FORMAT_VERSION}",
        path=files.location(),
        mend="use the version of this tool that wrote it, or ingest into a new store",
    )


def no_store(files: StoreFiles) -> NoStoreError:
    """The error for a place that holds no store of ours."""
    location = files.location()
    if files.exists():
        return foreign(location)
    mend = f"prep ingest SOURCE --store {location} makes one"
    return NoStoreError("there is no store here", path=location, mend=mend)
