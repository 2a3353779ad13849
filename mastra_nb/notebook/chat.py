"""A chat in a cell, for any agent.

Nothing that is said is in the widget's state, which a notebook saves: both sides send messages.
From a front end comes `{"do": name, ...}` (see `Chat._do`); it is told by `kind`: "state" (all of
it), "turn" (a new one), "delta" (see `_turns.changes`), "earlier", "gone", "busy", "titled",
"threads", "error". A front end that has drawn itself says "hello".
"""

from __future__ import annotations

import asyncio
import logging
import mimetypes
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import anywidget

from mastra_nb import portal
from mastra_nb._escape import escape
from mastra_nb._markdown import safe_markdown
from mastra_nb.agents import Agent
from mastra_nb.errors import MastraError, UsageError
from mastra_nb.limits import Limits
from mastra_nb.messages import Message, Part, Text
from mastra_nb.notebook import _static, _turns
from mastra_nb.notebook._talk import Talk

_log = logging.getLogger(__name__)

_PARTS = ("parts", "room", "turn", "asked", "threads", "composer", "main")
# A Jupyter server closes the line of whoever sends more than 10 MiB at once.
MOST_FILE = 5_000_000
MOST_FILES = 8_000_000
# Of a conversation in a saved notebook: so many of its last messages.
_LAST = 6


class Chat(anywidget.AnyWidget):
    """A conversation with `agent` in `thread`; `agent.chat()` makes one.

    `ask(text)` is the same as typing it. The thread is the agent's: what is said here goes on in
    `agent.run(..., thread=chat.thread)` and in `%ask agent --thread`. An agent without memory is
    given one for the chat.
    """

    _esm = _static.module("chat", _PARTS)
    _css = _static.style("chat")

    def __init__(
        self,
        agent: Agent[Any],
        *,
        thread: str | None = None,
        resource: str | None = None,
        limits: Limits | None = None,
        deps: Any = None,
        request_context: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        options = {"limits": limits, "deps": deps, "request_context": request_context}
        self._talk = Talk(agent, thread=thread, resource=resource, options=options, tell=self._tell)
        self._jobs: set[Future[None]] = set()
        self.on_msg(self._heard)

    def __repr__(self) -> str:
        return f'<Chat with "{self._talk.agent.name}" in thread "{self.thread}">'

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """With the widget what is shown of it where nothing is alive: its last messages."""
        made: Any = super()._repr_mimebundle_(**kwargs)
        data, meta = made if isinstance(made, tuple) else (made or {}, {})
        name, thread = self._talk.agent.name, self.thread
        about = f"Chat with {name}: run the cell to talk (thread {thread})"
        said = [
            f"**{'You' if m.role == 'user' else escape(name)}**\n\n{safe_markdown(text)}"
            for m in self.messages[-_LAST:]
            if (text := _turns.words(m) if m.role == "user" else m.text)
            and m.role in ("user", "assistant")
        ]
        markdown = "\n\n".join([f"*{escape(about)}*", *said])
        return {**data, "text/markdown": markdown, "text/plain": repr(self)}, meta

    # From code

    @property
    def agent(self) -> Agent[Any]:
        return self._talk.agent

    @property
    def thread(self) -> str:
        """The id of the thread that is open."""
        return self._talk.thread

    @property
    def messages(self) -> list[Message]:
        """What has been said in the thread."""
        found = portal.run(self._talk.store.read_messages(self.thread))
        return [m.message for m in found]

    async def ask(self, text: str, *, files: Sequence[str | Path] = ()) -> Any:
        """Say `text`, with files if any, and wait for the answer; on any loop.

        Raises what the agent's run raises; UsageError while the last answer is not there yet, or
        if the model does not take such a file.
        """
        given = [await asyncio.to_thread(_read, Path(file)) for file in files]
        return await self._on_portal(self._talk.ask(_message(text, given)))

    async def stop(self) -> None:
        """Stop what is being answered; what was said of it is kept."""
        portal.loop().call_soon_threadsafe(self._talk.stop)

    async def switch(self, thread: str) -> None:
        """Go on with another thread of the agent's."""
        await self._on_portal(self._talk.open(thread))

    async def _on_portal(self, work: Coroutine[Any, Any, Any]) -> Any:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, portal.loop()))

    # The front ends

    def _tell(self, message: dict[str, Any]) -> None:
        self.send(message)

    def _heard(self, _widget: Any, content: Any, buffers: Sequence[Any] | None) -> None:
        """On the thread of the cells, or of a front end's subshell: neither waits for us."""
        data = [bytes(b) for b in buffers or ()]
        job = asyncio.run_coroutine_threadsafe(self._answered(content, data), portal.loop())
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    async def _answered(self, content: Any, buffers: list[bytes]) -> None:
        said = content if isinstance(content, dict) else {}
        try:
            await self._do(said, buffers)
        except Exception as error:
            if any(turn.raised is error for turn in self._talk.turns):
                return  # the turn says so
            if not isinstance(error, MastraError):
                _log.exception("a chat could not do what it was told")
            self._tell(
                {"kind": "error", "of": said.get("do"), **_turns.told(_turns.error_of(error))}
            )

    async def _do(self, said: dict[str, Any], buffers: list[bytes]) -> None:
        talk, given = self._talk, said.get

        def text(name: str) -> str:
            value = given(name)
            return value if isinstance(value, str) else ""

        match given("do"):
            case "hello":
                await talk.show()
            case "ask":
                await talk.ask(_message(text("text"), _files(given("files"), buffers)))
            case "stop":
                talk.stop()
            case "answer":
                await talk.answer(text("turn"), text("path"), given("answer"))
            case "retry":
                await talk.retry(text("turn"))
            case "regenerate":
                await talk.regenerate(text("turn"))
            case "edit":
                await talk.edit(text("turn"), text("text"))
            case "branch":
                await talk.branch(text("turn"))
            case "earlier":
                await talk.earlier()
            case "open":
                await talk.open(text("thread"))
            case "new":
                await talk.new()
            case "rename":
                await talk.rename(text("thread"), text("title"))
                await self._list()
            case "delete":
                await talk.delete(text("thread"))
                await self._list()
            case "threads":
                await self._list()
            case other:
                raise UsageError(f"a chat cannot do {other!r}", hint="reload the page")

    async def _list(self) -> None:
        self._tell({"kind": "threads", "threads": await self._talk.threads()})


# Files

File = tuple[str, str, bytes]
"""(name, MIME type or "", content)"""


def _files(told: Any, buffers: list[bytes]) -> list[File]:
    told = told if isinstance(told, list) else []
    if len(told) != len(buffers):
        raise UsageError("a file did not arrive whole", hint="attach it again")
    return [
        (Path(str(f.get("name") or "file")).name, str(f.get("mime") or ""), data)
        for f, data in zip(told, buffers, strict=True)
    ]


def _read(path: Path) -> File:
    try:
        return path.name, mimetypes.guess_type(path.name)[0] or "", path.read_bytes()
    except OSError as error:
        raise UsageError(f'"{path}" cannot be read: {error.strerror}') from None


def _message(text: str, files: Sequence[File]) -> Message:
    """Files first: a model reads them better before the question. Raises UsageError."""
    if sum(len(data) for _, _, data in files) > MOST_FILES:
        raise UsageError(f"the files have more than {MOST_FILES // 1_000_000} MB together")
    parts: list[Part] = [_part(*file) for file in files]
    if text.strip():
        parts.append(Text(text=text))
    return Message(role="user", parts=tuple(parts))


def _part(name: str, mime: str, data: bytes) -> Part:
    if len(data) > MOST_FILE:
        raise UsageError(
            f'"{name}" has {len(data) / 1e6:.1f} MB, a file may have {MOST_FILE // 1_000_000} MB',
            hint="give the agent a tool that reads it",
        )
    if mime.startswith(("image/", "audio/", "video/")) or mime == "application/pdf":
        return _turns.media(name, mime, data)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise UsageError(
            f'"{name}" is neither text nor an image', hint="give the agent a tool that reads it"
        )
    return _turns.text_file(name, text)
