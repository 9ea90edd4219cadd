"""Names of the raw decoders: what sidecars record, and what the command line offers.

`pipeline.raw.decoders.table` has an entry for each name.
"""

from __future__ import annotations

from typing import Literal

#: Who decoded a mosaic. ``"genisp"`` is the project's own code for ARW2 and lossless NEF.
DecoderName = Literal["libraw", "flashraw", "genisp"]

#: ``prep ingest --decoder``: all fast decoders with cross-checks, or one decoder for every file.
DecoderChoice = Literal["auto", "libraw", "flashraw"]
