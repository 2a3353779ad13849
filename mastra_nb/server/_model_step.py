"""What an agent's model says in one call."""

from __future__ import annotations

from typing import Any, Protocol

from mastra_nb.events import ArgsDelta, Event, ReasoningDelta, SpanEnded, TextDelta
from mastra_nb.messages import Media, Message, Reasoning, Text, ToolCall, Usage
from mastra_nb.server._turns import data_url, iso
from mastra_nb.server._words import Json, finish_of, usage_of


class Teller(Protocol):
    """The agent whose call it is."""

    run: str
    model: str
    text: str
    reasoning: str
    tool_calls: list[Json]
    tool_results: list[Json]
    files: list[Json]

    def say(self, type: str, payload: Json, **more: Any) -> None: ...

    def add_call(self, call: ToolCall) -> None: ...

    def join(self) -> None: ...


class ModelStep:
    """One call of the model."""

    def __init__(self, agent: Teller, event: Event) -> None:
        self.agent = agent
        self.span = event.span
        self.at = event.at
        self.text = ""
        self.reasoning = ""
        self.finish = ""
        self.usage = Usage()
        self.calls: list[Json] = []
        self.files: list[Json] = []
        self.model = ""
        self._open = ""
        self._parts = 0
        self._pieces: list[str] = []
        self._streamed = {"text": False, "reasoning": False}
        self._typing: set[str] = set()

    def again(self) -> None:
        """It is asked anew: what was cut off is not taken back, readers have seen it."""
        self.close()
        self._streamed = {"text": False, "reasoning": False}

    @property
    def _id(self) -> str:
        return f"{self._open}-{self._parts}"

    def _begin(self, what: str) -> None:
        if self._open != what:
            self.close()
            self._open, self._parts = what, self._parts + 1
            self.agent.say(f"{what}-start", {"id": self._id})

    def close(self) -> None:
        if self._open:
            more = {"type": "text-end"} if self._open == "text" else {}
            self.agent.say(f"{self._open}-end", {"id": self._id} | more)
            self._open = ""

    def delta(self, data: TextDelta | ReasoningDelta | ArgsDelta) -> None:
        if isinstance(data, ArgsDelta):
            self.close()
            if data.id not in self._typing:
                self._typing.add(data.id)
                about = {"toolCallId": data.id, "toolName": data.name}
                self.agent.say("tool-call-input-streaming-start", about)
            if data.text:
                self.agent.say(
                    "tool-call-delta", {"argsTextDelta": data.text, "toolCallId": data.id}
                )
            return
        what = "text" if isinstance(data, TextDelta) else "reasoning"
        self._begin(what)
        self._streamed[what] = True
        self.agent.say(f"{what}-delta", {"id": self._id, "text": data.text})

    def said(self, message: Message) -> None:
        agent = self.agent
        for part in message.parts:
            match part:
                case Text() | Reasoning():
                    what = "text" if isinstance(part, Text) else "reasoning"
                    if not self._streamed[what] and part.text:
                        self._begin(what)
                        agent.join()
                        agent.say(f"{what}-delta", {"id": self._id, "text": part.text})
                    if what == "text":
                        self.text += part.text
                    else:
                        self.reasoning += part.text
                case Media():
                    self.close()
                    self.files.append({"data": data_url(part), "mimeType": part.mime})
                    agent.say("file", self.files[-1])
                case _:
                    pass
        self.close()
        for call in message.tool_calls:
            if call.id not in self._typing:
                about = {"toolCallId": call.id, "toolName": call.name}
                agent.say("tool-call-input-streaming-start", about)
                agent.join()
                agent.say("tool-call-delta", {"argsTextDelta": call.args, "toolCallId": call.id})
            agent.say("tool-call-input-streaming-end", {"toolCallId": call.id})
            agent.add_call(call)
            self.calls.append(agent.tool_calls[-1])
        agent.text, agent.reasoning = self.text, self.reasoning
        agent.files += self.files

    def ended(self, data: SpanEnded) -> None:
        self.close()
        output = data.output if isinstance(data.output, dict) else {}
        self.finish = finish_of(output.get("finish"))
        self.model = str(output.get("model") or self.agent.model)
        self.usage = data.usage or Usage()

    def about(self) -> Json:
        model = self.model or self.agent.model
        return {"id": self.agent.run, "timestamp": iso(self.at), "modelId": model}

    def result(self, reason: str, type: str) -> Json:
        ids = {c["payload"]["toolCallId"] for c in self.calls}
        results = [r for r in self.agent.tool_results if r["payload"]["toolCallId"] in ids]
        thought = [{"type": "text", "text": self.reasoning}] if self.reasoning else []
        about = {**self.about(), "messages": [], "dbMessages": [], "uiMessages": []}
        return {
            "stepType": type,
            "text": self.text,
            "toolCalls": self.calls,
            "toolResults": results,
            "content": [{"type": "text", "text": self.text}] if self.text else [],
            "reasoning": thought,
            "reasoningText": self.reasoning,
            "sources": [],
            "files": self.files,
            "finishReason": reason,
            "usage": usage_of(self.usage),
            "warnings": [],
            "request": {},
            "response": about,
        }
