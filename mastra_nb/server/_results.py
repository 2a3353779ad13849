"""Runs at rest, and what made them, as Mastra's clients read them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from mastra_nb.agents import Agent
from mastra_nb.errors import SchemaError
from mastra_nb.runs import Run
from mastra_nb.schema import Schema, hints_of
from mastra_nb.server._routes import Json
from mastra_nb.server._turns import iso
from mastra_nb.server._words import json_schema, usage_of
from mastra_nb.server.wire import CLIENT_TOOL, AgentWire
from mastra_nb.server.workflow_wire import STATUS, WorkflowWire, error_of, step_id
from mastra_nb.steps import Step
from mastra_nb.storage import RunRow
from mastra_nb.tools import Tool, ToolLike
from mastra_nb.workflows import Workflow


def trace_ids(run: str) -> Json:
    """Ids in OpenTelemetry's form, which always are the same for a run."""
    digest = hashlib.sha256(run.encode()).hexdigest()
    return {"traceId": digest[:32], "spanId": digest[32:48]}


# Agents


def agent_result(run: Run[Any], said: AgentWire) -> Json:
    """What `generate` answers."""
    last = said.steps[-1] if said.steps else {}
    reason = said.finish or str(last.get("finishReason", "stop"))
    pending = [p for p in said.pending.values() if p["reason"] != CLIENT_TOOL]
    waits = {p.get("toolCallId") for p in said.pending.values() if p["reason"] == CLIENT_TOOL}
    calls = said.tool_calls
    if waits:
        calls = [c for c in calls if c["payload"]["toolCallId"] in waits]
    usage = usage_of(said.usage)
    out: Json = {
        "text": said.text,
        "usage": usage,
        "totalUsage": usage,
        "steps": said.steps,
        "finishReason": reason,
        "warnings": [],
        "request": {},
        "reasoning": [{"type": "text", "text": said.reasoning}] if said.reasoning else [],
        "reasoningText": said.reasoning,
        "toolCalls": calls,
        "toolResults": said.tool_results,
        "sources": [],
        "files": said.files,
        "response": {**said.about(), "messages": said.core(), "uiMessages": [], "dbMessages": []},
        "usedFallbackValue": False,
        "runId": run.id,
        "messages": [],
        "rememberedMessages": [],
        **trace_ids(run.id),
    }
    if pending:
        first = {k: v for k, v in pending[0].items() if k not in ("reason", "suspendPayload")}
        out["suspendPayload"] = first
        out["resumeSchema"] = first["resumeSchema"]
        if pending[0]["reason"] != "approval":
            out["suspendPayload"] = first | {"suspendPayload": pending[0]["suspendPayload"]}
    if said.error is not None and said.error.code == "run.blocked":
        out["tripwire"] = {"reason": said.error.message, "processorId": "", "retry": False}
    if not isinstance(said.output, str | None):
        out["object"] = said.output
    return out


def model_of(agent: Agent[Any]) -> tuple[str, str]:
    """(provider, model) as far as it is known without a run."""
    model = agent.model
    if isinstance(model, list | tuple) and model:
        model = model[0]
    if model is None and agent.services is not None:
        model = agent.services.settings.model
    name = model if isinstance(model, str) else getattr(model, "name", "")
    name = name if isinstance(name, str) else ""
    provider, _, id = name.partition("/")
    return provider, id or provider


def tool_json(tool: ToolLike, *, schemas: bool = True) -> Json:
    spec = tool.spec
    out: Json = {
        "id": spec.name,
        "description": spec.description,
        "requireApproval": bool(getattr(tool, "needs_approval", False)),
    }
    if schemas:
        out["inputSchema"] = json_schema(spec.parameters)
        if (gives := _output_schema(tool)) is not None:
            out["outputSchema"] = json_schema(gives)
    return out


def _output_schema(tool: ToolLike) -> Json | None:
    if not isinstance(tool, Tool):
        return None
    try:
        gives = hints_of(tool.fn, tool.name, None, None).get("return", Any)
    except SchemaError:
        return None
    return _schema_of(gives) or None


def tools_of(agent: Agent[Any]) -> dict[str, ToolLike]:
    return {} if callable(agent.tools) else agent.toolset


def agent_json(agent: Agent[Any], *, partial: bool = False) -> Json:
    provider, model = model_of(agent)
    told = agent.instructions
    tools, agents, workflows = dict[str, Json](), dict[str, Json](), dict[str, Json]()
    given = () if callable(agent.tools) else agent.tools
    for each in given:
        if isinstance(each, Agent):
            agents[each.name] = {"id": each.name, "name": each.name}
        elif isinstance(each, Workflow):
            workflows[each.name] = {"name": each.name, "steps": {}}
    for name, tool in tools_of(agent).items():
        tools[name] = tool_json(tool, schemas=not partial)
    return {
        "id": agent.name,
        "name": agent.name,
        "description": agent.description,
        "instructions": told if isinstance(told, str) else "",
        "agents": agents,
        "tools": tools,
        "workflows": workflows,
        "skills": [],
        "workspaceTools": [],
        "browserTools": [],
        "hasBrowser": False,
        "inputProcessors": [],
        "outputProcessors": [],
        "provider": provider,
        "modelId": model,
        "modelVersion": "v2",
        "supportsMemory": agent.memory is not None,
        "defaultOptions": {},
        "defaultGenerateOptionsLegacy": {},
        "defaultStreamOptionsLegacy": {},
        "source": "code",
        "hasDraft": False,
    }


# Workflows


def workflow_json(workflow: Workflow[Any], *, partial: bool = False) -> Json:
    nodes = workflow.outline["nodes"]
    out: Json = {
        "name": workflow.name,
        "description": workflow.description,
        "origin": "code",
        "isProcessorWorkflow": False,
        "stepGraph": [*map(graph_entry, nodes)],
        "options": {"validateInputs": True, "emitStepEvents": True},
        "steps": {},
        "allSteps": {},
    }
    steps = steps_of(workflow)
    if partial:
        return out | {"stepCount": len(steps)}
    nested = steps_of(workflow, deep=True)
    out["steps"] = {id: _step_json(id, step) for id, step in steps.items()}
    out["allSteps"] = {
        id: {**_step_json(id, step), "isWorkflow": isinstance(step.fn, Workflow)}
        for id, step in nested.items()
    }
    out["inputSchema"] = json_schema(workflow.input_schema)
    out["outputSchema"] = json_schema(_schema_of(workflow.output_type))
    if workflow.state_schema:
        out["stateSchema"] = json_schema(workflow.state_schema)
    return out


def steps_of(workflow: Workflow[Any], *, deep: bool = False, prefix: str = "") -> dict[str, Any]:
    """Its steps by id; of a body those that its source shows."""
    out: dict[str, Any] = {}
    for step in workflow.steps:
        out[f"{prefix}{step.name}"] = step
        if deep and isinstance(step.fn, Workflow):
            out |= steps_of(step.fn, deep=True, prefix=f"{prefix}{step.name}.")
    return out


def _step_json(id: str, step: Step[Any]) -> Json:
    return {
        "id": id,
        "description": step.description,
        "inputSchema": json_schema(_schema_of(step.input)),
        "outputSchema": json_schema(_schema_of(step.output)),
    }


def _schema_of(type_: Any) -> Json:
    try:
        return Schema[Any](type_).json
    except SchemaError:
        return {}  # what has no JSON schema takes anything


def graph_entry(node: Mapping[str, Any]) -> Json:
    """A node of an outline as an entry of Mastra's step graph."""
    id, kind = str(node.get("id", "")), node.get("type")
    inner = [n for n in node.get("nodes") or () if isinstance(n, Mapping)]
    match kind:
        case "parallel":
            return {"type": "parallel", "steps": [_chain(arm) for arm in node.get("arms") or ()]}
        case "branch":
            arms = [a for a in node.get("arms") or () if isinstance(a, Mapping)]
            return {
                "type": "conditional",
                "steps": [_chain(arm.get("nodes") or ()) for arm in arms],
                "serializedConditions": [
                    {"id": f"{id}-{n}-condition", "fn": str(arm.get("when", ""))}
                    for n, arm in enumerate(arms)
                ],
            }
        case "loop":
            how = "dountil" if node.get("how") == "until" else "dowhile"
            condition = {"id": f"{id}-condition", "fn": str(node.get("when", ""))}
            entry: Json = {"type": "loop", "step": _chain(inner), "loopType": how}
            return entry | {"serializedCondition": condition}
        case "foreach":
            opts = {"concurrency": node.get("concurrency", 1)}
            return {"type": "foreach", "step": _chain(inner), "opts": opts}
        case "map":
            return {"type": "mapping", "id": id, "mapConfig": str(node.get("label", ""))}
        case "sleep":
            return {"type": "sleep", "id": id, "fn": str(node.get("label", ""))}
        case "workflow" | "graph":
            flow = [*map(graph_entry, inner)]
            entry = {"type": "workflow", "id": id, "workflowId": id, "serializedStepFlow": flow}
            return entry if kind == "workflow" else entry | {"description": "a graph of steps"}
        case _:
            step: Json = {"id": id, "canSuspend": kind in ("ask", "event")}
            if node.get("about"):
                step["description"] = node["about"]
            return {"type": "step", "step": step}


def _chain(nodes: Iterable[Mapping[str, Any]]) -> Json:
    found = [*map(graph_entry, nodes)]
    if len(found) == 1:
        return found[0]
    id = found[0].get("id", "steps") if found else "steps"
    return {"type": "workflow", "id": id, "workflowId": id, "serializedStepFlow": found}


def workflow_result(run: Run[Any], said: Any) -> Json:
    """What `start-async` and its kind answer."""
    out: Json = {"status": _status(run, said), "runId": run.id, **trace_ids(run.id)}
    if not isinstance(said, WorkflowWire):
        return out | {"status": "failed", "error": _failure(run), "steps": {}, "input": run.asked}
    out |= {
        "input": said.input,
        "steps": {"input": said.input, **_records(said)},
        "stepExecutionPath": said.order,
        "state": said.state,
    }
    if out["status"] == "success":
        out["result"] = said.output
    elif out["status"] == "suspended":
        out["suspended"] = [id.split(".") for id in _waiting(said)]
        out["suspendPayload"] = {id: asked.payload for id, asked in _waiting(said).items()}
    elif said.error is not None or run.failure is not None:
        out["error"] = error_of(said.error) if said.error is not None else _failure(run)
    return out


def _failure(run: Run[Any]) -> Json:
    error = run.failure
    return {"name": getattr(error, "code", "Error"), "message": getattr(error, "message", "failed")}


def _status(run: Run[Any], said: Any) -> str:
    return STATUS[run.status]


def _waiting(said: WorkflowWire) -> dict[str, Any]:
    return {step_id(path.partition("~")[0], said.path): a for path, a in said.waiting.items()}


def _records(said: WorkflowWire) -> dict[str, Json]:
    return {
        id: {k: v for k, v in record.items() if not k.startswith("_")}
        for id, record in said.steps.items()
    }


def run_json(row: RunRow | None, run: Run[Any], said: Any, outline: Mapping[str, Any]) -> Json:
    """A workflow run by its id."""
    created = row.created if row is not None else getattr(said, "began", 0.0)
    updated = row.updated if row is not None else created
    out: Json = {
        "runId": run.id,
        "workflowName": run.name,
        "resourceId": run.resource,
        "createdAt": iso(created),
        "updatedAt": iso(updated),
        "status": _status(run, said),
        "payload": run.asked,
        "steps": {},
        "activeStepsPath": {},
        "serializedStepGraph": [*map(graph_entry, outline.get("nodes", ()))],
        "suspendedPaths": {},
        "resumeLabels": {},
        "waitingPaths": {},
    }
    if isinstance(said, WorkflowWire):
        records = _records(said)
        out["steps"] = records
        active = [id for id, r in records.items() if r["status"] in ("running", "waiting")]
        out["activeStepsPath"] = {id: [said.order.index(id)] for id in active}
        out["suspendedPaths"] = {
            id: [said.order.index(id)] if id in said.order else [0] for id in _waiting(said)
        }
        out["state"] = said.state
        if out["status"] == "success":
            out["result"] = said.output
        if said.error is not None:
            out["error"] = error_of(said.error)
    return out


def page(items: list[Any], *, page: int, per_page: int | None, total: int, key: str) -> Json:
    """Mastra's flat form of a page."""
    more = per_page is not None and (page + 1) * per_page < total
    size: Any = per_page if per_page is not None else False
    return {key: items, "total": total, "page": page, "perPage": size, "hasMore": more}


def sliced(found: list[Any], number: int, size: int | None) -> list[Any]:
    return found if size is None else found[number * size : (number + 1) * size]
