from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pydantic import TypeAdapter

from schemas.events import (
    ErrorEvent,
    FindingEvent,
    IngestSummary,
    PlanEvent,
    SampleEvent,
    StatusEvent,
    VerifySummary,
)
from schemas.info import DoctorReport, StoreInfo
from tests.commands.invoke import run

AnyEvent: TypeAdapter[object] = TypeAdapter(
    ErrorEvent
    | FindingEvent
    | SampleEvent
    | StatusEvent
    | PlanEvent
    | IngestSummary
    | VerifySummary
)


def test_json_lines_follow_the_schema(nod: Path, tmp_path: Path) -> None:
    next((nod / "Nikon").glob("*.NEF")).write_bytes(b"not a raw")
    store = tmp_path / "s.zarr"
    outputs = [
        run("ingest", nod, "--store", store, "--json", "--dry-run"),
        run("ingest", nod, "--store", store, "--json", "--workers", 0),
        run("verify", store, "--json"),
    ]
    assert [result.exit_code for result in outputs] == [0, 3, 0]
    events = [AnyEvent.validate_json(line) for o in outputs for line in o.stdout.splitlines()]
    kinds = {type(event) for event in events}
    assert {PlanEvent, SampleEvent, ErrorEvent, IngestSummary, VerifySummary} <= kinds
    assert all(result.stderr == "" for result in outputs)
    StoreInfo.model_validate_json(run("info", store, "--json").stdout)
    DoctorReport.model_validate_json(run("doctor", "--json").stdout)


def test_a_closed_pipe_is_no_error(store_path: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m cli info {store_path} | true; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stderr == ""
