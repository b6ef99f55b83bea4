"""Settings of Redis that show only when something is slow or gone, or in what is sent."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import ConnectionError as Broken
from structlog.testing import capture_logs
from tests.ports import free_port
from tests.redis_servers import RedisServer, a_redis

from moorage.cache.redis_client import connect
from moorage.cache.redis_sizes import RedisSizes
from moorage.config.sections.services import Redis
from moorage.types import Digest
from moorage.wiring.cache import redis_options

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.slow

DIGEST = Digest.of(b"a blob")


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, [0.008, 0.016, 0.032]),
        ({"maxretries": 5}, [0.008, 0.016, 0.032, 0.064, 0.128]),
        ({"minretrybackoff": 0.1}, [0.1, 0.2, 0.4]),
        ({"minretrybackoff": 0.1, "maxretrybackoff": 0.15}, [0.1, 0.15, 0.15]),
        ({"maxretrybackoff": 0.001}, [0.001] * 3),
        ({"minretrybackoff": -1e-9}, []),
        ({"maxretrybackoff": -1e-9}, []),
    ],
)
async def test_pauses_between_attempts(
    monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any], expected: list[float]
) -> None:
    """`minretrybackoff` and `maxretrybackoff`: the first pause, doubled each time, and the longest one."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("redis.asyncio.retry.sleep", sleep)
    client = connect(redis_options(Redis(addrs=(f"127.0.0.1:{free_port()}",), **keys)))
    with pytest.raises(Broken, match="connecting to"):
        await client.call("PING")
    assert pauses == pytest.approx(expected)
    await client.close()


async def test_a_server_that_comes_back_between_attempts_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is what the attempts are for: the caller does not notice."""
    with a_redis(tmp_path) as server:
        port = server.port
        server.kill()

        async def sleep(_: float) -> None:
            await asyncio.to_thread(server.start, port)

        monkeypatch.setattr("redis.asyncio.retry.sleep", sleep)
        client = connect(redis_options(Redis(addrs=(server.address,), maxretries=1)))
        assert await client.call("PING")
        await client.close()


async def test_pooltimeout_bounds_the_wait_of_a_lookup(tmp_path: Path) -> None:
    """With a Redis that hangs and one connection a request waits for so long, and not for `readtimeout`."""
    with a_redis(tmp_path) as server:
        options = redis_options(Redis(addrs=(server.address,), poolsize=1, readtimeout=30.0, pooltimeout=0.05))
        sizes = RedisSizes(options, timeout_s=20.0)
        server.freeze()
        with capture_logs() as logs:
            for _ in range(3):
                assert await sizes.get(DIGEST) is None
        server.thaw()
        await sizes.close()
    (logged,) = [entry for entry in logs if entry["log_level"] == "warning"]
    assert logged["error"] == "no answer within 0.05 s, 3 times in a row"


@pytest.mark.parametrize("disabled", [False, True])
async def test_disableidentity_keeps_the_librarys_name_from_the_server(tmp_path: Path, disabled: bool) -> None:
    """Servers before 7.2 refuse the command, and their log or proxy may complain of it."""
    with a_redis(tmp_path) as server:
        async with recorded(server) as (port, sent):
            client = connect(redis_options(Redis(addrs=(f"127.0.0.1:{port}",), disableidentity=disabled)))
            assert await client.call("PING")
            await client.close()
    assert b"PING" in sent
    assert (b"SETINFO" in sent) is not disabled


@pytest.mark.parametrize(("master", "addresses"), [("", "1"), ("m", "1"), ("", "12")])
def test_disableidentity_suits_every_kind_of_client(master: str, addresses: str) -> None:
    """Warnings are errors here; a parameter that redis-py no longer takes would stop a node."""
    addrs = tuple(f"127.0.0.1:{number}" for number in addresses)
    made = connect(redis_options(Redis(addrs=addrs, mastername=master, disableidentity=True)))._client
    if len(addrs) == 1:
        assert made.connection_pool.make_connection().driver_info is None
    else:
        assert made.connection_kwargs["driver_info"] is None


@asynccontextmanager
async def recorded(server: RedisServer) -> AsyncIterator[tuple[int, bytearray]]:
    """A port before the server, and what clients send to it."""
    sent = bytearray()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, into: bytearray) -> None:
        while data := await reader.read(1 << 16):
            into += data
            writer.write(data)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(copy(reader, back, sent), copy(there, writer, bytearray()))

    front = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with front:
        yield front.sockets[0].getsockname()[1], sent
