"""`%config Mastra.…`: what a user sets for this kernel.

IPython shows a bad value and goes on, so that a cell with a wrong `%config` would succeed: values
are taken as they are and checked when they are used.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec
from traitlets import Any as AnyTrait
from traitlets.config import Configurable

from mastra_nb.config import Settings, load_settings, secret, variable
from mastra_nb.errors import ConfigError

# Which model is used when nobody names one: the first service that has a key.
DEFAULT_MODELS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("OPENAI_API_KEY",), "openai/gpt-4o-mini"),
    (("ANTHROPIC_API_KEY",), "anthropic/claude-haiku-4-5"),
    (
        ("GOOGLE_API_KEY", "GEMINI_API_KEY", "GOOGLE_GENERATIVE_AI_API_KEY"),
        "google/gemini-2.5-flash",
    ),
    (("GROQ_API_KEY",), "groq/llama-3.3-70b-versatile"),
    (("MISTRAL_API_KEY",), "mistral/mistral-small-latest"),
    (("DEEPSEEK_API_KEY",), "deepseek/deepseek-chat"),
    (("TOGETHER_API_KEY",), "together/meta-llama/Llama-3.3-70B-Instruct-Turbo"),
    (("OPENROUTER_API_KEY",), "openrouter/openai/gpt-4o-mini"),
    (("OLLAMA_HOST",), "ollama/qwen3"),
)


class Mastra(Configurable):
    """Options of the notebook; each wins over the environment and the settings file."""

    model = AnyTrait(None, allow_none=True, help="the model of agents that name none").tag(
        config=True
    )
    storage = AnyTrait(None, allow_none=True, help="URL of the store").tag(config=True)
    replay = AnyTrait(None, allow_none=True, help="off, record, auto or only").tag(config=True)
    max_steps = AnyTrait(None, allow_none=True, help="model calls in one run").tag(config=True)
    frame_rate = AnyTrait(20, help="updates of a cell's output a second, up to 20").tag(config=True)
    concurrency = AnyTrait(4, help="rows that --each asks for at a time").tag(config=True)
    show_reasoning = AnyTrait(True, help="whether reasoning is shown, folded").tag(config=True)

    def __init__(self, changed: Callable[[], None], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.observe(lambda change: changed())


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Checked values. `settings.model` is never None."""

    settings: Settings
    frame_rate: float
    concurrency: int
    show_reasoning: bool


def check(config: Mastra) -> Options:
    """Raises ConfigError that names the option and what it may be."""
    rate = config.frame_rate
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 20:
        raise _bad("frame_rate", rate, "a number above 0, up to 20")
    many = config.concurrency
    if isinstance(many, bool) or not isinstance(many, int) or many < 1:
        raise _bad("concurrency", many, "a whole number from 1")
    if not isinstance(config.show_reasoning, bool):
        raise _bad("show_reasoning", config.show_reasoning, "True or False")
    overrides = {
        name: getattr(config, name) for name in ("model", "storage", "replay", "max_steps")
    }
    try:
        settings = load_settings(**overrides)
    except ConfigError as error:
        message = re.sub(r'^the argument "(\w+)"', r"%config Mastra.\1", error.message)
        raise ConfigError(message, hint=error.hint) from None
    if not settings.model:
        settings = msgspec.structs.replace(settings, model=default_model())
    return Options(
        settings=settings,
        frame_rate=float(rate),
        concurrency=many,
        show_reasoning=config.show_reasoning,
    )


def _bad(name: str, value: Any, allowed: str) -> ConfigError:
    return ConfigError(f"%config Mastra.{name} is {value!r}", hint=f"allowed: {allowed}")


def default_model() -> str:
    for names, model in DEFAULT_MODELS:
        if has_key(names):
            return model
    return "local"


def has_key(names: tuple[str, ...]) -> bool:
    """Whether one of the variables is set; a value that looks like a key is not kept."""
    if any(name.endswith("_KEY") for name in names):
        return bool(secret(*names))
    return bool(variable(*names))
