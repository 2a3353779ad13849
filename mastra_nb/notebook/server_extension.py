"""A Jupyter Server extension: the store of the server's folder, under Jupyter's own authentication.

`/mastra/ask/NAME` answers the panel's questions where no kernel runs; `/mastra/api/…` is the REST
server of the same application. The application has a store and no agents: code of a project is not
run in the process that everybody's notebooks depend on.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.utils import url_path_join
from tornado import web
from tornado.iostream import StreamClosedError

from mastra_nb.app import Mastra, open_store
from mastra_nb.config import default_storage, load_settings, project_root
from mastra_nb.errors import MastraError, NotFound
from mastra_nb.queries import Queries

NAME = "mastra_nb"
_MOST = 100_000
_NOT_PASSED = {"host", "authorization", "cookie", "x-xsrftoken", "origin", "content-length"}
_OWN = {"date", "server", "transfer-encoding", "content-length", "connection"}


class Project:
    """The application of a project's root, opened when it is asked for and there is something."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._app: Mastra | None = None
        self._gate: Any = None

    @property
    def app(self) -> Mastra:
        """Raises NotFound while nothing is kept there."""
        if self._app is None:
            root = self.folder
            settings = load_settings(root)
            url = default_storage(settings, root)
            if url.startswith("sqlite:") and not Path(urlsplit(url).path[1:]).is_file():
                raise NotFound(
                    f'nothing is kept in "{root}" yet',
                    hint="%load_ext mastra_nb, and ask something",
                )
            self._app = Mastra(storage=open_store(url), settings=settings)
        return self._app

    @property
    def asgi(self) -> Callable[..., Awaitable[None]]:
        if self._gate is None:
            # The panel alone needs no web framework.
            from mastra_nb.server.application import create_app
            from mastra_nb.server.options import ServerOptions

            options = ServerOptions(hosts=["*"], origins=["*"], mcp=False, schedules=False)
            self._gate = create_app(self.app, options=options)
        gate: Callable[..., Awaitable[None]] = self._gate
        return gate


class Projects:
    """Those of the folders that notebooks are in, below the server's own."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._known: dict[Path, Project] = {}

    def of(self, path: str) -> Project:
        """That of a folder, as Jupyter names it. Raises NotFound for one that is elsewhere."""
        folder = (self.root / path.strip("/")).resolve()
        if not folder.is_relative_to(self.root) or not folder.is_dir():
            raise NotFound(f'there is no folder "{path}" here')
        root = project_root(folder)
        if root not in self._known:
            self._known[root] = Project(root)
        return self._known[root]


class Handler(JupyterHandler):
    """Who may read files of this server may read its stores."""

    auth_resource = "contents"

    def initialize(self, projects: Projects) -> None:
        self.projects = projects


class Ask(Handler):
    @web.authenticated
    @authorized(action="read")  # type: ignore[untyped-decorator]
    async def post(self, name: str) -> None:
        """A question of `mastra_nb.queries`: its arguments as JSON, its answer as {"ok": …}."""
        self.set_header("Content-Type", "application/json")
        try:
            body = self.request.body
            args = json.loads(body) if body and len(body) <= _MOST else {}
            project = self.projects.of(self.get_query_argument("path", ""))
            answer = await Queries(project.app).ask(name, args)
        except MastraError as error:
            told = {"code": error.code, "message": error.message, "hint": error.hint}
            self.finish(json.dumps({"error": told}))
            return
        except ValueError:
            self.set_status(400)
            told = {"code": "usage", "message": "the arguments are no JSON", "hint": ""}
            self.finish(json.dumps({"error": told}))
            return
        self.finish(json.dumps({"ok": answer}, default=str))


class Rest(Handler):
    """From Tornado to ASGI and back, piece by piece."""

    async def _pass_on(self, path: str) -> None:
        try:
            application = self.projects.of("").asgi
        except MastraError as error:
            self.set_status(404)
            self.finish(json.dumps({"error": error.message}))
            return
        gone, sent = asyncio.Event(), False
        request = self.request
        self._gone = gone

        async def receive() -> dict[str, Any]:
            nonlocal sent
            if not sent:
                sent = True
                return {"type": "http.request", "body": request.body, "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.set_status(message["status"])
                for name, value in message.get("headers", ()):
                    if name.decode().lower() not in _OWN:
                        self.set_header(name.decode(), value.decode())
                return
            if message.get("body"):
                self.write(message["body"])
                try:
                    await self.flush()
                except StreamClosedError:
                    gone.set()

        headers = [
            (name.lower().encode(), value.encode())
            for name, value in request.headers.get_all()
            if name.lower() not in _NOT_PASSED
        ]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": request.protocol,
            "path": f"/{path}",
            "raw_path": f"/{path}".encode(),
            "query_string": request.query.encode(),
            "root_path": "",
            "headers": [*headers, (b"host", b"localhost")],
            "client": (request.remote_ip, 0),
            "server": ("localhost", 0),
        }
        await application(scope, receive, send)
        if not self._finished:
            self.finish()

    def on_connection_close(self) -> None:
        gone = getattr(self, "_gone", None)
        if gone is not None:
            gone.set()

    @web.authenticated
    @authorized(action="read")  # type: ignore[untyped-decorator]
    async def get(self, path: str) -> None:
        await self._pass_on(path)

    @web.authenticated
    @authorized(action="write")  # type: ignore[untyped-decorator]
    async def post(self, path: str) -> None:
        await self._pass_on(path)

    @web.authenticated
    @authorized(action="write")  # type: ignore[untyped-decorator]
    async def patch(self, path: str) -> None:
        await self._pass_on(path)

    @web.authenticated
    @authorized(action="write")  # type: ignore[untyped-decorator]
    async def delete(self, path: str) -> None:
        await self._pass_on(path)


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "mastra_nb.notebook.server_extension"}]


def _load_jupyter_server_extension(server: Any) -> None:
    base = url_path_join(server.web_app.settings["base_url"], "mastra")
    given = {"projects": Projects(Path(server.root_dir))}
    server.web_app.add_handlers(
        ".*$",
        [
            (url_path_join(base, r"ask/([a-z_]+)"), Ask, given),
            (url_path_join(base, r"(api/.*|health|docs)"), Rest, given),
        ],
    )
