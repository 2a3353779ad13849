"""Indexes of a file as this process holds them in memory, each kept in step with the file."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from itertools import islice
from typing import Any

import apsw
import msgspec
import numpy as np
from numpy.typing import NDArray

from mastra_nb.neighbors import Neighbors, Selection
from mastra_nb.stores import _vector_rules as vector_rules
from mastra_nb.stores._sql import File
from mastra_nb.stores._where import Where
from mastra_nb.stores._words import TOKENIZER
from mastra_nb.vectors import IndexInfo

Nos = NDArray[np.int64]

KEPT_FILTERS = 32
WORK = 3_000
_PAGE = 4096


class Index(msgspec.Struct, frozen=True):
    """An index as a row of the file."""

    no: int
    info: IndexInfo
    change: int
    forgotten: int

    @property
    def words(self) -> str:
        return f"vector_words_{self.no}"

    @property
    def terms(self) -> str:
        """In how many entries each word is."""
        return f"vector_terms_{self.no}"


class _Kept:
    """What a filter leaves, as of `change`; `top` is the largest number there was."""

    __slots__ = ("change", "selection", "top")

    def __init__(self, selection: Selection, change: int, top: int) -> None:
        self.selection = selection
        self.change = change
        self.top = top


class Engine:
    """One index. Whoever uses it holds `lock`, and begins to read the file under it: so what he
    reads is never older than what is held here.
    """

    def __init__(self, index: Index) -> None:
        self.lock = threading.Lock()
        self.neighbors: Neighbors | None = None
        self.change = -1
        self._entries: dict[str, int] = {}
        self._counted = -1
        self._filters: OrderedDict[tuple[Any, ...], _Kept] = OrderedDict()

    @property
    def is_loaded(self) -> bool:
        return self.neighbors is not None

    def load(self, db: apsw.Connection, index: Index) -> Neighbors:
        """All vectors that the file has, as of `index`."""
        found = self.neighbors
        if found is None or self.change < index.forgotten:
            count = db.execute("SELECT count(*) FROM vector WHERE idx = ?", (index.no,)).get
            found = Neighbors(index.info.dimension, index.info.metric, capacity=count)
            self._take(db, found, index, -1)
        elif self.change != index.change:
            gone = _gone(db, index, self.change)
            if len(gone):
                found.remove(gone)
            self._take(db, found, index, self.change)
        self.neighbors, self.change = found, index.change
        return found

    def _take(self, db: apsw.Connection, into: Neighbors, index: Index, after: int) -> None:
        cursor = db.execute(
            "SELECT no, embedding FROM vector WHERE idx = ? AND change > ? AND embedding NOT NULL",
            (index.no, after),
        )
        while page := [*islice(cursor, _PAGE)]:
            nos, rows = zip(*page, strict=True)
            into.put(np.array(nos, np.int64), vector_rules.floats(rows, index.info))

    # Words

    def rare(self, db: apsw.Connection, index: Index, words: list[str]) -> list[str]:
        """Of the words those that are in the fewest entries, as many as are in `WORK` together,
        one at least: what is in most entries says little and costs the most.
        """
        if index.change > self._counted + 100 + self._counted // 5:
            self._entries, self._counted = {}, index.change
        counts = [(self._count(db, index, word), at) for at, word in enumerate(words)]
        left = WORK
        kept: list[int] = []
        for count, at in sorted(counts):
            left -= count
            if kept and left < 0:
                break
            kept.append(at)
        return [words[at] for at in sorted(kept)]

    def _count(self, db: apsw.Connection, index: Index, word: str) -> int:
        found = self._entries.get(word)
        if found is None:
            name, *options = TOKENIZER.split()
            split = db.fts5_tokenizer(name, options)
            stems: Any = split(word.encode(), apsw.FTS5_TOKENIZE_QUERY, None, include_offsets=False)
            query = f"SELECT doc FROM {index.terms} WHERE term = ?"  # noqa: S608 - a table of ours
            docs = [db.execute(query, (stem,)).get or 0 for (stem, *_) in stems]
            found = self._entries[word] = int(min(docs, default=0))
        return found

    # What filters leave

    def chosen(self, db: apsw.Connection, index: Index, where: Where) -> Selection:
        """Kept for the next time: then only what has changed is looked at again."""
        key = (where.sql, *map(repr, where.values))
        kept = self._filters.pop(key, None)
        if kept is None or kept.change < index.forgotten or not self._renew(db, kept, index, where):
            nos = _matching(db, index, where)
            kept = _Kept(Selection(nos), index.change, _top(db, index))
        self._filters[key] = kept
        if len(self._filters) > KEPT_FILTERS:
            self._filters.popitem(last=False)
        return kept.selection

    def _renew(self, db: apsw.Connection, kept: _Kept, index: Index, where: Where) -> bool:
        """False if so much has changed that it is cheaper to look at everything."""
        if kept.change == index.change:
            return True
        since = (index.no, kept.change)
        query = "SELECT no FROM vector WHERE idx = ? AND change > ?"
        changed = _nos(db.execute(query, since))
        gone = _gone(db, index, kept.change)
        old = kept.selection.nos
        if len(changed) + len(gone) > 256 + len(old) // 4:
            return False
        new = _matching(db, index, where, after=kept.change)
        touched = np.concatenate([changed, gone])
        if len(touched) and touched.min() <= kept.top:
            old = old[~np.isin(old, touched)]
        nos = np.concatenate([old, new])
        if len(old) and len(new) and new[0] < old[-1]:
            nos.sort()
        if len(nos) != len(kept.selection.nos) or len(new):
            kept.selection = Selection(nos)
        kept.change = index.change
        kept.top = max(kept.top, int(changed.max()) if len(changed) else 0)
        return True


def _matching(db: apsw.Connection, index: Index, where: Where, after: int = -1) -> Nos:
    source, changed, values = where.source(index.no), "", where.values
    if after >= 0:
        source, changed, values = "vector v", " AND v.change > ?", [after, *where.values]
    query = f"""SELECT v.no FROM {source}
        WHERE v.idx = {index.no}{changed} AND {where.sql}"""  # noqa: S608 - numbers and bound values
    found = _nos(db.execute(query, values))
    found.sort()
    return found


def _nos(cursor: apsw.Cursor) -> Nos:
    return np.fromiter((no for (no,) in cursor), np.int64)


def _gone(db: apsw.Connection, index: Index, after: int) -> Nos:
    query = "SELECT no FROM vector_gone WHERE idx = ? AND change > ?"
    return _nos(db.execute(query, (index.no, after)))


def _top(db: apsw.Connection, index: Index) -> int:
    return int(db.execute("SELECT max(no) FROM vector").get or 0)


# By file, and by index: number and time of its making, for a number may come again in a new file.
_engines: weakref.WeakKeyDictionary[File, dict[tuple[int, float], Engine]]
_engines = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def engine_of(file: File, index: Index) -> Engine:
    with _lock:
        engines = _engines.setdefault(file, {})
        key = (index.no, index.info.created)
        found = engines.get(key)
        if found is None:
            for old in [k for k in engines if k[0] == index.no]:
                del engines[old]
            found = engines[key] = Engine(index)
        return found


def drop_engine(file: File, no: int) -> None:
    with _lock:
        engines = _engines.get(file, {})
        for key in [k for k in engines if k[0] == no]:
            del engines[key]
