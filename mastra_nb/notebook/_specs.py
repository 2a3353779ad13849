"""The grammar of our magics and sub-commands, as data."""

from __future__ import annotations

from mastra_nb.notebook._options import Option, Spec

MEMORY_PARTS = {
    "recall": "semantic_recall",
    "working": "working_memory",
    "observe": "observational_memory",
    "facts": "facts",
    "titles": "generate_title",
}
# What has a comma is meant as one, whatever it says: the next word may be the agent's name.
MEMORY_MODE = rf"on|off|{'|'.join(MEMORY_PARTS)}|\d+|\w*,[\w,]*"

AGENT = Spec(
    name="agent",
    summary="Define an agent and bind it to a variable.",
    usage=(
        "%%agent NAME [-m MODEL] [-t TOOL,…] [--memory [MODE]] [--thread T] [--resource R] "
        "[--embedder E] [--output TYPE] [--approve TOOL,…] [--save PATH]",
        "%agent  NAME -f FILE [options]",
    ),
    body=(
        "The body is the agent's instructions, in Markdown. It may begin with YAML front matter\n"
        "(between two lines of ---) that holds the same options, and whatever else Agent takes:\n"
        "max_steps, limits, settings, processors, handoffs, … What YAML cannot say is the name of\n"
        "something in the notebook. An option on the line wins."
    ),
    options=(
        Option(
            name="model", short="-m", metavar="MODEL", complete="model",
            help='"provider/model", or "local"; default: the notebook\'s model',
        ),
        Option(
            name="tools", short="-t", metavar="TOOL,…", kind="list", complete="tool",
            help="functions, tools, indexes or agents of the notebook it may call",
        ),
        Option(
            name="memory", metavar="[MODE]", implied="on", pattern=MEMORY_MODE, complete="memory",
            help="on, off, how many messages, and what more: recall,working,facts,observe,titles",
        ),
        Option(
            name="embedder", metavar="E", complete="embedder",
            help='who makes vectors for recall and facts; default: "local" if it is installed',
        ),
        Option(
            name="thread", metavar="T", complete="thread",
            help="a conversation that outlives the kernel (implies memory)",
        ),
        Option(name="resource", metavar="R", help="whose conversations and memory these are"),
        Option(
            name="output", metavar="TYPE", complete="type",
            help="the type of its answers; default: text",
        ),
        Option(
            name="approve", metavar="TOOL,…", kind="list", complete="tool",
            help="tools that wait for your approval before each call",
        ),
        Option(
            name="file", short="-f", metavar="FILE", help="read the instructions from a file",
        ),
        Option(name="save", metavar="PATH", help="write options and instructions to a file"),
    ),
    examples="%%agent weather -m openai/gpt-4o-mini -t get_weather --memory on\n"
    "You answer questions about the weather, in one sentence.",
)  # fmt: skip

ASK = Spec(
    name="ask",
    summary="Ask an agent; the answer streams into the cell.",
    usage=(
        "%%ask [AGENT] [-o VAR] [--schema TYPE] [--thread T] [--resource R] "
        "[--as md|code|json] [--budget USD] [--bg] [--no-cache] [--show-prompt]",
        "%%ask [AGENT] --each DATA [-o VAR] [--schema TYPE] [--budget USD] [--concurrency N]",
        "%ask  [AGENT] [options] the question",
        "x = %ask [AGENT] [options] the question",
    ),
    body=(
        "The body is the question. {{ expression }} inserts a value of the notebook; every other\n"
        "brace stays as it is. @name takes an object along as context: a table, a function, a\n"
        "picture, @err (the last error), @out[3], @in[-1], @above, @nb (this session).\n"
        "AGENT is a variable or a registered agent; without one the default agent is meant (see\n"
        "%mastra default). `x = %ask …` binds the answer, a bare %ask leaves a result in `_` with\n"
        ".output, .run, .usage and .text. `--` ends the options.\n"
        "--each asks once for each row of a DataFrame, a list or a dict: {{ row.city }} and\n"
        "{{ index }} are the row's, and the rows with their answers come back as a DataFrame."
    ),
    options=(
        Option(
            name="out", short="-o", metavar="VAR", complete="variable",
            help="bind the answer to this variable",
        ),
        Option(name="schema", metavar="TYPE", complete="type", help="the type of the answer"),
        Option(
            name="thread", metavar="T", complete="thread",
            help="a conversation that outlives the kernel (implies memory)",
        ),
        Option(name="resource", metavar="R", help="whose conversation and memory this is"),
        Option(
            name="as", metavar="FORM", kind="choice", choices=("md", "code", "json"),
            help="md (default), code (its code block), json (its JSON value)",
        ),
        Option(
            name="budget", metavar="USD", kind="number",
            help="refuse the model call that would cross this many US dollars",
        ),
        Option(
            name="each", metavar="DATA", kind="expression", complete="variable",
            help="ask for each row of this DataFrame, list or dict",
        ),
        Option(
            name="bg",
            help="go on with the next cell while it runs; -o binds a job to await, or %mastra join",
        ),
        Option(
            name="concurrency", metavar="N", kind="count",
            help="with --each: how many are asked at a time; default: %config Mastra.concurrency",
        ),
        Option(
            name="no-cache",
            help="ask anew, whatever a recording or an unfinished run would give",
        ),
        Option(name="show-prompt", help="print what would be sent, and send nothing"),
    ),
    examples="%%ask weather -o answer\nWhat should I wear in {{ city }} tomorrow?\n\n"
    "oslo = %ask weather --schema Forecast Oslo tomorrow\n\n"
    "%%ask weather --each cities -o out --schema Forecast --budget 0.20\n"
    "Forecast for {{ row.city }}",
)  # fmt: skip

TOOL = Spec(
    name="tool",
    summary="Make the functions defined in this cell tools.",
    usage=("%%tool [--approve] [--timeout S]",),
    body=(
        "Names, type hints and docstrings are what the model sees. Names that begin with an\n"
        "underscore stay plain functions. The same as @tool on each function."
    ),
    options=(
        Option(name="approve", help="each call waits for your approval"),
        Option(
            name="timeout",
            metavar="S",
            kind="number",
            help="seconds after which a call is given up",
        ),
    ),
    examples="%%tool --approve\ndef send_mail(to: str, text: str) -> str:\n"
    '    """Send a mail."""\n    return "sent"',
)

WORKFLOW = Spec(
    name="workflow",
    summary="Define a workflow; its body is Python.",
    usage=("%%workflow NAME(ARGUMENTS) [-> TYPE]",),
    body=(
        "NAME becomes a function: `await NAME(...)` runs it. In the body every call of a @step,\n"
        "an agent, a workflow and `tool.run(...)` is kept: when the run goes on after a restart\n"
        "or an answer, what has ended is not done again. The Python between the calls runs\n"
        "again: keep effects in steps; await now(), random(), uuid(), sleep(), suspend(question)\n"
        "of mastra_nb.workflows for what must not change. The cell shows the outline at once."
    ),
    options=(),
    examples="%%workflow digest(topic: str) -> str\n"
    "pages = await asyncio.gather(*[fetch(u) for u in await search(topic)])\n"
    'if not await suspend({"pages": len(pages)}, schema=bool):\n    return ""\n'
    'return await writer(f"Sum up: {pages}")',
)

RESUME = Spec(
    name="resume",
    summary="Answer a run that waits, and let it go on.",
    usage=("%resume [RUN] approve|deny|{json}",),
    body=(
        "RUN is an id or its beginning; without one the run that was suspended last is meant, and\n"
        "without an answer a workflow's run that failed or was stopped after it. approve and deny\n"
        "answer a tool's approval and a question of yes or no; words after deny are told to the\n"
        "model as the reason. Where a text is asked for it needs no quotes. Without an answer a\n"
        "run that was cut off is taken up where it was, and one of a workflow that failed or was\n"
        "stopped is tried again from there."
    ),
    options=(
        Option(
            name="at", metavar="PLACE", complete="place",
            help="which of several waiting calls is answered: a tool's name or a path",
        ),
        Option(
            name="out", short="-o", metavar="VAR", complete="variable",
            help="bind the answer to this variable",
        ),
    ),
    examples="%resume approve\n%resume r_7f3 deny not to this address",
)  # fmt: skip

COMMANDS: dict[str, tuple[str, str]] = {
    "status": ("", "model, store, replay, agents, versions"),
    "models": ("[PROVIDER]", "what can be used right now, and why the rest cannot"),
    "agents": ("", "the agents of this notebook"),
    "runs": ("[all|N]", "runs of this kernel; all or N: of the store"),
    "run": ("[RUN]", "show one run; without an id the newest"),
    "trace": ("[RUN]", "what happened in a run, and when"),
    "diff": ("[A] [B]", "two runs side by side; default: last~1 and last"),
    "waiting": ("", "what waits for a person, in any run of the store"),
    "workflows": ("", "the workflows of this notebook"),
    "graph": ("[NAME|RUN]", "the picture of a workflow, or of a run of one"),
    "jobs": ("", "what was begun with --bg"),
    "join": ("[NAME|RUN|all]", "wait for what was begun with --bg, and show it here"),
    "batch": ("NOTEBOOK --params ROWS…", "run a notebook once for each row of a table"),
    "threads": ("", "conversations of the store"),
    "memory": ("[AGENT|THREAD|RESOURCE]", "what is remembered"),
    "index": ("[NAME [QUESTION…]]", "indexes of the store, or what one of them finds"),
    "cost": ("", "what this kernel has used, by model"),
    "replay": ("[record|auto|only|off]", "record model calls, or answer from recordings"),
    "default": ("[AGENT]", "who is asked when %ask names nobody"),
    "key": ("[PROVIDER]", "type a provider's key, unseen; alone: who has one, and where"),
    "doctor": ("[--offline]", "whether all is as it should be, and what to do"),
    "dash": ("", "all of it in a widget: runs, costs, conversations, indexes, approvals"),
    "serve": ("[--port N] [--stop]", "serve this notebook's agents and workflows"),
    "help": ("", "this list"),
}

MASTRA = Spec(
    name="mastra",
    summary="Look at what runs here, and change how.",
    usage=("%mastra SUB",),
    body="\n".join(
        f"    %mastra {f'{name} {args}'.strip():<32}{about}"
        for name, (args, about) in COMMANDS.items()
    )
    + f"\n    %mastra {'index ingest NAME PATH…':<32}read files and folders into an index",
)

SPECS = {spec.name: spec for spec in (AGENT, ASK, TOOL, WORKFLOW, RESUME, MASTRA)}
