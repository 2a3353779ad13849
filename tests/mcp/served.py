"""An application for the tests of the server: `python -m mastra_nb.server.mcp served:app`."""

from __future__ import annotations

from mastra_nb import Agent, Context, Mastra, Media, Settings, tool
from mastra_nb.server.mcp import ClientModel, MCPServer
from mastra_nb.testing import ScriptedModel, calls

print("this line on stdout must not reach the client")


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    print("nor this one")
    return a + b


@tool
def leak() -> str:
    """Fail with a secret in a message, and a traceback."""
    raise RuntimeError("no access with sk-proj-canarycanarycanarycanary1234567890")


@tool(needs_approval=True)
def delete(path: str) -> str:
    """Delete a file."""
    return f"deleted {path}"


@tool
def colour(ctx: Context) -> str:
    """Ask for a colour."""
    wanted = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    return str(ctx.suspend({"message": "Which colour?"}, schema=wanted)["name"])


@tool
def picture() -> list[object]:
    """An image."""
    return [Media(mime="image/png", data=b"\x89PNG")]


@tool
def facts() -> dict[str, int]:
    """An object."""
    return {"n": 3}


made = Mastra(
    agents=[
        Agent(
            name="poet",
            description="Writes poems.",
            model=ScriptedModel("Roses are red, and so on.", repeat=True, piece=10),
        ),
        Agent(
            name="cleaner",
            model=ScriptedModel(calls("delete", path="a.txt"), "cleaned", repeat=True),
            tools=[delete],
        ),
        Agent(name="borrower", model=ClientModel()),
    ],
    tools=[add, leak, delete, colour, picture, facts],
    settings=Settings(),
)
app = MCPServer(made, name="served", instructions="Be nice to it.")


def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


def review(code: str, tone: str = "kind") -> str:
    """Review code.

    Args:
        code: what to review
    """
    return f"Review this, and be {tone}: {code}"


app.add_resource("note://hello", "Hello!", name="hello")
app.add_resource("note://pixels", b"\x00\x01", mime="image/png")
app.add_resource("weather://{city}", weather, complete={"city": ["Oslo", "Osaka", "Rome"]})
app.add_prompt(
    review, complete={"tone": lambda begun: [t for t in ("kind", "harsh") if begun in t]}
)
