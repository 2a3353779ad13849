"""What is typed after %resume, as the answer to what was asked."""

from __future__ import annotations

from typing import Any

import pytest

from mastra_nb.errors import UsageError
from mastra_nb.events import Suspended
from mastra_nb.notebook._ask import read_answer
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
