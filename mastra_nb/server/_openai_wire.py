"""An agent's answer in the words of OpenAI's two APIs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from mastra_nb.messages import Usage
from mastra_nb.server._words import Json
from mastra_nb.server.wire import CLIENT_TOOL, AgentWire

_FINISH = {"tool-calls": "tool_calls", "length": "length", "content-filter": "content_filter"}


def finish_of(reason: str) -> str:
    return _FINISH.get(reason, "stop")


def asked_calls(said: AgentWire) -> list[Json]:
    """Calls of the client's tools that wait: [{"id", "name", "args"}]."""
    waits = {p.get("toolCallId") for p in said.pending.values() if p["reason"] == CLIENT_TOOL}
    return [
        {
            "id": call["payload"]["toolCallId"],
            "name": call["payload"]["toolName"],
            "args": msgspec.json.encode(call["payload"]["args"]).decode(),
        }
        for call in said.tool_calls
        if call["payload"]["toolCallId"] in waits
    ]


# Chat completions


def chat_usage(usage: Usage) -> Json:
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.total,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }


def completion(run: str, model: str, created: int, said: AgentWire) -> Json:
    calls = asked_calls(said)
    message: Json = {"role": "assistant", "content": said.text or None, "refusal": None}
    if calls:
        message["tool_calls"] = [_chat_call(n, c) for n, c in enumerate(calls)]
        for each in message["tool_calls"]:
            del each["index"]
    reason = "tool_calls" if calls else finish_of(said.finish)
    return {
        "id": run,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": reason, "logprobs": None}],
        "usage": chat_usage(said.usage),
    }


def _chat_call(n: int, call: Json) -> Json:
    function = {"name": call["name"], "arguments": call["args"]}
    return {"index": n, "id": call["id"], "type": "function", "function": function}


class ChatStream:
    """Mastra's chunks as chat.completion.chunk objects; tools of the agent stay inside."""

    def __init__(self, run: str, model: str, created: int, *, usage: bool) -> None:
        self._about = {"id": run, "object": "chat.completion.chunk", "created": created}
        self._about["model"] = model
        self._usage = usage

    def _chunk(self, delta: Json, finish: str | None = None) -> Json:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return self._about | {"choices": [choice]}

    def first(self) -> Json:
        return self._chunk({"role": "assistant", "content": ""})

    def of(self, chunk: Json) -> Iterator[Json]:
        if chunk["type"] == "text-delta":
            yield self._chunk({"content": chunk["payload"]["text"]})

    def last(self, said: AgentWire) -> Iterator[Json]:
        calls = asked_calls(said)
        if calls:
            yield self._chunk({"tool_calls": [_chat_call(n, c) for n, c in enumerate(calls)]})
        yield self._chunk({}, "tool_calls" if calls else finish_of(said.finish))
        if self._usage:
            yield self._about | {"choices": [], "usage": chat_usage(said.usage)}


# Responses


def response_usage(usage: Usage) -> Json:
    return {
        "input_tokens": usage.input,
        "input_tokens_details": {"cached_tokens": usage.cached},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.total,
    }


def response(about: Json, said: AgentWire | None, *, at: int | None = None) -> Json:
    """`about` is what was asked; without `said` it is on its way."""
    calls = [] if said is None else asked_calls(said)
    output: list[Json] = []
    if said is not None and (said.text or not calls):
        output.append(_message(about["id"], said.text, "completed"))
    output += [_function_call(call) for call in calls]
    return {
        "object": "response",
        "completed_at": at,
        "status": "in_progress" if said is None else "completed",
        "output": output,
        "usage": None if said is None else response_usage(said.usage),
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "temperature": None,
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        **about,
    }


def _message(id: str, text: str, status: str) -> Json:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    about = {"id": f"msg_{id}", "type": "message", "role": "assistant", "status": status}
    return about | {"content": content if status == "completed" else []}


def _function_call(call: Json) -> Json:
    return {
        "id": f"fc_{call['id']}",
        "type": "function_call",
        "call_id": call["id"],
        "name": call["name"],
        "arguments": call["args"],
        "status": "completed",
    }


class ResponseStream:
    """Mastra's chunks as the events of a response."""

    def __init__(self, about: Json) -> None:
        self._about = about
        self._number = -1
        self._text: list[str] = []
        self._open = False
        self._outputs = 0

    def _event(self, type: str, **more: Any) -> Json:
        self._number += 1
        return {"type": type, "sequence_number": self._number, **more}

    def first(self) -> Iterator[Json]:
        begun = response(self._about, None)
        yield self._event("response.created", response=begun)
        yield self._event("response.in_progress", response=begun)

    @property
    def _place(self) -> Json:
        return {"item_id": f"msg_{self._about['id']}", "output_index": 0, "content_index": 0}

    def of(self, chunk: Json) -> Iterator[Json]:
        if chunk["type"] != "text-delta":
            return
        if not self._open:
            self._open, self._outputs = True, 1
            item = _message(self._about["id"], "", "in_progress")
            yield self._event("response.output_item.added", output_index=0, item=item)
            part = {"type": "output_text", "text": "", "annotations": []}
            yield self._event("response.content_part.added", **self._place, part=part)
        text = chunk["payload"]["text"]
        self._text.append(text)
        yield self._event("response.output_text.delta", **self._place, delta=text, logprobs=[])

    def last(self, said: AgentWire, at: int) -> Iterator[Json]:
        if self._open:
            text = "".join(self._text)
            part = {"type": "output_text", "text": text, "annotations": []}
            yield self._event("response.output_text.done", **self._place, text=text, logprobs=[])
            yield self._event("response.content_part.done", **self._place, part=part)
            item = _message(self._about["id"], text, "completed")
            yield self._event("response.output_item.done", output_index=0, item=item)
        for call in asked_calls(said):
            item, index = _function_call(call), self._outputs
            self._outputs += 1
            yield self._event("response.output_item.added", output_index=index, item=item)
            yield self._event(
                "response.function_call_arguments.done",
                item_id=item["id"],
                output_index=index,
                name=item["name"],
                arguments=item["arguments"],
            )
            yield self._event("response.output_item.done", output_index=index, item=item)
        done = response(self._about, said, at=at)
        yield self._event("response.completed", response=done)

    def failed(self, message: str, code: str) -> Json:
        error = {"code": code, "message": message}
        whole = response(self._about, None) | {"status": "failed", "error": error}
        return self._event("response.failed", response=whole)
