from __future__ import annotations

import re
import time
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mastra_nb import graphs
from mastra_nb._svg import MARKS, State, clip, duration, width
from mastra_nb.events import (
    Custom,
    ErrorInfo,
    Event,
    Payload,
    Resumed,
    SpanEnded,
    SpanStarted,
    Suspended,
    View,
)
from tests.hostile import PAYLOADS

SVG = "{http://www.w3.org/2000/svg}"


class Log:
    """Writes a workflow's events as the engine does."""

    def __init__(self) -> None:
        self.view, self.now, self.seq = View(), 100.0, 0

    def emit(self, path: str, data: Payload, parent: str | None = None) -> None:
        self.seq += 1
        self.view.apply(
            Event(run="r", seq=self.seq, span=path, data=data, at=self.now, parent=parent)
        )

    def start(self, path: str, kind: str = "step", attempt: int = 1, input: Any = None) -> None:
        parent, _, name = path.rpartition("/")
        data = SpanStarted(kind=kind, name=name, attempt=attempt, input=input)
        self.emit(path, data, parent or None)

    def end(self, path: str, output: Any = None, after: float = 1.0, error: str = "") -> None:
        self.now += after
        if error:
            info = ErrorInfo(code="step", message=error)
            self.emit(path, SpanEnded(status="error", error=info))
        else:
            self.emit(path, SpanEnded(status="ok", output=output))

    def did(self, path: str, output: Any = None, kind: str = "step", after: float = 1.0) -> None:
        self.start(path, kind)
        self.end(path, output, after)


def node(id: str, **more: Any) -> dict[str, Any]:
    return {"type": "step", "id": id} | more


def flow(*nodes: Any, **more: Any) -> dict[str, Any]:
    return {"name": "W", "nodes": list(nodes)} | more


def branch(*arms: tuple[str, str], **more: Any) -> dict[str, Any]:
    made = [{"when": when, "nodes": [node(id)]} for when, id in arms]
    return {"type": "branch", "id": f"branch:{arms[0][1]}", "arms": made} | more


PARALLEL = {"type": "parallel", "id": "parallel:a", "arms": [[node("a")], [node("b"), node("c")]]}
DIAMOND = {
    "type": "graph",
    "id": "graph:a",
    "nodes": [node("d"), node("a"), node("b"), node("c")],
    "edges": [["a", "b"], ["a", "c"], ["b", "d"], ["c", "d"], ["a", "d"]],
}


def loop(*nodes: Any, how: str = "until", when: str = "n > 3") -> dict[str, Any]:
    return {"type": "loop", "id": "loop:x", "how": how, "when": when, "nodes": list(nodes)}


def each(inner: Any, concurrency: int = 3) -> dict[str, Any]:
    return {"type": "foreach", "id": "foreach:x", "concurrency": concurrency, "nodes": [inner]}


def sub(id: str, *nodes: Any) -> dict[str, Any]:
    return {"type": "workflow", "id": id, "nodes": list(nodes)}


# --- states -------------------------------------------------------------------------------------


def test_states_of_a_chain_as_it_runs() -> None:
    log, outline = Log(), flow(node("a"), node("b"), node("c"))
    assert graphs.states(outline, log.view, "W") == dict.fromkeys("abc", State())
    log.start("W", "workflow")
    log.did("W/a", after=2.0)
    log.start("W/b")
    states = graphs.states(outline, log.view, "W")
    assert states == {
        "a": State(status="ok", seconds=2.0),
        "b": State(status="running"),
        "c": State(),
    }
    assert graphs.running(states) == ["b"]
    log.end("W/b", error="boom")
    assert graphs.states(outline, log.view, "W")["b"] == State(
        status="error", seconds=1.0, error="boom"
    )
    log.start("W/b", attempt=2)
    log.end("W/b")
    assert graphs.states(outline, log.view, "W")["b"] == State(status="ok", seconds=1.0, attempts=2)


def test_a_step_that_waited_for_an_answer_was_not_retried() -> None:
    log, outline = Log(), flow(node("a"))
    log.start("W", "workflow")
    log.start("W/a")
    log.emit("W/a", Suspended(path="W/a", reason="input"))
    assert graphs.states(outline, log.view, "W")["a"].status == "suspended"
    log.emit("W/a", Resumed(path="W/a", value=1))
    log.start("W/a", attempt=2)
    log.end("W/a")
    assert graphs.states(outline, log.view, "W")["a"] == State(status="ok", seconds=1.0)


def test_arms_that_were_not_taken_are_skipped() -> None:
    log, outline = Log(), flow(branch(("x > 1", "a"), ("x > 2", "b"), ("otherwise", "c")))
    log.start("W", "workflow")
    assert {s.status for s in graphs.states(outline, log.view, "W").values()} == {"waiting"}
    log.did("W/branch:a", [0, 2], "value")
    log.did("W/a")
    states = graphs.states(outline, log.view, "W")
    assert [states[k].status for k in "abc"] == ["ok", "skipped", "waiting"]


def test_a_step_whose_condition_is_false_is_skipped_and_so_is_what_a_bail_left_out() -> None:
    log, outline = Log(), flow(node("a", when="x > 1"), node("b"), sub("C", node("y")))
    log.start("W", "workflow")
    log.did("W/when:a", False, "value")
    states = graphs.states(outline, log.view, "W")
    assert [s.status for s in states.values()] == ["skipped", "waiting", "waiting", "waiting"]
    log.end("W", "bailed")
    assert {s.status for s in graphs.states(outline, log.view, "W").values()} == {"skipped"}


def test_items_are_counted_side_by_side() -> None:
    log, outline = Log(), flow(node("list"), each(node("x")))
    log.start("W", "workflow")
    log.did("W/list", list(range(10)))
    for i in range(4):
        log.start(f"W/x[{i}]")
    log.end("W/x[0]")
    log.end("W/x[2]", error="no")
    state = graphs.states(outline, log.view, "W")["x"]
    assert state == State(status="running", done=1, running=2, failed=1, total=10, error="no")
    assert state.counts == "1 done, 2 running, 1 failed of 10"
    for path in ("W/x[1]", "W/x[3]"):
        log.end(path, after=0.0)
    assert graphs.states(outline, log.view, "W")["x"].status == "running"
    for i in range(4, 10):
        log.did(f"W/x[{i}]", after=0.5)
    log.end("W")
    state = graphs.states(outline, log.view, "W")["x"]
    assert (state.done, state.failed, state.total, state.seconds) == (9, 1, 10, 5.0)
    assert state.status == "error"


def test_between_two_items_a_foreach_still_runs() -> None:
    log, outline = Log(), flow(each(node("x")))
    log.start("W", "workflow", input=[1, 2])
    log.did("W/x[0]")
    state = graphs.states(outline, log.view, "W")["x"]
    assert (state.status, state.done, state.total) == ("running", 1, 2)


def test_rounds_of_a_loop_add_up() -> None:
    log, outline = Log(), flow(loop(node("x")))
    log.start("W", "workflow")
    for i in range(3):
        log.did(f"W/x[{i}]", after=2.0)
        log.did(f"W/until:x[{i}]", i == 2, "value", after=0.0)
    state = graphs.states(outline, log.view, "W")["x"]
    assert state == State(status="ok", seconds=6.0, done=3, total=3)


def test_states_inside_nested_workflows_and_their_items() -> None:
    log = Log()
    outline = flow(sub("C", node("y"), sub("D", node("z"))), each(sub("E", node("v"))))
    log.start("W", "workflow")
    log.start("W/C", "workflow")
    log.did("W/C/y")
    log.start("W/C/D", "workflow")
    log.start("W/C/D/z")
    states = graphs.states(outline, log.view, "W")
    assert {k: s.status for k, s in states.items()} == {
        "C": "running", "C/y": "ok", "C/D": "running", "C/D/z": "running", "E": "waiting",
        "E/v": "waiting",
    }  # fmt: skip
    assert graphs.running(states) == ["C/D/z"]
    for i in range(2):
        log.start(f"W/E[{i}]", "workflow")
        log.did(f"W/E[{i}]/v")
    states = graphs.states(outline, log.view, "W")
    assert (states["E"].running, states["E/v"].done) == (2, 2)


def test_ten_thousand_items_cost_a_few_milliseconds() -> None:
    log, outline = Log(), flow(each(node("x")))
    log.start("W", "workflow")
    for i in range(10_000):
        log.did(f"W/x[{i}]", after=0.001)
    best = 1.0
    for _ in range(5):
        begun = time.perf_counter()
        assert graphs.states(outline, log.view, "W")["x"].done == 10_000
        best = min(best, time.perf_counter() - begun)
    assert best < 0.1


def test_a_body_gets_a_node_for_each_call_that_its_source_did_not_show() -> None:
    log = Log()
    outline = flow(node("read", type="call"), dashed=True, code="c0ffee")
    log.start("W", "workflow")
    log.emit("W", Custom(name="graph", value=outline))
    log.did("W/read#d1.0")
    log.did("W/read#d2.0")
    log.did("W/now#0.0", 1, "value")
    log.start("W/helper#d3.0", "workflow")
    log.emit("W/helper#d3.0", Custom(name="graph", value=flow(node("deep"))))
    log.did("W/helper#d3.0/deep")
    shown = graphs.outline_of(log.view, "W")
    assert shown == {
        "name": "W",
        "dashed": True,
        "nodes": [
            {"type": "call", "id": "read"},
            {"type": "workflow", "id": "helper", "nodes": [{"type": "step", "id": "deep"}]},
        ],
    }
    states = graphs.states(shown, log.view, "W")
    assert states["read"].done == 2 and states["helper/deep"].status == "ok"
    assert graphs.outline_of(log.view, "W/nothing") is None


def test_a_large_outline_is_cut_and_says_so() -> None:
    shown = graphs.tidied(flow(*(node(f"s{i}") for i in range(1000))))
    assert len(shown["nodes"]) == graphs.MAX_NODES + 1
    assert shown["nodes"][-1]["id"] == "… 850 more"


# --- SVG ----------------------------------------------------------------------------------------

ALL = flow(
    node("start", type="agent", about="Reads"),
    PARALLEL,
    branch(("x > 1", "p"), ("otherwise", "q"), exclusive=True),
    loop(sub("L", node("l1"), node("l2"))),
    each(node("item", type="tool")),
    each(sub("many", node("inner"))),
    DIAMOND,
    node("nap", type="sleep", label="5 min"),
    node("mail", type="event"),
    node("sure", type="ask"),
    node("shape", type="map"),
    sub("deep", sub("deeper", node("z"))),
)


def parsed(svg: str) -> ET.Element:
    return ET.fromstring(svg)


def texts(svg: str) -> list[str]:
    return [e.text or "" for e in parsed(svg).iter(f"{SVG}text")]


def inert(svg: str) -> list[str]:
    """What in the picture is neither a shape nor text."""
    found = []
    for element in parsed(svg).iter():
        tag = element.tag.removeprefix(SVG)
        if tag not in ("svg", "g", "path", "rect", "circle", "text", "title"):
            found.append(tag)
        found += [k for k in element.attrib if k.startswith("on") or k in _ACTIVE or ":" in k]
    return found


_ACTIVE = ("href", "style", "class", "id", "filter", "src")


def boxes(svg: str) -> list[tuple[float, float, float, float]]:
    """The cards: left, top, right, bottom."""
    out = []
    for g in parsed(svg).iter(f"{SVG}g"):
        x, y = map(float, re.findall(r"[-\d.]+", g.get("transform", ""))[:2])
        cards = [r for r in g.findall(f"{SVG}rect") if r.get("height") == "40"]
        out += [(x, y, x + float(r.get("width", 0)), y + 40) for r in cards[-1:]]
    return out


def test_every_node_is_in_the_picture_once() -> None:
    shown = texts(graphs.svg(ALL))
    for name in ("start", "a", "p", "q", "l1", "item", "inner", "nap", "mail", "sure", "deeper"):
        assert name in shown
    assert "if x > 1" in shown and "otherwise" in shown and "until n > 3" in shown
    assert "5 min" in shown and shown.count("for each, 3 at a time") == 2


def test_nodes_do_not_lie_on_each_other_and_stay_in_the_picture() -> None:
    for outline in (ALL, flow(*(node(f"a_long_name_{i}") for i in range(30)))):
        svg = graphs.svg(outline)
        cards = boxes(svg)
        _, _, wide, high = map(float, parsed(svg).get("viewBox", "").split())
        for n, (left, top, right, bottom) in enumerate(cards):
            assert left >= 0 and right <= wide and top >= 0 and bottom <= high
            for other in cards[n + 1 :]:
                apart = other[0] >= right or other[2] <= left
                assert apart or other[1] >= bottom or other[3] <= top


def test_a_long_chain_goes_on_in_the_next_row() -> None:
    svg = graphs.svg(flow(*(node(f"step_{i}") for i in range(30))))
    _, _, wide, high = map(float, parsed(svg).get("viewBox", "").split())
    assert wide <= 900 and high < 600


def test_ten_nodes_take_less_than_8_kb_with_their_states() -> None:
    names = [f"step_{i}" for i in range(10)]
    states = {n: State(status="ok", seconds=1.5, attempts=2) for n in names}
    assert len(graphs.svg(flow(*map(node, names)), states)) < 8_000


@pytest.mark.parametrize("status", list(MARKS))
def test_a_state_is_a_sign_not_a_colour_alone(status: Any) -> None:
    svg = graphs.svg(flow(node("a")), {"a": State(status=status)})
    shape = MARKS[status].split('"')[1]
    assert shape in svg and shape not in graphs.svg(flow(node("a")), {"a": State()})


def test_a_node_shows_duration_attempts_and_progress() -> None:
    states = {
        "a": State(status="ok", seconds=1.25, attempts=3),
        "x": State(status="running", done=15, failed=2, running=3, total=100, error="no <b>"),
    }
    svg = graphs.svg(flow(node("a"), each(node("x"))), states)
    assert "1.2 s · ×3" in texts(svg) and "17/100 · 2 failed" in texts(svg)
    assert "no &lt;b&gt;" in svg


def test_what_has_not_run_of_a_dashed_outline_is_dashed() -> None:
    outline = flow(node("a"), node("b"), dashed=True)
    assert graphs.svg(outline).count("stroke-dasharray") == 2
    assert graphs.svg(outline, {"a": State(status="ok")}).count("stroke-dasharray") == 1


def test_long_names_are_cut_and_kept_in_a_title() -> None:
    name = "a_very_long_identifier_" * 8
    svg = graphs.svg(flow(node(name)))
    assert name not in texts(svg) and name in svg
    assert max(right for _, _, right, _ in boxes(svg)) < 260


def test_layers_of_a_dependency_graph_go_from_left_to_right() -> None:
    svg = graphs.svg(flow(DIAMOND))
    left = dict(zip(texts(svg), [b[0] for b in boxes(svg)], strict=True))
    assert left["a"] < left["b"] == left["c"] < left["d"]
    circle = {"type": "graph", "id": "g", "nodes": [node("a"), node("b")]}
    assert graphs.svg(flow(circle | {"edges": [["a", "b"], ["b", "a"], ["z", "a"], 7]}))


@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_text_of_others_becomes_active(payload: str) -> None:
    outline = flow(
        node(payload, label=payload, about=payload, when=payload),
        branch((payload, "a"), ("otherwise", payload)),
        loop(node("x"), when=payload),
        sub(payload, node("y")),
        name=payload,
    )
    states = {payload: State(status="error", error=payload)}
    assert inert(graphs.svg(outline, states)) == []
    source = graphs.mermaid(outline, states)
    assert not re.search(r"[<>&`$%\\]|javascript:|//|\b(?:href|click)\b", _no_arrows(source))
    assert "\x1b" not in graphs.text(outline) and "\u202e" not in graphs.text(outline)


def _no_arrows(source: str) -> str:
    return source.replace("-->", "").replace("((+))", "")


_NAMES = st.text(max_size=12)


def _outlines() -> st.SearchStrategy[Any]:
    leaf = st.builds(lambda i, t: {"type": t, "id": i}, _NAMES, st.sampled_from(["step", "tool"]))

    def more(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        nodes = st.lists(inner, max_size=3)
        return st.one_of(
            st.builds(lambda n, i: {"type": "workflow", "id": i, "nodes": n}, nodes, _NAMES),
            st.builds(lambda n: {"type": "loop", "id": "l", "nodes": n}, nodes),
            st.builds(lambda n: {"type": "foreach", "id": "f", "nodes": n[:1]}, nodes),
            st.builds(lambda n: {"type": "graph", "id": "g", "nodes": n, "edges": []}, nodes),
            st.builds(lambda a: {"type": "parallel", "arms": a}, st.lists(nodes, max_size=3)),
            st.builds(
                lambda a: {"type": "branch", "arms": [{"when": "w", "nodes": n} for n in a]},
                st.lists(nodes, max_size=3),
            ),
        )

    return st.lists(st.recursive(leaf, more, max_leaves=8), max_size=5)


@given(_outlines())
def test_any_outline_can_be_drawn(nodes: Any) -> None:
    outline = graphs.tidied(flow(*nodes))
    states = graphs.states(outline, View(), "W")
    for given_states in (None, states):
        svg = graphs.svg(outline, given_states)
        assert inert(svg) == []
        assert "nan" not in svg and "inf" not in svg
        assert graphs.mermaid(outline, given_states).startswith("flowchart TD")
        assert graphs.text(outline, given_states).startswith("W")


# --- Mermaid and text ---------------------------------------------------------------------------


def test_mermaid_of_an_outline() -> None:
    outline = flow(node("in"), branch(("x > 1", "a"), ("otherwise", "end")), DIAMOND)
    assert graphs.mermaid(outline, {"in": State(status="ok", seconds=1.0)}) == "\n".join(
        [
            "flowchart TD",
            '  n1["in #10003; 1.0 s"]',
            "  n2{?}",
            "  n1 --> n2",
            '  n3["a"]',
            '  n2 -->|"x #62; 1"| n3',
            '  n4["#101;#110;#100;"]',
            '  n2 -->|"otherwise"| n4',
            '  n5["a"]',
            "  n3 --> n5",
            "  n4 --> n5",
            '  n6["b"]',
            "  n5 --> n6",
            '  n7["c"]',
            "  n5 --> n7",
            '  n8["d"]',
            "  n6 --> n8",
            "  n7 --> n8",
            "  n5 --> n8",
            "  classDef ok fill:#e3f8e7,stroke:#1a7f37,color:#1f2328",
            "  class n1 ok",
        ]
    )


def test_mermaid_subgraphs_are_closed_and_loops_go_back() -> None:
    source = graphs.mermaid(ALL)
    assert source.count("subgraph") == len(re.findall(r"^ *end$", source, re.MULTILINE)) == 7
    assert '|"again"|' in source
    group, first = re.findall(r"subgraph (n\d+).*\n +subgraph (n\d+)", source)[0]
    assert not re.search(rf"--> (?:{group}|{first})$", source, re.MULTILINE)


def test_text_of_an_outline() -> None:
    outline = flow(
        node("in"), PARALLEL, branch(("x > 1", "p"), ("otherwise", "q")), loop(sub("C", node("y")))
    )
    assert graphs.text(outline, {"in": State(status="ok", seconds=0.25)}) == "\n".join(
        [
            "W",
            "├─ ✓ 250 ms  in",
            "├─ parallel",
            "│  ├─ a",
            "│  └─ arm 2",
            "│     ├─ b",
            "│     └─ c",
            "├─ branch",
            "│  ├─ if x > 1",
            "│  │  └─ p",
            "│  └─ otherwise",
            "│     └─ q",
            "└─ until n > 3",
            "   └─ C",
            "      └─ y",
        ]
    )
    failed = graphs.text(flow(node("a")), {"a": State(status="error", error="no\nfile")})
    assert failed.endswith("✗  a: no file")
    assert "d ← b, c, a" in graphs.text(flow(DIAMOND))


def test_words_are_measured_and_durations_are_short() -> None:
    assert width("iii") < width("mmm") < width("漢字漢字")
    assert clip("a\nb", 100) == "a b" and clip("x" * 100, 60).endswith("…")
    assert [duration(s) for s in (0, 0.0204, 1.25, 75, 7260, 180_000)] == [
        "<1 ms",
        "20 ms",
        "1.2 s",
        "1 min 15 s",
        "2 h 1 min",
        "2 d 2 h",
    ]


def test_a_race_says_how_many_it_waits_for() -> None:
    arms = [[{"type": "step", "id": "a"}], [{"type": "step", "id": "b"}]]
    race = {"type": "parallel", "id": "parallel:a", "arms": arms, "wait": 1}
    assert "parallel, the first 1" in graphs.text({"name": "w", "nodes": [race]})
