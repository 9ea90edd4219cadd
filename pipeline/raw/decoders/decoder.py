"""What a decoder is. A module with these functions is one; `table` lists them all."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

from pipeline.raw.facts import DecodedRaw, Geometry, Levels
from pipeline.raw.tiff import TiffFacts, read_tiff
from schemas.sidecar import Camera, Capture


class DecoderDeclinedError(Exception):
    """Raised by a decoder for a file that another decoder may be able to read."""


@dataclass(frozen=True)
class RawFile:
    """A raw file in memory.

    Attributes
    ----------
    data
        All of the file; for `EarlyFactsReader`, perhaps only its beginning.
    path
        Name of the file for error messages.
    """

    data: bytes
    path: str

    @cached_property
    def tiff(self) -> TiffFacts | None:
        """What its TIFF directories say; None for other containers.

        Raises
        ------
        CorruptRawError
            Where a directory is damaged.
        """
        return read_tiff(self.data, path=self.path)


@dataclass(frozen=True)
class EarlyFacts:
    """What can be read without decoding pixels.

    Attributes
    ----------
    decoder_class
        The part of `RawFacts.decoder_class` that this decoder knows: camera, compression, bit
        depth, byte order, colour filter array.
    """

    camera: Camera
    levels: Levels
    capture: Capture
    geometry: Geometry
    decoder_class: str


class Decoder(Protocol):
    """Turns the bytes of a raw into its mosaic."""

    def version(self) -> str:
        """Version of the library; sidecars record it."""
        ...

    def can_decode(self, file: RawFile) -> bool:
        """Whether `decode` is worth trying, told from the directories and not from pixels."""
        ...

    def decode(self, file: RawFile) -> DecodedRaw:
        """Decode the whole sensor.

        Raises
        ------
        DecoderDeclinedError
            If another decoder should be asked instead.
        CorruptRawError
            If the file is damaged.
        UnsupportedRawError
            If it is not a mosaic of three colours, or absurdly large.
        MemoryError
            If there is not enough of it.
        """
        ...


@runtime_checkable
class EarlyFactsReader(Protocol):
    """A decoder that can also say what a file holds without decoding it.

    Files that none of these understands are decoded by the reference only, so a library for a
    format that the others do not know should be one.
    """

    def read_facts(self, file: RawFile) -> EarlyFacts:
        """Read the facts of a file, or of its beginning.

        Raises
        ------
        DecoderDeclinedError
            If this decoder cannot say, for whatever reason.
        UnsupportedRawError
            If the sensor is not Bayer.
        """
        ...
