from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_configure() -> None:
    """A shell that begins us in the background has us, and all that we begin, ignore Ctrl-C."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What was collected stays to the end: a look through all of it for garbage takes 0.4 s, in
    which a server of a test says nothing.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def fresh_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What an application of the test leaves in the process goes with it."""
    from mastra_nb.cli import _projects
    from mastra_nb.services import set_ambient

    monkeypatch.setattr(_projects, "_imported", {})
    path, modules = [*sys.path], {*sys.modules}
    yield
    set_ambient(None)
    sys.path[:] = path
    for name in {*sys.modules} - modules:
        file = getattr(sys.modules[name], "__file__", None)
        if name.startswith("notebook_") or (file and Path(file).is_relative_to(tmp_path)):
            del sys.modules[name]
