"""A front end's question and its answer, as messages.

{id, ask, args} is answered by {id, ok} or {id, error: {code, message, hint}}.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from mastra_nb._escape import valid
from mastra_nb.errors import MastraError, UsageError
from mastra_nb.notebook._errors import told

Ask = Callable[[str, Mapping[str, Any]], Awaitable[Any]]

_log = logging.getLogger(__name__)


async def answered(ask: Ask, data: Any) -> dict[str, Any]:
    """The message that goes back, whatever came."""
    id = data.get("id") if isinstance(data, dict) else None
    try:
        said = {"ok": msgspec.to_builtins(await ask(*_question(data)))}
    except MastraError as error:
        said = {"error": told(error)}
    except Exception as error:
        _log.exception("a front end's question failed")
        said = {"error": told(UsageError(f"{type(error).__name__}: {error}"))}
    message = {"id": id, **said}
    try:
        json.dumps(message, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        # What has a lone surrogate cannot be sent.
        message = json.loads(valid(json.dumps(message, ensure_ascii=False)))
    return message


def _question(data: Any) -> tuple[str, Mapping[str, Any]]:
    name = data.get("ask") if isinstance(data, dict) else None
    args = data.get("args", {}) if isinstance(data, dict) else None
    if not isinstance(name, str) or not isinstance(args, dict):
        raise UsageError("a message is {id, ask, args}")
    return name, args
