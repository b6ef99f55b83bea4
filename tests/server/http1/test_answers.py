"""Responses: framing by version and status, 100 Continue, and applications that break their promise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
from tests.server.http1.harness import exchange, get, running
from tests.server.http1.peer import read_answers, turns

if TYPE_CHECKING:
    from tests.server.http1.harness import Running
    from tests.server.http1.peer import Answer

POST: Final = b"POST %s HTTP/1.%d\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"


async def ask(served: Running, target: str, *, method: str = "GET", version: str = "1.1") -> Answer:
    async with await served.connect() as peer:
        await peer.send(f"{method} {target} HTTP/{version}\r\nHost: h\r\nConnection: close\r\n\r\n".encode())
        (answer,) = read_answers(await peer.read_to_end(), [method])
        assert not peer.reset
    return answer


async def test_a_body_of_unknown_length_is_chunked() -> None:
    """Otherwise the client cannot see that it was cut."""
    async with running() as served:
        answer = await ask(served, "/stream/3")
    assert (answer.framing, answer.whole, len(answer.body)) == ("chunked", True, 3072)


async def test_a_client_of_http_1_0_gets_no_chunks() -> None:
    """It would take their sizes for content."""
    async with running() as served:
        answer = await ask(served, "/stream/3", version="1.0")
    assert (answer.framing, answer.body) == ("close", bytes(3072))


@pytest.mark.parametrize("target", ["/size/70000", "/stream/3", "/file/70000", "/x"])
async def test_head_has_no_body(target: str) -> None:
    """A body would be taken for the next response."""
    async with running() as served:
        data = f"HEAD {target} HTTP/1.1\r\nHost: h\r\n\r\nGET /y HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
        async with await served.connect() as peer:
            await peer.send(data.encode())
            first, second = read_answers(await peer.read_to_end(), ["HEAD", "GET"])
    assert (first.status, second.status) == (200, 200)
    assert second.body.startswith(b"{")


@pytest.mark.parametrize("status", [204, 304])
async def test_204_and_304_have_no_body(status: int) -> None:
    """RFC 9112 section 6.3: they end at the empty line, with any headers."""
    async with running() as served, await served.connect() as peer:
        await peer.send(b"GET /status/%d HTTP/1.1\r\nHost: h\r\n\r\n" % status)
        await peer.send(b"GET /y HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        first, second = read_answers(await peer.read_to_end())
    assert (first.status, second.status) == (status, 200)


async def test_date_and_no_server() -> None:
    """RFC 9110 section 6.6.1 requires a Date; the server's version is not disclosed."""
    async with running() as served:
        for target in ("/x", "/stream/1", "/refuse"):
            answer = await get(served, target)
            assert answer.header("date")
            assert answer.header("server") is None
        refusal = (await exchange(served, b"GET /x HTTP/1.1\r\n\r\n")).answers[0]
        assert refusal.header("date")
        assert refusal.header("server") is None


@pytest.mark.parametrize("target", ["/short", "/broken-late"])
async def test_a_cut_response_ends_the_connection(target: str) -> None:
    """The rest of a layer that is missing must not be filled by the next response."""
    async with running() as served, await served.connect() as peer:
        await peer.send(f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        answers = read_answers(await peer.read_to_end())
        assert served.app.begun == [target.encode()]
    assert not any(answer.whole for answer in answers)


async def test_an_answer_longer_than_its_length_is_never_sent() -> None:
    """The surplus would be the beginning of the next response."""
    async with running() as served, await served.connect() as peer:
        await peer.send(b"GET /long HTTP/1.1\r\nHost: h\r\n\r\n")
        data = await peer.read_to_end()
    assert b"ten b" not in data[data.find(b"\r\n\r\n") + 9 :]
    assert b"bytes." not in data


@pytest.mark.parametrize("target", ["/broken", "/silent"])
async def test_an_application_that_fails_gets_500_sent(target: str) -> None:
    """A client that gets nothing tries again."""
    async with running() as served:
        assert (await get(served, target)).status == 500
        assert (await get(served)).status == 200


async def test_continue_is_sent_when_the_body_is_requested() -> None:
    """A push that is refused is not uploaded first."""
    async with running() as served:
        async with await served.connect() as peer:
            await peer.send(POST % (b"/wait", 1))
            await served.app.waiting.wait()
            await turns()
            assert peer.received == b""
            served.app.gate.set()
            await peer.read_until(b"100 Continue\r\n\r\n")
            await peer.send(b"hello")
            await peer.read_until(b'"size": 5')
        assert served.app.seen[-1].body == b"hello"


async def test_no_continue_for_a_refusal() -> None:
    """And what the client sends nevertheless is no request."""
    async with running() as served, await served.connect() as peer:
        await peer.send(POST % (b"/refuse", 1))
        (answer,) = read_answers(await peer.read_to_end())
    assert (answer.status, answer.interim, answer.header("connection")) == (403, (), "close")


async def test_no_continue_for_http_1_0() -> None:
    """RFC 9110 section 10.1.1: it does not know interim responses."""
    async with running() as served, await served.connect() as peer:
        await peer.send(POST % (b"/x", 0))
        await turns(10)
        await peer.send(b"hello")
        (answer,) = read_answers(await peer.read_to_end())
    assert (answer.status, answer.interim) == (200, ())


async def test_no_continue_once_the_body_comes() -> None:
    """A client that did not wait does not expect it any more."""
    async with running() as served, await served.connect() as peer:
        await peer.send(POST % (b"/x", 1) + b"hello")
        peer.half_close()
        (answer,) = read_answers(await peer.read_to_end())
    assert (answer.status, answer.interim) == (200, ())
