"""``python -m tests.torture``: all campaigns, the table, and exit code 1 if anything was missed."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from tests.torture.campaign import FaultRow, Finished, Scale, run_campaign

#: In the order of docs/reference/fault-campaigns.md; each is a folder here whose `run.py` has a
#: function `run`.
CAMPAIGNS = ("crash", "damage", "hostile_raws", "hostile_annotations", "resources", "load")

HEADING = f"{'fault':<62}{'tried':>8}{'caught':>8}{'harmless':>10}{'survived':>10}{'missed':>8}"


def line(row: FaultRow) -> str:
    """A row of the table."""
    return (
        f"{row.fault:<62}{row.tried:>8}{row.caught:>8}{row.harmless:>10}"
        f"{row.survived:>10}{len(row.misses):>8}"
    )


def main() -> int:
    """Run what was asked for; 0 if nothing was missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("campaigns", nargs="*", metavar="CAMPAIGN", help=", ".join(CAMPAIGNS))
    parser.add_argument("--share", type=float, default=1.0, help="part of the full campaign")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--folder", type=Path, help="work here and keep it")
    options = parser.parse_args()
    unknown = set(options.campaigns) - set(CAMPAIGNS)
    if unknown:
        parser.error(f"no campaign {', '.join(sorted(unknown))} (there are {', '.join(CAMPAIGNS)})")
    folder = options.folder or Path(tempfile.mkdtemp(prefix="torture-"))
    finished: list[Finished] = []
    try:
        for name in options.campaigns or CAMPAIGNS:
            print(f"\n{name}\n{HEADING}", flush=True)
            run = import_module(f"tests.torture.{name}.run").run
            scale = Scale(options.share, options.seed)
            one = run_campaign(
                name, run, scale, folder / name, lambda row: print(line(row), flush=True)
            )
            print(f"{one.seconds:.0f} s", flush=True)
            finished.append(one)
    finally:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        options.json.write_text(json.dumps([asdict(one) for one in finished], indent=1) + "\n")
    misses = [miss for one in finished for row in one.rows for miss in row.misses]
    for miss in misses:
        print(f"missed: {miss}")
    print(f"\n{len(misses)} missed" if misses else "\nnothing missed")
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
