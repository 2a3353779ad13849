"""The chat in a live JupyterLab: by mouse, by keyboard, and with what tries to become active."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from tests.browser.lab import Lab, Notebook, Server, becomes
from tests.hostile import PAYLOADS

AGENTS = '''\
from mastra_nb import Agent, tool
from mastra_nb.errors import ModelError
from mastra_nb.messages import Message, Reasoning, Text
from mastra_nb.models import Profile
from mastra_nb.testing import ScriptedModel, calls

SEES = Profile(media=("image/*",))


@tool
def get_weather(city: str, days: int = 1) -> dict:
    """The forecast for a city."""
    return {"city": city, "sky": "rain", "max_c": 8}


@tool(needs_approval=True)
def book(hotel: str, nights: int) -> str:
    """Book a hotel."""
    return f"{hotel} is booked for {nights} nights"


ANSWER = """Tomorrow it **rains** in Oslo, with `8 °C` at most.

| city | sky  | max |
|:-----|:-----|----:|
| Oslo | rain | 8 °C |
| Bergen | more rain | 7 °C |

- take an umbrella
- leave the sunglasses

```python
def pack(rain: bool) -> str:
    return "umbrella" if rain else "sunglasses"
```

That is all. Have a good trip!
"""

weather = Agent(
    name="weather",
    description="Knows the weather of tomorrow, and books hotels where it does not rain.",
    model=ScriptedModel(
        Message(
            role="assistant",
            parts=(
                Reasoning(text="The tool knows the forecast, so I ask it first."),
                calls("get_weather", city="Oslo", days=2),
            ),
        ),
        ANSWER,
        calls("book", hotel="Hotel Bristol", nights=3),
        "Your room is **booked**.",
        "A very long story. " * 200,
        "And now a short one.",
        ModelError("the provider is overloaded", hint="wait a minute, then try again"),
        "Here I am again.",
        delay=0.02,
        piece=12,
        name="openai/gpt-5-mini",
    ),
    tools=[get_weather, book],
)
blind = Agent(name="blind", model=ScriptedModel("I read it.", name="openai/gpt-oss"))
seer = Agent(
    name="seer",
    model=ScriptedModel("A red square.", "Still red.", "Another one.", profile=SEES, repeat=True),
)
'''
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108020000009077"
    "53de0000000c4944415408d763f8cfc000000301010018dd8db00000000049454e44ae426082"
)


@pytest.fixture
def folder(server: Server) -> Path:
    (server.root / "chat_agents.py").write_text(AGENTS)
    return server.root


def opened(lab: Lab, server: Server, *cells: str, name: str = "chats.ipynb") -> Notebook:
    notebook = lab.open(
        server.write(name, ["%load_ext mastra_nb", "from chat_agents import *", *cells])
    )
    for index in range(2 + len(cells)):
        notebook.run(index)
    return notebook


def chat_of(notebook: Notebook, index: int = 2) -> Locator:
    chat = notebook.output(index).locator(".mnb-chat").first
    expect(chat.locator(".mnb-helloname, .mnb-turn").first).to_be_visible()
    return chat


def ask(chat: Locator, text: str) -> Locator:
    field = chat.get_by_label("Your message")
    field.fill(text)
    field.press("Enter")
    turn = chat.locator(".mnb-turn").last
    expect(turn.locator(".mnb-bubble")).to_have_text(text)
    return turn


def done(turn: Locator, status: str = "done") -> Locator:
    expect(turn).to_have_attribute("data-status", status, timeout=20_000)
    return turn


def test_a_conversation(lab: Lab, server: Server, folder: Path) -> None:
    notebook = opened(lab, server, "chat = weather.chat()\nchat")
    chat = chat_of(notebook)
    page = notebook.page
    notebook.screenshot("chat-empty-light")

    # An answer streams, its tool call and its reasoning are folded lines.
    chat.evaluate(
        """node => {
            window.lengths = [];
            new MutationObserver(() => {
                const n = node.querySelector('.mnb-body')?.textContent.length;
                if (n && n !== window.lengths.at(-1)) window.lengths.push(n);
            }).observe(node, {childList: true, subtree: true, characterData: true});
        }"""
    )
    turn = ask(chat, "What is the weather in Oslo tomorrow?\nAnd what do I pack?")
    done(turn)
    assert len(page.evaluate("() => window.lengths")) >= 4
    becomes(lambda: turn.locator("strong").all_inner_texts(), ["rains"])
    becomes(lambda: turn.locator("tbody td").all_inner_texts()[:3], ["Oslo", "rain", "8 °C"])
    becomes(
        lambda: turn.locator("li").all_inner_texts(), ["take an umbrella", "leave the sunglasses"]
    )
    tool = turn.locator(".mnb-tool")
    expect(tool).to_contain_text("get_weather", use_inner_text=True)
    expect(tool.get_by_text("max_c")).not_to_be_visible()
    notebook.screenshot("chat-light")
    assert lab.judge(".mnb-chat") == []
    lab.theme("dark")
    notebook.screenshot("chat-dark")
    assert lab.judge(".mnb-chat") == []
    tool.locator("summary").focus()
    page.keyboard.press("Enter")
    expect(tool.get_by_text("max_c")).to_be_visible()
    expect(turn.locator(".mnb-facts")).to_contain_text("openai/gpt-5-mini", use_inner_text=True)
    expect(turn.locator(".mnb-facts")).to_contain_text("/80 tokens", use_inner_text=True)

    # A call waits: by keyboard, with other arguments.
    turn = ask(chat, "Then book a hotel.")
    box = chat.get_by_role("alertdialog")
    expect(box).to_be_visible()
    expect(box.get_by_role("button", name="Approve")).to_be_focused()
    notebook.screenshot("chat-approval-dark")
    assert lab.judge(".mnb-chat") == []
    lab.theme("light")
    notebook.screenshot("chat-approval-light")
    assert lab.judge(".mnb-chat") == []
    box.get_by_role("button", name="Approve").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    field = box.get_by_label("Arguments as JSON")
    expect(field).to_be_focused()
    field.fill('{"hotel": "Grand Hotel", "nights": 2}')
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    done(turn)
    turn.locator(".mnb-tool summary").click()
    expect(turn.get_by_text("Grand Hotel is booked for 2 nights")).to_be_visible()

    # Escape stops this run: what was said is kept, and the next question is answered.
    turn = ask(chat, "Tell me a story.")
    turn.get_by_text("long story").first.wait_for()
    page.wait_for_timeout(400)
    notebook.screenshot("chat-running-light")
    page.keyboard.press("Escape")
    done(turn, "cancelled")
    expect(turn).to_contain_text("A very long story.", use_inner_text=True)
    expect(turn).to_contain_text("Stopped", use_inner_text=True)
    done(ask(chat, "A short one?"))

    # An error has a hint, and a button.
    turn = ask(chat, "Still there?")
    done(turn, "failed")
    expect(turn.get_by_text("overloaded")).to_be_visible()
    notebook.screenshot("chat-error-light")
    assert lab.judge(".mnb-chat") == []
    lab.theme("dark")
    notebook.screenshot("chat-error-dark")
    turn.get_by_role("button", name="Retry").click()
    turn = chat.locator(".mnb-turn").last
    expect(turn.get_by_text("Here I am again.")).to_be_visible()
    expect(chat.locator(".mnb-turn")).to_have_count(5)
    saved = notebook.save().cells[2].outputs[0].data
    assert "Chat with weather" in saved["text/markdown"]
    assert "Oslo" not in str(notebook.save().metadata)


def test_branches_and_threads(lab: Lab, server: Server, folder: Path) -> None:
    notebook = opened(lab, server, "chat = seer.chat()\nchat", "chat", "chat.thread")
    chat, other = chat_of(notebook), chat_of(notebook, 3)
    page = notebook.page
    done(ask(chat, "first"))
    done(ask(chat, "second"))
    # Two views stay in step.
    expect(other.locator(".mnb-turn")).to_have_count(2)
    expect(other.locator(".mnb-turn").last).to_contain_text("Still red.")

    turn = chat.locator(".mnb-turn").first
    turn.hover()
    turn.get_by_label("Edit: ask otherwise in a branch").click()
    field = turn.get_by_label("Edit the question")
    field.fill("first, but other")
    field.press("Enter")
    expect(chat.locator(".mnb-turn")).to_have_count(1)
    done(chat.locator(".mnb-turn").last)
    expect(chat.locator(".mnb-bubble")).to_have_text("first, but other")

    chat.locator(".mnb-threadbutton").click()
    expect(chat.locator(".mnb-threadopen")).to_have_count(2)
    notebook.screenshot("chat-threads-light")
    chat.get_by_role("button", name=re.compile("^first ")).last.click()
    expect(chat.locator(".mnb-turn")).to_have_count(2)

    turn = chat.locator(".mnb-turn").first
    turn.hover()
    turn.get_by_label("Branch from here").click()
    expect(chat.locator(".mnb-turn")).to_have_count(1)

    # By keyboard only: open the list, rename, delete.
    chat.locator(".mnb-threadbutton").focus()
    page.keyboard.press("Enter")
    expect(chat.locator(".mnb-threadopen[aria-current]")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.keyboard.type("A branch")
    page.keyboard.press("Enter")
    expect(chat.locator(".mnb-threadtitle")).to_have_text("A branch")
    lab.theme("dark")
    chat.get_by_label("Delete A branch").click()
    expect(chat.get_by_role("button", name="Keep")).to_be_focused()
    notebook.screenshot("chat-threads-dark")
    assert lab.judge(".mnb-chat") == []
    chat.get_by_role("button", name="Delete", exact=True).click()
    expect(chat.locator(".mnb-threadopen")).to_have_count(2)
    page.keyboard.press("Escape")


def test_files(lab: Lab, server: Server, folder: Path) -> None:
    notebook = opened(lab, server, "seer.chat()", "blind.chat()")
    sees, blind = chat_of(notebook), chat_of(notebook, 3)
    image = {"name": "square.png", "mimeType": "image/png", "buffer": PNG}
    notes = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"It is red."}
    sees.locator("input[type=file]").set_input_files([image, notes])
    expect(sees.locator(".mnb-composer .mnb-chip")).to_have_count(2)
    notebook.screenshot("chat-files-light")
    assert lab.judge(".mnb-chat") == []
    sees.get_by_label("Remove notes.txt").click()
    expect(sees.locator(".mnb-composer .mnb-chip")).to_have_count(1)
    sees.locator("input[type=file]").set_input_files([notes])
    turn = done(ask(sees, "What is it?"))
    expect(turn.locator(".mnb-question .mnb-chip")).to_have_count(2)
    assert turn.locator(".mnb-question img").get_attribute("src").startswith("data:image/png")

    blind.locator("input[type=file]").set_input_files([image])
    expect(blind.get_by_role("alert").first).to_contain_text("takes no images")
    expect(blind.locator(".mnb-composer .mnb-chip")).to_have_count(0)
    blind.locator("input[type=file]").set_input_files(
        [{"name": "big.txt", "mimeType": "text/plain", "buffer": b"x" * 5_000_001}]
    )
    expect(blind.get_by_role("alert").first).to_contain_text("5.0 MB")
    notebook.screenshot("chat-files-refused-light")


def test_a_chat_goes_on_while_a_cell_runs(lab: Lab, server: Server, folder: Path) -> None:
    notebook = opened(
        lab,
        server,
        "slow = Agent(name='slow', model=ScriptedModel('One more. ' * 300, 'Yes.', delay=0.05))\n"
        "slow.chat()",
        "import asyncio\nawait asyncio.sleep(0)",
        "await asyncio.sleep(8)",
        "import time\ntime.sleep(5)",
    )
    chat = chat_of(notebook)
    # It hears while a cell awaits.
    notebook.start(4)
    turn = ask(chat, "now?")
    turn.get_by_text("One more.").first.wait_for()
    assert not notebook.is_done(4)
    notebook.wait_done(4)
    # It goes on, even while a cell blocks.
    notebook.start(5)
    grown = [len(turn.inner_text())]
    for _ in range(4):
        notebook.page.wait_for_timeout(300)
        grown.append(len(turn.inner_text()))
    assert not notebook.is_done(5)
    assert grown == sorted(grown) and len(set(grown)) >= 3
    notebook.wait_done(5)
    chat.get_by_label("Stop (Esc)").click()
    done(turn, "cancelled")
    done(ask(chat, "still there?"))


def test_without_a_kernel_it_says_what_to_do(lab: Lab, server: Server, folder: Path) -> None:
    notebook = opened(lab, server, "chat = seer.chat()\nchat")
    chat = chat_of(notebook)
    done(ask(chat, "hello"))
    notebook.page.evaluate("async () => { await window.notebook.sessionContext.restartKernel(); }")
    notebook.wait_idle()
    field = chat.get_by_label("Your message")
    if field.is_enabled():
        field.fill("still there?")
        field.press("Enter")
    expect(chat.locator(".mnb-banner")).to_contain_text("run the cell again", timeout=15_000)
    notebook.screenshot("chat-lost-light")
    expect(chat).to_contain_text("hello", use_inner_text=True)


@pytest.fixture
def attacked(server: Server, folder: Path) -> str:
    hot = [p.replace("alert(1)", "canary(1)").replace("alert", "canary") for p in PAYLOADS]
    (server.root / "attack.py").write_text(
        "from mastra_nb import Agent, tool\n"
        "from mastra_nb.testing import ScriptedModel, calls\n"
        "from mastra_nb.messages import Message, Reasoning, Text\n"
        f"P = {hot!r}\n"
        "BAD = '\\n\\n'.join(p.encode(errors='replace').decode() for p in P)\n"
        "@tool(needs_approval=True)\n"
        "def pay(to: str) -> str:\n    'Pay.'\n    return to\n"
        "evil = Agent(name='evil<img src=x onerror=canary(1)>', description=BAD, tools=[pay],\n"
        "    model=ScriptedModel(Message(role='assistant', parts=(Reasoning(text=BAD), "
        "Text(text=BAD), calls('pay', to=BAD))), BAD, *[p.encode(errors='replace').decode() "
        "for p in P[:12]], RuntimeError(BAD), piece=500))\n"
    )
    return "\n".join(hot[:5])


def test_nothing_said_becomes_active(lab: Lab, server: Server, attacked: str) -> None:
    notebook = opened(lab, server, "from attack import evil\nchat = evil.chat()\nchat")
    chat = chat_of(notebook)
    turn = ask(chat, attacked)
    chat.get_by_role("alertdialog").get_by_role("button", name="Approve").click()
    done(turn)
    for n in range(12):
        done(ask(chat, f"go on {n}"))
    done(ask(chat, "fail"), "failed")
    for fold in chat.locator("summary").all():
        fold.click()
    chat.locator(".mnb-threadbutton").click()
    expect(chat.locator(".mnb-threadopen")).to_have_count(1)
    found = chat.evaluate(
        """node => [...node.querySelectorAll('*')].flatMap(e => [
            ...[...e.attributes].filter(a => /^on/i.test(a.name)).map(a => a.name),
            ...(/^(script|iframe|object|embed|form|link|meta|base|style|video)$/.test(e.localName)
                ? [e.localName] : []),
            ...(e.localName === 'a' && e.href ? [e.href] : []),
            ...(e.localName === 'img' ? [e.src] : []),
        ])"""
    )
    assert [f for f in found if not f.startswith("mailto:")] == []
    notebook.screenshot("chat-hostile-light")
    lab.watch.assert_clean()
