"""Things reached by name: built in, registered by the user, or an entry point of a distribution.

A target is "module:attribute", or "module:attribute[extra]" where the module needs what
`pip install "mastra-nb[extra]"` brings.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from mastra_nb.errors import ConfigError, MissingExtra, NotFound, PluginError, close_matches

_TARGET = re.compile(r"(?P<module>[\w.]+):(?P<attr>[\w.]+)(?:\[(?P<extra>[\w-]+)\])?")


class Registry:
    """Names of one kind of plugin. A user's name wins over ours, ours over an entry point."""

    def __init__(self, group: str, builtin: Mapping[str, str]) -> None:
        self.group = group
        self._builtin = dict(builtin)
        self._registered: dict[str, Any] = {}
        self._entry_points: dict[str, str] | None = None
        self._loaded: dict[str, Any] = {}

    def names(self) -> tuple[str, ...]:
        return tuple(sorted({*self._registered, *self._builtin, *self._discover()}))

    def register(self, name: str, target: Any) -> None:
        """`target` is the object itself or where to find it: "module:attribute"."""
        if isinstance(target, str):
            _split(name, target)
        self._registered[name] = target
        self._loaded.pop(name, None)

    def load(self, name: str) -> Any:
        """Raises NotFound; PluginError or MissingExtra if the plugin cannot be imported."""
        if name in self._loaded:
            return self._loaded[name]
        target = self._target(name)
        self._loaded[name] = found = _load(name, target) if isinstance(target, str) else target
        return found

    def _target(self, name: str) -> Any:
        if name in self._registered:
            return self._registered[name]
        if name in self._builtin:
            return self._builtin[name]
        found = self._discover().get(name)
        if found is None:
            kind = self.group.rpartition(".")[2].removesuffix("s")
            raise NotFound(
                f'there is no {kind} "{name}"',
                hint=close_matches(name, self.names()),
                details={"group": self.group, "name": name},
            )
        return found

    def _discover(self) -> dict[str, str]:
        if self._entry_points is None:
            # Reads the metadata of every installed distribution: only once a name is not ours.
            from importlib.metadata import entry_points

            self._entry_points = {e.name: e.value for e in entry_points(group=self.group)}
        return self._entry_points


def open_store(url: str) -> Any:
    """Raises NotFound for an unknown scheme, ConfigError for what has none."""
    scheme, sep, _ = url.partition("://")
    if not sep:
        raise ConfigError(f'"{url}" is no address of a store', hint=f'"sqlite:///{url or "my.db"}"')
    return stores.load(scheme)(url)


def _split(name: str, target: str) -> tuple[str, str, str | None]:
    match = _TARGET.fullmatch(target.replace(" ", ""))
    if match is None:
        raise PluginError(
            f'the plugin "{name}" points at "{target}"',
            hint='a target is written "module:attribute"',
        )
    return match["module"], match["attr"], match["extra"]


def _load(name: str, target: str) -> Any:
    module, attr, extra = _split(name, target)
    try:
        found: Any = importlib.import_module(module)
        for part in attr.split("."):
            found = getattr(found, part)
    except ModuleNotFoundError as error:
        ours = module.partition(".")[0]
        if extra and error.name and error.name.partition(".")[0] != ours:
            raise MissingExtra(
                f'"{name}" needs the module "{error.name}", which is not installed',
                hint=f'pip install "mastra-nb[{extra}]"',
                details={"name": name, "extra": extra},
            ) from error
        raise _broken(name, target, error) from error
    except Exception as error:
        raise _broken(name, target, error) from error
    return found


def _broken(name: str, target: str, error: Exception) -> PluginError:
    return PluginError(
        f'the plugin "{name}" ({target}) could not be loaded: {type(error).__name__}: {error}',
        hint="the other plugins are not affected; update or uninstall the package it is from",
        details={"name": name, "target": target},
    )


_OPENAI = "mastra_nb.providers.openai:provider"

Provider = Callable[[str, str], Any]
"""(provider name, model id) -> `mastra_nb.models.Model`."""

providers = Registry(
    "mastra_nb.providers",
    {
        "anthropic": "mastra_nb.providers.anthropic:provider",
        "openai": _OPENAI,
        "openai-chat": _OPENAI,
        "openai-responses": _OPENAI,
        "openai-compatible": _OPENAI,
        "groq": _OPENAI,
        "ollama": "mastra_nb.providers.ollama:provider",
        "ollama-v1": _OPENAI,
        "google": "mastra_nb.providers.google:provider",
        "gemini": "mastra_nb.providers.google:provider",
        "vertex": "mastra_nb.providers.google:provider",
        "mistral": _OPENAI,
        "deepseek": _OPENAI,
        "openrouter": _OPENAI,
        "together": _OPENAI,
        "llamacpp": _OPENAI,
        "vllm": _OPENAI,
        "lmstudio": _OPENAI,
        "azure": _OPENAI,
        "azure-responses": _OPENAI,
        "fireworks": _OPENAI,
        "xai": _OPENAI,
        "cerebras": _OPENAI,
        "moonshot": _OPENAI,
        "zai": _OPENAI,
        "huggingface": _OPENAI,
        "nvidia": _OPENAI,
        "perplexity": _OPENAI,
        "local": "mastra_nb.providers.local:provider[local]",
    },
)

_EMBED = "mastra_nb.providers.openai:embedder"

Embed = Callable[[str, str], Any]
"""(provider name, model id) -> `mastra_nb.embedders.Embedder`; with `dimensions=` if asked for."""

embedders = Registry(
    "mastra_nb.embedders",
    {
        "openai": _EMBED,
        "openai-compatible": _EMBED,
        "azure": _EMBED,
        "mistral": _EMBED,
        "openrouter": _EMBED,
        "together": _EMBED,
        "fireworks": _EMBED,
        "nvidia": _EMBED,
        "llamacpp": _EMBED,
        "vllm": _EMBED,
        "lmstudio": _EMBED,
        "ollama": "mastra_nb.providers.ollama:embedder",
        "ollama-v1": _EMBED,
        "google": "mastra_nb.providers.google:embedder",
        "gemini": "mastra_nb.providers.google:embedder",
        "vertex": "mastra_nb.providers.google:embedder",
        "local": "mastra_nb.providers.local_embed:embedder[local]",
    },
)

OpenStore = Callable[[str], Any]
"""(url) -> `mastra_nb.storage.Store`; registered under the scheme of the URL."""

stores = Registry(
    "mastra_nb.stores",
    {
        "memory": "mastra_nb.stores.memory:open_store",
        "sqlite": "mastra_nb.stores.sqlite:open_store",
    },
)

Versions = Callable[[str], tuple[int, int]]
"""(url) -> the version of a store's tables, and that which this package brings them to."""

store_versions = Registry(
    "mastra_nb.store_versions", {"sqlite": "mastra_nb.stores.sqlite:versions"}
)

OpenExecutor = Callable[[int, str | None], Any]
"""(workers, address) -> `mastra_nb.executor.Executor`."""

executors = Registry(
    "mastra_nb.executors",
    {
        "local": "mastra_nb.executors.local:open_executor",
        "dask": "mastra_nb.executors.dask:open_executor[dask]",
    },
)

Widget = Callable[..., Any]
"""(what is shown, **options) -> something that a notebook displays."""

widgets = Registry(
    "mastra_nb.widgets",
    {
        "chat": "mastra_nb.notebook.chat:Chat[lab]",
        "dashboard": "mastra_nb.notebook.dashboard:dashboard[lab]",
    },
)
