from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from mastra_nb import Agent, tool
from mastra_nb.errors import ConfigError, SchemaError
from mastra_nb.testing import ScriptedModel
from mastra_nb.workflows import Workflow, otherwise, step


@dataclass
class Order:
    item: str
    amount: int


@step
def parse(text: str) -> Order:
    return Order(text, 1)


@step
def price(order: Order) -> float:
    return 2.0 * order.amount


@step
def size(text: str) -> int:
    return len(text)


@step
def words(text: str) -> list[str]:
    return text.split()


@step
def label(item: str, amount: int) -> str:
    return f"{amount} {item}"


@tool
def pay(amount: int) -> str:
    return f"paid {amount}"


def w() -> Workflow[Any]:
    return Workflow(name="w", input=str)


def fresh(fn: Any, id: str) -> Any:
    return step(fn, id=id)


def test_what_fits_is_built() -> None:
    made = w().then(parse).parallel([price, label]).commit()
    assert made.input_type is str
    assert made.output_type.types == {"price": float, "label": str}
    inner = Workflow(name="inner").then(fresh(size.fn, "length"))
    assert w().then(words).foreach(inner).output_type == list[int]
    assert w().then(words).foreach(size).output_type == list[int]
    assert w().then(size, when=bool).output_type == int | str
    assert w().branch([(bool, size), (otherwise, words)], exclusive=True).output_type == (
        int | list[str]
    )
    assert w().sleep(1).then(size).output_type is int
    assert w().wait_for_event("paid", schema=int).output_type is int
    agent = Agent(name="finder", model=ScriptedModel(), output=Order)
    assert w().then(words).then(agent).then(price).output_type is float


@pytest.mark.parametrize(
    ("build", "words_", "hint"),
    [
        (lambda: w().then(price), 'step "price" does not take what it is given: str is no Order',
         "it takes Order; map(...)"),
        (lambda: w().then(parse).then(size), '"size" does not take what it is given: Order is no',
         "it takes str"),
        (lambda: w().then(size).then(label), "int is no {item: str, amount: int}", "map(...)"),
        (lambda: w().then(pay), 'step "pay" does not take what it is given: str is no '
         "{amount: int}", "map(...)"),
        (lambda: w().parallel([size, price]), 'step "price" does not take', ""),
        (lambda: w().branch([(bool, price)]), 'step "price" does not take', ""),
        (lambda: w().foreach(size), 'foreach of "size" needs a list, but str is no list', "map"),
        (lambda: w().then(words).foreach(price), 'step "price" does not take what it is given: '
         "str is no Order", ""),
        (lambda: w().do_until(size, bool), 'step "size" does not take what it is given: '
         "int is no str", ""),
        (lambda: Workflow(name="w", input=str, output=str).then(size).commit(),
         "does not give what it promises: int is no str", "output=int"),
        (lambda: w().then(Workflow(name="inner", input=int).then(fresh(abs, "abs"))),
         'step "inner" does not take what it is given: str is no int', ""),
        (lambda: w().graph([size, step(price.fn, depends_on=[size])]),
         'step "price" does not take what it is given: int is no Order', ""),
        (lambda: w().then(Agent(name="a", model=ScriptedModel())).then(price), "str is no Order",
         ""),
        (lambda: w().wait_for_event("paid", schema=int).then(fresh(size.fn, "n")),
         "int is no str", ""),
        # Ids
        (lambda: w().then(words).then(words), 'has two steps "words"', 'id="words-2"'),
        (lambda: w().parallel([size, size]), 'has two steps "size"', "another id"),
        (lambda: w().wait_for_event("a").wait_for_event("a"), 'has two steps "a"', ""),
        (lambda: w().graph([size, size]), 'has two steps "size"', ""),
        # What cannot be reached
        (lambda: w().branch([(otherwise, size), (bool, words)]),
         'step "words" cannot be reached', "otherwise comes last"),
        (lambda: w().branch([(bool, size), (bool, words)], exclusive=True),
         'step "words" cannot be reached', ""),
        (lambda: w().graph([step(size.fn, depends_on=["parsed"])]),
         'step "size" depends on "parsed", which is not in the graph', 'known: "size"'),
        (lambda: w().graph([words, step(size.fn, depends_on=["wrods"])]),
         'depends on "wrods"', 'did you mean "words"?'),
        (lambda: w().graph([
            step(size.fn, depends_on=["a"]), step(words.fn, id="a", depends_on=["b"]),
            step(words.fn, id="b", depends_on=["a"])]),
         "in a circle: a → b → a", "take one out"),
        (lambda: w().wait_for_event("a/b"), 'waits for "a/b", which is no name', "no /"),
        # What is missing
        (lambda: w().commit(), "has no steps", ".then(step)"),
        (lambda: w().parallel([]), "parallel has no steps", "parallel("),
        (lambda: w().branch([]), "branch has no arms", "branch("),
        (lambda: w().branch([(bool, size, 1)]), "no (condition, step)", "otherwise"),  # type: ignore[list-item]
        (lambda: w().graph([]), "graph has no steps", "graph("),
        (lambda: w().foreach(size, concurrency=0), "concurrency of foreach is 0", "1 or more"),
        (lambda: w().do_while(size, 3), "the condition of do_while is no function", ""),  # type: ignore[arg-type]
        (lambda: w().sleep(-1), "sleep(-1) is no time", "seconds"),
        (lambda: w().sleep_until(3), "sleep_until(3) is no time", "datetime"),  # type: ignore[arg-type]
        (lambda: w().then(size).commit().then(words), "is committed", "make a new one"),
        (lambda: w().then(3), "int is no step", "a function"),
        (lambda: w().then(lambda n: n), "a step needs an id", "id="),
    ],
)  # fmt: skip
def test_what_cannot_work_is_told_when_it_is_written(
    build: Callable[[], Any], words_: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        build()
    assert 'workflow "w"' in caught.value.message
    assert words_ in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.hint and "\n" not in caught.value.hint


def test_a_verb_that_is_refused_adds_nothing() -> None:
    made = w()
    with pytest.raises(ConfigError):
        made.then(price)
    with pytest.raises(ConfigError):
        made.parallel([size, size])
    assert made.then(size).outline["nodes"] == [size.node]


def test_a_workflow_in_itself() -> None:
    made = w()
    with pytest.raises(ConfigError, match="is a step of itself"):
        made.then(made)
    with pytest.raises(ConfigError, match="is a step of itself"):
        made.foreach(step(made, id="other"))


def test_a_type_without_a_json_form() -> None:
    def f(a: dt.tzinfo) -> int:
        return 1

    with pytest.raises(SchemaError, match='workflow "w"'):
        w().then(f)


def test_a_workflow_in_another_is_whole() -> None:
    inner = Workflow(name="inner").then(size)
    w().then(inner)
    with pytest.raises(ConfigError, match="is committed"):
        inner.then(words)


def test_maps_and_sleeps_are_numbered() -> None:
    made = w().map(lambda t: t).sleep(1).map(lambda t: t).sleep(dt.timedelta(seconds=2))
    assert [n["id"] for n in made.outline["nodes"]] == ["map-1", "sleep-1", "map-2", "sleep-2"]
    assert [n.get("label") for n in made.outline["nodes"]][1::2] == ["1 s", "2 s"]


@pytest.mark.parametrize("name", ["", "a/b", "a[0]", "a#1", "a~2"])
def test_names_that_no_workflow_can_have(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a workflow"):
        Workflow(name=name)
