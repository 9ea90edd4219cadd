"""Which packages the GPU check needs, and whether they are here.

    python3 -m scripts.gpu_check.packages    # lists what is missing, with exit code 1

Standard library only: this runs where nothing else may be installed.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

#: What `make gpu-wheels` gathers.
LIST = Path(__file__).with_name("wheels.txt")
#: What a GPU machine has itself.
OWN = ("torch>=2.11", "torchvision>=0.26", "numba>=0.61", "numpy>=2.0", "fsspec>=2025.1")
#: Not made for every processor, and not needed where a store is given.
DECODERS = ("flashraw", "rawpy")
MEND = (
    "mend: `make gpu-wheels` in the source tree; where the GPU is,\n"
    "  python3 -m pip install --no-index --no-deps --upgrade --target site .whl/*.whl\n"
    "and PYTHONPATH=site"
)

Version = tuple[int, ...]


def wanted() -> list[str]:
    """All requirements, such as ``"zarr>=3.1,<3.2"``, in the order of their list."""
    lines = [line.strip() for line in LIST.read_text(encoding="utf-8").splitlines()]
    return [*OWN, *(line for line in lines if line and not line.startswith("#"))]


def name_of(requirement: str) -> str:
    """``"zarr>=3.1,<3.2"`` -> ``"zarr"``."""
    return re.split(r"[<>=]", requirement)[0]


def lacking(*, decoders: bool = True) -> list[str]:
    """What is not installed, of another version, or cannot be imported: a line each.

    Parameters
    ----------
    decoders
        Whether raws are to be decoded.
    """
    asked = [one for one in wanted() if decoders or name_of(one) not in DECODERS]
    found = ((one, _complaint(one)) for one in asked)
    return [f"{requirement}: {complaint}" for requirement, complaint in found if complaint]


def _complaint(requirement: str) -> str:
    try:
        there = distribution(name_of(requirement))
    except PackageNotFoundError:
        return "not installed"
    if not fits(there.version, requirement):
        return f"{there.version} is installed"
    for module in _modules(there):
        try:
            with warnings.catch_warnings(action="ignore"):  # names that are kept for old callers
                import_module(module)
        except Exception as error:  # another Python's wheel, a library that is missing
            return f"cannot be imported: {type(error).__name__}: {error}".splitlines()[0]
    return ""


def fits(version: str, requirement: str) -> bool:
    """Whether a version is within the bounds, ``>=`` and ``<``, of a requirement."""
    ours = _numbers(version)
    for kind, bound in re.findall(r"(>=|<)([\d.]+)", requirement):
        if (ours < _numbers(bound)) == (kind == ">="):
            return False
    return True


def _numbers(version: str) -> Version:
    """``"2.11.0+cu130"`` -> ``(2, 11)``: zeros at the end mean nothing."""
    match = re.match(r"\d+(\.\d+)*", version)
    numbers = list(map(int, match[0].split("."))) if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _modules(installed: Distribution) -> Iterator[str]:
    """What can be imported of it by a plain name: packages, and modules beside them."""
    for file in installed.files or ():
        inside, last = file.parts[:-1], file.parts[-1]
        if len(inside) == 1 and last == "__init__.py":
            yield inside[0]
        elif not inside and last.endswith((".py", ".so")):
            yield last.partition(".")[0]


if __name__ == "__main__":
    sys.exit("\n".join(lacking()) or None)
