"""What all models here have in common."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class StrictModel(BaseModel):
    """Immutable, and a field nobody declared is an error: a typo must not pass as data."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class GrownModel(StrictModel):
    """A model with fields that came after files of it had been written.

    Such a field stands in a file only where its value is not the default: files without it keep
    their bytes and digests, and an older version of this project refuses a file whose meaning it
    would miss.
    """

    #: The fields that came later, each with a default that is the old meaning.
    LATER: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        made: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        for name in self.LATER:
            if getattr(self, name) == fields[name].get_default(call_default_factory=True):
                made.pop(name, None)
        return made
