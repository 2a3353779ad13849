"""%mastra key: what is typed is seen nowhere."""

from __future__ import annotations

import json
from pathlib import Path

from tests.notebook.conftest import Kernel, Output, Start

CANARY = "canary-key-0123456789"
BACKEND = """\
import json, pathlib
from keyring.backend import KeyringBackend

class Keyring(KeyringBackend):
    priority = 1
    file = pathlib.Path(__file__).parent / "kept.json"

    def get_password(self, service, name):
        return json.loads(self.file.read_text()).get(name) if self.file.exists() else None

    def set_password(self, service, name, value):
        self.file.write_text(json.dumps({name: value}))
"""


def typed(kernel: Kernel, code: str, answer: str) -> Output:
    id = kernel.start(code, stdin=True)
    asked = kernel.client.get_stdin_msg(timeout=20)
    assert asked["content"]["password"] is True
    kernel.client.input(answer)
    return kernel.finish(id)


def everywhere(kernel: Kernel) -> str:
    """What a kernel has written or would show: history, namespace, store."""
    shown = kernel.ok("%history\nlist(In), list(Out.values()), [n for n in dir()]")
    files = b"".join(p.read_bytes() for p in kernel.cwd.glob("mastra.db*"))
    return f"{shown.text}{shown.result}{files!r}"


def test_without_a_keyring_it_is_for_this_kernel_only(start: Start, tmp_path: Path) -> None:
    kernel = start(
        PYTHON_KEYRING_BACKEND="keyring.backends.fail.Keyring", XDG_CONFIG_HOME=str(tmp_path / "c")
    )
    kernel.ok("%load_ext mastra_nb")
    out = typed(kernel, "%mastra key openai", f"{CANARY}\n")
    assert not out.error, out.error
    assert out.text.startswith("openai: OPENAI_API_KEY is set in this kernel only")
    assert kernel.ok("import os\nlen(os.environ['OPENAI_API_KEY'])").result == str(len(CANARY))
    assert CANARY not in json.dumps(out.__dict__, default=str)
    assert "| model | openai/gpt-4o-mini |" in kernel.ok("%mastra").markdown.replace("&#47;", "/")
    listed = kernel.ok("%mastra key").shown[0]["text/plain"]
    assert "✓  openai" in listed
    assert 'the environment variable "OPENAI_API_KEY"' in listed
    assert CANARY not in listed + everywhere(kernel)
    assert not (tmp_path / "c").exists()


def test_a_keyring_keeps_it_for_the_next_kernel(start: Start, tmp_path: Path) -> None:
    (tmp_path / "backend.py").write_text(BACKEND)
    env = {"PYTHON_KEYRING_BACKEND": "backend.Keyring", "XDG_CONFIG_HOME": str(tmp_path / "c")}
    kernel = start(**env)
    kernel.ok("%load_ext mastra_nb")
    out = typed(kernel, "%mastra key groq", CANARY)
    assert out.text == "groq: kept in the keyring as GROQ_API_KEY\n"
    kernel.restart()
    assert "groq/" in kernel.ok("%load_ext mastra_nb").text
    assert "keyring" in kernel.ok("%mastra key").shown[0]["text/plain"]
    assert CANARY not in everywhere(kernel)
    assert kernel.ok("import os\n'GROQ_API_KEY' in os.environ").result == "False"


def test_mistakes_do_not_repeat_a_key(start: Start) -> None:
    kernel = start()
    kernel.ok("%load_ext mastra_nb")
    out = kernel.run("%mastra key openai")
    assert out.head == "UsageError: nobody can type a key here"
    assert "set OPENAI_API_KEY in the environment" in out.error
    for line in (f"%mastra key openai {CANARY}", f"%mastra key {CANARY.upper()}"):
        out = kernel.run(line)
        assert out.ename in ("UsageError", "NotFound")
        assert CANARY.lower() not in out.error.lower()
    assert kernel.run("%mastra key opnai").error.endswith('did you mean "openai"?')
    assert kernel.ok("%mastra key local").text == "local needs no key\n"
    assert kernel.complete("%mastra key openr") == ["openrouter"]
    assert "nothing is changed" in typed(kernel, "%mastra key openai", "").text
