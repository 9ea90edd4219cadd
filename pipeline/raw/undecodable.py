"""Why LibRaw cannot decode a file, as what the file is: its container, compression or sensor.

LibRaw's own words are the same for a JPEG, for a camera newer than the library and for a damaged
raw. The file's first bytes and its TIFF directories tell them apart, and so what helps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pipeline.errors import CorruptRawError, SourceError, UnsupportedRawError
from pipeline.raw.facts import COPY_AGAIN, LEAVE_OUT
from pipeline.raw.file_kind import not_a_raw
from pipeline.raw.tiff import (
    NIKON_COMPRESSED,
    PHOTOMETRIC_LINEAR_RAW,
    TiffFacts,
    TiffImage,
    read_tiff,
)

_CONVERT: Final = "convert it to DNG with Adobe DNG Converter, uncompressed or lossless"
_RESAVE: Final = (
    "convert it, or better the raw it was made from, with Adobe DNG Converter: to a DNG without "
    "lossy compression, compatible with DNG 1.6 or older"
)
_GOPRO: Final = (
    "convert it to DNG with GoPro's gpr_tools (gpr_tools -i IN.GPR -o OUT.DNG) or Adobe DNG "
    "Converter, and give the DNG"
)
_NIKON: Final = f"{_CONVERT}; for the next pictures set the camera's NEF compression to lossless"
_ONE_SAMPLE: Final = (
    "give the camera's own raw in full size, not a picture made from it; else leave this file out"
)
_NEWER: Final = (
    f"if other files of this camera are ingested, copy this one again; else {_CONVERT}, or try a "
    "newer rawpy (pip install -U rawpy)"
)

#: TIFF compressions that raws come in and LibRaw does not know (DNG 1.7, TIFF tag registry,
#: exiftool): name and mend. It does know Deflate, but of floating point only.
_CODES: Final[dict[int, tuple[str, str]]] = {
    9: ("GoPro's VC-5", _GOPRO),
    52546: ("JPEG XL (DNG 1.7)", _RESAVE),
    8: ("Deflate", _RESAVE),
    34925: ("LZMA", _RESAVE),
    50000: ("Zstandard", _RESAVE),
    50001: ("WebP", _RESAVE),
    34712: ("JPEG 2000", _RESAVE),
}

#: Nikon's own numbers of its compressions, which all share one of TIFF's (exiftool, tag 0x0093).
_NIKON_COMPRESSIONS: Final = {13: "High Efficiency", 14: "High Efficiency*"}

#: How TIFF names the colours of pictures that are no raws.
_PICTURES: Final = {0: "grey", 1: "grey", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "Lab"}

#: First bytes of raws that are no TIFF.
_CONTAINERS: Final[tuple[tuple[int, bytes, str], ...]] = (
    (0, b"FUJIFILMCCD-RAW", "Fujifilm RAF"),
    (4, b"ftypcrx ", "Canon CR3"),
    (6, b"HEAPCCDR", "Canon CRW"),
    (0, b"\0MRM", "Minolta MRW"),
    (0, b"IIU\0", "Panasonic RW2"),
    (0, b"IIRO", "Olympus ORF"),
    (0, b"IIRS", "Olympus ORF"),
    (0, b"MMOR", "Olympus ORF"),
)

_FOVEON: Final = b"FOVb"

#: What sensors are called, by the words of the decoders: what to say, and the mend.
_SENSORS: Final[dict[str, tuple[str, str]]] = {
    "linear": ("several values a pixel: full colour, not a sensor's mosaic", _ONE_SAMPLE),
    "x-trans": ("Fujifilm's X-Trans sensor: a 6x6 mosaic", LEAVE_OUT),
    "monochrome": ("a monochrome sensor", LEAVE_OUT),
    "quad-bayer": ("a quad-Bayer mosaic: 4x4 sites of which four have one colour", LEAVE_OUT),
    "other-cfa": ("a mosaic of an unknown pattern", LEAVE_OUT),
    "foveon": ("Sigma's Foveon sensor: full colour, not a mosaic", LEAVE_OUT),
    "four colours": ("a mosaic of four colours", LEAVE_OUT),
}


def other_sensor(kind: str, *, path: str) -> UnsupportedRawError:
    """The refusal of a file that is no Bayer mosaic.

    Parameters
    ----------
    kind
        A key of the table above, or whatever a decoder calls it.
    """
    what, mend = _SENSORS.get(kind, (f"a sensor of layout {kind!r}", LEAVE_OUT))
    message = f"it is of {what}; only Bayer mosaics are converted"
    return UnsupportedRawError(message, path=path, mend=mend)


def no_raw(data: bytes, *, path: str) -> SourceError | None:
    """The refusal of a file, or the beginning of one, that is certainly no raw; None for others."""
    if not data:
        return CorruptRawError("the file is empty", path=path, mend=COPY_AGAIN)
    kind = not_a_raw(data)
    if kind is not None:
        return UnsupportedRawError(f"this is {kind.name}, no camera raw", path=path, mend=kind.mend)
    if not data.strip(b"\0"):
        message = "it holds zeros and nothing else: a copy that was never finished"
        return CorruptRawError(message, path=path, mend=COPY_AGAIN)
    return None


def misread(tiff: TiffFacts, *, path: str) -> UnsupportedRawError | None:
    """The refusal of a raw that LibRaw may decode, without an error, to other numbers.

    Nikon's High Efficiency code, which LibRaw takes for another one on some models; and samples in
    floating point, which it scales by the largest of the picture. None for other files.
    """
    codes = {image.compression for image in tiff.raw_images}
    name = _NIKON_COMPRESSIONS.get(tiff.nikon_compression)
    if name is not None and NIKON_COMPRESSED in codes:
        message = f"its image data are in Nikon's {name} code, which no free decoder reads"
        return UnsupportedRawError(message, path=path, mend=_NIKON)
    if any(image.is_float for image in tiff.raw_images):
        message = "its samples are in floating point: merged or edited, not what a sensor counts"
        return UnsupportedRawError(message, path=path, mend=_ONE_SAMPLE)
    return None


def undecodable(data: bytes, said: str, *, damaged: bool, library: str, path: str) -> SourceError:
    """The refusal of a file that LibRaw cannot read.

    Parameters
    ----------
    data
        The file or its beginning.
    said
        What LibRaw says.
    damaged
        Whether that means damage; it says so of some codes that it does not know.
    library
        Its name and version, for messages.

    Returns
    -------
    `UnsupportedRawError` that names what the file is, or `CorruptRawError` where it is damaged.
    """
    if (refusal := no_raw(data, path=path)) is not None:
        return refusal
    try:
        tiff = read_tiff(data, path=path)
    except CorruptRawError as error:
        return error
    if damaged:
        return _unknown_code(tiff, library, path) or _damaged(library, said, path)
    if data.startswith(_FOVEON):
        return other_sensor("foveon", path=path)
    for offset, magic, name in _CONTAINERS:
        if data.startswith(magic, offset):
            message = f"this begins as a {name}, but {library} finds no image in it ({said})"
            return UnsupportedRawError(message, path=path, mend=_NEWER)
    if tiff is None:
        message = f"{library} does not recognise it as a camera raw"
        return UnsupportedRawError(message, path=path, mend=LEAVE_OUT)
    return _unknown_code(tiff, library, path) or _undecodable_tiff(tiff, said, library, path)


def _damaged(library: str, said: str, path: str) -> CorruptRawError:
    message = f"{library} cannot decode it: truncated or damaged ({said})"
    return CorruptRawError(message, path=path, mend=COPY_AGAIN)


def _unknown_code(tiff: TiffFacts | None, library: str, path: str) -> UnsupportedRawError | None:
    """The refusal of image data in a code that LibRaw is known not to have."""
    image = _largest(() if tiff is None else tiff.raw_images)
    known = None if image is None else _CODES.get(image.compression)
    if image is None or known is None:
        return None
    name, mend = known
    if image.photometric == PHOTOMETRIC_LINEAR_RAW:
        mend = _ONE_SAMPLE  # full colour: no other compression would help
    message = f"its image data are compressed by {name}, which {library} cannot decode"
    return UnsupportedRawError(message, path=path, mend=mend)


def _undecodable_tiff(tiff: TiffFacts, said: str, library: str, path: str) -> UnsupportedRawError:
    named = tiff.model if tiff.model.startswith(tiff.make) else f"{tiff.make} {tiff.model}"
    camera = named or "an unnamed camera"
    if (image := _largest(tiff.raw_images)) is not None:
        code = f"TIFF code {image.compression}, {image.bits_per_sample} bits"
        message = f"{library} cannot decode the image data ({code}) of this file of {camera}"
        return UnsupportedRawError(f"{message} ({said})", path=path, mend=_NEWER)
    picture = _largest(tiff.images)
    if picture is not None and picture.photometric in _PICTURES and picture.width:
        what = f"{picture.width}x{picture.height} {_PICTURES[picture.photometric]}"
        message = f"this is a TIFF picture ({what}), no camera raw"
        return UnsupportedRawError(message, path=path, mend=_ONE_SAMPLE)
    message = f"{library} finds no raw image in this TIFF file of {camera} ({said})"
    return UnsupportedRawError(message, path=path, mend=_NEWER)


def _largest(images: Sequence[TiffImage]) -> TiffImage | None:
    return max(images, key=lambda image: image.width * image.height, default=None)
