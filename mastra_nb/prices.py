"""What models cost: a small dated table, and what users say of theirs.

A model that is in no table has an unknown price (None), never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from mastra_nb.config import Price as Price
from mastra_nb.errors import ConfigError
from mastra_nb.messages import Usage

# The day of the list prices below. They are those of standard processing of text; batch and
# priority tiers, audio and the storage of caches cost something else. Checked against the tables
# of pydantic/genai-prices of that day, which name the vendors' own pages as their sources.
PRICES_DATE = "2026-08-21"


def _price(
    input: float, output: float, cached: float | None = None, cache_write: float | None = None
) -> Price:
    return Price(input=input, output=output, cached=cached, cache_write=cache_write)


def _long(above: int, short: Price, long: Price) -> Price:
    return msgspec.structs.replace(short, above=above, long=long)


def _claude(input: float, output: float) -> Price:
    """A five-minute cache is read at a tenth of the price and written at 1.25 times it."""
    return _price(input, output, round(input * 0.1, 6), round(input * 1.25, 6))


def _doubled(input: float, output: float, *, above: int, written: bool = False) -> Price:
    """Long requests cost twice as much to read and half as much again to write."""

    def at(i: float, o: float) -> Price:
        return _price(i, o, round(i * 0.1, 6), round(i * 1.25, 6) if written else None)

    return _long(above, at(input, output), at(2 * input, 1.5 * output))


_TABLE: dict[str, dict[str, Price]] = {
    "openai": {
        "gpt-4o": _price(2.5, 10, 1.25),
        "gpt-4o-2024-05-13": _price(5, 15),
        "gpt-4o-mini": _price(0.15, 0.6, 0.075),
        "gpt-4.1": _price(2, 8, 0.5),
        "gpt-4.1-mini": _price(0.4, 1.6, 0.1),
        "gpt-4.1-nano": _price(0.1, 0.4, 0.025),
        "o1": _price(15, 60, 7.5),
        "o3": _price(2, 8, 0.5),
        "o3-mini": _price(1.1, 4.4, 0.55),
        "o4-mini": _price(1.1, 4.4, 0.275),
        "gpt-5": _price(1.25, 10, 0.125),
        "gpt-5-mini": _price(0.25, 2, 0.025),
        "gpt-5-nano": _price(0.05, 0.4, 0.005),
        "gpt-5.1": _price(1.25, 10, 0.125),
        "gpt-5.2": _price(1.75, 14, 0.175),
        "gpt-5.4": _doubled(2.5, 15, above=272_000),
        "gpt-5.4-mini": _price(0.75, 4.5, 0.075),
        "gpt-5.4-nano": _price(0.2, 1.25, 0.02),
        "gpt-5.5": _price(5, 30, 0.5),
        "gpt-5.6": _doubled(5, 30, above=272_000, written=True),
        "gpt-5.6-sol": _doubled(5, 30, above=272_000, written=True),
        "gpt-5.6-terra": _doubled(2, 12, above=272_000, written=True),
        "gpt-5.6-luna": _doubled(0.2, 1.2, above=272_000, written=True),
    },
    "anthropic": {
        "claude-3-haiku": _price(0.25, 1.25, 0.03, 0.3),
        "claude-3-5-haiku": _claude(0.8, 4),
        "claude-3-5-sonnet": _claude(3, 15),
        "claude-3-7-sonnet": _claude(3, 15),
        "claude-sonnet-4": _claude(3, 15),
        "claude-sonnet-4-0": _claude(3, 15),
        "claude-sonnet-4-5": _doubled(3, 15, above=200_000, written=True),
        "claude-sonnet-4-6": _claude(3, 15),
        "claude-sonnet-5": _claude(3, 15),
        "claude-haiku-4-5": _claude(1, 5),
        "claude-opus-4": _claude(15, 75),
        "claude-opus-4-0": _claude(15, 75),
        "claude-opus-4-1": _claude(15, 75),
        "claude-opus-4-5": _claude(5, 25),
        "claude-opus-4-6": _claude(5, 25),
        "claude-opus-4-7": _claude(5, 25),
        "claude-opus-4-8": _claude(5, 25),
        "claude-opus-5": _claude(5, 25),
    },
    "google": {
        "gemini-2.0-flash": _price(0.1, 0.4, 0.025),
        "gemini-2.0-flash-lite": _price(0.075, 0.3),
        "gemini-2.5-flash": _price(0.3, 2.5, 0.03),
        "gemini-2.5-flash-lite": _price(0.1, 0.4, 0.01),
        "gemini-2.5-pro": _doubled(1.25, 10, above=200_000),
        "gemini-3-flash-preview": _price(0.5, 3, 0.05),
        "gemini-3-pro-preview": _doubled(2, 12, above=200_000),
        "gemini-3.1-pro-preview": _doubled(2, 12, above=200_000),
        "gemini-3.1-flash-lite": _price(0.25, 1.5, 0.025),
        "gemini-3.5-flash": _price(1.5, 9, 0.15),
        "gemini-3.5-flash-lite": _price(0.3, 2.5, 0.03),
    },
    "groq": {
        "llama-3.1-8b-instant": _price(0.05, 0.08),
        "llama-3.3-70b-versatile": _price(0.59, 0.79),
        "meta-llama/llama-4-maverick-17b-128e-instruct": _price(0.2, 0.6),
        "meta-llama/llama-4-scout-17b-16e-instruct": _price(0.11, 0.34),
        "moonshotai/kimi-k2-instruct": _price(1, 3, 0.5),
        "openai/gpt-oss-120b": _price(0.15, 0.6, 0.075),
        "openai/gpt-oss-20b": _price(0.075, 0.3, 0.0375),
        "qwen/qwen3-32b": _price(0.29, 0.59),
    },
    "mistral": {
        "codestral-2508": _price(0.3, 0.9, 0.03),
        "devstral-2512": _price(0.4, 2, 0.04),
        "ministral-3b-2512": _price(0.1, 0.1, 0.01),
        "ministral-14b-2512": _price(0.2, 0.2, 0.02),
        "mistral-large-2512": _price(0.5, 1.5, 0.05),
        "mistral-small-2603": _price(0.15, 0.6, 0.015),
    },
    "deepseek": {
        "deepseek-v4-flash": _price(0.14, 0.28, 0.0028),
        "deepseek-v4-pro": _price(0.435, 0.87, 0.003625),
    },
    "xai": {
        "grok-3": _price(3, 15, 0.75),
        "grok-3-mini": _price(0.3, 0.5, 0.075),
        "grok-4-0709": _price(3, 15, 0.75),
        "grok-4-1-fast-non-reasoning": _price(0.2, 0.5, 0.05),
        "grok-4-1-fast-reasoning": _price(0.2, 0.5, 0.05),
        "grok-4.3": _price(1.25, 2.5, 0.2),
        "grok-4.5": _price(2, 6, 0.5),
        "grok-code-fast-1": _price(0.2, 1.5, 0.02),
    },
}
_prices = {
    f"{vendor}/{model}": p for vendor, models in _TABLE.items() for model, p in models.items()
}
_set: dict[str, Price] = {}
_FREE = frozenset({"local", "ollama", "ollama-v1", "llamacpp", "vllm", "lmstudio"})
_NOTHING = Price(input=0.0, output=0.0)
# Another API of the same vendor, at the same price.
_SAME = {"openai-responses": "openai", "gemini": "google"}
# A day at the end names a snapshot of the model before it; "latest" and the like name whatever
# the vendor likes, months (mistral-large-2512) a model of its own.
_DAY = re.compile(r"-(?:20\d\d-[01]\d-[0-3]\d|20\d\d[01]\d[0-3]\d)$")


def set_price(
    model: str,
    *,
    input: float,
    output: float,
    cached: float | None = None,
    cache_write: float | None = None,
) -> None:
    """Set what "provider/model" costs in this process, in US dollars per million tokens.

    Raises ConfigError.
    """
    if not model.partition("/")[2]:
        raise ConfigError(f'"{model}" names no model of a provider', hint='write "provider/model"')
    given = {"input": input, "output": output, "cached": cached, "cache_write": cache_write}
    if wrong := [n for n, v in given.items() if v is not None and not 0 <= v < float("inf")]:
        raise ConfigError(
            f'the price "{wrong[0]}" of "{model}" is {given[wrong[0]]}',
            hint="prices are dollars per million tokens, from 0",
        )
    _set[model] = Price(input=input, output=output, cached=cached, cache_write=cache_write)


def find_price(model: str, own: Mapping[str, Price] | None = None) -> Price | None:
    """What `set_price` said of "provider/model", else `own` (a project's settings), else the
    table; then the same of the model that it is a dated snapshot of. None is unknown.
    """
    vendor, _, name = model.partition("/")
    model = f"{_SAME.get(vendor, vendor)}/{name}"
    for wanted in dict.fromkeys((model, _DAY.sub("", model))):
        for table in (_set, own or {}, _prices):
            if (price := table.get(wanted)) is not None:
                return price
    return _NOTHING if vendor in _FREE else None


def cost(model: str, usage: Usage, own: Mapping[str, Price] | None = None) -> float | None:
    """US dollars of one request, or None if the price is unknown."""
    if usage.cost is not None:
        return usage.cost
    price = find_price(model, own)
    if price is None:
        return None
    if price.long is not None and price.above is not None and usage.input > price.above:
        price = price.long
    cached = price.input if price.cached is None else price.cached
    written = price.input if price.cache_write is None else price.cache_write
    fresh = max(0, usage.input - usage.cached - usage.cache_write)
    return (
        fresh * price.input
        + usage.cached * cached
        + usage.cache_write * written
        + usage.output * price.output
    ) / 1e6
