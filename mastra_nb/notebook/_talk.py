"""Talking to an agent: one turn at a time in one thread, and its other threads.

Everything here happens on the portal's loop: a chat goes on while a cell runs, and no cell waits
for a chat. `tell` is given what a front end has to know (see `chat`).
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import os
from collections.abc import Callable, Coroutine, Mapping
from fnmatch import fnmatchcase
from typing import Any

import msgspec

from mastra_nb.agents import Agent
from mastra_nb.errors import MastraError, NotFound, Stopped, UsageError
from mastra_nb.memory.memory import Memory
from mastra_nb.memory.threads import Conversation
from mastra_nb.messages import Media, Message
from mastra_nb.models import resolve
from mastra_nb.notebook import _live, _turns
from mastra_nb.notebook._turns import Turn
from mastra_nb.runs import Run
from mastra_nb.services import ambient, store_in_memory
from mastra_nb.storage import RunRow, Store, Thread, ThreadMessage

FRAME_RATE = 20.0
# Messages that are read at once, and threads that are listed.
PAGE = 60
MOST_THREADS = 60
_TITLE = 60

Tell = Callable[[dict[str, Any]], None]


class Talk:
    def __init__(
        self,
        agent: Agent[Any],
        *,
        thread: str | None,
        resource: str | None,
        options: Mapping[str, Any],
        tell: Tell,
    ) -> None:
        services = agent.services or ambient()
        if services.store is None:
            services = copy.copy(services)
            services.store = store_in_memory()
        if agent.memory is None or agent.services is not services:
            agent = agent.replace(memory=agent.memory or Memory(), services=services)
        assert agent.memory is not None
        self.agent = agent
        self.resource = agent.resource if resource is None else resource
        self._services = services
        self._memory = agent.memory
        self._memory.bind(services)
        self._options = options
        self._tell = tell
        self.thread = thread or agent._thread(services, self.resource)
        self.title = ""
        self.turns: list[Turn] = []
        self.is_busy = False
        self._earlier = False
        self._loaded = ""
        self._made = 0
        self._answers: dict[str, Any] = {}
        self._answered = asyncio.Event()
        self._stopping = False

    @property
    def store(self) -> Store:
        assert self._services.store is not None
        return self._services.store

    @property
    def hosts(self) -> frozenset[str]:
        return frozenset(self._services.settings.image_hosts)

    # What a front end sees

    async def show(self) -> None:
        await self._load()
        if not self.is_busy:
            await self._catch_up()
        self._tell(self._state())

    def _state(self) -> dict[str, Any]:
        model, media = self._model()
        return {
            "kind": "state",
            "agent": self.agent.name,
            "about": self.agent.description,
            "model": model,
            "media": media,
            "thread": {"id": self.thread, "title": self.title},
            "busy": self.is_busy,
            "earlier": self._earlier,
            "turns": [self._shape(turn) for turn in self.turns],
        }

    def _shape(self, turn: Turn) -> dict[str, Any]:
        turn.sent = _turns.shape(turn, self.hosts)
        return turn.sent

    def _changed(self, turn: Turn) -> None:
        was, now = turn.sent, _turns.shape(turn, self.hosts)
        turn.sent = now
        if (news := _turns.changes(was, now)) is not None:
            self._tell({"kind": "delta", **news})

    def _model(self) -> tuple[str, list[str] | None]:
        """Its name, and the media that it takes; None if that is known only when it is asked."""
        wanted = self.agent.model
        if wanted is None:
            wanted = self._services.settings.model
        if wanted is None or type(wanted).__name__ in ("function", "method"):
            return "", None
        try:
            model = resolve(wanted)  # type: ignore[arg-type]
        except MastraError:
            return str(wanted), None
        return model.name, list(model.profile.media)

    # The thread

    def _conversation(self, thread: str) -> Conversation:
        return self._memory.thread(thread, resource=self.resource)

    async def _load(self) -> None:
        if self._loaded == self.thread:
            return
        found = await self.store.get_thread(self.thread)
        if found is not None and found.resource != self.resource:
            raise NotFound(
                f'there is no thread "{self.thread}"', hint="resource=… names whose it is"
            )
        self.title = found.title if found is not None else ""
        self._earlier = False
        self.turns = await self._page(None)
        waiting = await _turns.waiting(self.store, self.agent.name, self.thread)
        shown = {turn.row.id for turn in self.turns if turn.row is not None}
        self.turns += [turn for turn in waiting if turn.id not in shown]
        self._loaded = self.thread

    async def _catch_up(self) -> bool:
        """Whether a cell has said something in the thread meanwhile, which is shown from now on."""
        after = max((turn.end for turn in self.turns), default=0)
        new = await self.store.read_messages(self.thread, after=after)
        self.turns += await _turns.stored(self.store, self.thread, new)
        return bool(new)

    async def _page(self, before: int | None) -> list[Turn]:
        """Whole turns: what is cut off at the beginning is of the page before."""
        size = PAGE
        while True:
            upto = None if before is None else before - 1
            messages = await self.store.read_messages(self.thread, last=size, upto=upto)
            self._earlier = len(messages) == size and messages[0].pos > 1
            whole = messages
            if self._earlier:
                whole = _from_a_question(messages)
            if whole or not self._earlier:
                return await _turns.stored(self.store, self.thread, whole)
            size *= 4

    async def earlier(self) -> None:
        await self._load()
        if not self._earlier or not self.turns:
            return
        page = await self._page(self.turns[0].pos)
        self.turns[:0] = page
        self._tell(
            {
                "kind": "earlier",
                "turns": [self._shape(turn) for turn in page],
                "earlier": self._earlier,
            }
        )

    async def threads(self) -> list[dict[str, Any]]:
        """Those of the agent, the newest first: what it was asked in, and what was made here."""
        rows = await self.store.find_runs(name=self.agent.name, limit=500)
        made = await self.store.find_threads(
            resource=self.resource, meta={"agent": self.agent.name}, limit=MOST_THREADS
        )
        found = {thread.id: thread for thread in made}
        for id in dict.fromkeys(row.thread for row in rows if row.thread):
            if id not in found and len(found) < 2 * MOST_THREADS:
                thread = await self.store.get_thread(id)
                if thread is not None and thread.resource == self.resource:
                    found[id] = thread
        newest = sorted(found.values(), key=lambda t: t.updated, reverse=True)[:MOST_THREADS]
        out = [
            {
                "id": thread.id,
                "title": thread.title,
                "at": thread.updated,
                "branch": "cloned_from" in thread.meta,
            }
            for thread in newest
        ]
        if self.thread not in found:
            out.insert(0, {"id": self.thread, "title": "", "at": 0, "branch": False})
        return out

    async def open(self, thread: str) -> None:
        self._must_rest()
        before, self.thread = self.thread, thread
        try:
            await self.show()
        except MastraError:
            self.thread = before
            raise

    async def new(self) -> None:
        await self.open(f"{self.agent.name}-{os.urandom(3).hex()}")

    async def rename(self, thread: str, title: str) -> None:
        title = " ".join(title.split())[:200]
        if await self._conversation(thread).exists():
            await self._conversation(thread).set_title(title)
        else:
            await self._make(thread, title)
        if thread == self.thread:
            self.title = title
            self._tell({"kind": "titled", "thread": thread, "title": title})

    async def delete(self, thread: str) -> None:
        if thread == self.thread:
            self._must_rest()
        conversation = self._conversation(thread)
        if await conversation.exists():
            await conversation.delete()
        if thread == self.thread:
            self._loaded = ""
            rest = [t["id"] for t in await self.threads() if t["id"] != thread]
            await (self.open(rest[0]) if rest else self.new())

    async def _make(self, thread: str, title: str) -> None:
        made = Thread(
            id=thread, resource=self.resource, title=title, meta={"agent": self.agent.name}
        )
        await self.store.put_thread(made)

    async def branch(self, turn: str) -> None:
        """The conversation up to and with this turn goes on in a thread of its own."""
        await self._branch(self._turn(turn).end)

    async def _branch(self, at: int) -> None:
        self._must_rest()
        if not at:
            await self.new()
            return
        made = await self._conversation(self.thread).clone(at=at)
        meta = {**await made.meta(), "agent": self.agent.name}
        await made.set_meta(**meta)
        await self.open(made.id)

    def _turn(self, id: str) -> Turn:
        for turn in self.turns:
            if turn.id == id:
                return turn
        raise NotFound("this turn is not in the conversation any more", hint="open it again")

    # Turns

    def _must_rest(self) -> None:
        if self.is_busy:
            raise UsageError(
                f'"{self.agent.name}" is still answering', hint="wait, or stop it first"
            )

    async def ask(self, message: Message) -> Any:
        """The answer. Raises what the run raises."""
        self._check(message)
        self._must_rest()
        return await self._while_busy(self._ask(message))

    def _check(self, message: Message) -> None:
        if not message.parts:
            raise UsageError("there is no question", hint="type one")
        name, media = self._model()
        for part in message.parts:
            if isinstance(part, Media) and media is not None and not takes(media, part.mime):
                what = "images" if part.mime.startswith("image/") else f'"{part.mime}"'
                able = ", ".join(media) or "text only"
                raise UsageError(
                    f'the model "{name}" takes no {what}',
                    hint=f"it takes {able}; remove the file, or give the agent another model",
                    code="usage.media",
                )

    async def _while_busy(self, work: Coroutine[Any, Any, Any]) -> Any:
        self.is_busy = True
        self._stopping = False
        self._tell({"kind": "busy", "busy": True})
        try:
            return await work
        finally:
            self.is_busy = False
            self._tell({"kind": "busy", "busy": False})

    async def _ask(self, message: Message) -> Any:
        await self._load()
        if await self._catch_up():
            self._tell(self._state())
        self._made += 1
        turn = Turn(id=f"new{self._made}:{self.thread}", prompt=message)
        self.turns.append(turn)
        self._tell({"kind": "turn", "turn": self._shape(turn)})
        try:
            turn.run = self.agent.run(
                message, thread=self.thread, resource=self.resource, **self._options
            )
            return await self._drive(turn)
        except Exception as error:
            turn.raised = error
            if turn.run is None or not turn.run.view.spans:
                turn.error = _turns.error_of(error)
            raise
        finally:
            await self._ended(turn)

    async def _drive(self, turn: Turn) -> Any:
        """Until the run has ended: what it asks is answered by `answer`, or it is stopped."""
        run = turn.run
        while run is not None:
            async for _ in _live.frames(run, FRAME_RATE):
                self._changed(turn)
            self._changed(turn)
            if run.status != "suspended" or self._stopping:
                break
            path, answer = await self._answer(run)
            if path is None:
                await _give_up(run)
                turn.given_up = True
                raise Stopped("stopped while it waited for an answer", hint="ask again")
            turn.run = run = run.resume(answer, path=path)
        assert run is not None
        return run.output

    async def _answer(self, run: Run[Any]) -> tuple[str | None, Any]:
        while not self._stopping:
            for path in run.pending:
                if path in self._answers:
                    return path, self._answers.pop(path)
            self._answered.clear()
            await self._answered.wait()
        return None, None

    async def _ended(self, turn: Turn) -> None:
        self._answers.clear()
        after = max((t.end for t in self.turns), default=0)
        with contextlib.suppress(MastraError):  # the answer is there, whatever becomes of this
            new = await self.store.read_messages(self.thread, after=after)
            if new:
                turn.pos, turn.end = turn.pos or new[0].pos, new[-1].pos
                await self._entitle(turn)
        self._changed(turn)

    async def _entitle(self, turn: Turn) -> None:
        thread = await self.store.get_thread(self.thread)
        if thread is None or self._memory.titles is not None:
            return
        title = thread.title or short(_turns.words(turn.prompt)) or "Files"
        meta = {**thread.meta, "agent": self.agent.name}
        if (title, meta) != (thread.title, thread.meta):
            await self.store.put_thread(msgspec.structs.replace(thread, title=title, meta=meta))
        if title != self.title:
            self.title = title
            self._tell({"kind": "titled", "thread": self.thread, "title": title})

    def stop(self) -> None:
        """The run of this chat and nothing else; what was said is kept."""
        if not self.is_busy:
            return
        self._stopping = True
        self._answered.set()
        if self.turns and (run := self.turns[-1].run) is not None and run.status != "suspended":
            run.cancel()

    async def answer(self, turn: str, path: str, answer: Any) -> None:
        """What somebody says to a call that waits. Raises SchemaError, NotResumable."""
        found = self._turn(turn)
        run = found.run or (await self._revived(found, found.row) if found.row else None)
        if run is None or path not in run.pending:
            raise NotFound("nothing waits for this answer any more", hint="open the chat again")
        if self.is_busy:
            self._answers[path] = answer
            self._answered.set()
            return
        # It waits since before: of another kernel, or another front end of the store.
        found.run = run.resume(answer, path=path)
        try:
            await self._while_busy(self._drive(found))
        except Exception as error:
            found.raised = error
            raise
        finally:
            await self._ended(found)

    async def _revived(self, turn: Turn, row: RunRow) -> Run[Any]:
        past = await self.store.read_events(row.id)
        return self.agent.load(
            row.id, row.input, thread=self.thread, resource=self.resource, past=past
        )

    async def retry(self, turn: str) -> Any:
        """Ask the last question again; what became of it the first time is taken out."""
        found = self._turn(turn)
        self._must_rest()
        if found is not self.turns[-1]:
            raise UsageError("only the last question can be asked again", hint="branch instead")
        if found.pos:
            at = range(found.pos, found.end + 1)
            await self._conversation(self.thread).delete_messages(at)
        self.turns.remove(found)
        self._tell({"kind": "gone", "turn": found.id})
        return await self.ask(found.prompt)

    async def edit(self, turn: str, text: str) -> Any:
        """Ask other words in its place, in a branch."""
        found = self._turn(turn)
        message = _turns.anew(found.prompt, text)
        self._check(message)
        self._must_rest()
        await self._branch(self._before(found))
        return await self.ask(message)

    async def regenerate(self, turn: str) -> Any:
        found = self._turn(turn)
        self._must_rest()
        await self._branch(self._before(found))
        return await self.ask(found.prompt)

    def _before(self, turn: Turn) -> int:
        at = self.turns.index(turn)
        return self.turns[at - 1].end if at else max(0, turn.pos - 1)


def takes(media: list[str], mime: str) -> bool:
    return any(fnmatchcase(mime, pattern) for pattern in media)


def short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _TITLE else line[: _TITLE - 1].rstrip() + "…"


def _from_a_question(messages: list[ThreadMessage]) -> list[ThreadMessage]:
    for at, message in enumerate(messages):
        if message.message.role == "user" and message.message.text and at:
            return messages[at:]
    return []


async def _give_up(run: Run[Any]) -> None:
    run.cancel()
    with contextlib.suppress(MastraError):
        await run
