from __future__ import annotations

import importlib
import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mastra_nb import MCPClient, Media, Message, Text
from mastra_nb.config import Secret
from mastra_nb.errors import ConfigError, MissingExtra, NotFound
from mastra_nb.mcp import connection, content
from mastra_nb.mcp.client import tool_name
from mastra_nb.mcp.servers import Http, Stdio, needs_approval, parse, revealed
from mastra_nb.models import Reply
from mastra_nb.tools import TOOL_NAME, gathered, tool, toolset

# --- naming servers -----------------------------------------------------------------------------


def test_an_mcp_json_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GH_TOKEN", "canary-gh-canary")
    text = """{"mcpServers": {
        "files": {"command": "npx", "args": ["-y", "files", "${HOME_X:-/tmp}"], "cwd": "/"},
        "github": {"type": "http", "url": "https://x.test/mcp",
                   "headers": {"Authorization": "Bearer ${env:GH_TOKEN}", "X-Mode": "fast"}},
        "off": {"command": "x", "disabled": true}
    }}"""
    files, github = parse(json.loads(text)).values()
    assert isinstance(files, Stdio) and isinstance(github, Http)
    assert [*files.args] == ["-y", "files", "/tmp"]
    assert isinstance(github.headers["Authorization"], Secret)
    assert github.headers["X-Mode"] == "fast"
    assert revealed(github.headers)["Authorization"] == "Bearer canary-gh-canary"
    assert "canary" not in repr(github) and "Authorization" in repr(github)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"command": "x", "comand": "y"}, 'does not know "comand"'),
        ({"args": []}, 'does not know "args"'),
        ({"type": "stdio", "args": []}, 'has no "command"'),
        ({"type": "sse", "url": "https://x.test"}, 'type "sse"'),
        ({"command": "x", "env": {"A": "${NO_SUCH_VARIABLE_X}"}}, '"NO_SUCH_VARIABLE_X"'),
        ("npx -y files", "neither a command nor a URL"),
    ],
)
def test_a_wrong_server_is_named(given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        MCPClient({"files": given})
    assert '"files"' in caught.value.message


def test_what_is_secret_by_its_name_does_not_print() -> None:
    made = Stdio("x", ["--a", Secret("canary-arg-canary")], env={"API_KEY": "canary-env", "B": "1"})
    assert isinstance(made.env["API_KEY"], Secret) and made.env["B"] == "1"
    assert "canary" not in repr(made) + made.shown + repr(MCPClient({"m": made}))
    url = Http("https://user:canary-pw@x.test/mcp?key=canary-q")
    assert "canary" not in repr(url) + url.shown


def test_what_is_offered() -> None:
    made = Stdio("x", include=["read_*", "list"], exclude=["read_secret"])
    assert [n for n in ("read_a", "list", "read_secret", "write") if made.offers(n)] == [
        "read_a",
        "list",
    ]
    assert Stdio("x").offers("anything")


async def test_who_needs_approval() -> None:
    async def later(name: str, args: dict[str, Any]) -> bool:
        return args == {"x": 1}

    assert await needs_approval(True, "a", {}) and not await needs_approval(False, "a", {})
    assert await needs_approval(["wr*"], "write", {}) and not await needs_approval(["wr*"], "a", {})
    assert await needs_approval(later, "a", {"x": 1}) and not await needs_approval(later, "a", {})


def test_an_unknown_server_has_close_matches() -> None:
    from mastra_nb import portal

    with pytest.raises(NotFound) as caught:
        portal.run(MCPClient({"files": Stdio("x")}).tools("file"))
    assert '"files"' in caught.value.hint


@given(st.text(min_size=1, max_size=200))
def test_every_name_becomes_one_that_providers_take(name: str) -> None:
    made = tool_name(name)
    assert TOOL_NAME.fullmatch(made)
    assert tool_name(made) == made
    assert TOOL_NAME.fullmatch(name) is None or made == name


@given(st.sets(st.text("ab./ ", min_size=1, max_size=80), max_size=20))
def test_different_names_stay_different(names: set[str]) -> None:
    assert len({tool_name(n) for n in names}) == len(names)


# --- what servers say ---------------------------------------------------------------------------


class Block:
    def __init__(self, type: str, **fields: Any) -> None:
        self.type = type
        self.__dict__.update(fields)


class Result:
    def __init__(self, *blocks: Block, structured: Any = None) -> None:
        self.content = blocks
        self.structured_content = structured


def test_results_are_structured_or_text_or_parts() -> None:
    text = Block("text", text="a")
    assert content.output(Result(text, Block("text", text="b"))) == "a\nb"
    assert content.output(Result(text, structured={"n": 1})) == {"n": 1}
    image = Block("image", mime_type="image/png", data="AAEC")
    assert content.output(Result(text, image)) == [
        {"type": "text", "text": "a"},
        {"type": "media", "mime": "image/png", "data": "AAEC"},
    ]
    assert content.part(image) == Media(mime="image/png", data=b"\0\x01\x02")


def test_wrong_base64_is_no_media() -> None:
    assert isinstance(content.part(Block("audio", mime_type="audio/wav", data="?")), Text)


def test_a_long_text_is_cut_and_an_image_is_not() -> None:
    long, big = "x" * 100_000, "AAAA" * 50_000
    assert len(content.output(Result(Block("text", text=long)))) < 50_000
    (media,) = content.output(Result(Block("image", mime_type="image/png", data=big)))
    assert media["data"] == big


def test_answers_of_a_model() -> None:
    said = Message(role="assistant", parts=(Text(text="hi"),))
    assert content.answer_text("hi") == ("hi", "model")
    assert content.answer_text(said) == ("hi", "model")
    assert content.answer_text(Reply(message=said, finish="stop", model="m")) == ("hi", "m")


# --- tools that are known only when asked -------------------------------------------------------


async def test_tools_of_a_source_are_gathered() -> None:
    @tool
    def one() -> str:
        """One."""
        return "1"

    @tool
    def two() -> str:
        """Two."""
        return "2"

    class Source:
        async def list_tools(self) -> list[Any]:
            return [two]

    assert [*await gathered([one, Source()])] == ["one", "two"]
    assert [*toolset([one, Source()])] == ["one"]
    with pytest.raises(ConfigError, match='named "two"'):
        await gathered([two, Source()])


# --- the extra ----------------------------------------------------------------------------------


def test_without_the_sdk_there_is_a_line_for_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra) as caught:
        MCPClient({})
    assert caught.value.hint == 'pip install "mastra-nb[mcp]"'


def test_the_server_says_so_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mastra_nb.server.mcp", "mastra_nb.server._mcp_wire"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "mcp_types", None)
    with pytest.raises(MissingExtra) as caught:
        importlib.import_module("mastra_nb.server.mcp")
    assert caught.value.hint == 'pip install "mastra-nb[mcp]"'


def test_a_client_that_is_not_used_loads_nothing() -> None:
    code = """
        import sys
        from mastra_nb import Agent, MCPClient
        client = MCPClient({"files": {"command": "npx", "args": ["-y", "x"]}})
        Agent(name="a", tools=[client])
        assert not {"mcp", "pydantic", "anyio", "httpx"} & set(sys.modules), "loaded"
    """
    code = "\n".join(line.strip() for line in code.splitlines())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
