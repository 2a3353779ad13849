"""%mastra key: a key is typed where nothing keeps it but the keyring or this kernel."""

from __future__ import annotations

import getpass
import os
import re
from typing import Any

from mastra_nb import _keyring, plugins
from mastra_nb.config import Secret, secret_source
from mastra_nb.errors import MastraError, NotFound, UsageError, close_matches
from mastra_nb.notebook import _live
from mastra_nb.notebook._host import Host
from mastra_nb.notebook._people import interruptible
from mastra_nb.notebook._tables import show_table

_NAME = re.compile(r"[a-z][a-z0-9-]{0,19}")


async def key(host: Host, *words: str) -> None:
    """Raises NotFound for an unknown provider, UsageError where nobody can type."""
    if not words:
        _list(host)
        return
    # What else is written here may be a key: it is not repeated.
    if len(words) > 1:
        raise UsageError(
            "a key is never written into a cell: clear it, and replace the key",
            hint="%mastra key PROVIDER asks for it, and nothing shows what you type",
        )
    provider = words[0]
    known = plugins.providers.names()
    if provider not in known:
        said = f'there is no provider "{provider}"' if _NAME.fullmatch(provider) else "no provider"
        raise NotFound(said, hint=close_matches(provider, known))
    names = key_names(provider)
    if not names:
        _live.say(f"{provider} needs no key")
        return
    typed = _ask(provider, names[0])
    if not typed:
        _live.say("nothing was typed, nothing is changed")
        return
    Secret(typed)  # from here on it is masked wherever it might be printed
    _live.say(f"{provider}: {_keep(names[0], typed)}")
    host.key_changed()


def key_names(provider: str) -> tuple[str, ...]:
    """The variables that its key is looked for in."""
    try:
        model: Any = plugins.providers.load(provider)(provider, "")
    except MastraError:
        return ()
    return tuple(getattr(model, "key_names", ()))


def _ask(provider: str, name: str) -> str:
    from IPython.core.error import StdinNotImplementedError

    try:
        with interruptible():
            return getpass.getpass(f"key for {provider} ({name}): ").strip()
    except (StdinNotImplementedError, EOFError):
        raise UsageError(
            "nobody can type a key here", hint=f"set {name} in the environment or in .env"
        ) from None


def _keep(name: str, value: str) -> str:
    if _keyring.put(name, value):
        other = secret_source(name)
        over = "" if other == "keyring" else f"; but {other} comes before it"
        return f"kept in the keyring as {name}{over}"
    os.environ[name] = value
    return f"{name} is set in this kernel only; with a keyring (pip install keyring) it is kept"


def _list(host: Host) -> None:
    rows = []
    for provider in plugins.providers.names():
        if names := key_names(provider):
            found = secret_source(*names)
            rows.append(("✓" if found else "", provider, found or f"%mastra key {provider}"))
    rows.sort(key=lambda row: not row[0])
    show_table(host, ("", "provider", "key"), rows, "no provider wants a key", widest=120)
