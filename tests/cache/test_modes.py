"""Every way in which Redis is run: password, users, TLS, sentinels with a failover, a cluster."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from structlog.testing import capture_logs
from tests.redis_servers import a_cluster, a_redis, a_sentinel, until

from moorage.cache.redis_sizes import RedisSizes
from moorage.config.model import Settings
from moorage.config.sections.services import Redis, RedisTls
from moorage.config.sections.storage import Cache, Inmemory, Storage
from moorage.registry.sizes import MemorySizes
from moorage.startup import StartupError
from moorage.types import Digest, RepoName
from moorage.wiring.app import check
from moorage.wiring.cache import make_sizes, redis_options

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

NAME = RepoName("library/app")
DIGESTS = [Digest.of(str(number).encode()) for number in range(30)]
TIMEOUT_S = 20.0

PERMITTED = (
    *("on", ">hush", "~blobs::*", "~repository::*", "-@all", "+hmget", "+hset", "+hdel", "+hexists", "+hsetnx"),
    *("+expire", "+eval", "+del", "+srem", "+ping", "+select"),
)
"""As docs/caching.md has it."""


def sizes_of(**keys: Any) -> RedisSizes:
    return RedisSizes(redis_options(Redis(**keys)), timeout_s=TIMEOUT_S, pause_s=0.05)


async def assert_works(sizes: RedisSizes) -> None:
    for number, digest in enumerate(DIGESTS):
        await sizes.put(digest, number)
    assert [await sizes.get(digest) for digest in DIGESTS] == list(range(30))
    await sizes.unlinked(NAME, DIGESTS)
    await sizes.collecting(DIGESTS[:10])
    assert [await sizes.get(digest) for digest in DIGESTS] == [None] * 10 + list(range(10, 30))
    assert not sizes.is_down
    await sizes.close()


async def refusal(sizes: RedisSizes) -> str:
    """Return the error in the log when Redis refuses the connection."""
    with capture_logs() as logs:
        assert await sizes.get(DIGESTS[0]) is None
    await sizes.close()
    (logged,) = [entry for entry in logs if entry["log_level"] == "warning"]
    return str(logged["error"])


@pytest.mark.parametrize("protocol", [2, 3])
async def test_one_server_with_password_and_database(tmp_path: Path, protocol: int) -> None:
    with a_redis(tmp_path, "--requirepass", "hush", cli=("-a", "hush", "-n", "3")) as server:
        usual: dict[str, Any] = {"addrs": (server.address,), "protocol": protocol, "maxretries": -1}
        await assert_works(sizes_of(**usual, password="hush", db=3, clientname="registry-1"))
        assert server.ask("DBSIZE") == "30"
        for wrong in ("no", ""):
            error = await refusal(sizes_of(**usual, password=wrong))
            assert "hush" not in error
            assert "auth" in error.lower() or "pass" in error.lower()


async def test_a_user_with_few_permissions(tmp_path: Path) -> None:
    """The commands that docs/caching.md lists are all that is needed."""
    rules = " ".join(["user registry", *PERMITTED])
    (tmp_path / "users.acl").write_text(f"user default on nopass ~* +@all\n{rules}\n")
    with a_redis(tmp_path, "--aclfile", str(tmp_path / "users.acl")) as server:
        await assert_works(sizes_of(addrs=(server.address,), username="registry", password="hush"))
        server.ask("ACL", "SETUSER", "registry", "-eval")
        sizes = sizes_of(addrs=(server.address,), username="registry", password="hush")
        with capture_logs() as logs:
            await sizes.put(DIGESTS[0], 1)
            assert await sizes.get(DIGESTS[20]) == 20, "permitted commands work"
        await sizes.close()
        (logged,) = [entry for entry in logs if entry["log_level"] == "warning"]
        assert "no permissions" in logged["error"]


@pytest.mark.parametrize("clients", [False, True])
async def test_tls(tmp_path: Path, clients: bool) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name, certificate in (
        ("server", authority.issue_cert("127.0.0.1")),
        ("client", authority.issue_cert("c")),
    ):
        certificate.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
        certificate.private_key_pem.write_to_path(tmp_path / f"{name}.key")
    given = [
        "--tls-cert-file", str(tmp_path / "server.pem"), "--tls-key-file", str(tmp_path / "server.key"),
        "--tls-ca-cert-file", str(tmp_path / "ca.pem"), "--tls-auth-clients", "yes" if clients else "no",
    ]  # fmt: skip
    pair = ("--cert", str(tmp_path / "client.pem"), "--key", str(tmp_path / "client.key"))
    cli = ("--tls", "--cacert", str(tmp_path / "ca.pem"), *(pair if clients else ()))
    with a_redis(tmp_path, *given, cli=cli, tls=True) as server:
        usual: dict[str, Any] = {"addrs": (server.address,), "maxretries": -1}
        roots: dict[str, Any] = {"rootcas": (str(tmp_path / "ca.pem"),)}
        own: dict[str, Any] = {"certificate": str(tmp_path / "client.pem"), "key": str(tmp_path / "client.key")}
        await assert_works(sizes_of(**usual, tls=RedisTls(**roots, **(own if clients else {}))))
        if clients:
            await refusal(sizes_of(**usual, tls=RedisTls(**roots)))
        else:
            error = await refusal(sizes_of(**usual, tls=RedisTls(enabled=True)))
            assert "certificate verify failed" in error, "the system knows no such authority"
            other = trustme.CA()
            other.cert_pem.write_to_path(tmp_path / "other.pem")
            error = await refusal(sizes_of(**usual, tls=RedisTls(rootcas=(str(tmp_path / "other.pem"),))))
            assert "certificate verify failed" in error
            await refusal(sizes_of(addrs=(f"localhost:{server.port}",), maxretries=-1, tls=RedisTls(**roots)))


async def test_sentinels_lead_to_the_master_also_after_it_died(tmp_path: Path) -> None:
    """After a failover the cache would be off until a restart."""
    with a_redis(tmp_path / "a") as first:
        replica = ("--replicaof", "127.0.0.1", str(first.port))
        with a_redis(tmp_path / "b", *replica) as second, a_sentinel(tmp_path / "s", first, "cache") as sentinel:
            usual: dict[str, Any] = {"addrs": (sentinel.address,), "mastername": "cache"}
            await assert_works(sizes_of(**usual))
            await until(lambda: "slaves=1" in sentinel.ask("INFO"))
            sizes = sizes_of(**usual)
            await sizes.put(DIGESTS[20], 20)
            first.kill()
            assert await sizes.get(DIGESTS[20]) in {20, None}
            await until(lambda: second.ask("ROLE").startswith("master"))
            async with asyncio.timeout(60):
                while await sizes.get(DIGESTS[1]) is None:
                    await sizes.put(DIGESTS[1], 1)
                    await asyncio.sleep(0.05)
            await sizes.close()
            error = await refusal(sizes_of(**{**usual, "mastername": "other"}, maxretries=-1))
            assert "other" in error


async def test_a_sentinel_with_its_own_password(tmp_path: Path) -> None:
    with (
        a_redis(tmp_path / "a", "--requirepass", "hush", cli=("-a", "hush")) as master,
        a_sentinel(tmp_path / "s", master, "cache", "sentinel auth-pass cache hush") as sentinel,
    ):
        assert sentinel.ask("ACL", "SETUSER", "default", "resetpass", ">sesame") == "OK"
        usual: dict[str, Any] = {"addrs": (sentinel.address,), "mastername": "cache", "password": "hush"}
        await assert_works(sizes_of(**usual, sentinelpassword="sesame"))
        assert "sesame" not in await refusal(sizes_of(**usual, sentinelpassword="no", maxretries=-1))


async def test_a_cluster_of_three_that_loses_one(tmp_path: Path) -> None:
    """Its keys have no braces, so every call is about one slot; what a dead node held is not known."""
    with a_cluster(tmp_path) as servers:
        usual: dict[str, Any] = {"addrs": tuple(server.address for server in servers)}
        await assert_works(sizes_of(**usual))
        for server in servers:
            server.ask("FLUSHALL")
            assert server.ask("ACL", "SETUSER", "registry", *PERMITTED, "+cluster|slots", "+command") == "OK"
        await assert_works(sizes_of(**usual, username="registry", password="hush"))
        counts = [int(server.ask("DBSIZE")) for server in servers]
        assert sum(counts) == 30
        assert all(counts)
        sizes = sizes_of(**usual, maxretries=1, dialtimeout=1)
        servers[2].kill()
        for number, digest in enumerate(DIGESTS[10:], 10):
            assert await sizes.get(digest) in {number, None}
        await sizes.close()


def test_the_settings_choose_the_memory(tmp_path: Path) -> None:
    """`inmemory`, none, or Redis; problems with its files are reported before the start."""

    def settings(kind: str, redis: Redis | None = None) -> Settings:
        cache = Cache(blobdescriptor=kind)  # type: ignore[arg-type]  # one of three words
        return Settings(storage=Storage(inmemory=Inmemory(), cache=cache), redis=redis)

    assert isinstance(make_sizes(settings("")), MemorySizes)
    assert isinstance(make_sizes(settings("inmemory")), MemorySizes)
    assert isinstance(make_sizes(settings("redis", Redis(addrs=("h:1",)))), RedisSizes)
    for several in (Redis(addrs=("h:1", "h:2")), Redis(addrs=("h:1",), mastername="m")):
        assert isinstance(make_sizes(settings("redis", several)), RedisSizes)
    (tmp_path / "none.pem").write_text("no certificate")
    for path in (tmp_path / "none.pem", tmp_path / "missing.pem"):
        with pytest.raises(StartupError, match=r"redis\.tls\.rootcas"):
            make_sizes(settings("redis", Redis(addrs=("h:1",), tls=RedisTls(rootcas=(str(path),)))))


def test_a_missing_library_is_reported_by_the_name_of_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """`pip install moorage` leaves redis-py out."""
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    cache = Cache(blobdescriptor="redis")
    settings = Settings(storage=Storage(inmemory=Inmemory(), cache=cache), redis=Redis(addrs=("h:1",)))
    (problem,) = check(settings, b"secret")
    assert problem.kind == "error"
    assert "moorage[redis]" in problem.message
    assert "-m pip install 'redis>=5.2'" in problem.message


def test_zeros_and_negatives_mean_what_they_mean_to_the_reference() -> None:
    usual = redis_options(Redis(addrs=("h:6379",)))
    assert (usual.addrs, usual.poolsize, usual.readtimeout, usual.maxretries) == ((("h", 6379),), 10, 3.0, 3)
    zero = redis_options(
        Redis(addrs=("h:6379",), dialtimeout=0, readtimeout=0, maxretries=0, connmaxidletime=0, poolsize=0)
    )
    assert zero == usual
    off = redis_options(Redis(addrs=(":1", "[::1]:2"), maxretries=-1, connmaxidletime=-1e-9, maxactiveconns=4))
    assert (off.maxretries, off.connmaxidletime, off.poolsize) == (0, 0.0, 4)
    assert off.addrs == (("localhost", 1), ("::1", 2))
    assert off.is_cluster
    assert redis_options(Redis(addrs=("h:1",), writetimeout=1, readtimeout=2)).readtimeout == 1
    assert "hush" not in repr(redis_options(Redis(addrs=("h:1",), password="hush", sentinelpassword="hush")))
