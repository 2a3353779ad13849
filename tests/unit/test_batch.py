"""Rows, the ledger, reports: all of a batch but the notebooks."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mastra_nb import record, run_batch, unattended
from mastra_nb.batch._ledger import BATCH, LEASE, Ledger, Record
from mastra_nb.batch._params import load_params, row_ids
from mastra_nb.batch._row import values_of
from mastra_nb.batch._rows import BatchRow
from mastra_nb.batch.batches import Batch
from mastra_nb.batch.report import BatchReport
from mastra_nb.errors import ConfigError, LeaseHeld, MastraError, NotFound, SchemaError
from mastra_nb.recording import MIME, recorded
from mastra_nb.services import Services, random_id
from mastra_nb.stores.memory import open_store
from mastra_nb.testing import ScriptedModel, calls
from tests.flows.batches import notebook

# --- rows ------------------------------------------------------------------------------------


def test_a_table_of_any_kind_gives_the_same_rows(tmp_path: Path) -> None:
    rows = [{"city": "Oslo", "n": 1, "x": 1.5}, {"city": "Åbo", "n": 2, "x": None}]
    frame = pd.DataFrame(rows)
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_csv(tmp_path / "a.tsv", index=False, sep="\t")
    frame.to_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    for made in (rows, frame, iter(rows), *sorted(tmp_path.iterdir()), str(tmp_path / "a.csv")):
        assert load_params(made) == rows, made


def test_csv_values_are_what_they_look_like(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        'zip,n,mixed,yes,none,x,text\n00501,1,1,true,,1e3,"a,\n""b"""\n10115,-2,x,False,,2,c\n\n'
    )
    assert load_params(path) == [
        {"zip": "00501", "n": 1, "mixed": "1", "yes": True, "none": None, "x": 1e3,
         "text": 'a,\n"b"'},
        {"zip": "10115", "n": -2, "mixed": "x", "yes": False, "none": None, "x": 2.0, "text": "c"},
    ]  # fmt: skip


@given(st.lists(st.fixed_dictionaries({"a": st.text(), "b": st.text()}), min_size=1, max_size=6))
def test_a_text_of_a_csv_is_never_lost(rows: list[dict[str, str]]) -> None:
    from mastra_nb.batch._params import _csv

    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, ["a", "b"], quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(rows)
    try:
        found = _csv(out.getvalue(), Path("a.csv"), ",")
    except ConfigError:
        assert "\0" in out.getvalue()
        return
    for row, back in zip(rows, found, strict=True):
        for name in row:
            value = back[name]
            if isinstance(value, str):
                assert value == row[name]
            elif value is None:
                assert row[name] == ""
            elif isinstance(value, bool):
                assert row[name].lower() == str(value).lower()
            else:
                assert value == float(row[name])


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ([], "no rows"),
        ({"a": 1}, "is a"),
        (7, "is a"),
        ([1], "no mapping"),
        ([{"a b": 1}], "cannot be a parameter"),
        ([{"class": 1}], "cannot be a parameter"),
        ("no.csv", "no file"),
        ("a.txt", "of no kind"),
        ("twice.csv", "twice"),
        ("short.csv", "2 values for 3"),
        ("broken.json", "no JSON"),
        ("mapping.json", "no list"),
        ("latin.csv", "UTF-8"),
        ("empty.csv", "no rows"),
    ],
)
def test_what_are_no_rows_is_said(
    given: Any, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "a.txt": "x", "twice.csv": "a,a\n1,2\n", "short.csv": "a,b,c\n1,2\n", "broken.json": "[",
        "mapping.json": "{}", "empty.csv": "",
    }.items():  # fmt: skip
        Path(name).write_text(text)
    Path("latin.csv").write_bytes("a\nå\n".encode("latin-1"))
    with pytest.raises(MastraError, match=wrong):
        load_params(given)


def test_what_json_cannot_hold_names_its_row() -> None:
    with pytest.raises(SchemaError, match='"a" in row 2'):
        load_params([{"a": 1}, {"a": object()}])
    frame = pd.DataFrame({"at": [pd.Timestamp("2026-01-02"), pd.NaT]})
    assert load_params(frame) == [{"at": "2026-01-02T00:00:00"}, {"at": None}]


ROWS = st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 3), max_size=3), max_size=8)


@given(ROWS, st.randoms())
def test_a_row_is_the_same_wherever_it_stands(rows: list[dict[str, Any]], random: Any) -> None:
    ids = row_ids("b", rows)
    assert len({*ids}) == len(rows), "equal rows are rows of their own"
    shuffled = [dict(random.sample(sorted(r.items()), len(r))) for r in rows]
    random.shuffle(shuffled)
    assert {*row_ids("b", shuffled)} == {*ids}
    assert not {*row_ids("c", rows)} & {*ids}


# --- what is asked for -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"workers": 0}, "workers is 0"),
        ({"workers": 1.5}, "workers is 1.5"),
        ({"retries": -1}, "retries is -1"),
        ({"budget": 0}, "budget is 0"),
        ({"row_budget": float("nan")}, "row_budget is nan"),
        ({"timeout": -1.0}, "timeout is -1.0"),
        ({"approvals": "approve"}, "approvals is 'approve'"),
        ({"approve": "send"}, "approve is 'send'"),
        ({"name": "a/b"}, "will not do"),
        ({"executor": "no"}, 'no executor "no"'),
        ({"store": "memory://"}, "in memory"),
        ({"address": "tcp://x:1"}, "connects to no"),
    ],
)
def test_options_are_checked_before_anything_runs(
    options: dict[str, Any], wrong: str, tmp_path: Path
) -> None:
    path = notebook(tmp_path / "n.ipynb", "n = 1")
    url = f"sqlite:///{tmp_path}/m.db"
    with pytest.raises(MastraError, match=wrong) as raised:
        run_batch(path, [{"n": 1}], **{"store": url, **options})
    assert raised.value.hint


def test_a_batch_is_known_by_its_code(tmp_path: Path) -> None:
    one = Batch(notebook(tmp_path / "n.ipynb", "n = 1", "n"), [{"n": 1}])
    saved = json.loads((tmp_path / "n.ipynb").read_text())
    saved["cells"][1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "x"}]
    (tmp_path / "n.ipynb").write_text(json.dumps(saved))
    assert Batch(tmp_path / "n.ipynb", [{"n": 1}]).id == one.id
    assert Batch(notebook(tmp_path / "n.ipynb", "n = 1", "n + 1"), [{"n": 1}]).id != one.id
    assert Batch(tmp_path / "n.ipynb", [{"n": 1}], name="mine").id == "mine"
    (tmp_path / "bad.ipynb").write_text("{}")
    for name, kind in (("no.ipynb", NotFound), ("bad.ipynb", ConfigError)):
        with pytest.raises(kind):
            Batch(tmp_path / name, [{"n": 1}])


# --- the ledger ------------------------------------------------------------------------------


async def test_one_process_runs_a_batch() -> None:
    store = open_store("memory://")
    first, second = Ledger(store, "b"), Ledger(store, "b")
    await first.claim({"rows": 1})
    with pytest.raises(LeaseHeld):
        await second.claim({})
    assert await store.get(BATCH, "b") == {"rows": 1}
    await Ledger(store, "b2").claim({})
    await first.release()
    await second.claim({})
    with pytest.raises(LeaseHeld):
        await first.claim({})


async def test_a_lease_that_ran_out_is_taken_over_once() -> None:
    store = open_store("memory://")
    slow = Ledger(store, "b")
    await slow.claim({})
    (found,) = await store.find(LEASE, prefix="b/")
    await store.put(LEASE, found[0], {**found[1], "until": time.time() - 1})
    other, late = Ledger(store, "b"), Ledger(store, "b")
    await other.claim({})
    with pytest.raises(LeaseHeld):
        await late.claim({})
    with pytest.raises(LeaseHeld):
        await slow.renew()
    await other.renew()


async def test_the_lease_of_a_dead_process_is_free() -> None:
    store = open_store("memory://")
    ledger = Ledger(store, "b")
    await ledger.claim({})
    (found,) = await store.find(LEASE, prefix="b/")
    host = found[1]["owner"].split(":")[0]
    pid = os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", "pass"]) or 2**22 + 1
    await store.put(LEASE, found[0], {**found[1], "owner": f"{host}:{pid}:x"})
    await Ledger(store, "b").claim({})


async def test_records_come_back() -> None:
    store = open_store("memory://")
    ledger = Ledger(store, "b")
    full = Record(
        status="failed", params={"a": [1, None]}, values={"x": {"y": 1.5}}, attempts=2,
        error="e", kind="ValueError", cost=None, tokens=3, seconds=1.5, runs=["r_1"],
        waiting=["r_1"], output="o.ipynb", started=1.0, ended=2.0,
    )  # fmt: skip
    await ledger.put("one", full)
    await ledger.put("two", Record(status="done", params={}))
    await Ledger(store, "b2").put("three", full)
    assert await ledger.read() == {"one": full, "two": Record(status="done", params={})}


# --- reports ---------------------------------------------------------------------------------


def row(index: int, status: Any = "done", **more: Any) -> BatchRow:
    return BatchRow(index=index, id=f"id{index}", params={"n": index}, status=status, **more)


def report(*rows: BatchRow, **more: Any) -> BatchReport:
    return BatchReport(id="b", notebook="/x/n.ipynb", rows=rows, **more)


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        (["done"], 0),
        (["done", "failed", "suspended"], 1),
        (["done", "suspended"], 3),
        (["failed", "over_budget"], 4),
        (["failed", "stopped", "over_budget"], 130),
        (["done", "pending"], 130),
    ],
)
def test_exit_codes(statuses: list[str], code: int) -> None:
    assert report(*(row(i, s) for i, s in enumerate(statuses))).exit_code == code


def test_the_table_has_parameters_values_and_what_became_of_them(tmp_path: Path) -> None:
    made = report(
        row(
            0, values={"n": 5, "status": "fine", "deep": {"a": [1]}}, runs=("r_1", "r_2"), cost=0.5
        ),
        row(1, "failed", error="no", values={"late": 1}, cost=0.25),
    )
    assert made.cost == 0.75
    first, second = made.records()
    assert first["n"] == 0 and first["n_value"] == 5
    assert first["status"] == "done" and first["status_value"] == "fine"
    assert first["runs"] == "r_1 r_2" and first["late"] is None
    assert second["error"] == "no" and second["deep"] is None
    assert list(made.to_frame().n_value) == [5, None] or made.to_frame().n_value[0] == 5
    table = pd.read_csv(made.to_csv(tmp_path / "sub" / "a.csv"))
    assert json.loads(table.deep[0]) == {"a": [1]}
    again = pd.read_parquet(made.write_results(tmp_path / "a.parquet"))
    assert list(again.error) == ["", "no"] and json.loads(again.deep[0]) == {"a": [1]}
    assert report(row(0, cost=None), row(1)).cost is None
    assert len(made) == 2 and made[1].error == "no" and [r.index for r in made] == [0, 1]


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.text += data


EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)>'


def test_the_page_shows_hostile_text_as_text(tmp_path: Path) -> None:
    evil = BatchRow(
        index=0, id="x", params={"n": EVIL}, values={EVIL: EVIL}, status="failed", error=EVIL,
        hint=EVIL, runs=(EVIL,), output=str(tmp_path / "out" / "a b&<c>.ipynb"),
    )  # fmt: skip
    made = report(row(1, cost=1.0), evil, budget=5.0)
    page = Page()
    page.feed(made.to_html(tmp_path / "out" / "r.html").read_text("utf-8"))
    assert not {"script", "img"} & {*page.tags} and page.handlers == []
    assert page.links == ["a%20b%26%3Cc%3E.ipynb"]
    assert EVIL in page.text and "budget $5" in page.text
    assert page.text.index("failed") < page.text.index("✓ done")
    shown = made._repr_mimebundle_()["text/markdown"]
    assert "<script" not in shown and "<img" not in shown


# --- what a notebook records -----------------------------------------------------------------


def test_values_are_the_last_of_their_names(tmp_path: Path) -> None:
    def output(data: Any) -> dict[str, Any]:
        return {"output_type": "display_data", "data": data}

    good = [output({MIME: {"name": "a", "value": v}, "text/plain": "x"}) for v in (1, None)]
    bad = [output({MIME: v}) for v in (1, {"name": 1, "value": 2}, {"name": "x"}, None)]
    cells = [
        {"cell_type": "code", "outputs": [*good, *bad, {"output_type": "stream", "text": "x"}]},
        {"cell_type": "markdown"},
        {"cell_type": "code", "outputs": [output({MIME: {"name": "b", "value": [1]}})]},
    ]
    path = tmp_path / "n.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    assert values_of(path) == {"a": None, "b": [1]}
    path.write_text("{")
    assert values_of(path) == {} and values_of(tmp_path / "no.ipynb") == {}
    assert recorded({"data": {MIME: "x"}}) is None


def test_outside_of_a_notebook_a_record_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    record(a=1, b={"c": (1, 2)})
    assert capsys.readouterr().out == "a = 1\nb = {'c': [1, 2]}\n"
    with pytest.raises(SchemaError, match='"f"'):
        record(f=len)


# --- a row's process -------------------------------------------------------------------------


def test_a_row_names_its_runs_and_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    assert unattended.row() is None and random_id().startswith("r_")
    made = unattended.Row(id="abc123", approvals="deny", approve=("send",))
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    assert unattended.row() == made
    assert random_id().startswith("r_abc123") and random_id() != random_id()
    assert made.decides("send") is True and made.decides("other") is False
    assert msgspec.structs.replace(made, approvals="suspend").decides("other") is None
    monkeypatch.setenv(unattended.VARIABLE, "{")
    with pytest.raises(ConfigError, match="holds no row"):
        unattended.row()


@pytest.mark.parametrize("approve", [True, False])
async def test_a_batch_answers_for_people(approve: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from mastra_nb import Agent, tool

    sent: list[str] = []

    @tool(needs_approval=True)
    def send(to: str) -> str:
        "Send."
        sent.append(to)
        return "ok"

    made = unattended.Row(id="abc", approvals="deny", approve=("send",) if approve else ())
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    model = ScriptedModel(calls("send", to="x"), "done")
    agent = Agent(name="a", model=model, tools=[send], services=Services())
    run = agent.run("go")
    assert await run == "done"
    assert sent == (["x"] if approve else [])
    said = [e.data.text for e in run.log.events if type(e.data).__name__ == "Noted"]
    assert said == [f'the batch {"approved" if approve else "denied"} the call of "send"']
