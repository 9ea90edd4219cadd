"""Everything that only a GPU can tell, in one command of some minutes.

    python -m scripts.gpu_check --out gpu.json                       # on the GPU machine
    python -m scripts.gpu_check --out gpu.json --store frames.zarr   # where raws cannot be decoded
    python -m scripts.gpu_check --out small.json --device cpu --small

Prints what it finds; writes all numbers to ``--out``, tables to a Markdown page and all lines to a
log beside it, after each check, so that what was found survives the machine. Exit code 1 if any
check failed. What could not be checked is listed as such.

A machine that has torch, torchvision and numba but no network: ``make gpu-wheels`` gathers
everything else in ``.whl/``. Take the source tree and that folder there, then
``python3 -m pip install --no-index --no-deps --target site .whl/*.whl`` and run with
``PYTHONPATH=site``. What is missing is named before anything runs, with exit code 2.
"""

from __future__ import annotations

import sys

from scripts.gpu_check.packages import MEND, lacking


def main() -> None:
    """Ask for every package, then run the command: it imports them."""
    given = any(word.partition("=")[0] == "--store" for word in sys.argv[1:])
    if lines := lacking(decoders=not given):
        sys.stderr.write("\n".join(["Nothing was run, for want of packages:", *lines, MEND, ""]))
        sys.exit(2)
    from scripts.gpu_check.command import main as command

    command()


if __name__ == "__main__":
    main()
