"""Our errors in a cell: a line, and how to go on."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from mastra_nb.answers import form
from mastra_nb.errors import MastraError, RunSuspended, Stopped
from mastra_nb.events import Suspended
from mastra_nb.notebook._errors import lines, resumes
from mastra_nb.workflows import suspend, workflow

_COLOR = re.compile(r"\x1b\[\d*m")


def shown(error: MastraError) -> list[str]:
    return [_COLOR.sub("", line) for line in lines(error)]


def asked(path: str, schema: Any = None, reason: str = "input") -> Suspended:
    return Suspended(path=path, reason=reason, schema=schema)


def test_a_message_and_its_hint() -> None:
    assert shown(MastraError("it broke", hint="mend it")) == [
        "MastraError: it broke",
        "  → mend it",
    ]
    assert shown(MastraError("it broke")) == ["MastraError: it broke"]
    assert shown(Stopped("stopped after 3 tokens")) == ["■ stopped after 3 tokens"]


def test_places_are_as_short_as_they_can_be() -> None:
    pending = [
        asked("w/a#1f.0"),
        asked("w/b#1f.0", {"type": "boolean"}),
        asked("w/b#2e.0", {"type": "string"}),
        asked("w/c[0]/d"),
        asked("w/c[1]/d", reason="approval"),
    ]
    assert resumes("r_1", {p.path: p for p in pending}) == [
        "%resume r_1 --at a {…}",
        "%resume r_1 --at b#1f.0 true|false",
        "%resume r_1 --at b#2e.0 TEXT",
        "%resume r_1 --at w/c[0]/d {…}",
        "%resume r_1 --at w/c[1]/d approve",
    ]
    assert resumes("r_1", {p.path: p for p in pending[:1]}) == ["%resume r_1 {…}"]
    assert resumes("r_1", {}) == ["%resume r_1 approve"]


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "boolean"}, "true|false"),
        ({"type": "string"}, "TEXT"),
        ({"type": "integer"}, "NUMBER"),
        ({"type": "string", "enum": ["a", "b"]}, "a|b"),
        ({"type": "object", "properties": {"a": {}, "b": {}}}, '{"a": …, "b": …}'),
        ({"type": "object"}, "{…}"),
        ({"type": "array"}, "{…}"),
        ({"type": ["string", "null"]}, "{…}"),
        (None, "{…}"),
    ],
)
def test_the_shape_of_an_answer(schema: Any, said: str) -> None:
    assert form(asked("w/x", schema)) == said


async def test_a_run_that_waits_in_several_places_names_one() -> None:
    @workflow
    async def pair() -> list[bool]:
        both = [suspend(f"{n}?", name=n, schema=bool) for n in ("first", "second")]
        return await asyncio.gather(*both)

    run = pair()
    with pytest.raises(RunSuspended) as raised:
        await run
    assert shown(raised.value) == [
        f"⏸ suspended {run.id} · input, input · "
        f"%resume {run.id} --at first true|false · 1 more: %mastra waiting"
    ]
    assert shown(RunSuspended('run "r_1" of "x" waits: input', run="r_1")) == [
        "⏸ suspended r_1 · input · %resume r_1 approve"
    ]
    with pytest.raises(RunSuspended) as raised:
        await run.resume(True, path="first")
    assert shown(raised.value)[0].endswith(f"%resume {run.id} true|false")
