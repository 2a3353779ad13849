"""A real JupyterLab in a real browser, held by its handles."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar
from urllib.parse import quote, urlsplit

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from playwright.sync_api import CDPSession, Dialog, Locator, Page, WebSocket

T = TypeVar("T")
Theme = Literal["light", "dark"]
THEMES: Mapping[Theme, str] = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}

# No pop-up, no question to another host, and nothing that saves behind a test's back.
SETTINGS: Mapping[str, Mapping[str, object]] = {
    "apputils-extension/notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
    # Every output is in the page, wherever it is scrolled to: a test sees what a reader could.
    "notebook-extension/tracker": {"windowingMode": "none"},
    "docmanager-extension/plugin": {"autosave": False, "confirmClosingDocument": False},
    "apputils-extension/themes": {"adaptive-theme": False, "theme": THEMES["light"]},
}

# Variables of whoever runs the tests that would change what the kernel does.
FOREIGN = ("JUPYTER", "MASTRA", "DATABASE_URL", "IPYTHON", "PYTEST", "LOG_LEVEL")
KEYS = ("_API_KEY", "_TOKEN", "_SECRET")

_OPTIONS = {
    "jupyterlab": ["--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly"],
    "notebook": ["--JupyterNotebookApp.expose_app_in_browser=True"],
}

# What a message brought is drawn a moment later; a page that goes on changing is not waited for.
_DRAWN = """() => new Promise(done => {
    let timer;
    const end = () => { observer.disconnect(); requestAnimationFrame(() => done()); };
    const again = () => { clearTimeout(timer); timer = setTimeout(end, 60); };
    const observer = new MutationObserver(again);
    observer.observe(window.notebook.node, {childList: true, subtree: true, characterData: true});
    setTimeout(end, 1000);
    again();
})"""

_DONE = """i => {
    const cell = window.notebook.content.widgets[i];
    return cell.model.executionCount !== null
        && !cell.node.querySelector('.jp-InputPrompt').textContent.includes('*');
}"""


AXE = Path(__file__).parent / "node_modules/axe-core/axe.min.js"
# The page around us is JupyterLab's, and so is what it renders of Markdown.
_JUDGE = """async selector => {
    const found = await axe.run({include: [[selector]]}, {resultTypes: ['violations']});
    const told = [];
    for (const {id, impact, nodes} of found.violations)
        if (['serious', 'critical'].includes(impact))
            for (const node of nodes)
                if (!node.target.join(' ').includes('.jp-RenderedMarkdown'))
                    told.push(`${id}: ${node.html.slice(0, 200)} ${node.failureSummary}`);
    return told;
}"""


def becomes(read: Callable[[], T], wanted: T, seconds: float = 20) -> None:
    """Reads until it is what is wanted: for what Playwright's own `expect` has no word."""
    last = time.monotonic() + seconds
    while (found := read()) != wanted and time.monotonic() < last:
        time.sleep(0.05)
    assert found == wanted


class Server:
    """JupyterLab as its own process, with its own config, data and runtime folders.

    `disabled` are plugins of the extension that are switched off. Notebooks are written to
    `root`, which `folder` makes another one for each test: what is stored is kept beside them.
    """

    application = "jupyterlab"

    def __init__(self, home: Path, repo: Path, disabled: Sequence[str] = ()) -> None:
        self.home = home
        self.served = self.root = home / "notebooks"
        self.token = secrets.token_hex(16)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = home / "jupyterlab.log"
        for name in ("notebooks", "config", "data/labextensions/@mastra-nb", "runtime", "ipython"):
            (home / name).mkdir(parents=True)
        # What was built from this tree, whatever is installed beside it.
        built = repo / "mastra_nb" / "labextension"
        assert (built / "package.json").is_file(), "the lab extension is not built → make extension"
        (home / "data/labextensions/@mastra-nb/labextension").symlink_to(built)
        for name, values in SETTINGS.items():
            path = home / f"config/lab/user-settings/@jupyterlab/{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values))
        (home / "config/labconfig").mkdir()
        (home / "config/labconfig/page_config.json").write_text(
            json.dumps({"disabledExtensions": dict.fromkeys(disabled, True)})
        )
        env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(FOREIGN) and not name.endswith(KEYS)
        } | {
            "JUPYTER_CONFIG_DIR": str(home / "config"),
            "JUPYTER_DATA_DIR": str(home / "data"),
            "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
            "JUPYTER_PREFER_ENV_PATH": "0",
            "IPYTHONDIR": str(home / "ipython"),
            "PYTHONPATH": str(repo),
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    self.application,
                    "--no-browser",
                    "--ServerApp.ip=127.0.0.1",
                    f"--ServerApp.port={self.port}",
                    "--ServerApp.port_retries=0",
                    f"--ServerApp.root_dir={self.served}",
                    # Installed it is enabled by a file beside Jupyter's own.
                    "--ServerApp.jpserver_extensions={'mastra_nb.notebook.server_extension': True}",
                    f"--IdentityProvider.token={self.token}",
                    *_OPTIONS[self.application],
                    *(["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []),
                ],
                cwd=self.served,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Self:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                self.api("GET", "status")
            except OSError:
                time.sleep(0.1)
            else:
                return self
        self.__exit__()
        raise AssertionError("JupyterLab did not start:\n" + self.log.read_text()[-4000:])

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def api(self, method: str, path: str) -> Any:
        request = urllib.request.Request(
            f"{self.url}/api/{path}",
            method=method,
            headers={"Authorization": f"token {self.token}"},
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            body = answer.read()
        return json.loads(body) if body else None

    def folder(self, name: str) -> None:
        """Notebooks go into a new folder of this name from now on."""
        self.root = self.served / name
        self.root.mkdir()

    def shutdown_kernels(self) -> None:
        for session in self.api("GET", "sessions"):
            self.api("DELETE", f"sessions/{session['id']}")
        for kernel in self.api("GET", "kernels"):
            self.api("DELETE", f"kernels/{kernel['id']}")

    @contextlib.contextmanager
    def disabled(self, plugin: str) -> Iterator[None]:
        """Pages that are opened meanwhile leave this plugin out."""
        path = self.home / "config/labconfig/page_config.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"disabledExtensions": {plugin: True}}))
        try:
            yield
        finally:
            path.unlink()

    def write(self, name: str, cells: Sequence[str], *, kernel: bool = True) -> Path:
        """A notebook of these cells; one that starts with "#md " is Markdown."""
        notebook = new_notebook(
            cells=[
                new_markdown_cell(text.removeprefix("#md "))
                if text.startswith("#md ")
                else new_code_cell(text)
                for text in cells
            ]
        )
        if kernel:
            notebook.metadata["kernelspec"] = {
                "name": "python3",
                "display_name": "Python 3 (ipykernel)",
                "language": "python",
            }
        path = self.root / name
        nbformat.write(notebook, path)
        return path


class Watch:
    """What a page asked of the network, and whether a payload ran.

    A payload that runs calls `window.canary(...)`, opens a dialog, or asks another host.
    """

    def __init__(self, page: Page, origin: str) -> None:
        self.origin = origin
        self.foreign: list[str] = []
        self.dialogs: list[str] = []
        self.popups: list[str] = []
        self.errors: list[str] = []
        self.canary: list[str] = []
        self.allowed: set[str] = set()
        # A binding outlives navigation, so a payload that leaves the page is caught as well.
        page.expose_binding("canary", lambda source, *args: self.canary.append(repr(args)))
        page.on("request", lambda request: self._asked(request.url))
        page.on("websocket", lambda socket: self._asked(socket.url))
        page.on("popup", lambda popup: self.popups.append(popup.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", self._dialog)

    def _dialog(self, dialog: Dialog) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def _asked(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme in ("data", "blob", "about", "chrome", "devtools"):
            return
        ours = urlsplit(self.origin)
        if parts.netloc == ours.netloc and (ours.scheme != "file" or parts.path == ours.path):
            return
        if url not in self.allowed:
            self.foreign.append(url)

    def assert_clean(self) -> None:
        assert not self.canary, f"a payload ran: {self.canary}"
        assert not self.dialogs, f"a payload opened dialogs: {self.dialogs}"
        assert not self.popups, f"a payload opened windows: {self.popups}"
        assert not self.foreign, f"the page asked other hosts: {self.foreign}"


class Traffic:
    """Kernel messages that reach the page, counted by type."""

    def __init__(self, page: Page) -> None:
        self.counts: Counter[str] = Counter()
        self.bytes = 0
        page.on("websocket", self._socket)

    def _socket(self, socket: WebSocket) -> None:
        if "/channels" in socket.url:
            socket.on("framereceived", self._frame)

    def _frame(self, frame: str | bytes) -> None:
        data = frame if isinstance(frame, bytes) else frame.encode()
        self.bytes += len(data)
        at = data.find(b'"msg_type": "')
        if at < 0:
            at = data.find(b'"msg_type":"') - 1
        at += len(b'"msg_type": "')
        kind = data[at : data.index(b'"', at)].decode()
        self.counts[kind] += 1


class Lab:
    """One tab with JupyterLab in it."""

    def __init__(self, page: Page, server: Server, watch: Watch, shots: Path) -> None:
        self.page = page
        self.server = server
        self.watch = watch
        self.shots = shots
        self.traffic = Traffic(page)
        self._cdp: CDPSession | None = None

    def open(self, path: Path, *, kernel: bool = True, theme: Theme = "light") -> Notebook:
        """Waits until the cells are drawn and the kernel is idle.

        Without `kernel` the notebook must be one that asks for its kernel.
        """
        name = quote(str(path.relative_to(self.server.served)))
        workspace = secrets.token_hex(4)
        self.page.goto(
            f"{self.server.url}/lab/workspaces/{workspace}/tree/{name}?token={self.server.token}"
        )
        self.page.wait_for_function(
            """() => {
                const panel = window.jupyterapp?.shell?.currentWidget;
                if (!panel?.sessionContext || !panel.context?.isReady) return false;
                window.notebook = panel;
                return true;
            }""",
            timeout=60_000,
        )
        self.page.evaluate(
            """async () => {
                await window.jupyterapp.restored;
                await window.notebook.revealed;
                window.notebook.content.widgets.forEach((cell, i) => {
                    cell.node.dataset.cell = i;
                });
            }"""
        )
        notebook = Notebook(self, path)
        self.theme(theme)
        if kernel:
            notebook.wait_idle()
        else:
            dialog = self.page.locator(".jp-Dialog", has_text="Select Kernel")
            dialog.locator("select").select_option(label="No Kernel")
            dialog.locator(".jp-mod-accept").click()
            dialog.wait_for(state="detached")
        return notebook

    def theme(self, theme: Theme) -> None:
        self.page.evaluate(
            """async name => {
                await window.jupyterapp.commands.execute('apputils:change-theme', {theme: name});
            }""",
            THEMES[theme],
        )
        light = "true" if theme == "light" else "false"
        self.page.wait_for_selector(f"body[data-jp-theme-light='{light}']", state="attached")

    def judge(self, selector: str) -> list[str]:
        """What axe-core finds serious or critical in what the selector names, as it stands now."""
        if not self.page.evaluate("() => 'axe' in window"):
            self.page.add_script_tag(path=AXE)
        self.page.wait_for_timeout(300)  # a theme fades in
        return list(self.page.evaluate(_JUDGE, selector))

    def command(self, name: str, args: Mapping[str, object] | None = None) -> Any:
        return self.page.evaluate(
            """async ([name, args]) => {
                const value = await window.jupyterapp.commands.execute(name, args);
                return typeof value === 'boolean' ? value : null;
            }""",
            [name, dict(args or {})],
        )

    def metrics(self) -> dict[str, float]:
        """The page's own counters: busy times in seconds, counts, bytes."""
        if self._cdp is None:
            self._cdp = self.page.context.new_cdp_session(self.page)
            self._cdp.send("Performance.enable")
        answer = self._cdp.send("Performance.getMetrics")
        return {metric["name"]: metric["value"] for metric in answer["metrics"]}


class Notebook:
    """The notebook in the current tab of a Lab."""

    def __init__(self, lab: Lab, path: Path) -> None:
        self.lab = lab
        self.page = lab.page
        self.path = path

    def cell(self, index: int) -> Locator:
        return self.page.locator(f"[data-cell='{index}']")

    def output(self, index: int) -> Locator:
        return self.cell(index).locator(".jp-OutputArea").first

    def html(self, index: int) -> str:
        """The rendered output of a cell, scrolled into view first."""
        self.cell(index).scroll_into_view_if_needed()
        return self.output(index).inner_html()

    def text(self, index: int) -> str:
        return self.output(index).inner_text().strip()

    def wait_idle(self, timeout: float = 60) -> None:
        self.page.wait_for_function(
            """() => {
                const session = window.notebook.sessionContext;
                return session.isReady && session.session?.kernel?.status === 'idle';
            }""",
            timeout=timeout * 1000,
        )
        self.page.evaluate(_DRAWN)

    def run_all(self, timeout: float = 60) -> bool:
        """False if a cell failed. Waits until the outputs are drawn."""
        self.page.set_default_timeout(timeout * 1000)
        done = bool(self.lab.command("notebook:run-all-cells"))
        self.wait_idle(timeout)
        return done

    def start(self, index: int) -> None:
        """Runs one cell the way a reader does, and does not wait for it."""
        self.cell(index).scroll_into_view_if_needed()
        self.cell(index).locator(".cm-content").click()
        self.page.keyboard.press("Control+Enter")

    def run(self, index: int, timeout: float = 60) -> None:
        self.start(index)
        self.wait_done(index, timeout)

    def is_done(self, index: int) -> bool:
        """Whether the prompt of the cell shows a number instead of a star."""
        return bool(self.page.evaluate(f"({_DONE})({index})"))

    def wait_done(self, index: int, timeout: float = 60) -> None:
        self.page.wait_for_function(_DONE, arg=index, timeout=timeout * 1000)
        self.wait_idle(timeout)

    def interrupt(self) -> None:
        """A click on the square in the notebook's toolbar."""
        self.page.locator(".jp-NotebookPanel-toolbar [data-jp-item-name='interrupt']").click()

    def save(self, *, forget_kernel: bool = False) -> nbformat.NotebookNode:
        """Saves; a notebook that has forgotten its kernel asks for one when it is opened."""
        if forget_kernel:
            self.page.evaluate(
                """() => {
                    for (const name of ['kernelspec', 'language_info'])
                        window.notebook.model.deleteMetadata(name);
                }"""
            )
        self.lab.command("docmanager:save")
        return nbformat.read(self.path, as_version=4)

    def screenshot(self, name: str, *, whole: bool = True) -> Path:
        """The notebook as far as it goes, or (`whole=False`) the window as it stands."""
        path = self.lab.shots / f"{name}.png"
        size = self.page.viewport_size
        assert size
        self.page.mouse.move(0, 0)
        if whole:
            # Thrice: cells outside the window have an estimated height until they are drawn.
            for _ in range(3):
                self._grow()
            self.page.locator(".jp-NotebookPanel").screenshot(path=path)
            self.page.set_viewport_size(size)
        else:
            self.page.screenshot(path=path)
        return path

    def _grow(self) -> None:
        size = self.page.viewport_size
        assert size
        height = self.page.evaluate(
            """() => {
                const notebook = window.notebook.content;
                const box = notebook.node.querySelector('.jp-WindowedPanel-outer');
                const node = notebook.widgets.at(-1).node;
                box.scrollTop = node.isConnected ? 0 : box.scrollHeight;
                return node.isConnected
                    ? Math.ceil(node.getBoundingClientRect().bottom) + 60
                    : box.scrollHeight + 200;
            }"""
        )
        self.page.set_viewport_size({"width": size["width"], "height": min(12_000, height)})
        self.page.wait_for_timeout(300)
