from __future__ import annotations

import pytest

from mastra_nb import Agent, Mastra, Workflow, tool
from mastra_nb.context import Context
from mastra_nb.testing import ScriptedModel, calls


@tool(needs_approval=True)
def pay(amount: int) -> dict[str, int]:
    """Pays."""
    return {"paid": amount}


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"{city}: 21"


async def double(n: int) -> int:
    return n * 2


async def ask(n: int, ctx: Context) -> int:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    return n if ctx.suspend({"n": n}, schema=schema)["ok"] else 0


@pytest.fixture
def application() -> Mastra:
    """Agents "plain", "payer" (asks before it pays); workflows "math", "human"."""
    payer = ScriptedModel(calls("pay", amount=3), "Paid.", repeat=True)
    return Mastra(
        agents=[
            Agent(name="plain", model=ScriptedModel("Hello.", repeat=True), memory=True),
            Agent(name="payer", model=payer, tools=[pay], memory=True),
        ],
        tools=[weather],
        workflows=[
            Workflow(name="math", input=int).then(double),
            Workflow(name="human", input=int).then(double).then(ask),
        ],
        storage="memory://",
    )
