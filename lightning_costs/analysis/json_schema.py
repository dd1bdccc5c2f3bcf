"""The JSON Schema of what `Comparison.as_dict` and `--json` hold, from the declarations of the plain data itself."""

from __future__ import annotations

import json
import types
from dataclasses import fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from lightning_costs.analysis.data import SCHEMA, ComparisonData

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def json_schema() -> dict[str, Any]:
    """A JSON Schema (2020-12): one definition per record, nothing beside the keys it names.

    Every number may be null: JSON has neither infinity nor what is not a number.
    """
    hints = get_type_hints(ComparisonData)
    records: dict[str, Any] = {}
    properties = {"schema": {"const": SCHEMA}, **{f.name: _of(hints[f.name], records) for f in fields(ComparisonData)}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A comparison of runs by lightning-costs",
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
        "$defs": dict(sorted(records.items())),
    }


def _of(hint: Any, records: dict[str, Any]) -> dict[str, Any]:
    """The schema of an annotation; records that it meets are added to `records`."""
    if hint is Any:
        return {}
    if hint is float:
        return {"type": ["number", "null"]}
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return {"enum": list(parts)}
    if origin is list:
        return {"type": "array", "items": _of(parts[0], records)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _of(parts[1], records)}
    if origin in (Union, types.UnionType):
        return _either([_of(part, records) for part in parts])
    if not is_typeddict(hint):
        raise TypeError(f"a comparison holds plain data; {hint!r} has no JSON schema")
    if hint.__name__ not in records:
        records[hint.__name__] = {}  # a record that holds itself ends here
        keys = {name: _of(each, records) for name, each in get_type_hints(hint).items()}
        records[hint.__name__] = {
            "description": " ".join((hint.__doc__ or "").split()),
            "type": "object",
            "properties": keys,
            "required": list(keys),
            "additionalProperties": False,
        }
    return {"$ref": f"#/$defs/{hint.__name__}"}


def _either(schemas: list[dict[str, Any]]) -> dict[str, Any]:
    if all(set(schema) == {"type"} for schema in schemas):
        names: dict[str, None] = {}
        for schema in schemas:
            kinds = schema["type"]
            names |= dict.fromkeys([kinds] if isinstance(kinds, str) else kinds)
        return {"type": list(names)}
    return {"anyOf": schemas}


def main() -> None:
    """Write the schema to the terminal: what docs/comparison.schema.json holds."""
    print(json.dumps(json_schema(), indent=1))


if __name__ == "__main__":
    main()
