"""Serves the application of these tests: python -m tests.clients.serve PORT."""

from __future__ import annotations

import sys

import uvicorn

from mastra_nb.server.application import create_app
from tests.clients.application import app

if __name__ == "__main__":
    uvicorn.run(create_app(app), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
