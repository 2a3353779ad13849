from __future__ import annotations

import asyncio
import io
import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mastra_nb.errors import ConfigError, MissingExtra, ModelError, ModelOutputError, NotFound
from mastra_nb.events import ArgsDelta, Noted, Payload, TextDelta
from mastra_nb.messages import (
    Media,
    Message,
    ToolCall,
    ToolResult,
    ToolSpec,
    assistant,
    system,
    user,
)
from mastra_nb.models import ModelRequest, ModelSettings, resolve
from mastra_nb.providers import _weights, local
from mastra_nb.providers._llama import Engine, context_size, load_server
from mastra_nb.providers._local_prompt import (
    answer_prompt,
    decide_prompt,
    decide_schema,
    read_decision,
)
from mastra_nb.providers.local import LocalModel, main, provider

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = ToolSpec(name="get_weather", description="Weather of a city.", parameters=CITY)
CLOCK = ToolSpec(name="now", description="The time.", parameters={"type": "object"})


class FakeServer:
    """The engine's callable side: answers each generation with the next of its scripts.

    A script is a text, an exception to raise, a dict to return or ("chunk", dict) to stream.
    """

    def __init__(self, *script: Any, cached: int = 0) -> None:
        self.script = list(script)
        self.cached = cached
        self.asked: list[dict[str, Any]] = []
        self.prepared: list[dict[str, Any]] = []
        self.prepare_with: Any = None
        self.started = threading.Event()
        self.running = 0

    def handle_chat_completions(
        self, request: dict[str, Any], callback: Callable[[dict[str, Any]], bool], /
    ) -> Any:
        if request["max_tokens"] == 0:
            self.prepared.append(request)
            if isinstance(self.prepare_with, Exception):
                raise self.prepare_with
            return self._speak("", callback)
        self.asked.append(request)
        self.running += 1
        assert self.running == 1, "two generations at once"
        try:
            return self._answer(self.script.pop(0), callback)
        finally:
            self.running -= 1

    def _answer(self, line: Any, callback: Callable[[dict[str, Any]], bool]) -> Any:
        if isinstance(line, Exception):
            raise line
        if isinstance(line, dict):
            return line
        if isinstance(line, tuple):
            callback(line[1])
            return None
        if line is ENDLESS:
            while not callback(_piece("on ")):
                self.started.set()
                time.sleep(0.005)
            return None
        return self._speak(line, callback)

    def _speak(self, text: str, callback: Callable[[dict[str, Any]], bool]) -> None:
        for at in range(0, len(text), 5):
            if callback(_piece(text[at : at + 5])):
                return
        callback({"choices": [{"delta": {}, "finish_reason": "stop"}]})
        details = {"cached_tokens": self.cached}
        usage = {"prompt_tokens": 30, "completion_tokens": 4, "prompt_tokens_details": details}
        callback({"choices": [], "usage": usage})


ENDLESS = object()


def _piece(text: str) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}, "finish_reason": None}]}


class Ctx:
    def __init__(self) -> None:
        self.out: list[Payload] = []

    def emit(self, data: Payload) -> int:
        self.out.append(data)
        return len(self.out)

    @property
    def text(self) -> str:
        return "".join(d.text for d in self.out if isinstance(d, TextDelta))


def make(*script: Any, **options: Any) -> tuple[LocalModel, FakeServer, Any]:
    server = FakeServer(*script, **options)
    return LocalModel(engine=Engine(lambda: server)), server, Ctx()


def chose(name: str, **args: Any) -> str:
    return json.dumps({"tool": name, "args": args})


ANSWER = json.dumps({"tool": "answer"})


def ask(*messages: Message, **options: Any) -> ModelRequest:
    return ModelRequest(messages=messages or (user("How is Oslo?"),), **options)


def called(n: int, result: Any, *, error: bool = False, **args: Any) -> tuple[Message, Message]:
    call = ToolCall(id=f"call_{n}", name="get_weather", args=json.dumps(args))
    done = ToolResult(id=call.id, name=call.name, output=result, is_error=error)
    return Message(role="assistant", parts=(call,)), Message(role="tool", parts=(done,))


# --- names ----------------------------------------------------------------------------------


def test_ids_and_names(tmp_path: Path) -> None:
    assert provider("local", "").name == resolve("local").name == "local/small"
    assert provider("local", "large").name == "local/large"
    assert provider("local", "my/model.gguf").name == "local/my/model.gguf"
    assert not provider("local", "").profile.parallel_tools
    with pytest.raises(NotFound, match='"tiny"'):
        provider("local", "tiny")


def test_the_context_length_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTRA_NB_LOCAL_CTX", raising=False)
    assert context_size() == LocalModel().profile.context == 4096
    monkeypatch.setenv("MASTRA_NB_LOCAL_CTX", "8192")
    assert context_size() == 8192
    for wrong in ("8k", "100", "-1", "9" * 12):
        monkeypatch.setenv("MASTRA_NB_LOCAL_CTX", wrong)
        with pytest.raises(ConfigError, match="MASTRA_NB_LOCAL_CTX"):
            context_size()


async def test_a_path_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        await LocalModel(str(tmp_path / "none.gguf")).invoke(ask(), Ctx())  # type: ignore[arg-type]


def test_without_the_engine_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "xllamacpp", None)
    with pytest.raises(MissingExtra) as caught:
        load_server(Path("x.gguf"), 512)
    assert caught.value.hint == 'pip install "mastra-nb[local]"'


# --- plain chat -----------------------------------------------------------------------------


async def test_chat_streams_and_counts() -> None:
    model, server, ctx = make("Hello there, you.", cached=20)
    reply = await model.invoke(
        ask(system("Be kind."), user("Hi"), assistant("Yes?"), user("!")), ctx
    )
    assert reply.message == assistant("Hello there, you.") and reply.finish == "stop"
    assert ctx.text == "Hello there, you." and len(ctx.out) == 4
    assert (reply.usage.input, reply.usage.output, reply.usage.cached) == (30, 4, 0)
    assert (reply.usage.cost, reply.usage.calls) == (0.0, 1)
    sent = server.asked[0]
    assert [m["role"] for m in sent["messages"]] == ["system", "user", "assistant", "user"]
    assert (sent["temperature"], sent["seed"]) == (0, 1) and "response_format" not in sent


async def test_settings_reach_the_engine() -> None:
    model, server, ctx = make("x")
    settings = ModelSettings(
        temperature=0.7, top_p=0.9, max_tokens=7, seed=3, stop=("END",), extra={"min_p": 0.1}
    )
    await model.invoke(ask(settings=settings), ctx)
    sent = server.asked[0]
    want = {"temperature": 0.7, "top_p": 0.9, "max_tokens": 7, "seed": 3, "stop": ["END"]}
    assert {**want, "min_p": 0.1}.items() <= sent.items()


async def test_an_output_schema_is_enforced_and_told() -> None:
    model, server, ctx = make('{"city": "Oslo"}')
    reply = await model.invoke(ask(output=CITY), ctx)
    sent = server.asked[0]
    assert sent["response_format"]["json_schema"]["schema"] == CITY
    assert json.dumps(CITY) in sent["messages"][0]["content"]
    assert reply.message.text == '{"city": "Oslo"}'


async def test_what_was_evaluated_before_is_kept_at_the_same_cuts() -> None:
    model, server, ctx = make("a", "b", "c", cached=20)
    turn = (system("Be kind."), user("Hi"))
    await model.invoke(ask(*turn), ctx)
    assert [(len(p["messages"]), p["cache_prompt"]) for p in server.prepared] == [
        (1, False),
        (1, True),
    ]
    server.prepared.clear()
    reply = await model.invoke(ask(*turn), ctx)
    assert [(len(p["messages"]), p["cache_prompt"]) for p in server.prepared] == [(1, True)]
    assert reply.usage.cached == 20
    server.prepared.clear()
    await model.invoke(ask(system("Be rude."), user("Hi")), ctx)
    assert [p["cache_prompt"] for p in server.prepared] == [False, True]


async def test_a_template_that_shows_no_part_of_a_talk_keeps_nothing() -> None:
    model, server, ctx = make("a")
    server.prepare_with = ValueError("roles must alternate")
    reply = await model.invoke(ask(system("Be kind."), user("Hi")), ctx)
    assert reply.message.text == "a" and server.asked[0]["cache_prompt"] is False


# --- tools ----------------------------------------------------------------------------------


async def test_a_chosen_tool_is_a_call() -> None:
    model, server, ctx = make(chose("get_weather", city="Oslo"))
    reply = await model.invoke(ask(tools=(WEATHER, CLOCK)), ctx)
    call = ToolCall(id="call_1", name="get_weather", args='{"city": "Oslo"}')
    assert reply.message == Message(role="assistant", parts=(call,))
    assert reply.finish == "tool-calls" and len(server.asked) == 1
    assert ctx.out == [ArgsDelta(id="call_1", name="get_weather", text=call.args)]


async def test_an_answer_is_made_without_the_tools() -> None:
    model, server, ctx = make(ANSWER, "Hello!")
    reply = await model.invoke(ask(system("Be kind."), user("Hi"), tools=(WEATHER,)), ctx)
    assert reply.message == assistant("Hello!") and reply.usage.calls == 1
    assert (reply.usage.input, reply.usage.output) == (60, 8)
    assert "get_weather" in json.dumps(server.asked[0])
    assert "get_weather" not in json.dumps(server.asked[1])
    assert server.asked[1]["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
    ]


async def test_a_result_is_answered_in_the_measured_form() -> None:
    model, server, ctx = make(ANSWER, "It rains.")
    talk = (user("How is Oslo?"), *called(1, {"sky": "rain"}, city="Oslo"))
    reply = await model.invoke(ask(system("Be kind."), *talk, tools=(WEATHER,)), ctx)
    assert reply.message.text == "It rains."
    told = server.asked[1]["messages"]
    assert told[0]["content"].startswith("Be kind.") and "tool results" in told[0]["content"]
    assert told[1]["content"] == (
        "Question: How is Oslo?\n"
        'Tool result (get_weather {"city": "Oslo"}): {"sky": "rain"}\nAnswer:'
    )


async def test_the_same_call_again_means_that_it_is_enough() -> None:
    model, _server, ctx = make(chose("get_weather", city="Oslo"), "It rains.")
    talk = (user("How is Oslo?"), *called(1, "rain", city="Oslo"))
    reply = await model.invoke(ask(*talk, tools=(WEATHER,)), ctx)
    assert reply.message.text == "It rains." and not any(isinstance(d, ArgsDelta) for d in ctx.out)


async def test_another_call_gets_an_id_of_its_own() -> None:
    model, _server, ctx = make(chose("get_weather", city="Paris"))
    talk = (user("Oslo or Paris?"), *called(2, "rain", city="Oslo"))
    reply = await model.invoke(ask(*talk, tools=(WEATHER,)), ctx)
    assert reply.message.tool_calls[0].id == "call_3"


async def test_tool_choice() -> None:
    model, server, ctx = make("plain", chose("now"), chose("get_weather", city="Oslo"))
    tools = (WEATHER, CLOCK)
    await model.invoke(ask(tools=tools, tool_choice="none"), ctx)
    assert "response_format" not in server.asked[0]
    await model.invoke(ask(tools=tools, tool_choice="required"), ctx)
    await model.invoke(ask(tools=tools, tool_choice="get_weather"), ctx)
    names = [
        [
            b["properties"]["tool"]["const"]
            for b in s["response_format"]["json_schema"]["schema"]["oneOf"]
        ]
        for s in server.asked[1:]
    ]
    assert names == [["get_weather", "now"], ["get_weather"]]
    with pytest.raises(ConfigError, match='"weather"') as caught:
        await model.invoke(ask(tools=tools, tool_choice="weather"), ctx)
    assert "get_weather" in caught.value.hint


def test_references_in_a_tools_schema_still_lead_somewhere() -> None:
    point = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Point"}}}
    parameters = {
        "type": "object",
        "properties": {"at": {"$ref": "#/$defs/Point"}},
        "$defs": {"Point": point},
    }
    tools = tuple(ToolSpec(name=n, description="", parameters=parameters) for n in ("a", "b"))
    schema = decide_schema(ask(tools=tools))
    assert set(schema["$defs"]) == {"a.Point", "b.Point"}
    assert schema["$defs"]["b.Point"]["properties"]["next"]["$ref"] == "#/$defs/b.Point"
    args = schema["oneOf"][0]["properties"]["args"]
    assert args["properties"]["at"]["$ref"] == "#/$defs/a.Point" and "$defs" not in args


def test_the_prompt_of_a_choice_starts_with_what_changes_least() -> None:
    one = ask(user("How is Oslo?"), tools=(WEATHER,))
    two = ask(user("Hi"), assistant("Yes?"), user("And Rome?"), tools=(WEATHER,))
    (a, cuts), (b, same) = decide_prompt(one, "2026-01-01"), decide_prompt(two, "2026-01-01")
    assert cuts == same == (len(a) - 3, len(a) - 1) and a[:-1] == b[:-1]
    assert "2026-01-01" in a[cuts[0]]["content"] and "Weather of a city." in a[cuts[0]]["content"]
    assert a[-1]["content"] == "Question: How is Oslo?\nNext step as JSON:"
    assert "User: Hi\nAssistant: Yes?" in b[-1]["content"]


def test_a_long_result_is_shortened_for_the_choice_and_whole_for_the_answer() -> None:
    request = ask(user("?"), *called(1, "x" * 2000, city="Oslo"), tools=(WEATHER,))
    assert decide_prompt(request, "")[0][-1]["content"].count("x") < 700
    assert answer_prompt(request)[0][-1]["content"].count("x") == 2000


def test_an_error_of_a_tool_is_told_as_one() -> None:
    request = ask(user("?"), *called(1, "no such city", error=True, city="X"), tools=(WEATHER,))
    for prompt in (decide_prompt(request, "")[0], answer_prompt(request)[0]):
        assert "error: no such city" in prompt[-1]["content"]


def test_only_the_calls_of_this_turn_count() -> None:
    talk = (user("Oslo?"), *called(1, "rain", city="Oslo"), assistant("It rains."), user("Paris?"))
    request = ask(*talk, tools=(WEATHER,))
    assert "Done so far" not in decide_prompt(request, "")[0][-1]["content"]
    call, _ = read_decision(chose("get_weather", city="Oslo"), request)
    assert call is not None and call.id == "call_2"
    assert [m["content"] for m in answer_prompt(request)[0]] == ["Oslo?", "It rains.", "Paris?"]


def test_arguments_that_were_cut_off_are_handed_on() -> None:
    call, finish = read_decision('{"tool": "get_weather", "args": {"city": "Os', ask())
    assert call is not None and (call.args, finish) == ('{"city": "Os', "length")


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '"x"', "null", "7", '{"tool": ', '{"args": {}}', '{"tool": "ans']
)
def test_a_choice_that_cannot_be_read_is_an_output_error(text: str) -> None:
    with pytest.raises(ModelOutputError):
        read_decision(text, ask())


# --- what goes wrong ------------------------------------------------------------------------

TOO_LONG = {"type": "exceed_context_size_error", "n_prompt_tokens": 9000, "n_ctx": 4096}


@pytest.mark.parametrize("line", [{"error": TOO_LONG}, ("chunk", {"error": TOO_LONG})])
async def test_a_prompt_that_is_too_long(line: Any) -> None:
    model, _, ctx = make(line)
    with pytest.raises(ModelError, match="9000 tokens") as caught:
        await model.invoke(ask(), ctx)
    assert caught.value.code == "model.context_length"
    assert "MASTRA_NB_LOCAL_CTX" in caught.value.hint


@pytest.mark.parametrize("line", [ValueError("bad schema"), {"error": {"message": "bad schema"}}])
async def test_a_request_that_the_engine_does_not_take(line: Any) -> None:
    model, _, ctx = make(line, "fine")
    with pytest.raises(ModelError, match="bad schema"):
        await model.invoke(ask(), ctx)
    assert (await model.invoke(ask(), ctx)).message.text == "fine"


async def test_a_picture_is_refused() -> None:
    model, server, ctx = make()
    with pytest.raises(ModelError, match="text only"):
        await model.invoke(ask(user("?", Media(mime="image/png", data=b"x"))), ctx)
    assert server.asked == []


async def test_a_model_that_does_not_load_can_be_tried_again() -> None:
    tries: list[int] = []

    def load() -> FakeServer:
        tries.append(1)
        if len(tries) == 1:
            raise ModelError("could not be loaded")
        return FakeServer("fine")

    model = LocalModel(engine=Engine(load))
    with pytest.raises(ModelError, match="could not be loaded"):
        await model.invoke(ask(), Ctx())  # type: ignore[arg-type]
    assert (await model.invoke(ask(), Ctx())).message.text == "fine"  # type: ignore[arg-type]


async def test_an_error_of_the_reader_stops_the_engine() -> None:
    class Deaf(Ctx):
        def emit(self, data: Payload) -> int:
            raise RuntimeError("nobody listens")

    model, server, _ = make(ENDLESS, "fine")
    with pytest.raises(RuntimeError, match="nobody listens"):
        await model.invoke(ask(), Deaf())  # type: ignore[arg-type]
    assert server.running == 0
    assert (await model.invoke(ask(), Ctx())).message.text == "fine"  # type: ignore[arg-type]


# --- stopping and sharing -------------------------------------------------------------------


async def test_a_cancelled_call_stops_the_engine_and_the_next_one_works() -> None:
    model, server, ctx = make(ENDLESS, "fine")
    task = asyncio.create_task(model.invoke(ask(), ctx))
    await asyncio.to_thread(server.started.wait, 5)
    task.cancel()
    began = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - began < 5 and server.running == 0
    assert ctx.text.startswith("on ")
    assert (await model.invoke(ask(), ctx)).message.text == "fine"


async def test_a_call_that_waits_can_be_cancelled_at_once() -> None:
    model, server, ctx = make(ENDLESS, "third")
    first = asyncio.create_task(model.invoke(ask(), ctx))
    await asyncio.to_thread(server.started.wait, 5)
    second = asyncio.create_task(model.invoke(ask(user("second")), ctx))
    third = asyncio.create_task(model.invoke(ask(user("third")), ctx))
    await asyncio.sleep(0.05)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert server.running == 1
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert (await third).message.text == "third"
    assert ["second"] not in [[m["content"] for m in a["messages"]] for a in server.asked]


async def test_calls_are_served_in_order_from_several_loops() -> None:
    server = FakeServer(*(f"answer {n}" for n in range(8)))
    engine = Engine(lambda: server)

    def elsewhere() -> list[str]:
        async def go() -> list[str]:
            model = LocalModel(engine=engine)
            return [(await model.invoke(ask(), Ctx())).message.text for _ in range(4)]  # type: ignore[arg-type]

        return asyncio.run(go())

    here, there = await asyncio.gather(asyncio.to_thread(elsewhere), asyncio.to_thread(elsewhere))
    assert sorted(here + there) == [f"answer {n}" for n in range(8)]


async def test_the_loop_is_not_blocked_while_the_model_speaks() -> None:
    model, _server, ctx = make(ENDLESS)
    task = asyncio.create_task(model.invoke(ask(), ctx))
    gaps, last = [0.0], time.monotonic()
    for _ in range(30):
        await asyncio.sleep(0.005)
        gaps.append(time.monotonic() - last)
        last = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(gaps)[len(gaps) // 2] < 0.05


# --- weights at first use, and the command --------------------------------------------------


@pytest.fixture
def absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTRA_NB_CACHE", str(tmp_path))
    monkeypatch.delenv("MASTRA_NB_GGUF", raising=False)


async def test_the_first_use_says_what_it_fetches(
    absent: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fetch(size: str, *, progress: Any) -> Path:
        for done in range(0, 101, 5):
            progress(done, 100, "downloading")
        return tmp_path / "fetched.gguf"

    monkeypatch.setattr(_weights, "fetch", fetch)
    monkeypatch.setattr(local, "shared_engine", lambda path, n: Engine(lambda: FakeServer("hi")))
    model, ctx = LocalModel(), Ctx()
    with caplog.at_level(logging.INFO, "mastra_nb.local"):
        reply = await model.invoke(ask(), ctx)  # type: ignore[arg-type]
    assert reply.model == "fetched"
    note = ctx.out[0]
    assert isinstance(note, Noted) and note.level == "info"
    assert "491 MB" in note.text and "Apache-2.0" in note.text
    assert len(caplog.messages) == 11


async def test_a_cancelled_fetch_stops(absent: None, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended = threading.Event(), threading.Event()

    def fetch(size: str, *, progress: Any) -> Path:
        try:
            while True:
                begun.set()
                progress(1, 100, "downloading")
                time.sleep(0.005)
        finally:
            ended.set()

    monkeypatch.setattr(_weights, "fetch", fetch)
    task = asyncio.create_task(LocalModel().invoke(ask(), Ctx()))  # type: ignore[arg-type]
    await asyncio.to_thread(begun.wait, 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(ended.wait, 5)


def test_path_and_pull(
    absent: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fetch(size: str, *, progress: Any) -> Path:
        for done in range(101):
            progress(done * 10**6, 10**8, "downloading")
        return tmp_path / f"{size}.gguf"

    assert main(["path"]) == 1
    assert "providers.local pull" in capsys.readouterr().err
    monkeypatch.setattr(_weights, "fetch", fetch)
    assert main(["pull", "--large"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert "1.1 GB" in out[0] and "Apache-2.0" in out[0]
    assert 11 <= len(out) <= 14 and "100 %" in out[-3] and out[-1].endswith("large.gguf")


def test_pull_tells_an_error_in_our_form(
    absent: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(size: str, *, progress: Any) -> Path:
        raise ModelError("it could not be fetched", hint="Try again.")

    monkeypatch.setattr(_weights, "fetch", fail)
    assert main(["pull"]) == 1
    assert capsys.readouterr().err == "it could not be fetched\n  → Try again.\n"


def test_a_terminal_gets_one_line_that_is_rewritten() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    line = local._Line(out, "small")
    for done in (0, 1, 50, 50, 100):
        line(done, 100, "downloading" if done < 100 else "checking")
    line.end()
    assert out.getvalue().count("\n") == 1 and out.getvalue().count("\r") == 4
