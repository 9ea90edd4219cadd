"""One Pascal VOC file: XML about one image, to its objects. Nothing here opens a file.

A VOC file says ``xmin``, ``ymin``, ``xmax`` and ``ymax`` of a box: numbers of pixels, the first is
1, and the box includes all four (VOC development kit, 2007 to 2012: the top-left pixel has the
coordinates (1, 1)). As edges that is ``xmin - 1`` to ``xmax``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final
from xml.parsers import expat

from pipeline.annotations.columns import base_name
from pipeline.annotations.file_findings import Notes
from pipeline.annotations.labels.one_image import (
    MAX_OBJECTS,
    VOC_FLAGS,
    ImageObject,
    LabelsError,
    loaded_image,
    number,
    refused_image,
)
from pipeline.annotations.reader import LoadedFile
from schemas.coco import MAX_SIDE, MAX_TEXT, RecordId, number_of, shortened
from schemas.finding_codes import FindingCode

MAX_VOC_BYTES: Final = 1 << 24
"""Bytes of the file of one image; 5,000 objects as VOC writes them have 2 MB."""

_MAX_DEPTH: Final = 64
_MAX_ELEMENTS: Final = 200_000
_MAX_VALUE: Final = 4096

_EDGES: Final = ("xmin", "ymin", "xmax", "ymax")
_OF_IMAGE: Final = {"annotation/filename", "annotation/size/width", "annotation/size/height"}
_ROOT_TAG: Final = "annotation"
_OBJECT: Final = "annotation/object"
_OF_OBJECT: Final = {
    *(f"{_OBJECT}/{name}" for name in ("name", *VOC_FLAGS)),
    *(f"{_OBJECT}/bndbox/{edge}" for edge in _EDGES),
}

_ROOT: Final = re.compile(rb"<\s*annotation[\s>/]", re.IGNORECASE)
_SIGN: Final = re.compile(rb"<\s*(object|filename|size)[\s>/]", re.IGNORECASE)
_HEAD: Final = 1 << 12
"""Bytes in which the root element begins, after declarations and comments."""

_YES_NO: Final = {"0": False, "1": True, "false": False, "true": True, "no": False, "yes": True}

_AGAIN: Final = "Mend the file at that place, or export it again; the image is left out until then."


@dataclass
class _Object:
    line: int
    values: dict[str, str] = field(default_factory=dict)


class _Document:
    """What is of interest in a file, gathered while expat reads it."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.objects: list[_Object] = []
        self._path: list[str] = []
        self._text: list[str] | None = None
        self._length = self._elements = 0
        self._parser = parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._data
        # Entities of the file's own can grow without end, and can name other files.
        parser.EntityDeclHandler = self._refuse_entities

    def read(self, data: bytes) -> None:
        """Read the whole.

        Raises
        ------
        LabelsError
            If it is not XML, or more than a file of one image has.
        """
        try:
            self._parser.Parse(data, True)
        except expat.ExpatError as error:
            place = f"line {error.lineno}, column {error.offset + 1}"
            raise LabelsError(
                f"not whole XML: {expat.ErrorString(error.code)} at {place}",
                mend="Mend the file at that place and save it as UTF-8, or export it again; the "
                "image is left out until then.",
            ) from None
        except (UnicodeError, ValueError, LookupError) as error:
            if isinstance(error, LabelsError):
                raise
            raise LabelsError(
                f"not XML that can be read: {shortened(str(error))}",
                mend="Save the file as UTF-8; the image is left out until then.",
            ) from None

    @property
    def line(self) -> int:
        return self._parser.CurrentLineNumber

    def _start(self, tag: str, _: dict[str, str]) -> None:
        self._path.append(tag.lower())
        self._elements += 1
        if len(self._path) > _MAX_DEPTH or self._elements > _MAX_ELEMENTS:
            what = f"nests {_MAX_DEPTH} deep" if len(self._path) > _MAX_DEPTH else "has too many"
            raise LabelsError(f"line {self.line}: it {what} elements", mend=_AGAIN)
        path = "/".join(self._path)
        if self._elements == 1 and path != _ROOT_TAG:
            raise LabelsError(
                f"its root is <{shortened(tag)[1:-1]}>, not <{_ROOT_TAG}>: no Pascal VOC",
                mend="Export the annotations as Pascal VOC, or leave this file out.",
            )
        if path == _OBJECT:
            if len(self.objects) == MAX_OBJECTS:
                raise LabelsError(f"more than {MAX_OBJECTS:,} objects", mend=_AGAIN)
            self.objects.append(_Object(self.line))
        self._text, self._length = ([], 0) if path in _OF_IMAGE | _OF_OBJECT else (None, 0)

    def _data(self, text: str) -> None:
        if self._text is not None:
            self._length += len(text)
            if self._length > _MAX_VALUE:
                raise LabelsError(f"line {self.line}: a value is too long", mend=_AGAIN)
            self._text.append(text)

    def _end(self, _: str) -> None:
        path = "/".join(self._path)
        self._path.pop()
        if self._text is None:
            return
        text, self._text = "".join(self._text).strip(), None
        values = self.values if path in _OF_IMAGE else self.objects[-1].values
        key = path.rpartition("/")[2]
        if values.setdefault(key, text) != text:
            raise LabelsError(f"line {self.line}: a second <{key}> says another thing", mend=_AGAIN)

    def _refuse_entities(self, name: str, *_: object) -> None:
        raise LabelsError(
            f"line {self.line}: it defines the entity {shortened(name)}, which no VOC file needs",
            mend="Delete the <!DOCTYPE ...> at its beginning, or leave this file out.",
        )


def looks_like_voc(data: bytes) -> bool:
    """Tell a VOC file, whole or cut off, from other XML without parsing it."""
    text = data.replace(b"\0", b"") if data[:2] in (b"\xff\xfe", b"\xfe\xff") else data
    root = re.compile(rb"<\s*[A-Za-z_]").search(text, 0, _HEAD)
    if root is None:
        return not text.strip(b"\0 \t\r\n\xef\xbb\xbf")  # nothing is left of whatever it was
    named = _ROOT.match(text, root.start())
    # A file that is cut off early need not have more than the root.
    return named is not None and (_SIGN.search(text) is not None or b"</annotation" not in text)


def load_voc(data: bytes, *, name: str, split: str | None = None) -> LoadedFile:
    """Read one VOC file.

    A file that cannot be read, or has an object that cannot, refuses its image: an object that is
    left out would be background.

    Parameters
    ----------
    data
        The file's bytes.
    name
        What to call it: goes into sidecars and messages, so relative to the source. Its last part
        names the image, as in VOC's own kit; ``<filename>`` gives the extension.
    split
        Split of the image.
    """
    notes = Notes(name)
    stem = base_name(name)
    stem = stem[:-4] if stem.lower().endswith(".xml") else stem
    document = _Document()
    try:
        if len(data) > MAX_VOC_BYTES:
            raise LabelsError(
                f"it has {len(data):,} bytes; files of one image have at most {MAX_VOC_BYTES:,}",
                mend="Export it again, or leave it out.",
            )
        document.read(data)
        size = _size(document.values)
        objects = [_object(one, place) for place, one in enumerate(document.objects, start=1)]
    except LabelsError as error:
        return refused_image(notes, stem, error, split=split)
    if size is None and objects:
        notes.add(
            FindingCode.NO_IMAGE_SIZE,
            "",
            "no <size>: its boxes are taken as pixels of the raw's frame",
        )
    image = _image_name(document.values, stem, notes)
    return loaded_image(notes, image, size, objects, _category, split=split)


def _category(name: RecordId) -> tuple[RecordId, str]:
    """VOC has names only."""
    return number_of(str(name)), str(name)


class VocReader:
    """Pascal VOC as one of `table.READERS`."""

    suffixes = (".xml",)

    def recognises(self, data: bytes, name: str) -> bool:
        """Whether this may be a VOC file."""
        return name.lower().endswith(self.suffixes) and looks_like_voc(data)

    def read(self, data: bytes, *, name: str, split: str | None) -> LoadedFile:
        """As `load_voc` does."""
        return load_voc(data, name=name, split=split)


def _image_name(values: dict[str, str], stem: str, notes: Notes) -> str:
    """The image's name: that of the file, with the extension of ``<filename>`` if they agree."""
    stated = base_name(values.get("filename", ""))
    if not stated or stated.casefold() == stem.casefold():
        return stem
    if stated.rpartition(".")[0].casefold() == stem.casefold():
        return stated
    notes.add(
        FindingCode.OTHER_FILE_NAME,
        "",
        f"its <filename> is {shortened(stated)}; it is taken as the annotation of {stem}, after "
        "which it is named",
    )
    return stem


def _size(values: dict[str, str]) -> tuple[int, int] | None:
    """(width, height) in pixels; None where the file says none, or 0 as some tools write."""
    stated = [values.get(key, "") for key in ("width", "height")]
    sides = []
    for text in stated:
        try:
            side = number(text) if text else 0.0
        except ValueError:
            side = -1.0
        if not (0 <= side <= MAX_SIDE) or side != int(side):
            shown = "x".join(stated)
            raise LabelsError(f"its <size> is {shortened(shown)}, which is none", mend=_AGAIN)
        sides.append(int(side))
    width, height = sides
    return (width, height) if width and height else None


def _object(found: _Object, place: int) -> ImageObject:
    """One object.

    Raises
    ------
    LabelsError
        If it has no name or no box.
    """
    where = f"object {place} (line {found.line})"
    category = found.values.get("name", "")
    if not category or len(category) > MAX_TEXT:
        raise LabelsError(f"{where} has no <name>" + " of a class" * bool(category), mend=_AGAIN)
    edges = []
    for edge in _EDGES:
        text = found.values.get(edge)
        if text is None:
            raise LabelsError(f"{where} has no <{edge}> in a <bndbox>", mend=_AGAIN)
        try:
            edges.append(number(text))
        except ValueError:
            raise LabelsError(
                f"{where}: <{edge}> is {shortened(text)}, which is no number", mend=_AGAIN
            ) from None
    left, top, right, bottom = edges
    flags: dict[str, bool | str] = {
        name: _YES_NO.get(text.lower(), text)
        for name in VOC_FLAGS
        if (text := found.values.get(name))
    }
    return ImageObject(
        number=place,
        category_id=category,
        bbox=(left - 1, top - 1, right - left + 1, bottom - top + 1),
        ignored=flags.get("difficult") is True,
        flags=flags,
    )
