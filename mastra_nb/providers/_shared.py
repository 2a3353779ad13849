"""What the APIs of OpenAI's family have in common: JSON in, schemas and tool results out."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from mastra_nb.config import redact
from mastra_nb.errors import ModelOutputError, ModelRefused
from mastra_nb.messages import ToolResult, Usage

to_json = msgspec.json.Encoder()


def decode(data: bytes, label: str) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ModelOutputError(
            f'"{label}" sent what is not JSON: {excerpt(data)}',
            hint="check that the base URL is the address of a chat completions API",
        ) from None
    if not isinstance(value, dict):
        raise ModelOutputError(f'"{label}" sent JSON that is not an answer: {excerpt(data)}')
    return value


def dicts(value: Any) -> list[dict[str, Any]]:
    """The objects of a list; nothing of what is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def words(value: Any) -> str:
    return value if isinstance(value, str) else ""


def excerpt(data: bytes) -> str:
    text = data[:120].decode("utf-8", "replace")
    return redact(text + "…" if len(data) > 120 else text)


def count(usage: Any, key: str) -> int:
    value = usage.get(key) if isinstance(usage, dict) else None
    return int(value) if isinstance(value, int | float) else 0


def refused(label: str, refusal: str, usage: Usage) -> ModelRefused:
    said = f"refused to answer: {refusal}" if refusal else "filtered the answer"
    return ModelRefused(
        f'"{label}" {said}',
        hint="rephrase the request, or use another model",
        details={"refusal": refusal, "usage": msgspec.to_builtins(usage)},
    )


def result_text(part: ToolResult) -> str:
    """A tool's answer as text; neither API has a field for "this is an error"."""
    value = part.output
    text = value if isinstance(value, str) else to_json.encode(value).decode()
    if part.is_error and not text.lower().startswith("error"):
        text = f"Error: {text}"
    return text


def named_schema(schema: dict[str, Any]) -> dict[str, Any]:
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", str(schema.get("title") or "answer"))[:64]
    return {"name": name, "schema": schema, "strict": fits_strict(schema)}


_STRICT_KEYS = frozenset(
    {
        "$defs", "$ref", "additionalProperties", "anyOf", "const", "definitions", "description",
        "enum", "exclusiveMaximum", "exclusiveMinimum", "format", "items", "maxItems", "maximum",
        "minItems", "minimum", "multipleOf", "pattern", "properties", "required", "title", "type",
    }
)  # fmt: skip


def fits_strict(schema: dict[str, Any]) -> bool:
    """Whether OpenAI accepts the schema in strict mode: closed objects, everything required."""
    return schema.get("type") == "object" and _strict(schema)


def _strict(schema: Any) -> bool:
    if not isinstance(schema, dict) or not schema or not schema.keys() <= _STRICT_KEYS:
        return False
    properties = schema.get("properties", {})
    if schema.get("type") == "object" or "properties" in schema:
        if schema.get("additionalProperties") is not False:
            return False
        if set(schema.get("required", ())) != set(properties):
            return False
    below = [*properties.values(), *schema.get("anyOf", ())]
    below += [*schema.get("$defs", {}).values(), *schema.get("definitions", {}).values()]
    if "items" in schema:
        below.append(schema["items"])
    return all(map(_strict, below))
