"""Vector indexes in SQLite: rows of an ordinary table, searched by NumPy or sqlite-vec.

The table is the truth; what NumPy holds is read from it when it is first asked, and kept in step by
the count of changes. Filters are answered by SQL before the search.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import apsw
import msgspec
import numpy as np

from mastra_nb import conditions
from mastra_nb.stores import _errors, _vec
from mastra_nb.stores import _rules as rules
from mastra_nb.stores import _vector_rows as rows
from mastra_nb.stores import _vector_rules as vector_rules
from mastra_nb.stores._access import INLINE_WRITE_BYTES, Access, in_thread
from mastra_nb.stores._engines import Engine, Index, drop_engine, engine_of
from mastra_nb.stores._vector_search import Question, Search, snapshot
from mastra_nb.stores._where import index_names, index_terms
from mastra_nb.stores._words import TOKENIZER, indexed
from mastra_nb.vectors import (
    TOP_K,
    Dtype,
    Explained,
    Filter,
    Fusion,
    Hit,
    IndexInfo,
    IndexStats,
    Metric,
    Vector,
    VectorRecord,
    Vectors,
)

# A search of fewer numbers than these takes about a millisecond: less than a thread costs twice.
INLINE_NUMBERS = 4_000_000
INLINE_CHANGES = 64
INLINE_ROWS = 500

T = TypeVar("T")

_UPSERT = """INSERT INTO vector (idx, id, change, metadata, text, embedding)
    VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (idx, id) DO UPDATE SET change = excluded.change, metadata = excluded.metadata,
        text = excluded.text, embedding = excluded.embedding"""


class SQLiteVectors:
    def __init__(self, file: Access) -> None:
        self._access = file

    # Indexes

    async def create_index(
        self,
        name: str,
        *,
        dimension: int,
        metric: Metric = "cosine",
        dtype: Dtype = "float32",
        embedder: str = "",
        metadata_indexes: Sequence[str] = (),
    ) -> IndexInfo:
        keys = tuple(metadata_indexes)
        vector_rules.check_index(name, dimension, metric, dtype, embedder, keys)
        wanted = IndexInfo(
            name=name, dimension=dimension, metric=metric, dtype=dtype, embedder=embedder,
            metadata_indexes=keys, created=time.time(),
        )  # fmt: skip
        there = await self._access._read(lambda db: rows.find(db, name))
        if there is not None and {*keys} <= {*there.info.metadata_indexes}:
            vector_rules.same_index(there.info, wanted)
            return await self.describe_index(name)

        def work(db: apsw.Connection) -> IndexInfo:
            index = rows.find(db, name)
            if index is None:
                db.execute(
                    """INSERT INTO vector_index
                    (name, dimension, metric, dtype, embedder, metadata_indexes, created)
                    VALUES (?, ?, ?, ?, ?, '[]', ?)""",
                    (name, dimension, metric, dtype, embedder, wanted.created),
                )
                index = Index(db.last_insert_rowid(), wanted, 0, 0)
                db.execute(
                    f"""CREATE VIRTUAL TABLE {index.words} USING fts5 (words, content = '',
                    contentless_delete = 1, tokenize = '{TOKENIZER}')"""
                ).fetchall()
                db.execute(
                    f"CREATE VIRTUAL TABLE {index.terms} USING fts5vocab ({index.words}, row)"
                ).fetchall()
                old: tuple[str, ...] = ()
            else:
                vector_rules.same_index(index.info, wanted)
                old = index.info.metadata_indexes
            both = tuple(dict.fromkeys((*old, *keys)))
            for key in both[len(old) :]:
                made = zip(index_names(key, index.no), index_terms(key, index.no), strict=True)
                for each, terms in made:
                    db.execute(f"CREATE INDEX {each} ON {terms}").fetchall()
            db.execute(
                "UPDATE vector_index SET metadata_indexes = ? WHERE no = ?",
                (msgspec.json.encode(both).decode(), index.no),
            )
            count = db.execute("SELECT count(*) FROM vector WHERE idx = ?", (index.no,)).get
            return msgspec.structs.replace(index.info, metadata_indexes=both, count=count)

        return await self._access._write(work, threaded=there is not None)

    async def list_indexes(self) -> list[str]:
        query = "SELECT name FROM vector_index ORDER BY name"
        return await self._access._read(lambda db: [name for (name,) in db.execute(query)])

    async def describe_index(self, name: str) -> IndexInfo:
        def work(db: apsw.Connection) -> IndexInfo:
            index = rows.need(db, name)
            count = db.execute("SELECT count(*) FROM vector WHERE idx = ?", (index.no,)).get
            return msgspec.structs.replace(index.info, count=count)

        return await self._access._read(work)

    async def delete_index(self, name: str) -> bool:
        rules.check_names(name)

        def work(db: apsw.Connection) -> int:
            index = rows.find(db, name)
            if index is None:
                return 0
            db.execute("DELETE FROM vector WHERE idx = ?", (index.no,))
            db.execute("DELETE FROM vector_gone WHERE idx = ?", (index.no,))
            db.execute("DELETE FROM vector_index WHERE no = ?", (index.no,))
            for table in (index.terms, index.words):
                db.execute(f"DROP TABLE {table}").fetchall()
            for key in index.info.metadata_indexes:
                for each in index_names(key, index.no):
                    db.execute(f"DROP INDEX {each}").fetchall()
            return index.no

        no = await self._access._write(work, threaded=True)
        drop_engine(self._access._file, no)
        return no > 0

    # Writing

    async def upsert(
        self,
        name: str,
        vectors: Vectors | None = None,
        *,
        ids: Sequence[str] | None = None,
        texts: Sequence[str] | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
        delete_filter: Filter | None = None,
    ) -> list[str]:
        condition = None if delete_filter is None else conditions.parse(delete_filter)
        index = await self._access._read(lambda db: rows.need(db, name))

        def prepared() -> tuple[vector_rules.Entries, Sequence[bytes | None], list[str], str]:
            new = vector_rules.entries(index.info, vectors, ids, texts, metadata)
            if new.rows is None:
                blobs: Sequence[bytes | None] = [None] * len(new.ids)
            else:
                blobs = vector_rules.blobs(new.rows, index.info.dtype)
            words = [indexed(text) if text else "" for text in new.texts]
            return new, blobs, words, msgspec.json.encode(new.ids).decode()

        if any(_is_long(given) for given in (vectors, ids, texts) if given is not None):
            pool = self._access._file.reading
            new, blobs, words, listed = await in_thread(pool, prepared, threading.Event())
        else:
            new, blobs, words, listed = prepared()

        def work(db: apsw.Connection) -> None:
            now = rows.changed(db, name, index)
            if condition is not None:
                where = rows.where(db, condition, now)
                gone = rows.found(
                    db,
                    f"""SELECT v.no FROM {where.source(now.no)} WHERE v.idx = {now.no}
                    AND {where.sql} AND v.id NOT IN (SELECT value FROM json_each(?))""",  # noqa: S608 - bound
                    (*where.values, listed),
                )
                rows.drop(db, now, [no for (no,) in gone])
            has_words = f"SELECT 1 FROM {now.words}_docsize LIMIT 1"  # noqa: S608 - a table of ours
            if ids is not None and db.execute(has_words).get:
                db.execute(
                    f"""DELETE FROM {now.words} WHERE rowid IN (SELECT no FROM vector
                    WHERE idx = ? AND text <> '' AND id IN (SELECT value FROM json_each(?)))""",  # noqa: S608
                    (now.no, listed),
                )
            db.executemany(
                _UPSERT,
                [
                    (now.no, id, now.change, facts, text, blob)
                    for id, facts, text, blob in zip(
                        new.ids, new.metadata, new.texts, blobs, strict=True
                    )
                ],
            )
            if any(words):
                query = "SELECT id, no FROM vector WHERE idx = ? AND change = ?"
                nos: dict[str, int] = dict(rows.found(db, query, (now.no, now.change)))
                db.executemany(
                    f"INSERT INTO {now.words} (rowid, words) VALUES (?, ?)",  # noqa: S608
                    [(nos[id], said) for id, said in zip(new.ids, words, strict=True) if said],
                )

        size = sum(map(len, new.texts)) + sum([len(b) for b in blobs if b])
        heavy = size > INLINE_WRITE_BYTES or condition is not None
        await self._access._write(work, threaded=heavy)
        return new.ids

    async def update(
        self,
        name: str,
        *,
        ids: Sequence[str] | None = None,
        filter: Filter | None = None,
        vector: Vector | None = None,
        text: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> int:
        vector_rules.exactly_one(ids, filter)
        vector_rules.check_change(text, metadata)
        condition = None if filter is None else conditions.parse(filter)
        index = await self._access._read(lambda db: rows.need(db, name))
        row = vector_rules.changed_row(index.info, vector)

        def work(db: apsw.Connection) -> int:
            now = rows.changed(db, name, index)
            found = rows.named(db, now, ids, condition, "v.no, v.metadata")
            changes: list[tuple[str, Any]] = [("change", now.change)]
            changes += [("text", text)] if text is not None else []
            changes += [("embedding", row)] if row is not None else []
            fixed = ", ".join([f"{column} = ?" for column, _ in changes])
            values = [value for _, value in changes]
            db.executemany(
                f"UPDATE vector SET {fixed}, metadata = ? WHERE no = ?",  # noqa: S608 - columns
                [
                    (*values, old if metadata is None else vector_rules.merged(old, metadata), no)
                    for no, old in found
                ],
            )
            if text is not None:
                nos = [(no,) for no, _ in found]
                db.executemany(f"DELETE FROM {now.words} WHERE rowid = ?", nos)  # noqa: S608
                if text:
                    said = indexed(text)
                    db.executemany(
                        f"INSERT INTO {now.words} (rowid, words) VALUES (?, ?)",  # noqa: S608
                        [(no, said) for (no,) in nos],
                    )
            return len(found)

        return await self._access._write(work, threaded=_is_long(ids))

    async def delete(
        self, name: str, *, ids: Sequence[str] | None = None, filter: Filter | None = None
    ) -> int:
        vector_rules.exactly_one(ids, filter)
        condition = None if filter is None else conditions.parse(filter)

        def work(db: apsw.Connection) -> int:
            now = rows.changed(db, name, None)
            found = [no for (no,) in rows.named(db, now, ids, condition, "v.no")]
            rows.drop(db, now, found)
            return len(found)

        return await self._access._write(work, threaded=_is_long(ids))

    # Reading

    async def get(
        self, name: str, ids: Sequence[str], *, include_vector: bool = False
    ) -> list[VectorRecord]:
        def work(db: apsw.Connection) -> list[VectorRecord]:
            index = rows.need(db, name)
            found = {}
            for row in rows.named(db, index, ids, None, "v.id, v.metadata, v.text, v.embedding"):
                found[row[0]] = rows.record(row, index.info, include_vector)
            return [found[id] for id in ids if id in found]

        return await self._access._read(work, threaded=_is_long(ids))

    async def find(
        self,
        name: str,
        *,
        filter: Filter | None = None,
        limit: int = 100,
        offset: int = 0,
        include_vector: bool = False,
    ) -> list[VectorRecord]:
        condition = conditions.parse(filter)
        page = (rules.at_most(limit), rules.at_most(offset))

        def work(db: apsw.Connection) -> list[VectorRecord]:
            vector = "v.embedding" if include_vector else "NULL"
            with snapshot(db):
                index = rows.need(db, name)
                where = rows.where(db, condition, index)
                query = f"""SELECT v.id, v.metadata, v.text, {vector} FROM {where.source(index.no)}
                    WHERE v.idx = {index.no} AND {where.sql} ORDER BY v.no LIMIT ? OFFSET ?"""  # noqa: S608
                found = rows.found(db, query, (*where.values, *page))
            return [rows.record(row, index.info, include_vector) for row in found]

        many = limit > INLINE_ROWS or offset > INLINE_ROWS
        return await self._access._read(work, threaded=bool(filter) or many)

    async def count(self, name: str, *, filter: Filter | None = None) -> int:
        condition = conditions.parse(filter)

        def work(db: apsw.Connection) -> int:
            with snapshot(db):
                index = rows.need(db, name)
                where = rows.where(db, condition, index)
                query = f"""SELECT count(*) FROM {where.source(index.no)}
                    WHERE v.idx = {index.no} AND {where.sql}"""  # noqa: S608 - bound
                return int(db.execute(query, where.values).get)

        return await self._access._read(work, threaded=bool(filter))

    async def query(
        self,
        name: str,
        vector: Vector | None = None,
        *,
        text: str | None = None,
        top_k: int = TOP_K,
        filter: Filter | None = None,
        min_score: float | None = None,
        exact: bool = False,
        include_vector: bool = False,
        fusion: Fusion = "score",
    ) -> list[Hit]:
        question = Question(
            vector, text, top_k, filter, min_score, exact, include_vector, fusion, ms={}
        )
        return await self._ask(name, question)

    async def explain(
        self,
        name: str,
        vector: Vector | None = None,
        *,
        text: str | None = None,
        top_k: int = TOP_K,
        filter: Filter | None = None,
        exact: bool = False,
    ) -> Explained:
        question = Question(vector, text, top_k, filter, exact=exact, explains=True, ms={})
        await self._ask(name, question)
        return Explained(
            engine=question.engine,
            why=question.why,
            candidates=question.candidates,
            filter_sql=question.where.sql if question.where is not None else "",
            uses_index="vector_of_" in question.plan,
            ms=question.ms,
        )

    async def stats(self, name: str) -> IndexStats:
        file = self._access._file

        def work(db: apsw.Connection) -> IndexStats:
            index = rows.need(db, name)
            ((count, disk),) = rows.found(
                db,
                """SELECT count(*), coalesce(sum(length(id) + length(metadata) + length(text)
                    + coalesce(length(embedding), 0)), 0) FROM vector WHERE idx = ?""",
                (index.no,),
            )
            info = msgspec.structs.replace(index.info, count=count)
            held = engine_of(file, index).neighbors
            if not info.dimension:
                return IndexStats(info=info, engine="words", why="it keeps texts only", disk=disk)
            reason = _vec.load(db)
            without = f"; without sqlite-vec: {reason}" if reason else ""
            if held is None:
                why = f"this process has not read its vectors yet{without}"
                return IndexStats(info=info, engine="none", why=why, disk=disk)
            now = held.stats()
            return IndexStats(
                info=info,
                engine=now.engine,
                why=f"{now.why}{without}",
                recall=now.recall,
                bits=now.bits,
                oversample=now.oversample,
                memory=now.memory,
                disk=disk,
            )

        return await self._access._read(work, threaded=True)

    # Searching

    async def _ask(self, name: str, question: Question) -> list[Hit]:
        condition = None if question.filter is None else conditions.parse(question.filter)
        file, here = self._access._file, threading.get_ident()

        def work(db: apsw.Connection) -> list[Hit]:
            index = rows.need(db, name)
            info = index.info
            vector_rules.check_query(
                info, question.vector, question.text, question.top_k, question.fusion
            )
            query = None if question.vector is None else vector_rules.as_row(question.vector, info)
            engine = engine_of(file, index)
            inline = threading.get_ident() == here
            if not engine.lock.acquire(blocking=not inline):
                raise _errors.Busy
            try:
                if inline and not _is_quick(engine, index, question):
                    raise _errors.Busy
                with snapshot(db):
                    search = Search(db, rows.need(db, name), engine, question, condition, query)
                    return search.hits()
            finally:
                engine.lock.release()

        return await self._access._read(work)


def _is_long(ids: Sequence[Any] | np.ndarray[Any, Any] | None) -> bool:
    return ids is None or len(ids) > INLINE_ROWS


def _is_quick(engine: Engine, index: Index, question: Question) -> bool:
    """Whether it may be answered on the thread of the event loop."""
    if index.change - engine.change > INLINE_CHANGES and question.vector is not None:
        return False
    held = engine.neighbors
    n = 0 if held is None else len(held)
    return n * index.info.dimension <= INLINE_NUMBERS or (
        held is not None and question.filter is None and held.stats().engine == "sketch"
    )
