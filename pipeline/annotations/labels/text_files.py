"""Which text files of a folder say what: labels of an image, names of classes, images of a split.

Text files lie everywhere. One is read as labels only where its place says so, and what it holds
decides further; lists name classes and splits for the files below them. Pure: paths and bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final

from pipeline.annotations.columns import base_name
from pipeline.annotations.labels.class_names import YAML_SUFFIXES, ClassNames, may_name_classes
from pipeline.annotations.reader import SPLIT_WORDS, folder_split

TEXT_SUFFIXES: Final = frozenset({".txt", ".names", *YAML_SUFFIXES})
"""What names of files end in that say something about other files."""

MAX_SPLIT_LIST_BYTES: Final = 1 << 26
"""Bytes of a list of images; a million paths fit."""

_LABELS: Final = "labels"
"""The folder beside ``images`` in which YOLO's tools look for labels."""

_LIST_FOLDERS: Final = frozenset({"imagesets", "main", "trainval", "splits", "lists"})
"""Folders of lists; what they list lies beside them."""

_SPLIT_LIST: Final = re.compile(
    rf"(?:({'|'.join(SPLIT_WORDS)})|.*[_-]({'|'.join(SPLIT_WORDS)})[_-]?(?:list|images|files|ids))"
    r"\.txt",
    re.IGNORECASE,
)


def is_label_place(path: PurePosixPath, *, anywhere: bool) -> bool:
    """Whether a text file at this path may hold the labels of an image.

    Parameters
    ----------
    anywhere
        Whether it need not lie in a folder called ``labels``: it has the stem of the raw beside
        it, or the user says that labels are there.
    """
    if path.suffix.lower() != ".txt" or may_name_classes(path.name):
        return False
    return anywhere or in_labels_folder(path)


def in_labels_folder(path: PurePosixPath) -> bool:
    """Whether one of the folders above is YOLO's ``labels``."""
    return any(part.lower() == _LABELS for part in path.parts[:-1])


def image_keys(name: str) -> tuple[str, ...]:
    """What an image is listed under: its name without folders and case, with and without suffix."""
    whole = base_name(name).strip().casefold()
    stem, dot, _ = whole.rpartition(".")
    return (whole, stem) if dot and stem else (whole,)


def listed_images(data: bytes) -> Iterator[str]:
    """The images of a list, by the first word of each line, or the whole line if it is a path."""
    for line in data.decode("utf-8", "replace").splitlines():
        if words := line.split():
            yield words[0]


@dataclass
class SetLists:
    """The lists among the files of an ingest, by the folder below which they hold."""

    _classes: dict[PurePosixPath, list[ClassNames]] = field(default_factory=dict)
    _splits: dict[PurePosixPath, dict[str, set[str]]] = field(default_factory=dict)
    _list_names: dict[str, str] = field(default_factory=dict)
    _unreadable: dict[PurePosixPath, str] = field(default_factory=dict)

    def add_unreadable(self, path: PurePosixPath, why: str) -> None:
        """Remember a list of classes that cannot be read: what labels below mean is not known."""
        self._unreadable.setdefault(path.parent, why)

    def add_classes(self, path: PurePosixPath, classes: ClassNames | None) -> None:
        """Take in a list of classes, if it is one."""
        if classes is None:
            return
        self._classes.setdefault(path.parent, []).append(classes)
        for split, places in classes.folders.items():
            lists = (PurePosixPath(place).name for place in places)
            self._list_names |= {name: split for name in lists if name.lower().endswith(".txt")}

    def listed_split(self, name: str) -> str | None:
        """The split of which a file of this name lists the images.

        ``val.txt`` and ``x_val_list.txt``, and what a data.yaml names. Neither ``trainval.txt``,
        which is two splits, nor ``car_val.txt``, which is about a class.
        """
        found = _SPLIT_LIST.fullmatch(name)
        if found:
            return SPLIT_WORDS[(found[1] or found[2]).lower()]
        return self._list_names.get(name)

    def add_split(self, path: PurePosixPath, split: str, data: bytes) -> None:
        """Take in a list of the images of a split."""
        scope = path.parent
        while scope.name.lower() in _LIST_FOLDERS:
            scope = scope.parent
        listed = self._splits.setdefault(scope, {})
        for image in listed_images(data):
            for key in image_keys(image):
                listed.setdefault(key, set()).add(split)

    def classes_of(self, path: PurePosixPath) -> ClassNames:
        """What names the classes of a label file: all lists in its folder and above.

        Raises
        ------
        ValueError
            If one cannot be read, or two call a class differently.
        """
        names: dict[int, tuple[str, str]] = {}
        keypoints = 0
        for folder in path.parents:
            if folder in self._unreadable:
                raise ValueError(f"its classes are not known: {self._unreadable[folder]}")
            for one in self._classes.get(folder, ()):
                keypoints = keypoints or one.keypoint_numbers
                for number, name in one.names.items():
                    known, source = names.setdefault(number, (name, one.source))
                    if known != name:
                        raise ValueError(
                            f"class {number} is {known!r} in {source} and {name!r} in {one.source}"
                        )
        sources = dict.fromkeys(source for _, source in names.values())
        return ClassNames(
            ", ".join(sources), {number: name for number, (name, _) in names.items()}, keypoints
        )

    def split_of(self, path: PurePosixPath, name: str, place: str) -> str | None:
        """The split of an image, by the path of its annotation file: from lists, then folders.

        The name of the file is the image's, and says nothing: ``train.xml`` shows a train.

        Parameters
        ----------
        path
            Where the annotation file is.
        name, place
            See `reader.folder_split`.

        Raises
        ------
        ValueError
            If lists name it in two splits.
        """
        image = path.with_suffix("")
        for folder in path.parents:
            listed = self._splits.get(folder, {})
            splits = listed.get(base_name(image.name).strip().casefold(), set())
            if len(splits) > 1:
                raise ValueError(f"lists name {image.name} in {' and in '.join(sorted(splits))}")
            if splits:
                return next(iter(splits))
        return self._split_of_yaml(path) or folder_split(
            str(PurePosixPath(name).with_name("_")), place
        )

    def _split_of_yaml(self, path: PurePosixPath) -> str | None:
        """The one split whose folder of images, in a data.yaml, is the one beside these labels."""
        for folder in path.parents:
            splits = {
                split
                for classes in self._classes.get(folder, ())
                for split, places in classes.folders.items()
                if any(_are_labels_of(path, folder, place) for place in places)
            }
            if splits:
                return splits.pop() if len(splits) == 1 else None
        return None


def _are_labels_of(labels: PurePosixPath, folder: PurePosixPath, place: str) -> bool:
    """Whether labels are those of the images in a place that a data.yaml in `folder` names.

    Roboflow's ``../train/images`` means ``train/images`` beside the file, and ``path`` is often
    where the set lay on another machine, as absolute places do. So only last parts are compared.
    """
    parts = PurePosixPath(place).parts
    wanted = [part.lower() for part in parts if part not in ("..", ".", "/")]
    below = [part.lower() for part in labels.parent.parts[len(folder.parts) :]]
    images = ["images" if part == _LABELS else part for part in below]
    above = [part.lower() for part in folder.parts]
    for count in range(1, len(images) + 1):
        given = images[:count]
        if wanted and (above + given)[-len(wanted) :] == wanted:
            return True
        if parts[:1] == ("/",) and wanted[-count:] == given:
            return True
    return False


def stems_by_folder(raws: Iterable[PurePosixPath]) -> dict[PurePosixPath, frozenset[str]]:
    """Folder -> stems of the raws in it, without case."""
    found: dict[PurePosixPath, set[str]] = {}
    for raw in raws:
        found.setdefault(raw.parent, set()).update(image_keys(raw.name))
    return {folder: frozenset(stems) for folder, stems in found.items()}
