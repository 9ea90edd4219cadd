"""Which raw an annotated image is, by names and folders. Pure: text in, numbers out.

A name is matched whole first. Then known extensions are cut, of raws and of pictures only: what
else follows a dot belongs to the name (``scene.001``). Folders count only where the bare name is
that of several raws.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple
from urllib.parse import unquote

PICTURES: Final = frozenset(
    {
        *("jpg", "jpeg", "jpe", "png", "tif", "tiff", "bmp", "webp", "heic", "heif", "hif"),
        *("avif", "jxl", "gif", "jp2", "ppm"),
    }
)
"""Extensions of pictures developed from a raw: ``A.JPG`` is ``A.NEF``; ``A.ARW`` is not."""

RAWS: Final = frozenset(
    {
        *("arw", "srf", "sr2", "nef", "nrw", "dng", "raw", "cr2", "cr3", "crw", "raf", "rw2"),
        *("rwl", "orf", "ori", "pef", "srw", "3fr", "fff", "iiq", "x3f", "kdc", "dcr", "dcs"),
        *("mrw", "erf", "mef", "mos", "gpr", "bay", "cap", "eip", "k25", "ptx"),
    }
)
"""Extensions of raws, also of those that no decoder here reads: annotations may name them."""

# How far two names are from being the same: the sum of what was done to both.
_CUT: Final = 1
_OTHER_RAW: Final = 4
_ENCODED: Final = 8
_RENAMED: Final = 16

_MAX_FOLDERS: Final = 32
"""Folders of a path that are looked at, from the file upwards."""

_ROBOFLOW: Final = re.compile(r"(?P<stem>.+)_(?P<extension>[a-z0-9]{2,5})\.rf\.[0-9a-z]{20,}")
_LABEL_STUDIO: Final = re.compile(r"[0-9a-f]{8}-(?P<name>.+)")
_CAMERA_FOLDER: Final = re.compile(r"[1-9][0-9]{2}[a-z0-9_]{5}")
"""A folder as cameras number them (DCF, JEITA CP-3461): ``101ND750``, ``100MSDCF``."""


@dataclass(frozen=True, slots=True)
class ImageName:
    """What one record says about the name of its image.

    Attributes
    ----------
    path
        Its ``file_name``, folders included.
    file
        Where its annotation file is: path, URL, or archive and member.
    """

    path: str
    file: str = ""


def folded(name: str) -> str:
    """A name for comparing: no case, Unicode NFC, no blanks around it."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()).strip()


def folders_of(path: str) -> tuple[str, ...]:
    """The folders of a path of any system, from the outermost to the file's own, folded."""
    parts = re.split(r"[\\/]", path)[:-1][-_MAX_FOLDERS:]
    return tuple(folded(part) for part in parts if part.strip() not in ("", ".", ".."))


def whole_name(path: str) -> str:
    """The last part of a path, folded."""
    return folded(re.split(r"[\\/]", path)[-1])


def extension(name: str) -> str:
    """What follows the last dot of a folded name, "" for nothing."""
    stem, _, last = name.rpartition(".")
    return last if stem else ""


def root(path: str) -> str:
    """What is left of a name when all that may be cut is: equal for all names of one image."""
    name, before = whole_name(_decoded(path)), ""
    while name != before:
        before = name
        if extension(name) in PICTURES | RAWS:
            name = name.rpartition(".")[0]
        name = _original(name)
    return name


def claims(records: Sequence[ImageName], raws: Sequence[tuple[str, str]]) -> list[frozenset[int]]:
    """Tell which raws each record means, among records and raws of one `root`.

    Parameters
    ----------
    raws
        Name and place of each; the place has the folders.

    Returns
    -------
    Numbers of raws for each record; several where names and folders do not tell them apart.
    """
    table = _Raws(raws)
    found = [table.find(record) for record in records]
    # Where folders of records are folders of raws, a record whose own folder is not there has no
    # raw: another picture of the same name has.
    agreeing = {record.file for record, one in zip(records, found, strict=True) if one.by_folder}
    apart = bool(agreeing) and table.in_several_folders
    return [
        _NONE
        if one.has_folder and not one.by_folder and (apart or record.file in agreeing)
        else one.raws
        for record, one in zip(records, found, strict=True)
    ]


_NONE: Final = frozenset[int]()


class _Meant(NamedTuple):
    """The raws a record may mean; whether it names a folder, and whether that is one of raws."""

    raws: frozenset[int]
    has_folder: bool
    by_folder: bool


class _Raws:
    """The raws of one root, by name and by folder."""

    def __init__(self, raws: Sequence[tuple[str, str]]) -> None:
        self._names: dict[str, list[int]] = {}
        for number, (name, _) in enumerate(raws):
            self._names.setdefault(whole_name(name), []).append(number)
        self._forms = {name: dict(_raw_forms(name)) for name in self._names}
        self._folders = [folders_of(place) for _, place in raws]
        self._alike: dict[tuple[str, str], frozenset[int]] = {}

    @property
    def in_several_folders(self) -> bool:
        """Whether they do not all lie side by side."""
        return len(set(self._folders)) > 1

    def find(self, record: ImageName) -> _Meant:
        """The raws that a record may mean."""
        decoded = _decoded(record.path)
        names = whole_name(record.path), whole_name(decoded)
        if names not in self._alike:
            self._alike[names] = self._closest(*names)
        alike, own = self._alike[names], folders_of(decoded)
        if len(alike) > 1 and (here := self._in.get(folders_of(record.file) + own, _NONE) & alike):
            return _Meant(here, bool(own), by_folder=True)
        for count in range(len(own), 0, -1):
            if here := self._behind.get(own[-count:], _NONE) & alike:
                return _Meant(self._below(record, here), has_folder=True, by_folder=True)
        if own and _CAMERA_FOLDER.fullmatch(own[-1]):
            alike -= self._in_camera_folders
        return _Meant(self._below(record, alike), bool(own), by_folder=False)

    def _closest(self, whole: str, decoded: str) -> frozenset[int]:
        """The raws whose names are nearest to a record's."""
        costs: dict[str, int] = {}
        for name, forms in self._forms.items():
            for form, cost in _record_forms(whole, decoded):
                if form in forms:
                    costs[name] = min(cost + forms[form], costs.get(name, cost + forms[form]))
        best = min(costs.values(), default=0)
        return frozenset(
            number for name, cost in costs.items() if cost == best for number in self._names[name]
        )

    def _below(self, record: ImageName, among: frozenset[int]) -> frozenset[int]:
        """Those deepest below the annotation file's folder, or the nearest folder above it."""
        if len(among) > 1:
            folder = folders_of(record.file)
            for count in range(len(folder), 0, -1):
                if here := self._above.get(folder[:count], _NONE) & among:
                    return here
        return among

    @cached_property
    def _in(self) -> dict[tuple[str, ...], frozenset[int]]:
        """The raws by all folders of their places: a ``file_name`` is a path from its file."""
        found: dict[tuple[str, ...], list[int]] = {}
        for number, folders in enumerate(self._folders):
            found.setdefault(folders, []).append(number)
        return {folders: frozenset(numbers) for folders, numbers in found.items()}

    @cached_property
    def _behind(self) -> dict[tuple[str, ...], frozenset[int]]:
        """The raws by the last folders of their places, as many as one likes."""
        return self._by_folders(lambda folders, count: folders[-count:])

    @cached_property
    def _above(self) -> dict[tuple[str, ...], frozenset[int]]:
        """The raws by the first folders of their places."""
        return self._by_folders(lambda folders, count: folders[:count])

    def _by_folders(
        self, part: Callable[[tuple[str, ...], int], tuple[str, ...]]
    ) -> dict[tuple[str, ...], frozenset[int]]:
        found: dict[tuple[str, ...], list[int]] = {}
        for number, folders in enumerate(self._folders):
            for count in range(1, len(folders) + 1):
                found.setdefault(part(folders, count), []).append(number)
        return {folders: frozenset(numbers) for folders, numbers in found.items()}

    @cached_property
    def _in_camera_folders(self) -> frozenset[int]:
        return frozenset(
            number
            for number, folders in enumerate(self._folders)
            if folders and _CAMERA_FOLDER.fullmatch(folders[-1])
        )


def _decoded(path: str) -> str:
    """A path without URL encoding, and without the query of a URL."""
    if "://" in path:
        path = re.split(r"[?#]", path, maxsplit=1)[0]
    return unquote(path) if "%" in path else path


def _cut(name: str, cost: int) -> Iterator[tuple[str, int]]:
    """A record's name, without the extensions of pictures one after another, and of one raw."""
    yield name, cost
    while extension(name) in PICTURES:
        name, cost = name.rpartition(".")[0], cost + _CUT
        yield name, cost
    if extension(name) in RAWS:
        yield name.rpartition(".")[0], cost + _OTHER_RAW


def _record_forms(whole: str, decoded: str) -> list[tuple[str, int]]:
    """What a record's name may stand for, each with its cost."""
    forms = [*_cut(whole, 0)]
    if decoded != whole:
        forms += _cut(decoded, _ENCODED)
    forms += [
        form
        for name, cost in list(forms)
        if _original(name) != name
        for form in _cut(_original(name), cost + _RENAMED)
    ]
    return forms


def _raw_forms(name: str) -> Iterator[tuple[str, int]]:
    """What a raw may be called, each with its cost; the cheapest last, for a dict."""
    decoded = whole_name(_decoded(name))
    for form, cost in ((decoded, _ENCODED), (name, 0)) if decoded != name else ((name, 0),):
        if extension(form) in RAWS | PICTURES:
            yield form.rpartition(".")[0], cost + _CUT
        yield form, cost


def _original(name: str) -> str:
    """A name before a labelling service changed it: Roboflow appends the extension and a hash
    (``DSC_0001_NEF.rf.<hash>.jpg``), Label Studio puts eight digits before it."""
    if found := _ROBOFLOW.fullmatch(name):
        known = found["extension"] in PICTURES | RAWS
        return f"{found['stem']}.{found['extension']}" if known else name
    found = _LABEL_STUDIO.fullmatch(name)
    return found["name"] if found else name
