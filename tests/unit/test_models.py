from __future__ import annotations

from typing import Any

import msgspec
import pytest

from mastra_nb.agents import Agent
from mastra_nb.context import Context
from mastra_nb.errors import (
    ConfigError,
    LimitExceeded,
    ModelError,
    ModelHTTPError,
    ModelOutputError,
    ModelRefused,
    ModelTimeout,
    NotFound,
)
from mastra_nb.events import Noted, SpanEnded
from mastra_nb.language import model as language_model
from mastra_nb.limits import Limits
from mastra_nb.messages import Media, Usage, assistant, user
from mastra_nb.models import (
    MODEL,
    Fallback,
    ModelRequest,
    ModelSettings,
    Priced,
    Recorder,
    Reply,
    cost,
    digest,
    ready,
    resolve,
    set_price,
)
from mastra_nb.runs import Run
from mastra_nb.services import Services
from mastra_nb.stores.memory import MemoryStore
from mastra_nb.testing import ScriptedModel, calls
from mastra_nb.tools import Tool

ASK = ModelRequest(messages=(user("x"),))


async def ask(model: Any, limits: Limits | None = None) -> Run[Reply]:
    run = Run(ready(model, Services()), ASK, codec=MODEL, limits=limits)
    await run
    return run


def test_models_by_name() -> None:
    one, two = ScriptedModel(name="p/one"), ScriptedModel(name="p/two")
    assert resolve(one) is one
    chain = resolve([one, two])
    assert isinstance(chain, Fallback)
    assert (chain.models, chain.name) == ((one, two), "p/one")
    for wrong, error in [
        ("gpt", ConfigError),
        ("nope/x", NotFound),
        (3, ConfigError),
        ([], ConfigError),
    ]:
        with pytest.raises(error):
            resolve(wrong)  # type: ignore[arg-type]


async def test_the_next_model_answers_if_one_cannot() -> None:
    down = ScriptedModel(ModelError("overloaded"), name="p/down")
    run = await ask(Fallback([down, ScriptedModel("Hi.", name="p/up")]))
    assert (await run).message.text == "Hi."
    notes = [d.text for _, d in run.view.items if isinstance(d, Noted)]
    assert notes == ['"p/down" failed (overloaded); going on with "p/up"']
    assert (run.log.meter.requests, run.usage.calls) == (2, 2)


async def test_a_fallback_counts_as_a_request() -> None:
    models = [ScriptedModel(ModelError("down"), name=f"p/{i}") for i in range(3)]
    with pytest.raises(LimitExceeded, match="2 requests"):
        await ask(Fallback(models), Limits(requests=2))
    assert [len(m.requests) for m in models] == [1, 1, 0]
    with pytest.raises(ModelError, match="down"):
        await ask(Fallback([ScriptedModel(ModelError("down"), repeat=True)] * 2))


class Mute(ScriptedModel):
    """Breaks off after it has begun to speak."""

    async def invoke(self, request: Any, ctx: Any) -> Reply:
        await super().invoke(request, ctx)
        raise ModelError("cut")


async def test_who_has_begun_to_speak_is_not_replaced() -> None:
    other = ScriptedModel("never")
    agent = Agent(name="a", model=[Mute("Hel"), other])
    run = agent.run("x")
    with pytest.raises(ModelError, match="cut"):
        await run
    assert other.requests == []
    assert (run.messages[-1].text, run.messages[-1].partial) == ("Hel", True)


async def test_fallback_requests_are_remembered_when_a_run_goes_on() -> None:
    act = Tool(lambda: 1, name="act", needs_approval=True)
    down, up = ScriptedModel(ModelError("down"), repeat=True), ScriptedModel(calls("act"), "never")
    run = Agent(name="a", model=[down, up], tools=[act]).run("x", limits=Limits(requests=3))
    with pytest.raises(Exception, match="waits"):
        await run
    resumed = run.resume({"approved": True})
    with pytest.raises(LimitExceeded):
        await resumed
    assert (len(down.requests), len(up.requests)) == (2, 1)


async def test_prices() -> None:
    usage = Usage(input=1_000_000, cached=500_000, output=100_000, calls=1)
    set_price("p/priced", input=2, output=10, cached=1)
    set_price("p/plain", input=2, output=10)
    assert cost("p/priced", usage) == pytest.approx(2.5)
    assert cost("p/plain", usage) == pytest.approx(3)
    assert cost("p/unknown", usage) is None
    assert cost("ollama/any", usage) == 0
    reply = Reply(message=assistant("x"), usage=Usage(input=1000, output=100))
    run = await ask(ScriptedModel(reply, name="p/plain"))
    assert (run.usage.cost, run.usage.calls) == (pytest.approx(0.003), 1)
    assert (await ask(ScriptedModel(reply, name="p/unknown"))).usage.cost is None


def test_a_digest_is_of_the_content() -> None:
    one = ModelRequest(messages=(user("x"),), settings=ModelSettings(extra={"a": 1, "b": 2}))
    two = ModelRequest(messages=(user("x"),), settings=ModelSettings(extra={"b": 2, "a": 1}))
    assert digest(one) == digest(two) != digest(ASK)


async def recorded(mode: Any, store: Any, *script: Any) -> tuple[list[str], Recorder]:
    recorder = Recorder(store, mode)
    services = Services(wrap_model=recorder.wrap, now=recorder.now)
    model = ScriptedModel(*script)
    out = []
    for prompt in ("a", "b", "a"):
        run = Agent(name="x", model=model, services=services).run(prompt)
        out.append(await run)
    return out, recorder


async def test_what_was_recorded_is_said_again() -> None:
    store = MemoryStore()
    said, recorder = await recorded("record", store, "1", "2", "3")
    assert (recorder.called, recorder.replayed) == (3, 0)
    for mode in ("only", "auto"):
        again, recorder = await recorded(mode, store)
        assert (again, recorder.called, recorder.replayed) == (said, 0, 3)
    with pytest.raises(ModelError) as caught:
        await recorded("only", MemoryStore(), "never")
    assert caught.value.code == "model.not_recorded"
    said, recorder = await recorded("auto", MemoryStore(), "1", "2", "never")
    assert (said, recorder.called) == (["1", "2", "1"], 2)


async def test_a_replay_emits_what_a_reader_sees() -> None:
    store = MemoryStore()
    await recorded("record", store, "1", "2", "3")
    recorder = Recorder(store, "only")
    services = Services(wrap_model=recorder.wrap, now=recorder.now)
    run = Agent(name="x", model=ScriptedModel(), services=services).run("b")
    assert "".join([t async for t in run.stream_text()]) == "2"


def refusal(usage: Usage) -> ModelRefused:
    return ModelRefused("no", details={"usage": msgspec.to_builtins(usage)})


async def test_a_refusal_costs_what_the_provider_says() -> None:
    set_price("p/strict", input=2, output=0)
    model = ScriptedModel(refusal(Usage(input=1_000_000)), name="p/strict")
    run = Agent(name="a", model=model).run("x")
    with pytest.raises(ModelRefused):
        await run
    assert (run.usage.input, run.usage.cost) == (1_000_000, pytest.approx(2))
    assert run.log.meter.usage == run.usage


async def test_a_refusal_before_another_model_answers_counts_too() -> None:
    set_price("p/strict", input=2, output=0)
    set_price("p/kind", input=1, output=0)
    strict = ScriptedModel(refusal(Usage(input=1_000_000)), repeat=True, name="p/strict")
    said = Reply(message=assistant("Yes."), usage=Usage(input=1_000_000))
    run = Agent(name="a", model=[strict, ScriptedModel(said, name="p/kind")]).run("x")
    assert await run == "Yes."
    assert (run.usage.input, run.usage.cost) == (2_000_000, pytest.approx(3))
    assert run.usage.calls == run.log.meter.requests == 2
    assert run.log.meter.usage == run.usage
    both = Agent(name="a", model=[strict, strict]).run("x")
    with pytest.raises(ModelRefused):
        await both
    assert (both.usage.cost, both.usage.calls) == (pytest.approx(4), 2)
    assert both.log.meter.usage == both.usage


async def test_a_call_that_broke_off_is_estimated() -> None:
    set_price("p/broken", input=1.0, output=2.0)
    image = Media(mime="image/png", data=b"x" * 160_000)

    async def spent(line: Any, error: BaseException, **settings: Any) -> Usage | None:
        class Breaks(ScriptedModel):
            async def invoke(self, request: Any, ctx: Any) -> Reply:
                if self.script:
                    await super().invoke(request, ctx)
                raise error

        async def go(ctx: Context) -> None:
            model = Priced(Breaks(*line, name="p/broken"))
            asked = user("y" * 100, *([image] if settings.pop("media", False) else []))
            request = ModelRequest(messages=(asked,), settings=ModelSettings(**settings))
            await ctx.call(model, request, codec=MODEL)

        run = Run(Tool(go), {})
        with pytest.raises(Exception, match="."):
            await run
        return next(e.data.usage for e in run.log.events if isinstance(e.data, SpanEnded))

    cut = ModelError("cut")
    found = await spent(["z" * 100], cut)
    assert found is not None
    assert (found.estimated, found.calls, found.output) == (True, 1, 50)
    assert 50 < found.input < 120
    assert found.cost == pytest.approx((found.input + 100) / 1e6)
    capped = await spent(["z" * 100], cut, max_tokens=7)
    assert capped is not None
    assert capped.output == 7
    seen = await spent(["z"], cut, media=True)
    assert seen is not None
    assert 10_000 < seen.input < 10_200
    assert await spent([], cut) is None
    assert await spent([], ModelHTTPError("no", status=500)) is None
    for error in (ModelTimeout("late"), ModelOutputError("garbage"), ModelRefused("no")):
        late = await spent([], error)
        assert late is not None
        assert (late.output, late.estimated) == (0, True)
    told = ModelError("cut", details={"usage": {"input": 3, "output": 4, "calls": 1}})
    known = await spent(["z" * 100], told)
    assert known == Usage(input=3, output=4, calls=1, cost=pytest.approx(11e-6))


async def test_a_server_that_does_not_count_is_estimated() -> None:
    line = Reply(message=assistant("z" * 10, calls("f", a="b")), usage=Usage(calls=1))
    run = language_model(ScriptedModel(line, name="p/broken")).run("y" * 100)
    await run
    assert run.usage.estimated
    assert run.usage.output == 10
    assert run.usage.calls == 1
