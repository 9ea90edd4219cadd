#!/bin/sh
# Raws in real camera formats -> verified store, as a user would type it. Usage: demo.sh BIN_FOLDER
set -eu
PATH="$(cd "$1" && pwd):$PATH"
rm -rf demo-run
mkdir demo-run
cd demo-run
say() { printf '\n$ %s\n' "$*"; "$@"; }
say prep sample nod
say prep ingest nod
say prep verify
say prep info
say python -c '
from pipeline.store import open_store
store = open_store("data.zarr")
sample = store.read("DSC01088", level="packed")
print(store)
print("XYZ", sample.xyz.shape, sample.xyz.dtype, "Y mean %.4f" % sample.xyz[1].mean())
print("boxes", sample.boxes.tolist(), "labels", sample.labels.tolist())
'
