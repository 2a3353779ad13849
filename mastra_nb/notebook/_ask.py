"""%ask and %resume: a question becomes a run, the run is shown, its answer becomes a value."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from mastra_nb import portal
from mastra_nb._escape import fence
from mastra_nb.agents import Agent
from mastra_nb.context import current
from mastra_nb.errors import (
    MastraError,
    NotFound,
    NotResumable,
    RunSuspended,
    SchemaError,
    Stopped,
    UsageError,
    close_matches,
)
from mastra_nb.events import Suspended
from mastra_nb.limits import Limits
from mastra_nb.memory.memory import Memory
from mastra_nb.messages import Text
from mastra_nb.models import Model, ModelRequest
from mastra_nb.notebook import _attach, _live, _templates, _values
from mastra_nb.notebook._errors import form
from mastra_nb.notebook._host import Host, Waiting
from mastra_nb.notebook._options import Parsed, is_flag, parse_cell, parse_line
from mastra_nb.notebook._specs import ASK, RESUME
from mastra_nb.runs import Run
from mastra_nb.schema import find_json, parse_json, validate
from mastra_nb.storage import RunRow
from mastra_nb.workflow_runs import WorkflowRun

_PACKAGE = str(Path(__file__).parents[1])
_CODE = re.compile(
    r"^(?P<fence>`{3,}|~{3,})[ \t]*(?P<info>[^\n`]*)\n(?P<code>.*?)^(?P=fence)[ \t]*$",
    re.DOTALL | re.MULTILINE,
)


class Asked(msgspec.Struct, kw_only=True):
    """A question on its way. `call` identifies it in its cell, "" if it is not to be taken up; it
    is over when whoever asked is `given` the output.
    """

    run: Run[Any]
    bundle: Callable[[Run[Any]], dict[str, Any]]
    form: str = "md"
    out: str = ""
    call: str = ""
    given: bool = True


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
    prompt = _templates.render(template, names)
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
    anew = parsed.get("no-cache", False)
    if anew:
        agent = _anew(agent, host)
    # In a workflow it is a step of that one, which is what is taken up.
    alone = current() is None
    call = host.calls.identify(host.notebook, agent.name, prompt, line if body is not None else "")
    run = None if anew or not alone else await _take_up(host, agent, call, output)
    if run is None:
        run = agent.run(prompt, thread=thread, resource=resource, output=output, limits=limits)
        await host.list_thread(thread)
        if alone and host.services.store is not None:
            await _attach.begin(host.services.store, call, run.id)
    form = parsed.get("as", "md")
    return Asked(
        run=run,
        bundle=partial(show_run, host, shown, form),
        form=form,
        out=parsed.get("out", ""),
        call=call if alone else "",
    )


def _anew(agent: Agent[Any], host: Host) -> Agent[Any]:
    services = copy.copy(agent.services or host.services)
    services.wrap_model = host.replay.anew()
    return agent.replace(services=services)


async def _take_up(host: Host, agent: Agent[Any], call: str, output: Any) -> Run[Any] | None:
    """The unfinished run of the same call, if there is one."""
    store = host.services.store
    row: RunRow | None = await _attach.unfinished(store, call) if store is not None else None
    if row is None or store is None or row.name != agent.name:
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
    return run if row.status == "suspended" else run.resume()


# How it is shown


def show_run(host: Host, thread: str, form: str, run: Run[Any]) -> dict[str, Any]:
    change = partial(_change, host, form)
    return _live.run_bundle(run, thread=thread, change=change, told=True)


def _change(host: Host, form: str, record: dict[str, Any]) -> dict[str, Any]:
    if not host.options.show_reasoning:
        record["items"] = [i for i in record.get("items", ()) if i.get("type") != "reasoning"]
    if host.replay.mode != "off" and record.get("model"):
        word = "replay" if host.replay.mode == "only" else host.replay.mode
        record["model"] = f"{record['model']} ({word})"
    text = record.get("text")
    if text and record["status"] == "done" and form != "md":
        if form == "code":
            record["text"] = fence(*_code(text))
        else:
            record["text"] = fence(_pretty(text), "json")
    return record


def _code(text: str) -> tuple[str, str]:
    """(code, language) of an answer: its first fenced block, else all of it."""
    match = _CODE.search(text)
    if match is None:
        return text.strip("\n"), ""
    return match["code"].rstrip("\n"), (match["info"].split() or [""])[0]


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
    now = Waiting(run=run, out=asked.out, call=asked.call, cell=cell)
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
    else:
        await _attach.end(store, asked.call)


def value_of(asked: Asked, output: Any) -> Any:
    """The answer as `--as` wants it. Raises SchemaError for an answer that is not JSON."""
    if not isinstance(output, str) or asked.form == "md":
        return output
    if asked.form == "code":
        return _code(output)[0]
    try:
        return parse_json(find_json(output))
    except SchemaError as error:
        raise SchemaError(
            f"the answer is {error.message}", hint="ask for JSON, or give a type with --schema"
        ) from None


def finish(host: Host, asked: Asked, output: Any, *, value: bool) -> Any:
    answer = value_of(asked, output)
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
    """Show the run until it rests; returns what it raised, or Stopped."""
    error: BaseException | None = None
    try:
        await _live.show(asked.run, host.screen(asked.bundle), host.options.frame_rate)
    except Exception as raised:
        error = for_people(raised, asked.run)
        return error
    except BaseException as raised:
        error = raised
        raise
    finally:
        await settle(host, asked, error)
    return None


def run(host: Host, asked: Asked, *, value: bool) -> Any:
    error: BaseException | None = None
    try:
        _live.show_blocking(asked.run, host.screen(asked.bundle), host.options.frame_rate)
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


# %resume

_RUN_ID = re.compile(r"r_[0-9a-zA-Z]*")


async def prepare_resume(host: Host, line: str, *, value: bool) -> Asked:
    host.refresh()
    parsed = parse_line(RESUME, line, is_name=lambda word: _RUN_ID.fullmatch(word) is not None)
    id = parsed.words[0] if parsed.words else ""
    waiting = await _waiting(host, id, answered=bool(parsed.rest.strip()))
    run = waiting.run
    path = _place(run, parsed.get("at", ""))
    asked = run.pending.get(path) if path else next(iter(run.pending.values()), None)
    given, now = read_answer(parsed.rest, asked), host.services.now()
    late = [p for p, a in run.pending.items() if (a.deadline or now + 1) <= now]
    if isinstance(run, WorkflowRun) and run.status in ("failed", "cancelled"):
        if given is not ...:
            raise NotResumable(
                f'run "{run.id}" asks nothing: it is {run.status}',
                hint=f"%resume {run.id} without an answer tries again from there",
            )
        resumed = run.retry()
    elif late and given is ...:
        resumed = run.expire()
    elif (path or next(iter(run.pending), "")) in late:
        raise NotResumable(
            f'the time to answer run "{run.id}" is over',
            hint=f"%resume {run.id} without an answer goes on without one",
        )
    else:
        resumed = run.resume(given, path=path)
    named = resumed.thread if not host._is_kernel_thread(resumed.thread) else ""
    return Asked(
        run=resumed,
        bundle=partial(show_run, host, named, "md"),
        out=parsed.get("out", "") or waiting.out,
        call=waiting.call,
        given=value or bool(parsed.get("out", "") or waiting.out),
    )


def read_answer(text: str, asked: Suspended | None = None) -> Any:
    """The answer to `asked`: a JSON value, text where a text is asked for, `approve`, or `deny`
    with an optional reason; ... for none. Raises UsageError.
    """
    text = text.strip()
    if not text:
        return ...
    schema = (asked.schema if asked is not None else None) or {}
    try:
        value = parse_json(text)
    except SchemaError:
        value = ...
    if value is not ... and _fits(value, schema):
        return value
    if schema and _fits(text, schema):
        return text
    if value is not ...:
        return value  # that it does not fit is said by the run
    word, _, rest = text.partition(" ")
    if word == "deny" or text == "approve":
        if (
            asked is None
            or asked.reason == "approval"
            or "approved" in schema.get("properties", {})
        ):
            why = {"reason": rest.strip()} if rest.strip() else {}
            return {"approved": word == "approve"} | why
        # A mapping that says no would be true in the body's `if`.
        if not rest:
            return word == "approve"
    raise UsageError(f'"{text}" is no answer', hint=f"%resume [RUN] {form(asked)}")


def _fits(value: Any, schema: dict[str, Any]) -> bool:
    try:
        validate(value, schema)
    except SchemaError:
        return False
    return True


async def _waiting(host: Host, id: str, *, answered: bool) -> Waiting:
    """The run that is meant; without an id and an answer also one that failed or was stopped."""
    for broken in reversed(host.broken):
        if broken.run.id.startswith(id) and (id or not answered):
            return await _current(host, broken)
    for waiting in reversed(host.waiting):
        if waiting.run.id.startswith(id) and (id or waiting.run.status == "suspended"):
            return await _current(host, waiting)
    if not id:
        store = host.services.store
        rows = await store.find_runs(status="suspended", limit=1) if store is not None else []
        if not rows:
            hint = "%mastra runs lists the runs"
            if host.broken:
                hint = f'%resume without an answer tries "{host.broken[-1].run.name}" again'
            raise NotResumable("no run waits for an answer", hint=hint)
        id = rows[0].id
    return Waiting(run=await host.load_run(id), out="", call="")


async def _current(host: Host, waiting: Waiting) -> Waiting:
    """With the workflow as it is defined now: its cell may have run again since."""
    run = waiting.run
    now = host.workflow_named(run.name) if isinstance(run, WorkflowRun) else None
    if now is None or now is run.target or host.services.store is None:
        return waiting
    log = run.log
    loaded = await host.load_run(run.id, deps=log.deps, limits=log.meter.limits)
    return msgspec.structs.replace(waiting, run=loaded)


def _place(run: Run[Any], at: str) -> str | None:
    """The path of the call that is answered; None for the only one."""
    pending = run.pending
    if not at:
        if len(pending) > 1:
            places = ", ".join(f'"{_short(path)}"' for path in pending)
            raise NotResumable(
                f'run "{run.id}" waits in {len(pending)} places',
                hint=f"say which one with --at: {places}",
            )
        return None
    found = [path for path in pending if at in (path, _short(path), _named(path))]
    if len(found) != 1:
        places = ", ".join(f'"{_short(path)}"' for path in pending) or "nowhere"
        raise NotFound(
            f'run "{run.id}" does not wait at "{at}" alone', hint=f"it waits at: {places}"
        )
    return found[0]


def _short(path: str) -> str:
    return path.rpartition("/")[2]


def _named(path: str) -> str:
    """The name of the call, without what tells it from others of that name."""
    return _short(path).partition("[")[0].partition("#")[0]


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
    agent: Agent[Any], prompt: str, thread: str, output: Any, host: Host
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


def _request_text(model: str, request: ModelRequest) -> str:
    lines = [f"nothing was sent; this is what {model} would get"]
    for message in request.messages:
        lines += ["", f"[{message.role}]"]
        lines += [
            part.text if isinstance(part, Text) else msgspec.json.encode(part).decode()
            for part in message.parts
        ]
    for tool in request.tools:
        lines += ["", f"[tool {tool.name}]", tool.description]
        lines.append(msgspec.json.encode(tool.parameters).decode())
    if request.output is not None:
        lines += ["", "[schema of the answer]", msgspec.json.encode(request.output).decode()]
    settings = msgspec.to_builtins(request.settings)
    if settings:
        lines += ["", f"[settings] {settings}"]
    return "\n".join(lines)
