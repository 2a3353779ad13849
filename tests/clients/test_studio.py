"""The real Mastra Studio, in a browser, against the server."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect, sync_playwright

from tests.clients.conftest import MODULES, Served, answers, chromium, free_port, node

FLAGS = ["--disable-background-networking", "--disable-component-update", "--disable-gpu"]
HERE = ("localhost", "127.0.0.1")
THREAD = re.compile(r"/threads/[0-9a-f-]{36}$")
# A busy machine draws later.
expect.set_options(timeout=20_000)


class Studio:
    """What `mastra studio` serves, set up for our server."""

    def __init__(self, folder: Path, served: Served, *, signals: bool) -> None:
        assert MODULES.exists(), f'no "{MODULES}": make clients installs them'
        port = free_port()
        self.url = f"http://localhost:{port}"
        self.way = "signals" if signals else "stream"
        env = {
            **os.environ,
            "MASTRA_TELEMETRY_DISABLED": "1",
            "MASTRA_AGENT_SIGNALS": "true" if signals else "false",
            "PATH": os.pathsep.join([str(node().parent), os.environ.get("PATH", "")]),
        }
        cli = [str(node()), str(MODULES / "mastra" / "dist" / "index.js"), "studio"]
        where = ["-p", str(port), "-h", "127.0.0.1", "-s", str(served.port), "-x", "http"]
        self.process = subprocess.Popen(
            [*cli, *where, "--server-api-prefix", "/api"],
            cwd=folder,
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        answers(self.url, self.process)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=30)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module", params=["stream", "signals"])
def studio(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, served: Served
) -> Iterator[Studio]:
    """Both ways in which it talks to agents: by streams, and by messages to threads."""
    folder = tmp_path_factory.mktemp("studio")
    studio = Studio(folder, served, signals=request.param == "signals")
    yield studio
    studio.close()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, served: Served) -> Iterator[Studio]:
    """For what has nothing to do with how it talks to agents."""
    studio = Studio(tmp_path_factory.mktemp("studio"), served, signals=False)
    yield studio
    studio.close()


# One for all: Studio's code is fetched and compiled once.
@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    context.set_default_timeout(20_000)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """That asks nobody but this machine, and is told of no failure."""
    page, wrong = context.new_page(), list[str]()

    def at_home(route: Route) -> None:
        here = urlsplit(route.request.url).hostname in HERE
        route.continue_() if here else route.abort()

    def failed(status: int, what: str) -> None:
        if status >= 500:
            wrong.append(f"{status} {what}")

    page.route("**/*", at_home)
    page.on("response", lambda r: failed(r.status, f"{r.request.method} {r.url}"))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    yield page
    page.close()
    assert not wrong, wrong


@pytest.fixture(scope="session")
def shots(pytestconfig: pytest.Config) -> Path:
    path = pytestconfig.rootpath / "out" / "screenshots"
    path.mkdir(parents=True, exist_ok=True)
    return path


def shoot(page: Page, shots: Path, name: str) -> None:
    page.wait_for_timeout(500)  # for what is animated
    page.screenshot(path=shots / f"studio_{name}.png")


def ask(page: Page, url: str, agent: str, text: str) -> None:
    page.goto(f"{url}/agents/{agent}/chat/new")
    say(page, text)


def say(page: Page, text: str) -> None:
    box = page.get_by_placeholder("Enter your message...")
    box.fill(text)
    box.press("Enter")


# Lists


def test_lists_show_what_there_is(plain: Studio, page: Page, shots: Path) -> None:
    page.goto(f"{plain.url}/agents")
    for name in ("weather-agent", "boss", "approver"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible()
    shoot(page, shots, "agents")
    page.goto(f"{plain.url}/workflows")
    for name in ("math-wf", "hitl-wf", "branch-wf"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible()
    shoot(page, shots, "workflows")
    page.goto(f"{plain.url}/tools")
    expect(page.get_by_text("weatherTool", exact=True).first).to_be_visible()
    shoot(page, shots, "tools")


def test_a_tool_is_called(plain: Studio, page: Page, shots: Path) -> None:
    page.goto(f"{plain.url}/tools/weatherTool")
    page.get_by_role("textbox").first.fill("Rome")
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_text("Rome").last).to_be_visible()
    expect(page.get_by_text("21").first).to_be_visible()
    shoot(page, shots, "tool")


# Agents


def test_an_agent_is_talked_to_and_remembers(studio: Studio, page: Page, shots: Path) -> None:
    first, second = (f"You said {n} things, the first was: Hello" for n in (1, 2))
    ask(page, studio.url, "rememberer", "Hello")
    expect(page.get_by_text(first).first).to_be_visible()
    say(page, "And again")
    expect(page.get_by_text(second).first).to_be_visible()
    page.wait_for_url(THREAD)
    shoot(page, shots, f"chat_{studio.way}")
    # Once only from here: while a new thread is first read, Studio may show what it has just been
    # told beside what it reads, with Mastra's own server as with ours.
    page.reload()
    for said in ("Hello", first, "And again", second):
        expect(page.get_by_text(said, exact=True)).to_have_count(1)
    shoot(page, shots, f"remembered_{studio.way}")


def test_a_call_of_a_tool_is_shown(studio: Studio, page: Page, shots: Path) -> None:
    ask(page, studio.url, "weather-agent", "How is it?")
    call = page.get_by_role("button", name=re.compile("weatherTool", re.IGNORECASE))
    expect(call.first).to_be_visible()
    expect(page.get_by_text("It is 21 degrees in Oslo.").first).to_be_visible()
    page.wait_for_url(THREAD)
    page.reload()
    call.click()
    expect(page.get_by_text('"degrees": 21')).to_be_visible()
    shoot(page, shots, "tool_call")


def test_a_call_is_approved(studio: Studio, page: Page, shots: Path) -> None:
    ask(page, studio.url, "approver", "Pay")
    button = page.get_by_role("button", name="Approve pay")
    expect(button).to_be_visible()
    shoot(page, shots, "approval")
    button.click()
    expect(page.get_by_text("Told: {'paid': 3}").first).to_be_visible()
    shoot(page, shots, "approved")


def test_a_call_is_declined(studio: Studio, page: Page) -> None:
    ask(page, studio.url, "approver", "Pay")
    page.get_by_role("button", name="Decline pay").click()
    expect(page.get_by_text("denied the call").last).to_be_visible()


# Workflows


def start(page: Page, url: str, workflow: str, input: str) -> None:
    page.goto(f"{url}/workflows/{workflow}/graph")
    page.locator("input[type=number]").fill(input)
    page.get_by_role("button", name="Run", exact=True).click()


def test_a_run_is_drawn_to_its_success(plain: Studio, page: Page, shots: Path) -> None:
    start(page, plain.url, "math-wf", "3")
    expect(page.get_by_text("Success").first).to_be_visible()
    expect(page.get_by_text("Completed")).to_have_count(2)
    shoot(page, shots, "workflow")


def test_a_run_that_fails_says_where_and_why(plain: Studio, page: Page, shots: Path) -> None:
    start(page, plain.url, "fail-wf", "3")
    expect(page.get_by_text("the boiler is cold").first).to_be_visible()
    expect(page.get_by_text("Failed").first).to_be_visible()
    shoot(page, shots, "workflow_failed")


WORKFLOWS = ["branch-wf", "parallel-wf", "until-wf", "nest-wf", "sleep-wf"]


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_graphs_of_all_kinds_are_drawn_and_run(
    plain: Studio, page: Page, shots: Path, workflow: str
) -> None:
    start(page, plain.url, workflow, "12")
    expect(page.get_by_text("Success").first).to_be_visible()
    shoot(page, shots, f"workflow_{workflow.partition('-')[0]}")


def test_a_step_that_asks_is_answered(plain: Studio, page: Page, shots: Path) -> None:
    start(page, plain.url, "hitl-wf", "3")
    expect(page.get_by_text("Step suspended")).to_be_visible()
    expect(page.get_by_text("Needs input").first).to_be_visible()
    shoot(page, shots, "suspended")
    # Who comes later finds the run, and a form for what it asks.
    page.reload()
    page.get_by_text(re.compile("^[0-9a-f]{24}$")).first.click()
    box = page.get_by_role("checkbox").first
    expect(box).to_be_visible()
    box.click()
    shoot(page, shots, "suspended_form")
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_text("Success").first).to_be_visible()
    expect(page.get_by_text("Completed")).to_have_count(2)
    shoot(page, shots, "resumed")


# Traces


def test_traces_are_listed_and_opened(
    plain: Studio, served: Served, page: Page, shots: Path
) -> None:
    served.run("agents.mjs", "generate")
    page.goto(f"{plain.url}/traces")
    row = page.get_by_text("weather-agent").first
    expect(row).to_be_visible()
    shoot(page, shots, "traces")
    row.click()
    expect(page.get_by_text("weatherTool").first).to_be_visible()
    shoot(page, shots, "trace")


# All of it

PAGES = {
    "inbox": "Your inbox is empty",
    "metrics": "Metrics are not available with your current storage",
    "logs": "Last 24 hours",
    "scorers": "No Scorers yet",
    "datasets": "No Datasets yet",
    "experiments": "No Experiments yet",
    "mcps": "mastra",
    "processors": "No Processors yet",
    "prompts": "No Prompts yet",
    "evaluation": "Total Scorers",
    "workspaces": "No Workspaces yet",
}


def test_no_page_asks_for_what_is_not_answered(plain: Studio, page: Page, shots: Path) -> None:
    refused = list[str]()

    def answered(status: int, url: str) -> None:
        if status >= 400:
            refused.append(f"{status} {url}")

    page.on("response", lambda r: answered(r.status, r.url))
    for path, said in PAGES.items():
        page.goto(f"{plain.url}/{path}")
        expect(page.get_by_text(said).first).to_be_visible()
    shoot(page, shots, "pages")
    assert not refused, refused
