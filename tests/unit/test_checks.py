from __future__ import annotations

from pathlib import Path

import pytest

from mastra_nb import checks, open_store
from mastra_nb.checks import Check, made, summary
from mastra_nb.errors import ConfigError
from mastra_nb.notebook._doctor import bundle


async def test_a_check_that_breaks_says_so() -> None:
    def broken() -> Check:
        raise ConfigError("no <b>way</b>, sk-canary-0123456789", hint="set it")

    (found,) = await made([("x", broken)])
    assert (found.state, found.do) == ("wrong", "set it")
    shown = bundle([found])
    assert "canary" not in str(shown)
    assert "<b>" not in shown["text/markdown"]
    assert "no <b>way</b>" in shown["text/plain"]


def test_one_line_at_the_end() -> None:
    ok, note, wrong = (
        Check(name=n, state=n, found="x")  # type: ignore[arg-type]
        for n in ("ok", "note", "wrong")
    )
    assert summary([ok]) == "✓ all is well"
    assert summary([ok, note]) == "✓ all works; better with: note"
    assert summary([ok, note, wrong]) == "✗ wrong to be put right"


async def test_what_a_model_needs() -> None:
    given = {"offline": True, "do": "set a key", "listed": "list them"}
    found = await checks.model("openai/gpt-5-mini", **given)  # type: ignore[arg-type]
    assert (found.state, found.found) == ("ok", "openai/gpt-5-mini: not asked")


async def test_a_provider_without_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MISTRAL_API_KEY", raising=False)
    found = await checks.model("mistral/m", offline=False, do="set a key", listed="list them")
    assert (found.state, found.do) == ("wrong", "set a key")


def test_prices() -> None:
    assert checks.price("openai/gpt-5-mini", {}).state == "ok"
    assert checks.price("nobody/nothing", {}).state == "note"


async def test_a_store_and_its_disk(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    store = open_store(url)
    found = await checks.store(store, "a.db")
    assert "schema" in found.found
    assert (await checks.vectors(store)).state in ("ok", "note")
    assert "GB free" in checks.disk(url).found
    await store.close()
    assert (await checks.store(open_store("memory://"), "memory")).found == "memory"
