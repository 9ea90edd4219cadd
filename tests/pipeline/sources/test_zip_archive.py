from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import CorruptRawError, SourceError, UnreadableSourceError
from pipeline.sources import cut_zip, zip_archive
from pipeline.sources.zip_archive import ArchiveListing, ArchiveMember, list_members, read_member

LIMIT = 1 << 24
ENTRIES = {
    "Sony/DSC01088.ARW": bytes(range(256)) * 9,
    "Sony/DSC01089.ARW": b"",
    "train.json": b'{"images": []}' * 40,
}


class Pipe(io.RawIOBase):
    """A file that cannot seek, as a download or a shell pipe is to whoever writes a zip."""

    def __init__(self) -> None:
        self.buffer = io.BytesIO()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        return self.buffer.write(cast(bytes, data))


def stored(entries: dict[str, bytes]) -> bytes:
    return zipped(entries, zipfile.ZIP_STORED)


def deflated(entries: dict[str, bytes]) -> bytes:
    return zipped(entries, zipfile.ZIP_DEFLATED)


def stored_zip64(entries: dict[str, bytes]) -> bytes:
    return zipped(entries, zipfile.ZIP_STORED, zip64=True)


def stored_to_a_pipe(entries: dict[str, bytes]) -> bytes:
    return zipped(entries, zipfile.ZIP_STORED, pipe=True)


def deflated_to_a_pipe(entries: dict[str, bytes]) -> bytes:
    return zipped(entries, zipfile.ZIP_DEFLATED, pipe=True)


def zip64_to_a_pipe(entries: dict[str, bytes]) -> bytes:
    return zipped(entries, zipfile.ZIP_DEFLATED, pipe=True, zip64=True)


def unsigned_descriptors(entries: dict[str, bytes]) -> bytes:
    """Return a streamed zip whose descriptors lack their optional signature; no contents table."""
    data = b""
    for name, content in entries.items():
        packer = zlib.compressobj(wbits=-15)
        packed = packer.compress(content) + packer.flush()
        header = (b"PK\x03\x04", 20, 8, 8, 0, 0x21, 0, 0, 0, len(name), 0)
        data += struct.pack("<4s5H3I2H", *header) + name.encode() + packed
        data += struct.pack("<3I", zlib.crc32(content), len(packed), len(content))
    return data


WRITERS = [
    stored,
    deflated,
    stored_zip64,
    stored_to_a_pipe,
    deflated_to_a_pipe,
    zip64_to_a_pipe,
]
Writer = Callable[[dict[str, bytes]], bytes]


def zipped(
    entries: dict[str, bytes], method: int, *, pipe: bool = False, zip64: bool = False
) -> bytes:
    stream = Pipe()
    target = stream if pipe else stream.buffer
    with zipfile.ZipFile(cast(io.BytesIO, target), "w", method) as archive:
        for name, content in entries.items():
            info = zipfile.ZipInfo(name, (2019, 11, 3, 21, 7, 8))
            info.compress_type = method
            with archive.open(info, "w", force_zip64=zip64) as member:
                member.write(content)
    return stream.buffer.getvalue()


def put(folder: Path, data: bytes, name: str = "nod.zip") -> str:
    path = folder / name
    path.write_bytes(data)
    return str(path)


def contents(path: str, listing: ArchiveListing) -> dict[str, bytes]:
    return {member.name: read_member(path, member, LIMIT) for member in listing.members}


def without_contents_table(data: bytes) -> bytes:
    return data[: data.index(b"PK\x01\x02")]


@pytest.mark.parametrize("writer", WRITERS)
def test_a_sound_archive_lists_and_reads_whole(tmp_path: Path, writer: Writer) -> None:
    path = put(tmp_path, writer(ENTRIES))
    listing = list_members(path)
    assert (listing.complete, listing.damage, listing.cut_member) == (True, "", None)
    assert contents(path, listing) == ENTRIES
    moment = datetime(2019, 11, 3, 21, 7, 8, tzinfo=UTC)
    assert {member.mtime_ns for member in listing.members} == {int(moment.timestamp()) * 10**9}


@pytest.mark.parametrize("writer", WRITERS)
def test_scanning_finds_exactly_what_the_contents_table_says(
    tmp_path: Path, writer: Writer
) -> None:
    data = writer(ENTRIES)
    whole = list_members(put(tmp_path, data))
    scanned = list_members(put(tmp_path, without_contents_table(data), "cut.zip"))
    assert scanned.members == whole.members
    assert not scanned.complete
    assert "after 3 files" in scanned.damage


def member_ends(data: bytes) -> list[tuple[str, int]]:
    """Return where each member ends, by zipfile: where the next begins."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        infos = archive.infolist()
        starts = [info.header_offset for info in infos[1:]] + [archive.start_dir]
    return [(info.filename, end) for info, end in zip(infos, starts, strict=True)]


@pytest.mark.parametrize("writer", WRITERS)
def test_an_archive_cut_anywhere_yields_the_members_wholly_before_the_cut(
    tmp_path: Path, writer: Writer
) -> None:
    data = writer({"a.ARW": b"abcabcabc" * 5, "b.ARW": b"", "c.NEF": b"PK\x07\x08PK\x03\x04" * 3})
    ends = member_ends(data)
    for length in range(4, len(data)):
        listing = list_members(put(tmp_path, data[:length]))
        expected = [name for name, end in ends if end <= length]
        assert [member.name for member in listing.members] == expected, length
        in_table = length >= ends[-1][1] + 4
        assert listing.complete == in_table
        assert listing.damage
        if listing.cut_member is not None:
            assert listing.cut_member == ends[len(expected)][0]


@settings(deadline=None, max_examples=60)
@given(
    writer=st.sampled_from(WRITERS),
    files=st.lists(st.binary(max_size=300), min_size=1, max_size=5),
    share=st.floats(0, 1),
)
def test_any_archive_cut_anywhere_reads_what_is_whole(
    tmp_path_factory: pytest.TempPathFactory, writer: Writer, files: list[bytes], share: float
) -> None:
    entries = {f"{number}.ARW": content for number, content in enumerate(files)}
    data = writer(entries)
    length = 4 + int(share * (len(data) - 4))
    path = put(tmp_path_factory.mktemp("cut"), data[:length])
    expected = {name: entries[name] for name, end in member_ends(data) if end <= length}
    assert contents(path, list_members(path)) == expected


def test_the_member_an_archive_ends_inside_is_named(tmp_path: Path) -> None:
    data = stored(ENTRIES)
    path = put(tmp_path, data[: data.index(b"PK\x01\x02") - 1])
    listing = list_members(path)
    assert listing.cut_member == "train.json"
    assert "inside train.json" in listing.damage


def test_descriptors_without_a_signature_are_found_by_inflating(tmp_path: Path) -> None:
    entries = {f"{number}.ARW": bytes([number]) * 5000 for number in range(4)}
    data = unsigned_descriptors(entries)
    path = put(tmp_path, data)
    assert contents(path, list_members(path)) == entries
    for cut in (1, 11, 12, 20):
        listing = list_members(put(tmp_path, data[:-cut]))
        assert (len(listing.members), listing.cut_member) == (3, "3.ARW")


def test_a_search_crosses_block_borders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for block in (1, 2, 3, 5, 64):
        monkeypatch.setattr(cut_zip, "BLOCK", block)
        for data in (
            without_contents_table(stored_to_a_pipe(ENTRIES)),
            unsigned_descriptors(ENTRIES),
        ):
            path = put(tmp_path, data)
            assert contents(path, list_members(path)) == ENTRIES


def test_an_archive_inside_a_cut_one_is_not_taken_for_it(tmp_path: Path) -> None:
    inner = stored({"inner.ARW": b"1"})
    data = stored({"a.ARW": b"2", "inner.zip": inner, "b.ARW": b"3" * 100})
    listing = list_members(put(tmp_path, data[: data.index(inner) + len(inner)]))
    assert [member.name for member in listing.members] == ["a.ARW", "inner.zip"]
    assert not listing.complete


def test_a_download_with_a_reserved_tail_of_zeros_is_named_damaged(tmp_path: Path) -> None:
    data = without_contents_table(stored(ENTRIES))
    listing = list_members(put(tmp_path, data + bytes(5000)))
    assert [member.name for member in listing.members] == list(ENTRIES)
    assert not listing.complete
    assert f"damaged at byte {len(data)} of {len(data) + 5000}" in listing.damage


def test_a_download_with_a_hole_fails_only_for_the_members_in_it(tmp_path: Path) -> None:
    data = bytearray(stored({"a.ARW": b"1" * 1000, "b.ARW": b"2" * 1000}))
    data[500:1100] = bytes(600)  # the end of one, the header of the other
    path = put(tmp_path, bytes(data))
    first, second = list_members(path).members
    with pytest.raises(CorruptRawError, match="CRC-32") as damaged:
        read_member(path, first, LIMIT)
    with pytest.raises(UnreadableSourceError, match="no member at byte") as absent:
        read_member(path, second, LIMIT)
    for caught in (damaged, absent):
        assert "resume the download" in caught.value.mend
        assert caught.value.path.endswith("RW")


def test_flipped_bytes_in_a_deflated_member_are_damage(tmp_path: Path) -> None:
    data = bytearray(deflated({"a.ARW": ENTRIES["Sony/DSC01088.ARW"]}))
    member = list_members(put(tmp_path, bytes(data))).members[0]
    for at in range(35, 35 + member.compressed_size):
        flipped = data.copy()
        flipped[at] ^= 0x10
        with pytest.raises(CorruptRawError, match="damaged in the archive"):
            read_member(put(tmp_path, bytes(flipped)), member, LIMIT)


def test_an_archive_that_shrank_since_it_was_listed_is_refused(tmp_path: Path) -> None:
    data = stored(ENTRIES)
    member = list_members(put(tmp_path, data)).members[0]
    path = put(tmp_path, data[:1000])
    with pytest.raises(UnreadableSourceError, match="the archive ends at byte 1000"):
        read_member(path, member, LIMIT)


def test_a_bomb_is_refused_by_what_it_declares_and_by_what_it_does(tmp_path: Path) -> None:
    path = put(tmp_path, deflated({"bomb.ARW": bytes(1_000_000)}))
    (member,) = list_members(path).members
    assert len(read_member(path, member, 1_000_000)) == 1_000_000
    with pytest.raises(UnreadableSourceError, match="unpacks to 1000000 bytes; more than 999999"):
        read_member(path, member, 999_999)
    lying = ArchiveMember(**{**vars(member), "size": 10})
    with pytest.raises(CorruptRawError, match="expected 10 bytes unpacked, found more"):
        read_member(path, lying, 999_999)
    swollen = ArchiveMember(**{**vars(member), "method": 0, "compressed_size": 1 << 60, "size": 1})
    with pytest.raises(UnreadableSourceError, match="not accepted"):
        read_member(path, swollen, 1_000_000)
    deceptive = ArchiveMember(**{**vars(member), "compressed_size": 1 << 60})
    with pytest.raises(UnreadableSourceError, match="cut off"):
        read_member(path, deceptive, 1_000_000)


def test_a_member_that_unpacks_to_a_hundred_times_its_size_is_a_bomb(tmp_path: Path) -> None:
    path = put(tmp_path, deflated({"bomb.ARW": b"x"}))
    (member,) = list_members(path).members
    bomb = ArchiveMember(**{**vars(member), "size": (100 << 20) + 1})
    with pytest.raises(UnreadableSourceError, match="a bomb"):
        read_member(path, bomb, 1 << 30)


def test_members_that_share_bytes_are_not_believed(tmp_path: Path) -> None:
    data = stored({"a.ARW": b"1" * 99})
    start, end = data.index(b"PK\1\2"), data.index(b"PK\5\6")
    entry = data[start:end]
    counts = struct.pack("<HHHHIIH", 0, 0, 2, 2, 2 * len(entry), start, 0)
    twice = data[:end] + entry.replace(b"a.ARW", b"b.ARW") + b"PK\5\6" + counts
    listing = list_members(put(tmp_path, twice))
    assert [member.name for member in listing.members] == ["a.ARW"]
    assert "table of contents is cut or damaged" in listing.damage


def test_a_table_that_loses_members_is_not_believed(tmp_path: Path) -> None:
    data = bytearray(stored({"a.ARW": b"1", "b.ARW": b"2"}))
    struct.pack_into("<H", data, data.index(b"PK\1\2") + 32, 60_000)  # length of a comment
    listing = list_members(put(tmp_path, bytes(data)))
    assert [member.name for member in listing.members] == ["a.ARW", "b.ARW"]
    assert "table of contents is cut or damaged" in listing.damage


def test_another_member_at_its_place_is_damage(tmp_path: Path) -> None:
    data = stored({"a.ARW": b"1", "b.ARW": b"2"}).replace(b"a.ARW", b"c.ARW", 1)
    path = put(tmp_path, data)
    first, second = list_members(path).members
    with pytest.raises(CorruptRawError, match=r"at its place is a member called c\.ARW"):
        read_member(path, first, LIMIT)
    assert read_member(path, second, LIMIT) == b"2"


def test_a_table_of_contents_of_any_length_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zip_archive, "MAX_CONTENTS_BYTES", 60)
    listing = list_members(put(tmp_path, stored({"a.ARW": b"1", "b.ARW": b"2"})))
    assert "table of contents is cut or damaged" in listing.damage
    monkeypatch.setattr(cut_zip, "MAX_MEMBERS", 1)
    with pytest.raises(UnreadableSourceError, match="more than 1 members"):
        list_members(put(tmp_path, stored({"a.ARW": b"1", "b.ARW": b"2"})))


def test_a_place_beyond_all_files_is_damage(tmp_path: Path) -> None:
    path = put(tmp_path, stored({"a.ARW": b"1"}))
    (member,) = list_members(path).members
    far = ArchiveMember(**{**vars(member), "header_offset": 1 << 63})
    with pytest.raises(UnreadableSourceError, match="no member at byte"):
        read_member(path, far, LIMIT)


def test_scanning_gives_up_on_an_endless_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cut_zip, "_MAX_INFLATED_WHILE_SCANNING", 10_000)
    data = unsigned_descriptors({"a.ARW": b"1", "bomb.ARW": bytes(3_000_000)})
    listing = list_members(put(tmp_path, data))
    assert [member.name for member in listing.members] == ["a.ARW"]
    assert "the end of bomb.ARW cannot be found" in listing.damage


def _with_flags(data: bytes, *, flags: int = 0, method: int | None = None) -> bytes:
    changed = bytearray(data)
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = changed.index(signature) + at
        struct.pack_into("<H", changed, start, flags)
        if method is not None:
            struct.pack_into("<H", changed, start + 2, method)
    return bytes(changed)


@pytest.mark.parametrize(
    ("flags", "method", "reason"), [(1, None, "encrypted"), (0, 9, "deflate64"), (0, 77, "number")]
)
def test_what_cannot_be_unpacked_is_listed_and_refused_with_a_mend(
    tmp_path: Path, flags: int, method: int | None, reason: str
) -> None:
    data = _with_flags(stored({"a.ARW": b"1"}), flags=flags, method=method)
    for length in (len(data), data.index(b"PK\x01\x02")):
        path = put(tmp_path, data[:length])
        (member,) = list_members(path).members
        with pytest.raises(UnreadableSourceError, match=reason) as caught:
            read_member(path, member, LIMIT)
        assert "unpack the archive yourself" in caught.value.mend


def test_names_are_safe_labels_by_either_way_of_listing(tmp_path: Path) -> None:
    names = {
        "../../etc/passwd.ARW": "__/__/etc/passwd.ARW",
        "/absolute/x.ARW": "absolute/x.ARW",
        "Sony\\DSC1.ARW": "Sony/DSC1.ARW",
        "líšeň/夜.NEF": "líšeň/夜.NEF",
        "new\nline.ARW": "new\\x0aline.ARW",
        "./a//b.ARW": "a/b.ARW",
    }
    data = stored(dict.fromkeys(names, b"1"))
    # zipfile cannot write these two names itself.
    data = data.replace(b"new\nline.ARW", b"nul\0line.ARW")
    for length in (len(data), data.index(b"PK\x01\x02")):
        listing = list_members(put(tmp_path, data[:length]))
        found = [member.name for member in listing.members]
        assert found == [name.replace("new\\x0a", "nul\\x00") for name in names.values()]


def test_a_name_that_is_not_utf8_is_escaped(tmp_path: Path) -> None:
    data = stored({"é.ARW": b"1"}).replace("é".encode(), b"\xc3\xff")
    path = put(tmp_path, data)
    listing = list_members(path)
    assert listing.complete
    assert contents(path, listing) == {"\\xc3\\xff.ARW": b"1"}
    assert listing.members[0].name.encode()


def test_folders_hidden_files_and_macos_leftovers_are_left_out(tmp_path: Path) -> None:
    entries = dict.fromkeys(
        ("Sony/", "Sony/._a.ARW", "__MACOSX/Sony/a.ARW", ".DS_Store", ".git/a.ARW", "Sony/a.ARW"),
        b"",
    )
    data = stored(entries)
    for length in (len(data), data.index(b"PK\x01\x02")):
        members = list_members(put(tmp_path, data[:length])).members
        assert [member.name for member in members] == ["Sony/a.ARW"]


def test_an_impossible_time_is_none(tmp_path: Path) -> None:
    data = bytearray(stored({"a.ARW": b"1"}))
    struct.pack_into("<I", data, data.index(b"PK\x03\x04") + 10, 0)
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 12, 0)
    for length in (len(data), data.index(b"PK\x01\x02")):
        (member,) = list_members(put(tmp_path, bytes(data[:length]))).members
        assert member.mtime_ns is None


def test_an_empty_archive_is_complete(tmp_path: Path) -> None:
    assert list_members(put(tmp_path, stored({}))) == ArchiveListing((), complete=True)


@pytest.mark.parametrize("data", [b"", b"PK", b"<html>not found</html>" * 9, bytes(1000)])
def test_what_is_no_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(UnreadableSourceError, match="not a zip archive") as caught:
        list_members(put(tmp_path, data))
    assert caught.value.path.endswith("nod.zip")
    assert caught.value.mend


def test_an_archive_that_is_gone_or_a_folder_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(UnreadableSourceError, match="not there"):
        list_members(str(tmp_path / "none.zip"))
    with pytest.raises(UnreadableSourceError, match="found a folder"):
        list_members(str(tmp_path))


def test_members_pickle(tmp_path: Path) -> None:
    listing = list_members(put(tmp_path, stored(ENTRIES)))
    assert pickle.loads(pickle.dumps(listing)) == listing


def test_many_threads_may_read_at_once(tmp_path: Path) -> None:
    entries = {f"{number}.ARW": bytes([number]) * 50_000 for number in range(40)}
    path = put(tmp_path, deflated(entries))
    members = list_members(path).members
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda member: read_member(path, member, LIMIT), members * 3))
    assert found == list(entries.values()) * 3


@settings(deadline=None, max_examples=300)
@given(
    writer=st.sampled_from(WRITERS),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=12),
    cut=st.integers(0, 400),
)
def test_a_damaged_archive_gives_true_bytes_or_errors_of_ours(
    tmp_path_factory: pytest.TempPathFactory,
    writer: Writer,
    flips: list[tuple[float, int]],
    cut: int,
) -> None:
    entries = {"a.ARW": b"night" * 40, "b.ARW": b"day" * 9}
    data = bytearray(writer(entries))
    for share, value in flips:
        data[int(share * (len(data) - 1))] = value
    path = put(tmp_path_factory.mktemp("damaged"), bytes(data[: len(data) - cut]))
    try:
        members = list_members(path).members
    except SourceError:
        return
    for member in members:
        member.name.encode()
        try:
            content = read_member(path, member, LIMIT)
        except SourceError:
            continue
        assert zlib.crc32(content) == member.crc32
