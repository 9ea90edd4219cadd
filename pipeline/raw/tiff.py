"""The TIFF directories of a raw file: what camera, which exposure, and where its pixels should be.

Decoders read truncated raws without complaint (an ARW cut to a tenth of its length decodes to
zeros). The directories stand at the front of the file and name every byte range of pixels, so a
walk of about 100 µs tells a whole file from a cut one before any decoder sees it.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from typing import Final, Literal, NoReturn

from pipeline.errors import CorruptRawError
from pipeline.raw.dng_colour import DngColour, read_dng_colour
from pipeline.raw.tiff_reader import (
    ARW1_MODEL,
    MODEL,
    TIFF_HINT,
    TiffDirectory,
    TiffReader,
    walk_directories,
)

TiffVariant = Literal["tiff", "orf", "rw2"]
ImageLayout = Literal["strips", "tiles", "jpeg"]

PHOTOMETRIC_CFA: Final = 32803
PHOTOMETRIC_LINEAR_RAW: Final = 34892

_MAGICS: Final[dict[bytes, tuple[str, TiffVariant]]] = {
    b"II*\0": ("<", "tiff"),
    b"MM\0*": (">", "tiff"),
    b"IIRO": ("<", "orf"),
    b"IIRS": ("<", "orf"),
    b"MMOR": (">", "orf"),
    b"IIU\0": ("<", "rw2"),
}

# Tag numbers: TIFF 6.0, TIFF/EP, EXIF 2.3, DNG 1.6; 0x118 is Panasonic's RawDataOffset.
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 0x100, 0x101, 0x102, 0x103, 0x106
_MAKE, _ORIENTATION, _SAMPLES, _SAMPLE_FORMAT = 0x10F, 0x112, 0x115, 0x153
_STRIP_OFFSETS, _STRIP_BYTE_COUNTS, _RW2_OFFSET = 0x111, 0x117, 0x118
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTE_COUNTS = 0x142, 0x143, 0x144, 0x145
_JPEG_OFFSET, _JPEG_BYTE_COUNT = 0x201, 0x202
_EXPOSURE_TIME, _F_NUMBER, _EXIF_IFD, _ISO = 0x829A, 0x829D, 0x8769, 0x8827
_RECOMMENDED_EXPOSURE_INDEX, _CAPTURE_TIME, _DNG_VERSION = 0x8832, 0x9003, 0xC612
_MAKER_NOTE, _NIKON_LINEARISATION, _CFA_PATTERN = 0x927C, 0x0096, 0x828E
_NIKON_COMPRESSION: Final = 0x0093
_SONY_TONE_CURVE: Final = 0x7010
_MAX_CFA: Final = 64
_NIKON_NOTE_HEAD: Final = 10
"""``Nikon``, NUL, two bytes of version and two of nothing; then a TIFF of its own."""

_FLOAT: Final = 3
_ISO_OVERFLOW: Final = 65535
_SONY_ARW: Final = 32767
_LOSSLESS_JPEG: Final = 7
UNCOMPRESSED: Final = 1
NIKON_COMPRESSED: Final = 34713


@dataclass(frozen=True)
class TiffImage:
    """One image a directory describes: the raw itself, or a preview.

    Parameters
    ----------
    directory
        Which directory: ``"IFD0"``, ``"IFD1"``, ``"IFD0/SubIFD1"``.
    layout
        ``"strips"``, ``"tiles"``, or ``"jpeg"`` for a preview named by offset and length.
    width, height
        Pixels; 0 where the directory does not say.
    compression, photometric
        TIFF codes; 0 where absent.
    bits_per_sample, samples_per_pixel
        Bits, and samples (1 for a mosaic).
    is_float
        Whether samples are floating-point numbers.
    tile_width, tile_height
        Pixels; 0 unless tiled.
    offsets
        First byte of each strip or tile, counted from the start of the file.
    byte_counts
        Length of each in bytes; empty where the file does not say, or says it unreliably.
    cfa
        Codes of its colour filter array (TIFF/EP: 0, 1, 2 for R, G, B), or () where it has none.
    tone_corners
        Corners of Sony's tone curve, in samples, or () where it has none.
    tags
        Eight hex digits: which tags the directory has, of which types and lengths. The same for
        all files a camera writes alike.
    """

    directory: str
    layout: ImageLayout
    width: int
    height: int
    compression: int
    photometric: int
    bits_per_sample: int
    samples_per_pixel: int
    is_float: bool
    tile_width: int
    tile_height: int
    offsets: tuple[int, ...]
    byte_counts: tuple[int, ...]
    cfa: tuple[int, ...]
    tone_corners: tuple[int, ...]
    tags: str

    @property
    def is_raw(self) -> bool:
        """Whether this is sensor data: a mosaic, or linear raw."""
        return self.photometric in (PHOTOMETRIC_CFA, PHOTOMETRIC_LINEAR_RAW)


@dataclass(frozen=True)
class TiffFacts:
    """What the directories of a TIFF-based raw say.

    Parameters
    ----------
    variant
        ``"tiff"``, or Olympus' ``"orf"`` or Panasonic's ``"rw2"`` dialect.
    make, model
        As the camera writes them, without padding; empty where absent.
    orientation
        EXIF orientation as it stands in IFD0, which may be outside 1..8; None where absent.
    iso
        Sensitivity, or None.
    exposure_time
        Seconds, or None.
    f_number
        Aperture, or None.
    captured_at
        Local time of the camera, as EXIF writes it (``"2013:09:03 09:45:16"``), or None.
    is_dng
        Whether the file declares a DNG version.
    images
        Every image of IFD0, the directories after it, and their SubIFDs.
    metadata_end
        Byte after the last directory or value that was read.
    nikon_linearisation
        From a Nikon's maker note: first byte of the version of its compression, then what the first
        two samples of the first two rows are predicted from; empty where absent.
    colour
        What a DNG says about colour; None for other files.
    nikon_compression
        From a Nikon's maker note: its number for the compression (3 lossless, 13 and 14 high
        efficiency); 0 where absent.
    """

    variant: TiffVariant
    make: str
    model: str
    orientation: int | None
    iso: int | None
    exposure_time: float | None
    f_number: float | None
    captured_at: str | None
    is_dng: bool
    images: tuple[TiffImage, ...]
    metadata_end: int
    nikon_linearisation: tuple[int, ...]
    colour: DngColour | None
    nikon_compression: int

    @property
    def raw_images(self) -> tuple[TiffImage, ...]:
        """The images that hold sensor data; DNGs of some cameras have several."""
        return tuple(image for image in self.images if image.is_raw)


def read_tiff(data: bytes | bytearray | memoryview, *, path: str = "") -> TiffFacts | None:
    """Read the directories of a TIFF-based raw (NEF, ARW, DNG, CR2, PEF, ORF, RW2, ...).

    Parameters
    ----------
    data
        The file, or at least its first part: directories and the values of the tags read here
        must lie in it, pixels need not.
    path
        Name of the file for error messages.

    Returns
    -------
    TiffFacts or None
        None where the file is not TIFF-based (CR3, RAF, CRW, X3F, MRW) or is a BigTIFF.

    Raises
    ------
    CorruptRawError
        Where a directory or a tag read here lies beyond the end of `data`, or a count exceeds what
        any camera writes. Work and memory are bounded whatever the file claims.
    """
    view = memoryview(data)
    known = _MAGICS.get(bytes(view[:4]))
    if known is None:
        return None
    order, variant = known
    reader = TiffReader(view, order, path)
    if len(view) < 8:
        reader.refuse(f"the file is {len(view)} bytes long and ends inside its header")
    main, directories = walk_directories(reader)
    exif: TiffDirectory = {}
    if exif_offset := reader.integer(main, _EXIF_IFD):
        exif, _ = reader.directory("the EXIF directory", exif_offset)
    # TIFF/EP files (old Nikons) keep the EXIF facts in IFD0.
    shot = main | exif
    images = [
        image
        for label, directory in directories
        for image in _images(reader, label, directory, variant)
    ]
    linearisation, nikon_compression = _nikon_note(reader, exif)
    return TiffFacts(
        variant=variant,
        make=reader.text(main, _MAKE),
        model=reader.text(main, MODEL),
        orientation=next(iter(reader.integers(main, _ORIENTATION, 1)), None),
        iso=_iso(reader, shot),
        exposure_time=reader.rational(shot, _EXPOSURE_TIME),
        f_number=reader.rational(shot, _F_NUMBER),
        captured_at=_captured_at(reader.text(shot, _CAPTURE_TIME)),
        is_dng=_DNG_VERSION in main,
        images=tuple(images),
        metadata_end=reader.end,
        nikon_linearisation=linearisation,
        nikon_compression=nikon_compression,
        colour=read_dng_colour(reader, main) if _DNG_VERSION in main else None,
    )


def check_extents(facts: TiffFacts, size: int, *, path: str = "") -> None:
    """Refuse a file that is shorter than its own directories say.

    Only image data and the tags read by `read_tiff` count. Values of other tags that point beyond
    the end are not refused: whole files from real cameras contain such leftovers.

    Parameters
    ----------
    facts
        From `read_tiff`.
    size
        Length of the file in bytes.
    path
        Name of the file for error messages.

    Raises
    ------
    CorruptRawError
        Where a strip, tile, preview or value ends beyond `size`, or the raw image's strips are too
        few or too short for its geometry. The message has the byte numbers.
    """
    if facts.metadata_end > size:
        _refuse(f"its metadata ends at byte {facts.metadata_end}, the file at byte {size}", path)
    for image in facts.images:
        _check_inside(image, size, path)
        if image.is_raw and _geometry_is_trusted(facts):
            _check_tiles(image, path)
            _check_bytes(facts, image, path)


def is_arw2(facts: TiffFacts, image: TiffImage) -> bool:
    """Whether an image is in Sony's lossy code of one byte a sample, by the rule LibRaw has."""
    samples = image.width * image.height
    return (
        image.compression == _SONY_ARW
        and _is_sony(facts)
        and facts.model != ARW1_MODEL
        and sum(image.byte_counts) == samples > 0
    )


def _images(
    reader: TiffReader, label: str, directory: TiffDirectory, variant: TiffVariant
) -> list[TiffImage]:
    strips = (
        reader.extents(directory, _STRIP_OFFSETS),
        reader.extents(directory, _STRIP_BYTE_COUNTS),
    )
    if variant == "rw2":
        strips = _rw2_strips(reader, directory, strips[0])
    tiles = reader.extents(directory, _TILE_OFFSETS), reader.extents(directory, _TILE_BYTE_COUNTS)
    jpeg = reader.extents(directory, _JPEG_OFFSET), reader.extents(directory, _JPEG_BYTE_COUNT)
    layouts: list[tuple[ImageLayout, tuple[tuple[int, ...], tuple[int, ...]]]] = [
        ("strips", strips),
        ("tiles", tiles),
        ("jpeg", jpeg),
    ]
    return [
        TiffImage(
            directory=label,
            layout=layout,
            width=reader.integer(directory, _WIDTH),
            height=reader.integer(directory, _HEIGHT),
            compression=reader.integer(directory, _COMPRESSION),
            photometric=reader.integer(directory, _PHOTOMETRIC),
            bits_per_sample=reader.integer(directory, _BITS, 1),
            samples_per_pixel=reader.integer(directory, _SAMPLES, 1),
            is_float=reader.integer(directory, _SAMPLE_FORMAT) == _FLOAT,
            tile_width=reader.integer(directory, _TILE_WIDTH),
            tile_height=reader.integer(directory, _TILE_HEIGHT),
            offsets=offsets,
            byte_counts=byte_counts,
            cfa=reader.integers(directory, _CFA_PATTERN, _MAX_CFA),
            tone_corners=reader.integers(directory, _SONY_TONE_CURVE, 4),
            tags=_tags(directory),
        )
        for layout, (offsets, byte_counts) in layouts
        if offsets
    ]


def _tags(directory: TiffDirectory) -> str:
    shape = [(entry.tag, entry.type, entry.length) for entry in directory.values()]
    return f"{zlib.crc32(repr(shape).encode()):08x}"


def _nikon_note(reader: TiffReader, exif: TiffDirectory) -> tuple[tuple[int, ...], int]:
    """What `TiffFacts` says of a Nikon's compression: linearisation, number.

    Damage here costs the values, not the file: decoders judge it.
    """
    nothing: tuple[int, ...] = ()
    entry = exif.get(_MAKER_NOTE)
    if entry is None or bytes(reader.data[entry.position : entry.position + 6]) != b"Nikon\0":
        return nothing, 0
    note = reader.data[entry.position + _NIKON_NOTE_HEAD : entry.position + entry.length]
    known = _MAGICS.get(bytes(note[:4]))
    if known is None or len(note) < 8:
        return nothing, 0
    inner = TiffReader(note, known[0], reader.path)
    number = 0
    try:
        directory, _ = inner.directory("maker note", inner.first_directory())
        number = inner.integer(directory, _NIKON_COMPRESSION)
        values = inner.raw_bytes(directory, _NIKON_LINEARISATION, 10)
    except CorruptRawError:
        return nothing, number
    if len(values) < 10:
        return nothing, number
    return (values[0], *struct.unpack_from(known[0] + "4H", values, 2)), number


def _rw2_strips(
    reader: TiffReader, directory: TiffDirectory, strip_offsets: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return a Panasonic's raw offset; its byte count is the uncompressed one on some models."""
    offsets = reader.extents(directory, _RW2_OFFSET) or strip_offsets
    return tuple(offset for offset in offsets if offset != 0xFFFFFFFF), ()


def _iso(reader: TiffReader, shot: TiffDirectory) -> int | None:
    iso = reader.integer(shot, _ISO)
    if iso == _ISO_OVERFLOW:  # a SHORT cannot hold more; EXIF 2.3 keeps the value elsewhere
        iso = reader.integer(shot, _RECOMMENDED_EXPOSURE_INDEX, iso)
    return iso or None


def _captured_at(text: str) -> str | None:
    # A camera whose clock was never set writes zeros or blanks.
    is_set = re.fullmatch(r"\d{4}:\d\d:\d\d \d\d:\d\d:\d\d", text, re.ASCII)
    return text if is_set and not text.startswith("0000") else None


def _refuse(message: str, path: str) -> NoReturn:
    raise CorruptRawError(message, path=path, mend=TIFF_HINT)


def _check_inside(image: TiffImage, size: int, path: str) -> None:
    # An offset without a length still promises at least one byte; a length of 0 promises nothing.
    byte_counts = image.byte_counts or (1,) * len(image.offsets)
    for offset, byte_count in zip(image.offsets, byte_counts, strict=False):
        if byte_count and offset + byte_count > size:
            kind = "raw image" if image.is_raw else "image"
            piece = {"strips": "a strip", "tiles": "a tile", "jpeg": "a JPEG"}[image.layout]
            _refuse(
                f"truncated: the {kind} of {image.directory} has {piece} at bytes {offset} to "
                f"{offset + byte_count}, but the file ends at byte {size}",
                path,
            )


def _geometry_is_trusted(facts: TiffFacts) -> bool:
    # Other makers write bits and sizes that do not describe their data (Olympus: 16 bits for
    # compressed 12), so there only the extents count.
    maker = facts.make.upper()
    return facts.variant == "tiff" and (facts.is_dng or maker.startswith(("NIKON", "SONY")))


def _is_sony(facts: TiffFacts) -> bool:
    return facts.make.upper().startswith("SONY") and not facts.is_dng


def _check_tiles(image: TiffImage, path: str) -> None:
    if image.layout != "tiles" or not (image.tile_width and image.tile_height):
        return
    across = -(-image.width // image.tile_width)
    down = -(-image.height // image.tile_height)
    if len(image.offsets) < across * down:
        _refuse(
            f"the raw image of {image.directory} is {image.width}x{image.height} and needs "
            f"{across * down} tiles of {image.tile_width}x{image.tile_height}; "
            f"the file has {len(image.offsets)}",
            path,
        )


def _check_bytes(facts: TiffFacts, image: TiffImage, path: str) -> None:
    needed = _minimum_bytes(facts, image)
    found = sum(image.byte_counts)
    if image.byte_counts and found < needed:
        _refuse(
            f"the raw image of {image.directory} is {image.width}x{image.height} at "
            f"{image.bits_per_sample} bits (compression {image.compression}) and needs at least "
            f"{needed} bytes; its {image.layout} have {found}",
            path,
        )


def _minimum_bytes(facts: TiffFacts, image: TiffImage) -> int:
    """Return the fewest bytes that can hold the image; 0 where nothing can be said."""
    samples = image.width * image.height * image.samples_per_pixel
    is_sony = _is_sony(facts)
    if image.compression == UNCOMPRESSED:
        # Sony stores more than 12 bits in 16; Nikon Z and DNG also pack 14 bits.
        bits = 16 if is_sony and image.bits_per_sample > 12 else image.bits_per_sample
        return samples * bits // 8
    if image.compression == _SONY_ARW and is_sony and facts.model != ARW1_MODEL:
        return samples  # ARW2 takes exactly one byte a photosite
    is_entropy_coded = image.compression in (_LOSSLESS_JPEG, NIKON_COMPRESSED)
    if is_entropy_coded and image.photometric == PHOTOMETRIC_CFA:
        return samples // 8  # a Huffman code has at least one bit
    return 0
