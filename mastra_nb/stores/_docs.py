"""Documents and embeddings in SQLite."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import apsw
import msgspec

from mastra_nb.stores import _rules as rules
from mastra_nb.stores._access import INLINE_WRITE_BYTES, Access

_json = msgspec.json.decode


class Docs(Access):
    async def put(self, kind: str, id: str, data: Any) -> None:
        await self._put_doc(
            """INSERT INTO doc (kind, id, data) VALUES (?, ?, ?)
            ON CONFLICT (kind, id) DO UPDATE SET data = excluded.data""",
            kind,
            id,
            data,
        )

    async def insert(self, kind: str, id: str, data: Any) -> bool:
        query = "INSERT INTO doc (kind, id, data) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
        return await self._put_doc(query, kind, id, data) > 0

    async def _put_doc(self, query: str, kind: str, id: str, data: Any) -> int:
        rules.check_names(kind, id)
        raw = rules.to_json(data, f'"{id}" of kind "{kind}"')

        def work(db: apsw.Connection) -> int:
            db.execute(query, (kind, id, raw.decode()))
            return db.changes()

        return await self._write(work, threaded=len(raw) > INLINE_WRITE_BYTES)

    async def get(self, kind: str, id: str) -> Any | None:
        query = "SELECT data FROM doc WHERE kind = ? AND id = ?"
        raw = await self._read(lambda db: db.execute(query, (kind, id)).get)
        return None if raw is None else _json(raw)

    async def find(
        self, kind: str, *, prefix: str = "", limit: int = 1000, reverse: bool = False
    ) -> list[tuple[str, Any]]:
        end = rules.prefix_end(prefix)
        bound: tuple[Any, ...] = (kind, prefix) if end is None else (kind, prefix, end)
        inside = "" if end is None else "AND id < ?"
        query = f"""SELECT id, data FROM doc WHERE kind = ? AND id >= ? {inside}
            ORDER BY id {"DESC" if reverse else ""} LIMIT ?"""  # noqa: S608
        bound = (*bound, rules.at_most(limit))
        found: list[Any] = await self._read(lambda db: db.execute(query, bound).fetchall())
        return [(id, _json(raw)) for id, raw in found]

    async def delete(self, kind: str, id: str) -> bool:
        rules.check_names(kind, id)

        def work(db: apsw.Connection) -> bool:
            db.execute("DELETE FROM doc WHERE kind = ? AND id = ?", (kind, id))
            return db.changes() > 0

        return await self._write(work)


class Embeddings:
    def __init__(self, file: Access) -> None:
        self._file = file

    async def get(self, model: str, digests: Sequence[bytes]) -> dict[bytes, bytes]:
        rules.check_names(model)
        wanted = _hex(digests)

        def work(db: apsw.Connection) -> list[Any]:
            return db.execute(
                """SELECT no, digest, used, vector FROM embedding
                WHERE model = ? AND digest IN (SELECT unhex(value) FROM json_each(?))""",
                (model, wanted),
            ).fetchall()

        found = await self._file._read(work, threaded=len(digests) > INLINE_VECTORS)
        now = time.time()
        stale = [no for no, _, used, _ in found if used < now - rules.USED_SECONDS]
        if stale and not self._file._file.readonly:
            await self._file._write(
                lambda db: db.execute(
                    """UPDATE embedding SET used = ?
                    WHERE no IN (SELECT value FROM json_each(?))""",
                    (now, msgspec.json.encode(stale).decode()),
                ).fetchall()
            )
        return {digest: vector for _, digest, _, vector in found}

    async def put(self, model: str, rows: Mapping[bytes, bytes]) -> None:
        rules.check_names(model)
        now = time.time()
        lines = [(model, digest, now, vector) for digest, vector in rows.items()]
        if not lines:
            return

        def work(db: apsw.Connection) -> None:
            db.executemany(
                """INSERT INTO embedding (model, digest, used, vector) VALUES (?, ?, ?, ?)
                ON CONFLICT (model, digest) DO UPDATE
                SET used = excluded.used, vector = excluded.vector""",
                lines,
            )

        size = sum([len(vector) for vector in rows.values()])
        await self._file._write(work, threaded=size > INLINE_WRITE_BYTES)


# Of embeddings of some kilobytes.
INLINE_VECTORS = 200


def _hex(digests: Sequence[bytes]) -> str:
    return msgspec.json.encode([digest.hex() for digest in digests]).decode()
