from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from typing import Any

import pytest
from markdown_it import MarkdownIt
from nbconvert.filters import markdown2html

import mastra_nb
from mastra_nb import Agent, views
from mastra_nb.events import (
    ArgsDelta,
    Custom,
    Displayed,
    ErrorInfo,
    Event,
    MessageAdded,
    Noted,
    Payload,
    ReasoningDelta,
    Resumed,
    Scored,
    SpanEnded,
    SpanStarted,
    Suspended,
    TextDelta,
    View,
    fold,
)
from mastra_nb.messages import (
    Message,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    ToolSpec,
    Usage,
    user,
)
from mastra_nb.testing import ScriptedModel
from mastra_nb.testing import calls as tool_call
from tests.hostile import PAYLOADS, active
from tests.unit.test_graphs import inert

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5E"
_html = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


class Log:
    """Writes a run's events as the loop does."""

    def __init__(self, run: str = "r_1", at: float = 1000.0) -> None:
        self.run, self.at, self.events = run, at, list[Event]()

    def emit(self, span: str, data: Payload, parent: str | None = None, after: float = 0.0) -> None:
        self.at += after
        durable = not isinstance(data, TextDelta | ReasoningDelta | ArgsDelta)
        seq = sum(e.durable for e in self.events) + durable
        event = Event(run=self.run, seq=seq, span=span, data=data, at=self.at, parent=parent)
        self.events.append(event)

    def start(self, span: str, kind: str, name: str, input: Any = None) -> None:
        parent = span.rpartition("/")[0] or None
        self.emit(span, SpanStarted(kind=kind, name=name, input=input), parent)

    def end(self, span: str, output: Any = None, after: float = 0.5, **rest: Any) -> None:
        self.emit(
            span, SpanEnded(status=rest.pop("status", "ok"), output=output, **rest), after=after
        )

    def model(self, agent: str, n: int, message: Message, usage: Usage | None = None) -> None:
        path = f"{agent}/model[{n}]"
        self.start(path, "model", "openai/gpt-4o-mini")
        self.emit(path, MessageAdded(message=message))
        self.end(path, {"message": len(self.events)}, usage=usage)

    @property
    def view(self) -> View:
        return fold(self.events)


def says(text: str, **rest: Any) -> Message:
    return Message(role="assistant", parts=(Text(text=text),), **rest)


def calls(args: str = '{"city":"Oslo"}', text: str = "", thought: str = "") -> Message:
    parts = [Reasoning(text=thought)] if thought else []
    parts += [Text(text=text)] if text else []
    return Message(
        role="assistant", parts=(*parts, ToolCall(id="c1", name="get_weather", args=args))
    )


USAGE = Usage(input=1200, output=30, cached=1000, cost=0.0006, calls=1)


def weather(run: str = "r_1", at: float = 1000.0) -> Log:
    log = Log(run, at)
    log.start("weather", "agent", "weather", "Oslo?")
    log.emit("weather", MessageAdded(message=user("Oslo?")))
    log.model("weather", 0, calls(text="Let me look.", thought="Which *city*?"), USAGE)
    log.start("weather/get_weather[0.0]", "tool", "get_weather", {"city": "Oslo"})
    log.end("weather/get_weather[0.0]", {"temp": 12}, after=0.3)
    result = ToolResult(id="c1", name="get_weather", output={"temp": 12})
    log.emit("weather", MessageAdded(message=Message(role="tool", parts=(result,))))
    log.model("weather", 1, says("It is **12 °C**."), USAGE)
    log.end("weather", "It is **12 °C**.")
    return log


def test_record_of_a_run() -> None:
    assert views.record(weather().view, thread="trip") == {
        "version": 1,
        "agent": "weather",
        "status": "done",
        "text": "It is **12 °C**.",
        "items": [
            {"type": "reasoning", "text": "Which *city*?"},
            {"type": "text", "text": "Let me look."},
            {
                "type": "tool",
                "name": "get_weather",
                "status": "ok",
                "args": {"city": "Oslo"},
                "result": {"temp": 12},
                "seconds": 0.3,
            },
        ],
        "model": "openai/gpt-4o-mini",
        "usage": {"input": 2400, "output": 60, "cached": 2000, "reasoning": 0, "cost": 0.0012},
        "seconds": 1.8,
        "thread": "trip",
    }


def test_markdown_of_a_run() -> None:
    assert (
        views.markdown(views.record(weather().view, thread="trip"))
        == """\
<details><summary>💭 reasoning</summary>

Which *city*?

</details>

Let me look.

<details><summary>🔧 <code>get&#95;weather</code>(city="Oslo") · 0.3 s</summary>

<small>arguments</small>

```json
{"city":"Oslo"}
```

<small>result</small>

```json
{"temp":12}
```

</details>

It is **12 °C**.

<small>openai/gpt-4o-mini · 2,400 in (2,000 cached) / 60 out tokens · <span>&#36;</span>0.0012 · \
1.8 s · thread trip</small>"""
    )


def test_terminal_text_and_the_line() -> None:
    run = views.record(weather().view)
    assert views.text(run) == (
        "💭 Which *city*?\nLet me look.\n"
        '🔧 get_weather(city="Oslo") → {"temp":12} · 0.3 s\n\n'
        "It is **12 °C**.\n\n"
        "openai/gpt-4o-mini · 2,400 in (2,000 cached) / 60 out tokens · $0.0012 · 1.8 s"
    )
    assert views.plain(run) == "weather: It is **12 °C**."


def test_equal_runs_give_equal_bytes() -> None:
    one = views.bundle(views.record(weather("r_1", 1000.0).view))
    two = views.bundle(views.record(weather("r_2", 9999.0).view))
    assert json.dumps(one) == json.dumps(two)
    assert "r_1" not in json.dumps(one)


def test_bundle_points_into_its_markdown_in_utf16_units() -> None:
    bundle = views.bundle(views.record(weather().view))
    run, utf16 = bundle[views.MIME], bundle["text/markdown"].encode("utf-16-le")

    def at(node: dict[str, Any]) -> str:
        start, end = node["at"]
        return str(utf16[2 * start : 2 * end].decode("utf-16-le"))

    assert "text" not in run and at(run) == "It is **12 °C**."
    assert [at(i) for i in run["items"][:2]] == ["Which *city*?", "Let me look."]
    assert bundle["text/plain"] == "weather: It is **12 °C**."


def test_a_long_answer_is_stored_once() -> None:
    log = Log()
    log.start("a", "agent", "a")
    log.model("a", 0, says("A paragraph with *some* words.\n\n" * 2000), USAGE)
    log.end("a", "A paragraph with *some* words.\n\n" * 2000)
    bundle = views.bundle(views.record(log.view, thread="t"))
    size = len(json.dumps(bundle, ensure_ascii=False).encode())
    assert size - len(json.dumps(bundle["text/markdown"], ensure_ascii=False).encode()) <= 2048


def test_while_it_thinks_writes_and_calls() -> None:
    log = Log()
    assert views.markdown(views.record(log.view)).startswith("○ not started")
    log.start("weather", "agent", "weather")
    log.start("weather/model[0]", "model", "openai/gpt-4o-mini")
    assert views.markdown(views.record(log.view)) == "⏳ weather · step 1 · thinking …"
    log.emit("weather/model[0]", ReasoningDelta(text="hm"))
    log.emit("weather/model[0]", TextDelta(text="It is ```py\nx = 1"))
    run = views.record(log.view)
    assert run["text"] == "It is ```py\nx = 1" and run["items"][0]["type"] == "reasoning"
    assert "step 1 · writing …" in views.markdown(run)
    log.emit("weather/model[0]", ArgsDelta(id="c", name="get_weather", text='{"ci'))
    run = views.record(log.view)
    assert "text" not in run
    assert run["items"][-1] == {
        "type": "tool",
        "name": "get_weather",
        "status": "streaming",
        "args": '{"ci',
    }
    assert views.plain(run) == "⏳ weather · step 1 · get_weather …"
    assert "🔧 get_weather" in views.text(run)


def test_an_open_fence_does_not_swallow_what_follows() -> None:
    log = Log()
    log.start("a", "agent", "a")
    log.start("a/model[0]", "model", "m")
    log.emit("a/model[0]", TextDelta(text="<details>\n```py\nx = 1"))
    log.emit("a", Noted(level="warning", text="careful"))
    for status in ("running", "done"):
        page = markdown2html(views.markdown(views.record(log.view) | {"status": status}))
        assert active(page) == []
        assert "&lt;details&gt;" in page
    assert "⚠ careful" in page


def test_suspended_for_approval_and_resumed() -> None:
    log = Log()
    log.start("w", "agent", "w")
    log.model("w", 0, calls())
    path = "w/get_weather[0.0]"
    log.start(path, "tool", "get_weather", {"city": "Oslo"})
    payload = {"tool": "get_weather", "args": {"city": "Oslo"}, "digest": "d1"}
    log.emit(path, Suspended(path=path, reason="approval", payload=payload))
    run = views.record(log.view, run="r_7f3")
    assert run["pending"] == [{"path": path, "reason": "approval", **payload}]
    assert run["items"][-1]["status"] == "suspended"
    line = '⏸ suspended: w · get_weather(city="Oslo") waits for approval · %resume r_7f3 approve'
    assert views.plain(run) == line
    assert "%resume r_7f3 approve" in views.text(run)
    page = _html.render(views.markdown(run))
    assert "<code>%resume r_7f3 approve</code>" in page and "⏸ waits" in page
    assert "%resume approve" in views.text(views.record(log.view))
    log.emit(path, Resumed(path=path, value=True))
    assert "pending" not in views.record(log.view)


def test_suspended_for_a_form() -> None:
    log = Log()
    log.start("w", "workflow", "w")
    schema = {"type": "object"}
    log.emit("w", Suspended(path="w", reason="signal", payload={"q": "ok?"}, schema=schema))
    run = views.record(log.view)
    assert run["pending"][0]["payload"] == {"q": "ok?"} and run["pending"][0]["schema"] == schema
    assert "waits for signal · %resume {…}" in views.text(run)
    assert '{"q":"ok?"}' in views.markdown(run)
    beside_an_error = views.bundle(run, told=True)["text/markdown"]
    assert '{"q":"ok?"}' in beside_an_error and "suspended" not in beside_an_error


def test_stopped_keeps_the_partial_answer() -> None:
    log = Log()
    log.start("w", "agent", "w")
    log.start("w/model[0]", "model", "m")
    log.emit("w/model[0]", MessageAdded(message=says("It is", partial=True)))
    log.end("w/model[0]", status="cancelled", usage=USAGE)
    log.end("w", status="cancelled")
    run = views.record(log.view)
    assert run["text"] == "It is" and run["partial"] is True
    assert "It is\n\n■ stopped after 30 tokens\n\n<small>" in views.markdown(run)
    assert views.plain(run) == "■ stopped after 30 tokens: w"


def test_failed_says_what_to_do() -> None:
    log = Log()
    error = ErrorInfo(code="config", message='no key for "openai"', hint="%mastra key openai")
    log.start("w", "agent", "w")
    log.start("w/model[0]", "model", "m")
    log.end("w/model[0]", status="error", error=error)
    log.end("w", status="error", error=error)
    run = views.record(log.view)
    assert run["error"] == {
        "code": "config",
        "message": 'no key for "openai"',
        "hint": "%mastra key openai",
    }
    assert "items" not in run
    assert '**✗** no key for "openai"\\\n→ %mastra key openai' in views.markdown(run)
    assert '✗ no key for "openai"\n  → %mastra key openai' in views.text(run)
    assert views.plain(run) == '✗ w: no key for "openai"'


def test_a_failed_tool_and_invalid_arguments() -> None:
    log = Log()
    log.start("w", "agent", "w")
    log.model("w", 0, calls("{bad"))
    log.start("w/get_weather[0.0]", "tool", "get_weather", "{bad")
    error = ErrorInfo(code="tool.args", message="not JSON")
    log.end("w/get_weather[0.0]", status="error", error=error, after=61)
    run = views.record(log.view)
    item = run["items"][0]
    assert item["args"] == "{bad" and item["error"]["message"] == "not JSON"
    assert "result" not in item
    assert "({bad) · ✗ failed · 1 min 1 s</summary>" in views.markdown(run)
    assert "  ✗ not JSON" in views.text(run)


def test_agents_inside_tools_nest() -> None:
    log = Log()
    log.start("a", "agent", "a")
    log.model("a", 0, calls())
    log.start("a/ask[0.0]", "tool", "ask", {"q": 1})
    log.start("a/ask[0.0]/expert", "agent", "expert")
    log.model("a/ask[0.0]/expert", 0, says("deep"), USAGE)
    log.end("a/ask[0.0]/expert", "deep")
    log.end("a/ask[0.0]", "deep")
    log.model("a", 1, says("done"), USAGE)
    log.end("a", "done")
    run = views.record(log.view)
    expert = run["items"][0]["items"][0]
    assert expert == {
        "type": "agent",
        "name": "expert",
        "status": "ok",
        "seconds": 1.0,
        "text": "deep",
    }
    page = markdown2html(views.markdown(run))
    assert page.count("<details>") == page.count("</details>") == 2
    assert "  🤖 expert · 1.0 s" in views.text(run)


def test_the_output_of_a_run_beats_what_the_model_wrote() -> None:
    log = Log()
    log.start("a", "agent", "a")
    log.model("a", 0, says("secret"))
    log.end("a", "[redacted]")
    assert views.record(log.view)["text"] == "[redacted]"
    log = Log()
    log.start("a", "agent", "a")
    log.model("a", 0, says('{"max_c": 3}'))
    log.end("a", {"max_c": 3})
    run = views.record(log.view)
    assert run["output"] == {"max_c": 3} and "text" not in run
    assert views.markdown(run).startswith('```json\n{"max_c":3}\n```')
    assert views.plain(run) == 'a: {"max_c":3}'
    assert views.text(run).startswith('{\n  "max_c": 3\n}')


def test_notes_scores_and_custom_items_are_shown() -> None:
    log = Log()
    log.start("a", "agent", "a")
    log.emit("a", Noted(level="info", text="retrying"))
    log.emit("a", Noted(level="debug", text="hidden"))
    log.emit("a", Scored(scorer="tone", value=0.91234, reason="kind"))
    log.emit("a", Custom(name="trip", value={"k": 1}))
    run = views.record(log.view)
    assert [i["type"] for i in run["items"]] == ["note", "score", "custom"]
    page = views.markdown(run)
    assert "ℹ retrying" in page and "★ tone 0.9123 — kind" in page and "◇ <code>trip</code>" in page
    assert views.text(run).startswith('ℹ retrying\n★ tone 0.9123 kind\n◇ trip {"k":1}')


def test_displayed_images_stay_and_html_does_not() -> None:
    log = Log()
    log.start("a", "agent", "a")
    log.start("a/plot[0.0]", "tool", "plot")
    log.emit("a/plot[0.0]", Displayed(bundle={"image/png": PIXEL + "\n", "text/plain": "<Figure>"}))
    log.emit("a/plot[0.0]", Displayed(bundle={"text/html": "<b>x</b>", "text/plain": ["a", "b"]}))
    log.emit("a/plot[0.0]", Displayed(bundle={"text/html": "<script>"}))
    log.emit("a/plot[0.0]", Displayed(bundle={"image/png": '"><script>', "image/svg+xml": "<svg>"}))
    log.emit("a/plot[0.0]", Displayed(bundle={"image/png": "A" * 2_000_001}))
    log.end("a/plot[0.0]", None)
    run = views.record(log.view)
    bundle = views.bundle(run)
    page = markdown2html(bundle["text/markdown"])
    assert active(page, data_images=True) == []
    assert page.count(f"data:image/png;base64,{PIXEL}") == 1
    assert PIXEL not in json.dumps(bundle[views.MIME])
    kinds = [i.get("mime", i["type"]) for i in run["items"]]
    assert kinds == ["tool", "image/png", "text/plain", "note", "note", "note"]


def test_caps() -> None:
    log = Log()
    log.start("a", "agent", "a")
    for n in range(30):
        log.start(f"a/t[0.{n}]", "tool", "t", {"n": n})
        log.end(f"a/t[0.{n}]", {"long": "x" * 10_000})
    run = views.record(log.view, max_chars=100, max_items=20)
    assert len(run["items"]) == 21 and run["items"][-1] == {"type": "more", "count": 10}
    assert run["items"][0]["result"].endswith("… (9,911 more characters)")
    assert "… 10 more" in views.markdown(run) and "… 10 more" in views.text(run)
    for n in range(30, 400):
        log.start(f"a/t[0.{n}]", "tool", "t", {"n": n})
        log.end(f"a/t[0.{n}]", "y" * 10_000)
    assert len(json.dumps(views.record(log.view))) < 400_000


def test_retried_models_and_unknown_prices() -> None:
    log = Log()
    log.start("a", "agent", "a")
    log.start("a/model[0]", "model", "m1")
    log.end("a/model[0]", status="error", error=ErrorInfo(code="model.http", message="503"))
    log.start("a/model[1]", "model", "m2")
    log.emit("a/model[1]", MessageAdded(message=says("ok")))
    log.end("a/model[1]", usage=Usage(input=1, output=2, calls=1))
    log.end("a", "ok")
    run = views.record(log.view)
    assert run["model"] == "m1, m2"
    assert run["items"] == [{"type": "note", "level": "warning", "text": "503"}]
    assert "$" not in views.text(run)


def test_a_model_run_by_itself() -> None:
    log = Log()
    log.start("m", "model", "openai/x")
    log.emit("m", MessageAdded(message=says("hello")))
    log.end("m", {"message": 2}, usage=USAGE)
    run = views.record(log.view)
    assert run["text"] == "hello" and run["model"] == "openai/x" and "output" not in run


def test_values_that_json_does_not_know() -> None:
    log = Log()
    log.start("a", "agent", "a")
    log.start("a/t[0.0]", "tool", "t", {"x": float("nan"), "s": "\ud800"})
    log.end("a/t[0.0]", {"\ud800": ["\udfff", float("inf")]})
    text = json.dumps(views.bundle(views.record(log.view)), ensure_ascii=False, allow_nan=False)
    text.encode()


def everywhere(p: str) -> Log:
    """A run in which every string is `p`: names, arguments, results, errors, notes, all."""
    log = Log(p)
    error = ErrorInfo(code=p, message=p, hint=p)
    log.start("w", "agent", p, p)
    log.start("w/model[0]", "model", p)
    message = Message(
        role="assistant", parts=(Reasoning(text=p), Text(text=p), ToolCall(id=p, name=p))
    )
    log.emit("w/model[0]", MessageAdded(message=message))
    log.end("w/model[0]", {"message": p}, usage=USAGE)
    for n, args in enumerate(({p: p, "n": [p, {p: p}]}, p, [p])):
        log.start(f"w/t[0.{n}]", "tool", p, args)
        log.emit(f"w/t[0.{n}]", Displayed(bundle={"text/markdown": p}))
        log.emit(f"w/t[0.{n}]", Displayed(bundle={"text/plain": p, "text/html": p}))
        log.emit(f"w/t[0.{n}]", Displayed(bundle={p: p}))
        log.emit(f"w/t[0.{n}]", Noted(level="error", text=p))
        log.end(f"w/t[0.{n}]", args)
    log.start("w/t[0.9]", "tool", p, p)
    log.end("w/t[0.9]", status="error", error=error)
    log.start("w/sub", p or "agent", p)
    log.start("w/sub/model[0]", "model", p)
    log.emit("w/sub/model[0]", MessageAdded(message=says(p)))
    log.end("w/sub/model[0]", status="error", error=error)
    log.end("w/sub", {p: p})
    log.emit("w", Noted(level="warning", text=p))
    log.emit("w", Scored(scorer=p, value=1.0, reason=p))
    log.emit("w", Custom(name=p, value={p: p}))
    log.start("w/u[0.0]", "tool", p, {p: p})
    payload = {"tool": p, "args": {p: p}, "digest": p}
    log.emit("w", Suspended(path="w/u[0.0]", reason="approval", payload=payload))
    log.emit("w", Suspended(path="w", reason=p, payload={p: p}, schema={p: p}))
    log.start("w/model[1]", "model", p)
    log.emit("w/model[1]", ReasoningDelta(text=p))
    log.emit("w/model[1]", TextDelta(text=p))
    return log


@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_field_becomes_active(payload: str) -> None:
    log = everywhere(payload)
    error = ErrorInfo(code=payload, message=payload, hint=payload)
    ends: list[dict[str, Any]] = [
        {},
        {"status": "error", "error": error},
        {"status": "cancelled"},
        {"output": {payload: payload}},
    ]
    for end in ends:
        if end:
            log.end("w", **end)
        elif "w/model[1]" in log.view.drafts:
            log.emit("w/model[1]", ArgsDelta(id=payload, name=payload, text=payload))
        run = views.record(log.view, thread=payload, run=payload)
        bundle = views.bundle(run)
        json.dumps(bundle, ensure_ascii=False, allow_nan=False).encode()
        assert active(_html.render(bundle["text/markdown"])) == []
        assert "\n" not in bundle["text/plain"] and len(bundle["text/plain"]) <= 200
        for terminal in (bundle["text/plain"], views.text(run)):
            assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", terminal)
    page = markdown2html(bundle["text/markdown"])
    assert active(page) == []
    assert page.count("<details>") == page.count("</details>")


def test_links_load_only_from_allowed_hosts() -> None:
    log = Log()
    log.start("a", "agent", "a")
    log.model("a", 0, says("[x](https://docs.example/a) ![y](https://docs.example/b.png)"))
    run = views.record(log.view)
    hosts = frozenset({"docs.example"})
    assert 'src="https://docs.example/b.png"' in _html.render(views.markdown(run, hosts=hosts))
    assert active(_html.render(views.markdown(run))) == []


def test_importing_views_does_not_load_the_parser() -> None:
    script = "import sys, mastra_nb.views; sys.exit('markdown_it' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


async def test_who_took_over_is_a_line_and_says_the_answer_once() -> None:
    billing = Agent(name="billing", model=ScriptedModel("Your invoice is 5.", name="x/b"))
    script = ScriptedModel(tool_call("transfer_to_billing"), name="x/a")
    run = Agent(name="front", model=script, handoffs=[billing]).run("My bill?")
    await run
    shown = run._repr_mimebundle_()
    found = shown[views.MIME]
    assert found["model"] == "x/a, x/b"
    assert [(i["type"], i["name"], "text" in i) for i in found["items"]] == [
        ("handoff", "billing", False)
    ]
    assert shown["text/markdown"].count("Your invoice is 5.") == 1
    assert "🤝 handed over to <code>billing</code>" in shown["text/markdown"]


async def test_the_answer_of_whom_it_was_handed_over_to_streams() -> None:
    model = ScriptedModel("one two three", piece=4, name="x/b")
    other = Agent(name="other", model=model)
    run = Agent(
        name="front", model=ScriptedModel(tool_call("transfer_to_other")), handoffs=[other]
    ).run("Go")
    texts = [views.record(run.view).get("text", "") async for _ in run]
    assert "one " in texts and "one two " in texts


async def test_a_model_alone_shows_the_calls_that_nobody_ran() -> None:
    model = mastra_nb.model(ScriptedModel(tool_call("search", q="x"), name="x/y"))
    run = model.run("Find x", tools=[ToolSpec(name="search", description="", parameters={})])
    await run
    shown = run._repr_mimebundle_()
    assert shown["text/plain"] == 'x/y: search(q="x")'
    assert '<code>search</code>(q="x") · not run' in shown["text/markdown"]
    assert "(no answer)" not in shown["text/markdown"]


async def test_a_typed_answer_of_a_model_alone_is_shown_as_it_is() -> None:
    model = mastra_nb.model(ScriptedModel('{"n": 1}', name="x/y"))
    run = model.run("n?", output=dict[str, int])
    assert await run == {"n": 1}
    assert run._repr_mimebundle_()["text/plain"] == 'x/y: {"n":1}'


# --- workflows ----------------------------------------------------------------------------------

OUTLINE = {
    "name": "papers",
    "nodes": [
        {"type": "step", "id": "read", "code": "c0ffee"},
        {"type": "foreach", "id": "foreach:sum", "concurrency": 4, "nodes": [
            {"type": "agent", "id": "sum"},
        ]},
        {"type": "workflow", "id": "publish", "nodes": [
            {"type": "step", "id": "check"}, {"type": "step", "id": "ask"},
        ]},
    ],
}  # fmt: skip


def papers(items: int = 3, failed: int = 0) -> Log:
    log = Log()
    log.start("papers", "workflow", "papers", ["a.pdf"])
    log.emit("papers", Custom(name="graph", value=OUTLINE))
    log.start("papers/read", "step", "read", ["a.pdf"])
    log.end("papers/read", list(range(items)))
    for i in range(items):
        path = f"papers/sum[{i}]"
        log.start(path, "step", "sum", i)
        if i < failed:
            error = ErrorInfo(code="step", message=f"no page {i}")
            log.end(path, status="error", error=error, after=0.1)
        else:
            log.end(path, {"n": i}, after=0.1)
    log.start("papers/publish", "workflow", "publish")
    log.start("papers/publish/check", "step", "check", {"n": 1})
    log.end("papers/publish/check", "fine")
    return log


def ended(log: Log, output: Any) -> Log:
    log.end("papers/publish", output, after=0.0)
    log.end("papers", output, after=0.0)
    return log


_PICTURE = re.compile(
    r'<img alt="[^"]*" width="\d+" height="\d+" src="data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)">'
)


def pictures(markdown: str) -> list[str]:
    return [base64.b64decode(data).decode() for data in _PICTURE.findall(markdown)]


def test_record_of_a_workflow() -> None:
    run = views.record(ended(papers(), {"pages": 3}).view)
    graph = run["graph"]
    assert "code" not in graph["nodes"][0]
    assert graph["states"]["sum"] == {"status": "ok", "seconds": 0.3, "done": 3, "total": 3}
    assert graph["states"]["publish/ask"] == {"status": "skipped"}
    assert [b["name"] for b in run["timeline"]] == [
        "read", "sum[0]", "sum[1]", "sum[2]", "publish", "check",
    ]  # fmt: skip
    assert run["output"] == {"pages": 3}
    assert [i["name"] for i in run["items"]] == ["read", "sum[0]", "sum[1]", "sum[2]", "publish"]
    assert run["items"][0] == {
        "type": "step",
        "name": "read",
        "status": "ok",
        "args": ["a.pdf"],
        "result": [0, 1, 2],
        "seconds": 0.5,
    }
    assert "graph" not in run["items"][-1]
    assert run["items"][-1]["items"][0]["result"] == "fine"


def test_a_workflow_shows_its_picture_then_the_answer_then_how() -> None:
    page = views.markdown(views.record(ended(papers(), "All **good**.").view))
    picture, timeline = pictures(page)
    assert "publish" in picture and "500 ms" in picture and "sum" in timeline
    order = [
        "<img",
        "All **good**.",
        "<summary>5 steps",
        "<code>read</code>",
        "⏱ timeline",
        "1.3 s</small>",
    ]
    places = [page.index(part) for part in order]
    assert places == sorted(places)
    assert page.count("<details>") == page.count("</details>")
    assert "⚙ <code>check</code>(n=1) → fine · 0.5 s" in page
    assert "custom" not in page and "◇" not in page


def test_the_answer_of_a_workflow_is_in_its_bundle_once() -> None:
    bundle = views.bundle(views.record(ended(papers(), "All **good**.").view))
    start, end = bundle[views.MIME]["at"]
    utf16 = bundle["text/markdown"].encode("utf-16-le")
    assert utf16[2 * start : 2 * end].decode("utf-16-le") == "All **good**."
    assert "text" not in bundle[views.MIME] and "output" not in bundle[views.MIME]


def test_a_running_workflow_names_its_running_steps() -> None:
    log = papers()
    log.start("papers/publish/ask", "step", "ask")
    run = views.record(log.view)
    assert "timeline" not in run
    assert views.plain(run) == "⏳ papers · publish/ask …"
    page = views.markdown(run)
    assert "⏳ papers · publish/ask …" in page and len(pictures(page)) == 1
    assert "▶  ask" in views.text(run)
    assert views.plain(views.record(Log().view)).startswith("○ not started")


def test_of_many_items_the_first_and_the_failed_are_shown() -> None:
    log = ended(papers(1000, failed=30), None)
    run = views.record(log.view)
    names = [i.get("name") for i in run["items"]]
    assert names[:2] == ["read", "sum[0]"] and "sum[9]" in names and "sum[30]" in names
    (more,) = [i for i in run["items"] if i["type"] == "more"]
    assert more == {"type": "more", "count": 985, "name": "sum"}
    page = views.markdown(run)
    assert "… 985 more of sum" in page and "1,002 steps · ✗ 30 failed" in page
    assert len(json.dumps(views.bundle(run))) < 40_000


def test_every_question_says_how_it_is_answered() -> None:
    log = papers()
    for name in ("left", "right"):
        path = f"papers/publish/{name}"
        log.start(path, "step", name)
        log.emit(path, Suspended(path=path, reason="input", payload={"q": f"{name}?"}))
    run = views.record(log.view, run="r_7")
    page = _html.render(views.markdown(run))
    assert "<code>%resume r_7 --at left {…}</code>" in page and "&quot;right?&quot;" in page
    assert "%resume r_7 --at right {…}" in views.text(run) and '"q": "left?"' in views.text(run)
    assert views.plain(run).endswith("%resume r_7 --at left {…} · 1 more")
    log.start("papers/left", "step", "left")
    log.emit("papers/left", Suspended(path="papers/left", reason="input"))
    run = views.record(log.view)
    assert "--at papers/publish/left" in views.markdown(run).replace("&#47;", "/").replace(
        "&#45;", "-"
    )
    told = views.bundle(run, told=True)["text/markdown"]
    assert "right?" in told and "resume" not in told


def test_a_workflow_that_an_agent_calls_has_its_picture_where_it_was_called() -> None:
    log = Log()
    log.start("a", "agent", "a")
    log.model("a", 0, calls())
    log.start("a/get_weather[0.0]", "tool", "get_weather", {})
    log.start("a/get_weather[0.0]/W", "workflow", "W")
    outline = {"name": "W", "nodes": [{"type": "step", "id": "x"}]}
    log.emit("a/get_weather[0.0]/W", Custom(name="graph", value=outline))
    log.start("a/get_weather[0.0]/W/x", "step", "x")
    log.end("a/get_weather[0.0]/W/x", 1)
    log.end("a/get_weather[0.0]/W", 1)
    log.end("a/get_weather[0.0]", 1)
    log.end("a", "done")
    run = views.record(log.view)
    inner = run["items"][0]["items"][0]
    assert inner["graph"]["states"]["x"]["status"] == "ok" and "graph" not in run
    assert len(pictures(views.markdown(run))) == 1


def test_ten_steps_are_less_than_40_kb_in_a_notebook() -> None:
    log = Log()
    nodes = [{"type": "step", "id": f"step_{i}"} for i in range(10)]
    log.start("W", "workflow", "W")
    log.emit("W", Custom(name="graph", value={"name": "W", "nodes": nodes}))
    rows = [{"title": f"Row {i}", "text": "words " * 20} for i in range(100)]
    for i in range(10):
        log.start(f"W/step_{i}", "step", f"step_{i}", rows)
        log.end(f"W/step_{i}", rows)
    log.end("W", "done")
    bundle = views.bundle(views.record(log.view))
    assert len(json.dumps(bundle, ensure_ascii=False)) < 40_000
    assert "svg" not in json.dumps(bundle[views.MIME])


def test_the_definition_of_a_workflow_is_a_picture() -> None:
    bundle = views.outline_bundle(OUTLINE)
    assert list(bundle) == [views.WORKFLOW_MIME, "text/markdown", "text/plain"]
    assert bundle[views.WORKFLOW_MIME]["nodes"][0] == {"type": "step", "id": "read"}
    (picture,) = pictures(bundle["text/markdown"])
    assert "for each, 4 at a time" in picture
    assert bundle["text/plain"].startswith("papers\n├─ read\n├─ foreach, 4 at a time\n│  └─ sum")


@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_text_of_a_workflow_becomes_active(payload: str) -> None:
    log = Log()
    arms = [{"when": payload, "nodes": [{"type": "step", "id": "x"}]}]
    nodes = [
        {"type": "step", "id": payload, "label": payload},
        {"type": "branch", "id": "branch:x", "arms": arms},
    ]
    log.start("W", "workflow", payload)
    log.emit("W", Custom(name="graph", value={"name": payload, "nodes": nodes}))
    for n, path in enumerate((f"W/{payload}", "W/x")):
        log.emit(path, SpanStarted(kind="step", name=payload, input=payload), "W")
        if n:
            log.emit(path, Suspended(path=path + "/" + payload, reason=payload, payload=payload))
        else:
            error = ErrorInfo(code="step", message=payload, hint=payload)
            log.end(path, status="error", error=error)
    for run in (views.record(log.view, run="r"), views.record(log.view) | {"status": "running"}):
        markdown = views.markdown(run)
        for picture in pictures(markdown):
            assert inert(picture) == []
        rest = _PICTURE.sub("", markdown)
        assert active(markdown2html(rest)) == [] and active(_html.render(rest)) == []
