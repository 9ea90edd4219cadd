"""The tables of what campaigns found are those of `make torture`'s own file."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from scripts.write_campaigns import PAGE, rewritten, table
from tests.torture.__main__ import CAMPAIGNS
from tests.torture.campaign import FaultRow, Finished


def found(name: str) -> dict[str, object]:
    rows = (
        FaultRow("a bit", 1200, caught=1000, harmless=200, survived=1200),
        FaultRow("a | byte", 3, caught=1, survived=2, misses=["a byte: the third"]),
    )
    written: dict[str, object] = json.loads(json.dumps(asdict(Finished(name, rows, 2.0))))
    return written


def test_a_row_for_each_kind_and_their_sums() -> None:
    assert table(found("crash")).splitlines() == [
        "| fault | tried | caught | harmless | survived | missed |",
        "|---|---|---|---|---|---|",
        "| a bit | 1,200 | 1,000 | 200 | 1,200 | 0 |",
        r"| a \| byte | 3 | 1 | 0 | 2 | 1 |",
        "| **all** | **1,203** | **1,001** | **200** | **1,202** | **1** |",
    ]


def test_the_page_has_a_place_for_every_campaign() -> None:
    page = PAGE.read_text()
    once = rewritten(page, [found(name) for name in CAMPAIGNS])
    assert once.count("| a bit | 1,200 |") == len(CAMPAIGNS)
    assert rewritten(once, [found(name) for name in CAMPAIGNS]) == once
    with pytest.raises(ValueError, match="campaign: weather"):
        rewritten(page, [found("weather")])
