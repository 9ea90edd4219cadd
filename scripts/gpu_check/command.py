"""The command: which checks there are, in which order, and where what they find is written."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import torch

from scripts.gpu_check.checking import FULL, SMALL, Bench, Check, Result, run_checks
from scripts.gpu_check.engine import engine_check
from scripts.gpu_check.loading import equality
from scripts.gpu_check.machine import facts, own_tests
from scripts.gpu_check.speed import compare_variants, kernels, memory, step_times
from scripts.gpu_check.stores import prepare_stores
from scripts.gpu_check.tables import markdown
from scripts.gpu_check.training import frozen, runs

#: What cannot be done elsewhere comes first: the time may not suffice for the rest.
CHECKS: dict[str, Check] = {
    "facts": facts,
    "stores": prepare_stores,
    "equality": equality,
    "frozen": frozen,
    "steps": step_times,
    "engine": engine_check,
    "runs": runs,
    "memory": memory,
    "kernels": kernels,
    "tests": own_tests,
    "variants": compare_variants,
}
#: Others read what these make.
ALWAYS = ("facts", "stores")


def gpu_check(
    out: Path, device: str, *, small: bool, store: Path | None, minutes: float, only: str
) -> list[Result]:
    """Run the checks; see the module."""
    log = out.with_suffix(".log")
    out.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    wanted = {name for name in only.split(",") if name} or set(CHECKS)
    if unknown := wanted - set(CHECKS):
        raise click.UsageError(f"no such check: {', '.join(sorted(unknown))}")
    left_out = {name: "not asked for" for name in CHECKS if name not in {*wanted, *ALWAYS}}
    if device.startswith("cuda") and not torch.cuda.is_available():
        left_out = {name: "there is no CUDA device" for name in CHECKS if name != "facts"}

    def save(results: list[Result]) -> None:
        document = {
            "device": device,
            "small": small,
            "store": None if store is None else str(store),
            "seconds": round(time.monotonic() - started, 1),
            "checks": [result.to_json() for result in results],
        }
        out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        title = "GPU check" if device.startswith("cuda") else f"GPU check on {device}"
        out.with_suffix(".md").write_text(markdown(results, title), encoding="utf-8")

    with TemporaryDirectory(prefix="gpu-check-") as folder, log.open("w", encoding="utf-8") as file:

        def say(text: str) -> None:
            click.echo(text)
            print(text, file=file, flush=True)

        bench = Bench(
            device=torch.device(device),
            sizes=SMALL if small else FULL,
            say=say,
            folder=Path(folder),
            until=started + 60 * minutes,
            given=store,
        )
        results = run_checks(CHECKS, bench, left_out, save)
        say(f"\n{time.monotonic() - started:.0f} s; everything: {out}, {log}\n")
        for result in results:
            for line in (*result.lines, *result.error.splitlines()[-4:]):
                say(line)
    return results


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The JSON file.")
@click.option("--device", default="cuda", show_default=True)
@click.option("--small", is_flag=True, help="The same code at sizes nobody waits for.")
@click.option(
    "--store",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Read this store (levels resized and packed) instead of drawing raws.",
)
@click.option("--minutes", default=7.0, show_default=True, help="Nothing new is begun after that.")
@click.option("--only", default="", help="Checks by comma: " + ", ".join(CHECKS))
def main(
    out: Path, device: str, small: bool, store: Path | None, minutes: float, only: str
) -> None:
    """Check and time the trainer on a GPU."""
    results = gpu_check(out, device, small=small, store=store, minutes=minutes, only=only)
    sys.exit(int(any(result.status == "failed" for result in results)))
