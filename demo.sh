#!/bin/sh
# Raws in real camera formats -> verified store -> trained ISP -> scores, as a user would type it.
# Usage: demo.sh BIN_FOLDER. Everything goes into ./demo-run.
set -eu
PATH="$(cd "$1" && pwd):$PATH"
rm -rf demo-run
mkdir demo-run
cd demo-run
say() { printf '\n$ %s\n' "$*"; "$@"; }

say prep sample nod --images 96
say prep ingest nod --fit 408x272
say prep verify
say prep info

printf '\nThe frozen detector is a stand-in (sample_retinanet), trained on well-lit drawings of such scenes.\n'
guide="--detector sample_retinanet --detector-weights sample"
# shellcheck disable=SC2086
say train --output-dir run $guide --epochs 3 --lr-steps 2 --batch-size 4
printf '\nHeld-out scenes, every rendering under the same frozen detector:\n'
# shellcheck disable=SC2086
say genisp evaluate --split test --checkpoint run/checkpoints/last.pt --sources nod $guide
printf '\nLook at demo-run/run/pictures and demo-run/run/curves.png.\n'
