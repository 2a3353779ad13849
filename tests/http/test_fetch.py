"""Fetching reaches public addresses only, however they are spelt or reached."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mastra_nb.errors import MastraError, ToolError
from mastra_nb.http.fetch import fetch, is_public
from mastra_nb.rag.loading import load
from mastra_nb.testing import no_network
from tests.http.server import Answer, serve

HERE = ("127.0.0.1",)
HTML = {"content-type": "text/html; charset=latin-1"}


def code(error: pytest.ExceptionInfo[MastraError]) -> str:
    return error.value.code


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.9.1",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "100.100.100.200",
        "192.0.0.192",
        "168.63.129.16",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "192.0.2.1",
        "203.0.113.1",
        "192.88.99.1",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:8.8.8.8",
        "::ffff:0:127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::808:808",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "2002:808:808::",
        "2001:0:1::1",
        "fe80::1",
        "fe80::1%lo",
        "fec0::1",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "2001:db8::1",
        "100::1",
        "3fff::1",
        "5f00::1",
        "2a00:1450::5efe:7f00:1",
        "2a00:1450::200:5efe:a00:1",
        "nonsense",
    ],
)
def test_what_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "2a00:1450:4001::1"])
def test_what_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1/", "http://localhost/", "http://2130706433/", "http://0x7f.1/",
     "http://017700000001/", "http://[::1]/", "http://[::ffff:7f00:1]/", "http://0/",
     "https://169.254.169.254/latest/meta-data", "http://[fe80::1%25lo]/", "http://127.0.0.1./"],
)  # fmt: skip
async def test_no_spelling_reaches_this_machine(url: str) -> None:
    with no_network(), pytest.raises(ToolError) as caught:
        await fetch(url)
    assert code(caught) in ("fetch.blocked", "fetch.failed")


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://8.8.8.8/", "gopher://x/", "javascript:1", "data:text/html,x",
     "//x/y", "http://", "http://user:secret@8.8.8.8/", "http://[1:2/"],
)  # fmt: skip
async def test_other_schemes_and_logins_are_refused(url: str) -> None:
    with no_network(), pytest.raises(MastraError) as caught:
        await fetch(url)
    assert "secret" not in str(caught.value)


Resolved = dict[str, list[list[str]]]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Resolved:
    """A resolver of our own: the answers of each name, one list a question."""
    table: Resolved = {}
    real = asyncio.BaseEventLoop.getaddrinfo

    async def answer(self: Any, host: str, port: int, **options: Any) -> Any:
        if host not in table:
            return await real(self, host, port, **options)
        answers = table[host].pop(0) if len(table[host]) > 1 else table[host][0]
        families = [socket.AF_INET6 if ":" in a else socket.AF_INET for a in answers]
        return [
            (f, socket.SOCK_STREAM, 6, "", (a, port))
            for f, a in zip(families, answers, strict=True)
        ]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", answer)
    return table


async def test_a_name_is_blocked_by_any_private_answer(names: Resolved) -> None:
    names["evil.example"] = [["8.8.8.8", "10.0.0.1"]]
    with no_network(), pytest.raises(ToolError, match=r"leads to 10\.0\.0\.1") as caught:
        await fetch("https://evil.example/")
    assert code(caught) == "fetch.blocked" and "allow_hosts" in caught.value.hint


async def test_the_connection_goes_to_the_address_that_was_checked(names: Resolved) -> None:
    """A second question to the resolver would lead inside."""
    names["rebind.example"] = [["203.0.113.7"], ["127.0.0.1"]]
    names["rebind.example"][0] = ["192.0.1.7"]
    tried: list[Any] = []
    loop = asyncio.get_running_loop()
    real = loop.create_connection

    async def connect(protocol: Any, host: str, port: int, **options: Any) -> Any:
        tried.append((host, options.get("server_hostname")))
        raise OSError("not today")

    loop.create_connection = connect  # type: ignore[method-assign]
    try:
        with pytest.raises(ToolError, match="not today"):
            await fetch("https://rebind.example/")
    finally:
        loop.create_connection = real  # type: ignore[method-assign]
    assert tried == [("192.0.1.7", "rebind.example")]


@pytest.fixture
async def page() -> AsyncIterator[Any]:
    script: list[Answer] = []
    async with serve(script) as server:
        server.url = server.url.removesuffix("/v1")
        yield server


async def test_an_allowed_host_is_fetched(page: Any) -> None:
    page.script.append(Answer(headers=HTML, pieces=[b"<p>", "é".encode("latin-1")]))
    found = await fetch(f"{page.url}/a", allow_hosts=HERE)
    assert found.body.decode(found.charset) == "<p>é" and found.media_type == "text/html"


async def test_every_redirect_is_checked(page: Any) -> None:
    for to in ("http://localhost:1/", "http://169.254.169.254/", "file:///etc/passwd", "//[::1]/"):
        page.script[:] = [Answer(status=302, headers={"location": to})]
        with pytest.raises(ToolError) as caught:
            await fetch(page.url, allow_hosts=HERE)
        assert code(caught) == "fetch.blocked"


async def test_redirects_are_followed_so_far(page: Any) -> None:
    page.script += [
        Answer(status=301, headers={"location": "/b"}),
        Answer(headers=HTML, pieces=[b"there"]),
    ]
    found = await fetch(f"{page.url}/a", allow_hosts=HERE)
    assert found.url.endswith("/b") and found.body == b"there"
    page.requests.clear()
    page.script[:] = [Answer(status=302, headers={"location": "/again"})]
    with pytest.raises(ToolError, match="more than 5 times"):
        await fetch(page.url, allow_hosts=HERE)


@pytest.mark.parametrize("declared", [True, False])
async def test_a_page_that_is_too_long_is_not_read(page: Any, declared: bool) -> None:
    body = b"x" * 50_000
    head = f"content-length: {len(body)}\r\n" if declared else "connection: close\r\n"
    page.script.append(
        Answer(raw=f"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n{head}\r\n".encode() + body)
    )
    with pytest.raises(ToolError, match="longer than 10,000 bytes") as caught:
        await fetch(page.url, allow_hosts=HERE, max_bytes=10_000)
    assert code(caught) == "fetch.too_large"


async def test_what_a_page_unpacks_to_counts(page: Any) -> None:
    packed = gzip.compress(b"0" * 5_000_000)
    page.script.append(Answer(headers={**HTML, "content-encoding": "gzip"}, pieces=[packed]))
    with pytest.raises(ToolError) as caught:
        await fetch(page.url, allow_hosts=HERE, max_bytes=100_000)
    assert code(caught) == "fetch.too_large"


async def test_all_of_it_has_one_time_limit(page: Any) -> None:
    page.script.append(Answer(headers=HTML, pieces=[b"x"] * 100, pause=0.05))
    with pytest.raises(ToolError) as caught:
        await fetch(page.url, allow_hosts=HERE, seconds=0.3)
    assert code(caught) == "fetch.timeout"


async def test_types_and_states_are_checked(page: Any) -> None:
    page.script.append(Answer(headers={"content-type": "image/png"}, pieces=[b"x"]))
    with pytest.raises(ToolError, match="image/png") as caught:
        await fetch(page.url, allow_hosts=HERE, media_types=("text/",))
    assert code(caught) == "fetch.type"
    page.requests.clear()
    page.script[:] = [Answer(status=404)]
    with pytest.raises(ToolError, match="answered 404"):
        await fetch(f"{page.url}/x?token=secret", allow_hosts=HERE)


async def test_errors_do_not_hold_the_query_of_an_address(page: Any) -> None:
    page.script[:] = [Answer(status=500)]
    with pytest.raises(ToolError) as caught:
        await fetch(f"{page.url}/x?token=secret#y", allow_hosts=HERE)
    assert "secret" not in str(caught.value)


async def test_a_page_becomes_a_document(page: Any) -> None:
    body = "<title>Owls</title><h1>Owls</h1><p>caf\xe9</p><script>x</script>".encode("latin-1")
    page.script.append(Answer(headers=HTML, pieces=[body]))
    found = await load(f"{page.url}/owls", allow_hosts=HERE)
    assert found[0].text == "# Owls\n\ncafé" and found[0].title == "Owls"
    assert found[0].source == f"{page.url}/owls"


async def test_a_page_that_cannot_be_had_does_not_stop_the_rest(page: Any, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    page.script.append(Answer(headers={"content-type": "video/mp4"}, pieces=[b"x"]))
    found = await load(page.url, tmp_path / "a.txt")
    assert len(found) == 1 and "not a public address" in found.failed[0].why
    found = await load(page.url, tmp_path / "a.txt", allow_hosts=HERE)
    assert len(found) == 1 and "video/mp4" in found.failed[0].why
