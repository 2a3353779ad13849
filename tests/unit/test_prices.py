from __future__ import annotations

from pathlib import Path

import pytest

from mastra_nb import prices
from mastra_nb.config import Price, load_settings
from mastra_nb.errors import ConfigError
from mastra_nb.messages import Usage
from mastra_nb.prices import cost, find_price, set_price


@pytest.fixture(autouse=True)
def own_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prices, "_set", {})


def test_each_kind_of_token_has_its_price() -> None:
    used = Usage(input=1_000_000, cached=400_000, cache_write=100_000, output=10_000, calls=1)
    assert cost("anthropic/claude-haiku-4-5", used) == pytest.approx(0.5 + 0.04 + 0.125 + 0.05)
    assert cost("openai/gpt-4o-mini", Usage(input=1000, cached=1000)) == pytest.approx(75e-6)


@pytest.mark.parametrize(
    ("name", "family"),
    [("openai/gpt-4o-2024-08-06", "openai/gpt-4o"), ("openai/gpt-5-2025-08-07", "openai/gpt-5"),
     ("anthropic/claude-sonnet-4-5-20250929", "anthropic/claude-sonnet-4-5")],
)  # fmt: skip
def test_a_dated_name_costs_what_its_family_does(name: str, family: str) -> None:
    assert find_price(name) == find_price(family) is not None


@pytest.mark.parametrize(
    "name", ["openai/gpt-99", "mistral/mistral-large-latest", "azure/gpt-4o", "x/y",
             "openai/gpt-4o-2024-08", "openai/gpt-5-codex-2025-08-07",
             "google/gemini-2.5-flash-preview-09-2025"],
)  # fmt: skip
def test_what_is_not_certain_is_unknown(name: str) -> None:
    assert cost(name, Usage(input=1, calls=1)) is None


def test_a_snapshot_that_cost_more_has_its_own_price() -> None:
    assert find_price("openai/gpt-4o-2024-05-13") == Price(input=5, output=15)


def test_long_requests_cost_more() -> None:
    one = Usage(input=200_000, output=1000)
    assert cost("google/gemini-2.5-pro", one) == pytest.approx(0.25 + 0.01)
    assert cost("google/gemini-2.5-pro", one + Usage(input=1, calls=1)) is not None
    longer = Usage(input=400_000, output=1000)
    assert cost("google/gemini-2.5-pro", longer) == pytest.approx(1.0 + 0.015)


def test_who_says_it_last_wins() -> None:
    own = {"p/m": Price(input=1, output=1)}
    used = Usage(input=1_000_000, calls=1)
    assert cost("p/m", used, own) == 1.0
    set_price("p/m", input=3, output=1, cached=0, cache_write=4)
    assert cost("p/m", used, own) == 3.0
    assert cost("p/m", Usage(input=1_000_000, cache_write=1_000_000)) == 4.0
    assert cost("p/m", Usage(input=1, cost=9.0, calls=1)) == 9.0
    assert cost("ollama/anything", used) == 0.0


@pytest.mark.parametrize(("name", "input"), [("m", 1), ("p/m", -1), ("p/m", float("nan"))])
def test_a_price_that_cannot_be(name: str, input: float) -> None:
    with pytest.raises(ConfigError):
        set_price(name, input=input, output=1)


def test_prices_of_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mastra.toml").write_text('[prices."p/m"]\ninput = 1\noutput = 2.5\n')
    assert load_settings(tmp_path).prices == {"p/m": Price(input=1, output=2.5)}
    (tmp_path / "ours.json").write_text('{"p/n": {"input": 3, "output": 4}}')
    monkeypatch.setenv("MASTRA_NB_PRICES", "ours.json")
    assert load_settings(tmp_path).prices == {"p/n": Price(input=3, output=4)}
    monkeypatch.setenv("MASTRA_NB_PRICES", "none.toml")
    with pytest.raises(ConfigError, match="which is no file"):
        load_settings(tmp_path)
    monkeypatch.delenv("MASTRA_NB_PRICES")
    (tmp_path / "mastra.toml").write_text('[prices."p/m"]\ninptu = 1\n')
    with pytest.raises(ConfigError, match="mastra.toml"):
        load_settings(tmp_path)


def test_every_price_makes_sense() -> None:
    for price in prices._prices.values():
        assert 0 < price.input <= price.output
        assert price.cached is None or price.cached < price.input
        assert price.cache_write is None or price.cache_write > price.input
        assert (price.long is None) == (price.above is None)
