"""%ask and %resume: a question becomes a run, the run is shown, its answer becomes a value."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from mastra_nb import portal, unattended, views
from mastra_nb._escape import fence
from mastra_nb.agents import Agent
from mastra_nb.context import current
from mastra_nb.errors import (
    MastraError,
    NotFound,
    RunSuspended,
    SchemaError,
    Stopped,
    UsageError,
    close_matches,
)
from mastra_nb.limits import Limits
from mastra_nb.memory.memory import Memory
from mastra_nb.messages import Media, Message, Part, Text
from mastra_nb.models import Model, ModelRequest
from mastra_nb.notebook import _attach, _context, _live, _templates, _values
from mastra_nb.notebook._cells import Executed
from mastra_nb.notebook._host import Host, Waiting
from mastra_nb.notebook._options import Parsed, is_flag, parse_cell, parse_line
from mastra_nb.notebook._specs import ASK
from mastra_nb.runs import Run
from mastra_nb.schema import find_json, parse_json
from mastra_nb.storage import RunRow
from mastra_nb.workflow_runs import WorkflowRun

_PACKAGE = str(Path(__file__).parents[1])
AS_CODE = "Answer with one fenced block of Python code, and nothing else."


class Asked(msgspec.Struct, kw_only=True):
    """A question on its way. `call` identifies it in its cell, "" if it is not to be taken up; it
    is over when whoever asked is `given` the output.
    """

    run: Run[Any]
    bundle: Callable[..., dict[str, Any]]
    form: str = "md"
    out: str = ""
    call: str = ""
    given: bool = True
    background: bool = False
    screen: _live.Screen | None = None


# What is asked


def read(host: Host, line: str, body: str | None, names: _values.Names) -> tuple[Parsed, str, str]:
    """(options, agent's name or "", prompt template)."""
    if body is not None:
        parsed = parse_cell(ASK, line, words=1)
        text = body
    else:
        known = host.agents(names)
        parsed = parse_line(ASK, line, is_name=lambda word: word in known)
        text = parsed.rest
        word, _, more = text.partition(" ")
        if not parsed.words and (flag := more.split(None, 1)) and is_flag(flag[0]):
            raise NotFound(
                f'there is no agent "{word}"',
                hint=close_matches(word, known) or "options come before the question",
            )
    if not text.strip():
        raise UsageError(
            f"{'%%ask' if body is not None else '%ask'} has no question",
            hint=f"usage: {ASK.usage[0] if body is not None else ASK.usage[1]}",
        )
    return parsed, parsed.words[0] if parsed.words else "", text.strip("\n").rstrip()


async def prepare(host: Host, line: str, body: str | None, names: _values.Names) -> Asked | None:
    """The run of a question, not started; None if --show-prompt was all that was wanted."""
    parsed, name, template = read(host, line, body, names)
    host.refresh()
    agent = host.find_agent(name, names)
    form = parsed.get("as", "md")
    with_it = _context.attach(template, names, host.cells)
    text = _templates.render(with_it.template, names)
    prompt = with_it.prompt(text, AS_CODE if form == "code" else "")
    if "out" in parsed.values:
        _values.check_variable(parsed.values["out"], "the name after -o")
    output = _values.find_type(parsed.values["schema"], names) if "schema" in parsed.values else ...
    named = parsed.get("thread", "")
    if (named or parsed.get("resource")) and agent.memory is None:
        agent = agent.replace(memory=Memory())
    resource = parsed.get("resource", agent.resource)
    thread, shown = host.thread_of(agent, named, resource)
    limits = agent.limits
    if "budget" in parsed.values:
        limits = msgspec.structs.replace(limits or Limits(), cost=parsed.values["budget"])
    if parsed.get("show-prompt"):
        await _show_prompt(agent, prompt, thread, output, host)
        return None
    is_new = parsed.get("no-cache", False)
    if is_new:
        agent = anew(agent, host)
    # In a workflow it is a step of that one, which is what is taken up.
    alone = current() is None
    call = host.calls.identify(host.notebook, agent.name, text, line if body is not None else "")
    run = None if is_new or not alone else await _take_up(host, agent, call, output)
    if run is None:
        run = agent.run(prompt, thread=thread, resource=resource, output=output, limits=limits)
        await host.list_thread(thread)
        if alone and host.services.store is not None:
            await _attach.begin(host.services.store, call, run.id)
    host.remember(run, agent)
    return Asked(
        run=run,
        bundle=partial(show_run, host, shown, form, target=with_it.target),
        form=form,
        out=parsed.get("out", ""),
        call=call if alone else "",
        background=parsed.get("bg", False),
    )


def anew(agent: Agent[Any], host: Host) -> Agent[Any]:
    services = copy.copy(agent.services or host.services)
    services.wrap_model = host.replay.anew()
    return agent.replace(services=services)


async def _take_up(host: Host, agent: Agent[Any], call: str, output: Any) -> Run[Any] | None:
    """The unfinished run of the same call, if there is one. A batch runs the cells of a row again
    to get on: there a run that has ended is what its call gives.
    """
    store = host.services.store
    if store is None:
        return None
    row = await _attach.unfinished(store, call, ended=unattended.row() is not None)
    if row is None or row.name != agent.name:
        return None
    thread = row.thread or ""
    if thread and agent.memory is not None and thread.startswith(f"{agent.name}@"):
        host.adopt_thread(agent, thread)
    loader = agent if output is ... else agent.replace(output=output)
    past = await store.read_events(row.id)
    run = loader.load(
        row.id,
        row.input,
        thread=thread,
        resource=row.resource,
        past=past,
        limits=agent.limits,
    )
    return run if row.status in ("suspended", "done") else run.resume()


# How it is shown


def show_run(
    host: Host,
    thread: str,
    form: str,
    run: Run[Any],
    *,
    alone: bool = False,
    target: Executed | None = None,
) -> dict[str, Any]:
    """`alone`: no cell raises how it ends. `target` is the cell that code is meant for."""
    change = partial(_change, host, form, target)
    told = not alone and not host.people.are_asked(run.id)
    return _live.run_bundle(run, thread=thread, change=change, told=told)


def _change(
    host: Host, form: str, target: Executed | None, record: dict[str, Any]
) -> dict[str, Any]:
    if not host.options.show_reasoning:
        record["items"] = [i for i in record.get("items", ()) if i.get("type") != "reasoning"]
    if host.replay.mode != "off" and record.get("model"):
        word = "replay" if host.replay.mode == "only" else host.replay.mode
        record["model"] = f"{record['model']} ({word})"
    text = record.get("text")
    if text and record["status"] == "done" and form != "md":
        if form == "code":
            code, language = views.code_of(text)
            record["text"] = fence(code, language)
            record["code"] = {"language": language or "python"}
            if target is not None:
                record["code"] |= {"source": target.source}
                record["code"] |= {"cell": target.id} if target.id else {}
        else:
            record["text"] = fence(_pretty(text), "json")
    return record


def _pretty(text: str) -> str:
    try:
        return json.dumps(parse_json(find_json(text)), indent=2, ensure_ascii=False)
    except SchemaError:
        return text


# What comes of it


async def settle(host: Host, asked: Asked, error: BaseException | None) -> None:
    """Keep what is needed of a run that rests: who waits, who is done with, and who broke."""
    run = asked.run
    workflow = isinstance(run, WorkflowRun)
    before = next((w for w in host.broken if w.run.id == run.id), None)
    cell = host.calls.nth if before is None else before.cell
    now = Waiting(run=run, out=asked.out, call=asked.call, cell=cell, screen=asked.screen)
    if workflow:
        beside = [w for w in host.broken if w.run.id != run.id and w.cell == cell]
        stays = error is not None and not isinstance(error, RunSuspended) and run.log.events
        host.broken = [*beside, now] if stays else beside
    if isinstance(error, RunSuspended):
        # The newest handle: an older one does not know what was answered meanwhile.
        known = [w.run.id for w in host.waiting]
        if run.id in known:
            host.waiting[known.index(run.id)] = now
        else:
            host.waiting.append(now)
    else:
        host.waiting = [w for w in host.waiting if w.run.id != run.id]
    store = host.services.store
    if not asked.call or store is None:
        return
    if isinstance(error, RunSuspended) or (workflow and error is None and not asked.given):
        await _attach.begin(store, asked.call, run.id)
    elif unattended.row() is None:
        await _attach.end(store, asked.call)


def value_of(form: str, output: Any) -> Any:
    """The answer as `--as` wants it. Raises SchemaError for an answer that is not JSON."""
    if not isinstance(output, str) or form == "md":
        return output
    if form == "code":
        return views.code_of(output)[0]
    try:
        return parse_json(find_json(output))
    except SchemaError as error:
        raise SchemaError(
            f"the answer is {error.message}", hint="ask for JSON, or give a type with --schema"
        ) from None


def finish(host: Host, asked: Asked, output: Any, *, value: bool) -> Any:
    answer = value_of(asked.form, output)
    if asked.out:
        host.shell.user_ns[asked.out] = answer
    if value:
        return answer
    # Whoever captures the cell's output would keep an empty one for a silent result.
    if host.capturing:
        return None
    return _live.Result(asked.run, answer, asked.bundle if host.in_kernel else None)


async def arun(host: Host, asked: Asked, *, value: bool) -> Any:
    if current() is not None:
        return finish(host, asked, await asked.run, value=value)
    error = await watch(host, asked)
    if error is not None:
        raise error
    return finish(host, asked, asked.run.output, value=value)


async def watch(host: Host, asked: Asked) -> Exception | None:
    """Show the run until it rests and nobody answers; returns what it raised, or Stopped.

    What it has become is `asked.run`.
    """
    error: BaseException | None = None
    rate, goes_on = host.options.frame_rate, asked.screen is not None
    screen = asked.screen = asked.screen or host.screen(asked.bundle)
    try:
        with host.people.shown(asked.run):
            while True:
                try:
                    await _live.show(asked.run, screen, rate, goes_on=goes_on)
                    break
                except RunSuspended:
                    if (decided := await _answered(host, asked.run, screen)) is None:
                        raise
                screen, goes_on = _take_over(host, asked, decided, screen), True
    except Exception as raised:
        error = for_people(raised, asked.run)
        return error
    except BaseException as raised:
        error = raised
        raise
    finally:
        await settle(host, asked, error)
    return None


async def _answered(host: Host, run: Run[Any], screen: _live.Screen) -> Run[Any] | None:
    waits = False

    def told() -> None:
        nonlocal waits
        waits = True
        screen.show(run, last=False)

    decided: Run[Any] | None = None
    try:
        decided = await host.people.wait(run, seen=isinstance(screen, _live.Cell), told=told)
    except asyncio.CancelledError:
        _live.uncancel()  # the run waits on, as it would after a restart
    if decided is None and waits:
        screen.show(run, last=True)
    return decided


def _take_over(host: Host, asked: Asked, decided: Run[Any], screen: _live.Screen) -> _live.Screen:
    """The run goes on: where it is drawn in place it stays there."""
    asked.run = decided
    host.people.now(decided)
    return screen if isinstance(screen, _live.Cell) else host.screen(asked.bundle)


def run(host: Host, asked: Asked, *, value: bool) -> Any:
    error: BaseException | None = None
    screen = host.screen(asked.bundle)
    rate, goes_on = host.options.frame_rate, False
    try:
        with host.people.shown(asked.run):
            while True:
                try:
                    _live.show_blocking(asked.run, screen, rate, goes_on=goes_on)
                    break
                except RunSuspended:
                    seen = isinstance(screen, _live.Cell)
                    told = partial(screen.show, asked.run, last=False)
                    if (
                        decided := host.people.wait_blocking(asked.run, seen=seen, told=told)
                    ) is None:
                        raise
                screen, goes_on = _take_over(host, asked, decided, screen), True
    except BaseException as raised:
        error = for_people(raised, asked.run) if isinstance(raised, Exception) else raised
    finally:
        portal.run(settle(host, asked, error))
    if error is not None:
        raise error
    return finish(host, asked, asked.run.output, value=value)


def for_people(error: Exception, run: Run[Any]) -> Exception:
    """What broke in a workflow: where it happened in the user's code, and how to go on."""
    if isinstance(run, WorkflowRun) and isinstance(error, Stopped):
        return Stopped(f"stopped · %resume {run.id} goes on where it was")
    if not isinstance(run, WorkflowRun) or isinstance(error, MastraError):
        return error
    error.add_note(f"%resume {run.id} tries again from here; what has ended is not done again")
    frame, own = error.__traceback__, list[TracebackType]()
    while frame is not None:
        if not frame.tb_frame.f_code.co_filename.startswith(_PACKAGE):
            own.append(frame)
        frame = frame.tb_next
    made: TracebackType | None = None
    for each in reversed(own):
        made = TracebackType(made, each.tb_frame, each.tb_lasti, each.tb_lineno)
    return error.with_traceback(made)


# --show-prompt


class _Reading:
    """A store that is only read: what is previewed leaves no run behind."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def create(self, row: RunRow, **_: Any) -> RunRow:
        return row

    async def append(self, *_: Any, **__: Any) -> None:
        return None

    async def link(self, *_: Any) -> int:
        return 0


class _NothingSent(Exception):
    pass


async def _show_prompt(
    agent: Agent[Any], prompt: str | Message, thread: str, output: Any, host: Host
) -> None:
    """Print the request as the model would get it, and send nothing."""
    seen: list[tuple[str, ModelRequest]] = []

    def catch(model: Model) -> Model:
        caught = copy.copy(model)

        async def invoke(request: ModelRequest, ctx: Any) -> Any:
            seen.append((model.name, request))
            raise _NothingSent

        caught.invoke = invoke  # type: ignore[method-assign]
        return caught

    services = copy.copy(agent.services or host.services)
    services.sinks = []
    services.wrap_model = catch
    if services.store is not None:
        services.store = _Reading(services.store)
    try:
        await agent.replace(services=services).run(prompt, thread=thread, output=output)
    except _NothingSent:
        _live.say(_request_text(*seen[0]))


def _part_text(part: Part) -> str:
    if isinstance(part, Text):
        return part.text
    if isinstance(part, Media) and part.data is not None:
        return f"[{part.mime}, {len(part.data):,} bytes]"
    return msgspec.json.encode(part).decode()


def _request_text(model: str, request: ModelRequest) -> str:
    lines = [f"nothing was sent; this is what {model} would get"]
    for message in request.messages:
        lines += ["", f"[{message.role}]"]
        lines += map(_part_text, message.parts)
    for tool in request.tools:
        lines += ["", f"[tool {tool.name}]", tool.description]
        lines.append(msgspec.json.encode(tool.parameters).decode())
    if request.output is not None:
        lines += ["", "[schema of the answer]", msgspec.json.encode(request.output).decode()]
    settings = msgspec.to_builtins(request.settings)
    if settings:
        lines += ["", f"[settings] {settings}"]
    return "\n".join(lines)
