"""Results as text for people: the last lines of a command. Pure: values in, text out."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipeline.console.progress import clock
from pipeline.safe_text import json_line
from schemas.events import EVENT_SCHEMA, IngestSummary, PlanEvent, VerifySummary
from schemas.exit_code import ExitCode
from schemas.info import DoctorReport, RenderingScore, StoreInfo
from schemas.sample_set import SampleSetSummary


def as_json(result: Any) -> str:
    """A result as one line of JSON."""
    if isinstance(result, BaseModel):
        return json_line(result)
    fields = {"schema_version": EVENT_SCHEMA, "event": "sample", **dataclasses.asdict(result)}
    return json_line(fields)


def ingest_text(summary: IngestSummary) -> str:
    """Counts, the store, duration and rate, and the next command to type."""
    changed = _listed(
        (summary.ingested, "ingested"),
        (summary.redone, "redone"),
        (summary.reannotated, "with new boxes"),
        (summary.failed - summary.failed_before, "failed"),
        (summary.failed_before, "failed before"),
        (summary.damaged, "damaged, whose sources were not given"),
    )
    if not changed and not summary.interrupted:
        return f"Store is up to date ({_many(summary.samples, 'sample')})."
    aside = _listed(
        (summary.raws_without_annotation, "without annotation"),
        (summary.annotations_without_raw, "annotated images without raw"),
        (summary.boxes_untrainable, "boxes left out of training"),
    )
    lines = [
        changed or "nothing ingested",
        f"{_many(summary.samples, 'sample')} in {summary.store}" + (f" ({aside})" if aside else ""),
        clock(summary.seconds) + _speed(summary),
    ]
    if summary.failed:
        lines.append("failed raws are skipped until they change; --retry-failed tries them again")
    store = shlex.quote(summary.store)
    if summary.interrupted:
        lines.append("interrupted; state is safe: run the same command again, it continues")
    elif summary.damaged:
        lines.append(f"next: prep ingest THEIR-SOURCES --store {store}")
    elif summary.samples:
        lines.append("next: prep verify" + ("" if store == "data.zarr" else f" {store}"))
    return "\n".join(lines)


def _listed(*counts: tuple[int, str]) -> str:
    return ", ".join(f"{count:,} {what}" for count, what in counts if count)


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def _speed(summary: IngestSummary) -> str:
    done = summary.ingested + summary.redone
    if not done or summary.seconds <= 0:
        return ""
    rate = summary.bytes_read / summary.seconds / 1e6
    return f", {done / summary.seconds:.2f} images/s, {rate:.0f} MB/s of raws"


def plan_text(plan: PlanEvent) -> str:
    """A dry run as a table."""
    rows = [f"{count:>8,}  {status}" for status, count in sorted(plan.statuses.items())]
    return "\n".join(
        [
            "dry run: nothing is written",
            *(rows or ["       0  sources"]),
            f"to read: {_size(plan.bytes_to_read)}; free on disk: {_size(plan.bytes_free)}",
            f"recipe: {plan.recipe}",
        ]
    )


def verify_text(summary: VerifySummary) -> str:
    """Whether the store is whole, then what was checked."""
    what = "" if summary.chunks or not summary.samples else "the structure of "
    looked = [_many(summary.samples, "sample")]
    if what:
        looked.append("chunks not read")
    else:
        looked.append(f"{_many(summary.chunks, 'chunk')}, {_size(summary.bytes_checked)}")
    if summary.derived:
        looked.append(f"{summary.derived:,} derived again from their raws")
    checked = f"{', '.join(looked)} in {clock(summary.seconds)}"
    warnings = _many(summary.warnings, "warning")
    if summary.exit_code == ExitCode.DONE:
        noticed = f"; {warnings}" if summary.warnings else ""
        return f"{what}{summary.store} is whole ({checked}){noticed}"
    return (
        f"{what}{summary.store} is NOT whole: {_many(summary.errors, 'error')}, {warnings} "
        f"({checked})\nmend: prep ingest SOURCES --store {shlex.quote(summary.store)}"
    )


def info_text(info: StoreInfo) -> str:
    """What a store holds, on one screen."""
    lines = [
        f"{info.path}: {_many(info.samples, 'sample')}, {_size(info.chunk_bytes)}",
        f"  recipe   {info.recipe.describe()}",
    ]
    for group in info.groups:
        levels = ", ".join(f"{name} {shape[2]}x{shape[1]}" for name, shape in group.levels.items())
        width, height = group.frame_size
        lines.append(
            f"  camera   {group.camera}, frame {width}x{height}: "
            f"{_many(group.samples, 'sample')} ({levels})"
        )
    for name, counts in info.splits.items():
        boxes = counts.get("boxes", 0)
        lines.append(
            f"  split    {name or '(none)'}: {_many(counts['samples'], 'sample')}, {boxes:,} boxes"
        )
    classes = ", ".join(f"{count:,} {name}" for name, count in info.classes.items())
    ignored = f", {info.boxes_ignored:,} of them ignore regions" if info.boxes_ignored else ""
    lines.append(
        f"  boxes    {info.boxes:,} ({classes or 'none'}); {info.boxes_untrainable} untrainable"
        f"{ignored}"
    )
    if info.iso_range:
        lines.append(f"  ISO      {info.iso_range[0]}-{info.iso_range[1]}")
    if info.failed:
        lines.append(f"  failed   {info.failed:,} of the sources seen")
    lines += [f"  warning  {text}" for text in info.warnings]
    return "\n".join(lines)


def sample_text(summary: SampleSetSummary, directory: Path) -> str:
    """What was written, and what to type next."""
    return (
        f"{len(summary.raws)} raws of {' and '.join(summary.cameras)}, {summary.boxes} boxes, "
        f"{_size(summary.size)} in {directory}\nnext: prep ingest {shlex.quote(str(directory))}"
    )


def doctor_text(report: DoctorReport) -> str:
    """Versions, machine, problems."""
    lines = [f"  {name:12} {version}" for name, version in report.versions.items()]
    lines += [
        f"  {'LibRaw':12} {report.libraw}",
        f"  {'cores':12} {report.cpu_count}",
        f"  {'memory':12} {_size(report.memory_bytes) if report.memory_bytes else 'unknown'}",
        f"  {'disk free':12} {_size(report.disk_free_bytes)}",
        f"  {'GPU driver':12} {report.gpu}",
    ]
    lines += [f"problem: {problem}" for problem in report.problems] or ["everything is there"]
    return "\n".join(lines)


def _size(nbytes: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= factor:
            return f"{nbytes / factor:.1f} {unit}"
    return f"{nbytes} bytes"


def scores_text(scores: Sequence[RenderingScore]) -> str:
    """One line a rendering; the gain is in guidance loss against the classical rendering.

    Scores of conditions follow in a second table, a paragraph each.
    """
    overall = [one for one in scores if not one.condition]
    images = overall[0].images if overall else 0
    lines = [
        f"{'rendering':20} {'AP':>6} {'AP50':>6} {'loss':>7}   gain against classical",
        *map(_score_line, overall),
        f"{_many(images, 'image')}; the gain is paired over them, ± its standard error",
    ]
    names = dict.fromkeys(one.condition for one in scores if one.condition)
    for name in names:
        rows = [one for one in scores if one.condition == name]
        lines += ["", f"{name}: {_many(rows[0].images, 'image')}", *map(_score_line, rows)]
    if any(name.startswith("not ") for name in names):
        lines.append(
            "\nan image has a flag if at least one of its boxes has it; "
            "images without any statement are in neither part"
        )
    return "\n".join(lines)


def twelve_lines(scores: Sequence[RenderingScore]) -> str:
    """COCO's usual lines of the last rendering over all images."""
    last = [one for one in scores if not one.condition][-1]
    return f"\n{last.rendering}:\n{last.lines}"


def _score_line(one: RenderingScore) -> str:
    gain = f"{one.gain:+.3f}" if one.rendering != "classical" else ""
    if gain and one.images > 1:  # one image has no standard error
        gain += f" ± {one.gain_error:.3f}"
    return f"{one.rendering:20} {one.ap:6.3f} {one.ap50:6.3f} {one.loss:7.3f}   {gain}".rstrip()


TEXTS: dict[str, Callable[[Any], str]] = {
    "ingest": ingest_text,
    "plan": plan_text,
    "verify": verify_text,
    "info": info_text,
    "doctor": doctor_text,
}
