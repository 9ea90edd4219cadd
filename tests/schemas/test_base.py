"""Fields that came after files had been written."""

from __future__ import annotations

from typing import ClassVar

from schemas.base import GrownModel


class _Model(GrownModel):
    LATER: ClassVar[tuple[str, ...]] = ("regions", "note")

    size: int
    regions: tuple[int, ...] = ()
    note: str | None = None


def test_a_later_field_stands_in_the_file_only_where_it_says_something() -> None:
    assert _Model(size=1).model_dump(mode="json") == {"size": 1}
    assert _Model(size=1, regions=(2,)).model_dump(mode="json") == {"size": 1, "regions": [2]}
    assert _Model(size=0, note="").model_dump_json() == '{"size":0,"note":""}'


def test_a_file_without_a_later_field_is_read_and_written_as_it_was() -> None:
    text = '{"size":3}'
    assert _Model.model_validate_json(text).model_dump_json() == text
