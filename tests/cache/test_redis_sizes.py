"""Sizes in a real Redis: what is written, what is believed, and what is left when Redis is not well."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs
from tests.redis_servers import RedisServer, a_redis, until

from moorage.cache.redis_sizes import RedisSizes
from moorage.registry.sizes import NotForgotten
from moorage.types import Digest, RepoName

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = pytest.mark.slow

NAME = RepoName("library/app")
DIGEST = Digest.of(b"a layer")
KEY = f"blobs::{DIGEST}"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with a_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(shared: RedisServer) -> RedisServer:
    """Empty, for tests that leave it running."""
    shared.ask("FLUSHALL")
    return shared


@pytest.fixture
async def sizes(server: RedisServer) -> AsyncIterator[RedisSizes]:
    # Patience for a busy machine: what is short is tested in test_circuit_breaker.py.
    found = RedisSizes(server.options(), timeout_s=20, pause_s=0.05)
    yield found
    await found.close()


async def eventually_up(sizes: RedisSizes) -> None:
    await until(lambda: not sizes.is_down)


async def test_a_size_is_written_as_the_reference_writes_it(sizes: RedisSizes, server: RedisServer) -> None:
    await sizes.put(DIGEST, 12)
    assert server.hash(KEY) == {"digest": str(DIGEST), "size": "12", "mediatype": "application/octet-stream"}
    assert server.ask("KEYS", "*") == KEY
    assert 0 < int(server.ask("TTL", KEY)) <= 24 * 3600
    assert await sizes.get(DIGEST) == 12


async def test_what_is_not_there_is_not_known(sizes: RedisSizes, server: RedisServer) -> None:
    assert await sizes.get(DIGEST) is None
    await sizes.put(DIGEST, 12)
    server.ask("FLUSHALL")
    assert await sizes.get(DIGEST) is None


@pytest.mark.parametrize(
    "fields",
    [
        ("size", "12"), ("digest", str(DIGEST)), ("digest", str(DIGEST), "size", ""),
        ("digest", str(DIGEST), "size", "-1"), ("digest", str(DIGEST), "size", "12.0"),
        ("digest", str(DIGEST), "size", "9" * 19), ("digest", str(DIGEST), "size", "\u0661"),
        ("digest", "sha256:" + "0" * 64, "size", "12"), ("digest", "", "size", "12"),
        ("digest", str(DIGEST), "size", "12", "gone", "1"),
    ],
)  # fmt: skip
async def test_an_entry_that_is_not_right_does_not_count(
    sizes: RedisSizes, server: RedisServer, fields: tuple[str, ...]
) -> None:
    """Foreign data under these keys would become the length of a download."""
    server.ask("HSET", KEY, *fields)
    assert await sizes.get(DIGEST) is None
    assert not sizes.is_down


async def test_a_key_of_another_kind_costs_one_line_in_the_log(sizes: RedisSizes, server: RedisServer) -> None:
    server.ask("SET", KEY, "x")
    with capture_logs() as logs:
        for _ in range(2):
            assert await sizes.get(DIGEST) is None
            await sizes.put(DIGEST, 12)
    assert [entry["log_level"] for entry in logs if entry["log_level"] != "debug"] == ["warning"]
    assert server.ask("GET", KEY) == "x"
    other = Digest.of(b"other")
    await sizes.put(other, 5)
    assert await sizes.get(other) == 5


async def test_forgetting(sizes: RedisSizes) -> None:
    await sizes.put(DIGEST, 12)
    await sizes.forget(DIGEST)
    assert await sizes.get(DIGEST) is None


async def test_a_removed_link_leaves_the_keys_by_which_the_reference_would_serve_it(
    sizes: RedisSizes, server: RedisServer
) -> None:
    """2.8 and 3.0 keep them, and serve what was deleted."""
    known, other = f"repository::{NAME}::blobs", Digest.of(b"other")
    server.ask("SADD", known, str(DIGEST), str(other))
    server.ask("HSET", f"{known}::{DIGEST}", "mediatype", "application/octet-stream")
    await sizes.put(DIGEST, 12)
    await sizes.unlinked(NAME, (DIGEST,))
    assert server.ask("SMEMBERS", known) == str(other)
    assert server.ask("EXISTS", f"{known}::{DIGEST}") == "0"
    assert await sizes.get(DIGEST) == 12, "the bytes are still there"


async def test_no_size_is_written_back_after_a_collector_removed_the_bytes(
    sizes: RedisSizes, server: RedisServer
) -> None:
    """A request that looked at the bytes before may write what it saw long after they are gone."""
    many = [Digest.of(str(number).encode()) for number in range(1100)]
    await sizes.put(DIGEST, 12)
    await sizes.collecting([DIGEST, *many])
    assert await sizes.get(DIGEST) is None
    await sizes.put(DIGEST, 12)
    assert await sizes.get(DIGEST) is None
    assert server.hash(KEY) == {"gone": "1"}
    assert 0 < int(server.ask("TTL", KEY)) <= 3600
    assert server.ask("DBSIZE") == "1101"
    server.ask("DEL", KEY)  # the hour is over
    await sizes.put(DIGEST, 12)
    assert await sizes.get(DIGEST) == 12


async def test_a_dead_redis_knows_nothing_and_is_found_again(server: RedisServer) -> None:
    """SIGKILL, then a new one on the same port: requests are answered, and the cache comes back by itself."""
    with a_redis(server.folder / "own") as own:
        sizes = RedisSizes(own.options(maxretries=0), timeout_s=20, pause_s=0.05)
        await sizes.put(DIGEST, 12)
        own.kill()
        with capture_logs() as logs:
            for _ in range(3):
                assert await sizes.get(DIGEST) is None
                await sizes.put(DIGEST, 12)
                await sizes.forget(DIGEST)
            assert sizes.is_down
            with pytest.raises(NotForgotten):
                await sizes.collecting([DIGEST])
            own.start(own.port)
            await eventually_up(sizes)
        assert [entry["log_level"] for entry in logs if entry["log_level"] != "debug"] == ["warning", "info"]
        await sizes.put(DIGEST, 12)
        assert await sizes.get(DIGEST) == 12
        await sizes.close()


async def test_a_restarted_redis_fails_no_request(server: RedisServer) -> None:
    """The connection that it cut is replaced within the same lookup."""
    with a_redis(server.folder / "own") as own:
        sizes = RedisSizes(own.options(), timeout_s=20)
        await sizes.put(DIGEST, 12)
        own.kill()
        own.start(own.port)
        await sizes.put(DIGEST, 12)
        assert await sizes.get(DIGEST) == 12
        assert not sizes.is_down
        await sizes.close()


async def test_late_answers_of_a_slow_redis_reach_nobody(server: RedisServer) -> None:
    """A connection whose caller gave up must not hand its answer to the next one."""
    others = [Digest.of(str(number).encode()) for number in range(20)]
    with a_redis(server.folder / "own") as own:
        filling = RedisSizes(own.options(), timeout_s=20)
        for number, digest in enumerate(others):
            await filling.put(digest, number)
        sizes = RedisSizes(own.options(poolsize=2), timeout_s=0.05, pause_s=0.05)
        for _ in range(2):  # so that there are connections; whether these are answered in time does not matter
            await sizes.get(others[0])
        await eventually_up(sizes)
        own.freeze()
        assert await asyncio.gather(*(sizes.get(digest) for digest in others)) == [None] * 20
        assert sizes.is_down
        own.thaw()
        await eventually_up(sizes)
        found = [await filling.get(digest) for digest in others]
        assert found == list(range(20))
        for number, digest in enumerate(others):
            assert await sizes.get(digest) in {number, None}
        await sizes.close()
        await filling.close()


async def test_a_deletion_that_redis_missed_is_sent_when_it_is_back(server: RedisServer) -> None:
    """Otherwise a registry of the old kind would still serve it."""
    known = f"repository::{NAME}::blobs"
    with a_redis(server.folder / "own") as own:
        own.ask("SADD", known, str(DIGEST))
        sizes = RedisSizes(own.options(), timeout_s=0.05, pause_s=0.05)
        own.freeze()
        while not sizes.is_down:
            await sizes.get(DIGEST)
        await sizes.unlinked(NAME, (DIGEST,))
        own.thaw()
        # Not until the key is gone: Redis may have done it, and its answer may come too late to count.
        await until(lambda: not sizes.has_pending)
        assert own.ask("EXISTS", known) == "0"
        with capture_logs() as logs:
            await sizes.close()
        assert logs == []


async def test_a_deletion_that_is_never_sent_to_redis_is_logged(server: RedisServer) -> None:
    with a_redis(server.folder / "own") as own:
        sizes = RedisSizes(own.options(maxretries=0), timeout_s=20, pause_s=3600)
        own.kill()
        with capture_logs() as logs:
            await sizes.unlinked(NAME, (DIGEST,))
            await sizes.close()
    (logged,) = [entry for entry in logs if "never sent" in entry["event"]]
    assert (logged["repository"], logged["digests"]) == (NAME, [str(DIGEST)])


async def test_a_connection_that_was_idle_for_too_long_is_replaced(server: RedisServer) -> None:
    """A firewall that forgot it would leave the next caller waiting."""
    from moorage.cache.redis_client import connect

    now = 0.0
    client = connect(server.options(connmaxidletime=60, connmaxlifetime=150), clock=lambda: now)
    sizes = RedisSizes(server.options(), timeout_s=20, client=client)

    async def connection() -> int:
        return int(await client.call("CLIENT", "ID"))

    first = await connection()
    now = 50.0
    assert await connection() == first
    now = 120.0
    second = await connection()
    assert second != first, "idle"
    for now in (170.0, 220.0, 265.0):  # noqa: B007  the clock reads it
        assert await connection() == second
    now = 280.0
    assert await connection() != second, "old"
    await sizes.close()
