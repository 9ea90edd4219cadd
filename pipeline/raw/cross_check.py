"""When the fast decoders are believed: class by class, as far as it was compared.

Until some files of a class have come out alike, then one in `SAMPLE_EVERY`, files are decoded by
LibRaw as well and compared bit for bit. One difference, and the whole class is LibRaw's: what was
decoded fast of it before, and not compared, is decoded again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from pipeline.errors import CorruptRawError, SourceError, UnsupportedRawError
from pipeline.raw.damage import may_hide_damage
from pipeline.raw.decoders.decoder import DecoderDeclinedError
from pipeline.raw.decoders.table import fast_decoders, reference
from pipeline.raw.facts import DecodedRaw, differences
from pipeline.raw.reader import decode
from schemas.choices import DecoderChoice, DecoderName

CHECK_FIRST = 2
SAMPLE_EVERY = 50

#: Whatever the user of `DecoderTrust` knows a file by.
File = TypeVar("File")


@dataclass(frozen=True, slots=True)
class Decision:
    """How one file is decoded.

    Attributes
    ----------
    decoder_class
        Of the file; see `RawFacts`.
    compare
        Decode it by LibRaw as well; its numbers count where they differ.
    """

    decoder_class: str
    decoder: DecoderName
    compare: bool


@dataclass(frozen=True)
class Judgement(Generic[File]):
    """What follows from one decoded file.

    Attributes
    ----------
    keep
        Whether its numbers are believed.
    again
        Files to be decided about and decoded again.
    first_difference
        Whether this is the first disagreement in its class, which is LibRaw's from now on.
    """

    keep: bool = True
    again: tuple[File, ...] = ()
    first_difference: bool = False


@dataclass
class DecoderTrust(Generic[File]):
    """Decides the decoder of each file of one ingest; state lives in the coordinator.

    Parameters
    ----------
    choice
        ``"auto"`` as described; the name of a decoder: always that one.
    """

    choice: DecoderChoice
    _drawn: Counter[str] = field(default_factory=Counter)
    _agreed: Counter[str] = field(default_factory=Counter)
    _unchecked: dict[str, list[File]] = field(default_factory=dict)
    _distrusted: set[str] = field(default_factory=set)

    def distrust(self, decoder_classes: Iterable[str]) -> None:
        """Leave classes to LibRaw of which a difference is known before any file is decoded."""
        self._distrusted.update(decoder_classes)

    def decide(self, decoder_class: str) -> Decision:
        """How the next file of a class is decoded."""
        if self.choice != "auto":
            return Decision(decoder_class, self.choice, compare=False)
        if not decoder_class or decoder_class in self._distrusted:
            return Decision(decoder_class, reference().name, compare=False)
        count = self._drawn[decoder_class]
        self._drawn[decoder_class] += 1
        # Many may be decoded before the first comparison is known: those are compared, too.
        compare = self._agreed[decoder_class] < CHECK_FIRST or count % SAMPLE_EVERY == 0
        # The first fast decoder leaves to the others what it was not made for.
        return Decision(decoder_class, fast_decoders()[0].name, compare)

    def judge(
        self, file: File, decision: Decision, *, succeeded: bool, disagreement: str
    ) -> Judgement[File]:
        """Take note of what became of a file.

        Parameters
        ----------
        succeeded
            Whether its sample was made.
        disagreement
            What the decoders differed in; "" if nothing, or if they were not compared. A file may
            be compared although nobody decided so, where its decoder had doubts.
        """
        name = decision.decoder_class
        if disagreement:
            if name in self._distrusted:
                return Judgement()
            self._distrusted.add(name)
            return Judgement(first_difference=True, again=tuple(self._unchecked.pop(name, ())))
        if decision.compare:
            self._agreed[name] += succeeded
        elif decision.decoder != reference().name and self.choice == "auto":
            if name in self._distrusted:
                # It was being decoded when its class was found out.
                return Judgement(keep=False, again=(file,))
            self._unchecked.setdefault(name, []).append(file)
        return Judgement()


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
    except CorruptRawError:
        if compare:
            _require_supported(data, path)
        raise
    if not (compare or may_hide_damage(data, fast, path=path)):
        return fast, ""
    try:
        right = decode(data, exact, path=path)
    except UnsupportedRawError as error:
        mend = f"{error.mend}; or --decoder {fast.decoder}: it decodes this file, unconfirmed"
        raise UnsupportedRawError(error.message, path=path, mend=mend) from error
    found = differences(right, fast)
    return (right, f"{fast.decoder}: {'; '.join(found)}") if found else (fast, "")


def _require_supported(data: bytes, path: str) -> None:
    """Refuse what the reference cannot decode: that counts more than damage another one sees."""
    try:
        decode(data, reference().name, path=path)
    except UnsupportedRawError:
        raise
    except SourceError:
        return
