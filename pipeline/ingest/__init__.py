"""From sources to a store.

    from pipeline.ingest import IngestOptions, run_ingest

Open `run` first: the order of the steps. The coordinator alone gives out rows and writes metadata
and manifest; workers write chunks and sidecars.

- `inputs`: raws and annotations among the sources. `label_files`: those of one image each.
- `store_state`: what the store holds already, and whether it is whole.
- `recognise`: which sample each source is, by its place or its content.
- `survey`: what each source needs. `placement`: the group and row it goes to. Both are pure.
- `class_levels`: the levels by which ranges are planned, learned from one file of a class.
- `tasks`: what is known of a source at each step of its way.
- `worker`: what is done with one raw, in a worker's process. `failure`: why it could not be.
- `renew`: what changes in a sample but its pixels. `notices`: what is said of many at once.
- `outcomes`: what became of every source, for reports and the manifest.
"""

from __future__ import annotations

from pipeline.ingest.run import IngestOptions, plan_ingest, run_ingest

__all__ = ["IngestOptions", "plan_ingest", "run_ingest"]
