from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

import msgspec
import pydantic
import pytest

import mastra_nb
from mastra_nb.agents import Agent
from mastra_nb.errors import ConfigError, LimitExceeded, ModelOutputError, NotFound, SchemaError
from mastra_nb.language import LanguageModel, merged, partial
from mastra_nb.limits import Limits
from mastra_nb.messages import Message, ToolSpec, Usage, assistant, user
from mastra_nb.models import ModelSettings, Profile, Reply, set_price
from mastra_nb.testing import ScriptedModel, calls
from mastra_nb.tools import Tool


@dataclass
class City:
    name: str
    people: int


class Street(msgspec.Struct):
    name: str
    city: City
    numbers: list[int] = []


class Person(pydantic.BaseModel):
    name: str
    age: int = pydantic.Field(ge=0)


class Pair(TypedDict):
    one: str
    two: int


def scripted(handle: LanguageModel) -> ScriptedModel:
    found: Any = handle.resolved
    while not isinstance(found, ScriptedModel):
        found = found.inner
    return found


async def test_a_model_alone_gives_its_message() -> None:
    raw = {"id": "abc"}
    reply = Reply(message=assistant("Hello there."), usage=Usage(input=3, calls=1), raw=raw)
    handle = mastra_nb.model(ScriptedModel(reply))
    run = handle.run("Hi", instructions="Be kind.")
    assert run.status == "new"
    assert [t async for t in run.stream_text()] == ["Hello th", "ere."]
    assert await run == assistant("Hello there.") == run.messages[0]
    assert (run.text, run.finish_reason, run.usage.input) == ("Hello there.", "stop", 3)
    assert run.raw == raw
    (request,) = scripted(handle).requests
    assert [(m.role, m.text) for m in request.messages] == [("system", "Be kind."), ("user", "Hi")]
    assert "Hello there." in run._repr_mimebundle_()["text/plain"]
    assert repr(handle) == "<Model scripted/model>"


async def test_its_tool_calls_are_not_executed() -> None:
    def look(city: str) -> None:
        raise AssertionError("it was called")

    spec = ToolSpec(name="other", description="", parameters={"type": "object"})
    handle = mastra_nb.model(ScriptedModel(calls("look", city="Oslo")))
    run = handle.run([user("x")], tools=[look, spec], tool_choice="required")
    message = await run
    assert isinstance(message, Message)
    assert message.tool_calls[0].name == "look"
    assert run.finish_reason == "tool-calls"
    (request,) = scripted(handle).requests
    assert [t.name for t in request.tools] == ["other", "look"]
    assert request.tool_choice == "required"


async def test_a_typed_answer_or_the_calls_before_it() -> None:
    handle = mastra_nb.model(
        ScriptedModel("Oslo!", '{"name": "Oslo", "people": 1}', "42", calls("f"), *["no"] * 3)
    )
    run = handle.run("Which?", output=City)
    assert await run == City("Oslo", 1)
    assert run.usage.calls == 2
    assert await handle.run("How many?", output=int) == 42
    called = await handle.run("x", tools=[Tool(lambda: 1, name="f")], output=City)
    assert called.tool_calls[0].name == "f"
    with pytest.raises(ModelOutputError, match="gave no valid City in 3 tries"):
        await handle.run("x", output=City)
    told = mastra_nb.model(ScriptedModel("42", profile=Profile(json_schema=False)))
    assert await told.run("x", instructions="Count.", output=int) == 42
    (request,) = scripted(told).requests
    assert request.messages[0].text.startswith("Count.\n\nAnswer with JSON that fits this schema:")
    assert request.output is None


async def test_settings_of_the_model_and_of_one_call() -> None:
    handle = mastra_nb.model(ScriptedModel("1", "2", "3"), temperature=0.5, extra={"a": 1})
    await handle.run("x")
    await handle.run("x", temperature=0.0, max_tokens=5)
    await Agent(name="a", model=handle, settings=ModelSettings(seed=1)).run("x")
    asked = [r.settings for r in scripted(handle).requests]
    assert [s.temperature for s in asked] == [0.5, 0.0, 0.5]
    assert (asked[1].max_tokens, asked[2].seed) == (5, 1)
    both = merged(ModelSettings(extra={"a": 1}), ModelSettings(extra={"b": 2}, stop=("x",)))
    assert (both.extra, both.stop) == ({"a": 1, "b": 2}, ("x",))
    for wrong in ({"heat": 1}, {"temperature": "hot"}):
        with pytest.raises(SchemaError, match="setting"):
            mastra_nb.model(ScriptedModel(), **wrong)
    with pytest.raises(NotFound):
        mastra_nb.model("nope/x")
    with pytest.raises(ConfigError):
        mastra_nb.model("gpt")


async def test_a_chain_with_settings_is_priced_by_who_answered() -> None:
    set_price("p/dear", input=1000, output=0)
    first = ScriptedModel(mastra_nb.errors.ModelError("down"), repeat=True, name="p/none")
    second = ScriptedModel(
        Reply(message=assistant("x"), usage=Usage(input=1000)), repeat=True, name="p/dear"
    )
    handle = mastra_nb.model([first, second], temperature=0.0)
    run = handle.run("x")
    await run
    assert (run.usage.cost, run.usage.calls) == (pytest.approx(1.0), 2)
    with pytest.raises(LimitExceeded):
        await handle.run("x", limits=Limits(requests=1))


async def test_inside_a_run_it_is_a_part_of_it() -> None:
    handle = mastra_nb.model(ScriptedModel("Deep.", name="p/inner"))

    async def think() -> str:
        message = await handle.run("x")
        return str(message.text)

    run = Agent(name="a", model=ScriptedModel(calls("think"), "Ok."), tools=[think]).run("x")
    assert await run == "Ok."
    assert run.usage.calls == 3
    assert run.text == "Ok."


def test_half_a_surrogate_pair_in_a_message() -> None:
    with pytest.raises(SchemaError, match="a prompt is text or a list of messages"):
        mastra_nb.model(ScriptedModel("x")).run(user("\ud800"))


@pytest.mark.parametrize(
    ("type_", "value", "shown"),
    [
        (City, {}, {"name": None, "people": None}),
        (City, {"name": "Os", "people": "many"}, {"name": "Os", "people": None}),
        (Person, {"name": "Bo"}, {"name": "Bo", "age": None}),
        (City | None, {"name": "Os"}, {"name": "Os", "people": None}),
    ],
)
def test_partial_objects(type_: Any, value: Any, shown: dict[str, Any]) -> None:
    made = partial(type_, value)
    assert {name: getattr(made, name) for name in shown} == shown


def test_partial_values_inside_each_other() -> None:
    street = partial(Street, {"name": "A", "city": {"name": "Os"}, "numbers": [1, "x"]})
    assert isinstance(street, Street)
    assert (street.city.name, street.city.people, street.numbers) == ("Os", None, [1, None])
    cities = partial(list[City], [{"name": "Os", "people": 1}, {}])
    assert cities[0] == City("Os", 1)
    assert cities[1].name is None
    assert partial(Pair, {"one": "x", "three": 3}) == {"one": "x"}
    assert partial(int, "x") is None
    assert partial(dict[str, int], {"a": 1}) == {"a": 1}


async def test_partials_grow_into_the_answer() -> None:
    text = '{"name": "Trondheim", "people": 200000}'
    run = Agent(name="a", model=ScriptedModel(text, piece=5), output=City).run("x")
    seen = [p async for p in run.partials()]
    assert all(isinstance(p, City) for p in seen)
    names = [p.name for p in seen if p.name]
    assert all("Trondheim".startswith(n) for n in names)
    assert seen[-1] == await run == City("Trondheim", 200000)
    words = Agent(name="a", model=ScriptedModel('{"value": ["a", "b"]}', piece=3), output=list[str])
    assert [p async for p in words.run("x").partials()][-1] == ["a", "b"]


@pytest.mark.parametrize(
    ("kind", "whole"), [(list[int], [1]), (set[int], {1}), (tuple[int, ...], (1,))]
)
def test_a_partial_collection_is_of_its_own_kind(kind: Any, whole: Any) -> None:
    assert partial(kind, [1]) == whole


def test_tools_that_are_no_list() -> None:
    with pytest.raises(ConfigError, match="must be a list"):
        LanguageModel(ScriptedModel()).run("x", tools=print)  # type: ignore[arg-type]


def test_a_tool_that_is_to_be_called_must_be_there() -> None:
    with pytest.raises(ConfigError, match="none of the tools"):
        LanguageModel(ScriptedModel()).run("x", tool_choice="search")
