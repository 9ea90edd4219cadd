from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.console.progress import error_text, finding_text
from pipeline.safe_text import json_line, printable, visible, visible_lines, without_locale
from schemas.events import ErrorEvent
from schemas.finding import Finding, Severity

HOSTILE = "a\x1b[2J\n\r\x07\x9b\x7f\u202eb\u2066\u2028\ufeff\udcff\ud800é夜"
SHOWN = "a\\x1b[2J\\x0a\\x0d\\x07\\x9b\\x7f\\u202eb\\u2066\\u2028\\ufeff\\xff\\ud800é夜"


def test_what_a_terminal_would_obey_is_shown() -> None:
    assert visible(HOSTILE) == SHOWN
    assert visible_lines("first\n  \x1b[2J") == "first\n  \\x1b[2J"


def test_messages_are_one_line_and_a_mend_whatever_the_names() -> None:
    assert error_text(HOSTILE, "bad", "mend\nit") == f"error: {SHOWN}: bad\n  mend: mend\\x0ait"
    finding = Finding(
        code="x", severity=Severity.ERROR, where=f"a\n{HOSTILE[:8]}", message="m", mend="n"
    )
    assert finding_text(finding).count("\n") == 1


@given(st.text(st.characters(exclude_categories=[])))
def test_a_line_of_json_is_one_line_and_gives_names_back(name: str) -> None:
    line = json_line({"path": name})
    assert visible(line) == line
    line.encode()
    if not any("\ud800" <= letter <= "\udfff" for letter in name):
        assert json.loads(line)["path"] == name


@pytest.mark.parametrize("name", [HOSTILE, "plain"])
def test_events_with_any_name_are_lines(name: str) -> None:
    line = json_line(ErrorEvent(code="c", path=name, message="m", mend="n"))
    assert json.loads(line)["path"].startswith(name[:1])
    assert visible(line) == line


@given(st.binary(min_size=1).map(lambda data: data.replace(b"\0", b"")))
def test_a_name_is_the_same_in_every_locale(name: bytes) -> None:
    in_c, in_utf8 = (name.decode(code, "surrogateescape") for code in ("ascii", "utf-8"))
    assert without_locale(in_c) == without_locale(in_utf8) == in_utf8
    assert printable(in_c) == printable(in_utf8)
    assert visible(in_c) == visible(in_utf8)
    assert json_line({"name": in_c}) == json_line({"name": in_utf8})
