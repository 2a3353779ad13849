from __future__ import annotations

import pytest

from mastra_nb.errors import ConfigError
from mastra_nb.stores.memory import open_store


@pytest.mark.parametrize("url", ["memory:///x.db", "memory:", "sqlite:///x.db", ""])
def test_another_url_is_refused(url):
    with pytest.raises(ConfigError, match="memory://"):
        open_store(url)


async def test_every_store_is_its_own():
    one, two = open_store("memory://"), open_store("memory://")
    await one.put("k", "a", 1)
    assert one.url == "memory://"
    assert await two.get("k", "a") is None
