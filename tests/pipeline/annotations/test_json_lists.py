from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.annotations import json_lists
from pipeline.annotations.json_lists import NotJsonError, Span, is_json, members, misplaced, runs

texts = st.text(st.sampled_from('ab"\\[]{},:\n é\u2028'), max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)
documents = st.dictionaries(texts, values, max_size=6)


def as_read(data: bytes) -> dict[str, Any]:
    """The document as its pieces say; lists by their runs."""
    found: dict[str, Any] = {}
    for key, span in members(data).items():
        text = data[span.start : span.end]
        if text.startswith(b"["):
            found[key] = [record for _, run in runs(data, span) for record in json.loads(run)]
        else:
            found[key] = json.loads(text)
    return found


@given(documents, st.sampled_from([None, 0, 2]), st.integers(1, 40))
@settings(max_examples=80, deadline=None)
def test_a_document_in_pieces_is_the_document(
    document: dict[str, Any], indent: int | None, block: int
) -> None:
    data = json.dumps(document, indent=indent, ensure_ascii=block % 2 == 0).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_lists, "BLOCK", block)
        assert as_read(data) == document
        assert is_json(data)


@given(documents, st.data())
@settings(max_examples=80, deadline=None)
def test_a_document_that_is_cut_off_is_none(document: dict[str, Any], drawn: st.DataObject) -> None:
    data = json.dumps(document).encode()
    cut = data[: drawn.draw(st.integers(0, len(data) - 1))]
    with pytest.raises(NotJsonError):
        as_read(cut)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "it is empty at line 1 column 1"),
        ("[]", "expected an object at line 1 column 1"),
        ('{"a": 1}\n x', "trailing characters at line 2 column 2"),
        ('{"a": [1}', "the file ends too early at line 1 column 9"),
        ('{"a": 1]', "expected `}` at line 1 column 8"),
        ('{"a": 1,}', 'expected `"key": value` at line 1 column 9'),
        ('{,"a": 1}', 'expected `"key": value` at line 1 column 2'),
        ('{"a": [1,]}', "trailing comma at line 1 column 10"),
        ('{"a": [,1]}', "expected value"),
        ('{"a": 1, "a": 2}', "the key 'a' stands there a second time"),
        ('{"a": "b}', "the file ends inside a string"),
        ('{"a": ' + "[" * 300, "recursion limit exceeded (200 levels) at line 1 column 206"),
        ("{" + ",".join(f'"{n}": 0' for n in range(1001)) + "}", "more than 1000 keys"),
        ('{"' + "k" * 5000 + '": 0}', "expected `"),
    ],
)
def test_what_is_no_document_is_said_with_its_place(text: str, what: str) -> None:
    with pytest.raises(NotJsonError) as caught:
        as_read(text.encode())
    assert what in str(caught.value)


def test_a_record_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lists, "MAX_RECORD_BYTES", 100)
    monkeypatch.setattr(json_lists, "BLOCK", 64)
    data = b'{"a": [{"b": "' + b"x" * 1000 + b'"}]}'
    with pytest.raises(NotJsonError, match="a record of more than 100 bytes"):
        as_read(data)


def test_a_complaint_about_a_run_is_placed_in_the_document() -> None:
    data = b'{"a": [1,\n2,\n x]}'
    *_, (offset, run) = runs(data, Span(data.index(b"["), len(data) - 1))
    error = misplaced(ValueError("expected value at line 2 column 2"), data, offset, run)
    assert str(error) == "expected value at line 3 column 2"
    assert str(misplaced(ValueError("no place"), data, 6, b"")) == "no place at line 1 column 7"


@pytest.mark.parametrize("text", ["[1, 2]", "7", '"x"', "null", ' {"a": []} \n'])
def test_other_json_is_json(text: str) -> None:
    assert is_json(text.encode())


def test_of_large_json_it_counts_whether_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lists, "BLOCK", 16)
    assert is_json(b"[" + b"1," * 50 + b"1] ")
    assert not is_json(b"[" + b"1," * 50)
    assert not is_json(b"[" + b"1," * 50 + b"1] x")
    assert not is_json(b"1" * 50)
    assert not is_json(b"[" * 500)
