"""One query over a vector index in SQLite."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import apsw
import msgspec
import numpy as np

from mastra_nb import conditions
from mastra_nb.neighbors import SKETCH_FROM, Neighbors, Selection
from mastra_nb.stores import _vec
from mastra_nb.stores import _vector_rows as rows
from mastra_nb.stores import _vector_rules as vector_rules
from mastra_nb.stores._engines import Engine, Index
from mastra_nb.stores._where import Where
from mastra_nb.stores._words import asked
from mastra_nb.vectors import Filter, Fusion, Hit, Vector

# Of an index that is not in memory, a filter that leaves less than this part is answered by SQL.
SELECTIVE = 20
# A filter that leaves so few is part of the search for words, else what does not fit is left out
# of what they found.
FEW = 2_000

_DISTANCES = {"cosine": "vec_distance_cosine", "euclidean": "vec_distance_l2"}
_Found = tuple[int, float, float | None, float | None]


class Question(msgspec.Struct):
    """A query, and how it was answered."""

    vector: Vector | None
    text: str | None
    top_k: int
    filter: Filter | None
    min_score: float | None = None
    exact: bool = False
    include_vector: bool = False
    fusion: Fusion = "score"
    engine: str = "none"
    why: str = ""
    candidates: int = 0
    where: Where | None = None
    plan: str = ""
    explains: bool = False
    ms: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.ms[name] = (time.perf_counter() - started) * 1000


class Search:
    """One query, in one snapshot of the file."""

    def __init__(
        self,
        db: apsw.Connection,
        index: Index,
        engine: Engine,
        question: Question,
        condition: conditions.Condition | None,
        query: vector_rules.Floats | None,
    ) -> None:
        self._db = db
        self._index = index
        self._engine = engine
        self._question = question
        self._query = query
        self._chosen: Selection | None = None
        if condition is not None:
            question.where = where = rows.where(db, condition, index)
            with question.stage("filter"):
                self._chosen = engine.chosen(db, index, where)
            question.candidates = len(self._chosen)
            if question.explains:
                plan = f"""EXPLAIN QUERY PLAN SELECT v.no
                    FROM {where.source(index.no)} WHERE v.idx = {index.no} AND {where.sql}"""  # noqa: S608 - bound
                question.plan = str(db.execute(plan, where.values).fetchall())

    def hits(self) -> list[Hit]:
        question = self._question
        if self._chosen is not None and not len(self._chosen):
            question.engine, question.why = "filter", "the filter leaves nothing"
            return []
        if question.text is None:
            near = self._near(question.top_k, question.min_score)
            found = [(no, s, s, None) for no, s in near.items()]
        elif self._query is None:
            words = self._words(question.top_k, question.min_score)
            found = [(no, s, None, s) for no, s in words.items()]  # type: ignore[misc]
        else:
            found = self._both()  # type: ignore[assignment]
        with question.stage("entries"):
            return self._read(found)

    def _both(self) -> list[tuple[int, float, float | None, float | None]]:
        question, most = self._question, vector_rules.pool(self._question.top_k)
        near = self._near(most, question.min_score)
        words = self._words(most if question.min_score is None else 20 * most, None)
        if question.min_score is not None and words and self._query is not None:
            within = np.array(sorted(words), np.int64)
            good = self._neighbors().search(
                self._query, len(words), within=within, min_score=question.min_score, exact=True
            )[0]  # fmt: skip
            kept = {*good.tolist()}
            words = dict([(no, s) for no, s in words.items() if no in kept][:most])
        both = vector_rules.fused(near, words, question.fusion)[: question.top_k]
        return [(no, score, near.get(no), words.get(no)) for no, score in both]

    # By the vector

    def _neighbors(self) -> Neighbors:
        with self._question.stage("load"):
            return self._engine.load(self._db, self._index)

    def _near(self, top_k: int, min_score: float | None) -> dict[int, float]:
        """Numbers and similarities, the best first."""
        question = self._question
        found = self._by_sql(top_k, min_score)
        if found is not None:
            question.engine, question.why = "sqlite-vec", "few entries of an index not in memory"
            return found
        neighbors = self._neighbors()
        assert self._query is not None
        with question.stage("search"):
            nos, scores = neighbors.search(
                self._query,
                top_k,
                within=self._chosen,
                min_score=min_score,
                exact=question.exact,
            )
        now = neighbors.stats()
        question.engine, question.why = ("exact", "asked for") if question.exact else (
            now.engine, now.why
        )  # fmt: skip
        if self._chosen is None:
            question.candidates = len(neighbors)
        elif now.engine == "sketch" and len(self._chosen) < SKETCH_FROM:
            question.engine, question.why = "exact", "the filter leaves few"
        return dict(zip(nos.tolist(), map(float, scores), strict=True))

    def _by_sql(self, top_k: int, min_score: float | None) -> dict[int, float] | None:
        """By sqlite-vec where reading all vectors would cost more; None else."""
        info, where = self._index.info, self._question.where
        measure = _DISTANCES.get(info.metric)
        chosen = self._chosen
        if self._engine.is_loaded or where is None or chosen is None or measure is None:
            return None
        count = self._db.execute("SELECT count(*) FROM vector WHERE idx = ?", (self._index.no,)).get
        if len(chosen) * SELECTIVE > count or _vec.load(self._db):
            return None
        stored, asked_ = "v.embedding", "?"
        if info.dtype == "int8":
            stored, asked_ = f"vec_int8({stored})", f"vec_int8({asked_})"
        assert self._query is not None
        query = vector_rules.blobs(self._query[None], info.dtype)[0]
        with self._question.stage("search"):
            found = rows.found(
                self._db,
                f"""SELECT v.no, {measure}({stored}, {asked_}) AS d FROM vector v
                WHERE v.no IN (SELECT value FROM json_each(?)) ORDER BY d, v.no LIMIT ?""",  # noqa: S608
                (query, msgspec.json.encode(chosen.nos.tolist()).decode(), top_k),
            )
        near = {}
        for no, distance in found:
            if info.metric == "euclidean":
                score = 1 / (1 + distance)
            else:
                # A vector of zeros has no direction.
                score = 0.0 if distance is None or distance != distance else 1 - distance
            if min_score is None or score >= min_score:
                near[no] = score
        return near

    # By the words

    def _words(self, top_k: int, min_score: float | None) -> dict[int, float]:
        """Numbers and BM25, the best first."""
        question, table = self._question, self._index.words
        if question.engine == "none":
            question.engine, question.why = "words", "a question without a vector"
        words = asked(question.text or "")
        if len(words) > 1 and not question.exact:
            with question.stage("terms"):
                words = self._engine.rare(self._db, self._index, words)
        wanted = " OR ".join([f'"{word}"' for word in words])
        if not wanted or not top_k:
            return {}
        with question.stage("words"):
            matched = self._matched(table, wanted, top_k)
        found = [(no, s) for no, s in matched if min_score is None or s >= min_score]
        return dict(found[:top_k])

    def _matched(self, table: str, wanted: str, top_k: int) -> list[tuple[int, float]]:
        """The best `top_k` that match, at least, of those that are chosen."""
        chosen, within = self._chosen, ""
        values: tuple[str, ...] = (wanted,)
        if chosen is not None and len(chosen) <= FEW:
            # Before BM25, which is what costs. Without the sign each would be matched by itself.
            within = "AND +rowid IN (SELECT value FROM json_each(?))"
            values = (wanted, msgspec.json.encode(chosen.nos.tolist()).decode())
        query = f"""SELECT rowid, -bm25({table}) AS score FROM {table} WHERE {table} MATCH ?
            {within} ORDER BY score DESC, rowid LIMIT """  # noqa: S608 - a table of ours
        if chosen is None or within:
            return rows.found(self._db, f"{query}{top_k:d}", values)
        limit = 4 * top_k
        while True:
            matched = rows.found(self._db, f"{query}{limit:d}", values)
            nos = np.fromiter((no for no, _ in matched), np.int64, len(matched))
            at = np.minimum(np.searchsorted(chosen.nos, nos), len(chosen) - 1)
            keep = chosen.nos[at] == nos
            if len(matched) < limit or np.count_nonzero(keep) >= top_k:
                return [row for row, kept in zip(matched, keep, strict=True) if kept]
            limit *= 16

    def _read(self, found: Sequence[tuple[int, float, float | None, float | None]]) -> list[Hit]:
        vector = "embedding" if self._question.include_vector else "NULL"
        query = f"SELECT id, metadata, text, {vector} FROM vector WHERE no = ?"  # noqa: S608
        out = []
        for no, score, similarity, bm25 in found:
            row = self._db.execute(query, (no,)).fetchone()
            record = rows.record(row, self._index.info, self._question.include_vector)
            out.append(vector_rules.hit(record, score, similarity, bm25))
        return out


@contextmanager
def snapshot(db: apsw.Connection) -> Iterator[None]:
    db.execute("BEGIN").fetchall()
    try:
        yield
    finally:
        db.execute("COMMIT").fetchall()
