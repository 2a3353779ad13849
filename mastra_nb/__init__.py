"""mastra_nb: agents in notebooks and out of them.

    from mastra_nb import Agent, tool

Names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mastra_nb.agents import Agent as Agent
    from mastra_nb.app import Mastra as Mastra
    from mastra_nb.app import dashboard as dashboard
    from mastra_nb.app import open_store as open_store
    from mastra_nb.batch.batches import run_batch as run_batch
    from mastra_nb.batch.report import BatchReport as BatchReport
    from mastra_nb.config import Settings as Settings
    from mastra_nb.config import load_settings as load_settings
    from mastra_nb.context import Context as Context
    from mastra_nb.errors import Blocked as Blocked
    from mastra_nb.errors import MastraError as MastraError
    from mastra_nb.errors import RunSuspended as RunSuspended
    from mastra_nb.errors import ToolRetry as ToolRetry
    from mastra_nb.events import Event as Event
    from mastra_nb.language import model as model
    from mastra_nb.limits import Limits as Limits
    from mastra_nb.loop import has_tool_call as has_tool_call
    from mastra_nb.loop import step_count_is as step_count_is
    from mastra_nb.mcp.client import MCPClient as MCPClient
    from mastra_nb.memory.memory import Memory as Memory
    from mastra_nb.messages import Media as Media
    from mastra_nb.messages import Message as Message
    from mastra_nb.messages import Text as Text
    from mastra_nb.messages import Usage as Usage
    from mastra_nb.messages import assistant as assistant
    from mastra_nb.messages import system as system
    from mastra_nb.messages import user as user
    from mastra_nb.models import ModelSettings as ModelSettings
    from mastra_nb.processors import Processor as Processor
    from mastra_nb.rag.chunking import Chunking as Chunking
    from mastra_nb.rag.documents import Document as Document
    from mastra_nb.rag.index import Index as Index
    from mastra_nb.rag.loading import load as load
    from mastra_nb.rag.rerank import rerank as rerank
    from mastra_nb.rag.tool import citations as citations
    from mastra_nb.recording import record as record
    from mastra_nb.runs import Run as Run
    from mastra_nb.tools import Tool as Tool
    from mastra_nb.tools import tool as tool
    from mastra_nb.workflows import Step as Step
    from mastra_nb.workflows import Workflow as Workflow
    from mastra_nb.workflows import otherwise as otherwise
    from mastra_nb.workflows import step as step
    from mastra_nb.workflows import suspend as suspend
    from mastra_nb.workflows import workflow as workflow

__version__ = "0.1.0"

_WHERE = {
    "Agent": "agents", "BatchReport": "batch.report", "Blocked": "errors",
    "Chunking": "rag.chunking", "Context": "context",
    "Document": "rag.documents", "Event": "events", "Index": "rag.index",
    "Limits": "limits", "MCPClient": "mcp.client", "Mastra": "app", "MastraError": "errors",
    "Media": "messages", "Memory": "memory.memory", "Message": "messages",
    "ModelSettings": "models", "Processor": "processors", "Run": "runs",
    "RunSuspended": "errors", "Settings": "config",
    "Text": "messages", "Tool": "tools", "ToolRetry": "errors", "Usage": "messages",
    "assistant": "messages", "citations": "rag.tool", "dashboard": "app",
    "has_tool_call": "loop",
    "load": "rag.loading", "load_settings": "config", "model": "language", "open_store": "app",
    "record": "recording", "rerank": "rag.rerank",
    "run_batch": "batch.batches", "step_count_is": "loop", "system": "messages",
    "Step": "workflows", "Workflow": "workflows", "otherwise": "workflows", "step": "workflows",
    "suspend": "workflows", "tool": "tools", "user": "messages", "workflow": "workflows",
}  # fmt: skip

__all__ = [*sorted(_WHERE), "__version__", "load_ipython_extension", "unload_ipython_extension"]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    where = _WHERE.get(name)
    if where is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{where}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load_ipython_extension(ipython: Any) -> None:
    """`%load_ext mastra_nb`"""
    import_module(f"{__name__}.notebook").load_ipython_extension(ipython)


def unload_ipython_extension(ipython: Any) -> None:
    import_module(f"{__name__}.notebook").unload_ipython_extension(ipython)
