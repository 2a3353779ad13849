"""Whether what an application needs is there and works, and what to do where it is not."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import msgspec

from mastra_nb.catalog import catalog
from mastra_nb.config import Price, redact
from mastra_nb.errors import MastraError
from mastra_nb.messages import Usage
from mastra_nb.prices import PRICES_DATE, cost
from mastra_nb.rag.stored import local_embedder
from mastra_nb.storage import Store

_SECONDS = 8.0
_DISK_BYTES = 500_000_000
_OLDEST_PYTHON = (3, 11)
MARKS = {"ok": "✓", "note": "!", "wrong": "✗"}

Made = Callable[[], "Check | Awaitable[Check]"]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """`wrong` does not work, a `note` is less than it could be. `do` says what to do about it."""

    name: str
    state: Literal["ok", "note", "wrong"]
    found: str
    do: str = ""


async def made(every: Sequence[tuple[str, Made]]) -> list[Check]:
    """What was found, in order; a check that breaks says so itself."""
    return [await _tried(name, check) for name, check in every]


async def _tried(name: str, check: Made) -> Check:
    try:
        found = check()
        if isinstance(found, Check):
            return found
        async with asyncio.timeout(_SECONDS):
            return await found
    except TimeoutError:
        return Check(name=name, state="note", found=f"no answer in {_SECONDS:.0f} s")
    except Exception as error:
        hint = error.hint if isinstance(error, MastraError) else ""
        said = (
            error.message if isinstance(error, MastraError) else f"{type(error).__name__}: {error}"
        )
        return Check(name=name, state="wrong", found=redact(" ".join(said.split())), do=hint)


def ok(name: str, found: str) -> Check:
    return Check(name=name, state="ok", found=found)


def version_of(name: str) -> str:
    """Of a distribution; nothing if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def python() -> Check:
    found = sys.version.split()[0]
    if sys.version_info < _OLDEST_PYTHON:
        return Check(name="Python", state="wrong", found=found, do="install Python 3.11 or newer")
    return ok("Python", found)


async def model(model: str, *, offline: bool, do: str, listed: str, name: str = "model") -> Check:
    """Whether "provider/name" can be asked. `do` is what helps where it cannot, `listed` what lists
    the provider's. The key is never looked at, only whether there is one.
    """
    provider, _, id = model.partition("/")
    if offline and provider != "local":
        return ok(name, f"{model}: not asked")
    (entry,) = await catalog([provider], ask=not offline)
    state = entry.state
    if not state.ready:
        return Check(name=name, state="wrong", found=f"{model}: {state.why}", do=do)
    if id and state.models and id not in state.models:
        return Check(name=name, state="note", found=f"{provider} does not list {id}", do=listed)
    if "fetches" in state.why:
        fetch = "the first question fetches the weights, once; later ones need no network"
        return Check(name=name, state="note", found=f"{model}: {state.why}", do=fetch)
    return ok(name, f"{model}: {state.why}")


def price(model: str, prices: Mapping[str, Price], *, name: str = "price") -> Check:
    if cost(model, Usage(input=1, output=1), dict(prices)) is not None:
        return ok(name, f"known (list of {PRICES_DATE})")
    return Check(
        name=name, state="note", found="unknown: costs are not shown, --budget refuses",
        do=f'mastra_nb.prices.set_price("{model}", input=…, output=…)',
    )  # fmt: skip


async def store(found: Store | None, shown: str) -> Check:
    about = await _about(found)
    if about is None:
        return ok("store", shown)
    size = f"{about['bytes'] / 1e6:,.1f} MB"
    return ok(
        "store", f"{shown}, {size}, writable, schema {about['schema']}, SQLite {about['sqlite']}"
    )


async def vectors(found: Store | None) -> Check:
    about = await _about(found)
    if about is None:
        return ok("vectors", "in memory")
    if about["vec"]:
        return Check(
            name="vectors", state="note", found=f"by NumPy: {about['vec']}",
            do="nothing is lost, large indexes are searched from memory",
        )  # fmt: skip
    return ok("vectors", f"sqlite-vec {version_of('sqlite-vec')}")


async def _about(found: Store | None) -> dict[str, Any] | None:
    ask = getattr(found, "about", None)
    return await ask() if ask is not None else None


def embedder() -> Check:
    found = local_embedder()
    if found is None:
        return Check(
            name="embedder", state="note", found="none: indexes and recall go by words",
            do='pip install "mastra-nb[local]"',
        )  # fmt: skip
    return ok("embedder", found.name)


def disk(url: str) -> Check:
    """Where the store is, or else here."""
    path = Path(url.removeprefix("sqlite:///").partition("?")[0]).expanduser().absolute()
    folder = path.parent if url.startswith("sqlite:///") else Path.cwd()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    found = f"{free / 1e9:,.1f} GB free"
    if free < _DISK_BYTES:
        return Check(
            name="disk", state="wrong", found=found, do="make room; await app.prune() gives back"
        )
    return ok("disk", found)


def summary(found: Sequence[Check]) -> str:
    wrong = [c.name for c in found if c.state == "wrong"]
    notes = [c.name for c in found if c.state == "note"]
    if wrong:
        return f"✗ {', '.join(wrong)} to be put right"
    if notes:
        return f"✓ all works; better with: {', '.join(notes)}"
    return "✓ all is well"
