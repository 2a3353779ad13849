"""Both stores of vectors keep the contract, in threads and without sqlite-vec too."""

from __future__ import annotations

import pytest

from mastra_nb.stores import _vec, memory, sqlite
from mastra_nb.testing import VectorContract
from tests.contract.backends import in_threads


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
        in_threads(monkeypatch)


class TestSQLiteVectorsWithoutSQLiteVec(TestSQLiteVectors):
    @pytest.fixture(autouse=True)
    def without(self, monkeypatch):
        monkeypatch.setattr(_vec, "load", lambda db: "it is not installed")
