"""%mastra doctor in real kernels."""

from __future__ import annotations

import json

from tests.notebook.conftest import Kernel, Start

NAMES = (
    "Python", "mastra_nb", "IPython", "approvals", "model", "network", "price", "store", "vectors",
    "embedder", "lab extension", "front end", "widgets", "event loop", "disk",
)  # fmt: skip
DATA = (
    "from mastra_nb.notebook import _doctor; import msgspec\n"
    "found = await _doctor.checks(get_ipython().mastra.host, offline={})\n"
    "print(msgspec.json.encode(found).decode())"
)


def states(kernel: Kernel, *, offline: bool = True) -> dict[str, dict[str, str]]:
    found = json.loads(kernel.ok(DATA.format(offline)).text)
    return {check["name"]: check for check in found}


def test_every_check_says_what_it_found(shared: Kernel) -> None:
    (shown,) = shared.ok("%mastra doctor").shown
    lines = shown["text/plain"].splitlines()
    heads = [line for line in lines if line[0] in "✓!✗"]
    assert len(heads) == len(NAMES) + 1
    assert all(head[2:].startswith(name) for head, name in zip(heads, NAMES, strict=False))
    assert lines[-1].startswith("✓ all ")
    found = states(shared)
    assert tuple(found) == NAMES
    assert found["store"]["found"].startswith("mastra.db, ")
    assert "SQLite 3" in found["store"]["found"]
    assert shared.run("%mastra doctor quick").ename == "UsageError"
    assert shared.complete("%mastra doctor --o") == ["--offline"]


def test_what_is_wrong_and_what_to_do(start: Start) -> None:
    kernel = start(OPENAI_BASE_URL="http://127.0.0.1:9/v1", OPENAI_API_KEY="sk-canary-0123456789")
    kernel.ok("%load_ext mastra_nb")
    out = kernel.ok("%mastra doctor")
    assert "canary" not in str(out.shown)
    found = states(kernel, offline=False)
    assert found["model"]["state"] == "wrong"
    assert "nothing answers at http://127.0.0.1:9/v1" in found["model"]["found"]
    assert states(kernel)["model"]["state"] == "ok", "offline nobody is asked"
    kernel.ok("%config Mastra.model = 'groq/some'\n%autoawait off")
    found = states_blocking(kernel)
    assert found["model"]["do"].startswith("%mastra key groq")
    assert found["price"]["state"] == "note"
    assert found["event loop"]["do"] == "%autoawait on"


def states_blocking(kernel: Kernel) -> dict[str, dict[str, str]]:
    code = DATA.format(False).replace("await ", "portal.run(").replace("False)", "False))")
    return {
        c["name"]: c for c in json.loads(kernel.ok(f"from mastra_nb import portal\n{code}").text)
    }


def test_a_store_that_cannot_be_used(start: Start) -> None:
    kernel = start(MASTRA_NB_STORAGE="sqlite:////proc/nowhere/x.db")
    kernel.ok("%load_ext mastra_nb")
    found = states(kernel)["store"]
    assert found["state"] == "wrong"
    assert found["do"].startswith("%config Mastra.storage")
