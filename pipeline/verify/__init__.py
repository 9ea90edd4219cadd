"""Is a store whole? Every byte, box and number of it is looked at again.

    from pipeline.verify import VerifyOptions, run_verify

Open `run` first: the order of the checks, and what is found.

- `samples`: one sample alone. `records`: a sidecar against the recipe and itself.
- `structure`: samples, manifest, metadata and files against each other.
- `rederive`: samples developed again from their raws, by LibRaw, and compared number by number.
- `split_leakage`: neighbouring frames of one scene in different splits.
"""

from __future__ import annotations

from pipeline.verify.run import VerifyOptions, run_verify

__all__ = ["VerifyOptions", "run_verify"]
