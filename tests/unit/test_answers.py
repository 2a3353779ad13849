"""What is typed after %resume, as the answer to what was asked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mastra_nb import Mastra, step, suspend, workflow
from mastra_nb.answers import go_on, read_answer
from mastra_nb.errors import NotFound, NotResumable, UsageError
from mastra_nb.events import Suspended
from mastra_nb.tools import approval_schema

ENUM = {"enum": ["now", "later"]}
FORM = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TEXT, NUMBER, YES = {"type": "string"}, {"type": "number"}, {"type": "boolean"}
APPROVAL = approval_schema({"type": "object", "properties": {}})


def asked(schema: Any, reason: str = "input") -> Suspended:
    return Suspended(path="w/x", reason=reason, schema=schema)


@pytest.mark.parametrize(
    ("schema", "text", "answer"),
    [
        (None, "", ...),
        (None, "  ", ...),
        (None, "approve", True),
        (None, "deny", False),
        (None, ' {"a": 1} ', {"a": 1}),
        (None, "3", 3),
        (YES, "approve", True),
        (YES, "deny", False),
        (YES, "true", True),
        (YES, "17", 17),
        (TEXT, "Because it rains.", "Because it rains."),
        (TEXT, '"quoted"', "quoted"),
        (TEXT, "42", "42"),
        (TEXT, "approve", "approve"),
        (TEXT, "deny it all", "deny it all"),
        (ENUM, "later", "later"),
        (ENUM, '"now"', "now"),
        (NUMBER, "4.5", 4.5),
        (FORM, '{"a": 1}', {"a": 1}),
        (FORM, '{"a": "x"}', {"a": "x"}),
        (APPROVAL, "approve", {"approved": True}),
        (APPROVAL, "deny not to Eve", {"approved": False, "reason": "not to Eve"}),
    ],
)
def test_an_answer(schema: Any, text: str, answer: Any) -> None:
    assert read_answer(text, asked(schema)) == answer
    assert type(read_answer(text, asked(schema))) is type(answer)


def test_an_approval_is_a_mapping() -> None:
    approval = asked(None, "approval")
    assert read_answer("approve", approval) == {"approved": True}
    assert read_answer("deny", approval) == {"approved": False}
    assert read_answer("deny no") == {"approved": False, "reason": "no"}


@pytest.mark.parametrize(
    ("schema", "text", "hint"),
    [
        (None, "perhaps", "{…}"),
        (None, "approve it", "{…}"),
        (YES, "deny not today", "true|false"),
        (NUMBER, "many", "NUMBER"),
        (ENUM, "never", "now|later"),
        (FORM, "{a: 1}", '{"a": …}'),
    ],
)
def test_what_is_no_answer_is_said_with_the_form(schema: Any, text: str, hint: str) -> None:
    with pytest.raises(UsageError, match="is no answer") as raised:
        read_answer(text, asked(schema))
    assert raised.value.hint == f"%resume [RUN] {hint}"


class TestGoOn:
    async def run(self, **options: Any) -> Any:
        @workflow
        async def asks(city: str) -> str:
            one = suspend({"which": city}, schema=str, key="one", **options)
            two = suspend({"which": city}, schema=str, key="two", **options)
            return " ".join(await asyncio.gather(one, two))

        app = Mastra(workflows=[asks], storage="memory://")
        run = asks.run("Oslo")
        async for _ in run.events():
            pass
        return app, run

    async def test_of_several_questions_one_is_named(self) -> None:
        _, run = await self.run()
        with pytest.raises(NotResumable, match="waits in 2 places"):
            go_on(run, "a", now=0.0)
        first, second = run.pending
        with pytest.raises(NotFound):
            go_on(run, "a", at="nowhere", now=0.0)
        going = go_on(run, "a", at=first.rpartition("/")[2], now=0.0)
        async for _ in going.events():
            pass
        assert await go_on(going, "b", now=0.0) == "a b"
        assert second in run.pending

    async def test_one_that_asks_nothing_takes_no_answer(self) -> None:
        @workflow
        async def done(n: int) -> int:
            return n

        app = Mastra(workflows=[done], storage="memory://")
        run = done.run(1)
        await run
        with pytest.raises(NotResumable, match="asks nothing: it is done"):
            go_on(await app.get_run(run.id), "a", now=0.0)

    async def test_one_that_failed_is_tried_again(self) -> None:
        tries: list[int] = []

        @step
        def once(n: int) -> int:
            tries.append(n)
            if len(tries) == 1:
                raise ValueError("not yet")
            return n

        @workflow
        async def w(n: int) -> int:
            return await once(n)

        Mastra(workflows=[w], storage="memory://")
        run = w.run(7)
        with pytest.raises(ValueError, match="not yet"):
            await run
        with pytest.raises(NotResumable) as error:
            go_on(run, "a", now=0.0, command="mastra-nb resume")
        assert error.value.hint.startswith(f"mastra-nb resume {run.id}")
        assert await go_on(run, "", now=0.0) == 7
