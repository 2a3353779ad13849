"""On ipykernel 6, which hears no front end while a cell runs, the keyboard is asked.

It stands here because it has to be fetched: the other suites need no network.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.notebook.conftest import ROOT, Kernel
from tests.notebook.test_notebook_people import AGENT, typed, value


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    folder = tmp_path_factory.mktemp("ipykernel6")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
         "--no-deps", "--target", str(folder), "ipykernel>=6.29,<7"],
        check=True,
    )  # fmt: skip
    path = os.pathsep.join([str(folder), str(ROOT)])
    kernel = Kernel(tmp_path_factory.mktemp("old"), {"PYTHONPATH": path})
    assert kernel.ok("import ipykernel; ipykernel.__version__").result.startswith("'6.")
    kernel.ok("%load_ext mastra_nb")
    yield kernel
    kernel.close()


@pytest.mark.parametrize(
    ("reply", "sent"),
    [("y", "[('bob', 'hi')]"), ("n not now", "[]"), ('e {"to": "eve"}', "[('eve', 'hi')]")],
)
def test_the_keyboard_is_asked_at_once(kernel: Kernel, reply: str, sent: str) -> None:
    kernel.ok(AGENT)
    out, asked = typed(kernel, "%ask a write", [reply])
    assert not out.error
    assert asked[0].startswith('approve send {"to":"bob","text":"hi"}?')
    assert value(kernel, "sent") == sent


def test_an_interrupt_there_leaves_the_run_waiting(kernel: Kernel) -> None:
    kernel.ok(AGENT)
    id = kernel.start("%ask a write", stdin=True)
    kernel.client.get_stdin_msg(timeout=20)
    kernel.manager.interrupt_kernel()
    assert kernel.finish(id).ename == "RunSuspended"
    assert not kernel.run("1 + 1").error


def test_where_nobody_can_be_asked_the_run_is_left_suspended(kernel: Kernel) -> None:
    kernel.ok(AGENT)
    assert kernel.run("%ask a write").ename == "RunSuspended"
