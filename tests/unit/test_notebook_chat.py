"""A chat, driven by the messages of a front end and by code."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mastra_nb import Agent, portal, tool
from mastra_nb.errors import ModelError, NotFound, UsageError
from mastra_nb.messages import Media, Message, Reasoning, Text, user
from mastra_nb.models import Profile
from mastra_nb.notebook import _html, _turns
from mastra_nb.notebook.chat import Chat
from mastra_nb.services import Services, set_ambient
from mastra_nb.stores.memory import open_store
from mastra_nb.testing import ScriptedModel, calls
from tests.hostile import PAYLOADS, active


@pytest.fixture(autouse=True)
def services() -> Iterator[Services]:
    services = Services(store=open_store("memory://"))
    set_ambient(services)
    yield services
    set_ambient(None)


@tool(needs_approval=True)
def pay(amount: int) -> str:
    """Pay."""
    return f"paid {amount}"


class Front:
    """A front end: what it was told, folded as chat.js folds it."""

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self.told: list[dict[str, Any]] = []
        self.state: dict[str, Any] = {}
        chat.send = self.hear  # type: ignore[method-assign]

    def hear(self, message: dict[str, Any], buffers: Any = None) -> None:
        self.told.append(message)
        kind = message["kind"]
        if kind == "state":
            self.state = {**message, "turns": [*message["turns"]]}
        elif kind == "turn":
            self.state.setdefault("turns", []).append(message["turn"])
        elif kind == "delta":
            at = next(i for i, t in enumerate(self.turns) if t["id"] == message["id"])
            self.turns[at] = patched(self.turns[at], message)
        elif kind == "gone":
            self.turns[:] = [t for t in self.turns if t["id"] != message["turn"]]
        elif kind == "earlier":
            self.turns[:0] = message["turns"]

    @property
    def turns(self) -> list[dict[str, Any]]:
        turns: list[dict[str, Any]] = self.state["turns"]
        return turns

    async def say(self, *buffers: bytes, **message: Any) -> None:
        self.chat._heard(None, message, [memoryview(b) for b in buffers])
        while self.chat._jobs:
            await asyncio.sleep(0.005)

    async def until(self, status: str) -> dict[str, Any]:
        for _ in range(600):
            if self.state.get("turns") and self.turns[-1]["status"] == status:
                return self.turns[-1]
            await asyncio.sleep(0.005)
        raise AssertionError(self.told[-3:])

    def errors(self) -> list[str]:
        return [m["message"] for m in self.told if m["kind"] == "error"]


def patched(turn: dict[str, Any], delta: dict[str, Any]) -> dict[str, Any]:
    turn = {**turn, **delta["head"]}
    turn = {k: v for k, v in turn.items() if v is not None}
    items = [*turn["items"]]
    for change in delta["items"]:
        i = change["i"]
        if "item" in change:
            items[i : i + 1] = [change["item"]]
            continue
        blocks = [*items[i]["blocks"]]
        first = blocks[change["from"]] if change["from"] < len(blocks) else ""
        kept = first.encode("utf-16-le")[: 2 * change["at"]].decode("utf-16-le")
        new = [kept + change["text"]] if kept + change["text"] else []
        items[i] = {**items[i], "blocks": [*blocks[: change["from"]], *new, *change["more"]]}
    return {**turn, "items": items[: delta["count"]]}


def text_of(turn: dict[str, Any]) -> str:
    return "".join("".join(i["blocks"]) for i in turn["items"] if i["t"] == "text")


def chat_of(*script: Any, **options: Any) -> tuple[Chat, Front]:
    model = ScriptedModel(*script, **options)
    chat = Agent(name="a", model=model, tools=[pay]).chat()
    return chat, Front(chat)


async def test_an_answer_comes_in_pieces() -> None:
    answer = "# Head\n\n" + "words 😀 and **more** of them. " * 30 + "\n\n```py\nx = 1\n```\n\nEnd."
    chat, front = chat_of(answer, delay=0.01)
    await front.say(do="hello")
    assert (front.state["agent"], front.state["turns"]) == ("a", [])

    await front.say(do="ask", text="hi", files=[])
    (turn,) = front.turns
    assert turn["items"] == [{"t": "text", "blocks": _html.blocks(answer)}]
    assert turn["markdown"] == answer
    assert (turn["status"], turn["pos"], turn["end"]) == ("done", 1, 2)
    assert (turn["usage"]["input"], turn["model"]) == (10, "scripted/model")

    deltas = [m for m in front.told if m["kind"] == "delta"]
    assert len(deltas) > 5
    sent = sum(len(c.get("text", "")) for m in deltas for c in m["items"])
    assert sent < 2 * len(text_of(turn))
    assert chat.get_state(drop_defaults=True).keys().isdisjoint({"turns", "messages"})
    assert "words" not in str({k: v for k, v in chat.get_state().items() if k[:4] != "_esm"})


async def test_the_thread_is_the_agents() -> None:
    chat, front = chat_of("one", "two", "three")
    assert await chat.ask("first") == "one"
    assert await chat.agent.run("second", thread=chat.thread) == "two"
    assert [m.text for m in chat.messages] == ["first", "one", "second", "two"]
    other = Front(Chat(chat.agent, thread=chat.thread))
    await other.say(do="hello")
    assert [t["text"] for t in other.turns] == ["first", "second"]
    await front.say(do="ask", text="third", files=[])
    assert [t["text"] for t in front.turns] == ["first", "second", "third"]
    assert [t["usage"]["input"] for t in other.turns] == [10, 10]
    assert other.state["thread"]["title"] == "first"


async def test_stop_keeps_what_was_said() -> None:
    chat, front = chat_of("word " * 400, "next", delay=0.01)
    asked = asyncio.ensure_future(front.say(do="ask", text="go", files=[]))
    for _ in range(200):
        await asyncio.sleep(0.01)
        if front.state.get("turns") and text_of(front.turns[0]):
            break
    await front.until("running")
    chat._heard(None, {"do": "stop"}, None)
    turn = await front.until("cancelled")
    await asked
    assert "word" in text_of(turn)
    assert front.errors() == []
    assert await chat.ask("and?") == "next"


async def test_one_question_at_a_time() -> None:
    chat, front = chat_of("word " * 100, delay=0.01)
    task = asyncio.ensure_future(chat.ask("go"))
    await front.until("running")
    with pytest.raises(UsageError, match="still answering"):
        await chat.ask("again")
    with pytest.raises(UsageError, match="still answering"):
        await chat.switch("other")
    task.cancel()
    turn = await front.until("cancelled")
    assert turn["text"] == "go"


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        ({"approved": True}, "paid 3"),
        ({"approved": True, "args": {"amount": 4}}, "paid 4"),
        ({"approved": False, "reason": "no money"}, "no money"),
    ],
)
async def test_a_call_waits_for_somebody(answer: Any, result: str) -> None:
    chat, front = chat_of(calls("pay", amount=3), "done")
    task = asyncio.ensure_future(chat.ask("pay"))
    turn = await front.until("suspended")
    (asked,) = turn["pending"]
    assert (asked["tool"], asked["args"]) == ("pay", {"amount": 3})
    wrong = {"do": "answer", "turn": turn["id"], "path": "nowhere", "answer": answer}
    chat._heard(None, wrong, None)
    chat._heard(None, {**wrong, "path": asked["path"]}, None)
    assert await task == "done"
    turn = await front.until("done")
    assert "pending" not in turn
    assert result in str(turn["items"][0])
    assert front.errors() == ["nothing waits for this answer any more"]


async def test_a_call_that_waits_can_be_stopped_or_answered_later() -> None:
    chat, front = chat_of(calls("pay", amount=3), calls("pay", amount=5), "done")
    asked = asyncio.ensure_future(front.say(do="ask", text="pay", files=[]))
    await front.until("suspended")
    chat._heard(None, {"do": "stop"}, None)
    await front.until("cancelled")
    await asked
    # Another kernel finds it waiting in the store.
    run = chat.agent.run("pay more", thread=chat.thread)
    await asyncio.gather(run, return_exceptions=True)
    assert run.status == "suspended"
    later = Front(Chat(chat.agent, thread=chat.thread))
    await later.say(do="hello")
    turn = later.turns[-1]
    assert turn["status"] == "suspended"
    path = turn["pending"][0]["path"]
    await later.say(do="answer", turn=turn["id"], path=path, answer={"approved": True})
    assert later.turns[-1]["status"] == "done"
    assert "paid 5" in str(later.turns[-1]["items"])


async def test_an_error_is_told_once_and_asked_again() -> None:
    chat, front = chat_of(ModelError("overloaded", hint="wait"), "here")
    await front.say(do="ask", text="hi", files=[])
    (turn,) = front.turns
    assert turn["status"] == "failed"
    assert (turn["error"]["message"], turn["error"]["hint"]) == ("overloaded", "wait")
    assert front.errors() == []
    await front.say(do="retry", turn=turn["id"])
    (turn,) = front.turns
    assert (turn["status"], turn["markdown"]) == ("done", "here")
    assert [m.text for m in chat.messages] == ["hi", "here"]


async def test_branches_leave_the_conversation_as_it_is() -> None:
    chat, front = chat_of("1", "2", "3", "4")
    await front.say(do="ask", text="one", files=[])
    await front.say(do="ask", text="two", files=[])
    first = chat.thread
    await front.say(do="edit", turn=front.turns[1]["id"], text="other")
    assert [t["text"] for t in front.turns] == ["one", "other"]
    edited = chat.thread
    await front.say(do="regenerate", turn=front.turns[1]["id"])
    assert [m.text for m in chat.messages] == ["one", "1", "other", "4"]
    await front.say(do="branch", turn=front.turns[0]["id"])
    assert [m.text for m in chat.messages] == ["one", "1"]
    await front.say(do="open", thread=first)
    assert [m.text for m in chat.messages] == ["one", "1", "two", "2"]
    await front.say(do="threads")
    listed = front.told[-1]["threads"]
    assert {t["id"] for t in listed} >= {first, edited}
    assert [t["branch"] for t in listed if t["id"] in (first, edited)].count(True) == 1
    await front.say(do="rename", thread=edited, title=" Other\nname ")
    await front.say(do="delete", thread=first)
    listed = front.told[-1]["threads"]
    assert "Other name" in [t["title"] for t in listed]
    assert first not in [t["id"] for t in listed]
    assert chat.thread != first
    assert front.errors() == []


async def test_edit_of_the_first_message_begins_anew() -> None:
    chat, front = chat_of("1", "2")
    await front.say(do="ask", text="one", files=[])
    await front.say(do="edit", turn=front.turns[0]["id"], text="uno")
    assert [m.text for m in chat.messages] == ["uno", "2"]


async def test_a_long_conversation_is_paged() -> None:
    chat, front = chat_of(*map(str, range(70)))
    for n in range(70):
        await chat.agent.run(f"q{n}", thread=chat.thread)
    await front.say(do="hello")
    assert front.state["earlier"]
    assert front.turns[-1]["text"] == "q69"
    while len(front.turns) < 70:
        before = len(front.turns)
        await front.say(do="earlier")
        assert len(front.turns) > before
    assert [t["text"] for t in front.turns] == [f"q{n}" for n in range(70)]
    assert not front.told[-1]["earlier"]


async def test_files_go_as_parts() -> None:
    sees = Profile(media=("image/*",))
    chat, front = chat_of("red", "still", profile=sees)
    files = [{"name": "../a.png", "mime": "image/png"}, {"name": "n.txt", "mime": "text/plain"}]
    await front.say(b"\x89PNG", b"It is red.", do="ask", text="what?", files=files)
    message = chat.messages[0]
    assert [type(p) for p in message.parts] == [Media, Text, Text]
    assert "File: n.txt" in message.text
    (turn,) = front.turns
    assert turn["text"] == "what?"
    assert [f["name"] for f in turn["files"]] == ["a.png", "n.txt"]
    await front.say(do="regenerate", turn=turn["id"])
    assert [f["name"] for f in front.turns[0]["files"]] == ["a.png", "n.txt"]


async def test_files_that_cannot_be_sent() -> None:
    chat, front = chat_of("never")
    image = [{"name": "a.png", "mime": "image/png"}]
    await front.say(b"\x89PNG", do="ask", text="what?", files=image)
    await front.say(b"\xff\0", do="ask", text="", files=[{"name": "a.bin", "mime": ""}])
    await front.say(b"x" * 5_000_001, do="ask", text="", files=[{"name": "big", "mime": ""}])
    await front.say(do="ask", text=" ", files=[])
    await front.say(do="ask", text="x", files=image)
    await front.say(do="dance")
    media, binary, large, nothing, lost, unknown = front.errors()
    assert 'the model "scripted/model" takes no images' in media
    assert "neither text nor an image" in binary
    assert "5.0 MB" in large
    assert "no question" in nothing
    assert "did not arrive whole" in lost
    assert "dance" in unknown
    assert chat.messages == []


async def test_a_thread_of_another_resource_is_not_found() -> None:
    chat, _ = chat_of("1")
    await chat.ask("secret")
    front = Front(Chat(chat.agent, thread=chat.thread, resource="other"))
    await front.say(do="hello")
    assert "there is no thread" in front.errors()[0]
    with pytest.raises(NotFound):
        await front.chat.ask("hello")


async def test_the_saved_form_says_what_it_is() -> None:
    chat, _ = chat_of("<script>alert(1)</script> **bold**")
    await chat.ask("hi")
    data, _meta = await asyncio.to_thread(chat._repr_mimebundle_)
    assert "application/vnd.jupyter.widget-view+json" in data
    assert "run the cell to talk" in data["text/markdown"]
    assert "**bold**" in data["text/markdown"]
    assert "<script>" not in data["text/markdown"]
    assert repr(chat) == f'<Chat with "a" in thread "{chat.thread}">'


async def test_reasoning_and_history_of_a_stranger() -> None:
    reply = Message(role="assistant", parts=(Reasoning(text="hm"), Text(text="yes")))
    _chat, front = chat_of(reply)
    await front.say(do="ask", text="?", files=[])
    assert [i["t"] for i in front.turns[0]["items"]] == ["thought", "text"]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_html_is_inert(payload: str) -> None:
    html = "".join(_html.blocks(payload))
    assert active(html.replace("<s>", "<del>")) == []


@settings(max_examples=40)
@given(st.lists(st.text(alphabet="ab😀\n*`#-|$<&", max_size=60), max_size=6), st.text(max_size=5))
def test_changes_make_the_new_out_of_the_old(pieces: list[str], more: str) -> None:
    def shape(text: str, *others: Any) -> dict[str, Any]:
        items = [{"t": "text", "blocks": _html.blocks(text)}, *others]
        return {"id": "1", "status": text[:3], "items": items}

    note = {"t": "note", "level": "info", "text": more}
    shapes = [
        shape(""),
        *(shape("".join(pieces[:n]), note) for n in range(len(pieces))),
        shape(more),
    ]
    now = shapes[0]
    for new in shapes[1:]:
        if (delta := _turns.changes(now, new)) is not None:
            now = patched(now, delta)
        assert now == new


def test_other_words_keep_the_files() -> None:
    file = _turns.text_file("n.txt", "x")
    assert _turns.anew(user(file, "old"), "new").parts == (file, Text(text="new"))


def test_portal_is_not_blocked_by_a_chat() -> None:
    chat, _ = chat_of("1", "2")
    portal.run(chat.ask("a"))
    assert len(chat.messages) == 2
