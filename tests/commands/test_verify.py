from __future__ import annotations

import json
from pathlib import Path

from tests.commands.invoke import run


def test_a_damaged_store_is_4_and_names_the_sample(store_path: Path) -> None:
    sidecar = json.loads(next(store_path.glob("sony*/sidecars/DSC01088.json")).read_text())
    chunk = store_path / sidecar["group"] / "packed" / f"c.{sidecar['row']}.0.0.0"
    data = bytearray(chunk.read_bytes())
    data[99] ^= 16
    chunk.write_bytes(data)
    result = run("verify", store_path)
    assert result.exit_code == 4
    assert "DSC01088" in result.stderr
    assert "prep ingest" in result.stderr
    assert "NOT whole" in result.stdout


def test_verify_says_how_deep_it_looked(nod: Path, store_path: Path) -> None:
    assert "12 chunks" in run("verify", store_path).stdout
    quick = run("verify", store_path, "--quick").stdout
    assert quick.startswith("the structure of ")
    assert "chunks not read" in quick
    derived = run("verify", store_path, "--sources", nod / "Sony", "--workers", 0)
    assert "3 derived again from their raws" in derived.stdout
    assert "3 of 6 samples have no raw here" in derived.stderr
    (nod / "empty").mkdir()
    nothing = run("verify", store_path, "--sources", nod / "empty", "--strict", "--workers", 0)
    assert nothing.exit_code == 4
