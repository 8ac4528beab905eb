"""A request field whose value is a key of a table: the form offers the keys, and errors list them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema


@dataclass(frozen=True, eq=False)  # typing needs a hash, and a dict has none
class KeyOf:
    """Annotates a `str` field: the value must be a key of `table` at the time of validation.

    A `Literal` would need the keys twice: in the table, and where mypy reads them.
    """

    table: Mapping[str, Any]

    def __get_pydantic_core_schema__(self, source: type[str], handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), "enum": list(self.table)}

    def _check(self, value: str) -> str:
        if value not in self.table:
            raise ValueError(f"unknown; choose one of {', '.join(self.table)}")
        return value
