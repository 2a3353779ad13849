from __future__ import annotations

import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from mastra_nb import _keyring
from mastra_nb.config import secret, secret_source


class Fake:
    """The part of the package `keyring` that is used."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], str] = {}
        self.asked = 0
        self.error: Exception | None = None

    def get_password(self, service: str, name: str) -> str | None:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.kept.get((service, name))

    def set_password(self, service: str, name: str, value: str) -> None:
        if self.error is not None:
            raise self.error
        self.kept[service, name] = value


@pytest.fixture
def keyring(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fake:
    fake: Any = Fake()
    monkeypatch.setitem(sys.modules, "keyring", fake)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(_keyring, "_found", {})
    monkeypatch.setattr(_keyring.importlib.util, "find_spec", lambda name: fake)
    monkeypatch.delenv("SOME_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    return fake  # type: ignore[no-any-return]


def test_who_has_put_none_pays_for_no_look_up(keyring: Fake) -> None:
    assert secret("SOME_API_KEY") is None
    assert (keyring.asked, secret_source("SOME_API_KEY")) == (0, "")


def test_a_key_is_found_after_the_environment(
    keyring: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _keyring.put("SOME_API_KEY", "canary-0123456789")
    found = secret("OTHER_API_KEY", "SOME_API_KEY")
    assert found is not None
    assert found.reveal() == "canary-0123456789"
    assert secret_source("SOME_API_KEY") == "keyring"
    monkeypatch.setenv("SOME_API_KEY", "canary-of-the-environment")
    found = secret("SOME_API_KEY")
    assert found is not None
    assert found.reveal() == "canary-of-the-environment"


def test_the_file_holds_names_only_and_each_process_asks_once(
    keyring: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    _keyring.put("SOME_API_KEY", "canary-0123456789")
    assert _keyring.path().read_text() == '["SOME_API_KEY"]'
    assert stat.S_ISREG(_keyring.path().stat().st_mode)
    monkeypatch.setattr(_keyring, "_found", {})
    before = keyring.asked
    assert [_keyring.find("SOME_API_KEY") for _ in range(3)] == ["canary-0123456789"] * 3
    assert keyring.asked == before + 1


def test_a_keyring_that_does_not_keep(keyring: Fake, caplog: pytest.LogCaptureFixture) -> None:
    keyring.error = RuntimeError("locked, canary-0123456789")
    assert not _keyring.put("SOME_API_KEY", "canary-0123456789")
    keyring.error = None
    _keyring.put("SOME_API_KEY", "canary-0123456789")
    _keyring._found.clear()
    keyring.error = RuntimeError("locked, canary-0123456789")
    assert secret("SOME_API_KEY") is None
    assert "RuntimeError" in caplog.text
    assert "canary" not in caplog.text


def test_a_list_that_is_broken(keyring: Fake, caplog: pytest.LogCaptureFixture) -> None:
    _keyring.put("SOME_API_KEY", "canary-0123456789")
    _keyring._found.clear()
    _keyring.path().write_text("not JSON")
    assert secret("SOME_API_KEY") is None
    assert "keyring.json" in caplog.text
    _keyring.path().write_text('{"a": 1}')
    assert _keyring.names() == []
