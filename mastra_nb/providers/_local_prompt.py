"""What an embedded model is told, and how its choice of a step is read.

The wording and the examples were chosen by trying variants on the 0.5B model over 51 decisions,
21 of them with tools that no variant was made for: see docs/local-model.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from mastra_nb.errors import ModelOutputError
from mastra_nb.messages import Finish, Message, ToolCall, ToolResult, ToolSpec
from mastra_nb.models import ModelRequest

_ANSWER = "answer"
_RULE = (
    "You choose the next step that helps to answer a question. "
    'Reply with one JSON object: the tool and its arguments, or "answer".'
)
_NO_TOOL = (
    "- answer: no tool is needed, or the results are enough (greetings, thanks, general knowledge, "
    "jokes, explanations, writing text or code)"
)
_USE_RESULTS = (
    "Answer the question in one or two sentences using the tool results, in the user's language."
)

Step = tuple[ToolCall, str]
"""A tool call and its result as text."""


def _ask(question: str, done: Sequence[tuple[str, str, str]]) -> str:
    if not done:
        return f"Question: {question}\nNext step as JSON:"
    lines = "".join(f"{name} {args} -> {result}\n" for name, args, result in done)
    return (
        f"Question: {question}\nDone so far:\n{lines}"
        'Next step as JSON, or {"tool": "answer"} if the results are enough:'
    )


def _tool_list(tools: Sequence[ToolSpec]) -> str:
    lines = [
        f"- {t.name}: {t.description} args: {json.dumps(_properties(t), ensure_ascii=False)}"
        for t in tools
    ]
    return "\n".join(["Tools:", *lines, _NO_TOOL])


def _properties(tool: ToolSpec) -> dict[str, Any]:
    shown: dict[str, Any] = tool.parameters.get("properties", {})
    return {
        name: {k: v for k, v in p.items() if k != "title"} if isinstance(p, dict) else p
        for name, p in shown.items()
    }


def _examples() -> list[dict[str, str]]:
    def tool(name: str, description: str, **properties: Any) -> ToolSpec:
        parameters = {"type": "object", "properties": properties, "required": list(properties)}
        return ToolSpec(name=name, description=description, parameters=parameters)

    def call(name: str, **args: Any) -> str:
        return json.dumps({"tool": name, "args": args})

    answer = json.dumps({"tool": _ANSWER})
    rome = ("find_flight", '{"to": "Rome"}', '{"price": 80}')
    madrid = ("find_flight", '{"to": "Madrid"}', '{"price": 95}')
    times = ("multiply", '{"a": 80, "b": 3}', "240")
    afford = "Can I get to Rome with 100 dollars?"
    cheaper = "Is it cheaper to fly to Rome or to Madrid?"
    three = "What do three tickets to Rome cost?"
    turns = [
        (_ask("Put on something by Bach.", []), call("play_music", genre="classical")),
        (_ask("Who painted the Mona Lisa?", []), answer),
        (_ask(afford, []), call("find_flight", to="Rome")),
        (_ask(afford, [rome]), answer),
        (_ask(cheaper, []), call("find_flight", to="Rome")),
        (_ask(cheaper, [rome]), call("find_flight", to="Madrid")),
        (_ask(cheaper, [rome, madrid]), answer),
        (_ask("Good evening!", []), answer),
        (_ask(three, []), call("find_flight", to="Rome")),
        (_ask(three, [rome]), call("multiply", a=80, b=3)),
        (_ask(three, [rome, times]), answer),
        (_ask("Write a poem about the moon.", []), answer),
    ]
    number = {"type": "number"}
    genres = {"type": "string", "enum": ["jazz", "rock", "classical"]}
    tools = [
        tool("find_flight", "Find the cheapest flight to a city.", to={"type": "string"}),
        tool("play_music", "Play music of one kind.", genre=genres),
        tool("multiply", "Multiply two numbers.", a=number, b=number),
    ]
    messages = [_said("system", _RULE)]
    for asked, chosen in turns:
        messages += [_said("user", asked), _said("assistant", chosen)]
    messages[1]["content"] = f"{_tool_list(tools)}\n\n{messages[1]['content']}"
    return messages


def _said(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def _instructions(request: ModelRequest) -> str:
    return "\n\n".join(m.text for m in request.messages if m.role == "system" and m.text)


def _turn(request: ModelRequest) -> tuple[list[Message], str, list[Step]]:
    """Earlier turns, the question of this one, and the tool calls made for it so far."""
    talk = [m for m in request.messages if m.role != "system"]
    at = max((i for i, m in enumerate(talk) if m.role == "user"), default=-1)
    results = {p.id: p for m in talk[at + 1 :] for p in m.parts if isinstance(p, ToolResult)}
    steps = [
        (call, _shown(results[call.id]))
        for m in talk[at + 1 :]
        for call in m.tool_calls
        if call.id in results
    ]
    return talk[: max(at, 0)], talk[at].text if at >= 0 else "", steps


def _shown(result: ToolResult) -> str:
    out = result.output
    text = out if isinstance(out, str) else json.dumps(out, ensure_ascii=False)
    return f"error: {text}" if result.is_error else text


def _clip(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def decide_prompt(
    request: ModelRequest, today: str
) -> tuple[list[dict[str, str]], tuple[int, ...]]:
    """Messages that make the model name its next step, and the cuts to keep of them.

    What changes least comes first: examples, then tools, then the question.
    """
    earlier, question, steps = _turn(request)
    messages = _examples()
    examples = len(messages)
    tools = _tool_list(_offered(request))
    messages += [
        _said("user", f"New tools. Today is {today}.\n{tools}"),
        _said("assistant", "OK"),
    ]
    cuts = (examples, len(messages))
    done = [(c.name, c.args, _clip(result, 600)) for c, result in steps]
    before = "".join(
        f"{'User' if m.role == 'user' else 'Assistant'}: {_clip(m.text, 200)}\n"
        for m in earlier[-6:]
        if m.role in ("user", "assistant") and m.text
    )
    asked = _ask(question, done)
    messages.append(_said("user", f"Conversation so far:\n{before}\n{asked}" if before else asked))
    return messages, cuts


def answer_prompt(request: ModelRequest) -> tuple[list[dict[str, str]], tuple[int, ...]]:
    """An ordinary conversation; after tool calls, the question with their results."""
    earlier, question, steps = _turn(request)
    system = _instructions(request)
    if steps:
        system = f"{system}\n\n{_USE_RESULTS}" if system else _USE_RESULTS
    if request.output is not None:
        schema = json.dumps(request.output, ensure_ascii=False)
        system = f"{system}\n\nReply with JSON that fits this schema: {schema}".strip()
    messages = [_said("system", system)] if system else []
    talk = earlier if steps else [m for m in request.messages if m.role != "system"]
    messages += [_said(m.role, m.text) for m in talk if m.role in ("user", "assistant") and m.text]
    if steps:
        results = "".join(f"Tool result ({c.name} {c.args}): {text}\n" for c, text in steps)
        messages.append(_said("user", f"Question: {question}\n{results}Answer:"))
    return messages, tuple(range(1, len(messages)))


# --- the constrained choice -----------------------------------------------------------------


def _offered(request: ModelRequest) -> tuple[ToolSpec, ...]:
    named = tuple(t for t in request.tools if t.name == request.tool_choice)
    return named or request.tools


def decide_schema(request: ModelRequest) -> dict[str, Any]:
    """One branch for each tool that may be called, and one for an answer if that is allowed."""
    shared: dict[str, Any] = {}
    branches: list[dict[str, Any]] = [
        {
            "type": "object",
            "properties": {"tool": {"const": t.name}, "args": _lifted(t, shared)},
            "required": ["tool", "args"],
            "additionalProperties": False,
        }
        for t in _offered(request)
    ]
    if request.tool_choice == "auto":
        branches.append(
            {
                "type": "object",
                "properties": {"tool": {"const": _ANSWER}},
                "required": ["tool"],
                "additionalProperties": False,
            }
        )
    return {"oneOf": branches, "$defs": shared} if shared else {"oneOf": branches}


def _lifted(tool: ToolSpec, shared: dict[str, Any]) -> dict[str, Any]:
    """The tool's schema with its `$defs` moved to `shared`, where references can find them."""

    def moved(value: Any) -> Any:
        if isinstance(value, list):
            return [moved(v) for v in value]
        if not isinstance(value, dict):
            return value
        out = {k: moved(v) for k, v in value.items() if k != "$defs"}
        ref = out.get("$ref")
        if isinstance(ref, str) and ref.startswith("#/$defs/"):
            out["$ref"] = f"#/$defs/{tool.name}.{ref.removeprefix('#/$defs/')}"
        return out

    for name, schema in tool.parameters.get("$defs", {}).items():
        shared[f"{tool.name}.{name}"] = moved(schema)
    arguments: dict[str, Any] = moved(tool.parameters)
    # Without a type the engine would take any JSON value for the arguments.
    return {"type": "object", **arguments}


_CUT_OFF = re.compile(r'\s*\{\s*"tool"\s*:\s*"([^"]*)"\s*,\s*"args"\s*:\s*(.*)', re.DOTALL)


def read_decision(answer: str, request: ModelRequest) -> tuple[ToolCall | None, Finish]:
    """The chosen call, or None for an answer. Raises ModelOutputError.

    The very call that was made before in this turn means that the model has what it wants.
    Arguments that were cut off at the token limit are handed on as they are.
    """
    finish: Finish = "tool-calls"
    try:
        chosen = json.loads(answer)
        args = json.dumps(chosen["args"], ensure_ascii=False) if "args" in chosen else None
        name = chosen["tool"]
    except (ValueError, KeyError, TypeError):
        match = _CUT_OFF.match(answer)
        if match is None:
            raise ModelOutputError(
                "the embedded model did not name a next step",
                hint="Ask more plainly, or raise max_tokens.",
            ) from None
        name, args, finish = match[1], match[2], "length"
    if args is None:
        return None, "stop"
    _, _, steps = _turn(request)
    repeated = any(c.name == name and _same_json(c.args, args) for c, _ in steps)
    if repeated and request.tool_choice == "auto":
        return None, "stop"
    used = {c.id for m in request.messages for c in m.tool_calls}
    n = len(used) + 1
    while f"call_{n}" in used:
        n += 1
    return ToolCall(id=f"call_{n}", name=name, args=args), finish


def _same_json(a: str, b: str) -> bool:
    try:
        return bool(json.loads(a) == json.loads(b))
    except ValueError:
        return a == b
