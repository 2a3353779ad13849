"""Agents, questions and their answers in the cells of one kernel."""

from __future__ import annotations

import re

import pytest

from tests.notebook.conftest import MIME, Kernel, Start

TOOL = '''\
%%tool
def get_weather(city: str) -> dict:
    """The weather in a city."""
    return {"city": city, "max_c": 21}
'''


def script(kernel: Kernel, *lines: str, name: str = "weather", options: str = "") -> None:
    """A fresh agent that says `lines`, each Python source of a line."""
    kernel.ok(f"model = ScriptedModel({', '.join(lines)})")
    kernel.ok(f"%%agent {name} -m model {options}\nBe brief.")


def test_loading_says_one_quiet_line(start: Start) -> None:
    kernel = start()
    out = kernel.ok("%load_ext mastra_nb")
    assert re.fullmatch(
        r"mastra_nb \S+ · model local · store mastra\.db · %mastra help\n", out.text
    )
    assert (kernel.cwd / "mastra.db").exists()
    assert kernel.ok("%reload_ext mastra_nb").text == out.text
    kernel.ok("%unload_ext mastra_nb")
    assert kernel.run("%mastra").text == "" or "not found" in kernel.run("%mastra").text
    assert kernel.ok("%load_ext mastra_nb").text == out.text


@pytest.mark.parametrize(
    ("env", "model"),
    [
        ({"OPENAI_API_KEY": "sk-canary-0123456789"}, "openai/gpt-4o-mini"),
        ({"GROQ_API_KEY": "gsk-canary-0123456789"}, "groq/llama-3.3-70b-versatile"),
        ({"OPENAI_API_KEY": "sk-canary-0123456789", "MASTRA_NB_MODEL": "vllm/x"}, "vllm/x"),
    ],
)
def test_the_default_model_is_the_first_that_has_a_key(
    start: Start, env: dict[str, str], model: str
) -> None:
    out = start(**env).ok("%load_ext mastra_nb")
    assert f"· model {model} ·" in out.text
    assert "canary" not in out.text


def test_an_agent_and_a_tool_are_cells(shared: Kernel) -> None:
    assert shared.ok(TOOL).text == "tools: get_weather\n"
    assert shared.ok("get_weather('Oslo')").result == "{'city': 'Oslo', 'max_c': 21}"
    script(
        shared, 'calls("get_weather", city="Oslo")', '"It is **sunny**."', options="-t get_weather"
    )
    out = shared.ok("%%ask weather\nWeather in {{ 'Oslo' }}?")
    (shown,) = out.shown
    assert "It is **sunny**." in shown["text/markdown"]
    assert shown[MIME]["status"] == "done"
    tool = shown[MIME]["items"][0]
    assert tool["name"] == "get_weather"
    assert (tool["args"], tool["result"]) == ({"city": "Oslo"}, {"city": "Oslo", "max_c": 21})
    assert not out.results, "the answer was shown already"
    assert shared.ok("_.text, _.output == _.text, _.usage.calls, _.run.status").result == (
        "('It is **sunny**.', True, 2, 'done')"
    )
    assert shared.ok("model.requests[0].messages[-1].text").result == "'Weather in Oslo?'"
    assert "weather" in shared.ok("weather").result


def test_an_assignment_takes_the_answer(shared: Kernel) -> None:
    script(shared, '"one"', '"two"', '"three"')
    assert shared.ok("x = %ask weather Will it rain in Oslo, isn't it?\nx").result == "'one'"
    assert shared.ok("model.requests[0].messages[-1].text").result == (
        '"Will it rain in Oslo, isn\'t it?"'
    )
    shared.ok("%ask weather -o y again")
    assert shared.ok("y").result == "'two'"
    shared.ok("%%ask weather --out z\nand again")
    assert shared.ok("z").result == "'three'"


def test_a_result_shows_itself_when_asked_again(shared: Kernel) -> None:
    script(shared, '"the answer"')
    shared.ok("%ask weather x")
    kept = shared.ok("kept = _")
    assert not kept.shown
    assert shared.ok("kept").answer == "the answer"


def test_typed_answers(shared: Kernel) -> None:
    shared.ok(
        "import dataclasses\n@dataclasses.dataclass\nclass F:\n    city: str\n    max_c: float"
    )
    script(shared, '\'{"city": "Oslo", "max_c": 3}\'', "'[1, 2]'", "'{\"value\": [3]}'")
    assert shared.ok("f = %ask weather --schema F Oslo tomorrow\nf.max_c + 2").result == "5.0"
    assert shared.ok("f = %ask weather --schema list[int] numbers\nf").result == "[1, 2]"
    shared.ok("%%agent typed -m model --output list[int]\nNumbers.")
    assert shared.ok("await typed.run('x')").result == "[3]"


def test_forms_of_an_answer(shared: Kernel) -> None:
    code = r'"Here:\n```python\nx = 1\n```\nDone."'
    script(shared, code, "'{\"a\": 1}'", code)
    out = shared.ok("c = %ask weather --as code write it")
    assert "```python\nx = 1\n```" in out.answer
    assert "Here:" not in out.answer
    assert shared.ok("c").result == "'x = 1'"
    assert shared.ok("j = %ask weather --as json now\nj").result == "{'a': 1}"
    assert "Here:" in shared.ok("%ask weather --as md write it").answer


def test_python_spellings_in_a_running_kernel(shared: Kernel) -> None:
    script(shared, *(['"hi"'] * 4))
    assert shared.ok("await weather.run('x')").result == "'hi'"
    assert shared.ok("weather.run('x').result()").result == "'hi'"
    assert (
        shared.ok("[type(e.data).__name__ for e in weather.run('x')][-1]").result == "'SpanEnded'"
    )
    assert shared.ok(
        "import threading\nout = []\n"
        "t = threading.Thread(target=lambda: out.append(weather.run('x').result()))\n"
        "t.start(); t.join()\nout"
    ).result == "['hi']"  # fmt: skip


def test_magics_nest(shared: Kernel) -> None:
    script(shared, *(f'"answer {n}"' for n in range(12)))
    timed = shared.ok("%%time\n%%ask weather\nx")
    assert timed.answer == "answer 0"
    assert "Wall time" in timed.text
    captured = shared.ok("%%capture cap\n%ask weather x")
    assert not captured.shown
    assert shared.ok("[o.data['text/plain'][:12] for o in cap.outputs]").result.count("text") == 0
    assert shared.ok("len(cap.outputs)").result == "1"
    assert shared.ok(
        "def f(c):\n    r = %ask weather in {{ c }}\n    return r\nf('Rome')"
    ).result == ("'answer 2'")
    assert shared.ok("model.requests[2].messages[-1].text").result == "'in Rome'"
    assert shared.ok(
        "async def g(c):\n    r = %ask weather {{ c }}\n    return r\nawait g('Rio')"
    ).result == "'answer 3'"  # fmt: skip
    loop = shared.ok("for c in ('a', 'b'):\n    %ask weather {{ c }}")
    assert [d["text/plain"] != "" for d in loop.shown] == [True, True]
    shared.ok("%%capture inner\n%%time\ny = %ask weather x?")
    assert shared.ok("y").result == "'answer 6'"
    assert "answer 7" in shared.ok("with open('m.ipy', 'w') as f: f.write('%ask weather x')\n"
                                   "%run -i m.ipy").markdown  # fmt: skip


def test_data_goes_into_prompts(shared: Kernel) -> None:
    script(shared, '"ok"')
    shared.ok("import pandas as pd\ndf = pd.DataFrame({'city': ['Oslo'], 'max_c': [8]})")
    shared.ok('%%ask weather\n{{ df }}\nand {"json": {"a": {}}} ${x} {y} {% z %} {# c #}')
    assert shared.ok("print(model.requests[0].messages[-1].text)").text == (
        "| city | max_c |\n| --- | --- |\n| Oslo | 8 |\n"
        'and {"json": {"a": {}}} ${x} {y} {% z %} {# c #}\n'
    )


def test_what_a_model_said_is_never_a_template(shared: Kernel) -> None:
    script(shared, "'{{ 6 * 7 }}'", '"ok"')
    shared.ok("a = %ask weather x")
    shared.ok("%ask weather it said {{ a }}")
    assert shared.ok("model.requests[1].messages[-1].text").result == "'it said {{ 6 * 7 }}'"


def test_show_prompt_sends_nothing(shared: Kernel) -> None:
    shared.ok(TOOL)
    script(shared, '"ok"', options="-t get_weather")
    out = shared.ok("%%ask weather --show-prompt\nsecret of {{ 1 + 1 }}")
    assert "[system]\nBe brief." in out.text
    assert "secret of 2" in out.text
    assert "[tool get_weather]" in out.text
    assert shared.ok("len(model.requests)").result == "0"


def test_the_conversation_lives_as_long_as_the_kernel(shared: Kernel) -> None:
    script(shared, *(f'"answer {n}"' for n in range(6)), name="friend", options="--memory")
    shared.ok("%ask friend one")
    shared.ok("await friend.run('two')")
    assert shared.ok("[m.text for m in model.requests[-1].messages][1:]").result == (
        "['one', 'answer 0', 'two']"
    )
    shared.ok("%%agent bare -m model\nBe brief.")
    shared.ok("%ask bare three")
    shared.ok("%ask bare four")
    assert shared.ok("len(model.requests[-1].messages)").result == "2"
    assert "this kernel" in shared.ok("%mastra threads").markdown


def test_a_tool_that_waits_for_approval(shared: Kernel) -> None:
    shared.ok(
        '%%tool --approve\ndef send(to: str) -> str:\n    "Send."\n    return "sent to " + to'
    )
    script(shared, 'calls("send", to="Ada")', '"Done."', name="mailer", options="-t send")
    out = shared.run("%ask mailer -o said write to Ada")
    assert re.fullmatch(
        r"⏸ suspended (r_\w+) · approval of \"send\" · %resume \1 approve", out.error
    )
    assert out.shown[0][MIME]["status"] == "suspended"
    bad = shared.run("%resume maybe")
    assert bad.head == 'UsageError: "maybe" is no answer'
    done = shared.ok("%resume approve")
    assert done.answer.endswith("Done.")
    assert shared.ok("said").result == "'Done.'"
    assert shared.run("%resume approve").head == "NotResumable: no run waits for an answer"

    script(shared, 'calls("send", to="Eve")', '"Not sent."', name="mailer", options="-t send")
    shared.run("%ask mailer write to Eve")
    shared.ok("%resume deny not to Eve")
    assert "not to Eve" in shared.ok("model.requests[-1].messages[-1].parts[0].output").result


def test_several_calls_wait_and_are_answered_one_after_the_other(shared: Kernel) -> None:
    shared.ok(
        '%%tool --approve\ndef write(to: str) -> str:\n    "Write."\n    return "wrote to " + to'
    )
    shared.ok(
        "from mastra_nb import assistant\n"
        "model = ScriptedModel(assistant(calls('write', id='a', to='Ada'), "
        "calls('write', id='b', to='Bob')), 'Both.')"
    )
    shared.ok("%%agent writer -m model -t write\nWrite.")
    assert shared.run("%ask writer go").ename == "RunSuspended"
    both = shared.run("%resume approve")
    assert "2 places" in both.error
    first = re.search(r'"([^"]*write\[0\.0\])"', both.error)
    assert first is not None, both.error
    assert shared.run(f"%resume --at {first[1]} approve").ename == "RunSuspended"
    assert shared.ok("%resume deny no").answer.endswith("Both.")
    told = shared.ok("[p.output for p in model.requests[-1].messages[-1].parts]").result
    assert "wrote to Ada" in told and "denied" in told


def test_tools_of_an_agent_may_wait_for_approval_too(shared: Kernel) -> None:
    shared.ok(TOOL)
    options = "-t get_weather --approve get_weather"
    script(shared, 'calls("get_weather", city="Oslo")', '"Done."', options=options)
    assert shared.run("%ask weather x").ename == "RunSuspended"
    assert shared.ok("get_weather.needs_approval").result == "False"
    shared.ok("%resume approve")


def test_agents_are_files_too(shared: Kernel) -> None:
    shared.ok("model = ScriptedModel('ok')")
    shared.ok("%%agent poet --save poet.md\n---\nmodel: model\nmemory: 6\n---\nRhyme.")
    text = (shared.cwd / "poet.md").read_text()
    assert text == "---\nmemory: '6'\nmodel: model\n---\nRhyme.\n"
    shared.ok("%agent copy -f poet.md")
    assert shared.ok("copy.instructions, copy.memory").result == (
        "('Rhyme.', Memory(last_messages=6))"
    )


def test_what_help_says(shared: Kernel) -> None:
    text = shared.ok("%%ask?").payload[0]["data"]["text/plain"]
    assert "--schema TYPE" in text
    assert "the type of the answer" in text
    assert "replay" in shared.ok("%mastra help").text


def test_subcommands(shared: Kernel) -> None:
    script(shared, '"a | b <script>"')
    shared.ok("%ask weather one **two** <script>alert(1)</script>")
    status = shared.ok("%mastra").markdown
    assert "| store | mastra.db |" in status
    runs = shared.ok("%mastra runs").markdown
    assert "<script>" not in runs
    assert "**two**" not in runs
    assert "weather" in shared.ok("%mastra agents").markdown
    assert "scripted/model" in shared.ok("%mastra cost").markdown.replace("&#47;", "/")
    assert "openai" in shared.ok("%mastra models").markdown
    assert "r&#95;" in shared.ok("%mastra runs all").markdown
    assert shared.ok("%mastra run").answer.startswith("a")
    assert "asks weather" in shared.ok("%mastra default weather").text
    shared.ok("model.script.append('the default answers')")
    assert shared.ok("%ask who are you?").answer == "the default answers"


def test_completion(shared: Kernel) -> None:
    shared.ok("weathervane = 1")
    script(shared, '"x"')
    assert "weather" in shared.complete("%ask wea")
    assert "weathervane" not in shared.complete("%ask wea")
    assert shared.complete("%%ask weather --sch") == ["--schema"]
    assert shared.complete("%%ask weather --as ") == ["md", "code", "json"]
    assert "openai/gpt-4o-mini" in shared.complete("%%agent x -m open")
    assert "weathervane" in shared.complete("%%ask weather\nHow is {{ weat")
    assert shared.complete("%mastra re") == ["replay"]
    assert shared.complete("%mastra replay o") == ["only", "off"]
    assert "weathervane" in shared.complete("weatherv"), "ordinary completion still works"
