"""The command line: click declarations, and the translation of errors to exit codes. No logic.

Heavy packages are imported inside commands, so that help and completion stay instant.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from io import StringIO, TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar, cast

import click

from pipeline.console.steady_output import SteadyStream
from pipeline.errors import GenispError, UsageError

if TYPE_CHECKING:
    from pipeline.console.progress import Reporter
    from pipeline.develop_file import Developed
    from schemas.recipe import LevelName, Recipe

Command = TypeVar("Command", bound=Callable[..., Any])

EXIT_CODES = """
\b
Exit codes:
  0    done, nothing wrong
  1    unexpected failure
  2    wrong usage
  3    finished, but some sources could not be ingested (each listed with reason)
  4    damage or invalid data found
  10   no store there, or not one of ours
  11   store locked by another writer
  12   store format or recipe this version cannot continue
  130  interrupted; state is safe, the same command continues
"""

CONTEXT = {
    "help_option_names": ["-h", "--help"],
    "show_default": True,
    "max_content_width": 100,
}


class JsonErrors(click.Command):
    """A command that, asked for JSON, says what stopped it in JSON too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"context_settings": CONTEXT} | kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except GenispError as error:
            if not ctx.params.get("json"):
                raise
            from pipeline.safe_text import json_line
            from schemas.events import ErrorEvent

            event = ErrorEvent(
                code="stopped", path=error.path, message=error.message, mend=error.hint
            )
            click.echo(json_line(event))
            return error.exit_code


class ExitCodes(click.Group):
    """A group whose commands return exit codes, and whose errors become exit codes."""

    command_class = JsonErrors

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False
        _hold_standard_streams()
        with _steady_output() as output:
            code = self._exit_code(*args, **kwargs)
            output.flush()
            if output.lost is not None and not isinstance(output.lost, BrokenPipeError):
                click.echo(f"error: cannot write output: {output.lost.strerror}", err=True)
                code = code or 1
        sys.exit(code)

    def _exit_code(self, *args: Any, **kwargs: Any) -> int:
        try:
            code = super().main(*args, **kwargs)
        except click.ClickException as error:
            error.show()
            code = error.exit_code
        except (click.Abort, KeyboardInterrupt):
            click.echo("interrupted; state is safe, the same command continues", err=True)
            code = 130
        except GenispError as error:
            click.echo(_error_text(error), err=True)
            code = error.exit_code
        except (MemoryError, OSError, RuntimeError, ImportError) as error:
            text = _exhausted_text(error)
            if text is None:
                raise
            click.echo(text, err=True)
            code = 1
        return code if isinstance(code, int) else 0


def _hold_standard_streams() -> None:
    """Take descriptors 0 to 2 where they are closed: what a decoder prints would go to a file."""
    with suppress(OSError):  # no handle left: then none of the three is free
        while (taken := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(taken)


@contextmanager
def _steady_output() -> Iterator[SteadyStream]:
    """Let no failing output stop a command; yields stdout."""
    if isinstance(sys.stdout, TextIOWrapper):  # like stderr: no name can stop a command
        sys.stdout.reconfigure(errors="backslashreplace")
    # Python has None for a stream that was closed at the start.
    output, errors = (SteadyStream(one or StringIO()) for one in (sys.stdout, sys.stderr))
    with redirect_stdout(cast(TextIO, output)), redirect_stderr(cast(TextIO, errors)):
        yield output


def _error_text(error: GenispError) -> str:
    from pipeline.safe_text import visible, visible_lines

    path = f"{visible(error.path)}: " if error.path else ""
    text = f"error: {path}{visible_lines(error.message)}"
    return f"{text}\n  mend: {visible_lines(error.hint)}" if error.hint else text


def _exhausted_text(error: MemoryError | OSError | RuntimeError | ImportError) -> str | None:
    """What the machine ran out of, with the mend; None if this is a mistake of ours."""
    from pipeline.safe_text import visible

    again = "then run the same command: it continues"
    unmapped = isinstance(error, ImportError) and "failed to map segment" in str(error)
    if isinstance(error, MemoryError) or unmapped:
        return f"error: not enough memory\n  mend: free memory or give fewer --workers, {again}"
    if isinstance(error, ImportError):
        return None
    if isinstance(error, RuntimeError):
        # Python has no type of its own for this.
        if not str(error).startswith(("can't start new thread", "unable to start watchdog thread")):
            return None
        return (
            "error: the system starts no more threads\n"
            f"  mend: allow more (ulimit -u) or give fewer --workers, {again}"
        )
    exhausted = error.errno in (errno.EMFILE, errno.ENFILE)
    mend = "allow more open files (ulimit -n)" if exhausted else "check the path and its disk"
    place = visible(str(error.filename or "system"))
    return f"error: {place}: {error.strerror or error}\n  mend: {mend}, {again}"


def _version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from importlib.metadata import PackageNotFoundError, version

        try:
            click.echo(f"genisp {version('genisp')}")
        except PackageNotFoundError:
            click.echo("genisp, not installed: run from its source tree")
        context.exit(0)


version_option = click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Version."
)


def store_option(command: Command) -> Command:
    """``--store PATH``."""
    return click.option(
        "--store",
        type=click.Path(),
        default="data.zarr",
        show_envvar=True,
        help="The store's folder.",
    )(command)


def json_option(command: Command) -> Command:
    """``--json``."""
    return click.option(
        "--json",
        is_flag=True,
        show_envvar=True,
        help="Print JSON, one object a line, instead of text.",
    )(command)


def workers_option(command: Command) -> Command:
    """``--workers N``."""
    return click.option(
        "--workers",
        type=click.IntRange(min=0),
        default=lambda: len(os.sched_getaffinity(0)),
        show_default="one a core",
        show_envvar=True,
        help="Worker processes; 0 works in this process, with plain tracebacks.",
    )(command)


def checkpoint_option(command: Command) -> Command:
    """``--checkpoint FILE``, without which there is no network."""
    return click.option(
        "--checkpoint",
        type=click.Path(path_type=Path),
        required=True,
        show_envvar=True,
        help="The network: a run's checkpoints/best.pt or last.pt.",
    )(command)


def detector_options(command: Command) -> Command:
    """``--device``, and which frozen detector looks."""
    for option in reversed(
        [
            click.option(
                "--device",
                default="auto",
                show_envvar=True,
                help="auto: CUDA when there is one, else CPU.",
            ),
            click.option(
                "--detector",
                default="retinanet_resnet50_fpn_v2",
                show_envvar=True,
                help="A torchvision detector, or sample_retinanet (the stand-in).",
            ),
            click.option(
                "--detector-weights",
                default="COCO_V1",
                show_envvar=True,
                metavar="NAME|PATH|none",
                help="Weights torchvision publishes, a file, or random numbers.",
            ),
            click.option(
                "--box-loss",
                type=click.Choice(["smooth_l1", "giou", "l1"]),
                default="smooth_l1",
                show_envvar=True,
                help="Box term of the guidance loss.",
            ),
            click.option(
                "--plain-detector",
                is_flag=True,
                show_envvar=True,
                help="torchvision's own code for the detector, not the frozen engine: same numbers "
                "up to rounding, more memory and time.",
            ),
        ]
    ):
        command = option(command)
    return command


@click.group(
    cls=ExitCodes, context_settings={**CONTEXT, "auto_envvar_prefix": "PREP"}, epilog=EXIT_CODES
)
@version_option
def prep() -> None:
    """Camera raws and COCO boxes in, a verified CIE-XYZ store out.

    \b
    prep ingest /raw_nod     makes ./data.zarr
    prep verify              proves every byte, box and number of it
    """


@prep.command(epilog=f"Example: prep ingest /raw_nod --store night.zarr\n{EXIT_CODES}")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@store_option
@workers_option
@click.option(
    "--annotations",
    multiple=True,
    metavar="FILE",
    show_envvar=True,
    help="A COCO file outside the sources; those inside are found. Repeatable.",
)
@click.option(
    "--split",
    multiple=True,
    metavar="NAME=FILE",
    show_envvar=True,
    help="A COCO file and the split it defines; else its name says train, val or test. Repeatable.",
)
@click.option(
    "--colour",
    type=click.Choice(["xyz", "xyz-balanced", "camera"]),
    default="xyz",
    show_envvar=True,
    help="XYZ without white balance; LibRaw's own balanced XYZ; or camera RGB without a matrix.",
)
@click.option(
    "--levels", default="packed,resized", show_envvar=True, help="Arrays to store, by comma."
)
@click.option(
    "--fit",
    default="1333x800",
    show_envvar=True,
    metavar="LONGxSHORT",
    help="Bounds of the resized level in pixels; aspect kept, never enlarged.",
)
@click.option(
    "--codec",
    type=click.Choice(["lz4", "zstd"]),
    default="lz4",
    show_envvar=True,
    help="lz4 reads fastest; zstd is a few per cent smaller.",
)
@click.option(
    "--decoder",
    type=click.Choice(["auto", "libraw", "flashraw"]),
    default="auto",
    show_envvar=True,
    help="auto: our own or flashraw where they agree with LibRaw bit for bit, else LibRaw.",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(min=1),
    default=120.0,
    show_envvar=True,
    help="Seconds a raw may take before its worker is ended (with --workers 1 or more).",
)
@click.option("--retry-failed", is_flag=True, show_envvar=True, help="Try failed sources again.")
@click.option(
    "--recheck/--no-recheck",
    default=True,
    show_envvar=True,
    help="Compute the checksums of samples already stored, and redo the damaged ones.",
)
@click.option(
    "--strict", is_flag=True, show_envvar=True, help="Any finding makes its source a failure."
)
@click.option(
    "--dry-run", is_flag=True, show_envvar=True, help="Say what would be done; write nothing."
)
@json_option
def ingest(**options: Any) -> int:
    """Turn raws into a store; run it again to continue or mend.

    SOURCE is a folder, a raw file, a .zip archive (read in place, even when its download was cut
    off) or an fsspec URL. COCO files in a source are found by themselves.
    """
    from pipeline.ingest import IngestOptions, plan_ingest, run_ingest

    recipe = _recipe(options)
    how = IngestOptions(
        workers=options["workers"],
        time_limit=options["time_limit"],
        decoder=options["decoder"],
        annotations=options["annotations"],
        splits=tuple(_named_split(text) for text in options["split"]),
        recheck=options["recheck"],
        retry_failed=options["retry_failed"],
        strict=options["strict"],
    )
    reporter = _reporter(options["json"], quiet=True)
    sources, store = options["sources"], options["store"]
    if options["dry_run"]:
        plan = plan_ingest(sources, store, recipe, how, reporter)
        _show(plan, "plan", options["json"])
        return plan.exit_code
    summary = run_ingest(sources, store, recipe, how, reporter)
    _show(summary, "ingest", options["json"])
    return summary.exit_code


@prep.command(epilog=f"Example: prep verify night.zarr --sources /raw_nod\n{EXIT_CODES}")
@click.argument("store", type=click.Path(), default="data.zarr")
@click.option("--quick", is_flag=True, show_envvar=True, help="Structure only; read no chunk.")
@click.option(
    "--sources",
    multiple=True,
    metavar="SOURCE",
    show_envvar=True,
    help="Also derive samples again from these raws, by LibRaw, and compare every number.",
)
@workers_option
@click.option("--strict", is_flag=True, show_envvar=True, help="Warnings count as damage.")
@json_option
def verify(
    store: str, quick: bool, sources: tuple[str, ...], workers: int, strict: bool, json: bool
) -> int:
    """Check every byte, box and number of a store.

    STORE defaults to ./data.zarr.
    """
    from pipeline.store.files import StoreFiles
    from pipeline.verify import VerifyOptions, run_verify

    how = VerifyOptions(quick=quick, strict=strict, sources=sources, workers=workers)
    summary = run_verify(StoreFiles(Path(store)), _reporter(json), how)
    _show(summary, "verify", json)
    return summary.exit_code


@prep.command(epilog=f"Example: prep info night.zarr --json\n{EXIT_CODES}")
@click.argument("store", type=click.Path(), default="data.zarr")
@json_option
def info(store: str, json: bool) -> int:
    """Say what a store holds.

    STORE defaults to ./data.zarr.
    """
    from pipeline.store import open_store
    from pipeline.store.summary import store_info

    _show(store_info(open_store(store)), "info", json)
    return 0


@prep.command(epilog=f"Example: prep sample nod --images 12 && prep ingest nod\n{EXIT_CODES}")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--images", type=click.IntRange(min=1), default=12, show_envvar=True, help="Raws to write."
)
@click.option("--seed", type=int, default=0, show_envvar=True, help="Same seed, same bytes.")
@click.option(
    "--full-size",
    is_flag=True,
    show_envvar=True,
    help="The cameras' real sizes (20 and 10 megapixels).",
)
@json_option
def sample(directory: Path, images: int, seed: int, full_size: bool, json: bool) -> int:
    """Draw a small NOD-like set of real-format raws.

    Scenes are synthetic; formats, levels, matrices and annotation files are the cameras' and NOD's.
    """
    from pipeline.console import results
    from pipeline.sample_set import write_sample_set

    summary = write_sample_set(directory, images=images, seed=seed, full_size=full_size)
    _say(results.as_json(summary) if json else results.sample_text(summary, directory))
    return 0


@prep.command(epilog=f"Example: prep doctor\n{EXIT_CODES}")
@json_option
def doctor(json: bool) -> int:
    """Look at this installation and say what is missing."""
    from pipeline.doctor import diagnose

    report = diagnose(Path.cwd())
    _show(report, "doctor", json)
    return 1 if any("to train" not in problem for problem in report.problems) else 0


@click.group(
    cls=ExitCodes, context_settings={**CONTEXT, "auto_envvar_prefix": "GENISP"}, epilog=EXIT_CODES
)
@version_option
def genisp() -> None:
    """Train GenISP from a store, score it, and use it."""


@genisp.command(epilog=f"Example: train --store data.zarr --output-dir runs/night\n{EXIT_CODES}")
@store_option
@click.option("--split", default="train", show_envvar=True, help="Samples to train on.")
@click.option(
    "--val-split", default="val", show_envvar=True, help="Samples to score on; '' for none."
)
@click.option(
    "--level",
    type=click.Choice(["resized", "packed"]),
    default="resized",
    show_envvar=True,
    help="Which array is streamed.",
)
@click.option(
    "--recipe",
    type=click.Choice(["default", "paper", "report"]),
    default="default",
    show_envvar=True,
    help="Network start, bounds and schedule; the options below override the schedule.",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    show_default="recipe's",
    show_envvar=True,
    help="Passes over the split.",
)
@click.option(
    "-b",
    "--batch-size",
    type=click.IntRange(min=1),
    show_default="recipe's",
    show_envvar=True,
    help="Images a batch.",
)
@click.option(
    "--accumulate",
    type=click.IntRange(min=1),
    default=1,
    show_envvar=True,
    help="Batches an optimiser step: 8 of size 1 fit where one of size 8 does not.",
)
@click.option(
    "--lr", type=float, show_default="recipe's", show_envvar=True, help="Adam's learning rate."
)
@click.option(
    "--lr-steps",
    show_default="recipe's",
    show_envvar=True,
    help="Epochs at which lr falls tenfold: 5,10.",
)
@click.option("--amp", is_flag=True, show_envvar=True, help="bfloat16 autocast.")
@detector_options
@click.option("--gray-world", type=float, default=0.0, show_envvar=True, help="Weight of eq. 4.")
@click.option("--flip", type=float, default=0.5, show_envvar=True, help="Chance of mirroring.")
@click.option(
    "--seed", type=int, default=0, show_envvar=True, help="Of start, order and mirroring."
)
@click.option(
    "--deterministic",
    is_flag=True,
    show_envvar=True,
    help="Refuse operations that differ from run to run.",
)
@click.option("--resume", is_flag=True, show_envvar=True, help="Continue the run in --output-dir.")
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path),
    default=Path("runs/train"),
    show_envvar=True,
    help="The run's folder.",
)
@click.option(
    "--limit-steps",
    type=click.IntRange(min=0),
    default=0,
    show_envvar=True,
    help="Stop after so many optimiser steps; 0 for no limit.",
)
@click.option(
    "--overfit-one-batch",
    is_flag=True,
    show_envvar=True,
    help="Train on the first batch again and again: a quick test.",
)
@click.option(
    "--checkpoint-activations",
    is_flag=True,
    show_envvar=True,
    help="Compute GenISP's activations twice instead of keeping them: less memory, slower.",
)
@click.option(
    "--speedup",
    "speedups",
    type=click.Choice(
        [
            "fused-adam",
            "fused-detector",
            "cudnn-benchmark",
            "channels-last-isp",
            "channels-last-detector",
        ]
    ),
    multiple=True,
    show_envvar=True,
    help="Another way to the same numbers, up to rounding; what pays depends on the GPU. "
    "Repeatable.",
)
@click.option(
    "--skip-damaged", is_flag=True, show_envvar=True, help="Count damaged samples, go on."
)
def train(**options: Any) -> int:
    """Train GenISP under a frozen detector, streaming a store."""
    from genisp_model.training.run import run_training

    resume, folder = options.pop("resume"), options.pop("output_dir")
    return run_training(options, folder, resume=resume, say=_say)


@genisp.command(
    epilog="Example: genisp evaluate --store data.zarr --checkpoint runs/train/checkpoints/best.pt"
    f"\n{EXIT_CODES}"
)
@store_option
@click.option("--split", default="val", show_envvar=True, help="Samples to score on.")
@click.option(
    "--level",
    type=click.Choice(["resized", "packed"]),
    default="resized",
    show_envvar=True,
    help="Which array is read.",
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    show_envvar=True,
    help="A run's network; without one only the fixed renderings are scored.",
)
@click.option(
    "--sources",
    multiple=True,
    metavar="SOURCE",
    show_envvar=True,
    help="The raws the store was made from: scores LibRaw's default rendering of them too. "
    "Repeatable.",
)
@click.option(
    "--by-condition",
    is_flag=True,
    show_envvar=True,
    help="Score also the images with a box of each flag (isextreme, ...), those without, and "
    "by ISO.",
)
@detector_options
@json_option
def evaluate(checkpoint: Path | None, sources: tuple[str, ...], json: bool, **options: Any) -> int:
    """Score every rendering of a split under a frozen detector: COCO AP and guidance loss."""
    from genisp_model.evaluation.run import run_evaluation
    from pipeline.console import results

    pictures = None
    if sources:
        from pipeline.camera_picture import camera_pictures

        pictures = camera_pictures(options["store"], options["split"], options["level"], sources)
    scores = run_evaluation(options, checkpoint, _warn, pictures)
    lines = (
        map(results.as_json, scores)
        if json
        else [results.scores_text(scores), results.twelve_lines(scores)]
    )
    for line in lines:
        _say(line)
    return 0


@genisp.command(
    epilog="Example: genisp enhance night/*.ARW --checkpoint runs/train/checkpoints/best.pt "
    f"--output-dir pictures\n{EXIT_CODES}"
)
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@checkpoint_option
@click.option(
    "--store",
    type=click.Path(),
    show_envvar=True,
    help="Take samples of this store; INPUT is then their ids.",
)
@click.option(
    "--level",
    type=click.Choice(["resized", "packed"]),
    show_default="as trained",
    show_envvar=True,
    help="Size of the pictures: the store's resized, or half the sensor's.",
)
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path),
    default=Path("enhanced"),
    show_envvar=True,
    help="Where the pictures go, one an input, named after it.",
)
@click.option(
    "--format",
    type=click.Choice(["png", "tiff"]),
    default="png",
    show_envvar=True,
    help="PNG with 8 bits a colour, or TIFF with 16.",
)
@click.option(
    "--device",
    default="auto",
    show_envvar=True,
    help="auto: CUDA when there is one, else CPU.",
)
@click.option(
    "--overwrite", is_flag=True, show_envvar=True, help="Replace pictures that are there."
)
def enhance(inputs: tuple[str, ...], checkpoint: Path, **options: Any) -> int:
    """Turn raw files, or samples of a store, into pictures by a trained network.

    INPUT is a raw file; it is developed as ingest would.
    """
    from genisp_model.enhance import EnhanceOptions, run_enhance

    def develop(path: str, recipe: Recipe, level: LevelName) -> Developed:
        from pipeline.develop_file import develop_file  # decoders: not needed for a store

        return develop_file(path, recipe, level)

    return run_enhance(
        inputs,
        checkpoint,
        EnhanceOptions(**options),
        develop,
        say=_say,
        warn=_warn,
    )


@genisp.command(
    epilog="Example: genisp export --checkpoint runs/train/checkpoints/best.pt --output isp.onnx"
    f"\n{EXIT_CODES}"
)
@checkpoint_option
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    show_envvar=True,
    help="The ONNX file; one that is there is replaced once the new one has passed.",
)
@click.option(
    "--opset",
    type=click.IntRange(18, 23),
    default=18,
    show_envvar=True,
    help="ONNX operator set.",
)
def export(checkpoint: Path, output: Path, opset: int) -> int:
    """Write a trained network as ONNX, and prove that onnxruntime gives its pictures.

    Inputs: xyz (B,3,H,W) and scale (B,), the 99th percentile of Y of each whole frame. Output:
    image (B,3,H,W), to be clamped to 0..1. B, H and W are free.
    """
    from genisp_model.export_onnx import run_export

    return run_export(checkpoint, output, opset, _say)


def _recipe(options: dict[str, Any]) -> Recipe:
    from pydantic import ValidationError

    from schemas.recipe import Recipe

    try:
        long_side, short_side = (int(part) for part in options["fit"].lower().split("x"))
    except ValueError:
        message = f"--fit {options['fit']!r} is not two whole numbers"
        raise UsageError(message, hint="write LONGxSHORT: --fit 1333x800") from None
    try:
        return Recipe(
            colour=options["colour"],
            levels=tuple(name.strip() for name in options["levels"].split(",")),
            fit=(long_side, short_side),
            codec=options["codec"],
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"{first['msg']} (got {first['input']!r})", hint="see --help") from None


def _named_split(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise UsageError(
            f"--split {text!r} names no file", hint="write NAME=FILE: --split val=boxes.json"
        )
    return name, path


def _reporter(as_json: bool, *, quiet: bool = False) -> Reporter:
    """JSON lines to stdout; or, to stderr, a live line on a terminal and plain lines elsewhere."""
    from pipeline.console.progress import JsonReporter, PlainReporter

    if as_json:
        return JsonReporter(click.echo)
    if not sys.stderr.isatty():
        return PlainReporter(lambda text: click.echo(text, err=True), quiet=quiet)
    from rich.console import Console

    from pipeline.console.terminal import TerminalReporter

    return TerminalReporter(Console(stderr=True), quiet=quiet)


def _show(result: Any, kind: str, as_json: bool) -> None:
    """Print a command's result to stdout."""
    from pipeline.console import results

    _say(results.as_json(result) if as_json else results.TEXTS[kind](result))


def _say(text: str) -> None:
    """Print to stdout what may hold names."""
    from pipeline.safe_text import visible_lines

    click.echo(visible_lines(text))


def _warn(text: str) -> None:
    """Print to stderr what may hold names."""
    from pipeline.safe_text import visible_lines

    click.echo(visible_lines(text), err=True)


def prep_main() -> None:
    """Entry point of ``prep``."""
    prep(prog_name="prep")


def genisp_main() -> None:
    """Entry point of ``genisp``."""
    genisp(prog_name="genisp")


def train_main() -> None:
    """Entry point of ``train``: the same as ``genisp train``."""
    genisp(["train", *sys.argv[1:]], prog_name="genisp")


if __name__ == "__main__":
    prep_main()
