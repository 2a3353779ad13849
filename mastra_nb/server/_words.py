"""Our values in Mastra's words."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from mastra_nb.events import ErrorInfo
from mastra_nb.messages import Finish, Usage

Json = dict[str, Any]


def ms(at: float) -> int:
    return round(at * 1000)


def seconds(at: datetime) -> float:
    """Since the epoch; a time without a zone is in UTC."""
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def finish_of(finish: Finish | None) -> str:
    return "other" if finish == "pause" else str(finish or "")


def usage_of(usage: Usage) -> Json:
    return {
        "inputTokens": usage.input,
        "outputTokens": usage.output,
        "totalTokens": usage.total,
        "reasoningTokens": usage.reasoning,
        "cachedInputTokens": usage.cached,
        "cacheCreationInputTokens": usage.cache_write,
    }


def tool_error(error: ErrorInfo) -> Json:
    return {
        "name": error.code,
        "message": error.message,
        "id": error.code,
        "domain": "TOOL",
        "category": "USER",
        "details": {},
    }


def error_info(error: BaseException) -> ErrorInfo:
    """What a client is told: our errors are written to be read, others keep their text."""
    code = getattr(error, "code", None)
    if isinstance(code, str) and hasattr(error, "message"):
        return ErrorInfo(code=code, message=str(error.message), hint=getattr(error, "hint", ""))
    return ErrorInfo(code="error", message="the run failed")


def text_of(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def json_schema(schema: Mapping[str, Any] | None) -> str:
    """A JSON schema as Mastra's routes have it: superjson text."""
    return text_of({"json": dict(schema or {})})
