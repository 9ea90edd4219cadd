from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import NoStoreError
from pipeline.raw.facts import DecodedRaw
from pipeline.raw.reader import decode
from pipeline.store.header import read_root
from pipeline.store.local.files import LocalFiles
from pipeline.store.manifest import dump_manifest, entry_for, parse_manifest
from pipeline.store.reader import open_store
from pipeline.verify import rederive
from pipeline.verify.run import VerifyOptions, _check_samples, _Tally, run_verify
from schemas.choices import DecoderName
from schemas.events import VerifySummary
from schemas.finding import Severity
from schemas.sidecar import Sidecar
from tests.conftest import Ingest
from tests.kit.odd_raws import coded_dng
from tests.kit.raw_files import dim
from tests.kit.recorder import Recorder
from tests.kit.stored import sealed
from tests.kit.trees import chunks, tree


def verify(
    store: Path, recorder: Recorder, *, quick: bool = False, sources: tuple[str, ...] = ()
) -> VerifySummary:
    return run_verify(LocalFiles(store), recorder, VerifyOptions(quick=quick, sources=sources))


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
    from pipeline.store.chunk.encode import encode_chunk
    from pipeline.store.chunk.format import chunk_crc

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
    raw = min((nod / "Nikon").glob("*.NEF"))
    for number in range(4):
        shutil.copy(raw, raw.with_name(f"COPY{number}.NEF"))
    ingest(nod, tmp_path / "s.zarr")
    assert verify(tmp_path / "s.zarr", recorder).exit_code == 0
    (finding,) = (finding for finding in recorder.findings if finding.code == "same-raw")
    assert "stored as COPY0, COPY1, COPY2 and 2 more" in finding.message


def test_other_bytes_for_the_same_sidecar_are_damage(store_path: Path, recorder: Recorder) -> None:
    """No number changes, so reading does no harm; but a disk changed it, and may go on to."""
    victim = next(store_path.glob("*/sidecars/*.json"))
    whole = victim.read_bytes()
    owner = f"{victim.parts[-3]}/{victim.stem}"
    assert b"e-" in whole
    for damaged in (whole[:-1], whole + b" ", whole.replace(b"e-", b"E-", 1)):
        victim.write_bytes(damaged)
        found = Recorder()
        assert verify(store_path, found, quick=True).exit_code == 4
        assert errors(found) == [owner]
        assert open_store(store_path).sidecar(victim.stem).to_json() == whole
    victim.write_bytes(whole)


def test_a_root_with_other_versions_is_named_and_the_manifest_is_not(
    store_path: Path, recorder: Recorder
) -> None:
    root = store_path / "zarr.json"
    root.write_bytes(root.read_bytes().replace(b'"numpy": "', b'"numpy": "9', 1))
    assert verify(store_path, recorder).exit_code == 4
    assert errors(recorder) == ["zarr.json"]


def test_a_damaged_sidecar_in_the_last_row_is_no_interrupted_ingest(
    store_path: Path, recorder: Recorder
) -> None:
    for path in store_path.glob("*/sidecars/*.json"):
        path.write_bytes(b"")
    assert verify(store_path, recorder).exit_code == 4
    assert len(errors(recorder)) == 6
    assert recorder.codes == {"damaged-sidecar"}


def test_of_two_samples_in_one_row_the_one_without_its_chunk_is_named(
    store_path: Path, recorder: Recorder
) -> None:
    first, second = sorted(store_path.glob("nikon*/sidecars/*.json"))[:2]
    owner = f"{first.parts[-3]}/{first.stem}"
    document = json.loads(first.read_text())
    first.write_bytes(sealed(document | {"row": json.loads(second.read_text())["row"]}))
    assert verify(store_path, recorder).exit_code == 4
    assert set(errors(recorder)) == {owner}
    assert any("claimed by" in finding.message for finding in recorder.findings)


def test_the_one_sample_unlike_its_group_is_named(store_path: Path, recorder: Recorder) -> None:
    victim = min(store_path.glob("nikon*/sidecars/*.json"))
    document = json.loads(victim.read_text())
    for record in document["levels"].values():
        record["scale_factor"] *= 1.25
        record["add_offset"] *= 1.25
    victim.write_bytes(sealed(document))
    assert verify(store_path, recorder).exit_code == 4
    assert set(errors(recorder)) == {f"{victim.parts[-3]}/{victim.stem}"}
    (mend,) = {f.mend for f in recorder.findings if f.code == "damaged-layout"}
    assert mend.startswith(f"delete {victim.parts[-3]}/sidecars/{victim.name}, then run prep")


def test_levels_no_sensor_has_are_damage_not_a_crash(store_path: Path) -> None:
    victim = next(store_path.glob("*/sidecars/*.json"))
    whole = json.loads(victim.read_text())
    for sensor in (
        {"white": min(whole["sensor"]["black"])},
        {"xyz_to_camera": [[0.0] * 3] * 3},
        {"xyz_to_camera": [[1e300] * 3] * 3},
    ):
        victim.write_bytes(sealed(whole | {"sensor": whole["sensor"] | sensor}))
        found = Recorder()
        assert verify(store_path, found, quick=True).exit_code == 4
        assert set(errors(found)) == {f"{victim.parts[-3]}/{victim.stem}"}


def test_a_box_in_the_odd_last_column_of_its_annotation_is_no_damage(
    store_path: Path, recorder: Recorder
) -> None:
    """The frame that is stored ends a column earlier; the box is left out of targets there."""
    victim = next(store_path.glob("nikon*/sidecars/*.json"))
    document = json.loads(victim.read_text())
    width = document["annotation"]["width"]
    document["annotation"]["width"] = width + 1
    document["annotation"]["boxes"][0] |= {"bbox": [width + 0.25, 3.0, 0.5, 9.0]}
    victim.write_bytes(Sidecar.model_validate(document).sealed().to_json())
    (store_path / "manifest.jsonl").unlink()
    verify(store_path, recorder, quick=True)
    assert errors(recorder) == ["manifest.jsonl"]


def test_a_doubled_line_is_noticed_under_a_digest_that_fits(
    store_path: Path, recorder: Recorder
) -> None:
    path = store_path / "manifest.jsonl"
    manifest = parse_manifest(path.read_bytes(), path="")
    path.write_bytes(dump_manifest(manifest.header, [*manifest.entries, manifest.entries[0]]))
    assert verify(store_path, recorder, quick=True).exit_code == 4
    assert errors(recorder) == ["manifest.jsonl"]


def test_a_broken_sector_is_named_with_its_sample(store_path: Path, recorder: Recorder) -> None:
    victim = next(store_path.glob("nikon*/sidecars/*.json"))
    row = json.loads(victim.read_text())["row"]
    chunk = victim.parents[1] / "packed" / f"c.{row}.0.0.0"
    chunk.unlink()
    chunk.symlink_to("/proc/self/mem")  # its first byte cannot be read either
    assert verify(store_path, recorder).exit_code == 4
    assert errors(recorder) == [f"{victim.parts[-3]}/{victim.stem}"]
    (finding,) = [f for f in recorder.findings if f.severity is Severity.ERROR]
    assert "cannot be read: Input/output error" in finding.message
    assert "check the disk" in finding.mend


def test_users_files_beside_chunks_are_not_called_leftovers(
    nod: Path, tmp_path: Path, ingest: Ingest, recorder: Recorder
) -> None:
    ingest(nod, tmp_path / "s.zarr")
    group = next((tmp_path / "s.zarr").glob("nikon*"))
    mine = [group / "packed" / name for name in ("c.copy", "c.0.0.0.0.bak", "c.0.0.0.1")]
    for path in mine:
        path.write_text("mine")
    recorder.findings.clear()
    assert verify(tmp_path / "s.zarr", recorder).exit_code == 0
    strays = [f for f in recorder.findings if f.code == "stray-file"]
    assert sorted(f.where for f in strays) == sorted(f"{group.name}/packed/{p.name}" for p in mine)
    assert {f.mend for f in strays} == {"move it elsewhere"}
    ingest(nod, tmp_path / "s.zarr")
    assert all(path.exists() for path in mine)


def agreed(store: Path, change: Callable[[Sidecar], Sidecar]) -> str:
    """Change one sample's sidecar and the manifest with it; the sample's name."""
    path = store / "manifest.jsonl"
    manifest = parse_manifest(path.read_bytes(), path="")
    entry = manifest.samples[0]
    victim = store / f"{entry.group}/sidecars/{entry.id}.json"
    sidecar = change(Sidecar.model_validate_json(victim.read_bytes())).sealed()
    victim.write_bytes(sidecar.to_json())
    path.write_bytes(dump_manifest(manifest.header, [entry_for(sidecar), *manifest.entries[1:]]))
    return f"{entry.group}/{entry.id}"


def with_moved_box(sidecar: Sidecar) -> Sidecar:
    assert sidecar.annotation is not None
    first, *others = sidecar.annotation.boxes
    x, y, w, h = first.bbox
    boxes = (replace(first, bbox=(x + 1, y, w, h)), *others)
    annotation = sidecar.annotation.model_copy(update={"boxes": boxes})
    return sidecar.model_copy(update={"annotation": annotation})


def with_another_iso(sidecar: Sidecar) -> Sidecar:
    return sidecar.model_copy(
        update={"capture": sidecar.capture.model_copy(update={"iso": 100_000})}
    )


@pytest.mark.parametrize(
    ("change", "code"), [(with_moved_box, "boxes-differ"), (with_another_iso, "underivable")]
)
def test_sources_tells_what_store_and_manifest_agree_on(
    nod: Path,
    tmp_path: Path,
    ingest: Ingest,
    recorder: Recorder,
    change: Callable[[Sidecar], Sidecar],
    code: str,
) -> None:
    store = tmp_path / "s.zarr"
    ingest(nod, store)
    owner = agreed(store, change)
    recorder.findings.clear()
    assert verify(store, recorder).exit_code == 0
    assert verify(store, recorder, sources=(str(nod),)).exit_code == 4
    assert set(errors(recorder)) == {owner}
    assert code in recorder.codes


def test_sources_tells_raws_that_are_not_in_the_store(
    nod: Path, tmp_path: Path, ingest: Ingest, recorder: Recorder
) -> None:
    ingest(nod / "Nikon", tmp_path / "s.zarr")
    recorder.findings.clear()
    assert verify(tmp_path / "s.zarr", recorder, sources=(str(nod),)).exit_code == 0
    (finding,) = [f for f in recorder.findings if f.code == "raw-not-stored"]
    assert finding.message.startswith("3 of 6 raws here are not in it: ")


def test_equal_layouts_of_a_group_are_held_once(store_path: Path, recorder: Recorder) -> None:
    files = LocalFiles(store_path)
    recipe, _ = read_root(files)
    checked = list(_check_samples(files, recipe, _Tally(recorder), quick=True))
    assert len(checked) == 6
    assert len({id(one.layout) for one in checked}) == len({one.group for one in checked}) == 2


def test_a_raw_that_only_another_decoder_reads_is_no_damage(
    tmp_path: Path, ingest: Ingest, recorder: Recorder
) -> None:
    raws, store = tmp_path / "raws", tmp_path / "s.zarr"
    raws.mkdir()
    mosaic = dim((64, 96))
    (raws / "a.dng").write_bytes(coded_dng(zlib.compress(mosaic.tobytes()), 8, shape=(64, 96)))
    assert ingest(raws, store, decoder="flashraw").exit_code == 0
    summary = verify(store, recorder, sources=(str(raws),))
    assert (summary.exit_code, summary.derived, summary.errors, summary.warnings) == (0, 1, 0, 1)
    (finding,) = recorder.findings
    assert finding.code == "unconfirmed"
    assert "Deflate" in finding.message
    assert "flashraw" in finding.message


def test_numbers_that_are_not_its_decoder_s_are_still_found(
    tmp_path: Path, ingest: Ingest, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    raws, store = tmp_path / "raws", tmp_path / "s.zarr"
    raws.mkdir()
    mosaic = dim((64, 96))
    (raws / "a.dng").write_bytes(coded_dng(zlib.compress(mosaic.tobytes()), 8, shape=(64, 96)))
    ingest(raws, store, decoder="flashraw")
    real = decode

    def other(data: bytes, decoder: DecoderName, *, path: str) -> DecodedRaw:
        decoded = real(data, decoder, path=path)
        return replace(decoded, mosaic=decoded.mosaic + np.uint16(1))

    monkeypatch.setattr(rederive, "decode", other)
    assert verify(store, recorder, sources=(str(raws),)).exit_code == 4
    assert recorder.codes == {"unconfirmed", "underivable"}
    assert "flashraw's" in recorder.findings[-1].message
