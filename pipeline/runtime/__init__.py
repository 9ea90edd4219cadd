"""How work is run, whatever the work is: worker processes, threads, Ctrl-C, compiled code.

Open `executor` first. It runs tasks one after another in this process, or on a local Dask cluster
in which a task that kills its worker costs only itself.

- `executor`: tasks in, outcomes out. `dask_cluster`: the cluster under it.
- `processors`: how many this process may use. `threads`: a few calls at once in this process.
- `interruption`: a signal asks a run to stop; the run stops after the samples it has begun.
- `compiled`: numba with a cache on disk.

Nothing here knows what a raw or a store is.
"""
