"""Are the wheels that ``make gpu-wheels`` gathers complete?

    python -m scripts.gpu_check.wheels .whl

Reads what each wheel requires under the GPU machine's Python: every requirement is another of the
wheels, or there already. Whether they can be imported, only that Python can tell:
``python3.12 -m scripts.gpu_check.packages`` there, or ``make test-minimum``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path
from zipfile import ZipFile

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts.gpu_check.packages import OWN, wanted

#: What markers are asked about.
MACHINE = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.12.0",
    "python_version": "3.12",
    "sys_platform": "linux",
}
#: What torch, torchvision and numba bring, themselves included.
BROUGHT = {canonicalize_name(Requirement(one).name) for one in OWN} | {
    *("filelock", "jinja2", "llvmlite", "markupsafe", "mpmath", "networkx", "pillow"),
    *("setuptools", "sympy", "triton", "typing-extensions"),
}
#: Extras of our own wheel that the check uses.
EXTRAS = {"genisp": ("prep", "train")}
#: TensorBoard's pages need these; the trainer only writes its files.
SPARED = {"grpcio", "markdown", "tensorboard-data-server", "werkzeug"}


@dataclass(frozen=True)
class Wheel:
    """What a wheel says about itself; of its requirements, those that hold on the machine."""

    name: str
    version: str
    requires: tuple[Requirement, ...]

    @classmethod
    def read(cls, path: Path) -> Wheel:
        """From its file."""
        with ZipFile(path) as archive:
            (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
            text = archive.read(name).decode()
        metadata = HeaderParser().parsestr(text)
        requires = metadata.get_all("Requires-Dist") or []
        return cls.of(metadata["Name"], metadata["Version"], requires)

    @classmethod
    def of(cls, name: str, version: str, requires: Iterable[str]) -> Wheel:
        """From the lines of its metadata."""
        name = canonicalize_name(name)
        held = (one for one in map(Requirement, requires) if _holds(name, one))
        return cls(name, version, tuple(held))


def _holds(name: str, requirement: Requirement) -> bool:
    marker = requirement.marker
    extras = EXTRAS.get(name, ("",))
    return marker is None or any(marker.evaluate({**MACHINE, "extra": one}) for one in extras)


def lacking(wheels: list[Wheel]) -> list[str]:
    """What the wheels, or our list of them, require and is neither among them nor there already."""
    versions = {wheel.name: wheel.version for wheel in wheels}
    asked = [("wheels.txt", Requirement(one)) for one in wanted()]
    asked += [(wheel.name, one) for wheel in wheels for one in wheel.requires]
    lines = []
    for who, requirement in asked:
        name = canonicalize_name(requirement.name)
        if name in versions:
            if not requirement.specifier.contains(versions[name], prereleases=True):
                lines.append(f"{who} requires {requirement}; the wheel is {versions[name]}")
        elif name not in BROUGHT | SPARED:
            lines.append(f"{who} requires {requirement}; there is no wheel of it")
    return lines


if __name__ == "__main__":
    found = [Wheel.read(path) for path in sorted(Path(sys.argv[1]).glob("*.whl"))]
    sys.exit("\n".join(lacking(found)) or None)
