"""Both stores of vectors keep the contract, in threads and without sqlite-vec too."""

from __future__ import annotations

import pytest

from mastra_nb.stores import _vec, memory, sqlite
from mastra_nb.testing import VectorContract


class TestMemoryVectors(VectorContract):
    @pytest.fixture
    async def vectors(self):
        store = memory.open_store("memory://")
        yield store.vectors
        await store.close()


class TestSQLiteVectors(VectorContract):
    @pytest.fixture
    async def vectors(self, tmp_path):
        store = sqlite.open_store(f"sqlite:///{tmp_path}/store.db")
        yield store.vectors
        await store.close()


class TestSQLiteVectorsInThreads(TestSQLiteVectors):
    """The path that a busy file takes: every call waits for a thread."""

    @pytest.fixture(autouse=True)
    def threads(self, monkeypatch):
        write, read = sqlite.SQLiteStore._write, sqlite.SQLiteStore._read
        monkeypatch.setattr(
            sqlite.SQLiteStore, "_write", lambda s, w, **k: write(s, w, **{**k, "threaded": True})
        )
        monkeypatch.setattr(
            sqlite.SQLiteStore, "_read", lambda s, w, **k: read(s, w, **{**k, "threaded": True})
        )


class TestSQLiteVectorsWithoutSQLiteVec(TestSQLiteVectors):
    @pytest.fixture(autouse=True)
    def without(self, monkeypatch):
        monkeypatch.setattr(_vec, "load", lambda db: "it is not installed")
