"""OpenAI's own client talks to agents."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from mastra_nb import Agent, Mastra, tool
from mastra_nb.server.application import create_app
from mastra_nb.server.options import ServerOptions
from mastra_nb.testing import ScriptedModel, calls


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"{city}: 21"


@tool(needs_approval=True)
def pay(amount: int) -> int:
    """Pays."""
    return amount


REMEMBER = ("plain", "tools")
TIME: Any = {
    "type": "function",
    "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}},
}


@pytest.fixture
def models() -> dict[str, ScriptedModel]:
    return {
        "plain": ScriptedModel("Hello there.", repeat=True, piece=4),
        "tools": ScriptedModel(calls("weather", city="Oslo"), "It is 21.", repeat=True),
        "client": ScriptedModel(calls("clock"), "It is noon."),
        "payer": ScriptedModel(calls("pay", amount=3), "Paid."),
        "typed": ScriptedModel('{"city": "Oslo"}', repeat=True),
    }


@pytest.fixture
async def client(models: dict[str, ScriptedModel]) -> AsyncIterator[openai.AsyncOpenAI]:
    given = {"tools": [weather], "payer": [pay]}
    app = Mastra(
        agents=[
            Agent(
                name=name, model=model, tools=given.get(name, []), memory=name in ("plain", "tools")
            )
            for name, model in models.items()
        ],
        storage="memory://",
    )
    options = ServerOptions(tokens={"of-ann": "ann"})
    transport = httpx.ASGITransport(create_app(app, options=options))
    async with httpx.AsyncClient(transport=transport) as http:
        made = openai.AsyncOpenAI(
            api_key="of-ann", base_url="http://localhost/v1", http_client=http, max_retries=0
        )
        yield made


async def test_agents_are_models(client: openai.AsyncOpenAI) -> None:
    found = [model.id async for model in client.models.list()]
    assert found == ["plain", "tools", "client", "payer", "typed"]


async def test_a_completion(client: openai.AsyncOpenAI) -> None:
    asked: Any = [
        {"role": "system", "content": "Be a pirate."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    ]
    answer = await client.chat.completions.create(model="tools", messages=asked)
    choice = answer.choices[0]
    assert (choice.message.content, choice.finish_reason) == ("It is 21.", "stop")
    assert choice.message.tool_calls is None, "its own tools stay inside"
    assert answer.usage is not None
    assert answer.usage.total_tokens > 0


async def test_what_a_client_instructs_is_ignored(
    client: openai.AsyncOpenAI, models: dict[str, ScriptedModel]
) -> None:
    asked: Any = [
        {"role": "system", "content": "Be a pirate."},
        {"role": "user", "content": "Hi"},
    ]
    await client.chat.completions.create(model="plain", messages=asked, temperature=0.5)
    request = models["plain"].requests[0]
    assert "pirate" not in str(request.messages)
    assert request.settings.temperature == 0.5


async def test_a_streamed_completion(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="plain",
        messages=[{"role": "user", "content": "Hi"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    said = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(said) == "Hello there."
    assert len([piece for piece in said if piece]) > 2
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage is not None


async def test_a_tool_of_the_client_is_answered(client: openai.AsyncOpenAI) -> None:
    asked: list[Any] = [{"role": "user", "content": "What time is it?"}]
    first = await client.chat.completions.create(model="client", messages=asked, tools=[TIME])
    assert first.choices[0].finish_reason == "tool_calls"
    message = first.choices[0].message
    assert message.tool_calls is not None
    call = message.tool_calls[0]
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("clock", "{}")
    asked.append(message.model_dump(exclude_none=True))
    asked.append({"role": "tool", "tool_call_id": call.id, "content": "12:00"})
    second = await client.chat.completions.create(model="client", messages=asked, tools=[TIME])
    assert second.choices[0].message.content == "It is noon."
    assert second.id == first.id, "the run that waited goes on"


async def test_a_streamed_call_of_a_client_tool(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="client",
        messages=[{"role": "user", "content": "What time is it?"}],
        tools=[TIME],
        stream=True,
    )
    calls_made = [
        call.function.name
        async for chunk in stream
        for choice in chunk.choices
        for call in choice.delta.tool_calls or ()
        if call.function is not None
    ]
    assert calls_made == ["clock"]


async def test_an_answer_that_fits_a_schema(
    client: openai.AsyncOpenAI, models: dict[str, ScriptedModel]
) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    answer = await client.chat.completions.create(
        model="typed",
        messages=[{"role": "user", "content": "Where?"}],
        response_format={"type": "json_schema", "json_schema": {"name": "p", "schema": schema}},
    )
    assert answer.choices[0].message.content == '{"city": "Oslo"}'
    assert models["typed"].requests[0].output == schema


async def test_errors_are_openais(client: openai.AsyncOpenAI) -> None:
    asked: Any = [{"role": "user", "content": "Hi"}]
    with pytest.raises(openai.NotFoundError, match="nobody not found"):
        await client.chat.completions.create(model="nobody", messages=asked)
    with pytest.raises(openai.BadRequestError):
        await client.chat.completions.create(model="plain", messages=[])
    with pytest.raises(openai.ConflictError, match="waits"):
        await client.chat.completions.create(model="payer", messages=asked)
    with pytest.raises(openai.AuthenticationError):
        await client.with_options(api_key="other").models.list()


async def test_a_response_and_the_next(
    client: openai.AsyncOpenAI, models: dict[str, ScriptedModel]
) -> None:
    first = await client.responses.create(model="plain", input="I am Ann.")
    assert first.output_text == "Hello there."
    assert first.usage is not None
    second = await client.responses.create(
        model="plain", input="Who am I?", previous_response_id=first.id
    )
    assert second.previous_response_id == first.id
    assert "I am Ann." in str(models["plain"].requests[1].messages)
    again = await client.responses.retrieve(first.id)
    assert again.output_text == "Hello there."
    with pytest.raises(openai.NotFoundError):
        await client.responses.create(model="plain", input="Hi", previous_response_id="resp_no")


async def test_a_streamed_response(client: openai.AsyncOpenAI) -> None:
    stream = await client.responses.create(model="plain", input="Hi", stream=True)
    events = [event async for event in stream]
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert [e.sequence_number for e in events] == [*range(len(events))]
    said = [e.delta for e in events if e.type == "response.output_text.delta"]
    assert "".join(said) == "Hello there."


async def test_a_response_calls_a_tool_of_the_client(client: openai.AsyncOpenAI) -> None:
    tools: Any = [{"type": "function", "name": "clock", "parameters": {"type": "object"}}]
    first = await client.responses.create(model="client", input="What time is it?", tools=tools)
    call = next(item for item in first.output if item.type == "function_call")
    assert (call.name, call.arguments) == ("clock", "{}")
    result: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "12:00"}]
    second = await client.responses.create(
        model="client", input=result, tools=tools, previous_response_id=first.id
    )
    assert second.output_text == "It is noon."


async def test_a_conversation(client: openai.AsyncOpenAI, models: dict[str, ScriptedModel]) -> None:
    before: Any = [{"type": "message", "role": "user", "content": "I am Ann."}]
    made = await client.conversations.create(metadata={"topic": "names"}, items=before)
    assert (made.object, made.metadata) == ("conversation", {"topic": "names"})
    assert (await client.conversations.retrieve(made.id)).id == made.id
    first = await client.responses.create(model="plain", input="Hi", conversation=made.id)
    await client.responses.create(model="plain", input="Who am I?", conversation=made.id)
    assert "I am Ann." in str(models["plain"].requests[1].messages)

    def said(item: Any) -> tuple[str, str]:
        return item.role, item.content[0].text

    found = [said(i) async for i in client.conversations.items.list(made.id, order="asc", limit=2)]
    asked = [("user", "I am Ann."), ("user", "Hi"), ("user", "Who am I?")]
    told = ("assistant", "Hello there.")
    assert found == [asked[0], asked[1], told, asked[2], told], "page by page"
    newest = await client.conversations.items.list(made.id, order="desc", limit=1)
    assert said(newest.data[0]) == told and newest.has_more

    await client.responses.delete(first.id)
    left = [said(i) async for i in client.conversations.items.list(made.id, order="asc")]
    assert left == [asked[0], asked[2], told]
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(first.id)
    gone = await client.conversations.delete(made.id)
    assert gone.deleted is True
    for absent in (client.conversations.retrieve, client.conversations.delete):
        with pytest.raises(openai.NotFoundError):
            await absent(made.id)
    with pytest.raises(openai.BadRequestError):
        await client.conversations.create(items=["no item"])  # type: ignore[list-item]


async def test_what_tools_said_is_in_a_conversation(client: openai.AsyncOpenAI) -> None:
    made = await client.conversations.create()
    asked = [{"role": "user", "content": "Oslo?"}]
    await client.responses.create(model="tools", input=asked, conversation=made.id)  # type: ignore[arg-type]
    items = [i async for i in client.conversations.items.list(made.id, order="asc")]
    kinds = [item.type for item in items]
    assert kinds == ["message", "function_call", "function_call_output", "message"]
    call, output = items[1], items[2]
    assert (call.name, call.arguments) == ("weather", '{"city":"Oslo"}')  # type: ignore[union-attr]
    assert output.output == "Oslo: 21"  # type: ignore[union-attr]
    with pytest.raises(openai.BadRequestError):
        await client.conversations.items.list(made.id, after="nothing")
