"""The lab extension that was compiled belongs to this package."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import mastra_nb

ROOT = Path(__file__).resolve().parents[1]
BUILT = ROOT / "mastra_nb" / "labextension"
NAME = "@mastra-nb/labextension"


def read(path: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(path.read_text("utf-8"))
    return found


def test_its_version_is_ours() -> None:
    for path in (ROOT / "labextension" / "package.json", BUILT / "package.json"):
        assert (read(path)["name"], read(path)["version"]) == (NAME, mastra_nb.__version__)


def test_it_is_where_jupyterlab_looks_for_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    shared = project["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    assert shared["mastra_nb/labextension"] == f"share/jupyter/labextensions/{NAME}"
    entry = read(BUILT / "package.json")["jupyterlab"]
    assert isinstance(entry, dict)
    assert (BUILT / entry["_build"]["load"]).is_file()


def test_each_schema_belongs_to_a_plugin() -> None:
    sources = "".join(p.read_text("utf-8") for p in (ROOT / "labextension/src").rglob("*.ts"))
    schemas = {path.stem for path in (ROOT / "labextension" / "schema").glob("*.json")}
    assert schemas
    assert [name for name in schemas if f"${{NAMESPACE}}:{name}`" not in sources] == []
    assert schemas == {path.stem for path in (BUILT / "schemas" / NAME).glob("*.json")}


def test_what_is_locked_names_no_address() -> None:
    for path in ("labextension/yarn.lock", "tests/browser/package-lock.json"):
        assert "://" not in (ROOT / path).read_text("utf-8")
