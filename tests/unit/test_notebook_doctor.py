from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mastra_nb import __version__
from mastra_nb.notebook._doctor import EXTENSION, extension


@pytest.fixture
def jupyter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("JUPYTER_PATH", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "data"))
    for name in ("JUPYTER_CONFIG_PATH", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "config"))
    return tmp_path


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def install(jupyter: Path, found: str) -> None:
    package = jupyter / "data" / "labextensions" / EXTENSION / "package.json"
    write(package, {"name": EXTENSION, "version": found})


def test_the_extension_is_there(jupyter: Path) -> None:
    install(jupyter, __version__)
    assert extension().state == "ok"


def test_the_extension_is_of_another_version(jupyter: Path) -> None:
    install(jupyter, "0.0.1")
    found = extension()
    assert (found.state, found.found) == ("wrong", f"0.0.1, but mastra_nb is {__version__}")


@pytest.mark.parametrize("listed", [{EXTENSION: True}, [EXTENSION]])
@pytest.mark.parametrize("place", ["config/labconfig", "data/lab/settings"])
def test_the_extension_is_disabled(jupyter: Path, listed: Any, place: str) -> None:
    install(jupyter, __version__)
    write(jupyter / place / "page_config.json", {"disabledExtensions": listed})
    assert (extension().state, extension().do) == (
        "note", f"jupyter labextension enable {EXTENSION}",
    )  # fmt: skip


def test_what_is_enabled_again_is_not_disabled(jupyter: Path) -> None:
    install(jupyter, __version__)
    write(jupyter / "config/labconfig/page_config.json", {"disabledExtensions": {EXTENSION: False}})
    (jupyter / "data/lab/settings").mkdir(parents=True)
    (jupyter / "data/lab/settings/page_config.json").write_text("not JSON")
    assert extension().state == "ok"
