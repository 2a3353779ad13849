from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mastra_nb import models
from mastra_nb.embedders import resolve as resolve_embedder
from mastra_nb.errors import MissingExtra, NotFound, PluginError
from mastra_nb.plugins import Registry, embedders, providers, stores


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on sys.path: a good module, two broken ones, a distribution's entry points."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "mnb_good.py").write_text(
        "class Deep:\n    value = 7\n\ndef provider():\n    return 1\n"
    )
    (tmp_path / "mnb_raises.py").write_text("1 / 0\n")
    (tmp_path / "mnb_needs.py").write_text("import mnb_absent.sub\n")
    info = tmp_path / "mnb_dist-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mnb-dist\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[mnb.things]\nplugged = mnb_good:Deep.value\nbroken = mnb_raises:x\nmine = mnb_raises:x\n"
    )
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def registry() -> Registry:
    return Registry(
        "mnb.things",
        {
            "mine": "mnb_good:provider",
            "deep": "mnb_good:Deep.value",
            "raises": "mnb_raises:x",
            "needs": "mnb_needs:x[local]",
            "needs-unnamed": "mnb_needs:x",
            "lacks": "mnb_good:absent",
            "gone": "mnb_no_such_module:x",
        },
    )


def test_loads_lazily_and_once(modules: Path) -> None:
    things = registry()
    assert "mnb_good" not in sys.modules
    assert things.load("mine")() == 1
    assert things.load("mine") is things.load("mine")
    assert things.load("deep") == 7


def test_a_name_of_ours_reads_no_metadata_and_wins_over_an_entry_point(
    modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    things = registry()
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: 1 / 0)
    assert things.load("mine")() == 1


def test_entry_points_are_found(modules: Path) -> None:
    things = registry()
    assert things.load("plugged") == 7
    assert {"plugged", "broken", "mine", "deep"} <= set(things.names())
    assert list(things.names()) == sorted(set(things.names()))


def test_register_takes_an_object_or_a_target_and_wins(modules: Path) -> None:
    things = registry()
    assert things.load("mine")() == 1
    things.register("mine", "mnb_good:Deep.value")
    assert things.load("mine") == 7
    thing = object()
    things.register("new", thing)
    assert things.load("new") is thing
    with pytest.raises(PluginError, match='"new" points at "no target"'):
        things.register("new", "no target")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("raises", "ZeroDivisionError"),
        ("broken", "ZeroDivisionError"),
        ("lacks", "absent"),
        ("gone", "mnb_no_such_module"),
        ("needs-unnamed", "mnb_absent"),
    ],
)
def test_a_broken_plugin_breaks_only_itself(modules: Path, name: str, says: str) -> None:
    things = registry()
    with pytest.raises(PluginError) as caught:
        things.load(name)
    assert f'"{name}"' in caught.value.message
    assert says in caught.value.message
    assert caught.value.__cause__ is not None
    assert things.load("mine")() == 1


def test_a_missing_extra_says_how_to_install_it(modules: Path) -> None:
    with pytest.raises(MissingExtra) as caught:
        registry().load("needs")
    assert "mnb_absent" in caught.value.message
    assert caught.value.hint == 'pip install "mastra-nb[local]"'


def test_an_unknown_name_names_close_ones(modules: Path) -> None:
    with pytest.raises(NotFound) as caught:
        registry().load("deeep")
    assert caught.value.message == 'there is no thing "deeep"'
    assert '"deep"' in caught.value.hint


def test_ours() -> None:
    assert {"openai", "groq", "ollama", "openai-compatible", "local"} <= set(providers.names())
    assert {"memory", "sqlite"} <= set(stores.names())
    with pytest.raises(NotFound, match='there is no provider "opnai"') as caught:
        providers.load("opnai")
    assert '"openai"' in caught.value.hint


def test_a_provider_of_another_distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What docs/models.md says under "Your own provider"."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "acme_models.py").write_text(
        "from mastra_nb.providers.openai import OpenAIModel\n\n"
        "def provider(name, model_id):\n"
        '    return OpenAIModel(model_id, base_url="http://127.0.0.1:9/v1", api_key="none")\n\n'
        "class Embedder:\n"
        "    dimensions = 3\n"
        "    def __init__(self, provider, model_id):\n"
        '        self.name = f"{provider}/{model_id}"\n'
    )
    info = tmp_path / "acme_models-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-models\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[mastra_nb.providers]\nacme = acme_models:provider\n\n"
        "[mastra_nb.embedders]\nacme = acme_models:Embedder\n"
    )
    for registry in (providers, embedders):
        monkeypatch.setattr(registry, "_entry_points", None)
        monkeypatch.setattr(registry, "_loaded", {})
    model = models.resolve("acme/roadrunner-1")
    assert (model.kind, getattr(model, "model_id", "")) == ("model", "roadrunner-1")
    assert resolve_embedder("acme/e").name == "acme/e"
    assert "acme" in providers.names()
    monkeypatch.delitem(sys.modules, "acme_models")
