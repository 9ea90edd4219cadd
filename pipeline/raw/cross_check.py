"""When the fast decoders are believed: class by class, as far as it was compared.

Until some files of a class have come out alike, then one in `SAMPLE_EVERY`, files are decoded by
LibRaw as well and compared bit for bit. One difference, and the whole class is LibRaw's.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from pipeline.raw.damage import may_hide_damage
from pipeline.raw.decoders.decoder import DecoderDeclinedError
from pipeline.raw.decoders.table import fast_decoders, reference
from pipeline.raw.facts import DecodedRaw, differences
from pipeline.raw.reader import decode
from schemas.choices import DecoderChoice, DecoderName

CHECK_FIRST = 2
SAMPLE_EVERY = 50


@dataclass
class DecoderTrust:
    """Decides the decoder of each file of one ingest; state lives in the coordinator.

    Parameters
    ----------
    choice
        ``"auto"`` as described; the name of a decoder: always that one.
    """

    choice: DecoderChoice
    _seen: Counter[str] = field(default_factory=Counter)
    _agreed: Counter[str] = field(default_factory=Counter)
    _distrusted: dict[str, str] = field(default_factory=dict)

    def decide(self, decoder_class: str) -> tuple[DecoderName, bool]:
        """Decoder for the next file of a class, and whether to compare it with the other."""
        if self.choice != "auto":
            return self.choice, False
        if not decoder_class or decoder_class in self._distrusted:
            return reference().name, False
        count = self._seen[decoder_class]
        self._seen[decoder_class] += 1
        # Many may be decoded before the first comparison is known: those are compared, too.
        # The first fast decoder leaves to the others what it was not made for.
        return fast_decoders()[0].name, self._agreed[
            decoder_class
        ] < CHECK_FIRST or count % SAMPLE_EVERY == 0

    def agree(self, decoder_class: str) -> None:
        """Both decoders gave the same for a file of this class."""
        self._agreed[decoder_class] += 1

    def distrust(self, decoder_class: str, reason: str) -> bool:
        """Hand a class to LibRaw for good; False if it already was."""
        if decoder_class in self._distrusted:
            return False
        self._distrusted[decoder_class] = reason
        return True

    @property
    def distrusted(self) -> dict[str, str]:
        """Class -> what differed."""
        return dict(self._distrusted)


def decode_checked(
    data: bytes, decoder: DecoderName, *, compare: bool, path: str
) -> tuple[DecodedRaw, str]:
    """Decode with a decoder, and with the reference where that is asked for or there are doubts.

    Parameters
    ----------
    data
        The file.
    decoder, compare
        As `DecoderTrust.decide` said.

    Returns
    -------
    The mosaic, and what differed if both were asked, else "". The reference's answer counts where
    they differ, and where no fast decoder takes the file.

    Raises
    ------
    SourceError, MemoryError
        As `pipeline.raw.reader.decode` does.
    """
    exact = reference().name
    if decoder == exact:
        return decode(data, exact, path=path), ""
    try:
        fast = decode(data, decoder, path=path)
    except DecoderDeclinedError as error:
        return decode(data, exact, path=path), str(error)
    if not (compare or may_hide_damage(data, fast, path=path)):
        return fast, ""
    right = decode(data, exact, path=path)
    found = differences(right, fast)
    return (right, f"{fast.decoder}: {'; '.join(found)}") if found else (fast, "")
