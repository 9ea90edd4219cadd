"""The table of decoders: one line each. Everything that asks for a decoder looks here.

Decoders are imported when they are first asked for something, so that this table can be read where
their libraries are not installed (`prep doctor`) or not wanted (`prep --help`).
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Final, cast

from pipeline.raw.decoders.decoder import Decoder
from schemas.choices import DecoderName


@dataclass(frozen=True)
class DecoderEntry:
    """One decoder.

    Attributes
    ----------
    name
        What sidecars call it.
    module
        Where its functions are; see `pipeline.raw.decoders.decoder.Decoder`.
    package
        The package it comes from, as installed; None for our own code.
    is_reference
        Whether it decides what a file means. All others are compared with it.
    finds_all_damage
        Whether it declines every file it has a doubt about. What the others decode is examined
        for damage that they may have passed over (`pipeline.raw.damage.is_doubtful`).
    """

    name: DecoderName
    module: str
    package: str | None
    is_reference: bool = False
    finds_all_damage: bool = False

    def load(self) -> Decoder:
        """Import the decoder; the import system remembers it."""
        return cast(Decoder, import_module(self.module))


_HERE: Final = __name__.rpartition(".")[0]

#: The reference, then the fast decoders in the order in which they are asked.
DECODERS: tuple[DecoderEntry, ...] = (
    DecoderEntry("libraw", f"{_HERE}.libraw", "rawpy", is_reference=True),
    DecoderEntry("genisp", f"{_HERE}.own", None, finds_all_damage=True),
    DecoderEntry("flashraw", f"{_HERE}.flashraw", "flashraw"),
)


def reference() -> DecoderEntry:
    """The decoder whose answer counts."""
    return next(entry for entry in DECODERS if entry.is_reference)


def fast_decoders() -> tuple[DecoderEntry, ...]:
    """The decoders that are compared with the reference, in the order in which they are asked."""
    return tuple(entry for entry in DECODERS if not entry.is_reference)


def entry_of(name: DecoderName) -> DecoderEntry:
    """The entry of a decoder."""
    return next(entry for entry in DECODERS if entry.name == name)


def decoder_packages() -> tuple[str, ...]:
    """Packages that decoders come from, in table order."""
    return tuple(entry.package for entry in DECODERS if entry.package is not None)
