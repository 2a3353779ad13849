"""Every method of @mastra/client-js that the server answers, asked by the client itself.

`make clients` installs the client (tests/clients/package-lock.json) and runs this.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.clients.conftest import Served, Told, text, types

TURN = ["start", "step-start", "text-start", "text-delta", "text-end", "step-finish", "finish"]
CALL = [
    "start",
    "step-start",
    "tool-call-input-streaming-start",
    "tool-call-delta",
    "tool-call-input-streaming-end",
    "tool-call",
]
# What comes after the calls of a step.
ANSWER = ["step-finish", *TURN[1:]]
WF = ["workflow-start", "workflow-finish"]
# The client joins a stream that begins with a result to no call; Mastra's own server is told the
# same. Its chunks come nevertheless.
KNOWN = "tool_result must be preceded by a tool_call"


@pytest.fixture(scope="module")
def agents(served: Served) -> Told:
    return Told(served.run("agents.mjs"))


@pytest.fixture(scope="module")
def flows(served: Served) -> Told:
    return Told(served.run("workflows.mjs"))


@pytest.fixture(scope="module")
def data(served: Served) -> Told:
    return Told(served.run("data.mjs"))


def last(chunks: list[dict[str, Any]]) -> Any:
    return chunks[-1]["payload"]


# Agents: what they are


def test_agents_are_listed_by_id_and_without_schemas_if_partial(agents: Told) -> None:
    found = agents("list")
    assert set(found["all"]) == set(found["partial"]) >= {"weather-agent", "plain", "boss"}
    one = found["all"]["weather-agent"]
    assert one["name"] == "weather-agent"
    assert one["description"] == "Knows the weather."
    assert one["instructions"] == "You are helpful."
    assert one["supportsMemory"] is True
    assert "inputSchema" in one["tools"]["weatherTool"]
    assert "inputSchema" not in found["partial"]["weather-agent"]["tools"]["weatherTool"]
    assert found["all"]["boss"]["agents"] == {"plain": {"id": "plain", "name": "plain"}}
    assert found["all"]["approver"]["tools"]["pay"]["requireApproval"] is True


def test_one_agent_has_its_details_and_an_unknown_one_is_404(agents: Told) -> None:
    found = agents("details")
    assert found["one"]["name"] == "weather-agent"
    assert (found["one"]["provider"], found["one"]["modelId"]) == ("scripted", "model")
    assert found["unknown"]["status"] == 404
    assert found["unknown"]["body"]["error"] == "Agent with name nobody not found"


def test_the_providers_are_listed(agents: Told) -> None:
    assert {"openai", "anthropic"} <= {p["id"] for p in agents("providers")["providers"]}


# Generate


def test_generate_gives_text_steps_calls_and_usage(agents: Told) -> None:
    result = agents("generate")
    assert result["text"] == "It is 21 degrees in Oslo."
    assert result["finishReason"] == "stop"
    assert result["usage"]["totalTokens"] == result["totalUsage"]["totalTokens"] == 27
    assert [s["stepType"] for s in result["steps"]] == ["initial", "tool-result"]
    (call,), (gave,) = result["toolCalls"], result["toolResults"]
    assert call["payload"]["toolName"] == "weatherTool"
    assert call["payload"]["args"] == {"city": "Oslo"}
    assert gave["payload"]["result"] == {"city": "Oslo", "degrees": 21}
    assert [m["role"] for m in result["response"]["messages"]] == ["assistant", "tool", "assistant"]
    assert len(result["traceId"]) == 32
    assert result["runId"]


def test_generate_takes_a_list_of_messages(agents: Told) -> None:
    assert agents("generateMessages")["text"] == "Hello there, how are you?"


def test_a_thread_remembers_and_other_calls_do_not(agents: Told) -> None:
    assert agents("generateInThread")["text"] == "You said 2 things, the first was: One"
    # The agent of approvals has a memory, and has been asked by several scenarios.
    assert text(agents("approveStream")["went"]) == "Told: {'paid': 3}"


def test_a_run_begins_a_thread_with_its_title_and_metadata(agents: Told) -> None:
    found = agents("generateTitled")
    assert (found["id"], found["resourceId"]) == ("thread-titled", "ada")
    assert found["title"] == "Greetings"
    assert found["metadata"]["tag"] == "x"


def test_a_run_of_my_own_id_ends_after_the_steps_i_allow(agents: Told) -> None:
    result = agents("generateOptions")
    assert result["runId"] == "run-of-mine"
    assert result["finishReason"] == "tool-calls"
    assert len(result["steps"]) == 1
    assert result["toolResults"][0]["payload"]["result"]["degrees"] == 21


def test_the_same_run_id_again_is_the_same_run(agents: Told) -> None:
    found = agents("generateAgain")
    assert found["first"]["runId"] == found["second"]["runId"] == "twice"
    assert found["first"]["response"] == found["second"]["response"]


def test_a_failed_run_is_no_5xx_which_the_client_would_send_again(agents: Told) -> None:
    assert agents("failing")["status"] == 424
    chunks = agents("failingStream")
    assert types(chunks) == ["start", "step-start", "error", "step-finish", "finish"]
    assert last(chunks)["stepResult"]["reason"] == "error"


def test_a_tool_that_fails_is_told_and_the_run_goes_on(agents: Told) -> None:
    assert agents("unlucky")["text"] == "It did not work."
    chunks = agents("unluckyStream")
    assert types(chunks) == [*CALL, "tool-error", *ANSWER]
    error = next(c for c in chunks if c["type"] == "tool-error")["payload"]["error"]
    assert "the pipe is cold" in error["message"]


def test_what_cannot_be_asked_is_400(agents: Told) -> None:
    found = agents("badRequests")
    assert {n: f["status"] for n, f in found.items()} == {
        "messages": 400,
        "none": 400,
        "unknown": 404,
        "steps": 400,
    }
    assert found["steps"]["body"]["issues"][0]["field"] == "maxSteps"


# Stream


def test_chunks_of_a_turn_with_a_tool_come_in_order(agents: Told) -> None:
    chunks = agents("stream")
    assert types(chunks) == [*CALL, "tool-result", *ANSWER]
    assert text(chunks) == "It is 21 degrees in Oslo."
    assert len({c["runId"] for c in chunks}) == 1
    assert {c["from"] for c in chunks} == {"AGENT"}
    end = last(chunks)
    assert end["stepResult"]["reason"] == "stop"
    assert end["usage"]["totalTokens"] == 27
    finished = [c["payload"] for c in chunks if c["type"] == "step-finish"]
    assert [f["stepResult"]["isContinued"] for f in finished] == [True, False]
    assert agents.noise("stream") == []


def test_a_stream_is_one_of_events(agents: Told) -> None:
    found = agents("streamPlain")
    assert found["type"].startswith("text/event-stream")
    assert types(found["chunks"]) == TURN
    assert found["chunks"][0]["payload"]["id"] == "plain"
    assert {c["runId"] for c in found["chunks"]} == {"plain-run"}
    assert sum(c["type"] == "text-delta" for c in found["chunks"]) > 3


def test_reasoning_comes_before_the_text(agents: Told) -> None:
    thought = ["reasoning-start", "reasoning-delta", "reasoning-end"]
    assert types(agents("streamReasoning")) == [*TURN[:2], *thought, *TURN[2:]]


def test_until_idle_is_the_same_stream(agents: Told) -> None:
    assert types(agents("streamUntilIdle")) == TURN


def test_what_an_agent_within_an_agent_says_is_output_of_its_tool(agents: Told) -> None:
    found = agents("subAgent")
    assert found["result"]["text"] == "He said hello."
    inner = [c["payload"]["output"] for c in found["chunks"] if c["type"] == "tool-output"]
    assert types(inner) == TURN
    assert text(inner) == "Hello there, how are you?"
    outer = [c for c in found["chunks"] if c["type"] != "tool-output"]
    assert types(outer) == [*CALL, "tool-result", *ANSWER]
    assert text(outer) == "He said hello."


def test_structured_output_is_an_object(agents: Told) -> None:
    found, value = agents("structured"), {"city": "Oslo", "degrees": 21}
    assert found["result"]["object"] == value
    (made,) = [c for c in found["chunks"] if c["type"] == "object-result"]
    assert made["object"] == value
    assert types(found["chunks"]) == [*TURN[:-1], "object-result", "finish"]


# The client's own tools


def test_a_tool_of_the_client_runs_there_and_generate_goes_on(agents: Told) -> None:
    found = agents("clientToolGenerate")
    assert found["calls"] == [{"id": "browserTime", "input": {"zone": "UTC"}}]
    assert found["result"]["text"] == "Told: {'browserTime': 1}"
    assert found["result"]["finishReason"] == "stop"


def test_a_tool_of_the_client_runs_there_and_the_stream_goes_on(agents: Told) -> None:
    found = agents("clientToolStream")
    assert len(found["calls"]) == 1
    # The result in the middle is what the client itself puts in.
    assert types(found["chunks"]) == [*CALL, "step-finish", "finish", "tool-result", *TURN]
    reasons = [
        c["payload"]["stepResult"]["reason"] for c in found["chunks"] if c["type"] == "finish"
    ]
    assert reasons == ["tool-calls", "stop"]
    assert text(found["chunks"]) == "Told: {'browserTime': 1}"
    assert agents.noise("clientToolStream") == []


def test_a_tool_of_the_client_in_a_thread_is_kept_with_its_result(agents: Told) -> None:
    found = agents("clientToolInThread")
    assert len(found["calls"]) == 2
    assert found["result"]["text"] == "Told: {'browserTime': 1}"
    assert text(found["chunks"]).endswith("{'browserTime': 2}")
    messages = found["kept"]["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant"] * 2
    invoked = [
        part["toolInvocation"]
        for m in messages
        for part in m["content"]["parts"]
        if part["type"] == "tool-invocation"
    ]
    assert [i["result"] for i in invoked] == [{"browserTime": 1}, {"browserTime": 2}]


def test_two_tools_of_the_client_in_one_step(agents: Told) -> None:
    found = agents("clientToolsTwo")
    assert [c["id"] for c in found["calls"]] == ["browserTime", "browserPlace"] * 2
    assert found["result"]["text"] == "Told: {'browserTime': 1}; {'browserPlace': 2}"
    assert text(found["chunks"]) == "Told: {'browserTime': 3}; {'browserPlace': 4}"
    assert agents.noise("clientToolsTwo") == []


def test_a_tool_of_the_client_step_after_step(agents: Told) -> None:
    found = agents("clientToolsChain")
    assert [c["id"] for c in found["calls"]] == ["browserTime", "browserPlace"] * 2
    assert found["result"]["text"] == "Told: {'browserTime': 1}; {'browserPlace': 2}"
    assert text(found["chunks"]) == "Told: {'browserTime': 3}; {'browserPlace': 4}"


# Approvals and questions


def test_generate_waits_for_an_approval(agents: Told) -> None:
    found = agents("approveGenerate")
    asks = found["asks"]
    assert asks["finishReason"] == "suspended"
    assert asks["suspendPayload"]["toolName"] == "pay"
    assert asks["suspendPayload"]["args"] == {"amount": 3}
    assert '"approved"' in asks["resumeSchema"]
    assert found["went"]["text"] == "Told: {'paid': 3}"
    # The client sends again what it had no answer to.
    assert found["again"]["gave"]["text"] == "Told: {'paid': 3}"


def test_generate_with_a_declined_approval(agents: Told) -> None:
    went = agents("declineGenerate")["went"]
    assert "too much" in went["text"]
    assert went["finishReason"] == "stop"


def test_a_stream_waits_for_an_approval(agents: Told) -> None:
    found = agents("approveStream")
    assert types(found["asks"]) == [*CALL, "tool-call-approval"]
    assert types(found["went"]) == ["tool-result", *ANSWER]
    assert found["went"][0]["payload"]["result"] == {"paid": 3}
    assert all(KNOWN in said for said in agents.noise("approveStream"))


def test_a_stream_with_a_declined_approval_which_counts(agents: Told) -> None:
    found = agents("declineStream")
    assert types(found["went"]) == ["tool-output-denied", *ANSWER]
    assert found["went"][0]["payload"]["approval"]["approved"] is False
    assert found["then"]["status"] == 409


def test_a_client_may_ask_to_approve_every_call(agents: Told) -> None:
    found = agents("requireApproval")
    assert types(found["asks"]) == [*CALL, "tool-call-approval"]
    assert found["went"][0]["payload"]["result"]["degrees"] == 21


def test_a_tool_that_asks_is_answered(agents: Told) -> None:
    found = agents("resumeStream")
    assert types(found["asks"]) == [*CALL, "tool-call-suspended"]
    asked = last(found["asks"])
    assert asked["suspendPayload"] == {"ask": "When is table 7 needed?"}
    assert '"time"' in asked["resumeSchema"]
    assert found["wrong"]["status"] == 400
    assert types(found["went"]) == ["tool-result", *ANSWER]
    assert text(found["went"]) == "Told: table 7 at 19:00"
    assert text(agents("resumeStreamUntilIdle")) == "Told: table 7 at 20:00"


def test_runs_that_wait_are_listed_and_answered_in_their_thread(agents: Told) -> None:
    found = agents("suspendedRuns")
    (run,) = found["found"]["runs"]
    assert (run["threadId"], run["resourceId"]) == ("thread-suspended", "ada")
    assert run["toolCalls"][0]["requiresApproval"] is True
    assert found["none"] == {"runs": [], "total": 0}
    assert found["sent"]["accepted"] is True
    assert found["left"] == "none"


# Going away and coming back


def test_a_run_goes_on_without_its_reader_and_is_read_from_an_offset(agents: Told) -> None:
    found = agents("observe")
    assert [*found["seen"], *found["rest"]] == found["all"]
    assert types(found["all"]) == TURN
    assert text(found["all"]) == "one two three four five six"
    assert text(agents("aborted")) == "one two three four five six"


def test_messages_signals_and_the_runs_of_a_thread(agents: Told) -> None:
    found = agents("thread")
    runs = [found[way]["runId"] for way in ("sent", "queued", "signalled")]
    asked = ["data-user-message", *TURN[1:]]
    for run, said in zip(runs, ("Hello", "And again", "A signal"), strict=True):
        heard = [c for c in found["heard"] if c["runId"] == run]
        assert types(heard) == ["start", *asked]
        assert heard[1]["data"]["contents"] == said
    first = next(c for c in found["heard"] if c["type"] == "data-user-message")
    assert first["data"]["metadata"] == {"clientMessageId": "mine"}
    assert text(found["heard"]).endswith("You said 3 things, the first was: Hello")
    assert found["idle"] == {"aborted": False}


def test_the_run_of_a_thread_is_aborted(agents: Told) -> None:
    found = agents("abortThread")
    assert found["aborted"] == {"aborted": True}
    assert types(found["chunks"])[-2:] == ["abort", "finish"]
    assert "six" not in text(found["chunks"])


def test_networks_are_not_offered(agents: Told) -> None:
    assert agents("network")["status"] == 404


# Tools


def test_tools_are_listed_and_called(agents: Told) -> None:
    found = agents("tools")
    assert {"weatherTool", "pay", "book", "broken"} <= set(found["all"])
    assert found["one"]["id"] == "weatherTool"
    assert found["one"]["inputSchema"].startswith('{"json":')
    assert found["gave"] == {"city": "Rome", "degrees": 21}
    assert found["wrong"]["error"] is True
    assert "weatherTool" in found["wrong"]["message"]
    assert 400 <= found["failed"]["status"] < 500
    assert found["unknown"]["status"] == 404
    assert agents("agentTools")["tool"]["id"] == "weatherTool"
    assert agents("agentTools")["gave"] == {"city": "Rome", "degrees": 21}


# Workflows

RESULTS: dict[str, Any] = {
    "math-wf": 7,
    "loop-wf": [2, 4, 6],
    "nest-wf": 4,
    "agent-wf": "Nice to meet you.",
    "branch-wf": {"halve": 6},
    "parallel-wf": {"double": 10, "inc": 6},
    "sleep-wf": 11,
    "until-wf": 24,
}


def test_workflows_are_listed_with_their_graphs(flows: Told) -> None:
    found = flows("list")
    assert set(found["all"]) == set(found["partial"]) >= {*RESULTS, "hitl-wf", "fail-wf"}
    kinds = {id: found["all"][id]["stepGraph"][0]["type"] for id in found["all"]}
    assert kinds["branch-wf"] == "conditional"
    assert kinds["parallel-wf"] == "parallel"
    assert kinds["loop-wf"] == "foreach"
    assert kinds["until-wf"] == "loop"
    assert kinds["nest-wf"] == "workflow"
    assert found["all"]["sleep-wf"]["stepGraph"][1]["type"] == "sleep"
    assert found["partial"]["math-wf"]["stepCount"] == 2
    assert found["partial"]["math-wf"]["steps"] == {}
    assert {"math-wf", "math-wf.double", "halve"} <= set(found["all"]["nest-wf"]["allSteps"])


def test_one_workflow_has_its_schemas(flows: Told) -> None:
    found = flows("details")
    assert found["one"]["name"] == "math-wf"
    assert set(found["one"]["steps"]) == {"double", "inc"}
    assert found["schema"]["inputSchema"] == {"type": "integer"}
    assert found["unknown"]["status"] == 404


@pytest.mark.parametrize("id", RESULTS)
def test_start_async_gives_the_result(flows: Told, id: str) -> None:
    found = flows("startAsync")[id]
    assert found["status"] == "success"
    assert found["result"] == RESULTS[id]
    assert found["steps"]["input"] == found["input"]
    assert all(found["steps"][step]["status"] == "success" for step in found["stepExecutionPath"])


def test_start_async_of_a_workflow_that_fails(flows: Told) -> None:
    found = flows("startAsync")["fail-wf"]
    assert found["status"] == "failed"
    # The client makes an Error of it, of which JSON shows nothing more.
    assert found["steps"]["boom"]["status"] == "failed"
    assert "the boiler is cold" in found["steps"]["boom"]["error"]["message"]


def test_start_answers_at_once_and_the_run_is_found(flows: Told) -> None:
    found = flows("start")
    assert found["told"]["message"] == "Workflow run started"
    run = found["found"]
    assert (run["status"], run["result"], run["resourceId"]) == ("success", 7, "ada")
    assert "input" not in run["steps"]
    assert run["payload"] == 3


def test_a_run_of_one_id_is_started_once(flows: Told) -> None:
    found = flows("startTwice")
    assert found["first"] == found["second"]


def test_input_that_does_not_fit_is_400(flows: Told) -> None:
    found = flows("wrongInput")
    assert found["status"] == 400
    assert found["body"]["error"].startswith("Invalid input data: \n- ")


@pytest.mark.parametrize("id", RESULTS)
def test_chunks_of_a_workflow_come_in_order(flows: Told, id: str) -> None:
    chunks = flows("stream")[id]
    assert [c["type"] for c in (chunks[0], chunks[-1])] == WF
    assert last(chunks)["workflowStatus"] == "success"
    assert last(chunks)["finalWorkflowResult"] == RESULTS[id]
    open_: set[str] = set()
    for chunk in chunks[1:-1]:
        about = chunk["payload"]
        match chunk["type"]:
            case "workflow-step-start" | "workflow-step-waiting":
                assert about["id"] not in open_
                open_.add(about["id"])
            case "workflow-step-result":
                open_.remove(about["id"])
            case _:
                assert about.get("stepName") in open_
    assert not open_


def test_chunks_of_a_workflow_that_fails(flows: Told) -> None:
    chunks = flows("stream")["fail-wf"]
    failed = chunks[-2]["payload"]
    assert (failed["id"], failed["status"]) == ("boom", "failed")
    assert last(chunks)["workflowStatus"] == "failed"
    assert "finalWorkflowResult" not in last(chunks)


def test_items_nested_workflows_agents_and_sleep_in_a_stream(flows: Told) -> None:
    found = flows("stream")
    progress = [c["payload"] for c in found["loop-wf"] if c["type"] == "workflow-step-progress"]
    assert [p["completedCount"] for p in progress] == [1, 2, 3]
    assert {p["totalCount"] for p in progress} == {3}
    assert "math-wf.double" in {c["payload"].get("id") for c in found["nest-wf"]}
    said = [
        c["payload"]["output"] for c in found["agent-wf"] if c["type"] == "workflow-step-output"
    ]
    assert types(said) == TURN
    assert last(found["agent-wf"])["output"]["usage"]["totalTokens"] == 14
    assert "workflow-step-waiting" in types(found["sleep-wf"])
    rounds = [
        c["payload"]["metadata"] for c in found["until-wf"] if c["type"].endswith("step-start")
    ]
    assert [r["iterationCount"] for r in rounds] == [1, 2, 3]


def test_a_run_is_observed_from_its_start_and_from_an_offset(flows: Told) -> None:
    found = flows("observe")
    assert [*found["seen"], *found["rest"]] == found["all"] == found["same"]


def test_a_run_waits_for_a_person_and_goes_on(flows: Told) -> None:
    found = flows("hitl")
    asks = found["asks"]
    assert asks["status"] == "suspended"
    assert asks["suspended"] == [["human"]]
    assert asks["suspendPayload"] == {"human": {"question": "Is 6 good?"}}
    assert found["kept"]["suspendedPaths"] == {"human": [1]}
    assert found["step"]["status"] == 400
    assert found["wrong"]["status"] == 400
    assert found["went"]["result"] == {"n": 6, "ok": True}
    assert found["went"]["steps"]["human"]["resumePayload"] == {"ok": True}
    assert found["again"]["status"] == 409


def test_a_run_waits_in_a_stream_and_goes_on_in_another(flows: Told) -> None:
    found = flows("hitlStream")
    assert found["asks"][-2]["type"] == "workflow-step-suspended"
    assert last(found["asks"])["workflowStatus"] == "suspended"
    assert [c["type"] for c in found["went"]] == [
        "workflow-start",
        "workflow-step-start",
        "workflow-step-result",
        "workflow-finish",
    ]
    assert last(found["went"])["finalWorkflowResult"] == {"n": 6, "ok": True}


def test_an_answer_without_waiting(flows: Told) -> None:
    found = flows("hitlLater")
    assert found["resume"]["told"] == {"message": "Workflow run resumed"}
    assert found["resumeNoWait"]["told"] == {"runId": "hitl-resumeNoWait"}
    for way in ("resume", "resumeNoWait"):
        assert found[way]["found"]["result"] == {"n": 6, "ok": False}


def test_items_are_answered_one_by_one(flows: Told) -> None:
    found = flows("items")
    assert found["asks"]["status"] == found["half"]["status"] == "suspended"
    assert found["went"]["result"] == [3, 8]


def test_time_travel(flows: Told) -> None:
    found = flows("timeTravel")
    assert found["result"]["result"] == 41
    assert [c["type"] for c in (found["stream"][0], found["stream"][-1])] == WF
    assert last(found["stream"])["finalWorkflowResult"] == 42
    assert found["context"]["result"] == 71
    assert found["told"]["message"]
    assert found["unknown"]["status"] == 404


def test_a_run_that_was_not_cut_off_is_not_restarted(flows: Told) -> None:
    found = flows("restart")
    for way in ("wait", "not"):
        assert found[way]["status"] == 409
        assert found[way]["body"]["error"] == "This workflow run was not active"


def test_a_run_is_cancelled_on_its_way_and_while_it_waits(flows: Told) -> None:
    found = flows("cancel")
    assert found["told"] == {"message": "Workflow run cancelled"}
    assert [c["type"] for c in found["seen"]][-2:] == ["workflow-canceled", "workflow-finish"]
    assert last(found["seen"])["workflowStatus"] == "canceled"
    assert found["found"]["status"] == found["waited"]["status"] == "canceled"


def test_runs_are_listed_found_and_deleted(flows: Told) -> None:
    found = flows("runs")
    ids = [r["runId"] for r in found["all"]["runs"]]
    assert ids[:3] == ["run-c", "run-b", "run-a"]
    assert [r["runId"] for r in found["page"]["runs"]] == ids[1:2]
    assert [r["runId"] for r in found["limited"]["runs"]] == ids[1:3]
    assert [r["runId"] for r in found["of"]["runs"]] == ["run-b"]
    assert found["failed"]["runs"] == found["later"]["runs"] == []
    assert found["all"]["runs"][0]["snapshot"]["status"] == "success"
    assert found["one"]["result"] == 24
    assert "steps" not in found["fields"]
    assert found["gone"] == {"message": "Workflow run deleted"}
    assert found["missing"]["status"] == 404
    assert found["counts"]["until-wf"] == {"running": 0, "suspended": 0}


def test_an_unknown_run_is_404(flows: Told) -> None:
    assert {f["status"] for f in flows("unknownRun").values()} == {404}


# Memory


def test_threads_are_made_changed_listed_and_deleted(data: Told) -> None:
    found = data("threads")
    assert (found["made"]["id"], found["made"]["resourceId"]) == ("thread-made", "tess")
    assert found["got"]["title"] == "Made"
    assert (found["updated"]["title"], found["updated"]["metadata"]["n"]) == ("Changed", 2)
    page = found["all"]
    assert ([t["id"] for t in page["threads"]], page["total"]) == (["thread-made"], 2)
    assert (page["hasMore"], page["perPage"]) == (True, 1)
    assert [t["id"] for t in found["found"]["threads"]] == ["thread-made"]
    assert found["none"]["threads"] == []
    assert found["gone"] == {"result": "Thread deleted"}
    assert found["missing"]["status"] == 404
    assert found["missing"]["body"]["error"] == "Thread not found"


def test_messages_of_a_thread_are_read_cloned_and_deleted(data: Told) -> None:
    found = data("messages")
    asked, answered = found["all"]["messages"]
    assert (asked["role"], asked["content"]["content"]) == ("user", "How is it in Oslo?")
    kinds = [part["type"] for part in answered["content"]["parts"]]
    assert kinds == ["step-start", "tool-invocation", "step-start", "text"]
    assert answered["content"]["parts"][1]["toolInvocation"]["result"]["degrees"] == 21
    assert [m["id"] for m in found["some"]["messages"]] == [answered["id"]]
    assert found["cloned"]["thread"]["id"] == "thread-cloned"
    assert [m["role"] for m in found["copy"]["messages"]] == ["user", "assistant"]
    assert [m["role"] for m in found["newest"]["clonedMessages"]] == ["assistant"]
    assert found["deleted"]["success"] is True
    assert [m["id"] for m in found["left"]["messages"]] == [answered["id"]]


def test_a_thread_is_given_to_another(data: Told) -> None:
    found = data("transferred")
    assert found["given"]["resourceId"] == found["got"]["resourceId"] == "ada"


def test_messages_are_saved_by_hand(data: Told) -> None:
    (one,) = data("saved")["found"]["messages"]
    assert (one["role"], one["content"]["content"]) == ("user", "Kept by hand")


def test_working_memory_is_read_and_written(data: Told) -> None:
    found = data("workingMemory")
    assert found["before"]["threadExists"] is True
    assert found["told"] == {"success": True}
    assert "likes tea" in found["after"]["workingMemory"]


def test_memory_is_searched(data: Told) -> None:
    found = data("search")
    assert "turquoise" in found["found"]["results"][0]["content"]
    assert found["found"]["results"][0]["threadId"] == "thread-search"
    assert found["none"]["results"] == []


def test_whether_and_how_an_agent_remembers(data: Told) -> None:
    found = data("status")
    assert found["remembers"]["result"] is True
    assert found["not"]["result"] is False
    assert found["config"]["config"]["workingMemory"]["enabled"] is True


def test_the_notes_that_an_agent_keeps(data: Told) -> None:
    found = data("notes")
    assert found["before"]["record"] is None
    assert found["settled"] == found["found"]
    record = found["found"]["record"]
    assert (record["threadId"], record["resourceId"]) == ("thread-notes", "grace")
    assert "User likes tea." in record["activeObservations"]
    assert found["status"]["observationalMemory"]["hasRecord"] is True


def test_conversations_and_their_responses(data: Told) -> None:
    found = data("conversations")
    made = found["made"]
    assert (made["object"], made["thread"]["title"]) == ("conversation", "Talk")
    assert made["thread"]["resourceId"] == "grace"
    assert found["got"]["id"] == made["id"]
    assert found["first"]["output_text"] == "It is 21 degrees in Oslo."
    assert found["again"]["output_text"] == found["first"]["output_text"]
    assert found["events"][0] == "response.created"
    assert found["events"][-1] == "response.completed"
    turn = ["message", "function_call", "function_call_output", "message"]
    assert [item["type"] for item in found["all"]["data"]] == turn * 2
    assert found["unsaid"] == {
        "id": found["first"]["id"], "object": "response", "deleted": True,
    }  # fmt: skip
    assert [item["type"] for item in found["left"]["data"]] == turn
    assert found["gone"]["deleted"] is True
    assert found["missing"]["status"] == 404


# Vectors


def test_vectors_are_kept_and_found(data: Told) -> None:
    found = data("vectors")
    assert found["made"] == found["gone"] == {"success": True}
    assert found["upserted"] == {"ids": ["r", "g", "o"]} or found["upserted"] == ["r", "g", "o"]
    assert "colours" in found["indexes"]
    assert found["details"] == {"dimension": 3, "count": 3, "metric": "cosine"}
    assert [n["id"] for n in found["nearest"]] == ["r", "o"]
    assert found["nearest"][0]["metadata"] == {"name": "red"}
    assert found["nearest"][0]["vector"] == [1, 0, 0]
    assert [n["id"] for n in found["filtered"]] == ["g"]
    assert found["missing"]["status"] == found["unknown"]["status"] == 404


# What is observed


def test_traces_are_listed_found_and_asked_for(data: Told) -> None:
    found = data("traces")
    spans = found["one"]["spans"]
    roots = [s for s in spans if not s["parentSpanId"]]
    assert [(r["traceId"], r["name"]) for r in roots] == [(found["traceId"], roots[0]["name"])]
    assert {"agent_run", "tool_call", "model_generation"} <= {s["spanType"] for s in spans}
    ids = {s["spanId"] for s in spans}
    assert all(s["parentSpanId"] in ids for s in spans if s["parentSpanId"])
    assert len(found["light"]["spans"]) == len(spans)
    assert found["span"]["span"]["spanId"] == spans[0]["spanId"]
    assert found["traceId"] in {s["traceId"] for s in found["all"]["spans"]}
    assert found["all"]["pagination"]["perPage"] == 5
    assert found["brief"]["spans"][0]["inputPreview"] == "How is it?"
    assert {t["entityName"] for t in found["queried"]["traces"]} == {"weather-agent"}
    assert found["fields"]["canonicalFields"]
    assert found["missing"]["status"] == 404
    assert "weather-agent" in found["names"]["names"]


def test_scores_are_lists_even_if_nothing_has_scored(data: Told) -> None:
    found = data("scores")
    assert found["scorers"] == {}
    assert found["unknown"] is None
    for way in ("byScorer", "byRun", "byEntity"):
        assert found[way]["scores"] == []
        assert found[way]["pagination"]["total"] == 0


def test_lines_of_the_log(data: Told) -> None:
    found = data("logs")
    assert found["transports"]
    for way in ("all", "errors", "observed"):
        assert isinstance(found[way]["logs"], list)
    assert found["feedback"]["feedback"] == []


def test_what_studio_asks_besides(data: Told) -> None:
    found = data("studio")
    assert found["packages"]["observabilityEnabled"] is True
    assert found["processors"] == {}
    assert found["workspaces"] == {"workspaces": []}
    assert isinstance(found["servers"]["servers"], list)
