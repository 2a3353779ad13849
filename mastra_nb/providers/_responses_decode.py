"""The answers of OpenAI's Responses API, streamed or whole.

Items become parts in their order. What must go back as it came (reasoning, the items of built-in
tools) is kept in `extra`: a built-in tool is not a tool call of ours, its item travels in a
Reasoning part without text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from mastra_nb.config import redact
from mastra_nb.errors import ModelError, ModelHTTPError, ModelOutputError
from mastra_nb.events import ArgsDelta, Delta, ReasoningDelta, TextDelta
from mastra_nb.http.client import error_message
from mastra_nb.http.sse import ServerEvent
from mastra_nb.messages import Finish, Message, Part, Reasoning, Text, ToolCall, Usage
from mastra_nb.models import Reply
from mastra_nb.providers._base import truncated
from mastra_nb.providers._shared import count, decode, dicts, excerpt, refused, to_json, words
from mastra_nb.providers._vendors import Vendor

_FINISH: dict[str, Finish] = {
    "completed": "stop",
    "complete": "stop",
    "max_output_tokens": "length",
    "max_tokens": "length",
    "content_filter": "content-filter",
}
_STATUS = {
    "rate_limit_exceeded": 429,
    "server_error": 500,
    "context_length_exceeded": 400,
    "invalid_prompt": 400,
}


class ResponsesDecoder:
    """Deltas are what the events bring; the message is read from the final response.

    A server whose final response is without its items gets them from the events that ended them.
    """

    def __init__(self, vendor: Vendor) -> None:
        self.complete = False
        self.done = False
        self._vendor = vendor
        self._items: dict[int, dict[str, Any]] = {}
        self._said: set[tuple[Any, ...]] = set()
        self._calls: dict[int, str] = {}
        self._response: dict[str, Any] | None = None

    def feed(self, event: ServerEvent) -> Sequence[Delta]:
        if event.data[:6] == b"[DONE]":
            self.done = True
            return ()
        value = decode(event.data, self._vendor.name)
        kind = words(value.get("type")) or event.event
        if kind == "error" or (value.get("error") and "response" not in value):
            raise self._error(value, event.data)
        read = _EVENTS.get(kind)
        return read(self, value) if read is not None else ()

    def body(self, data: bytes) -> None:
        """A whole answer that was not streamed."""
        body = decode(data, self._vendor.name)
        if body.get("error"):
            raise self._error(body, data)
        if not isinstance(body.get("output"), list):
            raise ModelOutputError(
                f'"{self._vendor.name}" answered without an output: {excerpt(data)}',
                hint='this API may not have Responses: try OpenAIModel(…, api="chat")',
            )
        self._end({"response": body})

    def finish(self) -> Reply:
        response = self._response
        if response is None:
            raise truncated(self._vendor.name)
        usage = usage_of(response.get("usage"))
        items = dicts(response.get("output")) or [i for _, i in sorted(self._items.items())]
        parts: list[Part] = []
        refusals: list[str] = []
        for item in items:
            self._read(item, parts, refusals)
        finish = _finish_of(response)
        if any(isinstance(part, ToolCall) for part in parts) and finish == "stop":
            finish = "tool-calls"
        spoken = any(isinstance(part, Text | ToolCall) for part in parts)
        refusal = "".join(refusals)
        if not spoken and (refusal or finish == "content-filter"):
            raise refused(self._vendor.name, refusal, usage)
        if refusal:
            parts.append(Text(text=refusal))
            finish = "content-filter"
        return Reply(
            message=Message(role="assistant", parts=tuple(parts)),
            finish=finish,
            usage=usage,
            model=words(response.get("model")),
            raw=response,
        )

    # --- events ----------------------------------------------------------------------------

    def _text(self, value: dict[str, Any]) -> list[Delta]:
        self._said.add(("text", count(value, "output_index"), count(value, "content_index")))
        return [TextDelta(text=text)] if (text := words(value.get("delta"))) else []

    def _whole_text(self, value: dict[str, Any]) -> list[Delta]:
        """Some servers send a text only once it is whole."""
        if ("text", count(value, "output_index"), count(value, "content_index")) in self._said:
            return []
        return self._text({**value, "delta": value.get("text") or value.get("refusal")})

    def _summary(self, value: dict[str, Any]) -> list[Delta]:
        self._said.add(("summary", count(value, "output_index"), count(value, "summary_index")))
        return [ReasoningDelta(text=text)] if (text := words(value.get("delta"))) else []

    def _whole_summary(self, value: dict[str, Any]) -> list[Delta]:
        if ("summary", count(value, "output_index"), count(value, "summary_index")) in self._said:
            return []
        return self._summary({**value, "delta": value.get("text")})

    def _item_added(self, value: dict[str, Any]) -> list[Delta]:
        item = value.get("item")
        if not isinstance(item, dict) or item.get("type") != "function_call":
            return []
        index, id, args = count(value, "output_index"), _call_id(item), _args(item)
        self._calls[index] = id
        if args:
            self._said.add(("args", index))
        return [ArgsDelta(id=id, text=args, name=words(item.get("name")))]

    def _arguments(self, value: dict[str, Any]) -> list[Delta]:
        index, text = count(value, "output_index"), words(value.get("delta"))
        if not text or index not in self._calls:
            return []
        self._said.add(("args", index))
        return [ArgsDelta(id=self._calls[index], text=text)]

    def _item_done(self, value: dict[str, Any]) -> list[Delta]:
        item, index = value.get("item"), count(value, "output_index")
        if not isinstance(item, dict):
            return []
        self._items[index] = item
        if item.get("type") != "function_call":
            return []
        found = [] if index in self._calls else self._item_added(value)
        if ("args", index) not in self._said and (args := _args(item)):
            self._said.add(("args", index))
            found.append(ArgsDelta(id=self._calls[index], text=args))
        return found

    def _end(self, value: dict[str, Any]) -> list[Delta]:
        response = value.get("response")
        self._response = response if isinstance(response, dict) else {}
        self.complete = self.done = True
        return []

    def _failed(self, value: dict[str, Any]) -> list[Delta]:
        response = value.get("response")
        value = response if isinstance(response, dict) else value
        raise self._error(value, to_json.encode(value))

    # --- parts -----------------------------------------------------------------------------

    def _read(self, item: dict[str, Any], parts: list[Part], refusals: list[str]) -> None:
        name, kind = self._vendor.name, item.get("type")
        if kind == "message":
            phase = item.get("phase")
            extra = {name: {"phase": phase}} if phase else None
            for piece in dicts(item.get("content")):
                if piece.get("type") == "refusal":
                    refusals.append(words(piece.get("refusal")))
                elif text := words(piece.get("text")):
                    parts.append(Text(text=text, extra=extra))
        elif kind == "function_call":
            kept = {key: item[key] for key in _CALL_KEYS if item.get(key) is not None}
            parts.append(
                ToolCall(
                    id=_call_id(item),
                    name=words(item.get("name")),
                    args=_args(item) or "{}",
                    extra={name: kept} if kept else None,
                )
            )
        else:
            # What the model thought in full is not for showing: it only goes back.
            summary = item.get("summary") if kind == "reasoning" else None
            text = "".join(words(piece.get("text")) for piece in dicts(summary))
            parts.append(Reasoning(text=text, extra={name: {"item": item}}))

    def _error(self, value: dict[str, Any], data: bytes) -> ModelError:
        error = value.get("error")
        code = error.get("code") if isinstance(error, dict) else value.get("code")
        said = redact(error_message(data)) or excerpt(data)
        usage = usage_of(value.get("usage"))
        details: dict[str, Any] = {"code": code} if isinstance(code, str) else {}
        if usage.total:
            details["usage"] = msgspec.to_builtins(usage)
        return ModelHTTPError(
            f'"{self._vendor.name}" sent an error in its answer: {said}',
            status=_STATUS.get(code, 0) if isinstance(code, str) else 0,
            hint="what arrived is kept; try again",
            code="model.stream_error",
            details=details,
        )


# What a call must keep when it goes back: the namespace a searched tool was found in, its caller.
_CALL_KEYS = ("namespace", "caller")

# Every other event of the API repeats what these bring (created, in_progress, queued, parts added
# and done, arguments done), is the progress of a built-in tool, or is a kind of answer that
# nothing here asks for (audio, partial images, the full text of what the model thinks).
_EVENTS = {
    "response.output_text.delta": ResponsesDecoder._text,
    "response.output_text.done": ResponsesDecoder._whole_text,
    "response.refusal.delta": ResponsesDecoder._text,
    "response.refusal.done": ResponsesDecoder._whole_text,
    "response.reasoning_summary_text.delta": ResponsesDecoder._summary,
    "response.reasoning_summary_text.done": ResponsesDecoder._whole_summary,
    "response.output_item.added": ResponsesDecoder._item_added,
    "response.output_item.done": ResponsesDecoder._item_done,
    "response.function_call_arguments.delta": ResponsesDecoder._arguments,
    "response.completed": ResponsesDecoder._end,
    "response.incomplete": ResponsesDecoder._end,
    "response.cancelled": ResponsesDecoder._end,
    "response.failed": ResponsesDecoder._failed,
}


def _call_id(item: dict[str, Any]) -> str:
    return words(item.get("call_id")) or words(item.get("id"))


def _args(item: dict[str, Any]) -> str:
    args = item.get("arguments")
    return args if isinstance(args, str) else "" if args is None else to_json.encode(args).decode()


def _finish_of(response: dict[str, Any]) -> Finish:
    status = str(response.get("status") or "completed")
    if status == "incomplete":
        details = response.get("incomplete_details")
        status = str(details.get("reason")) if isinstance(details, dict) else ""
    return _FINISH.get(status, "other")


def usage_of(usage: Any) -> Usage:
    if not isinstance(usage, dict):
        return Usage(calls=1)
    inputs, outputs = usage.get("input_tokens_details"), usage.get("output_tokens_details")
    return Usage(
        input=count(usage, "input_tokens"),
        output=count(usage, "output_tokens"),
        cached=count(inputs, "cached_tokens"),
        cache_write=count(inputs, "cache_write_tokens"),
        reasoning=count(outputs, "reasoning_tokens"),
        calls=1,
    )
