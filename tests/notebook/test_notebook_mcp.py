"""A server that is opened in one cell, used in another and closed in a third."""

from __future__ import annotations

from pathlib import Path

from tests.notebook.conftest import SCRIPTED, Start

SERVER = Path(__file__).resolve().parent.parent / "mcp" / "misbehaving.py"


def test_a_server_lives_across_cells(start: Start) -> None:
    kernel = start()
    kernel.ok("%load_ext mastra_nb")
    kernel.ok(
        f"{SCRIPTED}\nimport sys\nfrom mastra_nb import MCPClient\n"
        f"from mastra_nb.mcp.servers import Stdio\n"
        f"mcp = MCPClient({{'m': Stdio(sys.executable, [{str(SERVER)!r}])}})\n"
        "model = ScriptedModel(calls('m_echo', text='hi'), 'It said hi.', repeat=True)\n"
        "talker = Agent(name='talker', model=model, tools=[mcp])"
    )
    assert "m_echo" in kernel.ok("[t.name for t in await mcp.tools()]").result
    shown = kernel.ok("%%ask talker\nSay hi.").markdown
    assert "It said hi." in shown and "echo" in shown
    assert kernel.ok("talker.run('again').result()").result == "'It said hi.'"
    kernel.ok("await mcp.close()")
    left = kernel.ok("import subprocess, os\nsubprocess.run(['pgrep', '-P', str(os.getpid())])")
    assert left.result.endswith("returncode=1)"), left.text


def test_a_wrong_command_is_one_line(start: Start) -> None:
    kernel = start()
    kernel.ok("%load_ext mastra_nb")
    kernel.ok(SCRIPTED + "from mastra_nb import MCPClient\n")
    out = kernel.run(
        "files = MCPClient({'files': {'command': 'npxx', 'args': ['-y', 'server']}})\n"
        "await Agent(name='a', model=ScriptedModel('x'), tools=[files]).run('go')"
    )
    assert out.error.splitlines() == [
        'ConfigError: MCP server "files" cannot be started: there is no command "npxx"',
        "  → install it, or give its full path",
    ]
