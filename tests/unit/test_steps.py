from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mastra_nb import Agent, Context, tool
from mastra_nb.errors import (
    ConfigError,
    LimitExceeded,
    MastraError,
    SchemaError,
    StepError,
    ToolArgsError,
    UsageError,
)
from mastra_nb.runs import Run
from mastra_nb.schema import exact
from mastra_nb.shapes import Failure, Shape, typed
from mastra_nb.steps import Step, asked, step
from mastra_nb.testing import ScriptedModel
from mastra_nb.workflows import Workflow


@dataclass
class Point:
    x: int
    y: int = 0


def one(text: str) -> str:
    return text


def several(a: int, ctx: Context, b: str = "b") -> list[Any]:
    return [a, b]


# Shapes


def test_one_parameter_is_the_whole_input() -> None:
    shape = Shape(one)
    assert (shape.one, shape.type, shape.output) == ("text", str, str)
    assert shape.json == {"type": "string"}
    assert shape.bind(("hi",), {}) == shape.bind((), {"text": "hi"}) == "hi"
    assert shape.arguments("hi") == {"text": "hi"}


def test_several_are_filled_by_name_and_the_context_is_none_of_them() -> None:
    shape = Shape(several)
    assert shape.injected == "ctx"
    assert shape.type.types == {"a": int}
    assert shape.json == {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "string"}},
        "required": ["a"],
    }
    assert shape.bind((1,), {"b": "c"}) == {"a": 1, "b": "c"}
    assert shape.bind((1,), {}) == {"a": 1}
    assert shape.arguments({"a": 1, "other": 2}) == {"a": 1}
    assert shape.arguments({"a": "3"}) == {"a": 3}


def test_none_takes_anything() -> None:
    def nothing() -> int:
        return 1

    shape = Shape(nothing)
    assert shape.type is Any
    assert shape.bind((), {}) is None
    assert shape.arguments({"a": 1}) == {}


def test_fields_of_an_object_fill_parameters() -> None:
    def take(x: int, y: int) -> int:
        return x + y

    assert Shape(take).arguments(Point(1, 2)) == {"x": 1, "y": 2}


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((1, "b", 3), {}, '"several" does not take 3 arguments'),
        ((1,), {"a": 2}, '"several" does not take "a"'),
        ((1,), {"c": 2}, '"several" does not take "c"'),
        ((), {}, '"several" needs "a"'),
        ((), {"b": "x"}, '"several" needs "a"'),
    ],
)
def test_arguments_that_it_does_not_take(args: Any, kwargs: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        Shape(several).bind(args, kwargs)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("input", "words", "hint"),
    [
        ({"b": "x"}, 'there is no "a" in it', "it has: b"),
        ("text", "str is no mapping of a, b", "by name"),
        ({"a": "x"}, '"a": ', ""),
        ({"a": 1, "b": 2}, '"b": ', ""),
    ],
)
def test_inputs_that_do_not_fit(input: Any, words: str, hint: str) -> None:
    with pytest.raises(SchemaError, match=words) as caught:
        Shape(several).arguments(input)
    assert hint in caught.value.hint


@pytest.mark.parametrize("source", ["def f(*a): ...", "def f(**a): ...", "def f(a, /): ..."])
def test_parameters_need_names(source: str) -> None:
    space: dict[str, Any] = {}
    exec(source, space)
    with pytest.raises(SchemaError, match="has no name to call it by"):
        Shape(space["f"])


def test_a_type_without_a_json_form_is_refused_at_once() -> None:
    def f(a: asyncio.Future[int]) -> int:
        return 1

    with pytest.raises(SchemaError):
        step(f)


def test_what_is_unknown_has_no_schema() -> None:
    assert typed(Any, "it") is None and typed(object, "it") is None


# Options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"retries": -1}, "retries"),
        ({"retry_delay": -1}, "retry_delay"),
        ({"timeout": 0}, "timeout"),
        ({"when": 1}, "when"),
        ({"on_error": "ignore"}, "on_error"),
        ({"prompt": str}, "prompt"),
        ({"id": "a/b"}, '"a/b" cannot name a step'),
        ({"id": "a[b"}, "cannot name"),
    ],
)
def test_options_that_cannot_be_used(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        step(one, **options)
    assert caught.value.hint


def test_what_is_no_step() -> None:
    with pytest.raises(ConfigError, match="int is no step"):
        Step(1)
    with pytest.raises(ConfigError, match="is a step already"):
        Step(step(one))
    with pytest.raises(ConfigError, match="needs an id") as caught:
        step(lambda n: n)
    assert 'id="fetch"' in caught.value.hint


def test_a_copy_keeps_the_options() -> None:
    made = step(one, retries=2, on_error="collect", description="It.", timeout=1)
    copy = made.replace(id="other")
    assert (copy.name, copy.retries, copy.on_error, copy.timeout) == ("other", 2, "collect", 1)
    assert copy.description == "It." and made.name == "one"
    assert step(made) is made and step(made, id="three").name == "three"
    assert repr(copy) == "<Step other>"


def test_the_node_of_a_step() -> None:
    def decide(n: int) -> int:
        """Take it apart.

        And together.
        """
        return n

    def is_big(n: int) -> bool:
        return n > 3

    made = step(decide, when=is_big)
    assert made.node == {
        "type": "step",
        "id": "decide",
        "about": "Take it apart.",
        "when": "is_big",
        "code": made.code,
    }


# Calling one alone


async def test_a_step_alone() -> None:
    @step
    def add(a: int, b: int = 2) -> Point:
        return Point(a, b)

    assert await add(1) == Point(1, 2)
    assert await add(a=1, b=3) == Point(1, 3)
    assert await add.run({"a": 1}) == Point(1, 2)
    with pytest.raises(UsageError, match="needs"):
        add()


async def test_builtins_and_classes_are_steps() -> None:
    assert await step(str.upper, id="up")("a") == "A"
    assert await step(len)([1, 2]) == 2
    assert await step(int, id="number").run("3") == 3


async def test_retries_wait_twice_as_long_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    slept, plain = list[float](), asyncio.sleep

    async def sleep(seconds: float, *rest: Any) -> None:
        slept.append(seconds)
        await plain(0)

    tried = []

    async def flaky(n: int) -> int:
        tried.append(n)
        if len(tried) < 10:
            raise ValueError("no")
        return n

    monkeypatch.setattr(asyncio, "sleep", sleep)
    run = step(flaky, retries=9, retry_delay=0.5)(1)
    assert await run == 1
    assert slept == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    assert run.view.spans["flaky"].attempt == 10


async def test_the_last_error_is_the_one_that_is_raised() -> None:
    tried = []

    @step(retries=2, retry_delay=0)
    async def fails(n: int) -> int:
        tried.append(n)
        raise ValueError(f"no {len(tried)}")

    with pytest.raises(ValueError, match="no 3"):
        await fails(1)
    assert len(tried) == 3


@pytest.mark.parametrize("error", [LimitExceeded("used up"), ConfigError("wrong")])
async def test_what_another_attempt_cannot_help_is_not_tried_again(error: MastraError) -> None:
    tried = []

    @step(retries=5, retry_delay=0)
    async def fails(n: int) -> int:
        tried.append(n)
        raise error

    with pytest.raises(type(error)):
        await fails(1)
    assert len(tried) == 1


async def test_a_step_that_takes_too_long() -> None:
    @step(timeout=0.01)
    async def slow(n: int) -> int:
        await asyncio.sleep(10)
        return n

    with pytest.raises(StepError, match='"slow" did not end within 0.01 s') as caught:
        await slow(1)
    assert (caught.value.code, "timeout=" in caught.value.hint) == ("step.timeout", True)


async def test_a_timeout_of_its_own_is_not_the_steps() -> None:
    @step(timeout=10)
    async def fails(n: int) -> int:
        raise TimeoutError("the server's")

    with pytest.raises(TimeoutError, match="the server's"):
        await fails(1)


async def test_a_failure_stands_for_the_output() -> None:
    @step(on_error="collect")
    def fails(n: int) -> int:
        raise ValueError("no")

    assert await fails(1) == Failure(step="fails", code="ValueError", message="ValueError: no")


async def test_a_function_makes_the_output_of_a_failure() -> None:
    def instead(error: Exception, input: Any) -> str:
        return f"{error} of {input}"

    @step(on_error=instead)
    def fails(n: int) -> int:
        raise ValueError("no")

    assert await fails(1) == "no of 1"


async def test_what_has_no_json_form_cannot_be_given() -> None:
    @step
    def thing(n: int) -> Any:
        return object()

    with pytest.raises(StepError, match='what "thing" gave cannot be kept') as caught:
        await thing(1)
    assert caught.value.code == "step.output"


async def test_an_input_that_does_not_fit_names_the_step() -> None:
    with pytest.raises(StepError, match='the input of "several" does not fit: there is no "a"'):
        await step(several).run({"b": "x"})


async def test_conditions_take_what_they_name() -> None:
    class Asking:
        kind = "step"
        name = "asking"

        async def invoke(self, input: Any, ctx: Context) -> Any:
            async def later(value: int, at: Context) -> Any:
                return [value, at is ctx]

            return [
                await asked(lambda: "none", ctx, 1, 2),
                await asked(lambda a: a, ctx, 1, 2),
                await asked(lambda a, b: a + b, ctx, 1, 2),
                await asked(lambda *all: [*all], ctx, 1, 2),
                await asked(later, ctx, 1, 2),
            ]

    assert await Run(Asking(), None) == ["none", 1, 3, [1, 2], [1, True]]


# What is journaled


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",))),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner) | st.tuples(inner),
)


@given(JSON)
def test_what_is_kept_comes_back_as_it_was(value: Any) -> None:
    kept = exact(value)
    assert msgspec.json.decode(msgspec.json.encode(kept)) == kept
    assert exact(kept) == kept
    assert json.loads(json.dumps(kept)) == kept


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**70, -(2**70)])
def test_numbers_that_json_has_not_are_refused(value: Any) -> None:
    with pytest.raises(SchemaError, match="JSON has no"):
        exact({"deep": [value]})


# Agents, tools and workflows as steps


async def test_an_agent_is_asked_with_what_comes() -> None:
    model = ScriptedModel("one", "two", "three", "four")
    agent = Agent(name="poet", model=model, instructions="Write.")
    made = step(agent)
    assert (made.kind, made.output, made.input) == ("agent", str, Any)
    await made("a poem")
    await made({"prompt": "a text"})
    await made(Point(1, 2))
    await step(agent, prompt=lambda p: f"point {p['x']}", id="p")({"x": 7})
    said = [r.messages[-1].text for r in model.requests]
    assert said == ["a poem", "a text", '{\n  "x": 1,\n  "y": 2\n}', "point 7"]


async def test_an_agents_typed_answer_is_the_output() -> None:
    agent = Agent(name="finder", model=ScriptedModel('{"x": 3}'), output=Point)
    made = step(agent)
    assert made.output is Point
    run = made("where?")
    assert await run == Point(3)
    assert run.view.spans["finder"].output == {"x": 3}


async def test_a_default_that_an_agent_left_out_fills_a_parameter_all_the_same() -> None:
    agent = Agent(name="finder", model=ScriptedModel('{"x": 3}'), output=Point)
    made = Workflow(name="w").then(agent).then(step(lambda x, y: [x, y], id="both"))
    assert await made.run("where?") == [3, 0]


async def test_a_tool_takes_a_mapping_of_its_arguments() -> None:
    @tool
    def add(a: int, b: int = 2) -> int:
        """Add them."""
        return a + b

    made = step(add)
    assert (made.kind, made.description, made.input.types) == ("tool", "Add them.", {"a": int})
    assert await made(a=1) == 3
    assert await made.run({"a": 1, "b": 5}) == 6
    with pytest.raises(ToolArgsError, match="must be a JSON object, not int"):
        await made.run(1)


async def test_what_a_tool_gives_a_step_is_not_cut() -> None:
    @tool
    def long(n: int) -> str:
        return "x" * n

    assert await Workflow(name="w").then(long).then(step(len)).run({"n": 100_000}) == 100_000


async def test_a_workflow_with_options() -> None:
    inner = Workflow(name="inner").then(step(str.upper, id="up"))
    made = step(inner, id="other", when=bool)
    assert made.kind == "workflow"
    assert [n["id"] for n in made.node["nodes"]] == ["up"]
    outer = Workflow(name="outer").then(made)
    assert await outer.run("a") == "A"
    assert await outer.run("") == ""


async def test_a_step_alone_that_is_left_out_gives_its_input() -> None:
    run = step(str.upper, id="up", when=lambda text: False)("a")
    assert await run == "a"
    assert run.status == "done"


async def test_a_step_alone_that_bails_gives_that() -> None:
    @step
    def early(n: int, ctx: Context) -> int:
        ctx.bail({"n": n})

    assert await early(1) == {"n": 1}
