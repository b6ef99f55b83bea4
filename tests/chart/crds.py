"""Strict JSON schemas of custom resources, made from their CustomResourceDefinitions.

    python -m tests.chart.crds httproutes.yaml servicemonitors.yaml ...

Writes `tests/chart/schemas/KIND-VERSION.json`: the structural schema without descriptions and CEL rules, closed
against unknown keys. The README beside them names the sources.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

import yaml

__all__ = ["strict"]

SCHEMAS: Final = Path(__file__).parent / "schemas"
_KEPT: Final = frozenset(
    {
        "type", "enum", "pattern", "required", "format", "default", "minimum", "maximum",
        "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties",
    }
)  # fmt: skip


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of a structural schema; objects with known properties take no others."""
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    result = {key: value for key, value in schema.items() if key in _KEPT and key not in {"default", "format"}}
    if "properties" in schema:
        result["properties"] = {name: strict(value) for name, value in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            result["additionalProperties"] = False
    if isinstance(schema.get("additionalProperties"), dict):
        result["additionalProperties"] = strict(schema["additionalProperties"])
    if "items" in schema:
        result["items"] = strict(schema["items"])
    return result


def main(paths: list[str]) -> None:
    for path in paths:
        crd = yaml.safe_load(Path(path).read_text())
        spec = crd["spec"]
        for version in spec["versions"]:
            if not version["served"]:
                continue
            schema = strict(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            schema["properties"].pop("status", None)
            schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
            for key, value in (
                ("apiVersion", f"{spec['group']}/{version['name']}"),
                ("kind", spec["names"]["kind"]),
            ):
                schema["properties"][key] = {"const": value}
            name = f"{spec['names']['kind'].lower()}-{spec['group'].split('.')[0]}-{version['name']}.json"
            SCHEMAS.mkdir(exist_ok=True)
            (SCHEMAS / name).write_text(json.dumps(schema, sort_keys=True, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
