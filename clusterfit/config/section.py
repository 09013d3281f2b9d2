"""What every section of the run file is: frozen, strict, closed, camelCase outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

OPERATIONAL_KEY: Final = "x-operational"
WANTED_KEY: Final = "x-wanted"
"""What the two markers below leave in the tree's schema; no generated file shows them."""


class _Operational:
    """Marks a field that changes how a stage runs, never what it produces."""

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Tell those who read the tree as a schema."""
        return {**handler(core_schema), OPERATIONAL_KEY: True}

    def __repr__(self) -> str:
        return "OPERATIONAL"


OPERATIONAL: Final = _Operational()
"""`Annotated[int, OPERATIONAL]`: left out of fingerprints, so changing it redoes nothing."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Says in words what a field takes where its pattern alone would not help a user.

    `Annotated[str, StringConstraints(pattern=...), Wanted("lower-case letters")]` reads in a fault
    as `name: got "Run", want lower-case letters`.
    """

    words: str

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Tell those who read the tree as a schema."""
        return {**handler(core_schema), WANTED_KEY: self.words}


class Section(BaseModel):
    """Base of every section.

    The docstring under each field is its documentation: meaning, unit, range, cost. Values are
    read in JSON's types without conversion (`"3"` is not 3), unknown keys are refused, and nothing
    can be changed after loading.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        validate_default=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    def dump(self) -> dict[str, Any]:
        """Return the section as JSON types under the run file's own (camelCase) keys."""
        return self.model_dump(mode="json", by_alias=True)

    def dump_results(self) -> dict[str, Any]:
        """Return `dump()` without operational fields: what a fingerprint is made of."""
        dumped = self.dump()
        for name, field in type(self).model_fields.items():
            key = field.serialization_alias or name
            value = getattr(self, name)
            if OPERATIONAL in field.metadata:
                del dumped[key]
            elif isinstance(value, Section):
                dumped[key] = value.dump_results()
            elif isinstance(value, tuple) and any(isinstance(item, Section) for item in value):
                dumped[key] = [item.dump_results() for item in value]
        return dumped
