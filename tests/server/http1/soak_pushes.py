"""The pushes of a soak, and ranges of blobs: what a registry does beyond the application of the tests.

Each client has a repository of its own, and all of them push the same few blobs, so that the store stays small.
"""

from __future__ import annotations

import asyncio
import random
from functools import cache
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from tests.server.http1.soak_clients import skim
from tests.server.http1.soak_servers import BASE
from tests.wire import OCI_MANIFEST, image

from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.server.http1.peer import Peer
    from tests.server.http1.soak_clients import Actor

__all__ = ["PUSHES"]

_BLOBS: Final = 32
_TAGS: Final = 8
_LIMIT_S: Final = 60.0


@cache
def blob(number: int) -> bytes:
    return random.Random(number).randbytes(1 << (number % 21))


def some_blob(actor: Actor) -> bytes:
    return blob(actor.source.randrange(_BLOBS))


async def begin(actor: Actor, peer: Peer) -> str:
    """Start an upload; return its path."""
    answer = await actor.ask(peer, "POST", f"/v2/{actor.name}/blobs/uploads/")
    assert answer.status == 202, answer
    return path_of(answer.headers["location"])


def path_of(location: str) -> str:
    parts = urlsplit(location)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def finishing(location: str, data: bytes) -> str:
    return f"{location}{'&' if '?' in location else '?'}digest={Digest.of(data)}"


async def push(actor: Actor, peer: Peer, data: bytes) -> None:
    """Push a blob in one of four ways."""
    location = await begin(actor, peer)
    way = actor.source.randrange(4)
    if way == 0:
        answer = await actor.ask(peer, "PUT", finishing(location, data), data=data)
    elif way == 1:
        await actor.send(peer, "PUT", finishing(location, data), "Transfer-Encoding: chunked")
        await peer.send(actor.chunks(data))
        answer = await skim(peer)
    else:
        if way == 2:
            answer = await actor.ask(peer, "PATCH", location, data=data)
        else:
            await actor.send(peer, "PATCH", location, "Transfer-Encoding: chunked", "Expect: 100-continue")
            await peer.send(actor.chunks(data))
            answer = await skim(peer)
        assert answer.status == 202, answer
        answer = await actor.ask(peer, "PUT", finishing(path_of(answer.headers["location"]), data))
    assert answer.status == 201, answer


async def push_blob(actor: Actor) -> None:
    async with await actor.connect() as peer:
        await push(actor, peer, some_blob(actor))


async def push_image(actor: Actor) -> None:
    """Push an image, pull its manifest, and delete it now and then."""
    number = actor.source.randrange(_BLOBS)
    config, layer = b'{"n": %d}' % number, blob(number)
    manifest, tag = image(config, [layer]), f"t{actor.source.randrange(_TAGS)}"
    path = f"/v2/{actor.name}/manifests"
    async with await actor.connect() as peer:
        await push(actor, peer, config)
        await push(actor, peer, layer)
        answer = await actor.ask(peer, "PUT", f"{path}/{tag}", f"Content-Type: {OCI_MANIFEST}", data=manifest)
        assert answer.status == 201, answer
        answer = await actor.ask(peer, "GET", f"{path}/{tag}", f"Accept: {OCI_MANIFEST}")
        assert (answer.status, answer.size) == (200, len(manifest)), answer
        if actor.chance(0.3):
            answer = await actor.ask(peer, "DELETE", f"{path}/{Digest.of(manifest)}")
            assert answer.status == 202, answer
            assert (await actor.ask(peer, "GET", f"{path}/{tag}")).status == 404


async def mount(actor: Actor) -> None:
    """Mount a blob from another repository, and unlink it."""
    digest = Digest.of(b"{}")
    async with await actor.connect() as peer:
        target = f"/v2/{actor.name}/blobs/uploads/?mount={digest}&from={BASE}"
        answer = await actor.ask(peer, "POST", target)
        assert answer.status == 201, answer
        answer = await actor.ask(peer, "DELETE", f"/v2/{actor.name}/blobs/{digest}")
        assert answer.status == 202, answer


async def wrong_digest(actor: Actor) -> None:
    async with await actor.connect() as peer:
        location = await begin(actor, peer)
        answer = await actor.ask(peer, "PUT", finishing(location, b"other"), data=some_blob(actor) + b"!")
        assert answer.status == 400, answer
    await cancel(actor, location)


async def leave_upload(actor: Actor) -> None:
    """Break an upload off somewhere, then cancel it."""
    peer = await actor.connect()
    try:
        location = await begin(actor, peer)
        data = bytes(200_000)
        if actor.chance(0.5):
            cut = actor.source.randrange(len(data))
            await actor.send(peer, "PATCH", location, f"Content-Length: {len(data)}", data=data[:cut])
        else:
            framed = actor.chunks(data)
            cut = actor.source.randrange(len(framed))
            await actor.send(peer, "PATCH", location, "Transfer-Encoding: chunked", data=framed[:cut])
        await actor.leave(peer)
    finally:
        peer.close()
    await cancel(actor, location)


async def cancel(actor: Actor, location: str) -> None:
    """Delete an upload, which a request that was broken off may still hold for a moment."""
    async with asyncio.timeout(_LIMIT_S), await actor.connect() as peer:
        while True:
            answer = await actor.ask(peer, "DELETE", location)
            if answer.status in {204, 404}:
                return
            assert answer.status in {409, 416, 503}, answer
            await asyncio.sleep(0.05)


async def ranges(actor: Actor) -> None:
    """Parts of a blob."""
    size = actor.target.file_bytes
    first = actor.source.randrange(size)
    last = actor.source.randrange(first, size)
    shown, status, length = actor.source.choice((
        (f"bytes={first}-{last}", 206, last - first + 1), (f"bytes={first}-", 206, size - first),
        (f"bytes=-{size - first}", 206, size - first), (f"bytes={size}-", 416, None), ("lines=1-2", 200, size),
    ))  # fmt: skip
    async with await actor.connect() as peer:
        answer = await actor.ask(peer, "GET", actor.target.file, f"Range: {shown}")
        assert answer.status == status, (shown, answer)
        assert length in {None, answer.size}, (shown, answer)


async def missing(actor: Actor) -> None:
    """Requests for missing content, and requests that are not allowed."""
    async with await actor.connect() as peer:
        for method, target, status in (
            ("GET", f"/v2/{BASE}/blobs/{Digest.of(b'missing')}", 404),
            ("HEAD", f"/v2/{BASE}/manifests/missing", 404),
            ("GET", "/v2/NOT/manifests/x", 404),
            ("GET", f"/v2/{BASE}/blobs/sha256:123", 400),
        ):
            answer = await actor.ask(peer, method, target)
            assert answer.status == status, (target, answer)


PUSHES: Final[tuple[tuple[Callable[[Actor], Awaitable[None]], int], ...]] = (
    (push_blob, 3), (push_image, 2), (mount, 1), (wrong_digest, 1), (leave_upload, 3), (ranges, 2), (missing, 1),
)  # fmt: skip
