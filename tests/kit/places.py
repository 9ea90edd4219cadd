"""Where things are: the project's root, and the real raws and annotations beside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: May be absent, with all below it: tests that need it skip with a reason.
SHARED = Path(os.environ.get("GENISP_SHARED", ROOT.parent / "shared"))
RAWS = SHARED / "raws"
NIKON_D1 = RAWS / "complete" / "RAW_NIKON_D1.NEF"
