from __future__ import annotations

import inspect
from typing import Any

import pytest

from mastra_nb import Agent, Limits, ModelSettings, Processor
from mastra_nb.errors import ConfigError, NotFound, UsageError
from mastra_nb.guardrails import PIIDetector, TokenLimiter
from mastra_nb.notebook._front import OPTIONS, convert


class Shout(Processor):
    pass


def change(step: Any, turn: Any, ctx: Any) -> None: ...


BILLING = Agent(name="billing")
NAMES: dict[str, Any] = {"shout": Shout(), "Shout": Shout, "change": change, "billing": BILLING}


def one(name: str, value: Any) -> Any:
    return convert({name: value}, NAMES)[name]


def test_each_is_an_option_of_agent() -> None:
    assert set(OPTIONS) <= set(inspect.signature(Agent).parameters)


def test_what_yaml_can_say() -> None:
    assert one("max_steps", 3) == 3
    assert one("limits", {"cost": 0.05, "requests": 10}) == Limits(cost=0.05, requests=10)
    wanted = ModelSettings(temperature=0.0, reasoning="low", stop=("END",))
    assert one("settings", {"temperature": 0, "reasoning": "low", "stop": ["END"]}) == wanted
    assert one("active_tools", ["search"]) == ["search"]


def test_what_it_cannot_is_a_name() -> None:
    assert one("prepare_step", "change") is change
    assert one("stop_when", "change") == [change]
    assert one("handoffs", "billing") == [BILLING]
    assert one("require_tool_approval", True) is True
    assert one("require_tool_approval", "change") is change


def test_processors_are_variables_classes_and_ours() -> None:
    found = one("processors", ["shout", "Shout", "PIIDetector", {"TokenLimiter": {"limit": 100}}])
    assert found[0] is NAMES["shout"]
    assert [type(p) for p in found[1:]] == [Shout, PIIDetector, TokenLimiter]
    assert found[3].limit == 100


@pytest.mark.parametrize(
    ("name", "value", "error", "said"),
    [
        ("max_steps", "many", UsageError, "max_steps: 5"),
        ("limits", {"costs": 1}, UsageError, 'has no "costs"(?s:.*)"cost"'),
        ("settings", {"reasoning": "much"}, UsageError, "much"),
        ("prepare_step", "chnge", NotFound, '"change"'),
        ("prepare_step", "shout", UsageError, "is not a function"),
        ("processors", ["PIIDetectr"], NotFound, '"PIIDetector"'),
        ("processors", [{"PIIDetector": {"stratgy": "mask"}}], UsageError, "stratgy"),
        ("processors", [{"PIIDetector": {"strategy": "hide"}}], ConfigError, "redact"),
        ("processors", ["billing"], UsageError, "not a processor"),
        ("handoffs", ["biling"], NotFound, '"billing"'),
    ],
)
def test_what_is_wrong_is_named(name: str, value: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        one(name, value)
