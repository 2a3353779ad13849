"""What MCP servers say in our words: content blocks, messages, requests for a model."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

from mastra_nb.messages import Media, Message, Part, Text, system
from mastra_nb.models import ModelRequest, ModelSettings, Reply
from mastra_nb.schema import to_json
from mastra_nb.tools import capped


def part(block: Any) -> Part:
    """A text, image, sound, embedded resource or link to one."""
    kind = block.type
    if kind == "text":
        return Text(text=block.text)
    if kind in ("image", "audio"):
        return media(block.mime_type, block.data)
    if kind == "resource":
        return resource(block.resource)
    if kind == "resource_link":
        about = f" ({block.description})" if block.description else ""
        return Text(text=f"resource {block.uri}: {block.title or block.name}{about}")
    return Text(text=f"[{kind}]")


def resource(contents: Any) -> Part:
    if getattr(contents, "text", None) is not None:
        return Text(text=contents.text)
    return media(contents.mime_type or "application/octet-stream", contents.blob)


def media(mime: str, data: str) -> Part:
    try:
        return Media(mime=mime, data=base64.b64decode(data, validate=True))
    except (binascii.Error, ValueError):
        return Text(text=f"[{mime}: not valid base64]")


def output(result: Any) -> Any:
    """A tool's result as a JSON value: structured if it is, else text, else a list of parts."""
    if result.structured_content is not None and all(b.type == "text" for b in result.content):
        return capped(to_json(result.structured_content))
    parts = [part(b) for b in result.content]
    if all(isinstance(p, Text) for p in parts):
        return capped("\n".join(p.text for p in parts if isinstance(p, Text)))
    # Base64 that is cut is no image any more: only text has a limit.
    found = [to_json(p) if isinstance(p, Media) else capped(to_json(p)) for p in parts]
    if result.structured_content is not None:
        found.append(capped(to_json(result.structured_content)))
    return found


def text(blocks: Sequence[Any]) -> str:
    return "\n".join(p.text for p in map(part, blocks) if isinstance(p, Text))


def message(role: str, blocks: Sequence[Any]) -> Message:
    parts = tuple(part(b) for b in blocks)
    return Message(role="assistant" if role == "assistant" else "user", parts=parts)


def model_request(params: Any) -> ModelRequest:
    """What a server asks of a model (sampling)."""
    said = tuple(message(m.role, m.content_as_list) for m in params.messages)
    return ModelRequest(
        messages=((system(params.system_prompt),) if params.system_prompt else ()) + said,
        settings=ModelSettings(temperature=params.temperature, max_tokens=params.max_tokens),
    )


def answer_text(answer: Any) -> tuple[str, str]:
    """The text of what a sampling callback gave, and the name of the model."""
    if isinstance(answer, Reply):
        return answer.message.text, answer.model or "model"
    if isinstance(answer, Message):
        return answer.text, "model"
    return str(answer), "model"
