"""One row: the notebook executed once with its parameters, in a worker and a kernel of its own."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from mastra_nb.config import redact
from mastra_nb.errors import MissingExtra
from mastra_nb.executor import WhenStopped
from mastra_nb.recording import recorded
from mastra_nb.unattended import Row

_ENGINE = "mastra-nb-batch"
_COLOR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_LONGEST = 2000


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """Paths are absolute; `timeout` is in seconds. `kernel` is empty for the notebook's own."""

    notebook: str
    output: str
    params: dict[str, Any]
    row: Row
    environment: dict[str, str]
    kernel: str = ""
    timeout: float | None = None


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """`values` are those recorded, also by a notebook that failed later. `error` is one line or
    more, `kind` the name of its class.
    """

    status: Literal["done", "failed", "suspended"]
    values: dict[str, Any] = {}
    error: str = ""
    kind: str = ""
    seconds: float = 0.0


class _Kernel:
    """That of the row; killed from another thread when its time is over or nobody wants it."""

    def __init__(self) -> None:
        self.client: Any = None
        self.is_late = False

    def late(self) -> None:
        self.is_late = True
        self.kill()

    def kill(self) -> None:
        manager = getattr(self.client, "km", None)
        provisioner = getattr(manager, "provisioner", None)
        process = getattr(provisioner, "process", None)
        if process is None:
            return
        with contextlib.suppress(OSError):
            if os.name == "posix":
                # It leads a group of its own: what it has started goes with it.
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()


def run(task: Task) -> Ran:
    """Never raises for what the notebook does. Raises MissingExtra without papermill."""
    try:
        with _without_iris():
            import papermill
        from nbclient.exceptions import DeadKernelError
        from papermill.clientwrap import PapermillNotebookClient
        from papermill.engines import NBClientEngine, papermill_engines
        from papermill.exceptions import PapermillExecutionError
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f'running a notebook needs "{error.name}"', hint='pip install "mastra-nb[batch]"'
        ) from None

    kernel = _Kernel()

    class Engine(NBClientEngine):  # type: ignore[misc]
        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **_: Any) -> Any:
            # Papermill's `cwd` changes that of the process, for all of its threads.
            kernel.client = PapermillNotebookClient(
                nb_man,
                kernel_name=kernel_name,
                resources={"metadata": {"path": str(Path(task.notebook).parent)}},
                extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
                startup_timeout=60,
            )
            return kernel.client.execute(env={**os.environ, **task.environment})

    logging.getLogger("papermill").setLevel(logging.ERROR)
    engine = f"{_ENGINE}-{threading.get_ident()}"
    papermill_engines.register(engine, Engine)
    Path(task.output).parent.mkdir(parents=True, exist_ok=True)
    clock = threading.Timer(task.timeout or 0, kernel.late)
    clock.daemon = True
    began = time.monotonic()
    status: Literal["done", "failed", "suspended"] = "done"
    kind = said = ""
    metadata = json.loads(Path(task.notebook).read_text(encoding="utf-8")).get("metadata", {})
    try:
        with WhenStopped(kernel.kill):
            if task.timeout is not None:
                clock.start()
            papermill.execute_notebook(
                _plain(task.notebook),
                _plain(task.output),
                parameters=task.params,
                engine_name=engine,
                kernel_name=task.kernel or kernel_of(metadata),
                language=language_of(metadata),
                progress_bar=False,
            )
    except PapermillExecutionError as error:
        status = "suspended" if error.ename == "RunSuspended" else "failed"
        kind, said = str(error.ename), f"{error.evalue}"
    except DeadKernelError:
        status, kind, said = "failed", "KernelDied", "the kernel died"
    except Exception as error:
        # No kernel of that name, a notebook that is none, a disk that is full: the row's failure.
        status, kind, said = "failed", type(error).__name__, str(error)
    finally:
        clock.cancel()
        papermill_engines._engines.pop(engine, None)
    if kernel.is_late:
        status, kind = "failed", "RowTimeout"
        said = f"it took longer than {task.timeout:g} s and was stopped"
    return Ran(
        status=status,
        values=values_of(task.output),
        error=_readable(said),
        kind=kind,
        seconds=time.monotonic() - began,
    )


@contextlib.contextmanager
def _without_iris() -> Iterator[None]:
    """jsonschema, where it finds this module, builds the grammar of IRIs when it is imported: two
    seconds of CPU for a format that no notebook is checked for.
    """
    name = "rfc3987_syntax"
    if name in sys.modules or "jsonschema" in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


def _plain(path: str) -> str:
    """Papermill formats paths: braces in one are meant."""
    return path.replace("{", "{{").replace("}", "}}")


def kernel_of(metadata: dict[str, Any]) -> str:
    return str(metadata.get("kernelspec", {}).get("name") or "python3")


def language_of(metadata: dict[str, Any]) -> str | None:
    """What papermill does not find out by itself: that of a notebook nobody has saved yet."""
    spec, info = metadata.get("kernelspec", {}), metadata.get("language_info", {})
    return None if spec.get("language") or info.get("name") else "python"


def _readable(text: str) -> str:
    text = redact(_COLOR.sub("", text)).strip()
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def values_of(executed: str | Path) -> dict[str, Any]:
    """What an executed notebook has recorded, the last of each name. Nothing if there is none."""
    try:
        notebook = json.loads(Path(executed).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    outputs = (output for cell in notebook.get("cells", ()) for output in cell.get("outputs", ()))
    return dict(found for output in outputs if (found := recorded(output)) is not None)
