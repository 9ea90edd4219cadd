"""The names of a YOLO set's classes: ``classes.txt``, ``obj.names``, ``data.yaml``, as bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final

import yaml

from pipeline.errors import AnnotationError
from schemas.coco import MAX_TEXT, shortened

MAX_LIST_BYTES: Final = 1 << 18
"""Bytes of a list of classes: 10,000 names."""

MAX_CLASSES: Final = 100_000

_MAX_DEPTH: Final = 20

YAML_SUFFIXES: Final = frozenset({".yaml", ".yml"})
_TEXT_NAMES: Final = frozenset({"classes.txt", "predefined_classes.txt"})
_NAMES_SUFFIX: Final = ".names"

_ESCAPES: Final = (ValueError, LookupError, ArithmeticError, TypeError, AttributeError)
"""What PyYAML lets through where a tag and its value do not fit, such as ``!!int ''``."""

_MEND: Final = "Mend it, or leave it out and name the classes in a classes.txt, one a line."


@dataclass(frozen=True)
class ClassNames:
    """What a list of classes says.

    Attributes
    ----------
    source
        Name of the file; empty where there is none.
    names
        Number of a class -> its name; empty where nothing names the classes.
    keypoint_numbers
        Numbers of a line that follow its box: ``kpt_shape`` of a pose set.
    folders
        Split -> its folders or lists of images, as the file gives them.
    """

    source: str = ""
    names: Mapping[int, str] = field(default_factory=dict)
    keypoint_numbers: int = 0
    folders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def may_name_classes(name: str) -> bool:
    """Whether a file of this name may be a list of classes."""
    path = PurePosixPath(name.lower())
    return path.name in _TEXT_NAMES or path.suffix in {_NAMES_SUFFIX, *YAML_SUFFIXES}


def load_class_names(data: bytes, *, name: str) -> ClassNames | None:
    """Read a list of classes; None for a YAML file that is another thing.

    Raises
    ------
    AnnotationError
        If it is one, and cannot be read.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise AnnotationError(
            f"byte {error.start} is not UTF-8", path=name, mend="Save it as UTF-8."
        ) from None
    if PurePosixPath(name.lower()).suffix in YAML_SUFFIXES:
        return _of_yaml(text, name)
    lines = [line.strip() for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return ClassNames(name, _checked(dict(enumerate(lines)), name))


def _of_yaml(text: str, name: str) -> ClassNames | None:
    if "names" not in text:
        return None
    try:
        _require_plain(text)
        document = yaml.safe_load(text)
    except (yaml.YAMLError, *_ESCAPES) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error) or type(error).__name__
        raise AnnotationError(
            f"not valid YAML: {shortened(problem, 120)}{place}", path=name, mend=_MEND
        ) from None
    if not isinstance(document, dict) or "names" not in document:
        return None
    names = document["names"]
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict):
        raise AnnotationError(
            f"its names are {shortened(names)}: neither a list nor numbers with names",
            path=name,
            mend=_MEND,
        )
    return ClassNames(
        name,
        _checked(names, name),
        _keypoint_numbers(document.get("kpt_shape"), name),
        {
            split: _paths(document[key])
            for split, keys in _SPLIT_KEYS.items()
            for key in keys
            if key in document
        },
    )


_SPLIT_KEYS: Final = {"train": ("train",), "val": ("valid", "val"), "test": ("test",)}


def _require_plain(text: str) -> None:
    """Refuse YAML that a few lines make larger than any memory, or deeper than any stack."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError(f"it has an alias, at line {event.start_mark.line + 1}")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise yaml.YAMLError(f"it nests deeper than {_MAX_DEPTH}")


def _paths(value: object) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(path for path in values if isinstance(path, str) and path)


def _keypoint_numbers(shape: object, name: str) -> int:
    """How many numbers the keypoints of an object are: ``kpt_shape: [17, 3]`` are 51."""
    if shape is None:
        return 0
    if isinstance(shape, list) and len(shape) == 2:
        count, numbers = shape
        if all(isinstance(side, int) and 0 < side <= 1000 for side in (count, numbers)):
            return int(count * numbers)
    raise AnnotationError(f"its kpt_shape is {shortened(shape)}", path=name, mend=_MEND)


def _checked(names: Mapping[Any, Any], name: str) -> dict[int, str]:
    if len(names) > MAX_CLASSES:
        raise AnnotationError(f"more than {MAX_CLASSES:,} classes", path=name, mend=_MEND)
    checked: dict[int, str] = {}
    for key, value in names.items():
        if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 10:
            key = int(key)
        good_key = isinstance(key, int) and not isinstance(key, bool) and key >= 0
        # YAML reads `no` as false and `1` as a number; a name is what is written.
        good_name = isinstance(value, str) and value.strip() and len(value) <= MAX_TEXT
        if not (good_key and good_name):
            raise AnnotationError(
                f"class {shortened(key)} is called {shortened(value)}: a number and a name of at "
                f"most {MAX_TEXT} characters are expected",
                path=name,
                mend="Give each class a number and, in quotes, a name.",
            )
        checked[key] = value.strip()
    return checked
