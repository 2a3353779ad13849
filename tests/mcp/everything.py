"""The server that the conformance suite talks to: `python tests/mcp/everything.py PORT`."""

from __future__ import annotations

import asyncio
import base64
import sys
from typing import Any, ClassVar, Literal

import uvicorn

from mastra_nb import Context, Mastra, Media, Message, Settings, Text, tool
from mastra_nb.errors import Suspend
from mastra_nb.events import Noted
from mastra_nb.messages import ToolSpec
from mastra_nb.models import ModelRequest
from mastra_nb.server.mcp import ClientModel, MCPServer, client_roots

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGP4z8DwHwAFAAH/iZk9HQAAAABJRU5ErkJggg=="
)
WAV = base64.b64decode("UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAAAAA==")

IMAGE = Media(mime="image/png", data=PNG)


def schema(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def form(**properties: Any) -> dict[str, Any]:
    return {**schema(**properties), "required": [*properties]}


def resource(uri: str, mime: str, text: str) -> dict[str, Any]:
    return {"type": "resource", "resource": {"uri": uri, "mimeType": mime, "text": text}}


@tool
def test_simple_text() -> str:
    """Text."""
    return "This is a simple text response for testing."


@tool
def test_image_content() -> list[Any]:
    """An image."""
    return [IMAGE]


@tool
def test_audio_content() -> list[Any]:
    """A sound."""
    return [Media(mime="audio/wav", data=WAV)]


@tool
def test_embedded_resource() -> Any:
    """A resource inside the result."""
    text = "This is an embedded resource content."
    return resource("test://embedded-resource", "text/plain", text)


@tool
def test_multiple_content_types() -> list[Any]:
    """Text, an image and a resource."""
    data = '{"test":"data","value":123}'
    file = resource("test://mixed-content-resource", "application/json", data)
    return [Text(text="Multiple content types test:"), IMAGE, file]


@tool
async def test_tool_with_logging(ctx: Context) -> str:
    """Three log lines."""
    for text in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        ctx.emit(Noted(level="info", text=text))
        await asyncio.sleep(0.05)
    return "logged"


@tool
async def test_logging_tool(ctx: Context) -> str:
    """A log line of each level."""
    for level in ("debug", "info", "warning", "error"):
        ctx.emit(Noted(level=level, text=f"a line of level {level}"))
    return "logged"


@tool
def test_error_handling() -> str:
    """An error."""
    raise ValueError("This tool intentionally returns an error for testing")


@tool
async def test_tool_with_progress(ctx: Context) -> str:
    """Progress in three steps."""
    for done in (0, 50, 100):
        ctx.note("progress", {"progress": done, "total": 100})
        await asyncio.sleep(0.05)
    return "done"


@tool
async def test_sampling(prompt: str, ctx: Context) -> str:
    """Ask the client's model."""
    asked = ModelRequest(messages=(Message(role="user", parts=(Text(text=prompt),)),))
    reply = await ctx.call(ClientModel(max_tokens=100), asked)
    return f"LLM response: {reply.message.text}"


@tool
async def test_elicitation(message: str, ctx: Context) -> str:
    """Ask the client's user."""
    username = {"type": "string", "description": "User's response"}
    email = {"type": "string", "description": "User's email address"}
    wanted = form(username=username, email=email)
    answer = ctx.suspend({"message": message}, schema=wanted)
    return f"User response: action=accept, content={answer}"


@tool
async def test_elicitation_sep1034_defaults(ctx: Context) -> str:
    """Ask with defaults."""
    states = ["active", "inactive", "pending"]
    wanted = schema(
        name={"type": "string", "default": "John Doe"},
        age={"type": "integer", "default": 30},
        score={"type": "number", "default": 95.5},
        status={"type": "string", "enum": states, "default": "active"},
        verified={"type": "boolean", "default": True},
    )
    answer = ctx.suspend({"message": "Who are you?"}, schema=wanted)
    return f"Elicitation completed: action=accept, content={answer}"


@tool
async def test_elicitation_sep1330_enums(ctx: Context) -> str:
    """Ask with all kinds of choices."""
    plain = ["option1", "option2", "option3"]
    titled = [{"const": f"value{i}", "title": f"Option {i}"} for i in (1, 2, 3)]
    old = ["opt1", "opt2", "opt3"]
    wanted = schema(
        untitledSingle={"type": "string", "enum": plain},
        titledSingle={"type": "string", "oneOf": titled},
        legacyEnum={
            "type": "string",
            "enum": old,
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        untitledMulti={"type": "array", "items": {"type": "string", "enum": plain}},
        titledMulti={"type": "array", "items": {"anyOf": titled}},
    )
    answer = ctx.suspend({"message": "Choose"}, schema=wanted)
    return f"Elicitation completed: action=accept, content={answer}"


@tool
async def test_reconnection(ctx: Context) -> str:
    """End the stream, and go on."""
    ctx.note("poll")
    await asyncio.sleep(0.1)
    return "Reconnection test completed successfully."


NAME = form(name={"type": "string"})


def ask(ctx: Context, key: str, message: str, wanted: dict[str, Any]) -> Any:
    return ctx.suspend({"key": key, "message": message}, schema=wanted)


@tool
async def test_input_required_result_elicitation(ctx: Context) -> str:
    """Ask for a name."""
    return f"Hello, {ask(ctx, 'user_name', 'What is your name?', NAME)['name']}!"


@tool
async def test_input_required_result_tampered_state(ctx: Context) -> str:
    """Ask for a yes."""
    return str(ask(ctx, "confirm", "Please confirm", form(ok={"type": "boolean"})))


@tool
async def test_input_required_result_request_state(ctx: Context) -> str:
    """Ask for a yes, and remember what for."""
    ask(ctx, "confirm", "Please confirm", form(ok={"type": "boolean"}))
    return "state-ok"


def question(text: str) -> ModelRequest:
    return ModelRequest(messages=(Message(role="user", parts=(Text(text=text),)),))


@tool
async def test_input_required_result_sampling(ctx: Context) -> str:
    """Ask the client's model."""
    model = ClientModel(max_tokens=100, key="capital_question")
    return (await ctx.call(model, question("What is the capital of France?"))).message.text


@tool
async def test_input_required_result_list_roots(ctx: Context) -> str:
    """Ask for the roots."""
    return ", ".join(client_roots(ctx, key="client_roots"))


class Asking:
    """A part of a tool that may wait on its own, so that several questions are asked at once."""

    kind: ClassVar[Literal["step"]] = "step"

    def __init__(self, name: str, fn: Any) -> None:
        self.name = name
        self.fn = fn

    async def invoke(self, input: Any, ctx: Context, /) -> Any:
        found = self.fn(ctx)
        return await found if asyncio.iscoroutine(found) else found


async def all_at_once(ctx: Context, *parts: Asking) -> list[Any]:
    found = await asyncio.gather(*(ctx.call(p, None) for p in parts), return_exceptions=True)
    for one in sorted(found, key=lambda f: not isinstance(f, Suspend)):
        if isinstance(one, BaseException):
            raise one
    return [*found]


async def greeting(ctx: Context) -> str:
    model = ClientModel(max_tokens=50, key="greeting")
    return (await ctx.call(model, question("Generate a greeting"))).message.text


@tool
async def test_input_required_result_multiple_inputs(ctx: Context) -> str:
    """Ask for a name, a greeting and the roots at once."""
    parts = [
        Asking("name", lambda c: ask(c, "user_name", "What is your name?", NAME)["name"]),
        Asking("greeting", greeting),
        Asking("roots", lambda c: client_roots(c, key="client_roots")),
    ]
    return str(await all_at_once(ctx, *parts))


@tool
async def test_input_required_result_capabilities(ctx: Context) -> str:
    """Ask the client's model, which not every client has."""
    return (await ctx.call(ClientModel(key="model"), question("Hello?"))).message.text


@tool
async def test_input_required_result_multi_round(ctx: Context) -> str:
    """Ask twice."""
    first = ask(ctx, "step1", "Step 1: What is your name?", NAME)
    colour = form(color={"type": "string"})
    second = ask(ctx, "step2", "Step 2: What is your favorite color?", colour)
    return f"{first['name']} likes {second['color']}"


@tool
async def test_missing_capability(ctx: Context) -> str:
    """Ask the client's model."""
    return (await ctx.call(ClientModel(), question("Hello?"))).message.text


@tool
async def test_streaming_elicitation(ctx: Context) -> str:
    """Progress, and then a question."""
    ctx.note("progress", {"progress": 1, "total": 2})
    return str(ask(ctx, "user_name", "What is your name?", NAME))


class Shaped:
    """A tool whose schema is written by hand."""

    kind: ClassVar[Literal["tool"]] = "tool"

    def __init__(self, name: str, parameters: dict[str, Any]) -> None:
        self.name = name
        self.spec = ToolSpec(name=name, description="A schema of its own.", parameters=parameters)

    async def invoke(self, input: Any, ctx: Context, /) -> Any:
        return f"called with {input}"


SCHEMA_2020 = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


def header(kind: str, name: str) -> dict[str, Any]:
    return {"type": kind, "x-mcp-header": name}


HEADERS = schema(
    region=header("string", "Region"),
    priority=header("integer", "Priority"),
    verbose=header("boolean", "Verbose"),
    query={"type": "string"},
)

app = Mastra(
    tools=[
        *(t for n, t in sorted(globals().items()) if n.startswith("test_")),
        Shaped("json_schema_2020_12_tool", SCHEMA_2020),
        Shaped("test_custom_headers", HEADERS),
    ],
    settings=Settings(),
)
server = MCPServer(app, name="everything")


@tool
async def test_trigger_tool_change() -> str:
    """Say that the list of tools has changed."""
    await server.tools_changed()
    return "told"


@tool
async def test_trigger_prompt_change() -> str:
    """Say that the list of prompts has changed."""
    await server.prompts_changed()
    return "told"


for late in (test_trigger_tool_change, test_trigger_prompt_change):
    app.tools[late.name] = late


def test_simple_prompt() -> str:
    """A simple prompt."""
    return "This is a simple prompt for testing."


def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
    """A prompt with arguments.

    Args:
        arg1: First test argument
        arg2: Second test argument
    """
    return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"


def test_prompt_with_embedded_resource(resourceUri: str) -> list[Any]:
    """A prompt with a resource in it."""
    text = "Embedded resource content for testing."
    return [
        resource(resourceUri, "text/plain", text),
        "Please process the embedded resource above.",
    ]


def test_prompt_with_image() -> list[Any]:
    """A prompt with an image."""
    return [
        Message(role="user", parts=(IMAGE,)),
        Message(role="user", parts=(Text(text="Please analyze the image above."),)),
    ]


async def test_input_required_result_prompt(ctx: Context) -> str:
    """A prompt that asks first."""
    wanted = form(context={"type": "string"})
    answer = ask(ctx, "user_context", "What context should the prompt use?", wanted)
    return f"Use this context: {answer['context']}"


server.add_prompt(test_simple_prompt)
server.add_prompt(test_prompt_with_arguments, complete={"arg1": ["paris", "park", "party"]})
server.add_prompt(test_prompt_with_embedded_resource)
server.add_prompt(test_prompt_with_image)
server.add_prompt(test_input_required_result_prompt)


def data_of(id: str) -> dict[str, Any]:
    """Data by id."""
    return {"id": id, "templateTest": True, "data": f"Data for ID: {id}"}


server.add_resource(
    "test://static-text",
    "This is the content of the static text resource.",
    name="static-text",
    description="Text",
)
server.add_resource(
    "test://static-binary", PNG, name="static-binary", description="An image", mime="image/png"
)
server.add_resource("test://template/{id}/data", data_of, mime="application/json")
server.add_resource(
    "test://watched-resource", "It may change.", name="watched", description="Watched"
)

if __name__ == "__main__":
    # The suite reads nothing from stdout; the tests wait for this line.
    uvicorn.run(server.http_app(), port=int(sys.argv[1]), log_level="warning")
