from __future__ import annotations

import io
import json
import logging
import os
import pickle
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, Protocol, cast

import fsspec
import pytest

from pipeline.errors import CorruptRawError, UnreadableSourceError, UsageError
from pipeline.safe_text import printable
from pipeline.sources.discover import RAW_SUFFIXES, Discovery, discover
from pipeline.sources.location import reading
from pipeline.sources.source import MAX_SOURCE_BYTES, Source
from tests.kit.places import RAWS


class Memory(Protocol):
    """What these tests use of fsspec's memory file system."""

    store: dict[str, object]

    def pipe(self, path: str, content: bytes) -> None: ...

    def rm(self, path: str) -> None: ...


def write(path: Path, content: bytes = b"raw") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def zip_bytes(entries: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name, (2019, 11, 3, 21, 7, 8)), content)
    return buffer.getvalue()


def names(found: Discovery) -> list[str]:
    return [source.name for source in found.raws]


def nod(root: Path) -> Path:
    write(root / "Sony/DSC01088.ARW", b"sony")
    write(root / "Sony/DSC01089.arw", b"sony2")
    write(root / "Nikon/DSC_0674.NEF", b"nikon")
    write(root / "raw_new_Nikon750_train.json", b"{}")
    write(root / "README.md")
    write(root / "Nikon/DSC_0674.JPG")
    return root


@pytest.fixture
def memory() -> Iterator[Memory]:
    system = cast(Memory, fsspec.filesystem("memory"))
    system.store.clear()
    yield system
    system.store.clear()


def test_a_folder_gives_its_raws_and_annotations_sorted_by_name(tmp_path: Path) -> None:
    root = nod(tmp_path / "raw_nod")
    found = discover([str(root)])
    assert names(found) == ["Nikon/DSC_0674.NEF", "Sony/DSC01088.ARW", "Sony/DSC01089.arw"]
    assert [source.name for source in found.annotations] == ["raw_new_Nikon750_train.json"]
    assert found.problems == ()
    nikon = found.raws[0]
    assert (nikon.stem, nikon.suffix, nikon.size, nikon.member) == ("DSC_0674", ".nef", 5, None)
    assert nikon.location == nikon.label == str(root / "Nikon/DSC_0674.NEF")
    assert nikon.mtime_ns == (root / "Nikon/DSC_0674.NEF").stat().st_mtime_ns
    assert nikon.read_bytes() == b"nikon"


def test_names_do_not_depend_on_where_the_folder_is_or_how_it_is_spelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = names(discover([str(nod(tmp_path / "raw_nod"))]))
    assert names(discover([str(nod(tmp_path / "elsewhere/moved"))])) == expected
    assert names(discover([f"{tmp_path}/raw_nod/../raw_nod/"])) == expected
    monkeypatch.chdir(tmp_path / "raw_nod")
    here = discover(["."])
    assert names(here) == expected
    assert all(os.path.isabs(source.location) for source in here.raws)


def test_every_known_raw_suffix_is_found_in_either_case(tmp_path: Path) -> None:
    for suffix in RAW_SUFFIXES:
        write(tmp_path / f"lower{suffix}")
        write(tmp_path / f"UPPER{suffix.upper()}")
    assert len(discover([str(tmp_path)]).raws) == 2 * len(RAW_SUFFIXES) == 64


def test_hidden_files_stores_and_leftovers_are_skipped(tmp_path: Path) -> None:
    for skipped in (".hidden.ARW", "._a.ARW", ".cache/a.ARW", "data.zarr/a.json", "__MACOSX/a.ARW"):
        write(tmp_path / skipped)
    write(tmp_path / "a.ARW")
    found = discover([str(tmp_path)])
    assert names(found) == ["a.ARW"]
    assert found.annotations == ()


def test_a_hidden_folder_given_by_itself_is_taken(tmp_path: Path) -> None:
    write(tmp_path / ".hidden/a.ARW")
    assert names(discover([str(tmp_path / ".hidden")])) == ["a.ARW"]


def test_overlapping_inputs_give_each_file_once_under_the_outer_name(tmp_path: Path) -> None:
    root = nod(tmp_path / "raw_nod")
    alone = discover([str(root)])
    inputs = [str(root / "Sony/DSC01088.ARW"), str(root / "Sony"), str(root), f"{root}/Nikon/"]
    assert discover(inputs) == discover(inputs[::-1]) == alone


def test_several_roots_stand_before_their_names(tmp_path: Path) -> None:
    for folder in ("one/night", "two/night", "day"):
        write(tmp_path / folder / "a.ARW")
    inputs = [str(tmp_path / folder) for folder in ("two/night", "day", "one/night")]
    found = discover(inputs)
    assert names(found) == ["day/a.ARW", "night/a.ARW", "night~2/a.ARW"]
    assert discover(inputs[::-1]) == found
    assert {source.stem for source in found.raws} == {"a"}


def test_files_of_one_folder_are_named_as_the_folder_would_name_them(tmp_path: Path) -> None:
    root = nod(tmp_path / "raw_nod")
    sony = [str(path) for path in sorted((root / "Sony").iterdir())]
    assert names(discover(sony)) == names(discover([str(root / "Sony")]))


def test_an_annotation_file_from_elsewhere_renames_nothing(tmp_path: Path) -> None:
    root = nod(tmp_path / "raw_nod")
    extra = write(tmp_path / "test.json", b"{}")
    boxes = write(tmp_path / "boxes/val.json", b"{}")
    found = discover([str(root), str(extra), str(boxes.parent)])
    assert names(found) == names(discover([str(root)]))
    assert {source.name for source in found.annotations} == {
        "raw_new_Nikon750_train.json",
        "test.json",
        "val.json",
    }


def test_a_file_given_by_itself_is_taken_whatever_it_is_called(tmp_path: Path) -> None:
    odd = write(tmp_path / "DSC01088.bin")
    boxes = write(tmp_path / "boxes.JSON")
    found = discover([str(odd), str(boxes)])
    assert names(found) == ["DSC01088.bin"]
    assert [source.name for source in found.annotations] == ["boxes.JSON"]


def test_a_missing_input_is_wrong_usage(tmp_path: Path) -> None:
    for inputs in (["", str(tmp_path)], [], [str(tmp_path / "none"), str(tmp_path)]):
        with pytest.raises(UsageError) as caught:
            discover(inputs)
        assert caught.value.mend
        assert caught.value.exit_code == 2
    assert caught.value.path == str(tmp_path / "none")


def test_links_give_each_file_once_under_its_own_name(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(root / "b/x.ARW")
    write(tmp_path / "outside/y.ARW")
    (root / "a").symlink_to(root / "b")
    (root / "b/again").symlink_to(root / "b/x.ARW")
    (root / "b/loop").symlink_to(root)
    (root / "linked").symlink_to(tmp_path / "outside")
    (root / "z.ARW").symlink_to(tmp_path / "outside/y.ARW")
    found = discover([str(root)])
    assert found.problems == ()
    assert names(found) == ["b/x.ARW", "linked/y.ARW"]


def test_a_root_that_is_a_link_is_called_as_the_user_calls_it(tmp_path: Path) -> None:
    write(tmp_path / "disk7/blob/a.ARW")
    write(tmp_path / "day/b.ARW")
    (tmp_path / "night").symlink_to(tmp_path / "disk7/blob")
    found = discover([str(tmp_path / "night"), str(tmp_path / "day")])
    assert names(found) == ["day/b.ARW", "night/a.ARW"]
    assert discover([str(tmp_path / "night"), str(tmp_path / "disk7/blob")]).raws[0].name == "a.ARW"


def test_links_that_lead_nowhere_are_problems(tmp_path: Path) -> None:
    (tmp_path / "self.ARW").symlink_to(tmp_path / "self.ARW")
    (tmp_path / "gone.NEF").symlink_to("/nowhere/gone.NEF")
    (tmp_path / "unmounted").symlink_to("/nowhere/raws")
    (tmp_path / "notes.txt").symlink_to("/nowhere/notes.txt")
    found = discover([str(tmp_path)])
    assert [Path(problem.path).name for problem in found.problems] == [
        "gone.NEF",
        "self.ARW",
        "unmounted",
    ]
    assert all(isinstance(problem, UnreadableSourceError) for problem in found.problems)
    assert "leads nowhere: /nowhere/gone.NEF" in str(found.problems[0])


def test_an_unreadable_folder_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = nod(tmp_path / "raw_nod")
    scandir = os.scandir

    def guarded(path: str) -> object:
        if str(path).endswith("Nikon"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    found = discover([str(root)])
    assert names(found) == ["Sony/DSC01088.ARW", "Sony/DSC01089.arw"]
    (problem,) = found.problems
    assert problem.path == str(root / "Nikon")
    assert problem.message == "no permission to read it"


def test_a_pipe_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.ARW")
    write(tmp_path / "a.ARW")
    found = discover([str(tmp_path)])
    assert names(found) == ["a.ARW"]
    assert "pipe" in found.problems[0].message


def test_names_that_are_not_utf8_become_labels_that_are(tmp_path: Path) -> None:
    plain = write(tmp_path / "caf\\xe9.ARW", b"plain")
    raw_name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.ARW")
    try:
        Path(raw_name).write_bytes(b"latin-1")
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    write(tmp_path / "two\nlines.NEF")
    found = discover([str(tmp_path)])
    assert names(found) == ["caf\\xe9.ARW", "two\\x0alines.NEF", "~2/caf\\xe9.ARW"]
    json.dumps(names(found), ensure_ascii=False).encode()
    contents = {source.location: source.read_bytes() for source in found.raws}
    assert contents[raw_name] == b"latin-1"
    assert contents[str(plain)] == b"plain"
    for source in found.raws:
        source.label.encode()
        assert pickle.loads(pickle.dumps(source)) == source


def test_printable_leaves_ordinary_names_alone() -> None:
    assert printable("夜/Ünïcode 1.ARW") == "夜/Ünïcode 1.ARW"
    assert printable("\ud800\x7f") == "\\ud800\\x7f"


def test_archives_in_folders_are_read_in_place(tmp_path: Path) -> None:
    entries = {
        "Sony/a.ARW": b"raw" * 99,
        "boxes.json": b"{}",
        "Sony/a.jpg": b"",
        "x.zarr/z.json": b"",
    }
    write(tmp_path / "more/nod.ZIP", zip_bytes(entries))
    write(tmp_path / "b.NEF")
    found = discover([str(tmp_path)])
    assert names(found) == ["b.NEF", "more/nod.ZIP!/Sony/a.ARW"]
    member = found.raws[1]
    assert (member.stem, member.suffix, member.size) == ("a", ".arw", 297)
    assert member.label == f"{tmp_path}/more/nod.ZIP!/Sony/a.ARW"
    moment = datetime(2019, 11, 3, 21, 7, 8, tzinfo=UTC)
    assert member.mtime_ns == int(moment.timestamp()) * 10**9
    assert pickle.loads(pickle.dumps(member)).read_bytes() == b"raw" * 99
    assert [source.name for source in found.annotations] == ["more/nod.ZIP!/boxes.json"]
    alone = discover([str(tmp_path / "more/nod.ZIP")])
    assert names(alone) == ["nod.ZIP!/Sony/a.ARW"]


def test_a_cut_archive_gives_what_is_whole_and_names_what_is_not(tmp_path: Path) -> None:
    data = zip_bytes({"a.ARW": os.urandom(500), "b.ARW": os.urandom(500), "c.ARW": b""})
    path = write(tmp_path / "nod.zip", data[:700])
    found = discover([str(tmp_path)])
    assert names(found) == ["nod.zip!/a.ARW"]
    (problem,) = found.problems
    assert problem.path == f"{path}!/b.ARW"
    assert "cut off" in problem.message
    assert "resume the download" in problem.mend
    assert problem.exit_code == 3


def test_an_archive_without_its_contents_table_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = zip_bytes({"a.ARW": b"1", "b.ARW": b"2"})
    write(tmp_path / "nod.zip", data[:-10])
    with caplog.at_level(logging.WARNING):
        found = discover([str(tmp_path)])
    assert len(found.raws) == 2
    assert found.problems == ()
    assert "table of contents" in caplog.text


def test_what_only_calls_itself_an_archive_is_a_problem(tmp_path: Path) -> None:
    write(tmp_path / "nod.zip", b"<html>quota exceeded</html>")
    write(tmp_path / "a.ARW")
    found = discover([str(tmp_path)])
    assert names(found) == ["a.ARW"]
    assert "not a zip archive" in found.problems[0].message


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_of_one_name_are_told_apart_without_touching_the_stem(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.ARW", b"first")
        archive.writestr("a.ARW", b"second")
    write(tmp_path / "nod.zip", buffer.getvalue())
    found = discover([str(tmp_path)])
    assert names(found) == ["nod.zip!/a.ARW", "~2/nod.zip!/a.ARW"]
    assert [source.read_bytes() for source in found.raws] == [b"first", b"second"]
    assert {source.stem for source in found.raws} == {"a"}


def test_a_damaged_member_is_corrupt_when_read(tmp_path: Path) -> None:
    data = bytearray(zip_bytes({"a.ARW": os.urandom(500)}))
    data[300] ^= 1
    path = write(tmp_path / "nod.zip", bytes(data))
    (source,) = discover([str(path)]).raws
    with pytest.raises(CorruptRawError):
        source.read_bytes()


@pytest.mark.parametrize(
    ("content", "found"), [(b"rawr", "found 4 bytes"), (b"ra", "found 2 bytes"), (b"", "0 bytes")]
)
def test_a_file_that_changes_its_size_is_refused(
    tmp_path: Path, content: bytes, found: str
) -> None:
    path = write(tmp_path / "a.ARW", b"raw")
    (source,) = discover([str(path)]).raws
    path.write_bytes(content)
    with pytest.raises(UnreadableSourceError, match=found) as caught:
        source.read_bytes()
    assert "changed while being read" in str(caught.value)


def test_a_file_that_vanishes_is_unreadable(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ARW")
    (source,) = discover([str(path)]).raws
    path.unlink()
    with pytest.raises(UnreadableSourceError, match="not there") as caught:
        source.read_bytes()
    assert caught.value.path == str(path)
    path.mkdir()
    with pytest.raises(UnreadableSourceError, match="found a folder"):
        source.read_bytes()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(13, "Permission denied"), "no permission"),
        (OSError(5, "Input/output error"), "cannot be read: Input/output error"),
    ],
)
def test_system_errors_become_ours(error: OSError, message: str) -> None:
    with pytest.raises(UnreadableSourceError, match=message) as caught, reading("/x", "/x"):
        raise error
    assert caught.value.mend


def test_a_programming_error_stays_one_and_a_remote_error_becomes_ours() -> None:
    with pytest.raises(KeyError), reading("/x.ARW", "x.ARW"):
        raise KeyError("mistake")
    with pytest.raises(UnreadableSourceError, match="expired"), reading("s3://b/x.ARW", "x.ARW"):
        raise RuntimeError("token expired")


def test_a_file_larger_than_any_raw_is_not_read_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.truncate(MAX_SOURCE_BYTES + 1)  # sparse
    (source,) = discover([str(path)]).raws
    with pytest.raises(UnreadableSourceError, match="more than 1073741824"):
        source.read_bytes()


def test_a_url_folder_is_walked_and_read(memory: Memory) -> None:
    memory.pipe("/nod/Sony/a.ARW", b"sony")
    memory.pipe("/nod/.hidden/a.ARW", b"")
    memory.pipe("/nod/data.zarr/a.json", b"")
    memory.pipe("/nod/boxes.json", b"{}")
    memory.pipe("/nod/more.zip", zip_bytes({"b.ARW": b"zipped"}))
    for url in ("memory://nod", "memory://nod/", "memory:///nod"):
        found = discover([url])
        assert names(found) == ["Sony/a.ARW", "more.zip!/b.ARW"]
        assert [source.name for source in found.annotations] == ["boxes.json"]
        assert [source.read_bytes() for source in found.raws] == [b"sony", b"zipped"]
        assert pickle.loads(pickle.dumps(found)) == found
    assert discover(["memory://nod", "memory://nod/Sony", "memory://nod/Sony/a.ARW"]) == found


def test_urls_and_folders_mix_as_roots(memory: Memory, tmp_path: Path) -> None:
    memory.pipe("/bucket/nod/a.ARW", b"remote")
    write(tmp_path / "local/a.ARW")
    found = discover(["memory://bucket/nod", str(tmp_path / "local")])
    assert names(found) == ["local/a.ARW", "nod/a.ARW"]


def test_a_url_that_changes_or_vanishes_is_unreadable(memory: Memory) -> None:
    memory.pipe("/nod/a.ARW", b"1234")
    (source,) = discover(["memory://nod/a.ARW"]).raws
    assert source.name == "a.ARW"
    memory.pipe("/nod/a.ARW", b"12345")
    with pytest.raises(UnreadableSourceError, match="changed"):
        source.read_bytes()
    memory.rm("/nod/a.ARW")
    with pytest.raises(UnreadableSourceError):
        source.read_bytes()


def test_urls_that_name_nothing_are_wrong_usage(memory: Memory) -> None:
    memory.pipe("/nod/a.zip", b"")
    for url in ("memory://none", "nosuchprotocol://x", "zip://a.ARW::memory://nod/a.zip"):
        with pytest.raises(UsageError) as caught:
            discover([url])
        assert caught.value.path == url
        assert caught.value.mend


def test_a_file_url_is_the_local_file(tmp_path: Path) -> None:
    root = nod(tmp_path / "raw_nod")
    assert discover([f"file://{root}"]) == discover([str(root)])
    assert discover([f"file://{root}", str(root / "Sony")]) == discover([str(root)])


class WebServer(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """Stands for a web server: an index without sizes, slashes for folders, its own errors."""

    protocol = "testweb"
    cachable = False
    sizes: ClassVar[dict[str, int | None]] = {
        "testweb://host/n/a.ARW": 3,
        "testweb://host/n/b.ARW": None,
    }

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path

    def info(self, path: str, **_: object) -> dict[str, object]:
        if path.rstrip("/").endswith("refused"):
            raise RuntimeError("403 forbidden")
        size = self.sizes.get(path.partition("?")[0])
        return {
            "name": path,
            "size": size,
            "type": "file",
            "LastModified": datetime.fromtimestamp(9),
        }

    def find(self, path: str, **_: object) -> dict[str, dict[str, object]]:
        return {name: {"name": name, "size": None, "type": "file"} for name in self.sizes}


def test_a_web_server_is_asked_for_what_its_index_leaves_out() -> None:
    fsspec.register_implementation("testweb", WebServer, clobber=True)
    found = discover(["testweb://host/n/"])
    assert [(source.name, source.size) for source in found.raws] == [("a.ARW", 3)]
    assert found.raws[0].mtime_ns == 9 * 10**9
    assert "does not tell its size" in found.problems[0].message
    signed = discover(["testweb://host/n/a.ARW?signature=secret"])
    assert signed.raws[0].name == "a.ARW"
    assert signed.raws[0].location.endswith("?signature=secret")


def test_a_server_that_refuses_is_a_problem_not_a_crash() -> None:
    fsspec.register_implementation("testweb", WebServer, clobber=True)
    found = discover(["testweb://host/refused"])
    assert found.raws == ()
    assert "403 forbidden" in found.problems[0].message


def test_a_source_is_plain_values() -> None:
    source = Source("Sony/DSC01088.ARW", "/raw/Sony/DSC01088.ARW", 3, None)
    assert pickle.loads(pickle.dumps(source)) == source
    assert hash(source) == hash(pickle.loads(pickle.dumps(source)))


@pytest.mark.shared_data
@pytest.mark.skipif(not RAWS.is_dir(), reason=f"the real raws are not beside the checkout ({RAWS})")
def test_real_raws_are_found_and_read() -> None:
    found = discover([str(RAWS)])
    assert "complete/RAW_NIKON_D1.NEF" in names(found)
    assert len(found.raws) == 8
    assert all(len(source.read_bytes()) == source.size for source in found.raws)


def test_what_may_hold_raws_and_is_not_opened_is_named(tmp_path: Path) -> None:
    noted = ("a.braw", "b.TAR", "c/DSC1.ARW.part", "c/DSC2.NEF_original", "d.nef.gz", "e.CR3.bak")
    others = ("f.xmp", "g.NEF.xmp", "h.ARW.jpg", "i.jpg", "j.bak", "k.gz", ".hidden.tar", "l.txt")
    for name in (*noted, *others, "m.ARW"):
        write(tmp_path / name)
    found = discover([str(tmp_path)])
    assert names(found) == ["m.ARW"]
    assert found.passed_over == noted
    assert not found.problems


def test_the_same_holds_inside_an_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "raws.zip", "w") as archive:
        for name in ("x/DSC1.ARW", "x/DSC2.ARW.part", "x/clip.braw", "x/DSC1.xmp"):
            archive.writestr(name, b"x")
    found = discover([str(tmp_path)])
    assert names(found) == ["raws.zip!/x/DSC1.ARW"]
    assert found.passed_over == ("raws.zip!/x/DSC2.ARW.part", "raws.zip!/x/clip.braw")


def test_what_is_given_by_itself_is_taken_not_passed_over(tmp_path: Path) -> None:
    found = discover([str(write(tmp_path / "a.braw"))])
    assert names(found) == ["a.braw"]
    assert found.passed_over == ()
