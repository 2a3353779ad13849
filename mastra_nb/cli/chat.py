"""chat: a conversation with an agent in the terminal."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import shlex
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from mastra_nb import views
from mastra_nb.agents import Agent
from mastra_nb.answers import form, read_answer
from mastra_nb.app import Mastra
from mastra_nb.cli._follow import (
    complain,
    follow,
    outcome_code,
    question,
    say_output,
)
from mastra_nb.cli._output import OK, SUSPENDED, aside, explain, note, plain, say, wait
from mastra_nb.cli._store import app_option, load
from mastra_nb.config import project_root
from mastra_nb.errors import (
    MastraError,
    NotFound,
    RunSuspended,
    UsageError,
    close_matches,
)
from mastra_nb.events import Suspended
from mastra_nb.limits import Limits
from mastra_nb.memory.memory import Memory
from mastra_nb.messages import Usage
from mastra_nb.models import resolve
from mastra_nb.records import json_text
from mastra_nb.runs import Run
from mastra_nb.schema import parse_json

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession

_LATER = object()
_COMMANDS = {
    "/help": "what can be typed",
    "/new": "a new conversation",
    "/thread": "which conversation this is; /thread ID goes on with another",
    "/model": "which model answers; /model provider/name takes another",
    "/usage": "tokens and dollars so far",
    "/save": "/save FILE writes the conversation as Markdown",
    "/exit": "leave, as Ctrl-D does",
}


@click.command()
@click.argument("agent", required=False)
@app_option
@click.option("--thread", metavar="ID", help="Go on with this conversation.")
@click.option("--resource", metavar="ID", help="Whom the conversation belongs to.")
@click.option("--model", metavar="MODEL", help='Another model: "provider/name".')
@click.option("--budget", type=click.FloatRange(min=0), metavar="USD", help="What a turn may cost.")
@click.pass_context
def chat(
    ctx: click.Context,
    agent: str | None,
    target: str | None,
    thread: str | None,
    resource: str | None,
    model: str | None,
    budget: float | None,
) -> None:
    """Talk to AGENT, by default the only one there is.

    Enter sends, Esc and Enter begins a new line, Ctrl-C stops an answer and keeps what was said,
    Ctrl-D leaves. What is piped in is asked line by line.

    \b
    Example:
      mastra-nb chat analyst --thread sales
    """
    app = load(target)
    talk = Talk(
        app,
        _agent(app, agent),
        target=target,
        thread=thread or "",
        resource=resource,
        debug=bool(ctx.find_root().params.get("debug")),
    )
    if model is not None:
        talk.use(model)
    if budget is not None:
        talk.limits = msgspec.structs.replace(talk.agent.limits or Limits(), cost=budget)
    if sys.stdin.isatty() and sys.stdout.isatty():
        ctx.exit(wait(_closing(app, talk.in_terminal())))
    ctx.exit(wait(_closing(app, talk.line_by_line())))


async def _closing(app: Mastra, work: Awaitable[int]) -> int:
    async with app:
        return await work


def _agent(app: Mastra, name: str | None) -> Agent[Any]:
    """Raises NotFound, UsageError."""
    if name:
        return app.get_agent(name)
    if not app.agents:
        raise NotFound("the application has no agent", hint="app = Mastra(agents=[…])")
    if len(app.agents) > 1:
        raise UsageError("with whom?", hint=close_matches("", app.agents))
    return next(iter(app.agents.values()))


class Talk:
    """A conversation and what may be done with it."""

    def __init__(
        self,
        app: Mastra,
        agent: Agent[Any],
        *,
        target: str | None,
        thread: str,
        resource: str | None,
        debug: bool,
    ) -> None:
        self.app = app
        self.target = target
        # An agent without a memory would forget each question at the next.
        self.agent = agent if agent.memory is not None else agent.replace(memory=Memory())
        self.resource = agent.resource if resource is None else resource
        self.thread = thread or agent.thread or _new_thread()
        self.limits = agent.limits
        self.used = Usage()
        self.debug = debug
        self._session: PromptSession[str] | None = None

    def use(self, model: str) -> None:
        """Raises ConfigError, NotFound."""
        resolve(model)
        self.agent = self.agent.replace(model=model)

    @property
    def model(self) -> str:
        model = self.agent.model
        if model is None:
            return self.app.settings.model or "the default model"
        return model if isinstance(model, str) else getattr(model, "name", "a model of its own")

    def run(self, text: str) -> Run[Any]:
        return self.agent.run(text, thread=self.thread, resource=self.resource, limits=self.limits)

    # Without a terminal

    async def line_by_line(self) -> int:
        """The first question that has no answer ends it."""
        for line in sys.stdin:
            text = line.strip()
            if not text:
                continue
            if text in ("/exit", "/quit"):
                break
            if text.startswith("/"):
                await self.command(text)
                continue
            run = self.run(text)
            with aside():
                error = await follow(run)
            self.used += run.usage
            if error is None:
                say_output(run.output)
            else:
                complain(run, error, self.target, debug=self.debug)
                return outcome_code(error)
        return OK

    # In a terminal

    async def in_terminal(self) -> int:
        self._session = _session()
        about = f"{self.agent.name} · {self.model} · thread {self.thread}"
        click.secho(plain(f"{about} · /help, Ctrl-D leaves"), dim=True)
        code = OK
        while True:
            try:
                text = (await self._ask("› ", multiline=True)).strip()
            except KeyboardInterrupt:
                continue
            except EOFError:
                break
            if text in ("/exit", "/quit"):
                break
            try:
                if text.startswith("/"):
                    await self.command(text)
                elif text:
                    code = await self.turn(self.run(text))
            except Exception as error:
                # A question that cannot be asked is no reason to leave.
                explain(error, debug=self.debug)
        store = self.app.store
        if self.used.calls and store is not None and store.url != "memory://":
            words = ["mastra-nb", "chat", self.agent.name, "--thread", self.thread]
            words += ["--app", self.target] if self.target else []
            click.secho(plain(f"to go on: {shlex.join(words)}"), dim=True)
        return code if code == SUSPENDED else OK

    async def turn(self, run: Run[Any]) -> int:
        """The run until it has an answer, has failed, was stopped or waits for later."""
        from mastra_nb.cli._screen import Screen

        while True:
            before, screen = run.usage, Screen(run)
            try:
                with interrupts(run.cancel):
                    error = await follow(run, screen)
            finally:
                screen.close()
            self._count(before, run.usage)
            if not isinstance(error, RunSuspended):
                break
            answer = await self._answer(run)
            if answer is None:
                break
            run = answer
        if error is None:
            if (not screen.spoke and run.output is not None) or not isinstance(run.output, str):
                say_output(run.output)
            click.secho(plain(_footer(run)), dim=True)
        else:
            complain(run, error, self.target, debug=self.debug)
        return outcome_code(error)

    def _count(self, before: Usage, after: Usage) -> None:
        new = Usage(
            input=after.input - before.input,
            output=after.output - before.output,
            calls=after.calls - before.calls,
            cost=None if after.cost is None else after.cost - (before.cost or 0.0),
        )
        self.used += new

    async def _answer(self, run: Run[Any]) -> Run[Any] | None:
        """Going on with the answer to what it asks first; None for later."""
        while True:
            path, asked = next(iter(run.pending.items()))
            note(f"⏸ {question(asked)}")
            try:
                given = await self._asked(asked)
            except (KeyboardInterrupt, EOFError):
                given = _LATER
            if given is _LATER:
                note("  left for later")
                return None
            try:
                return run.resume(given, path=path)
            except MastraError as error:
                explain(error, debug=self.debug)

    async def _asked(self, asked: Suspended) -> Any:
        """What is answered. Raises EOFError and KeyboardInterrupt for later."""
        if asked.reason != "approval":
            while True:
                text = await self._ask(f"{form(asked)} › ")
                try:
                    given = read_answer(text, asked, command="answer with")
                except UsageError as error:
                    explain(error)
                else:
                    return _LATER if given is ... else given
        while True:
            word = (await self._ask("  [y]es, [n]o, [e]dit or [l]ater? ")).strip().lower()[:1]
            if word == "y":
                return {"approved": True}
            if word == "l":
                return _LATER
            if word == "n":
                why = (await self._ask("  why not? ")).strip()
                return {"approved": False} | ({"reason": why} if why else {})
            if word == "e":
                now = asked.payload.get("args") if isinstance(asked.payload, dict) else {}
                text = await self._ask("  with › ", default=json_text(now))
                try:
                    return {"approved": True, "args": parse_json(text)}
                except MastraError as error:
                    explain(error)

    async def _ask(self, prompt: str, *, multiline: bool = False, default: str = "") -> str:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.formatted_text import FormattedText

        assert self._session is not None
        # What is answered to a run does not belong to the history of questions.
        session = self._session if multiline else PromptSession[str]()
        shown = FormattedText([("bold", plain(prompt))])
        return await session.prompt_async(shown, multiline=multiline, default=default)

    # Commands

    async def command(self, text: str) -> None:
        """Raises UsageError for an unknown one, and what it raises."""
        name, _, rest = text.partition(" ")
        rest = rest.strip()
        if name not in _COMMANDS:
            raise UsageError(f'there is no "{name}"', hint=close_matches(name, _COMMANDS))
        if name == "/help":
            say("\n".join(f"{each:<9}{what}" for each, what in _COMMANDS.items()))
            say("Esc Enter begins a new line, Ctrl-C stops an answer, Ctrl-D leaves")
        elif name == "/new":
            self.thread = _new_thread()
            say(f"thread {self.thread}")
        elif name == "/thread":
            await self._switch(rest)
        elif name == "/model":
            if rest:
                self.use(rest)
            say(self.model)
        elif name == "/usage":
            say(_usage(self.used))
        elif name == "/save":
            await self._save(rest)

    async def _switch(self, id: str) -> None:
        if id:
            self.thread = id
        said = await self.agent.history(self.thread, resource=self.resource)
        say(f"thread {self.thread}, {len(said):,} messages")
        store = self.app.store
        if not id and store is not None:
            for thread in await store.find_threads(resource=self.resource, limit=10):
                say(f"  {thread.id}  {thread.title}".rstrip())

    async def _save(self, name: str) -> None:
        messages = await self.agent.history(self.thread, resource=self.resource)
        blocks = [
            f"## {'You' if each.role == 'user' else self.agent.name}\n\n{each.text.strip()}"
            for each in messages
            if each.role in ("user", "assistant") and each.text.strip()
        ]
        path = _write(name or f"{self.thread}.md", "\n\n".join(blocks) + "\n")
        say(f"{len(blocks)} messages in {path}")


def _write(name: str, text: str) -> Path:
    """Raises UsageError."""
    path = Path(name).expanduser()
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f'"{path}" is there already', hint="/save another-name.md") from None
    except OSError as error:
        raise UsageError(
            f'"{path}" cannot be written: {error.strerror}', hint="/save another/path.md"
        ) from None
    return path


def _new_thread() -> str:
    return f"chat_{secrets.token_hex(4)}"


def _footer(run: Run[Any]) -> str:
    root = run.view.spans.get(run.view.root)
    seconds = root.seconds if root is not None else None
    parts = [_usage(run.usage), views.duration(seconds) if seconds else ""]
    return " · ".join(filter(None, parts))


def _usage(used: Usage) -> str:
    cost = "cost unknown" if used.cost is None and used.calls else views.dollars(used.cost or 0.0)
    return f"{used.input:,} in / {used.output:,} out tokens · {cost}"


@contextlib.contextmanager
def interrupts(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C calls `stop`, on the loop, as often as it is pressed: that of asyncio.run ends the
    program at the second.
    """
    loop, before = asyncio.get_running_loop(), signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, lambda *_: loop.call_soon_threadsafe(stop))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _session() -> PromptSession[str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.filters import Condition
    from prompt_toolkit.history import FileHistory, InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    path = _history()
    session: PromptSession[str] = PromptSession(
        history=FileHistory(str(path)) if path is not None else InMemoryHistory(),
        key_bindings=keys,
        completer=WordCompleter([*_COMMANDS], sentence=True),
        complete_while_typing=Condition(lambda: session.default_buffer.text.startswith("/")),
        prompt_continuation="  ",
    )
    return session


def _history() -> Path | None:
    """A file for each project, readable by its user alone; None if there is no place for it."""
    home = os.environ.get("XDG_STATE_HOME") or os.environ.get("LOCALAPPDATA")
    folder = Path(home) if home else Path.home() / ".local" / "state"
    name = hashlib.sha256(str(project_root()).encode()).hexdigest()[:16]
    path = folder / "mastra-nb" / "chat" / f"{name}.history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
    except OSError:
        return None
    return path
