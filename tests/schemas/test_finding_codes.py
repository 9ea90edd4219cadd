from __future__ import annotations

import pytest

from schemas.finding import Finding, Severity
from schemas.finding_codes import FindingCode


def test_a_finding_holds_a_plain_string_and_what_its_code_fixes() -> None:
    finding = FindingCode.ZERO_AREA.finding("a.json", "box [0, 0, 0, 1] has no area")
    assert type(finding.code) is str
    assert finding == Finding(
        code="zero-area",
        severity=Severity.ERROR,
        where="a.json",
        message="box [0, 0, 0, 1] has no area",
        mend=FindingCode.ZERO_AREA.mend or "",
    )


def test_what_a_code_leaves_open_is_given_and_what_it_fixes_is_not() -> None:
    with pytest.raises(ValueError, match="mend of no-split is missing"):
        FindingCode.NO_SPLIT.finding("a.json", "no split")
    with pytest.raises(ValueError, match="mend of tiny is fixed"):
        FindingCode.TINY.finding("a.json", "tiny", mend="look")
    with pytest.raises(ValueError, match="severity of raw-not-given is missing"):
        FindingCode.RAW_NOT_GIVEN.finding("s.zarr", "no raws")


@pytest.mark.parametrize("code", FindingCode)
def test_every_code_is_a_word_for_scripts_with_a_meaning(code: FindingCode) -> None:
    assert code == code.name.lower().replace("_", "-")
    assert code.meaning
