"""Whose colour matrix LibRaw gives, and which one counts.

LibRaw's table is searched by the beginning of the model's name: a camera that is newer than LibRaw
gets the matrix of an older one of similar name, without a word. So a matrix of the table counts if
it is for this very model; else the DNG's own does; else the relative's, and it is said whose it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Final

from pipeline.raw.decoders import libraw
from pipeline.raw.dng_colour import DngColour, UnusableMatrixError, daylight_matrix
from pipeline.raw.facts import Levels, MatrixOrigin, matrix3
from schemas.sidecar import Camera, Matrix3

_NONE: Final = matrix3([0.0] * 9)
#: What some files add to a model's name, or spell in another way than all others.
_REGIONAL: Final = (
    (r"_(\d)$", r"M\1"),  # NIKON Z 6_2
    (r" digital( camera)?$", ""),  # Canon EOS 400D DIGITAL, M9 Digital Camera
    (r"^(NEX-VG\d+)EH?$", r"\1"),
)
_ROMAN: Final = ("II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X")


def settled(levels: Levels, camera: Camera | None, colour: DngColour | None) -> Levels:
    """LibRaw's levels with the matrix that counts, and where it is from.

    Parameters
    ----------
    levels
        As LibRaw gives them; the matrix zeros where its table has none.
    camera
        As the file names it; None if it does not, and then nothing is known of the matrix.
    colour
        Of a DNG; None for other files.
    """
    table = levels.xyz_to_camera
    relative = relative_of(camera, table) if camera and table != _NONE else None
    if table != _NONE and relative is None:
        return levels
    reason = "it is no DNG and brings none"
    if colour is not None:
        try:
            own = daylight_matrix(colour)
            return replace(levels, xyz_to_camera=own, origin=MatrixOrigin("file"))
        except UnusableMatrixError as error:
            reason = str(error)
    if relative is not None:
        return replace(levels, origin=MatrixOrigin("relative", relative))
    name = camera.model if camera else "this camera"
    problem = f"LibRaw has no colour matrix for {name}, nor has the file one to use: {reason}"
    return replace(levels, matrix_problem=problem)


def with_own_matrix(levels: Levels, colour: DngColour | None) -> Levels:
    """A fast decoder's levels: a DNG's own matrix takes the place of the decoder's."""
    if colour is None:
        return levels
    try:
        own = daylight_matrix(colour)
    except UnusableMatrixError as error:
        problem = f"the file has no colour matrix to use: {error}"
        return replace(levels, xyz_to_camera=_NONE, matrix_problem=problem)
    return replace(levels, xyz_to_camera=own, origin=MatrixOrigin("file"))


def no_own_matrix(camera: Camera, origin: MatrixOrigin) -> str:
    """In words, that a camera's matrix is a relative's."""
    return (
        f"LibRaw has no colour matrix for {camera.model}; the one it gives is that of "
        f"{origin.model}, whose name begins alike"
    )


@cache
def relative_of(camera: Camera, matrix: Matrix3) -> str | None:
    """The other model whose matrix LibRaw gives for a camera; None if it is the camera's own.

    It is its own if LibRaw lists the model; if the last letter of the name matters, for then the
    table has this very name; or if the name alone does not lead to this matrix, for then LibRaw
    knows the camera by a number in the file.

    Returns
    -------
    The longest beginning of the name that is a model LibRaw lists; else the shortest that leads to
    the same matrix, with three dots.
    """
    make, model = camera.make, camera.model
    if libraw.table_matrix(make, model) != matrix:
        return None
    beginnings = []
    for end in range(len(model) - 1, 0, -1):
        if libraw.table_matrix(make, model[:end]) != matrix:
            break
        beginnings.append(model[:end])
    if not beginnings or _is_listed(model):
        return None
    return next(
        (name.rstrip(" _") for name in beginnings if _is_listed(name)), beginnings[-1] + "..."
    )


def _is_listed(model: str) -> bool:
    """Whether LibRaw lists a model, which files may spell otherwise, with the maker before it."""
    name = model
    for pattern, replacement in _REGIONAL:
        name = re.sub(pattern, replacement, name, flags=re.IGNORECASE)
    maker, _, rest = name.partition(" ")
    names = (name, rest) if maker.isalpha() else (name,)
    return any(_plain(form) in _listed() for each in names for form in _marks(each))


@cache
def _listed() -> frozenset[str]:
    """The models LibRaw lists, in the forms in which files may name them."""
    names = (name for line in libraw.supported_models() for name in _names(line))
    return frozenset(filter(None, map(_plain, names)))


def _names(line: str) -> Iterator[str]:
    """The models in a line of LibRaw's list.

    ``Sony SLT-A55(V)``, ``Sony DSC-RX100 VA``, ``Sony DSLR-A380 / A390``, ``Sony ILCE-7 (A7)``.
    """
    _, _, models = line.partition(" ")
    outside = re.sub(r"\(.*?\)", "", models)
    first, *others = (name.strip() for name in re.split("[/,]", outside))
    series = re.match(r"(.*[- ])?", first)
    names = [re.sub(r"[()]", "", models), *re.findall(r"\((.*?)\)", models), first]
    for other in others:
        names += [other, (series[0] if series else "") + other]
    for name in names:
        yield from _marks(name)


def _marks(name: str) -> Iterator[str]:
    """A name, and the same with its mark as a digit: ``DSC-RX100 VA`` is ``DSC-RX100M5A``."""
    yield name
    mark = re.search(r"[ -](?:Mark |Mk)?(X|IX|VI{0,3}|I{2,3}|IV)(A?)$", name)
    if mark:
        yield f"{name[: mark.start()]}M{_ROMAN.index(mark[1]) + 2}{mark[2]}"


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
