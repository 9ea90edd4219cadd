"""When the fast decoders are believed: class by class, as far as it was compared.

Until some files of a class have come out alike, then one in `SAMPLE_EVERY`, files are decoded by
LibRaw as well and compared bit for bit. One difference, and the whole class is LibRaw's.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from pipeline.raw.facts import DecoderName
from schemas.choices import DecoderChoice

CHECK_FIRST = 2
SAMPLE_EVERY = 50


@dataclass
class DecoderTrust:
    """Decides the decoder of each file of one ingest; state lives in the coordinator.

    Parameters
    ----------
    choice
        ``"auto"`` as described; ``"libraw"`` or ``"flashraw"`` always that one.
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
            return "libraw", False
        count = self._seen[decoder_class]
        self._seen[decoder_class] += 1
        # Many may be decoded before the first comparison is known: those are compared, too.
        # genisp's own decoder leaves to flashraw what it was not made for.
        return "genisp", self._agreed[decoder_class] < CHECK_FIRST or count % SAMPLE_EVERY == 0

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
