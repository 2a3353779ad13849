"""From our events to Mastra's chunks: the one encoder.

`RunWire` is fed the events of a run in order and gives chunks; what it has gathered is also the
source of the results that are no streams, so that both say the same. A log without deltas (one that
was stored) gives the same chunks with each text in one piece.

The names are those of @mastra/core 1.71.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from mastra_nb.events import (
    ArgsDelta,
    Custom,
    Displayed,
    ErrorInfo,
    Event,
    MessageAdded,
    Payload,
    ReasoningDelta,
    Resumed,
    SpanEnded,
    SpanStarted,
    Suspended,
    TextDelta,
)
from mastra_nb.messages import Message, ToolCall, ToolResult, Usage
from mastra_nb.past import BAIL, FORK, GRAPH, LIMITS, REQUEST_CONTEXT
from mastra_nb.server._model_step import ModelStep
from mastra_nb.server._turns import answer_id, arguments, core_messages, iso
from mastra_nb.server._words import Json, error_info, ms, text_of, tool_error, usage_of

Emit = Callable[[Json], None]

# Reasons of a Suspended that are about a call of a tool.
APPROVAL, CLIENT_TOOL = "approval", "client-tool"
_OURS = {BAIL, FORK, GRAPH, LIMITS, REQUEST_CONTEXT}
_PLACE = re.compile(r"\[(\d+)\.(\d+)\]$")
# Spans of an agent that are calls of its tools, whatever they are made of.
_TOOLS = ("tool", "agent", "workflow")


class Speaker(Protocol):
    """Who says what happens in a span, and in those below it that it does not give to another."""

    def feed(self, event: Event) -> None: ...

    def child(self, event: Event, data: SpanStarted) -> Speaker | None:
        """Who speaks for a span that begins in its own; None for itself."""
        ...


class RunWire:
    """`agent` and `workflow` make the speaker of the root and of what it calls."""

    def __init__(self, run: str, workflow: Callable[..., Speaker]) -> None:
        self.run = run
        self.root: Any = None
        self._workflow = workflow
        # How many chunks were said, and before which of them the first text came in one piece.
        self.said = 0
        self.joined: int | None = None
        self._speakers: dict[str, Speaker] = {}
        self._out: list[Json] = []

    def feed(self, event: Event) -> list[Json]:
        data = event.data
        speaker = self._speakers.get(event.span)
        if speaker is None and isinstance(data, SpanStarted):
            speaker = self._begun(event, data)
        if speaker is not None:
            speaker.feed(event)
        return self._taken()

    def _taken(self) -> list[Json]:
        out, self._out = self._out, []
        self.said += len(out)
        return out

    def join(self) -> None:
        """What is said next has come in pieces to whoever read it as it was said."""
        if self.joined is None:
            self.joined = self.said + len(self._out)

    def skip(self, events: Iterable[Event]) -> RunWire:
        """Know of these events without saying them."""
        for event in events:
            self.feed(event)
        return self

    def again(self) -> list[Json]:
        """What is said when a run goes on after what was skipped: of tools of the client nothing
        but that it goes on, as the client knows what they gave.
        """
        if isinstance(self.root, AgentWire):
            self.root.again()
        out, self._out = self._out[-1:], []
        return out

    def _begun(self, event: Event, data: SpanStarted) -> Speaker | None:
        above = self._speakers.get(event.parent or "")
        if above is not None:
            made = above.child(event, data) or above
        elif self.root is None:
            made = self.root = self.speaker(data.kind, data.name, event.span, self._out_of)
        else:
            return None
        self._speakers[event.span] = made
        return made

    def _out_of(self, chunk: Json) -> None:
        self._out.append(chunk)

    def speaker(self, kind: str, name: str, path: str, emit: Emit) -> Speaker:
        if kind == "agent":
            return AgentWire(self, name, path, emit)
        return self._workflow(self, name, path, emit)

    def rest(self, failure: BaseException | None, kind: str, name: str) -> list[Json]:
        """What is said when a run rests and no event of its own tells of it: it waits, or it ended
        before it began.
        """
        if self.root is None and failure is not None:
            self.root = self.speaker(kind, name, "", self._out_of)
            self.root.fail(error_info(failure))
        elif self.root is not None:
            self.root.rest()
        return self._taken()


class AgentWire:
    """What an agent says. `steps` and what else has no underscore is what it has said so far."""

    def __init__(self, wire: RunWire, name: str, path: str, emit: Emit) -> None:
        self.name = name
        self.path = path
        self.steps: list[Json] = []
        self.tool_calls: list[Json] = []
        self.tool_results: list[Json] = []
        self.pending: dict[str, Json] = {}
        self.usage = Usage()
        self.text = ""
        self.reasoning = ""
        self.finish = ""
        self.error: ErrorInfo | None = None
        self.output: Any = None
        self.messages: list[Message] = []
        self.files: list[Json] = []
        self.model = ""
        self.began = 0.0
        self.ended = 0.0
        self.run = wire.run
        self._wire = wire
        self._emit = emit
        self._step: ModelStep | None = None
        # Of a span that is a call: its call.
        self._calls: dict[str, ToolCall] = {}
        self._asked: tuple[ToolCall, ...] = ()
        self._denied: set[str] = set()
        # Calls of the client's own tools, and those of them whose results it has told itself.
        self._client: set[str] = set()
        self._known: set[str] = set()

    @property
    def message_id(self) -> str:
        """That of the turn's answer, as the thread's list of messages has it."""
        return answer_id(self.run, sum(m.role == "user" for m in self.messages))

    def say(self, type: str, payload: Json, *, source: str = "AGENT", **more: Any) -> None:
        self._emit({"type": type, "runId": self.run, "from": source, "payload": payload} | more)

    # Spans

    def child(self, event: Event, data: SpanStarted) -> Speaker | None:
        if data.kind not in ("agent", "workflow"):
            return None
        call = self._call_of(event.span)
        if call is None:
            return None

        def inside(chunk: Json) -> None:
            at = {"toolCallId": call.id, "toolName": call.name}
            self.say("tool-output", {"output": chunk, **at}, source="USER")

        inner = self._wire.speaker(data.kind, data.name, event.span, inside)
        return _Called(self, inner)

    def feed(self, event: Event) -> None:
        data = event.data
        if isinstance(data, TextDelta | ReasoningDelta | ArgsDelta):
            if self._step is not None and event.span == self._step.span:
                self._step.delta(data)
        else:
            self._durable(event, data)

    def _durable(self, event: Event, data: Payload) -> None:
        match data:
            case SpanStarted():
                self._started(event, data)
            case SpanEnded():
                self._ended(event, data)
            case MessageAdded():
                self._added(event, data.message)
            case Suspended():
                self._waits(event, data)
            case Resumed():
                self._resumed(data)
            case Custom() if data.name not in _OURS:
                self._data(data.name, data.value)
            case Displayed():
                self._data("display", data.bundle)

    def _data(self, name: str, value: Any) -> None:
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", name)
        self._emit({"type": f"data-{name}", "runId": self.run, "data": value})

    def _started(self, event: Event, data: SpanStarted) -> None:
        if event.span == self.path:
            if not self.began:
                self.began = event.at
                self._start()
        elif data.kind == "model":
            if self._step is not None and self._step.span == event.span:
                self._step.again()
                return
            self._end_step()
            self._step = ModelStep(self, event)
            self.model = data.name
            self.say(
                "step-start",
                {
                    "request": {},
                    "warnings": [],
                    "messageId": self.message_id,
                    "startedAt": ms(event.at),
                },
            )
        elif data.kind in _TOOLS and (call := self._call_of(event.span)) is not None:
            self._calls[event.span] = call

    def _start(self) -> None:
        self.say("start", {"id": self.name, "messageId": self.message_id})

    def again(self) -> None:
        """It is read from here on by a client that answers calls of its own tools."""
        if any(p["reason"] == CLIENT_TOOL for p in self.pending.values()):
            self._known |= self._client
            self._end_step()
            self._start()

    def _call_of(self, span: str) -> ToolCall | None:
        if span in self._calls:
            return self._calls[span]
        found = _PLACE.search(span)
        n = int(found.group(2)) if found else -1
        return self._asked[n] if 0 <= n < len(self._asked) else None

    def _ended(self, event: Event, data: SpanEnded) -> None:
        if event.span == self.path:
            self._over(event, data)
        elif self._step is not None and event.span == self._step.span:
            self._step.ended(data)
            if data.usage is not None:
                self.usage += data.usage
            if data.status == "ok" and not self._asked:
                self._end_step()
        elif (call := self._calls.get(event.span)) is not None:
            self.called(call, data)
        elif data.usage is not None:
            self.usage += data.usage

    def called(self, call: ToolCall, data: SpanEnded) -> None:
        """A tool's call has ended."""
        at = {"toolCallId": call.id, "toolName": call.name, "args": arguments(call)}
        if data.status == "ok":
            payload = {**at, "result": data.output}
            self.tool_results.append(self._part("tool-result", payload))
            if call.id not in self._known:
                self.say("tool-result", payload)
        elif data.error is not None and data.error.code == "tool.denied":
            self._denied.add(call.id)
            reason = data.error.message
            refused = {"id": call.id, "approved": False, "reason": reason}
            self.say("tool-output-denied", {**at, "approval": refused})
        elif data.error is not None:
            self.say("tool-error", {"error": tool_error(data.error), **at})

    def join(self) -> None:
        self._wire.join()

    def _part(self, type: str, payload: Json) -> Json:
        return {"type": type, "runId": self.run, "from": "AGENT", "payload": payload}

    # What is said

    def _added(self, event: Event, message: Message) -> None:
        self.messages.append(message)
        if self._step is not None and event.span == self._step.span:
            self._asked = message.tool_calls
            self._step.said(message)
        elif message.role == "tool" and event.span == self.path:
            known = {r["payload"]["toolCallId"] for r in self.tool_results} | self._denied
            for part in message.parts:
                if isinstance(part, ToolResult) and part.id not in known:
                    self._told(part)
            self._asked = ()
            self._end_step()

    def _told(self, result: ToolResult) -> None:
        """A result that no call gave: of one that was refused before it was made."""
        call = next((c for c in self._asked if c.id == result.id), None)
        args = {} if call is None else arguments(call)
        payload = {"toolCallId": result.id, "toolName": result.name, "args": args}
        payload |= {"result": result.output} | ({"isError": True} if result.is_error else {})
        self.tool_results.append(self._part("tool-result", payload))
        if not result.is_error:
            self.say("tool-result", payload)

    def add_call(self, call: ToolCall) -> None:
        payload = {"toolCallId": call.id, "toolName": call.name, "args": arguments(call)}
        self.tool_calls.append(self._part("tool-call", payload))
        self.say("tool-call", payload)

    def _waits(self, event: Event, data: Suspended) -> None:
        call = self._call_of(event.span) or self._call_of(data.path.partition("~")[0])
        payload: Json = {"resumeSchema": text_of(data.schema or {})}
        if call is not None:
            payload |= {"toolCallId": call.id, "toolName": call.name, "args": arguments(call)}
        again = data.path in self.pending
        self.pending[data.path] = payload | {"reason": data.reason, "suspendPayload": data.payload}
        if data.reason == CLIENT_TOOL:
            self.finish = "tool-calls"
            self._client.add(str(payload.get("toolCallId")))
            return
        self.finish = "suspended"
        if again:
            return
        if data.reason == APPROVAL:
            self.say("tool-call-approval", payload)
        else:
            self.say("tool-call-suspended", payload | {"suspendPayload": data.payload})

    def _resumed(self, data: Resumed) -> None:
        self.pending.pop(data.path, None)
        self.finish = ""

    # Its end

    def rest(self) -> None:
        """It waits: for a person, or for tools of the client, whose step is then over."""
        if self.pending and self.finish == "tool-calls":
            self._end_step()
            self.say("finish", self._finish("tool-calls"))

    def _end_step(self, reason: str = "") -> None:
        step, self._step = self._step, None
        if step is None:
            return
        step.close()
        reason = reason or step.finish or ("tool-calls" if self._asked else "stop")
        self.steps.append(step.result(reason, "tool-result" if self.steps else "initial"))
        self.say(
            "step-finish",
            {
                "id": self.run,
                "messageId": self.message_id,
                "stepResult": {
                    "reason": reason,
                    "warnings": [],
                    "isContinued": reason == "tool-calls",
                },
                "metadata": step.about(),
                "output": {
                    "text": step.text,
                    "toolCalls": step.calls,
                    "usage": usage_of(step.usage),
                    "steps": [],
                },
                "messages": {"all": [], "user": [], "nonUser": []},
                "processorRetryCount": 0,
            },
        )

    def _over(self, event: Event, data: SpanEnded) -> None:
        self.ended, self.pending = event.at, {}
        if data.status == "cancelled":
            self.finish = "abort"
            self._end_step("other")
            self.say("abort", {})
            self.say("finish", self._finish("other"))
        elif data.error is not None:
            self.fail(data.error)
        else:
            self.output = data.output
            reason = self._step.finish if self._step is not None else ""
            self.finish = reason or self._last_reason()
            self._end_step()
            if not isinstance(data.output, str | None):
                run = {"runId": self.run, "from": "AGENT"}
                self._emit({"type": "object-result", **run, "object": data.output})
            self.say("finish", self._finish(self.finish))

    def _last_reason(self) -> str:
        """Of its last step; one whose tools were the client's, and are done, asks for no more."""
        last: Json = self.steps[-1] if self.steps else {"finishReason": "stop", "toolCalls": []}
        ids = {c["payload"]["toolCallId"] for c in last["toolCalls"]}
        return "stop" if ids & self._client else str(last["finishReason"])

    def fail(self, error: ErrorInfo) -> None:
        self.error = error
        if error.code == "run.blocked":
            self.finish = "other"
            self._step = None
            self.say("tripwire", {"reason": error.message, "retry": False, "processorId": ""})
            self.say("finish", self._finish("other"))
            return
        self.finish = "error"
        self.say("error", {"error": {"message": error.message, "name": error.code}})
        self._end_step("error")
        self.say("finish", self._finish("error"))

    def _finish(self, reason: str) -> Json:
        said = self.steps[-1] if self.steps else {}
        output = {"text": self.text, "usage": usage_of(self.usage), "steps": self.steps}
        if not isinstance(self.output, str | None):
            output["object"] = self.output
        about = self.about()
        return {
            "messageId": self.message_id,
            "stepResult": {"reason": reason, "warnings": [], "isContinued": False},
            "metadata": about,
            "output": output | {"toolCalls": said.get("toolCalls", [])},
            "usage": usage_of(self.usage),
            "response": {**about, "messages": self.core(), "uiMessages": []},
            "messages": {"all": [], "user": [], "nonUser": []},
        }

    def core(self) -> list[Json]:
        """What was answered, as the AI SDK's model messages."""
        return core_messages([m for m in self.messages if m.role != "user"])

    def about(self) -> Json:
        at = self.ended or self.began
        return {"id": self.run, "timestamp": iso(at), "modelId": self.model}


class _Called:
    """What an agent's tool says that is an agent or a workflow; the call's end is the outer's."""

    def __init__(self, outer: AgentWire, inner: Any) -> None:
        self._outer = outer
        self._inner = inner

    def child(self, event: Event, data: SpanStarted) -> Speaker | None:
        found: Speaker | None = self._inner.child(event, data)
        return found or (self._inner if event.span != self._inner.path else None)

    def feed(self, event: Event) -> None:
        if event.span != self._inner.path:
            self._inner.feed(event)
            return
        if isinstance(event.data, SpanEnded):
            self._inner.feed(event)
            self._outer.usage += self._inner.usage
        elif isinstance(event.data, SpanStarted):
            self._outer.feed(event)
            self._inner.feed(event)
            return
        elif not isinstance(event.data, Suspended | Resumed):
            self._inner.feed(event)
            return
        self._outer.feed(event)
