from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import NoStoreError
from pipeline.files import StoreFiles
from pipeline.verify import VerifyOptions, run_verify
from schemas.events import VerifySummary
from schemas.finding import Severity
from tests.conftest import Ingest, Recorder, chunks, tree


def verify(
    store: Path, recorder: Recorder, *, quick: bool = False, sources: tuple[str, ...] = ()
) -> VerifySummary:
    return run_verify(StoreFiles(store), recorder, VerifyOptions(quick=quick, sources=sources))


def errors(recorder: Recorder) -> list[str]:
    return [f.where for f in recorder.findings if f.severity is Severity.ERROR]


def test_a_fresh_store_is_whole(store_path: Path, recorder: Recorder) -> None:
    summary = verify(store_path, recorder)
    assert (summary.exit_code, summary.samples, summary.chunks) == (0, 6, 12)
    assert summary.bytes_checked == sum(map(len, chunks(store_path).values()))


def test_verify_writes_nothing(store_path: Path, recorder: Recorder) -> None:
    before = tree(store_path)
    verify(store_path, recorder)
    assert tree(store_path) == before


def test_one_flipped_bit_in_any_chunk_names_the_sample(
    store_path: Path, recorder: Recorder
) -> None:
    owners = {}
    for path in store_path.glob("*/sidecars/*.json"):
        sidecar = json.loads(path.read_text())
        for level in sidecar["levels"]:
            key = f"{sidecar['group']}/{level}/c.{sidecar['row']}.0.0.0"
            owners[key] = f"{sidecar['group']}/{sidecar['id']}"
    assert set(owners) == set(chunks(store_path))
    rng = np.random.default_rng(0)
    for name, data in chunks(store_path).items():
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        (store_path / name).write_bytes(damaged)
        found = Recorder()
        assert verify(store_path, found).exit_code == 4
        assert errors(found) == [owners[name]]
        assert "prep ingest" in found.findings[0].mend
        (store_path / name).write_bytes(data)
    assert verify(store_path, recorder).exit_code == 0


@pytest.mark.parametrize("kind", ["*/sidecars/*.json", "**/zarr.json", "manifest.jsonl"])
def test_flipped_bits_in_every_other_file_are_noticed(
    store_path: Path, recorder: Recorder, kind: str
) -> None:
    rng = np.random.default_rng(1)
    for path in sorted(store_path.glob(kind)):
        data = path.read_bytes()
        for _ in range(8):
            damaged = bytearray(data)
            damaged[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
            path.write_bytes(damaged)
            assert verify(store_path, Recorder(), quick=True).exit_code == 4, damaged
        path.write_bytes(data)
    assert verify(store_path, recorder).exit_code == 0


def test_truncated_missing_zeroed_and_swapped_chunks_are_noticed(
    store_path: Path, recorder: Recorder
) -> None:
    names = [name for name in chunks(store_path) if "nikon" in name and "packed" in name]
    first, second = (store_path / name for name in names[:2])
    a, b = first.read_bytes(), second.read_bytes()
    for damage in (a[:-1], a[: len(a) // 2], b"", a[: len(a) // 2] + bytes(len(a) // 2), b):
        first.write_bytes(damage)
        found = Recorder()
        assert verify(store_path, found).exit_code == 4
        assert len(errors(found)) == 1
    first.unlink()
    assert verify(store_path, Recorder()).exit_code == 4
    assert verify(store_path, Recorder(), quick=True).exit_code == 4
    first.write_bytes(a)
    assert verify(store_path, recorder).exit_code == 0


def test_a_missing_sidecar_is_named(store_path: Path, recorder: Recorder) -> None:
    victim = next(store_path.glob("*/sidecars/*.json"))
    victim.unlink()
    assert verify(store_path, recorder).exit_code == 4
    assert f"{victim.parts[-3]}/{victim.stem}" in errors(recorder)


def test_swapped_sidecars_are_noticed(store_path: Path, recorder: Recorder) -> None:
    first, second = sorted(store_path.glob("nikon*/sidecars/*.json"))[:2]
    a, b = first.read_bytes(), second.read_bytes()
    first.write_bytes(b)
    second.write_bytes(a)
    assert verify(store_path, recorder).exit_code == 4
    assert len(errors(recorder)) == 2


def test_an_edited_box_is_noticed(store_path: Path, recorder: Recorder) -> None:
    victim = next(store_path.glob("*/sidecars/*.json"))
    document = json.loads(victim.read_text())
    document["annotation"]["boxes"][0]["bbox"][0] += 1
    victim.write_text(json.dumps(document, indent=1) + "\n")
    assert verify(store_path, recorder, quick=True).exit_code == 4
    assert errors(recorder) == [f"{victim.parts[-3]}/{victim.stem}"]


def test_a_box_forged_with_a_fitting_digest_is_still_checked(
    store_path: Path, recorder: Recorder
) -> None:
    from schemas.sidecar import Sidecar

    victim = next(store_path.glob("*/sidecars/*.json"))
    document = json.loads(victim.read_text())
    document["annotation"]["boxes"][0]["bbox"] = [-900, -900, 10, 10]
    victim.write_bytes(Sidecar.model_validate(document).sealed().to_json())
    assert verify(store_path, recorder, quick=True).exit_code == 4
    assert "damaged-box" in recorder.codes


def test_foreign_files_are_a_warning(store_path: Path, recorder: Recorder) -> None:
    (store_path / "notes.txt").write_text("mine")
    assert verify(store_path, recorder).exit_code == 0
    assert [f.where for f in recorder.findings if f.code == "stray-file"] == ["notes.txt"]


def test_nothing_and_something_else_are_no_store(tmp_path: Path, recorder: Recorder) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(NoStoreError):
            verify(path, recorder)


def test_sources_derives_every_number_again(
    nod: Path, store_path: Path, recorder: Recorder
) -> None:
    summary = verify(store_path, recorder, sources=(str(nod),))
    assert (summary.exit_code, summary.errors) == (0, 0)
    assert "raw-not-given" not in recorder.codes


def test_sources_finds_a_changed_raw(nod: Path, store_path: Path, recorder: Recorder) -> None:
    victim = sorted((nod / "Nikon").glob("*.NEF"))[0]
    data = bytearray(victim.read_bytes())
    data[-100] ^= 1
    victim.write_bytes(data)
    assert verify(store_path, recorder, sources=(str(nod),)).exit_code == 4
    assert "raw-changed" in recorder.codes
    assert errors(recorder)[0].endswith(victim.stem)


def test_sources_finds_a_forged_chunk(
    nod: Path, tmp_path: Path, ingest: Ingest, recorder: Recorder
) -> None:
    """A chunk and a sidecar that agree with each other, but not with the raw."""
    from pipeline.chunk import chunk_crc, encode_chunk
    from pipeline.store import open_store

    ingest(nod, tmp_path / "s.zarr")
    store = open_store(tmp_path / "s.zarr")
    sample = store.read("DSC01088", level="packed")
    forged = sample.stored.copy()
    forged[1, 7, 7] += 1
    chunk = encode_chunk(forged, "lz4")
    record = sample.sidecar.levels["packed"].model_copy(
        update={"nbytes": len(chunk), "crc32c": chunk_crc(chunk)}
    )
    levels = sample.sidecar.levels | {"packed": record}
    sidecar = sample.sidecar.model_copy(update={"levels": levels}).sealed()
    group = store.path / sidecar.group
    (group / "packed" / f"c.{sidecar.row}.0.0.0").write_bytes(chunk)
    (group / "sidecars" / "DSC01088.json").write_bytes(sidecar.to_json())
    recorder.findings.clear()
    assert verify(store.path, recorder, sources=(str(nod),)).exit_code == 4
    assert "underivable" in recorder.codes


def test_neighbour_frames_across_splits_are_reported(
    nod: Path, tmp_path: Path, ingest: Ingest, recorder: Recorder
) -> None:
    train = json.loads(next((nod / "Nikon").glob("*train*.json")).read_text())
    val = next((nod / "Nikon").glob("*val*.json"))
    held_out = json.loads(val.read_text())["images"][0]["file_name"]
    first = train["images"][0]["file_name"]
    number = int(first[4:8])
    shutil.move(nod / "Nikon" / held_out, nod / "Nikon" / f"DSC_{number + 1:04}.NEF")
    val.write_text(val.read_text().replace(held_out.removesuffix(".NEF"), f"DSC_{number + 1:04}"))
    ingest(nod, tmp_path / "s.zarr")
    recorder.findings.clear()
    assert verify(tmp_path / "s.zarr", recorder).exit_code == 0
    (finding,) = [f for f in recorder.findings if f.code == "neighbour-leakage"]
    assert f"DSC_{number + 1:04} beside" in finding.message


def test_the_same_raw_twice_is_reported(
    nod: Path, tmp_path: Path, ingest: Ingest, recorder: Recorder
) -> None:
    raw = next((nod / "Nikon").glob("*.NEF"))
    shutil.copy(raw, raw.with_name("COPY.NEF"))
    ingest(nod, tmp_path / "s.zarr")
    assert verify(tmp_path / "s.zarr", recorder).exit_code == 0
    assert "same-raw" in recorder.codes
