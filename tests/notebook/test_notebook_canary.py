"""A key that is really sent to a server, which sends it back wherever it can."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.notebook.conftest import Start

CANARY = "sk-canary-0123456789abcdefXYZ"


class _Echo(BaseHTTPRequestHandler):
    """Answers `good`; refuses everything else, and says with which key it was asked."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        seen = self.headers["authorization"]
        self.server.seen.append(seen)  # type: ignore[attr-defined]
        if request["model"] == "good":
            chunk = {
                "choices": [{"index": 0, "delta": {"content": "fine"}, "finish_reason": "stop"}]
            }
            body, status, kind = (
                f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n",
                200,
                "event-stream",
            )
        else:
            error = {"error": {"message": f"Incorrect API key provided: {seen}", "code": "bad"}}
            body, status, kind = json.dumps(error), 401, "json"
        self.send_response(status)
        self.send_header("content-type", f"text/{kind}" if status == 200 else f"application/{kind}")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        return None


@pytest.fixture
def echo() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Echo) as server:
        server.seen = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_key_that_is_used_appears_nowhere(start: Start, echo: ThreadingHTTPServer) -> None:
    url = f"http://127.0.0.1:{echo.server_port}/v1"
    kernel = start(OPENAI_API_KEY=CANARY, OPENAI_BASE_URL=url, LOG_LEVEL="debug")
    (kernel.cwd / ".env").write_text(f"GROQ_API_KEY={CANARY}\n")
    outputs = [
        repr(kernel.run(code))
        for code in (
            "%load_ext mastra_nb\nfrom mastra_nb.config import *\nconfigure_logging(load_settings())",
            "%mastra replay record",
            "%%agent good -m openai/good --memory\nBe kind.",
            "%ask good Hello",
            "%%agent bad -m openai/bad\nBe kind.",
            "%ask bad Hello",
            "await bad.run('Hello')",
            "run = bad.run('Hello')\ntry:\n    run.result()\nexcept Exception as e:\n"
            "    print(repr(e), e, e.__dict__, e.details, e.__cause__, e.__context__)",
            "run, run.log.events, run.view, good, good.model, bad._model(None).__dict__",
            "import pickle; print(pickle.dumps(e) if 'e' in dir() else '')",
            "%mastra",
            "%mastra models",
            "%mastra run",
            "%mastra runs all",
            "secret('OPENAI_API_KEY', 'GROQ_API_KEY'), load_settings()",
            "get_logger().error('the key is %s', secret('OPENAI_API_KEY').reveal())",
        )
    ]
    kernel.close()
    assert f"Bearer {CANARY}" in echo.seen, "the key was never sent: the test would prove nothing"
    assert "fine" in "".join(outputs)
    for output in outputs:
        assert CANARY not in output
    for path in kernel.cwd.rglob("*"):
        if path.is_file() and path.name != ".env":
            assert CANARY.encode() not in path.read_bytes(), path
