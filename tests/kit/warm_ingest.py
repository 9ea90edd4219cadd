"""Imported by the server that `killed_ingest` forks from: one ingest, so that all is loaded."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.kit.scenes import first_ingest

with tempfile.TemporaryDirectory() as _folder:
    first_ingest(Path(_folder))
