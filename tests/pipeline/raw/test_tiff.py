from __future__ import annotations

import pickle
import re
import struct
import time
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.errors import CorruptRawError
from pipeline.raw.tiff import TiffFacts, check_extents, read_tiff
from pipeline.raw.tiff_reader import MAX_EXTENTS
from tests.kit.places import RAWS

needs_shared = pytest.mark.skipif(
    not RAWS.is_dir(), reason=f"the real raws are not beside the checkout ({RAWS})"
)

CODES = {2: "s", 3: "H", 4: "I", 5: "II"}
Value = tuple[int, str | tuple[int, ...]]
Directory = dict[int, Value]


def short(*values: int) -> Value:
    return 3, values


def long(*values: int) -> Value:
    return 4, values


def rational(over: int, under: int) -> Value:
    return 5, (over, under)


def text(value: str) -> Value:
    return 2, value


def _packed(order: str, value: Value) -> tuple[int, bytes]:
    kind, content = value
    if isinstance(content, str):
        data = content.encode() + b"\0"
        return len(data), data
    if kind == 5:
        return 1, struct.pack(f"{order}II", *content)
    return len(content), struct.pack(f"{order}{len(content)}{CODES[kind]}", *content)


def directory_bytes(order: str, at: int, entries: Directory, following: int = 0) -> bytes:
    """Return a directory to be put at byte `at`, its out-of-line values behind it."""
    head = struct.pack(order + "H", len(entries))
    values_at = at + 2 + 12 * len(entries) + 4
    values = b""
    for tag, value in sorted(entries.items()):
        count, data = _packed(order, value)
        field = data.ljust(4, b"\0")
        if len(data) > 4:
            field = struct.pack(order + "I", values_at + len(values))
            values += data + b"\0" * (len(data) % 2)
        head += struct.pack(order + "HHI", tag, value[0], count) + field
    return head + struct.pack(order + "I", following) + values


def build(
    order: str = "<",
    *,
    make: str = "NIKON CORPORATION",
    model: str = "NIKON D750",
    raw: Directory | None = None,
    main: Directory | None = None,
    following: int = 0,
    size: int = 1024 + 2 * 32 * 32,
    magic: bytes | None = None,
) -> bytes:
    """Return a raw with IFD0 at 8, EXIF at 400, the raw SubIFD at 600 and pixels from 1024."""
    exif: Directory = {
        0x829A: rational(1, 250),
        0x829D: rational(56, 10),
        0x8827: short(3200),
        0x9003: text("2019:11:03 21:07:08"),
    }
    raw = raw_image() if raw is None else raw
    top: Directory = {
        0x10F: text(make),
        0x110: text(model),
        0x112: short(8),
        0x14A: long(600),
        0x8769: long(400),
        **(main or {}),
    }
    data = bytearray(size)
    data[:4] = magic or (b"II*\0" if order == "<" else b"MM\0*")
    struct.pack_into(order + "I", data, 4, 8)
    for at, entries, after in ((8, top, following), (400, exif, 0), (600, raw, 0)):
        part = directory_bytes(order, at, entries, after)
        data[at : at + len(part)] = part
    return bytes(data)


def raw_image(
    *,
    width: int = 32,
    height: int = 32,
    bits: int = 14,
    compression: int = 1,
    photometric: int = 32803,
    extents: Directory | None = None,
) -> Directory:
    return {
        0x100: long(width),
        0x101: long(height),
        0x102: short(bits),
        0x103: short(compression),
        0x106: short(photometric),
        0x115: short(1),
        **(extents or {0x111: long(1024), 0x117: long(2 * 32 * 32)}),
    }


def facts_of(data: bytes) -> TiffFacts:
    facts = read_tiff(data)
    assert facts is not None
    return facts


def check(data: bytes) -> TiffFacts:
    facts = facts_of(data)
    check_extents(facts, len(data))
    return facts


@pytest.mark.parametrize("order", ["<", ">"])
def test_facts_are_read_in_both_byte_orders(order: str) -> None:
    facts = check(build(order, make="NIKON CORPORATION ", model=" NIKON D750 "))
    assert (facts.make, facts.model, facts.orientation) == ("NIKON CORPORATION", "NIKON D750", 8)
    assert (facts.iso, facts.exposure_time, facts.f_number) == (3200, 1 / 250, 5.6)
    assert facts.captured_at == "2019:11:03 21:07:08"
    assert not facts.is_dng
    (image,) = facts.raw_images
    assert (image.directory, image.layout) == ("IFD0/SubIFD0", "strips")
    assert (image.width, image.height, image.bits_per_sample) == (32, 32, 14)
    assert (image.offsets, image.byte_counts) == ((1024,), (2048,))


def test_facts_are_plain_values_that_pickle() -> None:
    facts = check(build())
    assert pickle.loads(pickle.dumps(facts)) == facts
    assert facts_of(build()) == read_tiff(bytearray(build())) == read_tiff(memoryview(build()))


@pytest.mark.parametrize(
    "data", [b"", b"II", b"FUJIFILMCCD-RAW 0201", b"\0\0\0\x18ftypcrx ", b"II\x1a\0\0\0HEAPCCDR"]
)
def test_what_is_no_tiff_is_none_of_our_business(data: bytes) -> None:
    assert read_tiff(data) is None


@pytest.mark.parametrize("magic", [b"IIRO", b"IIRS", b"IIU\0"])
def test_olympus_and_panasonic_dialects_are_read(magic: bytes) -> None:
    assert check(build(magic=magic)).make == "NIKON CORPORATION"


def test_absent_facts_are_none() -> None:
    data = build(main={0x8769: long(0), 0x112: long()})
    facts = check(data)
    assert (facts.iso, facts.exposure_time, facts.f_number) == (None, None, None)
    assert facts.captured_at is None
    assert facts.orientation is None


@pytest.mark.parametrize("value", [0, 1, 2, 8, 9, 65535])
def test_the_orientation_is_what_the_file_says(value: int) -> None:
    assert check(build(main={0x112: short(value)})).orientation == value


def test_exif_facts_of_old_cameras_are_found_in_the_main_directory() -> None:
    facts = check(build(main={0x8769: long(0), 0x829A: rational(1, 60), 0x8827: short(200)}))
    assert (facts.exposure_time, facts.iso) == (1 / 60, 200)


def test_an_overflowing_iso_is_read_from_the_wide_tag() -> None:
    main = {0x8769: long(0), 0x8827: short(65535), 0x8832: long(102400)}
    assert check(build(main=main)).iso == 102400
    del main[0x8832]
    assert check(build(main=main)).iso == 65535


def test_a_fraction_over_zero_is_no_exposure() -> None:
    assert check(build(main={0x8769: long(0), 0x829A: rational(1, 0)})).exposure_time is None


def test_an_unset_clock_is_no_capture_time() -> None:
    for unset in ("0000:00:00 00:00:00", "    :  :     :  :  "):
        assert check(build(main={0x8769: long(0), 0x9003: text(unset)})).captured_at is None


@settings(deadline=None)
@given(st.integers(0, len(build()) - 1))
@example(len(build()) - 1)
def test_every_cut_of_a_file_is_refused_with_its_length(length: int) -> None:
    data = build()[:length]
    if length < 4:
        assert read_tiff(data) is None
        return
    with pytest.raises(CorruptRawError, match=rf"\b{length}\b") as caught:
        check(data)
    assert caught.value.mend


def test_extents_are_checked_against_a_size_that_was_only_listed() -> None:
    facts = facts_of(build())
    check_extents(facts, 1024 + 2048)
    with pytest.raises(
        CorruptRawError, match=r"bytes 1024 to 3072, but the file ends at byte 3071"
    ):
        check_extents(facts, 1024 + 2047)
    with pytest.raises(CorruptRawError, match="metadata"):
        check_extents(facts, 100)


def test_errors_name_the_file() -> None:
    with pytest.raises(CorruptRawError) as caught:
        read_tiff(build()[:300], path="Sony/DSC01088.ARW")
    assert caught.value.path == "Sony/DSC01088.ARW"
    with pytest.raises(CorruptRawError) as caught:
        check_extents(facts_of(build()), 2000, path="Sony/DSC01088.ARW")
    assert str(caught.value).startswith("Sony/DSC01088.ARW: ")


def test_a_preview_beyond_the_end_is_a_truncation_too() -> None:
    preview = {0x201: long(3000), 0x202: long(73)}
    with pytest.raises(CorruptRawError, match="JPEG at bytes 3000 to 3073"):
        check(build(main=preview))
    check(build(main={0x201: long(3000), 0x202: long(72)}))
    check(build(main={0x201: long(0), 0x202: long(0)}))


def test_images_of_the_next_directories_count() -> None:
    data = bytearray(build(following=900))
    strip = {0x111: long(3000), 0x117: long(100)}
    part = directory_bytes("<", 900, strip)
    data[900 : 900 + len(part)] = part
    with pytest.raises(CorruptRawError, match="IFD1 has a strip at bytes 3000 to 3100"):
        check(bytes(data))


def test_leftovers_in_whole_files_are_no_reason_to_refuse() -> None:
    check(build(following=0xFFFFFFF0))  # junk where the last directory's 0 should be
    far = struct.pack("<HHII", 0xC7D5, 7, 1000, 10**9)
    data = bytearray(build(main={0xC7D5: long(0)}))
    at = data.index(struct.pack("<HHI", 0xC7D5, 4, 1))
    data[at : at + 12] = far
    check(bytes(data))


def test_a_value_we_read_beyond_the_end_is_refused() -> None:
    data = bytearray(build())
    at = data.index(struct.pack("<HHI", 0x10F, 2, 18))
    struct.pack_into("<I", data, at + 8, len(data) - 17)
    with pytest.raises(CorruptRawError, match="tag 0x010f is at bytes 3055 to 3073"):
        read_tiff(bytes(data))


@pytest.mark.parametrize(
    ("make", "compression", "bits", "needed"),
    [
        ("SONY", 32767, 12, 32 * 32),
        ("SONY", 1, 14, 2 * 32 * 32),
        ("NIKON CORPORATION", 1, 12, 32 * 32 * 3 // 2),
        ("NIKON CORPORATION", 1, 14, 32 * 32 * 14 // 8),
        ("NIKON CORPORATION", 1, 16, 2 * 32 * 32),
        ("NIKON CORPORATION", 34713, 14, 32 * 32 // 8),
        ("SONY", 7, 14, 32 * 32 // 8),
    ],
)
def test_strips_too_short_for_the_geometry_are_refused(
    make: str, compression: int, bits: int, needed: int
) -> None:
    def with_bytes(count: int) -> bytes:
        extents = {0x111: long(1024), 0x117: long(count)}
        raw = raw_image(bits=bits, compression=compression, extents=extents)
        return build(make=make, model="X", raw=raw)

    check(with_bytes(needed))
    with pytest.raises(CorruptRawError, match=rf"at least {needed} bytes; its strips have "):
        check(with_bytes(needed - 1))


def test_makers_whose_bits_do_not_describe_their_data_are_not_judged() -> None:
    short_strip: Directory = {0x111: long(1024), 0x117: long(1000)}
    check(build(make="OLYMPUS", raw=raw_image(bits=16, extents=short_strip)))
    arw1 = {0x111: long(1024), 0x117: long(900)}
    raw = raw_image(compression=32767, bits=12, extents=arw1)
    check(build(make="SONY", model="DSLR-A100", raw=raw, main={0x14A: long(10**9)}))


def test_a_preview_is_not_measured_against_its_geometry() -> None:
    extents: Directory = {0x111: long(1024), 0x117: long(10)}
    check(build(raw=raw_image(photometric=6, compression=7, extents=extents)))


def test_missing_tiles_are_refused() -> None:
    def tiled(count: int) -> bytes:
        extents: Directory = {
            0x142: long(16),
            0x143: long(10),
            0x144: long(*[1024] * count),
            0x145: long(*[320] * count),
        }
        raw = raw_image(bits=12, extents=extents)
        return build(make="Canon", raw=raw, main={0xC612: short(1, 4)})

    assert check(tiled(8)).is_dng
    with pytest.raises(CorruptRawError, match=r"needs 8 tiles of 16x10; the file has 7"):
        check(tiled(7))


def test_a_panasonic_byte_count_is_not_trusted_but_its_offset_is() -> None:
    extents: Directory = {0x111: long(0xFFFFFFFF), 0x117: long(10**9), 0x118: long(1024)}
    data = build(magic=b"IIU\0", make="Panasonic", raw=raw_image(extents=extents))
    (image,) = check(data).raw_images
    assert (image.offsets, image.byte_counts) == ((1024,), ())
    with pytest.raises(CorruptRawError):
        check_extents(facts_of(data), 1024)


def test_directory_loops_end() -> None:
    assert len(check(build(following=8)).images) == 1
    assert len(check(build(main={0x14A: long(600, 600, 8)})).images) == 1


def _seconds(data: bytes) -> float:
    start = time.perf_counter()
    with pytest.raises(CorruptRawError):
        check(data)
    return time.perf_counter() - start


def test_absurd_counts_are_refused_at_once() -> None:
    entries = bytearray(build(size=2_000_000))
    struct.pack_into("<H", entries, 8, 65535)
    assert _seconds(bytes(entries)) < 5
    strips = bytearray(build(size=2_000_000))
    at = strips.index(struct.pack("<HHI", 0x111, 4, 1))
    for count in (MAX_EXTENTS + 1, 0xFFFFFFFF):
        struct.pack_into("<II", strips, at + 4, count, 1024)
        assert _seconds(bytes(strips)) < 5
    sub_directories = build(main={0x14A: long(*range(8, 120))})
    assert _seconds(sub_directories) < 5


def test_a_long_chain_of_full_directories_ends_soon() -> None:
    # Every directory overlaps the next and claims as many entries as are allowed.
    block = struct.pack("<HHII", 0xC000, 3, 1, 0) * 4096
    data = bytearray(b"II*\0" + struct.pack("<I", 8))
    for _ in range(150):
        data += struct.pack("<H", 4096) + block + struct.pack("<I", len(data) + 2 + len(block) + 4)
    start = time.perf_counter()
    check(bytes(data) + b"\0\0")
    assert time.perf_counter() - start < 5


SEEDS = [
    build("<"),
    build(">"),
    build(make="SONY", raw=raw_image(compression=32767, bits=12), following=600),
    build(magic=b"IIU\0", main={0x201: long(1000), 0x202: long(50)}),
]
INTERESTING = st.sampled_from([0, 1, 7, 8, 255, 4096, 65535, 2**31, 2**32 - 1])


@settings(deadline=None)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(4, 900), st.integers(0, 255)), max_size=8),
    st.lists(st.tuples(st.integers(4, 900), INTERESTING), max_size=4),
    st.integers(0, 4000),
)
def test_mutated_files_are_read_or_refused_never_more(
    seed: bytes, flips: list[tuple[int, int]], words: list[tuple[int, int]], length: int
) -> None:
    data = bytearray(seed)
    for at, value in flips:
        data[at] = value
    for at, word in words:
        struct.pack_into("<I", data, at, word)
    start = time.perf_counter()
    with suppress(CorruptRawError):
        facts = read_tiff(bytes(data[:length]))
        if facts is not None:
            check_extents(facts, length)
    assert time.perf_counter() - start < 5


@settings(deadline=None)
@given(st.sampled_from([b"II*\0", b"MM\0*", b"IIRO", b"IIU\0"]), st.binary(max_size=400))
def test_random_bytes_behind_a_header_never_crash(magic: bytes, rest: bytes) -> None:
    try:
        facts = read_tiff(magic + b"\x08\0\0\0" + rest)
    except CorruptRawError:
        return
    assert facts is not None


@pytest.mark.shared_data
@needs_shared
def test_the_real_whole_raw_passes() -> None:
    facts = check((RAWS / "complete/RAW_NIKON_D1.NEF").read_bytes())
    assert (facts.make, facts.model) == ("NIKON CORPORATION", "NIKON D1")
    (image,) = facts.raw_images
    assert (image.width, image.height, len(image.offsets)) == (2012, 1324, 67)
    assert (facts.exposure_time, facts.f_number, facts.iso) == (0.004, 7.6, None)
    assert facts.captured_at == "2000:11:19 13:01:50"


@pytest.mark.shared_data
@needs_shared
@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("SLT-A55V_truncated.ARW", "bytes 1310720 to 17474560, but the file ends at byte 1293760"),
        ("D7100_truncated.NEF", "bytes 3477504 to 28842901, but the file ends at byte 3477280"),
        ("exiftool_Nikon.nef", "at least 765320 bytes; its strips have 18"),
        ("exiftool_DNG.dng", "needs 140 tiles of 256x240; the file has 1"),
    ],
)
def test_real_truncated_raws_are_refused_with_numbers(name: str, numbers: str) -> None:
    with pytest.raises(CorruptRawError, match=numbers):
        check((RAWS / "hostile" / name).read_bytes())


@pytest.mark.shared_data
@needs_shared
def test_malformed_real_files_never_crash() -> None:
    for path in sorted((RAWS / "hostile").glob("exiv2_*")):
        data = path.read_bytes()
        with suppress(CorruptRawError):
            facts = read_tiff(data)
            if facts is not None:
                check_extents(facts, len(data))


# --- what one camera's files have in common ------------------------------------------------------


@pytest.mark.parametrize("order", ["<", ">"])
def test_tags_of_the_raw_image_are_told_apart_by_shape_not_by_value(order: str) -> None:
    def tags(raw: Directory) -> str:
        (image,) = facts_of(build(order, raw=raw)).raw_images
        return image.tags

    same = tags(raw_image())
    assert re.fullmatch("[0-9a-f]{8}", same)
    assert same == tags(raw_image(width=30, height=28, bits=12))
    assert same != tags({**raw_image(), 0x7010: short(1, 2)})
    assert same != tags({**raw_image(), 0x102: long(14)})
    assert same != tags({**raw_image(), 0x102: short(14, 14)})


def maker_note(order: str, value: bytes, *, kind: int = 7) -> bytes:
    """A Nikon's maker note with the one entry that says how it compressed."""
    entry = struct.pack(order + "HHII", 0x96, kind, len(value), 8 + 2 + 12 + 4)
    body = struct.pack(order + "H", 1) + entry + bytes(4) + value
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return b"Nikon\0\x02\x10\0\0" + mark + struct.pack(order + "I", 8) + body


def with_note(note: bytes, *, order: str = "<") -> bytes:
    data = bytearray(build(order, main={0x8769: long(900)}, size=4096))
    part = directory_bytes(order, 900, {0x927C: (7, "")})
    data[900 : 900 + len(part)] = part
    struct.pack_into(order + "II", data, 900 + 2 + 4, len(note), 3100)
    data[3100 : 3100 + len(note)] = note
    return bytes(data)


LINEARISATION = struct.pack("<2B4H", 0x46, 0x30, 2048, 2049, 2050, 2051)


@pytest.mark.parametrize("outer", ["<", ">"])
@pytest.mark.parametrize("inner", ["<", ">"])
def test_a_nikons_linearisation_is_read_in_its_notes_own_byte_order(outer: str, inner: str) -> None:
    value = struct.pack(inner + "2B4H", 0x46, 0x30, 2048, 2049, 2050, 2051) + bytes(6)
    facts = facts_of(with_note(maker_note(inner, value), order=outer))
    assert facts.nikon_linearisation == (0x46, 2048, 2049, 2050, 2051)


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"Nikon\0",
        b"Nikon\0\x02\x10\0\0II*\0",
        maker_note("<", LINEARISATION)[:40],
        maker_note("<", LINEARISATION[:9]),
        maker_note("<", LINEARISATION, kind=3),
        maker_note("<", LINEARISATION).replace(struct.pack("<I", 26), b"\xff" * 4),
        b"SONY DSC \0\0\0" + LINEARISATION,
    ],
)
def test_a_damaged_maker_note_costs_its_value_not_the_file(note: bytes) -> None:
    assert facts_of(with_note(note)).nikon_linearisation == ()
